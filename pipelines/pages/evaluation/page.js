// What all parts share: the data, the chosen case, numbers as text, and how elements are made.
const data = JSON.parse(document.getElementById("data").textContent);
const { metrics, structures } = data;
const metricOf = new Map(metrics.map((each) => [each.key, each]));
const structureOf = new Map(structures.map((each) => [each.name, each]));
const rows = rowsOf(data.columns);
const cases = new Map(); // case id -> { number, rows }
for (const row of rows) {
  if (!cases.has(row.case_id)) cases.set(row.case_id, { number: cases.size, rows: [] });
  cases.get(row.case_id).rows.push(row);
  row.number = cases.get(row.case_id).number;
}
const viewable = new Map(data.viewed.map((each, index) => [each.case_id, { ...each, index }]));
const state = { structure: "", metric: metrics.length ? metrics[0].key : "", row: null };
const watchers = { chosen: [], filtered: [] }; // called when a case is chosen, when structure or metric change

function rowsOf(columns) {
  const keys = Object.keys(columns);
  const made = (_, index) => ({ index, ...Object.fromEntries(keys.map((key) => [key, columns[key][index]])) });
  return (columns.case_id || []).map(made);
}

const $ = (id) => document.getElementById(id);

function make(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

function draw(tag, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((each) => each !== null && each !== undefined));
  return element;
}

function number(value, unit = "") {
  if (value === null || value === undefined) return "\u2013";
  const size = Math.abs(value);
  const digits = unit === "" ? 3 : unit === "%" ? 1 : size >= 1000 ? 0 : size >= 100 ? 1 : 2;
  return value.toFixed(digits).replace("-", "\u2212");
}

const withUnit = (value, unit) => number(value, unit) + (unit && value !== null ? `\u202f${unit}` : "");
const named = (metric) => metric.name + (metric.unit ? ` (${metric.unit})` : "");
const colour = (rgb) => `rgb(${rgb.join(" ")})`;
const shown = (name) => (structureOf.has(name) ? structureOf.get(name).shown : name);
const counts = (row) => row.status !== "absent" && (!state.structure || row.structure === state.structure);

// Large is bad, whatever the metric; null where it says nothing.
function badness(row, key = state.metric) {
  const value = row[key];
  if (value === null || value === undefined) return null;
  return metricOf.get(key).better === "higher" ? -value : Math.abs(value);
}

function worstFirst(list, key = state.metric) {
  const rank = (row) => badness(row, key) ?? -Infinity;
  return [...list].sort((a, b) => rank(b) - rank(a) || a.index - b.index);
}

function swatch(name) {
  const { colour: rgb } = structureOf.get(name) || { colour: [128, 128, 128] };
  return draw(
    "svg",
    { class: "swatch", viewBox: "0 0 10 10", "aria-hidden": "true" },
    draw("rect", { width: 10, height: 10, rx: 2.5, fill: colour(rgb) }),
  );
}

function choose(row) {
  if (!row || row === state.row) return;
  state.row = row;
  watchers.chosen.forEach((each) => each(row));
  mark();
}

// Everything that stands for the chosen row or its case looks chosen.
function mark() {
  document.querySelectorAll(".of-case, .chosen").forEach((each) => each.classList.remove("of-case", "chosen"));
  if (!state.row) return;
  document.querySelectorAll(`[data-case="${state.row.number}"]`).forEach((each) => each.classList.add("of-case"));
  document.querySelectorAll(`[data-row="${state.row.index}"]`).forEach((each) => each.classList.add("chosen"));
}

function filtered(changes) {
  Object.assign(state, changes);
  watchers.filtered.forEach((each) => each());
  mark();
}

function options(entries, selected) {
  return entries.map(([value, text]) => make("option", { value, selected: value === selected }, text));
}
