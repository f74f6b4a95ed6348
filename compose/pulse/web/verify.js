// Verification in the browser: each check is made from the file's bytes, with only the keys that are trusted. What is not
// checked here is named; `sallyport evidence verify` checks all of it.
import { linesOf, json } from "./archive.js";
import { base64url, bytesOf, canonical, concat, fromBase64, fromBase64url, hash, publicKey, sameBytes, sha256, textOf, verify } from "./encoding.js";

const PASS = "passed", FAIL = "failed", SKIP = "not checked";

class Check {
  constructor(name, what) {
    Object.assign(this, { name, what, verdict: SKIP, count: 0, reason: "an earlier fault stood in the way" });
  }
  did(n = 1) {
    if (this.verdict === SKIP) Object.assign(this, { verdict: PASS, reason: "" });
    this.count += n;
  }
  fail(reason) {
    if (this.verdict !== FAIL) Object.assign(this, { verdict: FAIL, reason });
  }
  skip(reason) {
    if (this.verdict === SKIP) this.reason = reason;
  }
}

// parallel gives f of each item, in order, with some under way at a time: the browser's cryptography runs beside the page.
async function parallel(items, f, progress) {
  const out = new Array(items.length);
  let next = 0;
  await Promise.all(Array.from({ length: 64 }, async () => {
    while (next < items.length) {
      const i = next++;
      out[i] = await f(items[i], i);
      if (i % 100 === 0) progress?.(i / items.length);
    }
  }));
  return out;
}

// faultOf says what is wrong with an envelope, or "".
async function faultOf(env, type) {
  if (env?.envelope_type !== type || env.envelope_version !== "1" || env.hash_algorithm !== "SHA-256" || env.algorithm !== "Ed25519") return `it is no ${type} of version 1`;
  if ((await hash(JSON.stringify(env.payload))) !== env.payload_hash_b64u) return "its hash is not that of its content";
  try {
    const good = await verify(publicKey(env.signer_did), fromBase64url(env.signature_b64u), bytesOf(env.payload_hash_b64u));
    return good ? "" : "its signature is wrong";
  } catch (e) {
    return `its signature cannot be checked: ${e.message}`;
  }
}

// report verifies what open gave. trust: {gateway_signer_dids, contract_signer_dids, log_verifier_keys}; progress is told how far
// it is, from 0 to 1. The result is {verdict, checks, run}, where run is what the file says.
export async function report(opened, trust, progress = () => {}) {
  const c = {
    manifest: new Check("manifest", "the list of files is signed by a trusted gateway"),
    files: new Check("files", "each file is the one that the list names; none is missing, none is added"),
    bundles: new Check("bundles", "each proof bundle is whole and signed by the job's own key"),
    receipts: new Check("receipts", "each receipt is whole and signed by a trusted gateway"),
    chain: new Check("chain", "the events form one chain, and each has exactly one receipt"),
    events: new Check("intents", "each event is the hash of the intent that was recorded before the call left"),
    refusals: new Check("refusals", "each refusal is signed by a trusted gateway, and their numbers have no gap"),
    contracts: new Check("contracts", "each contract hashes to its name and is signed by a trusted signer"),
    totals: new Check("totals", "the signed counts are those of what is here"),
    log: new Check("transparency log", "each receipt and refusal is in the log that the signed checkpoint is of"),
    receiptLog: new Check("receipt log", "each receipt is in the ecosystem's receipt log"),
    replay: new Check("contract replay", "each call is allowed by its contract"),
    mldsa: new Check("ML-DSA-65", "the checkpoint's second signature, which outlasts quantum computers"),
  };
  c.replay.skip("only sallyport evidence verify replays contracts");
  c.mldsa.skip("browsers cannot check it yet; sallyport evidence verify can");
  const gateways = new Set(trust?.gateway_signer_dids ?? []);
  const believed = (did) => (gateways.size === 0 ? "no gateway's key is trusted here" : gateways.has(did) ? "" : `${did} is not a trusted gateway`);
  const run = { calls: [], refusals: [], contracts: [], parts: 0, head: {} };
  const { files, kind } = opened;

  if (kind === "archive") await checkManifest(c, files, believed, run);
  else for (const k of [c.manifest, c.files, c.events, c.refusals, c.contracts, c.log, c.receiptLog, c.totals]) k.skip("needs the archive; this is a proof bundle alone");

  await checkBundles(c, files, believed, run, progress);
  if (kind === "archive") {
    await checkOwn(c, files, believed, run);
    await checkRefusals(c, files, believed, run);
    await checkContracts(c, files, trust, run);
    checkTotals(c, run);
    await checkLogs(c, files, trust, gateways, run, progress);
  }
  progress(1);
  const checks = Object.values(c);
  const verdict = checks.some((k) => k.verdict === FAIL) ? FAIL : PASS;
  return { verdict, checks, run };
}

