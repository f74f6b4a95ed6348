// Encodings and hashes that evidence is written in. Nothing here knows what evidence means.

const text = new TextEncoder();

export const bytesOf = (s) => text.encode(s);
export const textOf = (b) => new TextDecoder("utf-8", { fatal: true }).decode(b);

export async function sha256(bytes) {
  return new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
}

export function concat(...parts) {
  const out = new Uint8Array(parts.reduce((n, p) => n + p.length, 0));
  let at = 0;
  for (const p of parts) {
    out.set(p, at);
    at += p.length;
  }
  return out;
}

export function sameBytes(a, b) {
  return a.length === b.length && a.every((v, i) => v === b[i]);
}

export function base64(bytes) {
  let s = "";
  for (const b of bytes) s += String.fromCharCode(b);
  return btoa(s);
}

export const base64url = (bytes) => base64(bytes).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");

// fromBase64url takes only the one spelling of the bytes.
export function fromBase64url(s) {
  if (typeof s !== "string" || !/^[A-Za-z0-9_-]*$/.test(s)) throw new Error("not base64url");
  const out = Uint8Array.from(atob(s.replaceAll("-", "+").replaceAll("_", "/")), (c) => c.charCodeAt(0));
  if (base64url(out) !== s) throw new Error("not the one base64url spelling");
  return out;
}

export function fromBase64(s) {
  const out = Uint8Array.from(atob(s), (c) => c.charCodeAt(0));
  if (base64(out) !== s) throw new Error("not the one base64 spelling");
  return out;
}

export const hash = async (s) => base64url(await sha256(typeof s === "string" ? bytesOf(s) : s));

// canonical is RFC 8785: members sorted by UTF-16 code units, numbers and strings as JSON.stringify writes them.
export function canonical(v) {
  if (Array.isArray(v)) return "[" + v.map(canonical).join(",") + "]";
  if (v !== null && typeof v === "object") {
    return "{" + Object.keys(v).sort().map((k) => JSON.stringify(k) + ":" + canonical(v[k])).join(",") + "}";
  }
  return JSON.stringify(v);
}

const alphabet = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";

function fromBase58(s) {
  let n = 0n;
  for (const c of s) {
    const d = alphabet.indexOf(c);
    if (d < 0) throw new Error("not base58");
    n = n * 58n + BigInt(d);
  }
  const out = [];
  for (; n > 0n; n >>= 8n) out.unshift(Number(n & 255n));
  return Uint8Array.from(out);
}

// publicKey is the Ed25519 key of a did:key.
export function publicKey(did) {
  const raw = typeof did === "string" && did.startsWith("did:key:z") ? fromBase58(did.slice(9)) : [];
  if (raw.length !== 34 || raw[0] !== 0xed || raw[1] !== 0x01) throw new Error("not a did:key of an Ed25519 key");
  return raw.slice(2);
}

const imported = new Map();

// verify checks an Ed25519 signature.
export async function verify(key, signature, message) {
  const name = base64url(key);
  if (!imported.has(name)) imported.set(name, crypto.subtle.importKey("raw", key, { name: "Ed25519" }, false, ["verify"]));
  return crypto.subtle.verify({ name: "Ed25519" }, await imported.get(name), signature, message);
}
