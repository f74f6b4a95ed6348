// What is seen. Everything that comes from evidence is set as text, never as markup: agents choose models, paths and hosts.

// strange characters would change how a line reads: controls, and those that turn its direction or cannot be seen.
const strange = /[\u0000-\u001f\u007f-\u009f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g;

// plain shows strange characters by their number.
export const plain = (v) => String(v ?? "").replace(strange, (c) => `\\u{${c.codePointAt(0).toString(16)}}`);

// el makes an element. Children are nodes or text; null is left out.
export function el(name, attributes = {}, ...children) {
  const e = document.createElement(name);
  for (const [k, v] of Object.entries(attributes)) {
    if (v === null || v === undefined || v === false) continue;
    if (k.startsWith("on")) e.addEventListener(k.slice(2), v);
    else e.setAttribute(k, v === true ? "" : v);
  }
  for (const c of children.flat(Infinity)) if (c !== null && c !== undefined && c !== "") e.append(c instanceof Node ? c : plain(c));
  return e;
}

const mono = (v) => (v ? el("code", {}, el("bdi", {}, v)) : "");
const own = (v) => el("bdi", {}, v);
const many = (n, one, more = one + "s") => `${n.toLocaleString("en")} ${n === 1 ? one : more}`;
const when = (t) => (t ? el("time", { datetime: t }, new Date(t).toISOString().replace("T", " ").replace("Z", " UTC")) : "");
const size = (n) => (n === undefined ? "" : n < 10_000 ? `${n} B` : n < 10_000_000 ? `${(n / 1024).toFixed(1)} KiB` : `${(n / 1048576).toFixed(1)} MiB`);
const counted = (o) => Object.entries(o ?? {}).sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1));

const marks = { completed: "✓", cut: "✂", refused: "✕", open: "…" };
const verdict = (v) => el("span", { class: `verdict ${v}` }, `${marks[v] ?? ""} ${v}`);

function facts(rows) {
  return el("dl", { class: "facts" }, rows.filter(([, v]) => v && v.length !== 0).map(([k, ...v]) => [el("dt", {}, k), el("dd", {}, v)]));
}

function tally(rows) {
  return el("ul", { class: "tally" }, rows.map(([n, what]) => el("li", {}, el("b", {}, n.toLocaleString("en")), " ", what)));
}

// table: columns are [label, class, cell]; the first cell of a row is its header.
function table(caption, columns, rows) {
  return el("div", { class: "table" }, el("table", { class: "stack" },
    el("caption", {}, caption),
    el("thead", {}, el("tr", {}, columns.map(([label, cls]) => el("th", { scope: "col", class: cls }, label)))),
    el("tbody", {}, rows.map((r) => el("tr", {}, columns.map(([label, cls, cell], i) =>
      i === 0 ? el("th", { scope: "row", class: cls }, cell(r)) : el("td", { class: cls, "data-label": label }, cell(r))))))));
}

// signIn asks for the key.
export function signIn(submit, wrong) {
  const key = el("input", { type: "password", id: "key", name: "key", autocomplete: "current-password", required: true, "aria-describedby": "key-help" });
  return el("section", { "aria-labelledby": "title" },
    el("h2", { id: "title" }, "Sign in"),
    el("p", { class: "quiet" }, "To see the runs of this gateway. To verify a file that you were given, choose “Open a file…” or drop it anywhere: that needs no key."),
    wrong ? el("div", { class: "banner failed", role: "alert" }, el("p", {}, wrong)) : null,
    el("form", { class: "signin", onsubmit: (e) => { e.preventDefault(); submit(key.value.trim()); } },
      el("label", { for: "key" }, "Viewer's key"), key,
      el("p", { id: "key-help", class: "quiet" }, "It stands in the file viewer-token of the gateway's data directory; ", el("code", {}, "sallyport pulse"), " prints a link that carries it."),
      el("button", { type: "submit" }, "Sign in")));
}