async function checkManifest(c, files, believed, run) {
  let list;
  try {
    const env = json(files.get("manifest.json") ?? new Uint8Array());
    const fault = (await faultOf(env, "sallyport_archive")) || believed(env.signer_did);
    if (fault) c.manifest.fail(fault);
    else c.manifest.did();
    list = env.payload;
    run.head = { run_id: list.run_id, job: list.job, agent_did: list.agent_did, gateway_did: list.gateway_did, created_at: list.created_at };
    run.parts = list.parts;
  } catch (e) {
    c.manifest.fail(`manifest.json: ${e.message}`);
    return;
  }
  const named = new Set(["manifest.json"]);
  for (const f of list.files ?? []) {
    named.add(f.path);
    const data = files.get(f.path);
    if (!data) c.files.fail(`${f.path} is missing`);
    else if (data.length !== f.size_bytes || (await hash(data)) !== f.sha256_b64u) c.files.fail(`${f.path} is not the file that was signed`);
    else c.files.did();
  }
  for (const name of files.keys()) if (!named.has(name)) c.files.fail(`${name} is not in the list`);
}

const bundleName = (n) => (n === 1 ? "bundle.json" : `bundle-${n}.json`);

async function checkBundles(c, files, believed, run, progress) {
  const events = files.has("events.jsonl") ? linesOf(files.get("events.jsonl")) : [];
  const seen = new Set();
  let line = 0, continues = null, n = 1;
  for (; files.has(bundleName(n)); n++) {
    const name = bundleName(n);
    let env;
    try {
      env = json(files.get(name));
    } catch (e) {
      c.bundles.fail(`${name}: ${e.message}`);
      return;
    }
    const p = env.payload ?? {};
    let wrong = await faultOf(env, "proof_bundle");
    if (!wrong && env.signer_did !== p.agent_did) wrong = "it is not signed by the agent that it names";
    if (!wrong && run.head.agent_did && run.head.agent_did !== p.agent_did) wrong = "it is of another agent than the archive";
    if (wrong) c.bundles.fail(`${name}: ${wrong}`);
    else c.bundles.did();
    const own = p.metadata?.sallyport ?? {};
    run.meta = own; // the counts are the whole run's, the same in each part
    run.head = { job: own.job, gateway_did: own.gateway_did, agent_did: p.agent_did, sub: own.sub, ...run.head };
    run.head.sub ??= own.sub;
    const receipts = new Map((p.receipts ?? []).map((r) => [r?.payload?.binding?.event_hash_b64u, r]));
    if (receipts.size !== (p.receipts ?? []).length) c.chain.fail(`${name}: two receipts are of one event`);
    let previous = null;
    const chain = p.event_chain ?? [], first = line;
    const made = await parallel(chain, async (e, i) => {
      const { event_id, run_id, event_type, timestamp, payload_hash_b64u, prev_hash_b64u } = e;
      const r = receipts.get(e.event_hash_b64u), raw = events[first + i];
      const [sum, intent, fault] = await Promise.all([
        hash(JSON.stringify({ event_id, run_id, event_type, timestamp, payload_hash_b64u, prev_hash_b64u })), raw ? hash(raw) : "", r ? faultOf(r, "gateway_receipt") : "",
      ]);
      return { sum, intent, fault };
    }, (share) => progress((0.8 * (n - 1 + share)) / Math.max(own.parts ?? 1, n)));
    for (const [i, e] of chain.entries()) {
      const { event_id, payload_hash_b64u, prev_hash_b64u } = e;
      const { sum, fault } = made[i];
      const r = receipts.get(e.event_hash_b64u);
      if (sum !== e.event_hash_b64u) c.chain.fail(`${name}: event ${event_id} does not have the hash that it names`);
      else if (prev_hash_b64u !== previous) c.chain.fail(`${name}: event ${event_id} does not follow the one before`);
      else if (!r) c.chain.fail(`${name}: event ${event_id} has no receipt`);
      else c.chain.did();
      previous = e.event_hash_b64u;
      let intent = null;
      if (events.length > 0) {
        const raw = events[line++];
        if (!raw) c.events.fail(`event ${event_id} has no intent`);
        else {
          if (made[i].intent !== payload_hash_b64u) c.events.fail(`the intent of event ${event_id} is not the one that was recorded`);
          else c.events.did();
          const o = json(raw);
          intent = o.intent;
          if (i === 0 && n > 1 && o.continues !== continues) c.events.fail(`${name} does not go on from the bundle before`);
        }
      }
      if (r) {
        receipts.delete(e.event_hash_b64u);
        checkReceipt(c, r, fault, believed, seen);
        run.calls.push(callOf(r, intent));
      }
    }
    if (receipts.size > 0) c.chain.fail(`${name}: ${receipts.size} receipts are of no event`);
    continues = previous;
  }
  run.parts ||= n - 1;
  if (n - 1 !== run.parts) c.bundles.fail(`${run.parts} bundles are announced, and ${n - 1} are here`);
  if (line < events.length) c.events.fail(`${events.length - line} intents have no event`);
  if (n === 1) for (const k of [c.bundles, c.chain, c.events, c.receipts]) k.skip("there are no calls");
  if (events.length === 0) c.events.skip("there are no calls");
}

