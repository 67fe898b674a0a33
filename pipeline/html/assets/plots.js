// Plots, each drawn when it comes into view. Labels pass `plain`: plotly.js takes tags in texts,
// and what stands between two dollar signs for a formula.

const MAX_TILES = 300;
const MIN_TILES = 15; // of a layer, if it has so many
const MAX_STRIPS = 30;
const MAX_GROUPS = 40;
const MAX_ROWS = 8; // of the heat strip
const FLOOR = -8; // log10 of the least change that has a colour of its own

let library = null;
const plotly = () => (library ??= unpacked());

async function unpacked() {
  document.head.append(make("script", { text: await unzipped("library") }));
  return window.Plotly;
}

const ENTITIES = { "&": "&amp;", "<": "&lt;", ">": "&gt;", $: "&#36;" };
const plain = (label) => label.replace(/[&<>$]/g, (char) => ENTITIES[char]);
const palette = new Map(); // of the theme; emptied when that changes
function colour(name) {
  if (!palette.has(name)) palette.set(name, getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim());
  return palette.get(name);
}
const narrow = () => window.innerWidth <= 760;

async function plot(place, traces, layout) {
  const library = await plotly();
  const text = colour("text"), line = colour("line");
  const axis = { gridcolor: line, zerolinecolor: line, linecolor: line, tickcolor: line, automargin: true, fixedrange: true };
  await library.react(place, traces, {
    paper_bgcolor: "transparent", plot_bgcolor: "transparent", showlegend: false, dragmode: false,
    font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: text },
    hoverlabel: { bgcolor: colour("surface"), bordercolor: line, font: { color: text, size: 12 }, align: "left" },
    ...layout,
    xaxis: { ...axis, ...layout.xaxis }, yaxis: { ...axis, ...layout.yaxis },
  }, { displaylogo: false, displayModeBar: false, responsive: true });
  place.dataset.drawn = "yes";
}

function listen(place, event, heard) {
  place.removeAllListeners?.(event);
  place.on?.(event, heard);
}

// Histogram of one tensor

async function histogram(place, i) {
  const counts = stats.counts[i], edges = edgesOf(i).map(real);
  const widths = counts.map((_, at) => edges[at + 1] - edges[at]);
  const log = find("log").checked;
  await plot(place, [{
    type: "bar", x: counts.map((_, at) => edges[at] + widths[at] / 2), y: counts,
    width: widths.some((each) => each > 0) ? widths : undefined,
    marker: { color: colour("accent"), line: { width: 0 } },
    text: counts.map((count, at) => `${shown(edges[at])} to ${shown(edges[at + 1])}<br>${counted(count)} (${share(count, stats.size[i])})`),
    hoverinfo: "text", textposition: "none",
  }], {
    height: 210, margin: { l: 8, r: 8, t: 8, b: 8 }, bargap: 0.04,
    xaxis: { nticks: 6 }, yaxis: { type: log ? "log" : "linear", nticks: 5, exponentformat: "SI", ...(Math.max(...counts) < 5 && !log ? { dtick: 1 } : {}) },
  });
}

function edgesOf(i) {
  const bars = stats.counts[i].length, low = real(stats.min[i]), high = real(stats.max[i]);
  return sparse(stats.edges, i) ?? Array.from({ length: bars + 1 }, (_, at) => low + ((high - low) * at) / bars);
}

// Treemap of sizes

let grouping = "layer";
const allBytes = tensors.bytes.reduce((sum, each) => sum + each, 0);
const sizeOf = (entry) => (typeof entry === "number" ? tensors.bytes[entry] : entry.bytes);

async function treemap(place) {
  const tiles = tilesOf().filter((each) => each.bytes > 0);
  const of = (field) => tiles.map(field);
  legend();
  if (!tiles.length) { place.textContent = "Nothing here takes any space."; place.dataset.drawn = "yes"; return; }
  await plot(place, [{
    type: "treemap", branchvalues: "total", maxdepth: tiles.length > MAX_TILES ? 4 : -1, tiling: { pad: 2 },
    ids: of((each) => each.id), labels: of((each) => plain(each.label)), parents: of((each) => each.parent), values: of((each) => each.bytes),
    text: of((each) => human(each.bytes)), textinfo: "label+text", hovertext: of(tileText), hoverinfo: "text",
    marker: { colors: of(paint), line: { width: 1, color: colour("surface") }, pad: { t: 20, l: 3, r: 3, b: 3 }, cornerradius: 3 },
    textfont: { color: of((each) => ink(paint(each))), size: 12 },
    pathbar: { thickness: 22, textfont: { size: 12, color: colour("text") } },
  }], { height: narrow() ? 380 : 460, uniformtext: { minsize: 9, mode: "hide" }, margin: { l: 0, r: 0, t: 26, b: 0 } });
  listen(place, "plotly_treemapclick", (event) => {
    const found = tiles[event.points[0].pointNumber];
    if (found?.tensor === undefined) return true;
    open(found.tensor);
    return false;
  });
}