// runList lists runs, the newest first. asked: {q, before}.
export function runList(runs, asked, more, search) {
  const q = el("input", { type: "search", id: "q", value: asked.q, size: 34 });
  return el("section", { "aria-labelledby": "title" },
    el("h2", { id: "title" }, "Runs"),
    el("form", { class: "filter", role: "search", onsubmit: (e) => { e.preventDefault(); search(q.value); } },
      el("label", { for: "q" }, "Run, job, agent or contract", q), el("button", { type: "submit" }, "Search")),
    runs.length === 0 ? el("p", {}, asked.q ? "No run fits." : "Nothing has run yet.") :
      table(`${many(runs.length, "run")}${more ? ", and there are older ones" : ""}`, [
        ["Run", "", (r) => el("a", { href: `#/run/${encodeURIComponent(r.id)}` }, own(r.run_id))],
        ["Job", "", (r) => own(r.job)],
        ["Started", "when", (r) => when(r.started)],
        ["Calls", "number", (r) => String(r.calls + r.client_recorded)],
        ["Refused", "number", (r) => String(r.refused)],
        ["Cut", "number", (r) => String(r.cut)],
        ["Models and hosts", "", (r) => counted({ ...r.models, ...r.hosts }).slice(0, 3).map(([k, n], i) => [i ? ", " : "", own(k), ` ${n}`])],
        ["State", "state", (r) => (r.open > 0 ? verdict("open") : "settled")],
      ], runs),
    more ? el("p", {}, el("button", { type: "button", onclick: more }, "Older runs")) : null);
}

export function problem(title, text, ...more) {
  return el("section", {}, el("h2", {}, title), el("div", { class: "banner failed", role: "alert" }, el("p", {}, text)), more);
}

// verification says what was checked. state: {report} or {progress}.
function verification(report, trustedBy) {
  const failed = report.checks.filter((c) => c.verdict === "failed"), passed = report.checks.filter((c) => c.verdict === "passed"), rest = report.checks.filter((c) => c.verdict === "not checked");
  const good = report.verdict === "passed" && passed.length > 0;
  return el("section", { "aria-labelledby": "verification" },
    el("h3", { id: "verification" }, "Verification"),
    el("div", { class: `banner ${good ? "passed" : "failed"}`, id: "verdict" },
      el("p", {}, el("strong", {}, good ? "✓ Verified in this browser" : "✕ Not verified")),
      el("p", {}, good ? `${many(passed.length, "check")} passed; ${rest.length} ${rest.length === 1 ? "was" : "were"} not made.` : `${many(failed.length, "check")} failed: ${failed.map((c) => c.name).join(", ")}.`),
      el("p", {}, trustedBy)),
    el("details", { open: !good },
      el("summary", {}, "What was checked, and what was not"),
      table("Checks", [
        ["Check", "", (c) => c.name],
        ["Result", "", (c) => el("span", { class: `verdict ${c.verdict === "passed" ? "ok" : c.verdict === "failed" ? "wrong" : "none"}` }, c.verdict === "passed" ? "✓ passed" : c.verdict === "failed" ? "✕ failed" : "– not checked")],
        ["Number", "number", (c) => (c.count ? c.count.toLocaleString("en") : "")],
        ["What it says", "", (c) => [c.what, c.reason ? el("div", { class: c.verdict === "failed" ? "" : "quiet" }, c.reason) : null]],
      ], report.checks)));
}

// pulse draws the calls over time: one column for each slice, its height the number of calls.
function pulse(items) {
  const slices = 120, times = items.map((i) => Date.parse(i.at)).filter((t) => !Number.isNaN(t));
  if (times.length < 2) return null;
  const from = Math.min(...[times.reduce((a, b) => Math.min(a, b))]), to = times.reduce((a, b) => Math.max(a, b));
  const rows = Array.from({ length: slices }, () => ({ completed: 0, cut: 0, refused: 0 }));
  for (const i of items) {
    const t = Date.parse(i.at);
    if (!Number.isNaN(t) && rows[0][i.verdict] !== undefined) rows[Math.min(slices - 1, Math.floor(((t - from) / (to - from || 1)) * slices))][i.verdict]++;
  }
  const top = rows.reduce((m, r) => Math.max(m, r.completed + r.cut + r.refused), 1);
  const ns = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(ns, "svg");
  for (const [k, v] of Object.entries({ class: "pulse", viewBox: `0 0 ${slices * 10} 100`, preserveAspectRatio: "none", role: "img", "aria-label": `Calls over time, from ${new Date(from).toISOString()} to ${new Date(to).toISOString()}; at most ${top} in ${((to - from) / slices / 1000).toFixed(2)} seconds. The table below has each.` })) svg.setAttribute(k, v);
  rows.forEach((r, i) => {
    let y = 98;
    for (const kind of ["completed", "cut", "refused"]) {
      if (!r[kind]) continue;
      const h = Math.max(3, (r[kind] / top) * 92), rect = document.createElementNS(ns, "rect");
      y -= h;
      for (const [k, v] of Object.entries({ class: kind, x: i * 10 + 1, y, width: 8, height: h })) rect.setAttribute(k, v);
      svg.append(rect);
    }
  });
  return el("figure", {}, svg, el("figcaption", { class: "legend" }, ["completed", "cut", "refused"].map((v) => el("span", {}, `${marks[v]} ${v}: ${items.filter((i) => i.verdict === v).length.toLocaleString("en")}`))));
}

