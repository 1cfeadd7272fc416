// The list of jobs: what waits, how far each is, what came of it.

import { ask, asked, make } from "./service.js";

const OPEN = ["queued", "running"];
const SOON_MS = 700,
  LATER_MS = 15000;
const $ = (id) => document.getElementById(id);
const known = new Map(); // id -> { row, job }
const names = new Map(); // id -> what this tab sent: the service keeps no file names
let hooks = null,
  waiting = 0;

// `hooks`: changed(job, before), show(job), failed(error)
export function startJobs(given) {
  hooks = given;
  return refresh();
}

export function stopJobs() {
  clearTimeout(waiting);
  hooks = null;
  known.clear();
  names.clear();
  $("jobs").replaceChildren();
}

export function sent(job, files) {
  names.set(job.id, files.length === 1 ? files[0].name : `${files.length} files`);
  return refresh();
}

export async function refresh() {
  clearTimeout(waiting);
  try {
    update(await asked("segmentations"));
  } catch (error) {
    hooks?.failed(error);
  }
  if (!hooks) return;
  const busy = [...known.values()].some(({ job }) => OPEN.includes(job.state));
  waiting = setTimeout(refresh, busy && !document.hidden ? SOON_MS : LATER_MS);
}

function update(jobs) {
  if (!hooks) return;
  $("no-jobs").hidden = jobs.length > 0;
  for (const job of jobs) {
    const before = known.get(job.id),
      row = before?.row || rowOf(job);
    known.set(job.id, { row, job });
    fill(row, job);
    if (before && (before.job.state !== job.state || before.job.progress !== job.progress)) hooks.changed(job, before.job);
  }
  const rows = jobs.map((job) => known.get(job.id).row);
  if (rows.some((row, index) => $("jobs").children[index] !== row)) $("jobs").replaceChildren(...rows);
}

// Buttons stay the same elements while a job goes on, so that a keyboard's place in the list is kept.
function rowOf({ id }) {
  const parts = {
    what: make("span", { class: "what" }),
    state: make("span", { class: "state" }),
    bar: make("progress", { max: "1", "aria-label": "Progress" }),
    show: make("button", { type: "button", text: "Show" }),
    cancel: make("button", { type: "button", text: "Cancel" }),
  };
  parts.show.addEventListener("click", () => hooks.show(known.get(id).job));
  parts.cancel.addEventListener("click", async () => {
    try {
      await ask(`segmentations/${id}`, { method: "DELETE" });
    } catch (error) {
      hooks?.failed(error);
    }
    await refresh();
  });
  return Object.assign(make("li", { id: `job-${id}` }, ...Object.values(parts)), { parts });
}

function fill(row, job) {
  const { what, state, bar, show, cancel } = row.parts,
    title = names.get(job.id) || `Job ${job.id.slice(0, 8)}`;
  row.className = `${job.state}${row.classList.contains("shown") ? " shown" : ""}`;
  const when = new Date(job.asked_at).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  const why = [job.reason, ...job.left_out.map(([, reason]) => reason)].filter(Boolean).join("; ");
  what.textContent = `${title}, ${when}${why ? `: ${why}` : ""}`;
  state.textContent = stateOf(job);
  bar.hidden = job.state !== "running";
  bar.value = job.progress;
  show.hidden = job.state !== "done";
  cancel.hidden = !OPEN.includes(job.state);
  show.setAttribute("aria-label", `Show ${title}`);
  cancel.setAttribute("aria-label", `Cancel ${title}`);
}

export function stateOf({ state, progress, ahead }) {
  if (state === "queued") return ahead ? `waiting, ${ahead} before it` : "waiting";
  return state === "running" ? `running, ${Math.round(100 * progress)} %` : state;
}

export function mark(id) {
  for (const [each, { row }] of known) row.classList.toggle("shown", each === id);
}
