// The figures, each of the structures and the metric that are chosen above them.

const drawn = () => structures.filter((each) => !state.structure || each.name === state.structure);
const summaryOf = (structure, metric) =>
  data.summaries.find((each) => each.group === "all" && each.structure === structure && each.metric === metric) || {};

// Every case of every structure, the middle half as a box, the mean with its interval.
function distribution(host) {
  const metric = metricOf.get(state.metric),
    list = drawn(),
    width = host.clientWidth,
    wide = width > 620;
  const values = rows.filter((row) => counts(row) && row[metric.key] !== null).map((row) => row[metric.key]);
  if (!values.length) return nothing(host);
  const high = metric.unit === "" ? 1 : Math.max(...values),
    low = Math.min(0, ...values);
  const near = metric.unit === "" && low >= 0 ? Math.max(0, Math.floor(Math.min(...values) * 10 - 0.3) / 10) : low;
  const rooted = metric.unit !== "" && low >= 0,
    step = Math.min(104, Math.max(36, 430 / list.length)),
    height = step * list.length + 48;
  const left = wide ? 150 : 12,
    right = wide ? 168 : 14;
  const { svg, x, inner } = axes(width, height, `${metric.name} of every case by structure`, {
    left,
    right,
    x: {
      scale: (...to) => (rooted ? roots(0, high * 1.02, ...to) : linear(near, high, ...to)),
      ticks: rooted ? rootTicks(high * 1.02) : ticks(near, high),
      name: named(metric) + (rooted ? ", square-root scale" : ""),
    },
    y: { scale: (...to) => linear(0, 1, ...to), ticks: [] },
  });
  list.forEach((structure, index) => {
    const middle = inner.top + step * (index + 0.5) + (wide ? 0 : 7),
      summary = summaryOf(structure.name, metric.key);
    strip(svg, x, middle, step, structure, metric, summary);
    const text = label(
      wide ? left - 12 : left,
      wide ? middle + 4 : middle - Math.min(step / 2, 40) + 5,
      structure.shown,
      wide ? "end" : "start",
      "name",
    );
    svg.append(text);
    if (wide) svg.append(...meanText(inner.right + 14, middle, summary, metric));
  });
  host.replaceChildren(svg, legend("scored", "cut", "missed", "invented"));
}

function strip(svg, x, middle, step, structure, metric, summary) {
  const own = rows.filter(
    (row) => row.structure === structure.name && row.status !== "absent" && row[metric.key] !== null,
  );
  const room = Math.min(26, step / 2 - (step > 40 ? 13 : 9)),
    filledBins = new Map();
  if (summary.q25 !== null && summary.q25 !== undefined) {
    svg.append(
      draw("rect", {
        x: x(summary.q25),
        y: middle - room - 3,
        width: Math.max(1, x(summary.q75) - x(summary.q25)),
        rx: 3,
        height: 2 * room + 6,
        class: "box",
        style: `--colour: ${colour(structure.colour)}`,
      }),
    );
    svg.append(line(x(summary.median), middle - room - 3, x(summary.median), middle + room + 3, "median"));
  }
  for (const row of own) {
    const at = x(row[metric.key]),
      bin = Math.round(at / 5),
      count = filledBins.get(bin) || 0;
    filledBins.set(bin, count + 1);
    const offset = Math.ceil(count / 2) * 4.6 * (count % 2 ? 1 : -1);
    svg.append(point(at, middle + (room ? offset % room : 0), row));
  }
  if (summary.mean === null || summary.mean === undefined) return;
  const below = middle + room + (step > 40 ? 8 : 5);
  if (summary.low !== null && summary.low !== undefined)
    svg.append(line(x(summary.low), below, x(summary.high), below, "interval"));
  svg.append(
    draw("path", {
      d: "M0-4L4 0L0 4L-4 0Z",
      transform: `translate(${fixed(x(summary.mean))} ${below})`,
      class: "mean",
    }),
  );
}

