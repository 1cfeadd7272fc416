// The result: three planes, what was found with its volumes, warnings.

import { make } from "./service.js";
import { PLANES, fullest, millimetres, section } from "./volume.js";

const OTHER = [160, 160, 160]; // of numbers that the legend does not have
const $ = (id) => document.getElementById(id);
const shown = { volume: null, at: [0, 0, 0], hidden: new Set(), planes: [] };
const TURNS = { ArrowUp: 1, ArrowRight: 1, ArrowDown: -1, ArrowLeft: -1, PageUp: 10, PageDown: -10 };

export function showVolume(volume) {
  Object.assign(shown, { volume, at: fullest(volume), hidden: new Set() });
  shown.planes = PLANES.map(planeOf);
  const widths = PLANES.map((plane) => `minmax(0, ${millimetres(volume, plane.columns).toFixed(2)}fr)`); // one scale
  $("planes").style.setProperty("--columns", widths.join(" "));
  $("planes").replaceChildren(...shown.planes.map((each) => each.figure));
  legend(volume);
  $("warnings").replaceChildren(...volume.warnings.map((text) => make("li", { text })));
  const coarse = Math.max(...volume.step);
  $("coarse").textContent =
    coarse > 1 ? `Shown at ${volume.shape.join(" x ")} of ${volume.full_shape.join(" x ")} voxels.` : "";
  const { made_by: by } = volume;
  $("standing").hidden = by.released;
  $("standing").textContent = by.released ? "" : sentence(by.mark);
  $("made-by").textContent = `${by.model} version ${by.version}, ${by.standing}; record ${by.record_sha256.slice(0, 12)}`;
  draw();
}

export function clearVolume() {
  shown.volume = null;
  for (const id of ["planes", "warnings"]) $(id).replaceChildren();
  $("legend").tBodies[0].replaceChildren();
}

const sentence = (text) => text[0].toUpperCase() + text.slice(1) + (text.endsWith(".") ? "" : ".");

