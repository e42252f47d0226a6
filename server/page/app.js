import { Refusal, events, get, post, token } from "./api.js";
import { colour, draw, short } from "./plot.js";

const $ = (id) => document.getElementById(id);
const every = 2000; // ms between looks at the status
const kept = 24 * 3600 * 1000; // ms of samples that are kept

let status = null; // as last seen
let skew = 0; // the board's clock minus this one, ms
let samples = []; // [{time, share, temperature, voltage, current}]
let layers = { names: [], points: [] }; // points: [{time, snr: [], mean: [] or null}]
let strong = ""; // the layer that is pointed at

// el makes an element; what is in it is text, never markup.
function el(name, attributes = {}, ...children) {
  const e = document.createElement(name);
  for (const [k, v] of Object.entries(attributes)) if (v !== false && v != null) e.setAttribute(k, v);
  e.append(...children.filter((c) => c != null));
  return e;
}

const now = () => Date.now() + skew;
const whole = (n) => n.toLocaleString("en").replaceAll(",", "\u202f");
const percent = (share) => `${(100 * share).toFixed(1)} %`;

function duration(ms) {
  if (ms < 950) return `${Math.round(ms)} ms`;
  if (ms < 59_950) return `${(ms / 1000).toFixed(1)} s`;
  const minutes = Math.floor(ms / 60_000);
  if (minutes < 60) return `${minutes} min ${Math.floor(ms / 1000) % 60} s`;
  if (minutes < 48 * 60) return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
  return `${Math.floor(minutes / 1440)} d ${Math.floor(minutes / 60) % 24} h`;
}

function when(text) {
  const t = new Date(text), today = new Date(now());
  const time = t.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
  return t.toDateString() === today.toDateString() ? time : `${t.toLocaleDateString([], { day: "numeric", month: "short" })}, ${time}`;
}

// --- what is shown ---

function show() {
  const s = status;
  document.title = `${s.state} – Hypnos`;
  $("network").textContent = s.model.slot ? `${s.model.network}, version ${s.model.version}` : "no model";
  $("state").textContent = s.state;
  $("state").dataset.state = s.state;
  $("reason").textContent = s.reason;
  const next = s.next && Date.parse(s.next) > now() ? `; next look in ${duration(Date.parse(s.next) - now())}` : "";
  $("since").textContent = `for ${duration(Math.max(0, now() - Date.parse(s.since)))}${next}`;
  $("sleep").disabled = s.state === "asleep" || !s.model.slot;
  $("wake").disabled = s.state === "awake";
  $("rollback").disabled = !before();
  $("rollback").title = before() ? "" : "There is no model to return to";
  $("started").textContent = `running for ${duration(now() - Date.parse(s.started))}`;
  showTiles();
  showLayers();
  showSleeps();
  showModels();
  plot();
}

const before = () => (status.models ?? []).find((m) => m.state === "previous");
const reading = (name) => (status.readings ?? []).find((r) => r.name === name);

// known gives a reading's value as text, and what there is to say of it.
function known(name, digits) {
  const r = reading(name);
  if (!r) return { note: "the board has no such sensor" };
  if (r.absent) return { note: r.absent };
  if (r.value == null) return { note: r.error ? `failed: ${r.error}` : "not read yet" };
  return { value: r.value, text: `${r.value.toFixed(digits)} ${r.unit}`, note: r.error ? `failed since: ${r.error}` : "" };
}

function tile(name, value, note, bad = false) {
  return el("div", {}, el("dt", {}, name), el("dd", { class: bad ? "bad" : null }, value), el("dd", { class: "note" }, note));
}

function showTiles() {
  const s = status, f = s.feedback, d = s.durability;
  const t = known("temperature", 1), v = known("voltage", 2), a = known("current", 3);
  const both = v.text && a.text;
  const volts = both ? `${v.text}, ${a.text}` : v.text ? `current: ${a.note}` : a.text ? `voltage: ${v.note}` : v.note;
  $("tiles").replaceChildren(
    tile("Feedback right", f.recent ? percent(f.share) : "–", f.recent ? `of the last ${f.recent}; ${whole(f.count)} since the start` : "no labels yet: POST /v1/learn"),
    tile("Learned from", whole(s.step), `${whole(s.steps_since_sleep)} since the last sleep`),
    tile("Temperature", t.text ?? "–", t.note),
    tile("Power", both ? `${(v.value * a.value).toFixed(2)} W` : v.text ?? a.text ?? "–", volts),
    tile("Queue", `${s.queued} of ${s.queue_limit}`, "labels that wait"),
    tile("Durable", d.durable ? "yes" : "no", d.durable ? `snapshot at ${whole(d.snapshot)}, ${whole(d.journal)} in the journal` : d.reason || "learning would not outlive a loss of power", !d.durable),
  );
}