function meanText(x, y, summary, { unit }) {
  if (summary.mean === null || summary.mean === undefined) return [];
  const text = draw(
    "text",
    { x, y: y + 4, class: "told" },
    draw("tspan", { class: "strong" }, number(summary.mean, unit)),
    draw("tspan", { dx: 6 }, interval(summary, unit)),
    draw("tspan", { dx: 6, class: "axis" }, `n ${summary.n}`),
  );
  return [text];
}

function nothing(host) {
  host.replaceChildren(make("p", { class: "faint" }, "No case has a value here."));
}

// The cases to look at first.
function worstCases(host) {
  const metric = metricOf.get(state.metric);
  const list = worstFirst(rows.filter((row) => counts(row) && row[metric.key] !== null)).slice(0, 12);
  const largest = Math.max(...list.map((row) => Math.abs(row[metric.key])), metric.unit === "" ? 1 : 0) || 1;
  host.replaceChildren(
    make(
      "ol",
      { class: "worst" },
      list.map((row) =>
        make(
          "li",
          {},
          make(
            "button",
            { type: "button", "data-row": row.index, "data-case": row.number },
            make(
              "span",
              { class: "who" },
              swatch(row.structure),
              make("span", { class: "id" }, row.case_id),
              statusWords(row)
                .filter((word) => word !== "scored")
                .map((word) => make("span", { class: `badge ${word}` }, word)),
            ),
            make("span", { class: "value" }, withUnit(row[metric.key], metric.unit)),
            draw(
              "svg",
              { viewBox: "0 0 100 4", preserveAspectRatio: "none", class: "bar", "aria-hidden": "true" },
              draw("rect", { width: 100, height: 4, class: "track" }),
              draw("rect", {
                width: (100 * Math.abs(row[metric.key])) / largest,
                height: 4,
                fill: colour(structureOf.get(row.structure).colour),
              }),
            ),
          ),
        ),
      ),
    ),
  );
}

// Volume of the prediction less the reference's over their mean; of one structure in ml, of several in percent of it.
function blandAltman(host) {
  const relative = drawn().length > 1,
    unit = relative ? "%" : "ml";
  const found = rows
    .filter(
      (row) =>
        counts(row) &&
        row.reference_ml !== null &&
        row.predicted_ml !== null &&
        row.reference_ml + row.predicted_ml > 0,
    )
    .map((row) => {
      const mean = (row.reference_ml + row.predicted_ml) / 2,
        difference = row.predicted_ml - row.reference_ml;
      return { row, mean, difference: relative ? (100 * difference) / mean : difference };
    });
  if (!found.length) return nothing(host);
  const width = host.clientWidth,
    means = found.map((each) => each.mean),
    differences = found.map((each) => each.difference);
  const centre = average(differences),
    spread = 1.96 * deviation(differences, centre);
  const bound = Math.max(...differences.map(Math.abs), Math.abs(centre) + spread) * 1.08 || 1;
  const [low, high] = [Math.min(...means), Math.max(...means)],
    wide = high / Math.max(low, 1e-9) > 30;
  const from = wide ? 10 ** Math.floor(Math.log10(Math.max(low, high / 1e5))) : 0,
    to = wide ? 10 ** Math.ceil(Math.log10(high)) : high * 1.05;
  const { svg, x, y, inner } = axes(width, 286, "Volumes of prediction and reference, Bland-Altman", {
    left: 52,
    x: {
      scale: (...at) => (wide ? logs(from, to, ...at) : linear(from, to, ...at)),
      ticks: wide ? logTicks(from, to) : ticks(from, to, 4),
      name: `mean of both (ml${wide ? ", logarithmic" : ""})`,
    },
    y: {
      scale: (...at) => linear(-bound, bound, ...at),
      ticks: ticks(-bound, bound, 4),
      name: `prediction \u2212 reference (${unit})`,
    },
  });
  svg.append(
    line(inner.left, y(0), inner.right, y(0), "zero"),
    line(inner.left, y(centre), inner.right, y(centre), "median"),
  );
  for (const limit of [centre - spread, centre + spread])
    svg.append(line(inner.left, y(limit), inner.right, y(limit), "limit"));
  found.forEach((each) => svg.append(point(x(each.mean), y(each.difference), each.row)));
  host.replaceChildren(
    svg,
    make(
      "p",
      { class: "faint" },
      `Mean difference ${withUnit(centre, unit)}; dashed: 1.96 standard deviations ` +
        `on either side, ${number(centre - spread, unit)} to ${withUnit(centre + spread, unit)}. ` +
        "They describe these cases and are no confidence interval.",
    ),
  );
}

