// The page: which view is shown, and where its data comes from.
import { MAX_BYTES, open } from "./archive.js";
import { report } from "./verify.js";
import { openRun, problem, runList, runPage, signIn } from "./view.js";

const main = document.getElementById("main"), status = document.getElementById("status"), signOut = document.getElementById("sign-out"), chooser = document.getElementById("file");
const KEY = "sallyport-viewer-key";
let turn = 0; // of the view that is being made; an older one shows nothing any more
let file = null; // that was opened here
let link = ""; // to the archive at hand

class Refused extends Error {
  constructor(status, error) {
    super(error?.message ?? `the gateway answered ${status}`);
    this.status = status;
    this.code = error?.code;
  }
}

// ask reads from the gateway with the key that was given, which goes into no URL.
async function ask(path, as = "json") {
  const key = sessionStorage.getItem(KEY);
  let r;
  try {
    r = await fetch(path, { headers: key ? { Authorization: `Bearer ${key}` } : {}, cache: "no-store", redirect: "error" });
  } catch {
    throw new Refused(0, { message: "the gateway cannot be reached" });
  }
  if (!r.ok) throw new Refused(r.status, (await r.json().catch(() => null))?.error);
  return as === "json" ? r.json() : new Uint8Array(await r.arrayBuffer());
}

// show puts a view in place, unless another was asked for meanwhile.
function show(mine, view, title, focus = true) {
  if (mine !== turn) return;
  main.replaceChildren(view);
  document.title = `${title} – Trust Pulse`;
  signOut.hidden = !sessionStorage.getItem(KEY);
  if (focus) {
    main.focus({ preventScroll: true });
    scrollTo(0, 0);
  }
}

const say = (text) => (status.textContent = text);

async function trustOfGateway() {
  const { trust } = await ask("/v1/trust");
  return trust;
}

async function list(mine, q) {
  say("Reading the runs…");
  const runs = [], limit = 100;
  let before = "";
  const page = async () => {
    const answer = await ask(`/v1/runs?${new URLSearchParams({ limit, ...(q ? { q } : {}), ...(before ? { before } : {}) })}`);
    runs.push(...answer.runs);
    before = answer.next ?? "";
    const more = answer.runs.length === limit ? () => page().catch((e) => failed(turn, e)) : null;
    show(mine, runList(runs, { q }, more, (text) => (location.hash = text ? `#/?q=${encodeURIComponent(text)}` : "#/")), "Runs", runs.length <= limit);
    say("");
  };
  await page();
}

const steps = (what) => {
  let last = -1;
  return (share) => {
    const n = Math.floor(share * 10) * 10;
    if (n !== last) say(`${what} ${n} %`);
    last = n;
  };
};

async function one(mine, id) {
  say("Fetching the archive…");
  let bytes;
  try {
    bytes = await ask(`/v1/runs/${encodeURIComponent(id)}/archive`, "bytes");
  } catch (e) {
    if (e.code !== "RUN_OPEN") throw e;
    const { run } = await ask(`/v1/runs/${encodeURIComponent(id)}/summary`);
    say("");
    return show(mine, openRun(run, route), `Run ${run.run_id}`);
  }
  const [trust, pulse] = await Promise.all([trustOfGateway(), ask(`/v1/runs/${encodeURIComponent(id)}/trust-pulse`).catch((e) => (e.status === 404 ? null : { problem: e.message }))]);
  await verified(mine, bytes, trust, {
    source: "From this gateway.", pulse, download: { name: `${id}.zip` },
    trustedBy: "Believed: the keys that this gateway names as its own. To check the gateway too, verify the archive elsewhere, with keys that its operator gave you by another way.",
  });
}