function tilesOf() {
  const every = [...tensors.name.keys()];
  const all = { id: "all", label: "all", parent: "", bytes: allBytes, within: every };
  const tiles = [all];
  if (grouping === "layer") { tile(grown(every), "all", tiles); return tiles; }
  tensors.role.texts.forEach((label, code) => {
    const within = every.filter((i) => tensors.role.codes[i] === code), part = grown(within);
    const id = `role${code}`;
    tiles.push({ id, label, parent: "all", bytes: part.bytes, within });
    tile(part, id, tiles);
  });
  return tiles;
}

// A layer has tiles by its share of all, the largest entries first; what is left is one tile.
// Returns the tensors within.
function tile(layer, parent, tiles) {
  const limit = Math.max(MIN_TILES, Math.floor((MAX_TILES * layer.bytes) / allBytes));
  const entries = [...layer.entries].sort((a, b) => sizeOf(b) - sizeOf(a));
  const within = entries.slice(0, limit).flatMap((entry, at) => {
    if (typeof entry === "number") {
      tiles.push({ id: `t${entry}`, label: leafOf(entry), parent, bytes: tensors.bytes[entry], tensor: entry, within: [entry] });
      return [entry];
    }
    const made = { id: `${parent}.${at}`, label: entry.label, parent, bytes: entry.bytes };
    tiles.push(made);
    made.within = tile(entry, made.id, tiles);
    return made.within;
  });
  const rest = entries.slice(limit), hidden = rest.flatMap(leaves);
  const bytes = rest.reduce((sum, entry) => sum + sizeOf(entry), 0);
  if (rest.length) tiles.push({ id: `${parent}.rest`, label: `${counted(hidden.length)} smaller`, parent, bytes, within: hidden });
  return [...within, ...hidden];
}

const leaves = (entry) => (typeof entry === "number" ? [entry] : entry.entries.flatMap(leaves));

function tileText(each) {
  const size = `${human(each.bytes)}, ${share(each.bytes, allBytes)}`, i = each.tensor;
  if (i === undefined) return `${plain(each.label)}<br>${size}<br>${counted(each.within.length)} tensors`;
  const what = isDiff ? `${coded(tensors.verdict, i)} ${shown(tensors.relative[i])}` : coded(tensors.role, i);
  return `${plain(clipped(tensors.name[i], 80))}<br>${coded(tensors.dtype, i)} ${shaped(tensors.shape[i])}<br>${size}<br>${plain(what)}`;
}

const roleColour = (code) => colour(`c${code % 10}`);

// A layer has a shade of what is within: of the role with most bytes, or of the largest change.
function paint(each) {
  if (each.paint) return each.paint;
  const own = isDiff ? changeColour(largest(each.within)) : roleColour(mainRole(each.within));
  each.paint = each.tensor === undefined ? mixed(colour("sunken"), own, isDiff ? 0.5 : 0.28) : own;
  return each.paint;
}

const ink = (background) => (luminous(background) ? "#14181f" : "#ffffff");

function mainRole(within) {
  const bytes = tensors.role.texts.map(() => 0);
  for (const i of within) bytes[tensors.role.codes[i]] += tensors.bytes[i];
  return bytes.indexOf(Math.max(...bytes));
}

function largest(within) {
  let found = within[0];
  for (const i of within) if ((degree(i) ?? 1) > (degree(found) ?? 1)) found = i;
  return found;
}

// log10 of the relative change; the floor where nothing changed, null where there is no number.
function degree(i) {
  const verdict = coded(tensors.verdict, i), value = real(tensors.relative[i]);
  if (UNCHANGED.has(verdict) && !value) return FLOOR;
  if (value === null || !Number.isFinite(value)) return null;
  return value <= 0 ? FLOOR : Math.max(FLOOR, Math.min(Math.log10(value), 0));
}
const UNCHANGED = new Set(["same", "close", "renamed", "transposed", "cast"]);

function changeColour(i) {
  const change = degree(i);
  if (change === null) return colour("c3");
  const at = 1 - change / FLOOR;
  return at < 0.5 ? mixed(colour("cold"), colour("warm"), at * 2) : mixed(colour("warm"), colour("hot"), at * 2 - 1);
}

