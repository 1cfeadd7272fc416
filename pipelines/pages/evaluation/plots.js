// Axes and marks in SVG. A plot is (width, height) in pixels of the page, drawn anew when the page's width changes.

const linear = (from, to, low, high) => (value) => low + ((value - from) / (to - from || 1)) * (high - low);
const roots = (from, to, low, high) => (value) =>
  linear(Math.sqrt(from), Math.sqrt(to), low, high)(Math.sqrt(Math.max(0, value)));
const logs = (from, to, low, high) => (value) =>
  linear(Math.log10(from), Math.log10(to), low, high)(Math.log10(Math.max(from, value)));

function ticks(from, to, about = 5) {
  const rough = (to - from) / about || 1,
    power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((each) => each * power).find((each) => each >= rough * 0.999);
  const found = [];
  for (let k = Math.ceil(from / step - 1e-9); k * step <= to + step * 1e-9; k++)
    found.push(Number((k * step).toPrecision(12)));
  return found;
}

function rootTicks(to) {
  const all = [0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000].filter((each) => each <= to);
  return all.filter(
    (each, index) => each === 0 || Math.sqrt(each / to) - Math.sqrt((all[index - 1] || 0) / to) > 0.045,
  );
}

function logTicks(from, to) {
  const found = [];
  for (let power = Math.ceil(Math.log10(from) - 1e-9); power <= Math.log10(to) + 1e-9; power++) found.push(10 ** power);
  return found.length > 1 ? found : [from, to];
}

const tick = (value) => `${Number(value.toPrecision(3))}`.replace("-", "\u2212");

// An empty plot with axes: { svg, x, y, inner }. `x`, `y`: { scale, ticks, name }.
function axes(width, height, name, { left = 46, right = 12, top = 10, bottom = 38, x, y }) {
  const inner = { left, right: width - right, top, bottom: height - bottom };
  const sx = x.scale(inner.left, inner.right),
    sy = y.scale(inner.bottom, inner.top);
  const svg = draw("svg", {
    viewBox: `0 0 ${width} ${height}`,
    width,
    height,
    role: "group",
    "aria-label": name,
    tabindex: 0,
    class: "plot",
  });
  for (const value of x.ticks) {
    svg.append(
      line(sx(value), inner.top, sx(value), inner.bottom, "grid"),
      label(sx(value), inner.bottom + 15, (x.told || tick)(value), "middle"),
    );
  }
  for (const value of y.ticks) {
    svg.append(
      line(inner.left, sy(value), inner.right, sy(value), "grid"),
      label(inner.left - 7, sy(value) + 4, (y.told || tick)(value), "end"),
    );
  }
  svg.append(label((inner.left + inner.right) / 2, height - 5, x.name, "middle", "axis"));
  if (y.name) {
    const at = (inner.top + inner.bottom) / 2;
    svg.append(
      draw("text", { x: 11, y: at, "text-anchor": "middle", class: "axis", transform: `rotate(-90 11 ${at})` }, y.name),
    );
  }
  return { svg, x: sx, y: sy, inner };
}

function line(x1, y1, x2, y2, kind, more = {}) {
  return draw("line", { x1: fixed(x1), y1: fixed(y1), x2: fixed(x2), y2: fixed(y2), class: kind, ...more });
}

function label(x, y, text, anchor = "start", kind = "") {
  return draw("text", { x: fixed(x), y: fixed(y), "text-anchor": anchor, class: kind }, text);
}

function curve(points, kind, more = {}) {
  return draw("path", { d: `M${points.map(([x, y]) => `${fixed(x)} ${fixed(y)}`).join("L")}`, class: kind, ...more });
}

const fixed = (value) => Math.round(value * 10) / 10;

const SHAPES = {
  scored: "M-3.2 0a3.2 3.2 0 1 0 6.4 0a3.2 3.2 0 1 0-6.4 0",
  missed: "M-3.6-3.6L3.6 3.6M-3.6 3.6L3.6-3.6",
  invented: "M0-4.8L4.8 0L0 4.8L-4.8 0Z",
};

// A case: round if it was scored, hollow if cut, a cross if missed, a diamond if invented.
function point(x, y, row, size = 1) {
  const shape = SHAPES[row.status] ? row.status : "scored",
    rgb = colour((structureOf.get(row.structure) || {}).colour || [128, 128, 128]);
  return draw("path", {
    d: SHAPES[shape],
    transform: `translate(${fixed(x)} ${fixed(y)}) scale(${size})`,
    class: `point ${shape}${row.cut ? " cut" : ""}`,
    style: `--colour: ${rgb}`,
    "data-row": row.index,
    "data-case": row.number,
  });
}

function legend(...statuses) {
  const words = { scored: "scored", cut: "cut by the border", missed: "missed", invented: "invented" };
  const there = statuses.filter((each) => rows.some((row) => (each === "cut" ? row.cut : row.status === each)));
  return make(
    "p",
    { class: "legend" },
    there.map((each) =>
      make(
        "span",
        {},
        draw(
          "svg",
          { viewBox: "-7 -7 14 14", class: "sign", "aria-hidden": "true" },
          draw("path", { d: SHAPES[each] || SHAPES.scored, class: `point ${each}` }),
        ),
        words[each],
      ),
    ),
  );
}
