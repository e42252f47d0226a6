// Plots of series against time, as SVG.

const space = "http://www.w3.org/2000/svg";
const dark = matchMedia("(prefers-color-scheme: dark)");

// colour of the i-th of n layers, from the first (blue) to the last (red).
export function colour(i, n) {
  const hue = 230 + (n < 2 ? 0 : i / (n - 1)) * 150;
  return `hsl(${hue % 360} ${dark.matches ? "75% 68%" : "70% 42%"})`;
}

function svg(name, attributes, ...children) {
  const e = document.createElementNS(space, name);
  for (const [k, v] of Object.entries(attributes)) e.setAttribute(k, v);
  e.append(...children);
  return e;
}

// ticks are about n round numbers between lo and hi.
export function ticks(lo, hi, n) {
  const rough = (hi - lo) / n;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough * 0.999);
  const all = [];
  for (let i = Math.ceil(lo / step - 1e-9); i * step <= hi + step * 1e-9; i++) all.push(i * step);
  return all;
}

// decades are the powers of ten between lo and hi, thinned out to at most n.
export function decades(lo, hi, n) {
  const from = Math.ceil(Math.log10(lo) - 1e-9), to = Math.floor(Math.log10(hi) + 1e-9);
  const every = Math.max(1, Math.ceil((to - from + 1) / n));
  const all = [];
  for (let e = from; e <= to; e += every) all.push(10 ** e);
  return all;
}

// short writes a number with about three digits.
export function short(v) {
  if (v === Infinity) return "∞";
  const a = Math.abs(v);
  if (a !== 0 && (a >= 1e5 || a < 1e-3)) return v.toExponential(1).replace("e+", "e");
  return String(Number(v.toPrecision(3)));
}

function timeTicks(from, to) {
  const steps = [60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600].map((s) => s * 1000);
  const step = steps.find((s) => (to - from) / s <= 6) ?? steps.at(-1);
  const zone = new Date(to).getTimezoneOffset() * 60_000;
  const all = [];
  for (let t = Math.ceil((from - zone) / step) * step + zone; t <= to; t += step) all.push(t);
  return all;
}

const clock = (t) => new Date(t).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });

// span is the range of y: of the finite values, widened so that a constant line lies in the middle.
function span(values, { log, include = [] }) {
  const finite = [...values.filter(Number.isFinite), ...include].filter((v) => !log || v > 0);
  if (finite.length === 0) return log ? [0.1, 10] : [0, 1];
  let lo = Math.min(...finite), hi = Math.max(...finite);
  if (log) return hi / lo < 10 ? [lo / 3.2, hi * 3.2] : [lo / 1.3, hi * 1.3];
  const pad = (hi - lo) * 0.08 || Math.abs(hi) * 0.01 || 1;
  return [lo - pad, hi + pad];
}