function checkReceipt(c, r, wrong, believed, seen) {
  const id = r.payload?.receipt_id;
  const fault = wrong || believed(r.signer_did) || (seen.has(id) ? "it is there twice" : "");
  seen.add(id);
  if (fault) c.receipts.fail(`receipt ${id}: ${fault}`);
  else c.receipts.did();
}

function callOf(r, intent) {
  const p = r.payload, d = p.metadata?.sallyport ?? {};
  return {
    id: p.receipt_id, at: p.timestamp, verdict: d.outcome === "cut" ? "cut" : "completed", what: d.resource ?? `${p.provider}/${p.model}`, action: d.action ?? "",
    where: d.host ? `${d.method} ${d.host}${d.path}` : "", status: d.status, reason: d.reason ?? "", class: d.secret_class ?? "", sealed: d.privacy_mode === "encrypted",
    input: p.tokens_input, output: p.tokens_output, counted: d.usage_reported === true, sent: d.request_bytes, got: d.response_bytes, ms: p.latency_ms,
    model: d.action === "model:invoke" ? `${p.provider}/${p.model}` : "", contract: p.binding?.policy_hash ?? "", hash: r.payload_hash_b64u, raw: r, intent,
  };
}

// checkOwn: receipts of calls whose client recorded itself; they hang in no chain of ours.
async function checkOwn(c, files, believed, run) {
  const seen = new Set(run.calls.map((k) => k.id));
  for (const raw of files.has("client-recorded.jsonl") ? linesOf(files.get("client-recorded.jsonl")) : []) {
    const r = json(raw);
    checkReceipt(c, r, await faultOf(r, "gateway_receipt"), believed, seen);
    run.calls.push({ ...callOf(r, null), own: true });
  }
}

async function checkRefusals(c, files, believed, run) {
  const lines = files.has("decisions.jsonl") ? linesOf(files.get("decisions.jsonl")) : [];
  for (const [i, raw] of lines.entries()) {
    const d = json(raw), p = d.payload ?? {};
    const fault = (await faultOf(d, "sallyport_decision")) || believed(d.signer_did) || (p.sequence === i + 1 ? "" : `it is number ${p.sequence}, and ${i + 1} is missing`);
    if (fault) c.refusals.fail(`refusal ${p.decision_id}: ${fault}`);
    else c.refusals.did();
    run.refusals.push({
      id: p.decision_id, at: p.timestamp, verdict: "refused", what: p.resource || p.host || p.path || "", action: "", where: p.method ? `${p.method} ${p.host ?? ""}${p.path ?? ""}` : "",
      status: p.status, code: p.code, reason: p.detail ?? "", class: "", contract: p.policy_hash_b64u ?? "", hash: d.payload_hash_b64u, raw: d,
    });
  }
  if (run.meta && run.meta.last_decision_sequence !== undefined && run.meta.last_decision_sequence !== lines.length) {
    c.refusals.fail(`${run.meta.last_decision_sequence} refusals are announced, and ${lines.length} are here`);
  }
  if (lines.length === 0) c.refusals.skip("there are none");
}