const average = (values) => values.reduce((sum, each) => sum + each, 0) / values.length;
const deviation = (values, mean) =>
  Math.sqrt(values.reduce((sum, each) => sum + (each - mean) ** 2, 0) / Math.max(1, values.length - 1));

// Risk of the cases that are kept when the least confident are put aside.
function riskCoverage(host) {
  const list = data.confidence.filter(
    (each) => drawn().some((one) => one.name === each.structure) && each.risk_coverage,
  );
  const all = list
    .flatMap((each) => [...each.risk_coverage.risk, each.risk_coverage.aurc_random])
    .filter((each) => each !== null);
  if (!all.length) return nothing(host);
  const high = Math.max(...all) * 1.08 || 1;
  const { svg, x, y, inner } = axes(host.clientWidth, 286, "Risk against coverage", {
    x: { scale: (...to) => linear(0, 1, ...to), ticks: ticks(0, 1), name: "share of cases kept, most confident first" },
    y: { scale: (...to) => linear(0, high, ...to), ticks: ticks(0, high, 4), name: "mean of 1 \u2212 Dice" },
  });
  for (const each of list) {
    const { coverage, risk, aurc_random: random } = each.risk_coverage,
      style = `--colour: ${colour(structureOf.get(each.structure).colour)}`;
    if (random !== null) svg.append(line(inner.left, y(random), inner.right, y(random), "random", { style }));
    svg.append(
      curve(
        coverage.map((at, index) => [x(at), y(risk[index])]),
        "curve",
        { style },
      ),
    );
    const ranked = rows
      .filter(
        (row) =>
          row.structure === each.structure && row.status !== "absent" && row.confidence !== null && row.dice !== null,
      )
      .sort((a, b) => b.confidence - a.confidence);
    if (ranked.length === coverage.length)
      coverage.forEach((at, index) => svg.append(point(x(at), y(risk[index]), ranked[index], 0.62)));
  }
  const words = list.map(
    (each) =>
      `${shown(each.structure)} ${number(each.risk_coverage.aurc)} (random ${number(each.risk_coverage.aurc_random)})`,
  );
  const areas =
    words.length > 4 ? "Areas under the curves: under Confidence" : `Area under the curve: ${words.join(", ")}`;
  host.replaceChildren(svg, make("p", { class: "faint" }, `${areas}. Dashed: cases put aside at random.`));
}

// Does a voxel that is said to be right with 80 % turn out right in 80 of 100?
function calibration(host) {
  const bins = ((data.calibration || {}).bins || []).filter((each) => each.count > 0 && each.observed !== null);
  if (!bins.length) return nothing(host);
  const most = Math.max(...bins.map((each) => each.count)),
    low = Math.min(...bins.flatMap((each) => [each.predicted, each.observed]));
  const from = Math.max(0, Math.floor(low * 5) / 5);
  const { svg, x, y } = axes(host.clientWidth, 286, "Calibration", {
    x: { scale: (...to) => linear(from, 1, ...to), ticks: ticks(from, 1), name: "probability that the network gives" },
    y: { scale: (...to) => linear(from, 1, ...to), ticks: ticks(from, 1), name: "share that is right" },
  });
  svg.append(
    line(x(from), y(from), x(1), y(1), "zero"),
    curve(
      bins.map((each) => [x(each.predicted), y(each.observed)]),
      "curve plain",
    ),
  );
  for (const each of bins) {
    const radius = 2.5 + 6 * Math.sqrt(Math.log1p(each.count) / Math.log1p(most)) ** 3;
    svg.append(
      draw(
        "circle",
        { cx: x(each.predicted), cy: y(each.observed), r: fixed(radius), class: "bin" },
        draw("title", {}, `${number(each.predicted)} said, ${number(each.observed)} right, ${each.count} voxels`),
      ),
    );
  }
  const error = data.calibration.error;
  host.replaceChildren(
    svg,
    make(
      "p",
      { class: "faint" },
      `Below the line: too sure. ${
        error === null || error === undefined ? "" : `Expected calibration error ${number(error)}.`
      }`,
    ),
  );
}