const channels = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
const luminous = (hex) => { const [r, g, b] = channels(hex); return 0.299 * r + 0.587 * g + 0.114 * b > 120; };
function mixed(from, to, at) {
  const [a, b] = [channels(from), channels(to)];
  return `#${a.map((each, c) => Math.round(each + (b[c] - each) * at).toString(16).padStart(2, "0")).join("")}`;
}

function legend() {
  const swatch = (background, label) => {
    const box = make("i");
    box.style.background = background;
    return make("span", {}, box, label);
  };
  if (!isDiff) {
    find("size-legend").replaceChildren(...tensors.role.texts.map((role, code) => swatch(roleColour(code), role)));
    return;
  }
  const ramp = swatch(`linear-gradient(90deg, ${colour("cold")}, ${colour("warm")}, ${colour("hot")})`, "relative L2 from 0 to 1");
  ramp.firstChild.className = "ramp";
  find("size-legend").replaceChildren(ramp, swatch(colour("c3"), "no number: missing, added, other shape"));
}

// Strips of values by layer

// Counters and the like are of another order, and would flatten all else.
const OF_MODEL = new Set(["weight", "state", "tensor", "moving average"]);
const strip = { group: 0, page: 0, groups: [] };

function stripGroups() {
  const usable = [...tensors.name.keys()].filter((i) => stats.percentiles[i]);
  const ofModel = usable.filter((i) => OF_MODEL.has(coded(tensors.role, i)));
  const model = ofModel.length ? ofModel : usable;
  const options = [["the model", model], ...byText(model, leafOf).filter(([, each]) => each.length > 1).slice(0, MAX_GROUPS)];
  const usual = model.length > MAX_STRIPS && options.length > 1 ? 1 : 0;
  if (usable.length > model.length) {
    const rest = usable.filter((i) => !OF_MODEL.has(coded(tensors.role, i)));
    options.push(...byText(rest, (i) => [coded(tensors.role, i), sparse(tensors.slot, i)].filter(Boolean).join(" ")));
  }
  strip.groups = options.map(([, each]) => each);
  strip.group = usual;
  const select = find("strip-group");
  select.replaceChildren(...options.map(([label, each], value) => make("option", { value, text: `${label} (${counted(each.length)})` })));
  select.value = usual;
  select.addEventListener("change", () => {
    Object.assign(strip, { group: Number(select.value), page: 0 });
    strips(find("strips"));
  });
}

// Tensors by what a function says of them, those with the most bytes first.
function byText(indices, of) {
  const groups = new Map();
  for (const i of indices) {
    if (!groups.has(of(i))) groups.set(of(i), []);
    groups.get(of(i)).push(i);
  }
  const bytes = (each) => each.reduce((sum, i) => sum + tensors.bytes[i], 0);
  return [...groups].sort((a, b) => bytes(b[1]) - bytes(a[1]));
}

async function strips(place) {
  if (!strip.groups.length) stripGroups();
  const every = strip.groups[strip.group];
  const page = every.slice(strip.page * MAX_STRIPS, (strip.page + 1) * MAX_STRIPS);
  pager(every.length);
  if (!page.length) { place.textContent = "No values to show."; place.dataset.drawn = "yes"; return; }
  const at = (i, percent) => real(stats.percentiles[i][stats.percents.indexOf(percent)]);
  const ys = page.map((_, y) => y);
  // Where all are called `kernel`, only what stands before it tells them apart.
  const alike = page.length > 1 && page.every((i) => leafOf(i) === leafOf(page[0]));
  const label = (i) => clipped(alike ? layerOf(i) || leafOf(i) : tensors.name[i], narrow() ? 18 : 44);
  const bars = (low, high, width, opacity) => ({
    type: "bar", orientation: "h", y: ys, base: page.map((i) => at(i, low)), x: page.map((i) => at(i, high) - at(i, low)),
    width, marker: { color: page.map((i) => roleColour(tensors.role.codes[i])), opacity, line: { width: 0 } },
    text: page.map(stripText), hoverinfo: "text", textposition: "none",
  });
  await plot(place, [
    bars(1, 99, 0.14, 0.55), bars(25, 75, 0.56, 0.9),
    { type: "scatter", mode: "markers", x: page.map((i) => at(i, 50)), y: ys, marker: { color: colour("surface"), size: 7, line: { color: colour("text"), width: 1.5 } }, text: page.map(stripText), hoverinfo: "text" },
  ], {
    height: 56 + page.length * 24, margin: { l: 8, r: 14, t: 26, b: 8 }, barmode: "overlay", hovermode: "closest",
    xaxis: { side: "top", nticks: narrow() ? 5 : 10 },
    yaxis: { tickvals: ys, ticktext: page.map((i) => plain(label(i))), range: [page.length - 0.4, -0.6], showgrid: false, ticks: "", tickfont: { family: "monospace", size: 11.5 } },
  });
  listen(place, "plotly_click", (event) => open(page[event.points[0].pointNumber]));
}