// table fills a box: columns are [heading, class]; rows are lists of cells, text or elements.
function table(box, columns, rows, empty, caption) {
  if (rows.length === 0) {
    box.replaceChildren(el("p", { class: "muted" }, empty));
    return;
  }
  box.replaceChildren(el("table", {},
    el("caption", { class: "hidden" }, caption),
    el("thead", {}, el("tr", {}, ...columns.map(([name, kind]) => el("th", { scope: "col", class: kind }, name)))),
    el("tbody", {}, ...rows.map((cells) => el("tr", {}, ...cells.map((c, i) => el("td", { class: columns[i][1] }, c))))),
  ));
}

let layersShown = "";
function showLayers() {
  const { names, points } = layers;
  const snr = points.at(-1)?.snr ?? [];
  const mean = points.findLast((p) => p.mean)?.mean ?? [];
  const text = JSON.stringify([names, snr.map(String), mean]) + colour(0, 1);
  if (text === layersShown) return; // what is pointed at stays
  layersShown = text;
  table($("layers"), [["Layer", ""], ["SNR", "n"], ["Means kept", "n"]],
    names.map((name, i) => {
      const swatch = el("span", { class: "swatch" });
      swatch.style.background = colour(i, names.length);
      return [el("span", {}, swatch, name), snr[i] === undefined ? "–" : short(snr[i]), mean[i] == null ? "–" : mean[i].toFixed(4)];
    }), "Nothing measured yet: layers are measured when the network sleeps.", "Layers, as last measured");
  $("layers").querySelectorAll("tbody tr").forEach((row, i) => {
    row.tabIndex = 0;
    const point = (name) => () => { strong = name; plot(); };
    row.onpointerenter = row.onfocus = point(names[i]);
    row.onpointerleave = row.onblur = point("");
  });
}

function outcome(s) {
  if (s.complete) return "to the end";
  if (!s.ended && status.state === "asleep") return "running";
  return s.stopped ? `interrupted: ${s.stopped}` : "not finished";
}

// meansKept is the average over the layers that were slept.
function meansKept(s) {
  const ratios = (s.layers ?? []).map((l) => l.after ? l.mean.ratio : null).filter((ratio) => ratio != null);
  return ratios.length ? (ratios.reduce((a, b) => a + b) / ratios.length).toFixed(4) : "–";
}

function showSleeps() {
  const sleeps = [...status.sleeps ?? []].reverse();
  table($("sleeps"), [["Began", "nowrap"], ["Asleep", "n"], ["Parts", "n"], ["Rule", ""], ["Because", "text"], ["How it went", "text"], ["Means kept", "n"]],
    sleeps.map((s) => [when(s.began), duration(s.asleep_ns / 1e6), String(s.parts), s.rule, s.reason, outcome(s), meansKept(s)]),
    "No sleep yet. It sleeps when it is asked to, at night, after enough labels, when idle or when its weights diverge.", "Sleeps, the latest first");
}

function showModels() {
  const what = { active: "in use", trial: "on trial", uploaded: "uploaded", previous: "before", returned: "returned from" };
  table($("models"), [["Slot", ""], ["State", "text"], ["Version", "n"], ["Network", "nowrap"], ["Signed by", ""], ["Parameters", ""]],
    (status.models ?? []).map((m) => [m.slot, m.reason ? `${what[m.state]}: ${m.reason}` : what[m.state] ?? m.state, String(m.version), m.network,
      m.key ? el("code", {}, m.key) : "nobody", el("code", { title: m.digest }, m.digest.slice(0, 12))]),
    "No model yet. hypnos deploy brings one.", "Models in the two slots");
}

function plot() {
  if (!status) return;
  const to = now(), from = to - 1000 * document.querySelector("#range input:checked").value;
  const bands = (status.sleeps ?? []).map((s) => ({ from: Date.parse(s.began), to: s.ended ? Date.parse(s.ended) : to }));
  const common = { from, to, bands };
  const perLayer = (pick) => layers.names.map((name, i) => ({
    name, colour: colour(i, layers.names.length),
    points: layers.points.filter((p) => pick(p)?.[i] != null).map((p) => [p.time, pick(p)[i]]),
  }));
  const line = (pick) => [{ name: "", points: samples.map((s) => [s.time, pick(s)]).filter(([, v]) => v != null) }];
  const why = (name) => known(name, 1).note || "nothing in this time";
  draw($("plot-snr"), { ...common, series: perLayer((p) => p.snr), log: true, strong, empty: "Nothing measured yet: layers are measured when the network sleeps." });
  draw($("plot-mean"), { ...common, series: perLayer((p) => p.mean), include: [1], strong, empty: "Nothing measured yet: means are compared over a sleep." });
  draw($("plot-accuracy"), { ...common, series: line((s) => s.share == null ? null : 100 * s.share), range: [0, 100], unit: " %", empty: "No labels yet: POST /v1/learn with an image and its label." });
  draw($("plot-temperature"), { ...common, series: line((s) => s.temperature), unit: " °C", empty: `Unknown: ${why("temperature")}.` });
  draw($("plot-power"), { ...common, series: line((s) => s.voltage == null || s.current == null ? null : s.voltage * s.current), unit: " W", empty: `Unknown: ${known("voltage", 1).note || why("current")}.` });
}

// --- what is asked ---