async function checkContracts(c, files, trust, run) {
  const signers = new Set(trust?.contract_signer_dids ?? []);
  for (const [name, data] of files) {
    const want = /^contracts\/([A-Za-z0-9_-]{43})\.json$/.exec(name)?.[1];
    if (!want) continue;
    const env = json(data);
    const fault = (await contractFault(env, want)) || (signers.size === 0 ? "no signer of contracts is trusted here" : signers.has(env.signer_did) ? "" : `${env.signer_did} is not a trusted signer`);
    if (fault) c.contracts.fail(`contract ${want}: ${fault}`);
    else c.contracts.did();
    run.contracts.push({ hash: want, payload: env.payload });
  }
  const here = new Set(run.contracts.map((k) => k.hash));
  for (const k of run.calls) if (k.contract && !here.has(k.contract)) c.contracts.fail(`contract ${k.contract} is missing`);
  if (run.contracts.length === 0) c.contracts.skip("no call is under a contract");
}

// contractFault: contracts are hashed in canonical form, whatever their envelope's type is called.
async function contractFault(env, want) {
  const sum = await hash(canonical(env.payload));
  if (sum !== want || env.payload_hash_b64u !== want) return "its content does not have this hash";
  try {
    const good = await verify(publicKey(env.signer_did), fromBase64url(env.signature_b64u), bytesOf(env.payload_hash_b64u));
    return good ? "" : "its signature is wrong";
  } catch (e) {
    return `its signature cannot be checked: ${e.message}`;
  }
}

function checkTotals(c, run) {
  const m = run.meta;
  if (!m) return c.totals.skip("there are no calls");
  const chained = run.calls.filter((k) => !k.own);
  const counts = {
    calls: chained.length, completed: chained.filter((k) => k.verdict === "completed").length, cut: chained.filter((k) => k.verdict === "cut").length,
    refused: run.refusals.length, client_recorded: run.calls.length - chained.length,
  };
  for (const [name, n] of Object.entries(counts)) {
    if (m[name] !== n) c.totals.fail(`${name}: ${m[name]} are signed for, and ${n} are here`);
    else c.totals.did();
  }
}

async function checkLogs(c, files, trust, gateways, run, progress) {
  const all = [...run.calls, ...run.refusals];
  if (!files.has("proofs.jsonl")) {
    c.log.skip("the archive holds no proofs");
    c.receiptLog.skip("the archive holds no proofs");
    return;
  }
  const proofs = new Map();
  for (const raw of linesOf(files.get("proofs.jsonl"))) {
    const p = json(raw);
    proofs.set(p.payload_hash_b64u, p);
  }
  let checkpoint = null;
  try {
    checkpoint = await readCheckpoint(textOf(files.get("checkpoint")), trust?.log_verifier_keys ?? []);
  } catch (e) {
    c.log.fail(`checkpoint: ${e.message}`);
  }
  const remember = memory();
  await parallel(all, async (k) => {
    const p = proofs.get(k.hash);
    const kind = k.verdict === "refused" ? "decision" : "receipt";
    if (checkpoint) {
      const fault = p?.tlog ? await treeFault(checkpoint, `sallyport/v1 ${kind} ${k.hash}\n`, p.tlog, remember) : "it has no proof";
      if (fault) c.log.fail(`${kind} ${k.id}: ${fault}`);
      else c.log.did();
    }
    if (kind === "receipt") {
      const fault = p?.log_inclusion_proof ? await receiptLogFault(p.log_inclusion_proof, k.hash, gateways, remember) : "it has no proof";
      if (fault) c.receiptLog.fail(`receipt ${k.id}: ${fault}`);
      else c.receiptLog.did();
    }
  }, (share) => progress(0.8 + 0.2 * share));
  if (!all.some((k) => k.verdict !== "refused")) c.receiptLog.skip("there are no receipts");
  if (all.length === 0) c.log.skip("there is nothing to prove");
}