const PAGE = 100;

// timeline is the calls and refusals in order, a page at a time.
function timeline(items) {
  const state = { page: 0, verdict: "", text: "" };
  const box = el("div", {});
  const kind = el("select", { id: "kind", onchange: () => show({ verdict: kind.value, page: 0 }) },
    [["", "all"], ["completed", "completed"], ["cut", "cut"], ["refused", "refused"]].map(([v, t]) => el("option", { value: v }, t)));
  const text = el("input", { type: "search", id: "text", size: 28, oninput: () => show({ text: text.value.toLowerCase(), page: 0 }) });
  function show(change) {
    Object.assign(state, change);
    const found = items.filter((i) => (!state.verdict || i.verdict === state.verdict) && (!state.text || [i.what, i.where, i.reason, i.code, i.class, i.id].some((v) => v && String(v).toLowerCase().includes(state.text))));
    const pages = Math.max(1, Math.ceil(found.length / PAGE));
    const rows = found.slice(state.page * PAGE, (state.page + 1) * PAGE);
    const turn = (n, label) => el("button", { type: "button", disabled: state.page + n < 0 || state.page + n >= pages, onclick: () => { show({ page: state.page + n }); box.querySelector("caption")?.scrollIntoView({ block: "nearest" }); } }, label);
    box.replaceChildren(
      rows.length === 0 ? el("p", {}, "No call fits.") : table(`${state.page * PAGE + 1} to ${state.page * PAGE + rows.length} of ${many(found.length, "call")} and refusals, in order`, [
        ["Time", "when", (i) => el("time", { datetime: i.at }, i.at ? new Date(i.at).toISOString().slice(11, 23) : "")],
        ["Verdict", "", (i) => verdict(i.verdict)],
        ["What", "", (i) => [own(i.what), i.where ? el("div", { class: "quiet" }, own(i.where)) : null, i.code ? el("div", {}, el("strong", {}, i.code), i.reason ? [": ", own(i.reason)] : "") : i.reason ? el("div", { class: "quiet" }, own(i.reason)) : null, i.own ? el("div", { class: "quiet" }, "recorded by the client") : null, i.sealed ? el("div", { class: "quiet" }, "bodies are sealed to the auditor") : null]],
        ["Status", "number", (i) => (i.status ? String(i.status) : "")],
        ["Credential", "class", (i) => own(i.class)],
        ["Tokens in/out", "number", (i) => (i.counted ? `${i.input.toLocaleString("en")} / ${i.output.toLocaleString("en")}` : "")],
        ["Sent/received", "number", (i) => (i.sent === undefined ? "" : `${size(i.sent)} / ${size(i.got)}`)],
        ["ms", "number", (i) => (i.ms === undefined ? "" : String(i.ms))],
        ["Receipt", "receipt", (i) => mono(i.id)],
      ], rows),
      el("div", { class: "pager" }, turn(-1, "‹ Earlier"), el("span", { role: "status" }, `page ${state.page + 1} of ${pages}`), turn(1, "Later ›")));
  }
  show({});
  return el("section", { "aria-labelledby": "timeline" },
    el("h3", { id: "timeline" }, "Timeline"), pulse(items),
    el("form", { class: "filter", onsubmit: (e) => e.preventDefault() }, el("label", { for: "kind" }, "Verdict", kind), el("label", { for: "text" }, "Contains", text)), box);
}

const sum = (list, key) => list.reduce((n, i) => n + (i[key] ?? 0), 0);
const count = (list, key) => list.reduce((m, i) => (i[key] ? { ...m, [i[key]]: (m[i[key]] ?? 0) + 1 } : m), {});

function breakdown(title, what, counts) {
  const rows = counted(counts);
  return rows.length === 0 ? null : el("section", {}, el("h3", {}, title), table(what, [["Name", "", ([k]) => own(k)], ["Calls", "number", ([, n]) => n.toLocaleString("en")]], rows));
}