function take(s) {
  status = s;
  skew = Date.parse(s.time) - Date.now();
  const value = (name) => reading(name)?.value ?? null;
  samples.push({
    time: Date.parse(s.time), share: s.feedback.recent ? s.feedback.share : null,
    temperature: value("temperature"), voltage: value("voltage"), current: value("current"),
  });
  samples = samples.filter((p) => p.time > now() - kept);
}

async function recall() {
  const h = await get("/v1/history");
  const times = (h.samples ?? []).map((s) => ({ ...s, time: Date.parse(s.time) }));
  const first = samples[0]?.time ?? Infinity;
  samples = [...times.filter((s) => s.time < first), ...samples];
  const infinite = (v) => v ?? Infinity; // JSON has none
  layers = {
    names: h.layers ?? [],
    points: (h.measurements ?? []).map((m) => ({ time: Date.parse(m.time), snr: m.snr.map(infinite), mean: m.mean_ratio ?? null })),
  };
}

let looking = null; // one look at a time
function look() {
  looking ??= (async () => {
    try {
      take(await get("/v1/status"));
      $("door").hidden = true;
      $("board").hidden = false;
      $("forget").hidden = !token.get();
      show();
    } catch (err) {
      refused(err);
    } finally {
      looking = null;
    }
  })();
  return looking;
}

function refused(err) {
  if (!(err instanceof Refusal)) {
    link("no", "no answer from the board");
  } else if (err.status === 401) {
    $("board").hidden = true;
    $("door").hidden = false;
    $("door-error").textContent = token.get() ? "The board does not know this token." : "";
    token.forget();
    link("", "waiting for a token");
  } else {
    link("no", err.message);
  }
}

function link(live, text) {
  $("link").dataset.live = live;
  $("link").textContent = text;
}

// press posts, and says what came of it.
async function press(button, path, done) {
  button.disabled = true;
  $("said").className = "";
  $("said").textContent = "…";
  try {
    $("said").textContent = done(await post(path, "from the page"));
  } catch (err) {
    $("said").className = "bad";
    $("said").textContent = err instanceof Refusal ? `Refused: ${err.message}` : "No answer from the board";
    if (err.status === 401) refused(err);
  }
  await look();
}

const mood = (m) => `Now ${m.state}: ${m.reason}`;
$("sleep").onclick = () => press($("sleep"), "/v1/sleep", mood);
$("wake").onclick = () => press($("wake"), "/v1/wake", mood);
$("rollback").onclick = () => {
  const m = before();
  $("confirm-text").textContent = `Version ${m.version} in slot ${m.slot} comes into use again. What version ${status.model.version} has learned stays with it.`;
  $("confirm").returnValue = "";
  $("confirm").showModal();
};
$("confirm").onclose = () => {
  const answer = $("confirm").returnValue;
  $("confirm").returnValue = ""; // the event of an earlier answer may come late: an answer counts once
  if (answer === "yes") press($("rollback"), "/v1/model/rollback", (m) => `Version ${m.version} is in use`);
};
$("door").onsubmit = (e) => {
  e.preventDefault();
  token.set($("token").value.trim());
  $("token").value = "";
  start();
};
$("forget").onclick = () => {
  token.forget();
  location.reload();
};
$("range").onchange = plot;
new ResizeObserver(plot).observe($("plot-snr"));
matchMedia("(prefers-color-scheme: dark)").onchange = () => status && show();

function note(kind, e) {
  const text = kind === "missed" ? "others happened in between" : e.text;
  const latest = $("events").firstChild;
  if (kind === "learn" && latest?.dataset.kind === "learn") latest.remove(); // of a run of steps the last one
  $("events").prepend(el("li", { "data-kind": kind }, el("span", { class: "muted" }, e.time ? when(e.time) : ""), el("span", { class: "muted" }, kind), el("span", {}, text)));
  while ($("events").children.length > 50) $("events").lastChild.remove();
}

// follow stays on the stream of events and looks at the status whenever something but a step has changed.
async function follow() {
  let last = "", wait = 1000;
  for (;;) {
    try {
      last = await events(last, (kind, e) => {
        if (kind === "open") {
          wait = 1000;
          link("yes", "live");
          return;
        }
        note(kind, e);
        if (kind === "sleep" || kind === "model") recall().then(look, refused);
        else if (kind !== "learn") look();
      });
      link("no", "connection lost, trying again");
    } catch (err) {
      refused(err);
      if (err.status === 401) return;
    }
    await new Promise((done) => setTimeout(done, wait));
    wait = Math.min(2 * wait, 15_000);
  }
}

let timer = 0, following = false;
async function start() {
  clearInterval(timer);
  await look();
  if (!status || !$("door").hidden) {
    if ($("door").hidden) timer = setTimeout(start, every); // no answer: try again
    return;
  }
  $("events").replaceChildren(el("li", { class: "muted whole" }, "Events since this page was opened:"));
  await recall().catch(refused);
  show();
  timer = setInterval(() => document.hidden || look(), every);
  if (!following) {
    following = true;
    follow().finally(() => { following = false; });
  }
}
start();