// Mean difference of two versions on the same cases.
function differences(host) {
  const metric = metricOf.get(state.metric),
    names = data.comparison.names;
  const list = data.comparison.differences.filter(
    (each) => each.metric === metric.key && each.mean !== null && drawn().some((one) => one.name === each.structure),
  );
  if (!list.length) return nothing(host);
  const bound =
    Math.max(...list.flatMap((each) => [each.mean, each.low ?? 0, each.high ?? 0].map(Math.abs))) * 1.1 || 1;
  const width = host.clientWidth,
    wide = width > 560,
    left = width > 520 ? 150 : 96;
  const { svg, x, inner } = axes(width, 30 * list.length + 54, `Difference of ${named(metric)}`, {
    left,
    right: wide ? 190 : 20,
    x: {
      scale: (...to) => linear(-bound, bound, ...to),
      ticks: ticks(-bound, bound, 5),
      name: `${named(metric)}: ${names[0]} \u2212 ${names[1]}`,
    },
    y: { scale: (...to) => linear(0, 1, ...to), ticks: [] },
  });
  svg.append(line(x(0), inner.top, x(0), inner.bottom, "zero"));
  list.forEach((each, index) => {
    const at = inner.top + 30 * (index + 0.5),
      style = `--colour: ${colour(structureOf.get(each.structure).colour)}`;
    svg.append(label(left - 10, at + 4, shown(each.structure), "end", "name"));
    if (wide) svg.append(...meanText(inner.right + 14, at, each, metric));
    if ((each.low ?? null) !== null) svg.append(line(x(each.low), at, x(each.high), at, "interval", { style }));
    svg.append(
      draw(
        "path",
        { d: "M0-5L5 0L0 5L-5 0Z", transform: `translate(${fixed(x(each.mean))} ${at})`, class: "mean" },
        draw(
          "title",
          {},
          `${shown(each.structure)} ${number(each.mean, metric.unit)} ${interval(each, metric.unit)}, n ${each.n}`,
        ),
      ),
    );
  });
  host.replaceChildren(svg);
}

// The same case in both versions; what lies above the line is better, or larger, in the first.
function paired(host) {
  const metric = metricOf.get(state.metric),
    names = data.comparison.names,
    other = new Map();
  const key = (row) => JSON.stringify([row.case_id, row.structure]);
  for (const row of rowsOf(data.comparison.columns)) other.set(key(row), row[metric.key]);
  const found = rows.filter((row) => counts(row) && row[metric.key] !== null && (other.get(key(row)) ?? null) !== null);
  if (!found.length) return nothing(host);
  const values = found.flatMap((row) => [row[metric.key], other.get(key(row))]);
  const low = Math.min(...values),
    high = Math.max(...values),
    room = (high - low) * 0.04 || 0.1;
  const [from, to] = [low - room, high + room],
    side = Math.min(host.clientWidth, 400);
  const { svg, x, y } = axes(side, side - 20, `${named(metric)} in both versions`, {
    left: 52,
    x: { scale: (...at) => linear(from, to, ...at), ticks: ticks(from, to, 4), name: `${named(metric)}, ${names[1]}` },
    y: { scale: (...at) => linear(from, to, ...at), ticks: ticks(from, to, 4), name: `${named(metric)}, ${names[0]}` },
  });
  svg.append(line(x(from), y(from), x(to), y(to), "zero"));
  found.forEach((row) => svg.append(point(x(other.get(key(row))), y(row[metric.key]), row)));
  host.replaceChildren(svg);
}