function planeOf(plane) {
  const { volume } = shown,
    canvas = make("canvas");
  const turner = make(
    "div",
    { class: "slices", role: "slider", tabindex: "0", "aria-label": `${plane.name} slice`, "aria-valuemin": "1" },
    canvas,
    make("span", { class: "left", text: plane.left, "aria-hidden": "true" }),
    make("span", { class: "top", text: plane.top, "aria-hidden": "true" }),
  );
  turner.setAttribute("aria-valuemax", volume.shape[plane.axis]);
  const [across, down] = [plane.columns, plane.rows].map((axis) => millimetres(volume, axis));
  turner.style.aspectRatio = `${across} / ${down}`;
  turner.style.width = `min(100%, ${(85 * across) / down}vh)`; // no taller than the window
  turner.addEventListener("keydown", (event) => {
    const last = volume.shape[plane.axis] - 1,
      now = shown.at[plane.axis];
    const next = { Home: 0, End: last }[event.key] ?? (event.key in TURNS ? now + TURNS[event.key] : null);
    if (next === null || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    turn(plane.axis, next);
  });
  turner.addEventListener(
    "wheel",
    (event) => {
      if (event.ctrlKey) return; // the browser's zoom
      event.preventDefault();
      turn(plane.axis, shown.at[plane.axis] + (event.deltaY < 0 ? 1 : -1));
    },
    { passive: false },
  );
  const pick = (event) => point(plane, event, turner.getBoundingClientRect());
  turner.addEventListener("pointerdown", pick);
  turner.addEventListener("pointermove", (event) => event.buttons && pick(event));
  const caption = make("figcaption");
  return { plane, canvas, turner, caption, figure: make("figure", { class: "plane" }, turner, caption) };
}

function turn(axis, index) {
  shown.at[axis] = Math.max(0, Math.min(shown.volume.shape[axis] - 1, index));
  draw();
}

function point({ rows, columns }, { clientX, clientY }, box) {
  const { shape } = shown.volume;
  const across = Math.floor(((clientX - box.left) / box.width) * shape[columns]),
    down = Math.floor(((clientY - box.top) / box.height) * shape[rows]);
  shown.at[columns] = shape[columns] - 1 - across;
  turn(rows, shape[rows] - 1 - down);
  turn(columns, shown.at[columns]);
}

function colours() {
  const { structures } = shown.volume;
  return Array.from({ length: 255 }, (_, index) =>
    shown.hidden.has(index) ? null : index < structures.length ? structures[index].colour : OTHER,
  );
}

function draw() {
  if (!shown.volume) return;
  const table = colours();
  for (const each of shown.planes) drawPlane(each, table);
}

function drawPlane({ plane, canvas, turner, caption }, table) {
  const { volume, at } = shown,
    count = volume.shape[plane.axis];
  const made = section(volume, plane, at[plane.axis], table);
  const box = turner.getBoundingClientRect(),
    scale = window.devicePixelRatio || 1;
  canvas.width = Math.max(1, Math.round(box.width * scale));
  canvas.height = Math.max(1, Math.round(box.height * scale));
  const context = canvas.getContext("2d");
  lay(context, made.grey, true, 1);
  lay(context, made.colour, false, $("strength").valueAsNumber / 100);
  hair(context, plane);
  const names = [...made.found].map((number) => volume.structures[number - 1]?.name).filter(Boolean);
  const place = `${at[plane.axis] + 1} of ${count}`;
  turner.setAttribute("aria-valuenow", at[plane.axis] + 1);
  turner.setAttribute("aria-valuetext", names.length ? `${place}: ${names.map(spoken).join(", ")}` : place);
  caption.textContent = `${plane.name}, ${place}`;
}

function lay(context, pixels, smooth, alpha) {
  const small = document.createElement("canvas");
  Object.assign(small, { width: pixels.width, height: pixels.height });
  small.getContext("2d").putImageData(pixels, 0, 0);
  context.imageSmoothingEnabled = smooth;
  context.globalAlpha = alpha;
  context.drawImage(small, 0, 0, context.canvas.width, context.canvas.height);
  context.globalAlpha = 1;
}

function hair(context, { rows, columns }) {
  const { width, height } = context.canvas,
    { shape } = shown.volume,
    part = (axis) => (shape[axis] - 0.5 - shown.at[axis]) / shape[axis];
  context.fillStyle = "rgb(255 255 255 / 40%)";
  context.fillRect(0, Math.round(part(rows) * height), width, 1);
  context.fillRect(Math.round(part(columns) * width), 0, 1, height);
}

const spoken = (name) => name.replaceAll("_", " ");

function legend({ structures, measures }) {
  const numbers = Object.fromEntries(structures.map((each, index) => [each.name, index]));
  const names = [...new Set([...structures.map((each) => each.name), ...Object.keys(measures)])];
  $("legend").tBodies[0].replaceChildren(
    ...names.map((name) => {
      const told = measures[name] || {},
        row = make("tr", {}, make("th", { scope: "row" }, named(name, numbers[name], structures)));
      row.append(volumeCell(told), make("td", { class: "n", text: told.confidence == null ? "" : told.confidence.toFixed(2) }));
      return row;
    }),
  );
}

function named(name, index, structures) {
  if (index === undefined) return make("span", { text: spoken(name) });
  const box = make("input", { type: "checkbox", checked: true });
  box.addEventListener("change", () => {
    shown.hidden[box.checked ? "delete" : "add"](index);
    draw();
  });
  const swatch = make("span", { class: "swatch", "aria-hidden": "true" });
  swatch.style.background = `rgb(${structures[index].colour.join(" ")})`;
  return make("label", {}, box, swatch, spoken(name));
}

function volumeCell({ volume_ml: ml, interval_ml: bounds, level }) {
  const cell = make("td", { class: "n", text: ml === undefined ? "" : ml ? digits(ml) : "not found" });
  if (bounds) {
    const share = level ? `, ${Math.round(100 * level)} %` : "";
    cell.append(make("small", { text: `${digits(bounds[0])} to ${digits(bounds[1])}${share}` }));
  }
  return cell;
}

const digits = (ml) => (ml >= 100 ? ml.toFixed(0) : ml >= 10 ? ml.toFixed(1) : ml.toFixed(2));

$("strength").addEventListener("input", draw);
new ResizeObserver(draw).observe($("planes"));
