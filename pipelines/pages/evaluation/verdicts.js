// What a reader thinks of each case: accept, edit, reject, a note. Kept in this browser, given away as a JSON file.

const KEPT_AS = `medseg-verdicts-${data.identity}`;
const verdicts = kept();

function kept() {
  try {
    return JSON.parse(localStorage.getItem(KEPT_AS)) || {};
  } catch (error) {
    return {}; // some browsers keep nothing for files: verdicts last as long as the page
  }
}

function keep() {
  try {
    localStorage.setItem(KEPT_AS, JSON.stringify(verdicts));
  } catch (error) {
    $("verdict-kept").textContent = "This browser keeps nothing for files: export before you close the page.";
  }
}

const mineOf = (id) => (Object.hasOwn(verdicts, id) ? verdicts[id] : { verdict: "", note: "" });

function judge(changes) {
  if (!state.row) return;
  const id = state.row.case_id,
    next = { ...mineOf(id), ...changes, at: new Date().toISOString() };
  if (next.verdict || next.note)
    Object.defineProperty(verdicts, id, { value: next, enumerable: true, configurable: true, writable: true });
  else delete verdicts[id];
  keep();
  showVerdict();
}

function showVerdict() {
  const own = state.row ? mineOf(state.row.case_id) : { verdict: "", note: "" };
  for (const box of document.querySelectorAll("input[name=verdict]")) box.checked = box.value === own.verdict;
  if ($("verdict-note").value !== own.note) $("verdict-note").value = own.note;
  const judged = Object.values(verdicts).filter((each) => each.verdict).length;
  $("verdict-count").textContent = `${judged} of ${cases.size} cases judged`;
  $("bar-verdict").textContent = own.verdict;
  $("bar-verdict").className = own.verdict ? `badge ${own.verdict}` : "";
}

function exported() {
  const given = Object.keys(verdicts)
    .sort()
    .map((id) => ({ case_id: id, ...verdicts[id] }));
  return { report: { title: data.title, identity: data.identity, facts: data.facts }, verdicts: given };
}

function startVerdicts() {
  for (const box of document.querySelectorAll("input[name=verdict]"))
    box.addEventListener("change", () => judge({ verdict: box.value }));
  $("verdict-clear").addEventListener("click", () => judge({ verdict: "", note: "" }));
  $("verdict-note").addEventListener("input", (event) => judge({ note: event.target.value }));
  $("verdict-export").addEventListener("click", () => {
    const address = URL.createObjectURL(
      new Blob([`${JSON.stringify(exported(), null, 2)}\n`], { type: "application/json" }),
    );
    make("a", { href: address, download: `verdicts-${data.identity}.json` }).click();
    setTimeout(() => URL.revokeObjectURL(address), 10000);
  });
  if (window !== window.parent) {
    $("verdict-kept").textContent =
      "Open this report by itself to keep and export verdicts: browsers may forbid both to a page within another.";
  }
  watchers.chosen.push(showVerdict);
  showVerdict();
}