function stripText(i) {
  const percentiles = stats.percents.map((percent, at) => `${percent} %: ${shown(stats.percentiles[i][at])}`);
  return `${plain(clipped(tensors.name[i], 80))}<br>${percentiles.join("<br>")}`;
}

function pager(length) {
  const pages = Math.ceil(length / MAX_STRIPS);
  const turn = (by) => { strip.page += by; strips(find("strips")); };
  const button = (label, by) => make("button", { type: "button", text: label, disabled: strip.page + by < 0 || strip.page + by >= pages, onclick: () => turn(by) });
  const from = strip.page * MAX_STRIPS;
  find("strip-pager").replaceChildren(...(pages < 2 ? [] : [
    button("Previous", -1), button("Next", 1),
    make("span", { text: `${counted(from + 1)} to ${counted(Math.min(from + MAX_STRIPS, length))} of ${counted(length)}` }),
  ]));
}

// Heat strip of change by layer

async function heat(place) {
  const { layers, rows } = heatCells();
  const cells = rows.map((row) => layers.map((layer) => row.cells.get(layer)));
  const texts = cells.map((row) => row.map(heatText));
  const odd = cells.flatMap((row, y) => row.flatMap((cell, x) => (cell?.odd ? [[x, y]] : [])));
  const few = layers.length <= (narrow() ? 12 : 36);
  const named = { tickvals: [...layers.keys()], ticktext: layers.map((each) => plain(clipped(each, 22) || "(top)")), tickangle: -40 };
  const bare = { showgrid: false, zeroline: false, ticks: "" };
  await plot(place, [
    { type: "heatmap", z: cells.map((row) => row.map((cell) => cell?.change ?? null)), zmin: FLOOR, zmax: 0, text: texts, hoverinfo: "text", xgap: few ? 2 : 0, ygap: 2,
      colorscale: [[0, colour("cold")], [0.5, colour("warm")], [1, colour("hot")]],
      colorbar: { tickvals: [-8, -6, -4, -2, 0], ticktext: ["same", "1e−6", "1e−4", "1e−2", "1"], thickness: 10, outlinewidth: 0, len: 1 } },
    { type: "scatter", mode: "markers", x: odd.map(([x]) => x), y: odd.map(([, y]) => y), text: odd.map(([x, y]) => texts[y][x]), hoverinfo: "text",
      marker: { symbol: "x-thin", size: 8, line: { width: 2, color: colour("c3") } } },
  ], {
    height: Math.max(60 + rows.length * 30 + (few ? 90 : 20), 150), margin: { l: 8, r: 8, t: 8, b: 8 }, hovermode: "closest",
    xaxis: { ...bare, range: [-0.5, layers.length - 0.5], ...(few ? named : { title: { text: `${counted(layers.length)} layers` }, showticklabels: false }) },
    yaxis: { ...bare, tickvals: [...rows.keys()], ticktext: rows.map((each) => plain(clipped(each.label, 16))), range: [rows.length - 0.5, -0.5] },
  });
  listen(place, "plotly_click", (event) => {
    const { x, y } = event.points[0];
    if (cells[y][x]) open(cells[y][x].tensor);
  });
}

// Rows are the whole layer and what most layers have, such as a kernel and a bias.
function heatCells() {
  const every = [...tensors.name.keys()];
  const layers = [...new Set(every.map(layerOf))];
  const common = byText(every, leafOf).filter(([, each]) => each.length > 1);
  common.sort((a, b) => b[1].length - a[1].length);
  const rows = [["whole layer", every], ...common.slice(0, MAX_ROWS)].map(([label, within]) => {
    const cells = new Map();
    for (const i of within) put(cells, layerOf(i), i);
    return { label, cells };
  });
  return { layers, rows };
}

// A cell shows the most changed of its tensors.
function put(row, layer, i) {
  const change = degree(i), there = row.get(layer);
  if (!there) { row.set(layer, { change, tensor: i, odd: change === null, count: 1 }); return; }
  there.count += 1;
  there.odd ||= change === null;
  if (change !== null && (there.change === null || change > there.change)) Object.assign(there, { change, tensor: i });
}

function heatText(cell) {
  if (!cell) return "";
  const i = cell.tensor, more = cell.count > 1 ? `<br>the most of ${counted(cell.count)} tensors` : "";
  return `${plain(clipped(tensors.name[i], 80))}<br>${coded(tensors.verdict, i)} ${shown(tensors.relative[i])}${more}`;
}
