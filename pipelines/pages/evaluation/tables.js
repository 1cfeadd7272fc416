// Tables that sort by any column and filter by words.

// columns: { key, name, unit?, numeric?, cell(item) -> node or text, value(item) -> what to sort by, first? "down" }.
// Items whose value is null stay last. Returns { show(items), order() }.
function sortable(host, columns, { caption, search, beside = null, limit = 60, attributes = () => ({}), sort = null }) {
  let items = [],
    sorted = sort,
    words = "",
    whole = false;
  const body = make("tbody"),
    more = make("button", {
      type: "button",
      class: "quiet",
      onclick: () => {
        whole = true;
        render();
      },
    });
  const told = make("span", { class: "faint", role: "status" });
  const heads = columns.map((column) =>
    make(
      "th",
      { scope: "col", class: column.numeric ? "n" : null },
      make("button", { type: "button", class: "sort", onclick: () => sortBy(column) }, column.name),
    ),
  );
  const box = make("input", {
    type: "search",
    placeholder: search,
    "aria-label": search,
    oninput: (event) => {
      words = event.target.value.toLowerCase();
      whole = false;
      render();
    },
  });
  const tools = search ? make("div", { class: "tools" }, beside, make("label", {}, box), told) : null;
  const scroll = make(
    "div",
    { class: "wide", tabindex: 0, role: "region", "aria-label": caption },
    make("table", {}, make("caption", { class: "unseen" }, caption), make("thead", {}, make("tr", {}, heads)), body),
  );
  host.replaceChildren(...[tools, scroll, more].filter(Boolean));

  function sortBy(column) {
    const down = column.first === "down";
    sorted = sorted && sorted.key === column.key ? { key: column.key, down: !sorted.down } : { key: column.key, down };
    render();
  }

  function order() {
    const found = items.filter((item) => words.split(/\s+/).every((word) => wordsOf(item).includes(word)));
    const column = sorted && columns.find((each) => each.key === sorted.key);
    if (!column) return found;
    const sign = sorted.down ? -1 : 1;
    return found
      .map((item, index) => ({ item, index, value: column.value(item) }))
      .sort((a, b) => {
        if (a.value === null || b.value === null) return (a.value === null) - (b.value === null) || a.index - b.index;
        const by =
          typeof a.value === "string" ? a.value.localeCompare(b.value, "en", { numeric: true }) : a.value - b.value;
        return sign * by || a.index - b.index;
      })
      .map((each) => each.item);
  }

  function wordsOf(item) {
    return columns
      .filter((each) => !each.numeric)
      .map((each) => `${each.value(item) ?? ""}`)
      .join(" ")
      .toLowerCase();
  }

  function render() {
    const all = order(),
      some = whole ? all : all.slice(0, limit);
    heads.forEach((head, index) => {
      const on = sorted && sorted.key === columns[index].key;
      if (on) head.setAttribute("aria-sort", sorted.down ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
    body.replaceChildren(
      ...some.map((item) =>
        make(
          "tr",
          attributes(item),
          columns.map((column, index) =>
            make(
              index ? "td" : "th",
              { scope: index ? null : "row", class: column.numeric ? "n" : null },
              column.cell(item),
            ),
          ),
        ),
      ),
    );
    told.textContent = all.length === items.length ? `${items.length} rows` : `${all.length} of ${items.length} rows`;
    more.hidden = some.length === all.length;
    more.textContent = `Show all ${all.length} rows`;
    mark();
  }

  return {
    show: (list) => {
      items = list;
      whole = false;
      render();
    },
    order,
  };
}

// Means with their intervals, a metric each; or one metric's details.
function resultsTable() {
  const host = $("results-table"),
    by = $("results-by"),
    what = $("results-metric");
  const groups = [...new Set(data.summaries.map((each) => each.group))];
  by.append(
    ...options(
      groups.map((each) => [each, each === "all" ? "all cases" : each]),
      "all",
    ),
  );
  what.append(
    ...options([["", "every metric: mean"], ...metrics.map((each) => [each.key, `${each.name}: in detail`])], ""),
  );
  const refresh = () => {
    const of = data.summaries.filter((each) => each.group === by.value && structureOf.has(each.structure));
    const list = what.value ? of.filter((each) => each.metric === what.value) : perStructure(of);
    const columns = [
      ...whoColumns(by.value),
      ...(what.value ? detailColumns(metricOf.get(what.value)) : meanColumns(by.value)),
    ];
    sortable(host, columns, { caption: "Results", limit: 200 }).show(list);
  };
  by.addEventListener("change", refresh);
  what.addEventListener("change", refresh);
  refresh();
}

function perStructure(summaries) {
  const found = new Map();
  for (const each of summaries) {
    const key = JSON.stringify([each.structure, each.value]);
    if (!found.has(key))
      found.set(key, { structure: each.structure, value: each.value, absent: each.cases_absent, of: {} });
    found.get(key).of[each.metric] = each;
  }
  return [...found.values()];
}

const textColumn = (key, name, value, cell = value) => ({ key, name, value, cell });
const numberColumn = (key, name, value, cell) => ({ key, name, value, cell, numeric: true });

function whoColumns(group) {
  const who = textColumn(
    "structure",
    "Structure",
    (each) => shown(each.structure),
    (each) => structureCell(each.structure),
  );
  return group === "all" ? [who] : [who, textColumn("value", group, (each) => `${each.value}`)];
}

function structureCell(name) {
  const warned = (structureOf.get(name).warnings || []).length;
  return make(
    "span",
    { class: "structure" },
    swatch(name),
    shown(name),
    warned
      ? make("a", { href: "#structures", class: "mark note", title: "Dice misleads here; see Structures" }, "!")
      : null,
  );
}

function meanColumns(group) {
  const firstOf = (each) => Object.values(each.of)[0] || {};
  const count = (key, value) => numberColumn(key, key, value, (each) => `${value(each) ?? "\u2013"}`);
  const of = (status) => (each) =>
    rows.filter(
      (row) =>
        row.structure === each.structure &&
        row.status === status &&
        (group === "all" || `${row[group]}` === `${each.value}`),
    ).length;
  return [
    count("n", (each) => firstOf(each).n ?? null),
    ...(group === "all" || group in data.columns
      ? [count("missed", of("missed")), count("invented", of("invented"))]
      : []),
    count("absent", (each) => each.absent ?? null),
    ...metrics.map((metric) =>
      numberColumn(
        metric.key,
        named(metric),
        (each) => each.of[metric.key]?.mean ?? null,
        (each) => meanCell(each.of[metric.key], metric.unit),
      ),
    ),
  ];
}

function meanCell(summary, unit) {
  if (!summary || summary.mean === null) return "\u2013";
  return make("span", {}, make("b", {}, number(summary.mean, unit)), make("small", {}, interval(summary, unit)));
}

function interval({ low, high, note }, unit) {
  return low === null || low === undefined ? note || "too few" : `[${number(low, unit)}, ${number(high, unit)}]`;
}

function detailColumns({ unit }) {
  const plain = (key, name) =>
    numberColumn(
      key,
      name,
      (each) => each[key] ?? null,
      (each) => number(each[key], unit),
    );
  return [
    ...["n", "cases_absent"].map((key) =>
      numberColumn(
        key,
        key === "n" ? "n" : "absent",
        (each) => each[key] ?? null,
        (each) => `${each[key] ?? "\u2013"}`,
      ),
    ),
    plain("mean", `mean${unit && ` (${unit})`}`),
    numberColumn(
      "low",
      "95 % interval",
      (each) => each.low ?? null,
      (each) => interval(each, unit),
    ),
    plain("q25", "lower quartile"),
    plain("median", "median"),
    plain("q75", "upper quartile"),
  ];
}

// A row for every case and structure, worst first; what is chosen here is chosen everywhere.
function casesTable() {
  const status = $("cases-status");
  const table = sortable($("cases-table"), caseColumns(), {
    caption: "Cases",
    beside: status.closest("label"),
    search: "Filter by case, structure, source, status",
    attributes: (row) => ({ "data-row": row.index, "data-case": row.number }),
  });
  const kinds = {
    "": counts,
    missed: (row) => counts(row) && row.status === "missed",
    invented: (row) => counts(row) && row.status === "invented",
    cut: (row) => counts(row) && row.cut,
    viewable: (row) => counts(row) && viewable.has(row.case_id),
    absent: (row) => row.status === "absent" && (!state.structure || row.structure === state.structure),
  };
  const refresh = () => table.show(worstFirst(rows.filter(kinds[status.value])));
  status.addEventListener("change", refresh);
  watchers.filtered.push(refresh);
  refresh();
  return table;
}

function caseColumns() {
  const text = (key, name) => textColumn(key, name, (row) => `${row[key] ?? ""}`);
  const of = (key, name, unit) => ({
    ...numberColumn(
      key,
      name,
      (row) => row[key] ?? null,
      (row) => number(row[key], unit),
    ),
    first: metricOf.get(key)?.better === "lower" ? "down" : "up",
  });
  const has = (key) => rows.some((row) => row[key] !== null && row[key] !== undefined && row[key] !== "");
  return [
    textColumn(
      "case_id",
      "Case",
      (row) => row.case_id,
      (row) => make("button", { type: "button", class: "case", "data-go": "" }, row.case_id),
    ),
    textColumn(
      "structure",
      "Structure",
      (row) => shown(row.structure),
      (row) => structureCell(row.structure),
    ),
    textColumn("status", "Status", (row) => statusWords(row).join(", "), badges),
    ...metrics.map((metric) => of(metric.key, named(metric), metric.unit)),
    ...[
      ["reference_ml", "reference (ml)", "ml"],
      ["predicted_ml", "predicted (ml)", "ml"],
      ["confidence", "confidence", ""],
      ["flip_dice", "Dice of flips", ""],
    ]
      .filter(([key]) => has(key) && !metricOf.has(key))
      .map((each) => of(...each)),
    ...[
      ["source", "Source"],
      ["modality", "Modality"],
      ["site", "Site"],
      ["scanner", "Scanner"],
      ["size", "Size"],
    ]
      .filter(([key]) => has(key))
      .map((each) => text(...each)),
  ];
}

const statusWords = (row) => [row.status, ...(row.cut ? ["cut"] : [])];

const told = {
  missed: "the reference has it, the prediction does not",
  invented: "the prediction has it, the reference does not",
  cut: "it touches the border of the scan, so part of it is outside",
  absent: "neither has it; counted apart",
};

function badges(row) {
  const words = statusWords(row).filter((word) => word !== "scored");
  return make(
    "span",
    {},
    words.length
      ? words.map((word) => make("span", { class: `badge ${word}`, title: told[word] }, word))
      : make("span", { class: "faint" }, "scored"),
  );
}