// draw draws into a box. series: [{name, colour?, points: [[ms, value]]}], value Infinity being at the upper edge; bands:
// [{from, to}] of sleep; empty: what to say without a point. say(name, value) names a value.
export function draw(box, { series, from, to, bands = [], log = false, include, range, empty, unit = "", strong = "" }) {
  const shown = series.map((s) => ({ ...s, points: visible(s.points, from, to) })).filter((s) => s.points.length > 0);
  if (shown.length === 0) {
    const note = document.createElement("p");
    note.className = "empty";
    note.textContent = empty;
    box.replaceChildren(note);
    return;
  }
  const width = box.clientWidth || 320, height = box.clientHeight || 200;
  const left = 44, right = 8, top = 14, bottom = 20;
  const values = shown.flatMap((s) => s.points.map((p) => p[1]));
  const infinite = values.includes(Infinity);
  const [lo, hi] = range ?? span(values, { log, include });
  const scale = log ? Math.log : (v) => v;
  const ceiling = top + (infinite ? 14 : 0);
  const x = (t) => left + (t - from) / (to - from) * (width - left - right);
  const y = (v) => v === Infinity ? top : height - bottom - (scale(v) - scale(lo)) / (scale(hi) - scale(lo)) * (height - bottom - ceiling);
  const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": summary(shown, unit) });
  for (const b of bands) {
    const x0 = Math.max(left, x(b.from)), x1 = Math.min(width - right, x(b.to));
    if (x1 >= left && x0 <= width - right) root.append(svg("rect", { class: "band", x: x0, y: top, width: Math.max(2, x1 - x0), height: height - bottom - top }));
  }
  for (const v of log ? decades(lo, hi, 5) : ticks(lo, hi, 4)) {
    root.append(svg("line", { class: "grid", x1: left, x2: width - right, y1: y(v), y2: y(v) }),
      svg("text", { x: left - 6, y: y(v) + 4, "text-anchor": "end" }, short(v)));
  }
  if (infinite) {
    root.append(svg("line", { class: "grid", x1: left, x2: width - right, y1: top, y2: top }),
      svg("text", { x: left - 6, y: top + 4, "text-anchor": "end" }, "∞"));
  }
  for (const t of timeTicks(from, to)) {
    if (x(t) > left + 12 && x(t) < width - right - 12) root.append(svg("text", { x: x(t), y: height - 4, "text-anchor": "middle" }, clock(t)));
  }
  for (const s of shown) {
    root.append(line(s, x, y, strong));
    if (!s.colour) root.append(svg("circle", { cx: x(s.points.at(-1)[0]), cy: y(s.points.at(-1)[1]), r: 3 }));
  }
  const cursor = svg("line", { class: "cursor", y1: top, y2: height - bottom, visibility: "hidden" });
  const said = document.createElement("output");
  said.className = "said";
  root.append(cursor);
  root.addEventListener("pointermove", (e) => {
    const r = root.getBoundingClientRect();
    const near = nearest(shown, (e.clientX - r.left) * width / r.width, (e.clientY - r.top) * height / r.height, x, y);
    cursor.setAttribute("visibility", "visible");
    cursor.setAttribute("x1", x(near.t));
    cursor.setAttribute("x2", x(near.t));
    said.textContent = `${clock(near.t)}  ${near.name ? near.name + " " : ""}${short(near.v)}${unit}`;
  });
  root.addEventListener("pointerleave", () => {
    cursor.setAttribute("visibility", "hidden");
    said.textContent = "";
  });
  box.replaceChildren(root, said);
}

// visible are the points from `from` on and the last one before, whose line comes in from the left.
function visible(points, from, to) {
  const inside = points.filter(([t]) => t >= from && t <= to);
  const before = points.findLast(([t]) => t < from);
  return before ? [[from, before[1]], ...inside] : inside;
}

function line(s, x, y, strong) {
  const d = s.points.map(([t, v], i) => `${i ? "L" : "M"}${x(t).toFixed(1)} ${y(v).toFixed(1)}`).join("");
  const weight = strong ? s.name === strong ? "strong" : "faint" : "";
  if (s.points.length === 1 && s.colour) {
    const dot = svg("circle", { cx: x(s.points[0][0]), cy: y(s.points[0][1]), r: 2.5, class: weight });
    dot.style.fill = s.colour;
    return dot;
  }
  const path = svg("path", { d, class: s.colour ? weight : "main" });
  if (s.colour) path.style.stroke = s.colour;
  return path;
}

function nearest(series, px, py, x, y) {
  let best = { d: Infinity };
  for (const s of series) {
    for (const [t, v] of s.points) {
      const d = Math.hypot(x(t) - px, (y(v) - py) / 2);
      if (d < best.d) best = { d, t, v, name: s.name };
    }
  }
  return best;
}

const summary = (series, unit) => series.slice(0, 30).map((s) => `${s.name || "latest"} ${short(s.points.at(-1)[1])}${unit}`).join(", ");
