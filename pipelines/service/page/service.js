// What is said to the service. Addresses are relative, so the page may lie below a prefix of a proxy.

const KEY = "medseg-token"; // of this tab's session storage: gone with the tab

export const token = {
  get: () => sessionStorage.getItem(KEY) || "",
  set: (value) => sessionStorage.setItem(KEY, value),
  drop: () => sessionStorage.removeItem(KEY),
};

export class ServiceError extends Error {
  constructor(told, status) {
    super(told);
    this.status = status;
  }
}

const UNREACHABLE = "The service cannot be reached; see whether it runs, and try again.";
const head = () => ({ Authorization: `Bearer ${token.get()}` });

// An answer that is not refused. Throws ServiceError with one line.
export async function ask(path, options = {}) {
  let answer;
  try {
    answer = await fetch(path, { ...options, headers: head(), cache: "no-store", credentials: "omit", redirect: "error" });
  } catch {
    throw new ServiceError(UNREACHABLE, 0);
  }
  if (!answer.ok) throw refusal(answer.status, await answer.text(), answer.headers.get("Retry-After"));
  return answer;
}

export const asked = async (path) => (await ask(path)).json();

// Upload with progress, which fetch does not tell. { done: promise of the job, stop() }
export function send(files, { to, modality }, progress) {
  const query = new URLSearchParams({ to: to.join(",") });
  if (modality) query.append("modality", modality);
  const body = new FormData(),
    request = new XMLHttpRequest();
  for (const file of files) body.append("file", file, file.name);
  const done = new Promise((resolve, reject) => {
    request.open("POST", `segmentations?${query}`);
    for (const [name, value] of Object.entries(head())) request.setRequestHeader(name, value);
    request.upload.onprogress = (event) => event.lengthComputable && progress(event.loaded / event.total);
    request.onload = () => {
      if (request.status < 300) resolve(JSON.parse(request.responseText));
      else reject(refusal(request.status, request.responseText, request.getResponseHeader("Retry-After")));
    };
    request.onerror = () => reject(new ServiceError(UNREACHABLE, 0));
    request.onabort = () => reject(new ServiceError("The upload was stopped.", 0));
    request.send(body);
  });
  return { done, stop: () => request.abort() };
}

const OWN_WORDS = {
  401: "The token is not known here; sign in with another one.",
  404: "It is not there any more.",
  413: "The upload is larger than the service takes.",
  429: "Too much is waiting already.",
  503: "The service takes nothing just now.",
};

function refusal(status, body, again) {
  let told = OWN_WORDS[status] || `The service answered with status ${status}.`;
  try {
    const { detail } = JSON.parse(body);
    if (typeof detail === "string" && status !== 401) told = detail;
    else if (Array.isArray(detail)) told = detail.map((each) => `${each.loc.at(-1)}: ${each.msg}`).join("; ");
  } catch {
    // not of the service, but of something before it
  }
  if (again && !told.includes("again")) told += ` Try again in ${again} s.`;
  return new ServiceError(oneLine(told), status);
}

function oneLine(told) {
  const line = told.replace(/\s+/g, " ").trim();
  return (line[0] || "").toUpperCase() + line.slice(1, 400);
}

// { tag: "p", class: "x", text: "..." } as elements: text stays text.
export function make(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "text") made.textContent = value;
    else if (value !== false && value !== null) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children);
  return made;
}

export const size = (bytes) =>
  bytes < 1e6 ? `${Math.max(1, Math.round(bytes / 1e3))} kB` : `${(bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0)} MB`;