async function verified(mine, bytes, trust, extra) {
  if (!globalThis.crypto?.subtle) throw new Error("this browser verifies nothing on a page that came by plain HTTP from another machine; open the page by HTTPS, or from localhost");
  const opened = open(bytes);
  const r = await report(opened, trust, steps("Verifying…"));
  if (mine !== turn) return;
  if (extra.download) {
    URL.revokeObjectURL(link);
    extra.download.url = link = URL.createObjectURL(new Blob([bytes], { type: "application/zip" }));
  }
  show(mine, runPage(r, extra), `Run ${r.run.head.run_id ?? ""}`);
  const failedChecks = r.checks.filter((c) => c.verdict === "failed").length;
  say(failedChecks ? `Not verified: ${failedChecks} checks failed.` : "Verified in this browser.");
}

// local verifies a file that was chosen or dropped, with the gateway's keys where somebody is signed in.
async function local(mine) {
  say(`Reading ${file.name}…`);
  if (file.size > MAX_BYTES) throw new Error(`the file is larger than ${MAX_BYTES >> 20} MiB; use sallyport evidence verify`);
  const bytes = new Uint8Array(await file.arrayBuffer());
  const name = file.name;
  let trust = trusted, by = "Believed: the keys of the trust file that you opened.";
  if (!trust && sessionStorage.getItem(KEY)) {
    trust = await trustOfGateway().catch(() => null);
    by = "Believed: the keys that this gateway names as its own.";
  }
  if (!trust) by = "No key is trusted yet: open the gateway's trust.json, which its operator gave you by another way, and then this file again.";
  await verified(mine, bytes, trust, { source: `From the file ${name}, which stays on this computer.`, trustedBy: by });
}

let trusted = null; // keys of a trust file that was opened

async function take(f) {
  if (!f) return;
  if (f.name.endsWith(".json") && f.size < 1 << 20) {
    const doc = await f.text().then(JSON.parse).catch(() => null);
    if (Array.isArray(doc?.gateway_signer_dids)) {
      trusted = doc;
      if (!file) return say(`The keys of ${f.name} are trusted now. Open an archive.`);
      return go("#/file");
    }
  }
  file = f;
  go("#/file");
}

// go shows a place, also where it is the one that is shown.
function go(place) {
  if (location.hash === place) route();
  else location.hash = place;
}

function failed(mine, e) {
  say("");
  if (e.status === 401) {
    const had = sessionStorage.getItem(KEY);
    sessionStorage.removeItem(KEY);
    return show(mine, signIn((key) => { sessionStorage.setItem(KEY, key); route(); }, had ? "That key is not the viewer's, nor the administrator's." : ""), "Sign in");
  }
  show(mine, problem(e.code === "RUN_NOT_FOUND" ? "There is no such run" : "That did not work", e.message), "Error");
}

async function route() {
  const mine = ++turn;
  const given = /^#key=([!-~]{24,})$/.exec(location.hash);
  if (given) { // a link of `sallyport pulse`: the key must not stay in the address
    sessionStorage.setItem(KEY, given[1]);
    history.replaceState(null, "", location.pathname);
  }
  const hash = location.hash;
  try {
    const id = /^#\/run\/(.+)$/.exec(hash)?.[1];
    if (id) await one(mine, decodeURIComponent(id));
    else if (hash === "#/file" && file) await local(mine);
    else await list(mine, new URLSearchParams(hash.split("?")[1] ?? "").get("q") ?? "");
  } catch (e) {
    failed(mine, e);
  }
}

addEventListener("hashchange", route);
chooser.addEventListener("change", () => take(chooser.files[0]).finally(() => (chooser.value = "")));
signOut.addEventListener("click", () => { sessionStorage.removeItem(KEY); go("#/"); });
addEventListener("dragover", (e) => { e.preventDefault(); document.body.classList.add("drop"); });
addEventListener("dragleave", (e) => { if (!e.relatedTarget) document.body.classList.remove("drop"); });
addEventListener("drop", (e) => { e.preventDefault(); document.body.classList.remove("drop"); take(e.dataTransfer.files[0]); });
route();
