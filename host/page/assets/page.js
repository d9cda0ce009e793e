"use strict";
(() => {
const byId = id => document.getElementById(id);
const doc = JSON.parse(byId("document").textContent);
const detection = doc.detection, classified = doc.classified || [], measured = doc.measured || [], lesions = doc.lesions || [], attributes = doc.attributes || [];

// element makes an element; attributes that it has as properties are set as such.
function element(tag, given, ...children) {
  const e = document.createElement(tag);
  for (const [k, v] of Object.entries(given || {})) {
    if (v === null || v === undefined || v === false) continue;
    if (k in e && k !== "list") e[k] = v; else e.setAttribute(k, v);
  }
  e.append(...children.flat().filter(c => c !== null && c !== undefined && c !== false));
  return e;
}
function drawing(tag, given, ...children) {
  const e = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [k, v] of Object.entries(given || {})) e.setAttribute(k, v);
  e.append(...children);
  return e;
}
const fixed = (v, n) => v === null || v === undefined || Number.isNaN(v) ? "–" : Number(v).toFixed(n === undefined ? 3 : n);
const brief = v => v === null || v === undefined ? "–" : Number(v) === 0 ? "0" : Math.abs(v) >= 1000 || Math.abs(v) < 0.001 ? Number(Number(v).toPrecision(3)).toExponential() : String(Number(Number(v).toPrecision(3)));
const range = ci => ci && ci[0] !== null ? fixed(ci[0]) + " to " + fixed(ci[1]) : "–";
const percent = p => p < 0.005 ? "<1\u00a0%" : p > 0.995 ? ">99\u00a0%" : Math.round(100 * p) + "\u00a0%";

// table makes a table; cells are texts, numbers (set to the right) or nodes.
function table(caption, head, rows, option) {
  const cell = v => v instanceof Node ? (v.tagName === "TD" ? v : element("td", {}, v)) : element("td", {className: typeof v === "number" || /^(–|[-<>]?\d+(\.\d+)?(e[-+]?\d+)?(\u00a0%)?)$/.test(v) ? "n" : ""}, String(v));
  const body = rows.map((r, n) => { const tr = element("tr", {}, r.map(cell)); if (option && option.row) option.row(tr, n); return tr; });
  return element("div", {className: "scroll"}, element("table", {}, element("caption", {}, caption), element("thead", {}, element("tr", {}, head.map((h, n) => element("th", {scope: "col", className: body.length && body[0].children[n] && body[0].children[n].className === "n" ? "n" : ""}, h)))), element("tbody", {}, body)));
}

// state is what the reader has chosen.
const state = {system: 0, step: 0, threshold: -Infinity, kind: "all", shown: 60, at: 0, offset: 0, zoom: 1, panX: 0, panY: 0, low: -160, high: 240, boxes: true, modality: "", confusion: null};
const remarks = new Map(); // by case: {flag, remark}
let items = [];

// ---- the threshold ----

const systems = detection ? detection.systems : [];
const sortedOf = systems.map(s => {
  const finders = s.found.map((k, j) => k >= 0 && !lesions[j].ignore ? s.score[k] : null).filter(v => v !== null).sort((a, b) => b - a);
  const alarms = s.score.filter((_, k) => s.fate[k] === "fp").sort((a, b) => b - a);
  return {finders, alarms, marks: s.score.slice().sort((a, b) => b - a)};
});
// above counts the numbers of a falling list that are t or more.
function above(list, t) {
  let low = 0, high = list.length;
  while (low < high) { const m = (low + high) >> 1; if (list[m] >= t) low = m + 1; else high = m; }
  return low;
}
const counted = lesions.filter(l => !l.ignore).length;
const hit = (s, j, t) => systems[s].found[j] >= 0 && systems[s].score[systems[s].found[j]] >= t;

// matched is the threshold of another system with as many false positives at most.
function matched(s) {
  if (s === state.system) return state.threshold;
  const most = above(sortedOf[state.system].alarms, state.threshold);
  let t = Infinity;
  for (const [threshold, , fp] of systems[s].curve) { if (fp > most) break; t = threshold; }
  return t;
}
function countsAt(s, t) {
  const found = above(sortedOf[s].finders, t), fp = above(sortedOf[s].alarms, t), marks = above(sortedOf[s].marks, t);
  return {found, fp, marks, sensitivity: found / counted, fppi: fp / detection.units};
}
function setStep(step) {
  const curve = systems[state.system].curve;
  state.step = Math.max(0, Math.min(curve.length, step));
  state.threshold = state.step === 0 ? Infinity : curve[state.step - 1][0];
  byId("slider").value = state.step;
  update();
}
// stepAt is the last step of the curve with at most so many false positives per unit.
function stepAt(fppi) {
  const curve = systems[state.system].curve;
  let step = 0;
  while (step < curve.length && curve[step][2] / detection.units <= fppi + 1e-9) step++;
  return step;
}
function reading() {
  const c = countsAt(state.system, state.threshold);
  byId("reading").textContent = (state.step ? "≥ " + brief(state.threshold) : "above all scores") + ": " + c.found + " of " + counted + " lesions (" + fixed(c.sensitivity) + "), " + c.fp + " false positives (" + fixed(c.fppi, 2) + " per " + detection.report.protocol.unit + ")";
  byId("slider").setAttribute("aria-valuetext", byId("reading").textContent);
}

// ---- the list ----

const kinds = detection && systems.length ? [["all", "what is worst"], ["missed", "missed lesions"], ["near", "near misses"], ["fp", "confident false positives"], ["free", "lesion-free images with marks"],
  ...(systems.length > 1 ? [["won", "lesions won against " + doc.systems[0].name], ["lost", "lesions lost against " + doc.systems[0].name]] : []), ["cases", "all images"], ["flagged", "flagged cases"]]
  : classified.length ? [["all", "what is worst"], ["wrong", "wrong answers"], ["cases", "all cases"], ["flagged", "flagged cases"]]
  : measured.length ? [["all", "what is worst"], ["cases", "all cases"], ["flagged", "flagged cases"]] : [["cases", "all images"], ["flagged", "flagged cases"]];

const rankOf = systems.map((s, i) => { const marks = sortedOf[i].marks; return v => 1 - above(marks, v + 1e-12) / Math.max(1, marks.length); });
const sizeOf = b => Math.max(b[2] - b[0], b[3] - b[1]);
// alarmsOf are the false positives of a system as entries of the list, the highest score first.
const alarmsOf = systems.map((s, i) => s.score.map((_, k) => k).filter(k => s.fate[k] === "fp").sort((a, b) => s.score[b] - s.score[a] || sizeOf(s.box[b]) - sizeOf(s.box[a])).map(k => ({kind: "fp", case: s.case[k], mark: k, worth: rankOf[i](s.score[k]), size: sizeOf(s.box[k])})));
function lesionText(j) {
  const l = lesions[j], c = doc.cases[l.case], side = sizeOf(l.box);
  return (l.class ? l.class + " " : "") + "lesion of " + Math.round(side) + " px" + (l.strata && l.strata.some(v => v) ? ", " + l.strata.map((v, k) => v && detection.strata_columns[k] + " " + v).filter(v => v).join(", ") : "");
}
// textOf is what the list says of an entry. A long list is made anew at each step of the slider, and few of its entries are shown.
function textOf(m) {
  if (m.text !== undefined) return m.text;
  const d = systems[state.system];
  if (m.kind === "fp") return "False positive" + (d.class ? " (" + d.class[m.mark] + ")" : "") + ", score " + brief(d.score[m.mark]);
  if (m.kind === "free") return "No lesion, " + m.marks + (m.marks > 1 ? " marks" : " mark") + ", highest score " + brief(d.score[m.mark]);
  if (m.kind === "won" || m.kind === "lost") return (m.kind === "won" ? "Found here alone: " : "Found there alone: ") + lesionText(m.lesion);
  if (m.kind === "missed") return "Missed: " + lesionText(m.lesion) + "; no mark near it";
  const late = d.found[m.lesion];
  return "Near miss: " + lesionText(m.lesion) + "; " + (late >= 0 ? "found at " + brief(d.score[late]) : "a mark overlaps, IoU " + fixed(d.near_iou[m.lesion], 2) + ", score " + brief(d.score[d.near[m.lesion]]));
}
// byName is the place of each case in the order of ids.
const byName = new Array(doc.cases.length);
doc.cases.map((c, i) => i).sort((a, b) => doc.cases[a].id < doc.cases[b].id ? -1 : doc.cases[a].id > doc.cases[b].id ? 1 : 0).forEach((i, place) => { byName[i] = place; });
// makeItems lists what there is to look at, at the threshold.
function makeItems() {
  const out = [], kind = state.kind;
  if (kind === "cases" || kind === "flagged") {
    doc.cases.forEach((c, i) => { if (kind === "cases" || remarks.has(i)) out.push({kind: "case", case: i, worth: 0, size: 0, text: ""}); });
  } else if (detection) {
    detectionItems(out, kind);
  } else {
    classifiedItems(out);
    if (kind === "all" && !state.confusion) measuredItems(out);
  }
  const words = byId("find").value.trim().toLowerCase();
  items = words ? out.filter(m => (doc.cases[m.case].id + " " + (doc.cases[m.case].patient || "") + " " + textOf(m) + " " + ((remarks.get(m.case) || {}).flag || "")).toLowerCase().includes(words)) : out;
  const order = byId("order").value;
  const compare = {worst: (a, b) => b.worth - a.worth || b.size - a.size, id: (a, b) => byName[a.case] - byName[b.case], size: (a, b) => b.size - a.size}[order];
  items.sort(compare);
}
function detectionItems(out, kind) {
  const s = state.system, d = systems[s], t = state.threshold, rank = rankOf[s];
  const base = kind === "won" || kind === "lost" ? matched(0) : null;
  const withLesion = new Set();
  for (let j = 0; j < lesions.length; j++) {
    const l = lesions[j];
    if (l.ignore) continue;
    withLesion.add(l.case);
    const found = hit(s, j, t);
    if (base !== null) {
      const before = hit(0, j, base);
      if (kind === "won" && found && !before || kind === "lost" && !found && before) out.push({kind, case: l.case, lesion: j, worth: sizeOf(l.box), size: sizeOf(l.box)});
      continue;
    }
    if (found) continue;
    const late = d.found[j], near = d.near[j];
    const close = late >= 0 || near >= 0 && d.near_iou[j] >= 0.1;
    if (kind === "near" && !close || kind === "fp" || kind === "free") continue;
    out.push({kind: close ? "near" : "missed", case: l.case, lesion: j, worth: 2 + (late >= 0 ? 0 : close ? 0.5 : 1) + (late >= 0 ? 0.4 * (1 - rank(d.score[late])) : 0), size: sizeOf(l.box)});
  }
  if (kind === "all" || kind === "fp") for (const m of alarmsOf[s]) { if (d.score[m.mark] < t) break; out.push(m); }
  if (kind === "free") {
    const best = new Map();
    d.score.forEach((v, k) => { if (d.fate[k] === "fp" && v >= t && !withLesion.has(d.case[k])) { const b = best.get(d.case[k]) || {n: 0, k: -1}; b.n++; if (b.k < 0 || v > d.score[b.k]) b.k = k; best.set(d.case[k], b); } });
    for (const [i, b] of best) out.push({kind: "free", case: i, mark: b.k, marks: b.n, worth: rank(d.score[b.k]), size: sizeOf(d.box[b.k])});
  }
}
function classifiedItems(out) {
  for (const set of classified) {
    const probability = set.probability[state.system];
    set.case.forEach((i, n) => {
      const p = probability[n], best = p.indexOf(Math.max(...p)), truth = set.label[n];
      if (state.confusion && (state.confusion.set !== set || state.confusion.truth !== truth || state.confusion.best !== best)) return;
      if (best === truth && !state.confusion) return;
      out.push({kind: best === truth ? "case" : "wrong", case: i, worth: p[best] - p[truth], size: 0, text: (set.task ? set.task + ": " : "") + set.classes[truth] + " taken for " + set.classes[best] + ", " + percent(p[best])});
    });
  }
}
const unitOf = set => set.unit ? " " + set.unit : "";
// truthOf is what is known of the n-th case of a question for a number or a time.
const truthOf = (set, n) => brief(set.truth[n]) + unitOf(set) + (set.event && !set.event[n] ? " without the event" : "");
// measuredItems are the answers, those furthest from the truth first; a case that was not followed to the answer is not wrong.
function measuredItems(out) {
  for (const set of measured) {
    const top = Math.max(...set.truth.map(Math.abs), 1e-9);
    set.case.forEach((i, n) => {
      const answer = set.answer[state.system][n], off = answer - set.truth[n];
      out.push({kind: "case", case: i, worth: set.event && !set.event[n] && off > 0 ? 0 : Math.abs(off) / top, size: 0, text: (set.task ? set.task + ": " : "") + truthOf(set, n) + ", answer " + brief(answer)});
    });
  }
}
const nameOfKind = {missed: "Missed", near: "Near miss", fp: "False positive", free: "Lesion-free", won: "Won", lost: "Lost", wrong: "Wrong", case: ""};
function showList() {
  const list = byId("items");
  list.replaceChildren(...items.slice(0, state.shown).map((m, n) => {
    const c = doc.cases[m.case], mark = remarks.get(m.case);
    const text = textOf(m);
    return element("li", {className: m.kind, "data-at": n, "aria-current": n === state.at ? "true" : null, title: text}, mark && mark.flag ? element("span", {className: "mark"}, "⚑ " + mark.flag) : null,
      element("span", {className: "what"}, c.id), element("br"), element("span", {className: "small"}, text || (c.patient ? "patient " + c.patient : "")));
  }));
  byId("more").hidden = items.length <= state.shown;
  byId("counts").textContent = items.length + (items.length === 1 ? " entry" : " entries") + (state.confusion ? " of the chosen cell" : "");
}
function choose(at, keep) {
  if (!items.length) { showCase(-1); return; }
  state.at = Math.max(0, Math.min(items.length - 1, at));
  if (state.at >= state.shown) { state.shown = state.at + 100; showList(); }
  for (const li of byId("items").children) {
    const on = Number(li.dataset.at) === state.at;
    if (on) { li.setAttribute("aria-current", "true"); if (!keep) li.scrollIntoView({block: "nearest"}); } else li.removeAttribute("aria-current");
  }
  showCase(items[state.at].case, items[state.at]);
}

// ---- the picture ----

const canvas = byId("picture"), paint = canvas.getContext("2d");
const presets = [["soft tissue", -160, 240], ["lung", -1000, 400], ["bone", -450, 1050], ["liver", -25, 125], ["all", -1024, 3071]];
const cache = new Map();
let current = -1, chosen = null, bitmap = null, gone = "";

function imageName(i, modality, offset) { return "t" + i + "." + modality + "." + offset; }
// source is where a picture comes from, "" where it is not there.
function source(i, modality, offset) {
  if (doc.pictures.served) return "slice/" + i + "/" + encodeURIComponent(modality) + "/" + offset;
  const e = byId(imageName(i, modality, offset));
  return e ? "data:image/jpeg;base64," + e.textContent : "";
}
// load decodes a picture into an array of Hounsfield units, or of colours.
function load(i, modality, offset) {
  const name = imageName(i, modality, offset);
  if (cache.has(name)) return cache.get(name);
  const url = source(i, modality, offset);
  if (!url) return Promise.resolve(null);
  const done = new Promise((resolve, reject) => {
    const img = new Image();
    img.onload = () => {
      const c = document.createElement("canvas");
      c.width = img.naturalWidth; c.height = img.naturalHeight;
      const x = c.getContext("2d", {willReadFrequently: true});
      x.drawImage(img, 0, 0);
      const rgba = x.getImageData(0, 0, c.width, c.height);
      if (modality !== "volume") { resolve({w: c.width, h: c.height, rgba}); return; }
      const hu = new Int16Array(c.width * c.height), px = rgba.data, level = doc.pictures.level_hu;
      for (let k = 0; k < hu.length; k++) hu[k] = doc.pictures.served ? px[4 * k] * 256 + px[4 * k + 1] - 32768 : level[px[4 * k]];
      resolve({w: c.width, h: c.height, hu});
    };
    img.onerror = () => reject(new Error("the picture cannot be read"));
    img.src = url;
  });
  cache.set(name, done);
  if (cache.size > 40) cache.delete(cache.keys().next().value);
  return done;
}
// toned makes a canvas of a picture under the window.
function toned(p) {
  const c = document.createElement("canvas");
  c.width = p.w; c.height = p.h;
  const x = c.getContext("2d");
  if (p.rgba) { x.putImageData(p.rgba, 0, 0); return c; }
  const out = x.createImageData(p.w, p.h), px = new Uint32Array(out.data.buffer), gain = 255 / Math.max(1, state.high - state.low);
  for (let k = 0; k < p.hu.length; k++) { const g = Math.max(0, Math.min(255, (p.hu[k] - state.low) * gain)) | 0; px[k] = 0xff000000 | g << 16 | g << 8 | g; }
  x.putImageData(out, 0, 0);
  return c;
}
let wish = 0;
async function showPicture() {
  const c = doc.cases[current], mine = ++wish;
  if (!c) { bitmap = null; gone = "Nothing in this list at this threshold."; draw(); return; }
  let p = null;
  gone = c.pictures ? "This slice is not in the file; `alignedfusion view` shows it." : "There is no picture of this case here.";
  try { if (c.pictures) p = await load(current, state.modality, state.offset); } catch (e) { gone = e.message; }
  if (mine !== wish) return;
  state.picture = p;
  bitmap = p ? toned(p) : null;
  draw();
}
// frame is the scale and the corner of the picture on the canvas.
function frame() {
  const c = doc.cases[current] || {}, w = c.w || extent().w, h = c.h || extent().h, ratio = Math.min(canvas.width / w, canvas.height / h) * state.zoom;
  return {ratio, x: canvas.width / 2 - (w / 2 + state.panX) * ratio, y: canvas.height / 2 - (h / 2 + state.panY) * ratio, w, h};
}
// extent is the space that a case's boxes take where its size is unknown.
function extent() {
  let w = 64, h = 64;
  for (const b of boxesOf(current)) { w = Math.max(w, b.box[2] * 1.05); h = Math.max(h, b.box[3] * 1.05); }
  return {w, h};
}
// boxesOf are the reference and the marks of a case at the threshold.
const lesionsOf = doc.cases.map(() => []), marksOf = systems.map(() => doc.cases.map(() => []));
lesions.forEach((l, j) => lesionsOf[l.case].push(j));
systems.forEach((s, n) => s.case.forEach((i, k) => marksOf[n][i].push(k)));
function boxesOf(i) {
  if (i < 0) return [];
  const out = [];
  for (const j of lesionsOf[i]) {
    const l = lesions[j], missed = systems.length > 0 && !l.ignore && !hit(state.system, j, state.threshold);
    out.push({box: l.box, kind: l.ignore ? "ignored" : missed ? "missed" : "ref", lesion: j, label: l.ignore ? "ignored" : missed ? "missed" : l.class || ""});
  }
  if (systems.length) {
    const d = systems[state.system];
    for (const k of marksOf[state.system][i]) if (d.score[k] >= state.threshold) {
      const kind = d.fate[k] === "tp" || d.fate[k] === "fp" ? d.fate[k] : "other";
      out.push({box: d.box[k], kind, mark: k, label: {tp: "TP ", fp: "FP ", dup: "again ", ign: "ignored ", cap: "over cap "}[d.fate[k]] + brief(d.score[k])});
    }
  }
  return out;
}
const colours = {ref: "#ffd54f", missed: "#ffd54f", ignored: "#b0b0b0", tp: "#4dd0e1", fp: "#ff6ec7", other: "#b0b0b0"};
const dashes = {missed: [7, 4], other: [2, 3], ignored: [2, 3]};
function draw() {
  const density = window.devicePixelRatio || 1, w = Math.round(canvas.clientWidth * density), h = Math.round(canvas.clientHeight * density);
  if (canvas.width !== w || canvas.height !== h) { canvas.width = w; canvas.height = h; }
  paint.fillStyle = "#000";
  paint.fillRect(0, 0, w, h);
  const f = frame(), c = doc.cases[current];
  if (bitmap) { paint.imageSmoothingEnabled = f.ratio < 4; paint.drawImage(bitmap, f.x, f.y, f.w * f.ratio, f.h * f.ratio); }
  else { paint.fillStyle = "#ccc"; paint.font = 13 * density + "px system-ui"; paint.fillText(gone, 10 * density, 20 * density); paint.strokeStyle = "#555"; if (c) paint.strokeRect(f.x, f.y, f.w * f.ratio, f.h * f.ratio); }
  if (!state.boxes || current < 0) return;
  const at = (c.key || 0) + state.offset, labels = [];
  for (const b of boxesOf(current)) {
    if (b.box.length === 6 ? c.pictures && (at < b.box[4] || at > b.box[5]) : state.offset !== 0) continue;
    const on = chosen && (chosen.lesion !== undefined && chosen.lesion === b.lesion || chosen.mark !== undefined && chosen.mark === b.mark);
    paint.strokeStyle = paint.fillStyle = colours[b.kind];
    paint.lineWidth = (on ? 3.5 : 1.8) * density;
    paint.setLineDash((dashes[b.kind] || []).map(v => v * density));
    const x = f.x + b.box[0] * f.ratio, y = f.y + b.box[1] * f.ratio, bw = Math.max(4 * density, (b.box[2] - b.box[0]) * f.ratio), bh = Math.max(4 * density, (b.box[3] - b.box[1]) * f.ratio);
    paint.strokeRect(x, y, bw, bh);
    paint.setLineDash([]);
    if (!b.label) continue;
    paint.font = (on ? "bold " : "") + 12 * density + "px system-ui";
    const text = paint.measureText(b.label).width, below = b.kind === "ref" || b.kind === "missed" || b.kind === "ignored", up = (below ? 1 : -1) * 15 * density;
    let ty = below ? y + bh + 13 * density : y - 4 * density;
    while (labels.some(l => x < l.x + l.w && l.x < x + text && Math.abs(ty - l.y) < 14 * density)) ty += up; // labels do not lie on each other
    labels.push({x, y: ty, w: text + 4});
    paint.globalAlpha = 0.6; paint.fillStyle = "#000"; paint.fillRect(x - 2, ty - 11 * density, text + 4, 14 * density); paint.globalAlpha = 1;
    paint.fillStyle = colours[b.kind];
    paint.fillText(b.label, x, ty);
  }
}
function describePicture() {
  const c = doc.cases[current];
  if (!c) { canvas.setAttribute("aria-label", "no picture"); return; }
  const all = boxesOf(current), n = k => all.filter(b => b.kind === k).length;
  canvas.setAttribute("aria-label", "Case " + c.id + ", slice " + state.offset + " from the key slice, window " + state.low + " to " + state.high + " HU: " + n("ref") + " found and " + n("missed") + " missed lesions, " + n("tp") + " true and " + n("fp") + " false positives at this threshold");
  byId("slice-text").textContent = c.pictures && c.pictures.includes("volume") ? (state.offset ? (state.offset > 0 ? "+" : "") + state.offset + " slices" + (c.mm[0] ? " (" + brief(state.offset * c.mm[0]) + " mm)" : "") : "key slice") : "";
}
function reach(i) {
  const c = doc.cases[i];
  if (!c || state.modality !== "volume") return [0, 0];
  if (doc.pictures.served) return [c.low || 0, c.high || 0];
  let low = 0, high = 0;
  while (byId(imageName(i, "volume", low - 1))) low--;
  while (byId(imageName(i, "volume", high + 1))) high++;
  return [low, high];
}
function setOffset(v) {
  const [low, high] = reach(current), slider = byId("slice");
  slider.min = low; slider.max = high; slider.disabled = low === high;
  state.offset = Math.max(low, Math.min(high, v));
  slider.value = state.offset;
  describePicture();
  showPicture();
}
function setWindow(low, high) {
  state.low = Math.round(low); state.high = Math.round(Math.max(low + 1, high));
  const at = presets.findIndex(p => p[1] === state.low && p[2] === state.high);
  byId("window").value = at < 0 ? "own" : String(at);
  byId("window").querySelector("[value=own]").textContent = at < 0 ? "own: " + state.low + " to " + state.high : "own (Shift and drag)";
  describePicture();
  if (state.picture) { bitmap = toned(state.picture); draw(); }
}
function setZoom(z) { state.zoom = Math.max(0.5, Math.min(16, z)); if (state.zoom === 1) state.panX = state.panY = 0; draw(); }

// ---- the side ----

function showCase(i, item) {
  const before = current;
  current = i; chosen = item || null;
  const c = doc.cases[i];
  if (c && before !== i) {
    const all = c.pictures || [];
    byId("modality").replaceChildren(...all.map(m => element("option", {}, m)));
    byId("modality-label").hidden = all.length < 2;
    state.modality = all[0] || "";
    state.zoom = 1; state.panX = state.panY = 0;
  }
  if (before !== i || i < 0) setOffset(0); else { describePicture(); draw(); }
  showSide();
}
const otherKinds = [["without", "no report"], ["shuffled", "another's"], ["contradicting", "contrary"]];
function showSide() {
  const side = byId("side"), c = doc.cases[current];
  if (!c) { side.replaceChildren(); return; }
  side.replaceChildren(...[element("h2", {}, "Case " + c.id), element("p", {className: "small"}, [c.patient && "patient " + c.patient, c.w && c.w + " × " + c.h + " pixels", c.mm && c.mm[1] && brief(c.mm[1]) + " mm each", c.mm && c.mm[0] && "slices " + brief(c.mm[0]) + " mm apart"].filter(v => v).join(", ")),
    chosen && textOf(chosen) ? element("p", {}, element("strong", {}, textOf(chosen))) : null, ...answersOf(current), attributesOf(current), flagsOf(current)].filter(v => v));
}
// answersOf shows what the systems say of a case.
function answersOf(i) {
  const out = [];
  if (systems.length) {
    const d = systems[state.system], marks = marksOf[state.system][i].filter(k => d.score[k] >= state.threshold).sort((a, b) => d.score[b] - d.score[a]);
    const kinds = d.other ? otherKinds.filter(([k]) => d.other[k]) : [];
    const words = {tp: "TP", fp: "FP", dup: "again", ign: "ignored", cap: "over cap"};
    out.push(marks.length ? table("Marks of " + doc.systems[state.system].name, ["score", "is", ...kinds.map(k => k[1])], marks.map(k => [brief(d.score[k]), words[d.fate[k]], ...kinds.map(([o]) => d.other[o][k] === null ? "no box" : brief(d.other[o][k]))]),
      {row: (tr, n) => {
        const k = marks[n];
        tr.className = "clickable" + (chosen && chosen.mark === k ? " on" : "");
        tr.onclick = () => { chosen = {...chosen, text: chosen ? textOf(chosen) : "", mark: k, lesion: undefined}; draw(); showSide(); };
      }}) : element("p", {className: "muted"}, "No marks at this threshold."));
    if (kinds.length) out.push(element("p", {className: "small muted"}, "TP finds a lesion, FP is a false positive. The columns behind are the score of the same box (IoU ≥ 0.5) when the method sees the image with no report, with another patient's report, or with every known value changed."));
  }
  for (const set of classified) {
    const n = set.case.indexOf(i);
    if (n < 0) continue;
    const system = doc.systems[state.system], kinds = otherKinds.filter(([k]) => system.counterfactual && system.counterfactual[k] && system.counterfactual[k][i]), at = set.set;
    out.push(table((set.task || "Class") + ": true is " + set.classes[set.label[n]], ["class", ...doc.systems.map(s => s.name), ...kinds.map(k => k[1])],
      set.classes.map((name, k) => [name + (k === set.label[n] ? " ✓" : ""), ...set.probability.map(p => percent(p[n][k])), ...kinds.map(([o]) => percent(system.counterfactual[o][i][at][k]))])));
  }
  for (const set of measured) {
    const n = set.case.indexOf(i);
    if (n >= 0) out.push(table((set.task || set.question) + ": true is " + truthOf(set, n), doc.systems.map(s => s.name), [set.answer.map(a => brief(a[n]) + unitOf(set))]));
  }
  return out;
}
// attributesOf shows what the report says, and what the method makes of what it does not say.
function attributesOf(i) {
  const c = doc.cases[i], system = doc.systems[state.system] || {}, recovered = new Map(((system.recovered || {})[i] || []).map(r => [r.attribute, r]));
  if (!c.cells) return attributes.length ? element("p", {className: "muted"}, "Nothing is known of this case's report.") : null;
  const rows = attributes.map((a, k) => {
    const cell = c.cells[k], r = recovered.get(a.name);
    const what = element("td", {}, cell.t || "", cell.w && cell.w !== cell.t ? element("div", {className: "small muted"}, "“" + cell.w + "”") : null);
    if (r) {
      const order = r.values.map((_, n) => n).sort((x, y) => r.probabilities[y] - r.probabilities[x]).slice(0, 3);
      what.append(...order.map(n => element("div", {className: "value"}, r.values[n], meter(r.probabilities[n], r.prior && r.prior[n]), percent(r.probabilities[n]))));
    }
    return [a.name, element("td", {className: "state-" + cell.s}, cell.s), what];
  });
  const out = element("div", {id: "attributes"}, table("Attributes of the report", ["attribute", "is", "value"], rows));
  if (recovered.size) out.append(element("p", {className: "small muted"}, "Bars: what the method recovers of what the report does not mention; the line in a bar is how frequent the value is in training. " + (system.calibration || "")));
  return out;
}
function meter(p, prior) {
  const m = element("span", {className: "meter", title: percent(p) + (prior !== undefined && prior !== null ? ", in training " + percent(prior) : ""), role: "img", "aria-label": percent(p)}), bar = element("i");
  bar.style.width = 100 * p + "%";
  m.append(bar);
  if (prior !== undefined && prior !== null) { const line = element("b"); line.style.left = 100 * prior + "%"; m.append(line); }
  return m;
}
const flags = ["", "look again", "reference wrong", "report wrong", "image bad", "exclude", "agree"];
function flagsOf(i) {
  const mine = remarks.get(i) || {flag: "", remark: ""};
  const select = element("select", {id: "flag", onchange: () => remark(i, select.value, text.value)}, flags.map(f => element("option", {value: f, selected: f === mine.flag}, f || "none")));
  const text = element("textarea", {id: "remark", rows: 2, value: mine.remark, "aria-label": "Remark on this case", placeholder: "Remark", onchange: () => remark(i, select.value, text.value)});
  return element("div", {}, element("h3", {}, "Your flag"), element("div", {className: "bar"}, element("label", {}, "Flag ", select), element("button", {type: "button", id: "export", onclick: download}, "Export flags (CSV)")), text);
}
function remark(i, flag, text) {
  if (flag || text.trim()) remarks.set(i, {flag, remark: text.trim()}); else remarks.delete(i);
  keep();
  showList();
}
// flags survive a reload where the browser allows it.
const store = "alignedfusion flags " + doc.title + " " + doc.cases.length + " " + (doc.cases[0] || {}).id;
function keep() { try { localStorage.setItem(store, JSON.stringify([...remarks])); } catch (e) { /* a file may have no storage */ } }
try { for (const [i, r] of JSON.parse(localStorage.getItem(store) || "[]")) if (doc.cases[i]) remarks.set(i, r); } catch (e) { /* none kept */ }
function csv() {
  const cell = t => /[",\n\r]/.test(t) ? '"' + t.replace(/"/g, '""') + '"' : t;
  return ["id,flag,remark", ...[...remarks].sort((a, b) => a[0] - b[0]).map(([i, r]) => [doc.cases[i].id, r.flag, r.remark].map(cell).join(","))].join("\n") + "\n";
}
function download() {
  const url = URL.createObjectURL(new Blob([csv()], {type: "text/csv"}));
  const a = element("a", {href: url, download: "flags.csv"});
  a.click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

// ---- plots ----

// plot draws lines {name, points, className, band, dots} on axes {x, y}: {label, log, min, max}.
function plot(title, axes, lines, option) {
  const W = 420, H = 270, L = 46, R = 10, T = 8, B = 36, {x, y} = axes;
  const sx = x.log ? v => L + (W - L - R) * (Math.log(Math.max(v, x.min)) - Math.log(x.min)) / (Math.log(x.max) - Math.log(x.min)) : v => L + (W - L - R) * (v - x.min) / (x.max - x.min || 1);
  const sy = v => H - B - (H - T - B) * (v - y.min) / (y.max - y.min || 1);
  const svg = drawing("svg", {viewBox: "0 0 " + W + " " + H, role: "img", "aria-label": title}, drawing("title", {}, title));
  const ticks = a => { if (a.ticks) return a.ticks; const out = [], span = a.max - a.min, unit = Math.pow(10, Math.floor(Math.log10(span / 4 || 1))), step = [1, 2, 5, 10].map(k => k * unit).find(u => span / u <= 6); for (let v = Math.ceil(a.min / step) * step; v <= a.max + 1e-9; v += step) out.push(Number(v.toPrecision(6))); return out; };
  for (const v of ticks(x)) if (v >= x.min && v <= x.max) svg.append(drawing("line", {x1: sx(v), x2: sx(v), y1: T, y2: H - B, class: "grid"}), drawing("text", {x: sx(v), y: H - B + 14, "text-anchor": "middle"}, brief(v)));
  for (const v of ticks(y)) svg.append(drawing("line", {x1: L, x2: W - R, y1: sy(v), y2: sy(v), class: "grid"}), drawing("text", {x: L - 5, y: sy(v) + 4, "text-anchor": "end"}, brief(v)));
  svg.append(drawing("path", {d: "M" + L + " " + T + "V" + (H - B) + "H" + (W - R), class: "axis", fill: "none"}), drawing("text", {x: (L + W - R) / 2, y: H - 5, "text-anchor": "middle"}, x.label), drawing("text", {x: 11, y: (T + H - B) / 2, "text-anchor": "middle", transform: "rotate(-90 11 " + (T + H - B) / 2 + ")"}, y.label));
  const clip = v => Math.max(y.min, Math.min(y.max, v));
  lines.forEach((l, n) => {
    const group = drawing("g", {class: l.className || "s" + n % 7}), inside = l.points.filter(p => p[1] !== null && p[0] <= x.max * (1 + 1e-9));
    if (l.band && l.band.length) group.append(drawing("path", {class: "band", d: "M" + l.band.map(b => sx(b[0]) + " " + sy(clip(b[1]))).join("L") + "L" + l.band.slice().reverse().map(b => sx(b[0]) + " " + sy(clip(b[2]))).join("L") + "Z"}));
    if (inside.length && !l.dots) group.append(drawing("path", {class: "line", d: "M" + inside.map(p => sx(p[0]).toFixed(1) + " " + sy(clip(p[1])).toFixed(1)).join("L"), "stroke-dasharray": l.dash || ""}));
    if (l.dots || inside.length === 1) group.append(...inside.map(p => drawing("circle", {class: "dot", cx: sx(p[0]), cy: sy(clip(p[1])), r: 2.6})));
    svg.append(group);
  });
  const figure = element("figure", {}, svg, element("figcaption", {}, element("strong", {}, title), ...lines.filter(l => l.name).map((l, n) => element("span", {className: l.className || "s" + n % 7}, element("span", {className: "swatch"}), l.name))));
  if (option && option.note) figure.append(element("div", {className: "small muted"}, option.note));
  if (option && option.pick) {
    svg.classList.add("hit");
    svg.addEventListener("click", e => { const box = svg.getBoundingClientRect(), at = (e.clientX - box.left) / box.width * W, share = (at - L) / (W - L - R); option.pick(x.log ? Math.exp(Math.log(x.min) + share * (Math.log(x.max) - Math.log(x.min))) : x.min + share * (x.max - x.min)); });
    const dots = drawing("g"); svg.append(dots);
    figure.markAt = points => dots.replaceChildren(...points.map((p, n) => drawing("circle", {class: "dot s" + n % 7, cx: sx(Math.max(x.min, Math.min(x.max, p[0]))), cy: sy(clip(p[1])), r: 4.5, stroke: "CanvasText"})));
  }
  return figure;
}
const unitAxis = label => ({label, min: 0, max: 1, ticks: [0, 0.2, 0.4, 0.6, 0.8, 1]});

// ---- performance ----

let froc = null, live = null;
function makePerformance() {
  const page = byId("page-performance");
  if (detection && systems.length) {
    const p = detection.report.protocol, report = detection.report, ticks = p.fppi.length > 1 ? p.fppi : [0.5, 1, 2, 4], low = Math.max(Math.min(...ticks.filter(v => v > 0)) / 2, 1e-3), high = 2 * Math.max(...ticks);
    const lines = systems.map((s, n) => {
      const points = [[low, 0]];
      for (const [, found, fp] of s.curve) { const v = fp / detection.units; if (v <= low) points[0] = [low, found / counted]; else { if (p.interpolation === "step") points.push([v, points[points.length - 1][1]]); points.push([v, found / counted]); } }
      const end = points[points.length - 1];
      if (end[0] < high) points.push([high, end[1]]);
      return {name: doc.systems[n].name, points, band: s.band};
    });
    froc = plot("FROC", {x: {label: "false positives per " + p.unit, log: true, min: low, max: high, ticks}, y: unitAxis("sensitivity")}, lines, {note: "Click a place of the curve to set the threshold there; the list of cases follows." + (systems.some(s => s.band && s.band.length) ? " Bands: " + percent(report.bootstrap.level) + " intervals at each point, whole " + report.bootstrap.cluster + "s resampled." : ""), pick: v => setStep(stepAt(v))});
    live = element("div", {id: "live"});
    page.append(element("div", {className: "split"}, froc, live));
    page.append(table("Operating points", ["system", ...report.systems[0].operating_points.map(o => "@ " + brief(o.fppi)), "mean", "AP"], report.systems.map((s, n) => [doc.systems[n].name, ...s.operating_points.map(o => figureCell(o.sensitivity, o.ci, o.reached ? "" : "never makes that many")), figureCell(s.mean_sensitivity, s.mean_sensitivity_ci), figureCell(s.ap, s.ap_ci)])));
    for (const c of report.comparison || []) page.append(table(c.b + " against " + c.a + ": " + c.verdict, ["", "difference", "interval", "resolvable", "p (exchange)", "p (bootstrap)"], [["mean sensitivity", c.mean_sensitivity], ...c.operating_points.map(o => ["at " + brief(o.fppi), o]), ["AP", c.ap]].map(([name, v]) => [name, fixed(v.difference), range(v.ci), fixed(v.resolvable), fixed(v.p_permutation), fixed(v.p_bootstrap)])),
      element("p", {className: "small muted"}, "Resolvable is the smallest difference that this test set can tell from chance. Holm's correction: p " + fixed(c.p_permutation_holm) + "."));
    page.append(element("h2", {}, "Rules"), element("p", {className: "wide"}, p.name + ": " + p.description), element("ul", {}, detection.rules.map(r => element("li", {}, r))));
    if (!detection.consistent) page.append(element("p", {className: "warning"}, "This protocol gives marks to lesions by overlap, whatever the scores: what the slider counts is its assignment of all marks, cut at the threshold."));
  }
  for (const set of classified) page.append(...classPage(set));
  for (const set of measured) page.append(...measuredPage(set));
  if (!page.children.length) page.append(element("p", {}, "There are no predictions here, only data."));
}
const figureCell = (v, ci, note) => element("td", {className: "n"}, fixed(v), ci ? element("div", {className: "small muted"}, range(ci)) : null, note ? element("div", {className: "small"}, note) : null);

// showLive draws what depends on the threshold.
function showLive(printing) {
  if (!live || byId("page-performance").hidden && !printing) return;
  const thresholds = systems.map((_, n) => matched(n)), at = systems.map((_, n) => countsAt(n, thresholds[n]));
  froc.markAt(at.map(c => [c.fppi, c.sensitivity]));
  const out = [table("At the threshold" + (systems.length > 1 ? ", the others with no more false positives" : ""), ["system", "threshold", "lesions found", "sensitivity", "false positives", "per " + detection.report.protocol.unit, "marks"], at.map((c, n) => [doc.systems[n].name, Number.isFinite(thresholds[n]) ? brief(thresholds[n]) : "–", c.found + " of " + counted, fixed(c.sensitivity), String(c.fp), fixed(c.fppi, 2), String(c.marks)]))];
  if (systems.length > 1) {
    const rows = systems.slice(1).map((_, m) => { const n = m + 1; let won = 0, lost = 0; lesions.forEach((l, j) => { if (l.ignore) return; const a = hit(0, j, thresholds[0]), b = hit(n, j, thresholds[n]); if (b && !a) won++; if (a && !b) lost++; }); const link = (kind, v) => element("button", {type: "button", onclick: () => { setSystem(n); openKind(kind); }}, String(v)); return [doc.systems[n].name, link("won", won), link("lost", lost)]; });
    out.push(table("Lesions against " + doc.systems[0].name, ["system", "won", "lost"], rows));
  }
  const strata = detection.report.systems[state.system].strata || [];
  if (strata.length) {
    const rows = strata.map((s, n) => { const mine = detection.strata_lesions[n], found = mine.filter(j => hit(state.system, j, state.threshold)).length; return [s.column, s.value, found + " of " + mine.length, fixed(found / mine.length), figureCell(s.mean_sensitivity, s.mean_sensitivity_ci)]; });
    out.push(table("Strata of " + doc.systems[state.system].name, ["column", "value", "found at the threshold", "sensitivity", "mean over operating points"], rows));
  }
  const classes = detection.report.systems[state.system].classes || [];
  if (classes.length) out.push(table("By class", ["class", "lesions", "found at the threshold", "mean sensitivity", "AP"], classes.map(c => { const mine = lesions.map((_, j) => j).filter(j => !lesions[j].ignore && lesions[j].class === c.class); return [c.class, String(mine.length), String(mine.filter(j => hit(state.system, j, state.threshold)).length), figureCell(c.mean_sensitivity, c.mean_sensitivity_ci), figureCell(c.ap, c.ap_ci)]; })));
  live.replaceChildren(...out);
}
function openKind(kind) { state.kind = kind; byId("kind").value = kind; state.at = 0; openTab("cases"); refill(); }
function setSystem(n) {
  const fppi = detection ? above(sortedOf[state.system].alarms, state.threshold) / detection.units : 0;
  // marks are another system's now, lesions are not
  if (chosen && chosen.mark !== undefined) chosen = {case: chosen.case, text: ""};
  items = [];
  state.system = n;
  if (byId("system")) byId("system").value = String(n);
  if (systems.length) { byId("slider").max = systems[n].curve.length; setStep(stepAt(fppi)); } else { update(); }
}

// classPage shows a label set: figures, confusion, calibration and curves.
function classPage(set) {
  const classes = set.classes, out = [element("h2", {}, set.task || "Classification")];
  out.push(table("Figures with intervals", ["system", "cases", "balanced accuracy", "accuracy", "macro AUROC", "calibration error"], set.systems.map(s => [s.name, String(s.cases), figureCell(s.balanced_accuracy.value, s.balanced_accuracy.ci), figureCell(s.accuracy.value, s.accuracy.ci), figureCell(s.macro_auroc.value, s.macro_auroc.ci), figureCell(s.ece.value, s.ece.ci)])));
  for (const c of set.comparison || []) out.push(element("p", {}, c.b + " against " + c.a + ": balanced accuracy " + fixed(c.balanced_accuracy.value) + " (" + range(c.balanced_accuracy.ci) + "), p " + fixed(c.p_permutation) + ", resolvable " + fixed(c.resolvable) + ": " + c.verdict + "."));
  set.probability.forEach((probability, n) => {
    const counts = classes.map(() => classes.map(() => 0)), best = probability.map(p => p.indexOf(Math.max(...p)));
    best.forEach((b, k) => counts[set.label[k]][b]++);
    out.push(element("h3", {}, doc.systems[n].name));
    out.push(table("Confusion: true class down, answer across; choose a cell to see its cases", ["", ...classes], classes.map((name, t) => [name, ...classes.map((_, b) => { const share = counts[t][b] / Math.max(1, counts[t].reduce((x, y) => x + y, 0)), td = element("td", {className: "cell", tabIndex: 0, role: "button", "aria-label": counts[t][b] + " cases of " + name + " answered " + classes[b]}, String(counts[t][b])); td.style.background = "color-mix(in srgb, var(--accent) " + Math.round(60 * share) + "%, transparent)"; const go = () => { setSystem(n); state.confusion = {set, truth: t, best: b}; openKind("all"); }; td.onclick = go; td.onkeydown = e => { if (e.key === "Enter") go(); }; return td; })])));
    const bins = Array.from({length: 15}, () => [0, 0, 0]);
    probability.forEach((p, k) => { const v = p[best[k]], b = bins[Math.min(14, Math.max(0, Math.ceil(v * 15) - 1))]; b[0]++; b[1] += v; b[2] += best[k] === set.label[k] ? 1 : 0; });
    const filled = bins.filter(b => b[0]);
    out.push(element("div", {className: "plots"},
      plot("Reliability", {x: unitAxis("greatest probability"), y: unitAxis("share that is right")}, [{points: [[0, 0], [1, 1]], className: "s6", dash: "4 4"}, {name: filled.length + " of 15 bins with cases", points: filled.map(b => [b[1] / b[0], b[2] / b[0]]), dots: true, className: "s0"}]),
      plot("ROC of each class against the rest", {x: unitAxis("false positive rate"), y: unitAxis("sensitivity")}, [...classes.map((name, c) => roc(set, probability, c)).filter(l => l), {points: [[0, 0], [1, 1]], className: "s6", dash: "4 4"}])));
  });
  return out;
}
// measuredPage shows answers that are numbers or times.
function measuredPage(set) {
  const names = [...new Set(set.figures.map(f => f.figure))], out = [element("h2", {}, (set.task ? set.task + ": " : "") + set.question + (set.unit ? " in " + set.unit : ""))];
  out.push(table("Figures of " + set.cases + " cases with intervals" + (set.events ? ", " + set.events + " events" : ""), ["figure", ...doc.systems.map(s => s.name)], names.map(name => [name, ...doc.systems.map(s => {
    const f = set.figures.find(f => f.figure === name && f.system === s.name), d = f && f.difference;
    return f ? figureCell(f.value, f.ci, d ? "difference " + fixed(d.value) + " (" + range(d.ci) + "), p " + fixed(f.p_bootstrap) : "") : "";
  })])));
  const low = Math.min(0, ...set.truth), high = Math.max(...set.truth), axis = label => ({label: label + (set.unit ? ", " + set.unit : ""), min: low, max: high > low ? high : low + 1});
  set.answer.forEach((answer, n) => {
    const pairs = answer.map((a, k) => [set.truth[k], a]), plots = [], line = {points: [[low, low], [high, high]], className: "s6", dash: "4 4"};
    if (set.event) {
      plots.push(plot("Expected time against the time that was followed", {x: axis("time"), y: axis("expected")}, [line, {name: "event", points: pairs.filter((_, k) => set.event[k]), dots: true, className: "s0"}, {name: "without it", points: pairs.filter((_, k) => !set.event[k]), dots: true, className: "s1"}]));
    } else {
      const apart = pairs.map(([t, a]) => [(t + a) / 2, a - t]), of = name => { const f = set.figures.find(f => f.figure === name && f.system === doc.systems[n].name); return f ? f.value : null; };
      const most = Math.max(1e-9, ...apart.map(p => Math.abs(p[1]))), lines = ["bias", "loa_low", "loa_high"].filter(name => of(name) !== null).map((name, k) => ({name, points: [[low, of(name)], [high, of(name)]], className: "s" + (k ? 6 : 1), dash: k ? "4 4" : ""}));
      plots.push(plot("Answer against truth", {x: axis("truth"), y: axis("answer")}, [line, {points: pairs, dots: true, className: "s0"}]), plot("Difference against mean (Bland and Altman)", {x: axis("mean of both"), y: {label: "answer - truth", min: -1.2 * most, max: 1.2 * most}}, [...lines, {points: apart, dots: true, className: "s0"}]));
    }
    out.push(element("h3", {}, doc.systems[n].name), element("div", {className: "plots"}, ...plots));
  });
  return out;
}
function roc(set, probability, c) {
  const order = probability.map((_, k) => k).sort((a, b) => probability[b][c] - probability[a][c]), positives = set.label.filter(l => l === c).length, negatives = order.length - positives;
  if (!positives || !negatives) return null;
  const points = [[0, 0]];
  let tp = 0, fp = 0, area = 0;
  for (let k = 0; k < order.length;) {
    const v = probability[order[k]][c], from = [fp, tp];
    for (; k < order.length && probability[order[k]][c] === v; k++) if (set.label[order[k]] === c) tp++; else fp++;
    area += (fp - from[0]) * (tp + from[1]) / 2;
    points.push([fp / negatives, tp / positives]);
  }
  return {name: set.classes[c] + " " + fixed(area / positives / negatives), points, className: "s" + c % 7};
}

// ---- training, study, checklist, run ----

function makeTraining() {
  const page = byId("page-training");
  doc.systems.forEach(s => {
    const steps = (s.training || []).filter(r => r.kind === "step"), checks = (s.training || []).filter(r => r.kind === "validation");
    if (!steps.length) return;
    const last = Math.max(...steps.map(r => r.step)), x = {label: "step", min: 0, max: last}, plots = [];
    const add = (title, label, lines) => { const values = lines.flatMap(l => l.points.map(p => p[1])).filter(v => v !== null && v !== undefined && Number.isFinite(v)); if (values.length) { const top = Math.max(...values), low = Math.min(0, ...values); plots.push(plot(title, {x, y: {label, min: low, max: top > low ? top : low + 1}}, lines)); } };
    add("Loss", "loss", [{name: "each step", points: steps.filter(r => r.loss !== undefined).map(r => [r.step, r.loss]), className: "s6"}, {name: "mean of 15", points: smooth(steps.filter(r => r.loss !== undefined).map(r => [r.step, r.loss])), className: "s0"}]);
    const parts = [...new Set(steps.flatMap(r => Object.keys(r.losses || {})))];
    if (parts.length > 1) add("Parts of the loss", "loss", parts.map(k => ({name: k, points: smooth(steps.filter(r => r.losses && k in r.losses).map(r => [r.step, r.losses[k]]))})));
    const metrics = [...new Set(checks.flatMap(r => Object.keys(r.metrics || {})))];
    if (metrics.length) add("Validation", "metric", metrics.map(k => ({name: k, points: checks.filter(r => r.metrics && k in r.metrics).map(r => [r.step, r.metrics[k]])})));
    add("Learning rate", "learning rate", [{points: steps.map(r => [r.step, r.learning_rate || 0]), className: "s2"}]);
    add("Time of a step", "seconds", [["step_sec", "whole"], ["compute_sec", "in plugins"], ["data_sec", "waiting for data"]].map(([k, name]) => ({name, points: steps.map(r => [r.step, r[k] || 0])})));
    const memory = [...new Set(s.training.flatMap(r => Object.keys(r.peak_rss_bytes || {})))];
    if (memory.length) add("Most memory so far", "GiB", memory.map(k => ({name: k, points: s.training.filter(r => r.peak_rss_bytes && k in r.peak_rss_bytes).map(r => [r.step, r.peak_rss_bytes[k] / 2 ** 30])})));
    page.append(element("h2", {}, s.name), element("div", {className: "plots"}, plots));
  });
  return page.children.length > 0;
}
function smooth(points) {
  return points.map((p, k) => { const part = points.slice(Math.max(0, k - 7), k + 8); return [p[0], part.reduce((sum, q) => sum + q[1], 0) / part.length]; });
}
function makeStudy() {
  const page = byId("page-study"), t = doc.study;
  if (!t) return false;
  for (const scenario of [...new Set(t.rows.map(r => r.scenario))]) {
    const rows = t.rows.filter(r => r.scenario === scenario), rates = [...new Set(rows.map(r => r.rate))].sort((a, b) => a - b), methods = [...new Set(rows.map(r => r.method))], figure = r => r.figures[t.metric] || {};
    const at = (m, rate) => rows.find(r => r.method === m && r.rate === rate);
    const of = m => rates.map(rate => at(m, rate)).filter(r => r);
    page.append(element("h2", {}, scenario || "Study"), rates.length > 1 ? element("div", {className: "plots"}, plot(t.metric.replace(/_/g, " ") + " by share of missing attributes", {x: {label: "share of attributes missing", min: rates[0], max: rates[rates.length - 1], ticks: rates}, y: unitAxis(t.metric.replace(/_/g, " "))}, methods.map(m => ({name: m, points: of(m).map(r => [r.rate, figure(r).mean]), band: of(m).filter(r => figure(r).low !== null && figure(r).low !== undefined).map(r => [r.rate, figure(r).low, figure(r).high])})))) : "",
      table(t.metric.replace(/_/g, " ") + " with intervals; + and − where the test against the baseline stays below 0.05", ["method", ...rates.map(r => (r ? percent(r) : "0\u00a0%") + " missing")], methods.map(m => [m, ...rates.map(rate => { const r = at(m, rate); if (!r) return "–"; const f = figure(r), test = r.test; return figureCell(f.mean, [f.low, f.high], test && test.p_holm < 0.05 ? (test.difference > 0 ? "+" : "−") : ""); })])));
  }
  if (t.reconstruction) page.append(table("Attributes that were taken away and recovered", ["method", "missing", "attribute", "values", "right", "most frequent value", "naive Bayes", "calibration error"], t.reconstruction.map(r => [r.method, percent(r.rate), r.attribute || "all", String(r.values), fixed(r.accuracy), fixed(r.majority), fixed(r.naive_bayes), fixed(r.ece)])));
  return true;
}
function makeChecklist() {
  const page = byId("page-checklist"), list = doc.checklist || [];
  if (!list.length) return false;
  page.append(element("p", {className: "wide"}, "Items of CLAIM 2024 in our words, with those of STARD 2015 that STARD-AI extends. What the program knows is filled in from the source named; the rest needs the author. There is no score: a filled item is no judgement of the study."),
    table("Reporting checklist", ["CLAIM", "STARD", "topic", "what is known", "source"], list.map(c => [element("td", {}, c.item), element("td", {}, c.stard), c.topic, c.text ? element("td", {}, c.text) : element("td", {className: "needs"}, "needs the author"), c.source])));
  return true;
}
function makeRun() {
  const page = byId("page-run");
  for (const w of doc.warnings || []) page.append(element("p", {className: "warning"}, "Warning: " + w));
  for (const n of doc.notes || []) page.append(element("p", {}, "Note: " + n));
  page.append(element("p", {id: "pictures-note"}, doc.pictures.note));
  for (const s of doc.systems) {
    const m = s.manifest;
    page.append(element("h2", {}, s.name));
    if (!m) { page.append(element("p", {}, "A file of predictions.")); continue; }
    page.append(table("Run", ["", ""], [["data", m.data_spec], ["data SHA-256", m.data_sha256], ["reports", m.reports || "–"], ["program", m.program + " " + m.version + ", " + m.go_version + ", " + m.platform], ["seed, threads, device", m.seed + ", " + m.threads + ", " + m.device], ["started, ended", m.started_at + ", " + (m.ended_at || "–") + " (" + m.status + ")"], ["attributes", (m.attributes || []).join(", ") || "–"]].map(r => r.map(v => element("td", {}, v)))),
      table("Plugins", ["role", "name", "version", "stage", "SHA-256", "weights", "trained"], m.plugins.map(p => [p.role, p.name, p.version, p.stage, p.sha256, String(p.parameters), String(p.trainable)])),
      ...(m.warnings || []).map(w => element("p", {className: "warning"}, "Training: " + w)), ...(m.notes || []).map(n => element("p", {className: "small"}, n)),
      element("details", {}, element("summary", {}, "Configuration"), element("pre", {}, s.config || "")));
  }
  return true;
}

// ---- the whole ----

function openTab(name) {
  for (const b of byId("tabs").children) b.setAttribute("aria-selected", String(b.dataset.tab === name));
  for (const p of document.querySelectorAll(".page")) p.hidden = p.id !== "page-" + name;
  if (name === "cases") draw();
  if (name === "performance") showLive();
}
// refill makes the list anew and stays at the same entry where it is still there.
function refill() {
  const before = items[state.at];
  makeItems();
  state.shown = 60;
  const same = before ? items.findIndex(m => m.case === before.case && m.lesion === before.lesion && m.mark === before.mark) : -1;
  state.at = same >= 0 && same < 2000 ? same : 0;
  showList();
  choose(state.at, true);
}
function update() {
  if (systems.length) { reading(); showLive(); }
  const before = items[state.at] || chosen;
  makeItems();
  state.at = before ? items.findIndex(m => m.case === before.case && m.lesion === before.lesion && m.mark === before.mark) : items.length ? 0 : -1;
  showList();
  if (state.at >= 0 || !items.length) { choose(state.at, true); return; }
  // what is shown left the list: it stays in view and says so
  chosen = {...before, text: before.lesion !== undefined && hit(state.system, before.lesion, state.threshold) ? "Found at this threshold: " + lesionText(before.lesion) : before.text === "" ? "" : "Not in the list at this threshold."};
  describePicture();
  draw();
  showSide();
}
function start() {
  document.title = doc.title;
  byId("title").textContent = doc.title || "alignedfusion";
  const tabs = [["cases", "Cases", true], ["performance", "Performance", true], ["training", "Training", makeTraining()], ["study", "Study", makeStudy()], ["checklist", "Checklist", makeChecklist()], ["run", "Run", makeRun()]].filter(t => t[2] && (t[0] !== "cases" || doc.cases.length) && (t[0] !== "performance" || doc.systems.length));
  byId("tabs").append(...tabs.map(([id, name]) => element("button", {type: "button", role: "tab", "data-tab": id, "aria-controls": "page-" + id, onclick: () => openTab(id)}, name)));
  if (doc.systems.length > 1) byId("tabs").after(element("label", {}, "System ", element("select", {id: "system", onchange: e => setSystem(Number(e.target.value))}, doc.systems.map((s, n) => element("option", {value: n}, s.name)))));
  byId("kind").append(...kinds.map(([id, name]) => element("option", {value: id}, name)));
  state.kind = kinds[0][0];
  byId("window").append(...presets.map((p, n) => element("option", {value: n}, (n + 1) + " " + p[0] + " (" + p[1] + " to " + p[2] + ")")), element("option", {value: "own"}, "own (Shift and drag)"));
  byId("footer").textContent = "alignedfusion " + doc.version + ", " + doc.made + (doc.hashed ? "; ids are hashes" : "; ids are shown") + ". For research only: not a medical device. " + (doc.pictures.note || "");
  byId("viewer").querySelector(".legend").hidden = !lesions.length && !systems.length;
  byId("slice").parentNode.hidden = byId("window").parentNode.hidden = doc.cases.length > 0 && !doc.cases.some(c => c.pictures && c.pictures.includes("volume"));
  makePerformance();
  listen();
  state.system = Math.max(0, doc.systems.length - 1); // the others are what it is compared with
  if (byId("system")) byId("system").value = String(state.system);
  if (systems.length) { const s = state.system; byId("threshold").hidden = false; byId("slider").max = systems[s].curve.length; const points = detection.report.protocol.fppi, middle = points.reduce((a, b) => Math.abs(b - 1) < Math.abs(a - 1) ? b : a); state.step = stepAt(middle); setStep(state.step); }
  else if (doc.cases.length) update();
  const wanted = location.hash.slice(1);
  openTab(tabs.some(t => t[0] === wanted) ? wanted : tabs[0][0]);
}
function listen() {
  byId("slider").oninput = e => setStep(Number(e.target.value));
  byId("stricter").onclick = () => setStep(state.step - 1);
  byId("looser").onclick = () => setStep(state.step + 1);
  byId("kind").onchange = e => { state.kind = e.target.value; state.confusion = null; state.at = 0; items = []; refill(); };
  byId("order").onchange = () => { items = []; refill(); };
  byId("find").oninput = () => { items = []; refill(); };
  byId("more").onclick = () => { state.shown += 500; showList(); };
  byId("items").onclick = e => { const li = e.target.closest("li"); if (li) choose(Number(li.dataset.at), true); };
  byId("slice").oninput = e => setOffset(Number(e.target.value));
  byId("slice-down").onclick = () => setOffset(state.offset - 1);
  byId("slice-up").onclick = () => setOffset(state.offset + 1);
  byId("window").onchange = e => { const p = presets[e.target.value]; if (p) setWindow(p[1], p[2]); };
  byId("modality").onchange = e => { state.modality = e.target.value; setOffset(0); };
  byId("boxes").onchange = e => { state.boxes = e.target.checked; draw(); };
  byId("zoom-in").onclick = () => setZoom(state.zoom * 1.4);
  byId("zoom-out").onclick = () => setZoom(state.zoom / 1.4);
  byId("fit").onclick = () => setZoom(1);
  canvas.onwheel = e => { e.preventDefault(); if (e.ctrlKey) setZoom(state.zoom * (e.deltaY < 0 ? 1.2 : 1 / 1.2)); else setOffset(state.offset + (e.deltaY > 0 ? 1 : -1)); };
  let from = null;
  canvas.onpointerdown = e => { from = {x: e.clientX, y: e.clientY, low: state.low, high: state.high, shift: e.shiftKey || e.button === 2}; canvas.setPointerCapture(e.pointerId); };
  canvas.onpointerup = () => { from = null; };
  canvas.oncontextmenu = e => e.preventDefault();
  canvas.onpointermove = e => {
    if (!from) return;
    const dx = e.clientX - from.x, dy = e.clientY - from.y;
    if (from.shift) { const width = Math.max(2, (from.high - from.low) * Math.exp(dx / 200)), middle = (from.high + from.low) / 2 + dy * 1.5; setWindow(middle - width / 2, middle + width / 2); return; }
    const r = frame().ratio / (window.devicePixelRatio || 1);
    state.panX -= dx / r; state.panY -= dy / r;
    from = {...from, x: e.clientX, y: e.clientY};
    draw();
  };
  window.addEventListener("resize", draw);
  window.addEventListener("beforeprint", () => showLive(true)); // on paper all pages are there
  document.addEventListener("keydown", e => {
    if (/^(INPUT|SELECT|TEXTAREA)$/.test(e.target.tagName) && e.target.type !== "checkbox" || e.ctrlKey || e.metaKey || e.altKey || byId("page-cases").hidden && !"[]".includes(e.key)) return;
    const keys = {j: () => choose(state.at + 1), k: () => choose(state.at - 1), ArrowDown: () => setOffset(state.offset - 1), ArrowUp: () => setOffset(state.offset + 1), "+": () => setZoom(state.zoom * 1.4), "=": () => setZoom(state.zoom * 1.4), "-": () => setZoom(state.zoom / 1.4), "0": () => setZoom(1),
      b: () => byId("boxes").click(), f: () => { if (byId("flag")) byId("flag").focus(); }, "[": () => systems.length && setStep(state.step - 1), "]": () => systems.length && setStep(state.step + 1)};
    presets.forEach((p, n) => { keys[String(n + 1)] = () => setWindow(p[1], p[2]); });
    if (keys[e.key]) { e.preventDefault(); keys[e.key](); }
  });
}
// report lets tests read what the page shows without guessing at its markup.
window.reportPage = {csv, pixels: () => state.picture.hu, state: () => ({...state, picture: !!state.picture, items: items.length, current})};
start();
// pictures further down in the file are there once it is read to its end
document.addEventListener("DOMContentLoaded", () => { if (current >= 0) setOffset(state.offset); });
})();
