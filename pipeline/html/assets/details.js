// The panel that shows one tensor: what is known about it, its statistics and its histogram.

// What one opens is an address, to come back to.
function open(i) {
  if (location.hash !== `#t${i}`) history.pushState(null, "", `#t${i}`);
  show(i);
}

function show(i) {
  view.picked = i;
  reveal(i);
  const panel = find("details");
  panel.replaceChildren(...detailsOf(i));
  panel.hidden = false;
  panel.scrollTop = 0;
  panel.focus({ preventScroll: true });
  if (stats?.counts[i]) histogram(find("histogram"), i);
}

function hide() {
  find("details").hidden = true;
  view.picked = null;
  draw();
}

function close() {
  hide();
  history.replaceState(null, "", location.pathname + location.search);
  find("scroller").focus({ preventScroll: true });
}

// To the tensor before or after, in the order of the table.
function move(step) {
  const rows = view.rows.filter((row) => row.i !== undefined);
  const at = rows.findIndex((row) => row.i === view.picked) + step;
  if (at < 0 || at >= rows.length) return;
  history.replaceState(null, "", `#t${rows[at].i}`);
  show(rows[at].i);
}

function detailsOf(i) {
  const button = (label, title, onclick) => {
    const made = make("button", { type: "button", text: label, title, onclick });
    made.setAttribute("aria-label", title);
    return made;
  };
  return [
    make("div", { className: "tools" }, button("↑", "Previous tensor", () => move(-1)), button("↓", "Next tensor", () => move(1)), button("✕", "Close", close)),
    make("h2", {}, breakable(tensors.name[i])),
    ...(flagsOf.get(i) ?? []).map((each) => problem(each.level, `${each.text} (${each.rule})`)),
    sparse(tensors.error, i) ? problem("error", sparse(tensors.error, i)) : null,
    pairs(isDiff ? differencePairs(i) : identityPairs(i)),
    ...(isDiff ? [] : valueParts(i)),
  ].filter(Boolean);
}

// A long name breaks between its parts, if it can.
function breakable(name) {
  const parts = name.split(/(?<=[/._])/).flatMap((part) => [part, make("wbr")]);
  return make("bdi", {}, ...parts);
}

const problem = (level, message) => make("p", { className: `problem ${level}`, text: message });

function pairs(rows) {
  return make("dl", { className: "pairs" }, ...rows
    .filter(([, value]) => value !== null && value !== undefined && value !== "")
    .map(([label, value, whole]) => make("div", { className: whole ? "whole" : "" }, make("dt", { text: label }), make("dd", {}, isolated(value)))));
}

function identityPairs(i) {
  return [
    ["Role", [coded(tensors.role, i), sparse(tensors.slot, i)].filter(Boolean).join(" ")],
    ["Dtype", coded(tensors.dtype, i)],
    ["Shape", shaped(tensors.shape[i])],
    ["Elements", counted(tensors.size[i])],
    ["Size", human(tensors.bytes[i])],
    ["Trained", coded(tensors.trainable, i)],
    ["Belongs to", sparse(tensors.owner, i), true],
    ["Key", sparse(tensors.key, i), true],
  ];
}

function differencePairs(i) {
  return [
    ["Verdict", coded(tensors.verdict, i), true],
    ["", sparse(tensors.text, i), true],
    ["Name in B", sparse(tensors.other, i), true],
    ["Axes in B", sparse(tensors.axes, i)?.join(", ")],
    ["Dtype", dtypes(i)],
    ["Role", coded(tensors.role, i)],
    ["Shape", shapes(i), true],
    ["Relative L2", shown(tensors.relative[i])],
    ["Max abs", shown(tensors.most[i])],
    ["Cosine", shown(tensors.cosine[i])],
    ["Elements", tensors.share[i] === null ? null : share(real(tensors.share[i]), 1)],
  ];
}

function valueParts(i) {
  if (!stats || stats.size[i] === null) return [make("p", { className: "aside", text: stats ? "Its values have no statistics." : "Values were not read." })];
  const value = (id) => shown(stats[id][i]);
  const some = (id) => (stats[id][i] ? `${counted(stats[id][i])} (${share(stats[id][i], stats.size[i])})` : "0");
  const parts = [
    make("h3", { text: "Values" }),
    pairs([
      ["Min", value("min")], ["Max", value("max")], ["Mean", value("mean")], ["Std", value("std")],
      ["L2 norm", value("norm")], ["Distinct", value("distinct")], ["Zeros", some("zeros")], ["Denormals", some("denormals")],
      ["NaN", some("nans")], ["Infinite", some("infinities")],
    ]),
  ];
  if (stats.counts[i]) parts.push(histogramPart(i));
  const percentiles = stats.percentiles[i];
  if (percentiles) parts.push(make("h3", { text: "Percentiles" }), pairs(stats.percents.map((percent, at) => [`${percent} %`, shown(percentiles[at])])));
  return parts;
}

function histogramPart(i) {
  const plot = make("div", { className: "plot", id: "histogram" });
  const log = make("input", { type: "checkbox", id: "log", onchange: () => histogram(plot, i) });
  const heading = make("div", { className: "heading" }, make("h3", { text: "Histogram" }), make("label", { className: "check aside" }, log, "log counts"));
  return make("div", {}, heading, plot);
}
