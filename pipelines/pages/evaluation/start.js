// Puts the parts together, and what is done with keys and clicks.

const FIGURES = {
  distribution,
  worst: worstCases,
  "bland-altman": blandAltman,
  "risk-coverage": riskCoverage,
  calibration,
  differences,
  paired,
};
const NARROWEST = 200; // pixels; less is a window that is being folded away
let table = null;

function drawFigures() {
  if (!metrics.length || document.body.clientWidth < NARROWEST) return;
  for (const [id, figure] of Object.entries(FIGURES)) if ($(id)) figure($(id));
  mark();
}

function caseShown(row) {
  const own = cases.get(row.case_id).rows;
  $("case-name").textContent = row.case_id;
  sortable($("case-rows"), caseColumns().slice(1, 3 + metrics.length + 2), {
    caption: `Structures of ${row.case_id}`,
    attributes: (each) => ({ "data-row": each.index }),
  }).show(own);
  const metric = metricOf.get(state.metric);
  $("bar-case").textContent = row.case_id;
  $("bar-told").textContent =
    `${shown(row.structure)}: ${statusWords(row).join(", ")}` +
    (metric && row[metric.key] !== null ? `, ${metric.name} ${withUnit(row[metric.key], metric.unit)}` : "");
  $("bar").hidden = false;
}

// In the order of the table of cases, as it is sorted and filtered.
function step(by) {
  const first = new Map();
  for (const row of table.order()) if (!first.has(row.case_id)) first.set(row.case_id, row);
  const ids = [...first.keys()],
    at = ids.indexOf(state.row ? state.row.case_id : "");
  const next = at < 0 ? 0 : at + by;
  if (ids[next] !== undefined) choose(first.get(ids[next]));
}

function slice(by) {
  if (!view.volume) return;
  const axis = Number($("plane").value),
    { shape } = view.volume;
  moveTo(view.at.map((each, other) => (other === axis ? Math.min(shape[axis] - 1, Math.max(0, each + by)) : each)));
}

const toggle = (name) => $(`layer-${name}`).click();
const verdict = (value) => () => judge({ verdict: value });
const KEYS = {
  n: () => step(1),
  p: () => step(-1),
  ".": () => slice(1),
  ",": () => slice(-1),
  1: () => toggle("reference"),
  2: () => toggle("prediction"),
  3: () => toggle("difference"),
  a: verdict("accept"),
  e: verdict("edit"),
  r: verdict("reject"),
};

function onKey(event) {
  const typing = event.target.closest("input:not([type=checkbox], [type=radio], [type=range]), textarea, select");
  if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key.startsWith("Arrow") && event.target.closest(".plot")) {
    event.preventDefault();
    walk(event.target.closest(".plot"), event.key === "ArrowRight" || event.key === "ArrowUp" ? 1 : -1);
  } else if ($("keys").checked && Object.hasOwn(KEYS, event.key)) {
    if (viewable.size || "npaer".includes(event.key)) KEYS[event.key]();
  }
}

// With a plot in focus, arrows go from point to point, left to right.
function walk(plot, by) {
  const left = (each) => each.getBoundingClientRect().left;
  const points = [...plot.querySelectorAll("[data-row]")].sort((a, b) => left(a) - left(b));
  const at = points.findIndex((each) => state.row && Number(each.dataset.row) === state.row.index);
  const next = points[at < 0 ? 0 : at + by];
  if (next) choose(rows[Number(next.dataset.row)]);
}

function onClick(event) {
  const chosen = event.target.closest("[data-row]");
  if (!chosen || event.target.closest("a")) return;
  choose(rows[Number(chosen.dataset.row)]);
  if (event.target.closest("[data-go]")) $("case").scrollIntoView({ behavior: "smooth" });
}

// What a point stands for, while the pointer is on it.
function onPoint(event) {
  const tip = $("tip"),
    found = event.target.closest(".point[data-row]");
  tip.hidden = !found;
  if (!found) return;
  const row = rows[Number(found.dataset.row)],
    metric = metricOf.get(state.metric);
  tip.replaceChildren(
    make("b", {}, row.case_id),
    make("br"),
    `${shown(row.structure)}, ${statusWords(row).join(", ")}`,
    make("br"),
    metric ? `${metric.name} ${withUnit(row[metric.key], metric.unit)}` : "",
    row.reference_ml === null
      ? ""
      : ` \u00b7 ${withUnit(row.predicted_ml, "ml")} of ${withUnit(row.reference_ml, "ml")}`,
  );
  const box = found.getBoundingClientRect(),
    room = document.documentElement.clientWidth - tip.offsetWidth - 8;
  tip.style.left = `${Math.max(8, Math.min(box.left + 12, room)) + scrollX}px`;
  tip.style.top = `${box.top + scrollY - tip.offsetHeight - 6}px`;
}

function start() {
  $("figure-structure").append(
    ...options([["", "all structures"], ...structures.map((each) => [each.name, each.shown])], ""),
  );
  $("figure-metric").append(
    ...options(
      metrics.map((each) => [each.key, named(each)]),
      state.metric,
    ),
  );
  $("figure-structure").addEventListener("change", (event) => filtered({ structure: event.target.value }));
  $("figure-metric").addEventListener("change", (event) => filtered({ metric: event.target.value }));
  resultsTable();
  table = casesTable();
  watchers.filtered.push(drawFigures);
  watchers.chosen.push(caseShown);
  startVerdicts();
  if (viewable.size) startViewer();
  drawFigures();
  let width = document.body.clientWidth;
  new ResizeObserver(() => {
    if (document.body.clientWidth === width || document.body.clientWidth < NARROWEST) return;
    width = document.body.clientWidth;
    drawFigures();
    view.panes.forEach((pane) => pane.resize());
  }).observe(document.body);
  document.addEventListener("click", onClick);
  document.addEventListener("keydown", onKey);
  document.addEventListener("pointerover", onPoint);
  $("next").addEventListener("click", () => step(1));
  $("previous").addEventListener("click", () => step(-1));
  const listed = table.order();
  choose(listed.find((row) => viewable.has(row.case_id)) || listed[0]);
  if (viewable.size) watchNearness();
  document.documentElement.dataset.ready = `${Math.round(performance.now())}`;
}

globalThis.medseg = { state, view, exported }; // for the browser's console, and tests
start();