// memory is a parent's hash of two children, remembered: the paths of neighbours share most of theirs. The same for what is signed.
function memory() {
  const known = new Map();
  return (name, make) => {
    if (!known.has(name)) known.set(name, make());
    return known.get(name);
  };
}

// readCheckpoint takes a C2SP signed note: origin, size, root, an empty line, signatures. One by a trusted Ed25519 key counts.
async function readCheckpoint(note, keys) {
  const cut = note.indexOf("\n\n");
  if (cut < 0) throw new Error("it is no signed note");
  const signed = bytesOf(note.slice(0, cut + 1));
  const [origin, size, root] = note.slice(0, cut).split("\n");
  for (const key of keys) {
    const at = key.indexOf("+"), next = key.indexOf("+", at + 1);
    const raw = fromBase64(key.slice(next + 1));
    if (key.slice(0, at) !== origin || raw[0] !== 1 || raw.length !== 33) continue;
    const id = (await sha256(concat(bytesOf(origin + "\n"), raw))).slice(0, 4);
    for (const l of note.slice(cut + 2).split("\n")) {
      const m = /^— (\S+) (\S+)$/.exec(l);
      if (!m || m[1] !== origin) continue;
      const sig = fromBase64(m[2]);
      if (sameBytes(sig.slice(0, 4), id) && (await verify(raw.slice(1), sig.slice(4), signed))) return { size: Number(size), root: fromBase64(root) };
    }
  }
  throw new Error(keys.length === 0 ? "no log's key is trusted here" : "no trusted key has signed it");
}

// treeFault checks an RFC 6962 inclusion path.
async function treeFault(checkpoint, leaf, proof, remember) {
  const parent = (l, r) => remember(`1${base64url(l)}${base64url(r)}`, () => sha256(concat(Uint8Array.of(1), l, r)));
  let h = await sha256(concat(Uint8Array.of(0), bytesOf(leaf)));
  let at = proof.index, last = checkpoint.size - 1;
  if (!Number.isSafeInteger(at) || at < 0 || at > last) return "its place is outside of the log";
  for (const step of proof.inclusion) {
    if (last === 0) return "its path is too long";
    const s = fromBase64(step);
    if (at % 2 === 1 || at === last) {
      h = await parent(s, h);
      while (at % 2 === 0 && at !== 0) {
        at = Math.floor(at / 2);
        last = Math.floor(last / 2);
      }
    } else h = await parent(h, s);
    at = Math.floor(at / 2);
    last = Math.floor(last / 2);
  }
  return last === 0 && sameBytes(h, checkpoint.root) ? "" : "its path does not lead to the checkpoint's root";
}

// receiptLogFault checks a proof of the ecosystem's log: no domain separation, an odd node paired with itself.
async function receiptLogFault(p, leaf, gateways, remember) {
  if (p.leaf_hash_b64u !== leaf) return "the proof is of another receipt";
  if (!gateways.has(p.root_signature?.signer_did)) return `the root is signed by ${p.root_signature?.signer_did}, which is not a trusted gateway`;
  const { signer_did, sig_b64u } = p.root_signature;
  const good = await remember(JSON.stringify([signer_did, sig_b64u, p.root_hash_b64u]), () => verify(publicKey(signer_did), fromBase64url(sig_b64u), bytesOf(p.root_hash_b64u)));
  if (!good) return "the root's signature is wrong";
  let h = fromBase64url(leaf), at = p.metadata?.leaf_index, height = 0;
  for (let n = p.tree_size; n > 1; n = Math.ceil(n / 2)) height++;
  if (!(at >= 0 && at < p.tree_size) || p.audit_path.length !== height) return "the path has the wrong length";
  for (const step of p.audit_path) {
    const s = fromBase64url(step);
    const [l, r] = at % 2 === 1 ? [s, h] : [h, s];
    h = await remember(`${base64url(l)}${base64url(r)}`, () => sha256(concat(l, r)));
    at = Math.floor(at / 2);
  }
  return base64url(h) === p.root_hash_b64u ? "" : "the path does not lead to the root";
}

export { PASS, FAIL, SKIP };
