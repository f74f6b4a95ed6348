// Reading an archive: a zip of stored entries, and what its files hold.
import { textOf } from "./encoding.js";

// MAX_BYTES bounds what is read: it is all held in memory.
export const MAX_BYTES = 256 << 20;

const END = 0x06054b50, CENTRAL = 0x02014b50, LOCAL = 0x04034b50;

// unzip gives the files by name. It takes only what Sallyport writes: stored entries that follow each other without a gap, in
// the order of the directory, so that no other reader can find other files in the same bytes.
export function unzip(bytes) {
  const v = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const end = bytes.length - 22;
  if (end < 0 || v.getUint32(end, true) !== END || v.getUint16(end + 20, true) !== 0) throw new Error("this is no archive, or it is cut short");
  const count = v.getUint16(end + 10, true), size = v.getUint32(end + 12, true), start = v.getUint32(end + 16, true);
  if (start + size !== end) throw new Error("something stands between the archive's directory and its end");
  const files = new Map();
  let at = start, data = 0;
  for (let i = 0; i < count; i++) {
    if (at + 46 > end || v.getUint32(at, true) !== CENTRAL) throw new Error("the archive's directory is damaged");
    const method = v.getUint16(at + 10, true), length = v.getUint32(at + 20, true), plain = v.getUint32(at + 24, true);
    const nameLength = v.getUint16(at + 28, true), extra = v.getUint16(at + 30, true), comment = v.getUint16(at + 32, true);
    const local = v.getUint32(at + 42, true);
    const name = textOf(bytes.subarray(at + 46, at + 46 + nameLength));
    if (method !== 0 || length !== plain) throw new Error(`${name} is compressed; an archive of Sallyport's is not`);
    if (local !== data || v.getUint32(local, true) !== LOCAL) throw new Error(`${name} does not begin where the file before it ends`);
    const localName = v.getUint16(local + 26, true), localExtra = v.getUint16(local + 28, true);
    const begin = local + 30 + localName + localExtra;
    if (textOf(bytes.subarray(local + 30, local + 30 + localName)) !== name) throw new Error(`${name} has two names`);
    if (files.has(name)) throw new Error(`${name} is there twice`);
    files.set(name, bytes.subarray(begin, begin + length));
    data = begin + length;
    // Writers that stream put the length behind the data.
    if (v.getUint16(local + 6, true) & 8) data += data + 4 <= start && v.getUint32(data, true) === 0x08074b50 ? 16 : 12;
    at += 46 + nameLength + extra + comment;
  }
  if (data !== start || at !== end) throw new Error("the archive holds bytes that belong to no file");
  return files;
}

// linesOf are a file's lines, as bytes; each ends with a newline.
export function linesOf(bytes) {
  const out = [];
  for (let at = 0; at < bytes.length; ) {
    const next = bytes.indexOf(10, at);
    if (next < 0) throw new Error("the last line is cut short");
    out.push(bytes.subarray(at, next));
    at = next + 1;
  }
  return out;
}

export const json = (bytes) => JSON.parse(textOf(bytes));

// open reads a file that somebody chose: an archive, or one proof bundle alone.
export function open(bytes) {
  if (bytes.length > MAX_BYTES) throw new Error(`the file is larger than ${MAX_BYTES >> 20} MiB; use sallyport evidence verify`);
  if (bytes.length > 4 && bytes[0] === 0x50 && bytes[1] === 0x4b) return { kind: "archive", files: unzip(bytes) };
  const bundle = json(bytes);
  if (bundle?.envelope_type !== "proof_bundle") throw new Error("this is neither an archive nor a proof bundle");
  return { kind: "bundle", files: new Map([["bundle.json", bytes]]) };
}
