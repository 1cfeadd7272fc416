// The viewer of the chosen case: scan, reference, prediction, difference; two versions side by side, on the same voxel.

const view = {
  at: [0, 0, 0],
  volume: null,
  panes: [],
  on: { reference: true, prediction: true, difference: false },
  strength: 0.45,
  crosshair: true,
  plain: false,
  starting: null,
};
const SIDES = data.comparison ? ["prediction", "other"] : ["prediction"];
const DIFFERENCE = { missed: [255, 112, 67], invented: [86, 190, 255], another: [250, 225, 80] };
const AGREED = [190, 200, 210]; // beside a difference structures are pale, whatever their colours
const OTHER = 255;
let newest = 0;

const loaded = new Promise((resolve) => document.addEventListener("DOMContentLoaded", resolve)); // volumes come last

async function unpack({ index, shape, layers }) {
  await loaded;
  const bytes = Uint8Array.from(atob($(`volume-${index}`).textContent), (each) => each.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const whole = new Uint8Array(await new Response(stream).arrayBuffer()),
    size = shape.reduce((a, b) => a * b);
  return {
    image: whole.slice(0, size),
    layers: Object.fromEntries(
      layers.map((name, number) => [name, whole.subarray(size * (number + 1), size * (number + 2))]),
    ),
  };
}

// Voxels of a structure beside another one or none; through thick slices only within the slice.
function edges(label, shape, mm) {
  const found = new Uint8Array(label.length),
    [depth, height, width] = shape,
    flat = mm[0] > 1.5 * Math.max(mm[1], mm[2]);
  const steps = [
    [width * height, depth, flat],
    [width, height, false],
    [1, width, false],
  ];
  for (const [step, size, skipped] of steps) {
    if (skipped) continue;
    for (let voxel = 0; voxel < label.length; voxel++) {
      if (!label[voxel]) continue;
      const at = Math.floor(voxel / step) % size;
      if ((at && label[voxel - step] !== label[voxel]) || (at < size - 1 && label[voxel + step] !== label[voxel]))
        found[voxel] = 1;
    }
  }
  return found;
}

const labelColour = (value) => (data.labels[value - 1] || { colour: [160, 160, 160] }).colour;
const paler = (rgb) => rgb.map((each) => Math.round(each + (255 - each) * 0.45));

// What lies over the scan, RGBA a voxel.
function painted(volume, side) {
  const { reference, [side]: said } = volume.layers,
    rgba = new Uint8Array(4 * volume.image.length),
    { on } = view;
  const fills = new Map(),
    lines = new Map(),
    fillAlpha = Math.round(255 * view.strength);
  for (let value = 1; value <= OTHER; value++) {
    fills.set(value, labelColour(value));
    lines.set(value, paler(labelColour(value)));
  }
  for (let voxel = 0; voxel < volume.image.length; voxel++) {
    const truth = reference ? reference[voxel] : 0,
      value = said ? said[voxel] : 0;
    if (!truth && !value) continue;
    let rgb = null,
      alpha = fillAlpha;
    if (on.difference && reference && said && truth !== value) {
      rgb = !value ? DIFFERENCE.missed : !truth ? DIFFERENCE.invented : DIFFERENCE.another;
      alpha = Math.max(fillAlpha, 190);
    } else if (on.prediction && value) rgb = on.difference ? AGREED : fills.get(value);
    if (on.reference && truth && volume.edges[voxel]) [rgb, alpha] = [lines.get(truth), 255];
    if (rgb) rgba.set([rgb[0], rgb[1], rgb[2], alpha], 4 * voxel);
  }
  return rgba;
}

async function showCase(row) {
  const told = viewable.get(row.case_id),
    mine = ++newest;
  $("viewer").hidden = $("viewer-tools").hidden = !told;
  $("no-viewer").hidden = Boolean(told);
  if (!told) return;
  if (!view.volume || view.volume.index !== told.index) {
    if (!view.panes.length)
      $("viewer-told").textContent = "The viewer starts; without a graphics card that takes a while.";
    const volume = { ...told, ...(await unpack(told)) };
    volume.edges = volume.layers.reference ? edges(volume.layers.reference, volume.shape, volume.spacing_mm) : null;
    const panes = await panesOf();
    if (mine !== newest) return; // another case was chosen meanwhile
    Object.assign(view, { volume, at: centre(volume, structureOf.get(row.structure)) });
    sliders();
    for (const pane of panes) await pane.load(volume);
    await repaint();
  } else moveTo(centre(view.volume, structureOf.get(row.structure)));
  $("viewer-told").textContent = toldOf(view.volume);
  $("viewer").dataset.case = row.case_id;
}

async function repaint() {
  if (!view.volume) return;
  for (const [number, side] of SIDES.entries()) await view.panes[number].paint(painted(view.volume, side));
  moveTo(view.at);
}

function panesOf() {
  if (!view.starting && !hasWebGl()) view.plain = $("plain").checked = $("plain").disabled = true;
  view.starting =
    view.starting ||
    Promise.all(
      SIDES.map(async (side, number) => {
        const host = $(`pane-${number}`);
        try {
          return view.plain ? canvasView(host, moveTo) : await niivueView(host, moveTo);
        } catch (error) {
          console.warn("NiiVue did not start, planes are drawn plainly:", error);
          view.plain = $("plain").checked = true;
          return canvasView(host, moveTo);
        }
      }),
    ).then((panes) => (view.panes = panes));
  return view.starting;
}

// The structure's middle where the reference has most of it, or the prediction if it has none.
function centre({ layers, shape }, { values }) {
  const numbers = data.labels.flatMap((each, index) => (values.includes(each.value) ? [index + 1] : []));
  for (const layer of [layers.reference, layers.prediction, layers.other].filter(Boolean)) {
    const is = new Uint8Array(256),
      areas = new Float64Array(shape[0]),
      plane = shape[1] * shape[2];
    (numbers.length ? numbers : [...is.keys()].slice(1)).forEach((each) => {
      is[each] = 1;
    });
    for (let voxel = 0; voxel < layer.length; voxel++) areas[Math.floor(voxel / plane)] += is[layer[voxel]];
    const largest = Math.max(...areas);
    if (!largest) continue;
    const d = areas.indexOf(largest);
    let rowsSum = 0,
      columnsSum = 0;
    for (let voxel = d * plane; voxel < (d + 1) * plane; voxel++) {
      if (is[layer[voxel]])
        [rowsSum, columnsSum] = [rowsSum + (Math.floor(voxel / shape[2]) % shape[1]), columnsSum + (voxel % shape[2])];
    }
    return [d, Math.round(rowsSum / largest), Math.round(columnsSum / largest)];
  }
  return shape.map((each) => each >> 1);
}

function moveTo(at) {
  if (!view.volume) return;
  view.at = at;
  view.panes.forEach((pane) => pane.show(at));
  PLANES.forEach(({ axis }) => {
    const slider = $(`slice-${axis}`),
      place = inScan(axis);
    slider.value = at[axis];
    slider.setAttribute("aria-valuetext", place);
    $(`slice-${axis}-told`).textContent = place;
  });
}

// In the numbering of the scan, from 1, whatever was cropped and coarsened.
function inScan(axis) {
  const { origin, step, full_shape: full } = view.volume,
    first = origin[axis] + view.at[axis] * step[axis] + 1;
  return step[axis] > 1 ? `${first}\u2013${first + step[axis] - 1} of ${full[axis]}` : `${first} of ${full[axis]}`;
}

function toldOf({ title, spacing_mm: mm, step, shape, full_shape: full }) {
  const voxel = mm.map((each) => Number(each.toFixed(2))).join(" \u00d7 "),
    parts = [`voxels of ${voxel} mm (head, front, right)`];
  if (step.some((each) => each > 1)) parts.push("coarser than the scan");
  if (shape.some((each, axis) => each * step[axis] < full[axis] - step[axis] + 1)) parts.push("cropped");
  return [title, `${parts.join(", ")}; figures come from the full scan`].filter(Boolean).join(": ");
}

function sliders() {
  PLANES.forEach(({ axis }) => {
    $(`slice-${axis}`).max = view.volume.shape[axis] - 1;
  });
}

function startViewer() {
  PLANES.forEach(({ axis }) =>
    $(`slice-${axis}`).addEventListener("input", (event) => {
      moveTo(view.at.map((each, other) => (other === axis ? Number(event.target.value) : each)));
    }),
  );
  for (const name of Object.keys(view.on)) {
    $(`layer-${name}`).addEventListener("change", (event) => {
      view.on[name] = event.target.checked;
      repaint();
    });
  }
  $("strength").addEventListener("input", (event) => {
    view.strength = event.target.value / 100;
    repaint();
  });
  $("crosshair").addEventListener("change", (event) => {
    view.crosshair = event.target.checked;
    moveTo(view.at);
  });
  $("plain").addEventListener("change", (event) => {
    Object.assign(view, { plain: event.target.checked, starting: null, volume: null });
    if (state.row) showCase(state.row);
  });
  $("layers-legend").append(
    ...data.labels.map((each) => key(each.colour, each.shown)),
    ...Object.entries(DIFFERENCE).map(([name, rgb]) =>
      key(rgb, { missed: "missed", invented: "invented", another: "another structure" }[name]),
    ),
  );
  watchers.chosen.push((row) => whenNear(() => showCase(row)));
}

function key(rgb, text) {
  return make(
    "span",
    { class: "sign" },
    draw(
      "svg",
      { class: "swatch", viewBox: "0 0 10 10", "aria-hidden": "true" },
      draw("rect", { width: 10, height: 10, rx: 2.5, fill: colour(rgb) }),
    ),
    text,
  );
}

// Starting WebGL takes a moment that a reader of tables does not wait for.
let near = false,
  waiting = null;
function whenNear(action) {
  waiting = action;
  if (near) action();
}

function watchNearness() {
  new IntersectionObserver(
    (entries, observer) => {
      if (!entries.some((each) => each.isIntersecting)) return;
      near = true;
      observer.disconnect();
      if (waiting) waiting();
    },
    { rootMargin: "400px" },
  ).observe($("case"));
}