// runPage shows a run: what the file says, and whether it is to be believed. extra: {download, open, pulse, trustedBy, source}.
export function runPage(report, extra) {
  const { run } = report;
  const items = [...run.calls, ...run.refusals].map((i, n) => [i, n]).sort(([a, x], [b, y]) => (a.at < b.at ? -1 : a.at > b.at ? 1 : x - y)).map(([i]) => i);
  const calls = run.calls, models = calls.filter((i) => i.model);
  return el("article", {},
    el("h2", {}, "Run ", own(run.head.run_id ?? calls[0]?.raw.payload.binding.run_id ?? "")),
    el("p", { class: "quiet" }, extra.source),
    verification(report, extra.trustedBy),
    tally([
      [calls.filter((i) => i.verdict === "completed").length, "completed"], [calls.filter((i) => i.verdict === "cut").length, "cut"], [run.refusals.length, "refused"],
      [sum(models, "input"), "model tokens in"], [sum(models, "output"), "model tokens out"], [sum(calls, "sent") + sum(calls, "got"), "bytes carried"],
    ]),
    facts([
      ["Job", own(run.head.job)], ["Agent", mono(run.head.sub)], ["Job's key", mono(run.head.agent_did)], ["Gateway", mono(run.head.gateway_did)],
      ["Contract", ...(run.contracts.length ? run.contracts : Object.keys(count(items, "contract")).map((hash) => ({ hash }))).map((k) => el("div", {}, mono(k.hash), k.payload?.policy_id ? [" ", own(k.payload.policy_id)] : null))],
      ["Bundles", String(run.parts)], ["Last record", when(run.head.created_at)],
      ["Archive", extra.download ? el("a", { href: extra.download.url, download: extra.download.name }, extra.download.name) : null],
    ]),
    timeline(items),
    breakdown("Models", "Calls of models", count(models, "model")),
    breakdown("Credentials", "Classes of the credentials that calls were given", count(calls, "class")),
    breakdown("Refusals", "Why calls were refused", count(run.refusals, "code")),
    run.contracts.map((k) => el("section", {}, el("h3", {}, "Contract"), el("details", {}, el("summary", {}, "Contract ", mono(k.hash)), el("pre", { tabindex: 0 }, JSON.stringify(k.payload, null, 2))))),
    extra.pulse ? selfReported(extra.pulse) : null);
}

// selfReported shows what the agent says of itself. It proves nothing, and stands apart.
function selfReported(p) {
  const doc = p.trust_pulse;
  if (!doc) return el("section", {}, el("h3", {}, "What the agent reported of itself"), el("div", { class: "banner failed" }, el("p", {}, p.problem)));
  return el("section", { "aria-labelledby": "self" },
    el("h3", { id: "self" }, "What the agent reported of itself"),
    el("div", { class: "banner waiting" }, el("p", {}, el("strong", {}, "Self-reported, not evidence"), `: nobody has checked it (${p.status}).`)),
    facts([["Agent", mono(doc.agent_did)], ["Written", when(doc.issued_at)], ["Hash", mono(p.hash_b64u)]]),
    doc.tools.length ? table("Tools that it says it used", [["Tool", "", (t) => own(t.name)], ["Calls", "number", (t) => String(t.calls)]], doc.tools) : null,
    doc.files.length ? table("Files that it says it touched", [["File", "", (t) => own(t.path)], ["Touches", "number", (t) => String(t.touches)]], doc.files) : null);
}

// openRun shows a run that is not settled yet, from what the gateway says now.
export function openRun(s, again) {
  return el("article", {},
    el("h2", {}, "Run ", own(s.run_id)),
    el("div", { class: "banner waiting" }, el("p", {}, el("strong", {}, "… Still open"), `: ${many(s.open, "call")} not settled. A run is bundled and verified when all of its calls are.`), el("p", {}, el("button", { type: "button", onclick: again }, "Look again"))),
    tally([[s.completed, "completed"], [s.cut, "cut"], [s.refused, "refused"], [s.open, "open"], [s.tokens_input, "model tokens in"], [s.tokens_output, "model tokens out"]]),
    facts([["Job", own(s.job)], ["Agent", mono(s.sub)], ["Started", when(s.started)], ["Contract", ...(s.policy_hashes ?? []).map((h) => el("div", {}, mono(h)))]]),
    breakdown("Models and hosts", "Calls", { ...s.models, ...s.hosts }), breakdown("Credentials", "Classes of the credentials that calls were given", s.secret_classes), breakdown("Refusals", "Why calls were refused", s.codes));
}
