// The page of the service: sign in, send a scan, follow it, see what came of it.

import { mark, refresh, sent, startJobs, stateOf, stopJobs } from "./jobs.js";
import { ask, asked, make, send, size, token } from "./service.js";
import { clearVolume, showVolume } from "./viewer.js";
import { unpack } from "./volume.js";

const KINDS = [
  ["nifti", "label map (NIfTI)", true],
  ["json", "report (JSON)", true],
  ["png", "picture (PNG)", false],
  ["dicom-seg", "DICOM SEG", false],
  ["dicom-labelmap", "DICOM SEG as label map", false],
  ["rtstruct", "DICOM RTSTRUCT", false],
  ["sr", "DICOM SR, with SEG", false],
];
const $ = (id) => document.getElementById(id);
const state = { mine: null, shown: null, upload: null };

function tell(text) {
  $("told").textContent = text;
}

function fail(error) {
  if (error.status === 401) signOut(); // the token goes, as nobody here knows it
  $("error").textContent = error.message;
}

async function signIn() {
  $("error").textContent = "";
  try {
    about(await asked("info/"));
  } catch (error) {
    if (error.status !== 503) return fail(error); // 503: the token counts, but nothing answers yet
    about({ description: error.message });
  }
  $("token").value = "";
  signed(true);
  await startJobs({ changed, show, failed: fail });
}

function signed(yes) {
  $("signing").hidden = yes;
  for (const id of ["sending", "listing", "sign-out"]) $(id).hidden = !yes;
  if (!yes) $("result").hidden = true;
  $(yes ? "files" : "token").focus();
}

function signOut() {
  token.drop();
  state.upload?.stop();
  stopJobs();
  clearVolume();
  Object.assign(state, { mine: null, shown: null });
  $("model").textContent = "";
  signed(false);
}

// What answers, and what it takes.
function about({ description, modalities = [] }) {
  $("model").textContent = description;
  $("modalities").replaceChildren(...modalities.map((value) => make("option", { value })));
}

async function submit() {
  const files = [...$("files").files];
  const to = [...$("kinds").querySelectorAll("input:checked")].map((box) => box.value);
  $("error").textContent = "";
  if (!files.length) return fail(new Error("Choose a scan first."));
  if (!to.length) return fail(new Error("Choose at least one kind of result."));
  uploading(true);
  tell("Uploading");
  state.upload = send(files, { to, modality: $("modality").value.trim() }, (share) => {
    $("upload-bar").value = share;
    $("upload-share").textContent = `${Math.round(100 * share)} %`;
  });
  try {
    const job = await state.upload.done;
    state.mine = job.id;
    $("files").value = "";
    tell("Sent; it waits for its turn");
    await sent(job, files);
  } catch (error) {
    fail(error);
  } finally {
    uploading(false);
  }
}

function uploading(yes) {
  $("upload").hidden = !yes;
  $("segment").disabled = yes;
  $("upload-bar").value = 0;
  $("upload-share").textContent = "0 %";
  if (!yes) state.upload = null;
}

function changed(job, before) {
  if (job.id !== state.mine) return;
  const quarter = (each) => Math.floor(4 * each.progress);
  if (job.state !== before.state || quarter(job) !== quarter(before)) tell(`Your scan: ${stateOf(job)}`);
  if (job.state === before.state) return;
  if (job.state === "done") show(job, false);
  else if (job.reason) fail(new Error(`Your scan: ${job.reason}`));
}

async function show(job, move = true) {
  const scans = [...new Set(job.results.map((each) => each.scan))];
  state.shown = job;
  mark(job.id);
  $("scan").replaceChildren(...scans.map((text) => make("option", { value: text, text })));
  for (const id of ["scan", "scan-label"]) $(id).hidden = scans.length < 2;
  $("result").hidden = false;
  await showScan();
  if (move) $("result").focus();
}

async function showScan() {
  const { id, results, warnings } = state.shown,
    scan = $("scan").value;
  const own = results.filter((each) => each.scan === scan);
  $("downloads").replaceChildren(...own.filter((each) => each.kind !== "view").map((each) => item(id, each)));
  try {
    const view = own.find((each) => each.kind === "view");
    const volume = await unpack(await (await ask(place(id, view))).blob());
    if (state.shown?.id !== id || $("scan").value !== scan) return;
    showVolume({ ...volume, warnings: warnings.filter(([name]) => name === scan).map(([, text]) => text) });
    tell("The result is shown");
  } catch (error) {
    clearVolume();
    fail(error);
  }
}

const place = (id, { kind, scan }) => `segmentations/${id}/results/${kind}?${new URLSearchParams({ scan })}`;

function item(id, result) {
  const name = KINDS.find(([kind]) => kind === result.kind)?.[1] || result.kind;
  const button = make("button", { type: "button", text: `${name}, ${size(result.bytes)}` });
  button.addEventListener("click", async () => {
    try {
      const address = URL.createObjectURL(await (await ask(place(id, result))).blob());
      make("a", { href: address, download: result.file }).click();
      setTimeout(() => URL.revokeObjectURL(address), 60000);
    } catch (error) {
      fail(error);
    }
  });
  return make("li", {}, button);
}

function prepare() {
  for (const [value, text, checked] of KINDS) {
    $("kinds").append(make("label", {}, make("input", { type: "checkbox", value, checked }), ` ${text}`));
  }
  const on = (id, kind, act) =>
    $(id).addEventListener(kind, (event) => {
      event.preventDefault();
      act(event);
    });
  on("sign-in", "submit", () => {
    token.set($("token").value.trim());
    signIn();
  });
  on("sign-out", "click", signOut);
  on("send", "submit", submit);
  on("upload-stop", "click", () => state.upload?.stop());
  $("scan").addEventListener("change", showScan);
  for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) document.addEventListener(kind, drag);
  document.addEventListener("visibilitychange", () => !document.hidden && token.get() && refresh());
  if (token.get()) signIn();
}

// Anywhere on the page: what is dropped beside the frame must not replace the page.
function drag(event) {
  event.preventDefault();
  $("drop").classList.toggle("over", event.type === "dragenter" || event.type === "dragover");
  if (event.type !== "drop" || $("sending").hidden || !event.dataTransfer.files.length) return;
  $("files").files = event.dataTransfer.files;
  tell(`${event.dataTransfer.files.length} chosen: ${[...event.dataTransfer.files].map((each) => each.name).join(", ")}`);
}

prepare();
document.documentElement.dataset.ready = "true";
