// What the page holds, how it is shown as text, and the tree of layers.
// Texts of the model reach the page as text nodes only, never as markup.

const data = JSON.parse(document.getElementById("data").textContent);
const tensors = data.tensors;
const total = tensors.name.length;
const MAX_LAYERS = 64; // of a name; what is deeper stays in one piece
const isDiff = data.kind === "diff";

const find = (id) => document.getElementById(id);
const coded = (column, i) => (column.codes[i] < 0 ? null : column.texts[column.codes[i]]);
const sparse = (column, i) => column?.[i] ?? null;

function make(tag, { text, dataset, ...words } = {}, ...children) {
  const made = Object.assign(document.createElement(tag), words);
  if (text !== undefined && text !== null) made.textContent = text;
  Object.assign(made.dataset, dataset);
  made.append(...children.filter((each) => each !== null && each !== undefined));
  return made;
}

// A name keeps to itself the direction in which it is written.
const isolated = (text) => make("bdi", { text });

// Numbers

const real = (value) =>
  typeof value !== "string" ? value : { nan: NaN, inf: Infinity, "-inf": -Infinity }[value];

function shown(value) {
  if (value === null || value === undefined) return "";
  const x = real(value);
  if (Number.isNaN(x)) return "NaN";
  if (!Number.isFinite(x)) return x > 0 ? "∞" : "−∞";
  const size = Math.abs(x);
  const text =
    Number.isInteger(x) && size < 1e9 ? x.toLocaleString("en")
    : size >= 1e-3 && size < 1e5 ? x.toPrecision(4)
    : x.toExponential(2);
  return text.replaceAll("-", "−");
}

const counted = (value) => value.toLocaleString("en");

function human(bytes) {
  const units = ["bytes", "kB", "MB", "GB", "TB"];
  let at = 0;
  // A number that would round up to 1,000 belongs to the next unit.
  while (at < units.length - 1 && bytes >= (at ? 999.5 : 1000)) { bytes /= 1000; at += 1; }
  if (!at) return `${bytes} ${bytes === 1 ? "byte" : "bytes"}`;
  return `${bytes >= 999.5 ? counted(Math.round(bytes)) : bytes.toPrecision(3)} ${units[at]}`;
}

function share(part, whole) {
  if (!whole) return "";
  const percent = (100 * part) / whole;
  if (!part || percent === 100) return `${percent} %`;
  if (percent < 0.01) return "< 0.01 %";
  return percent > 99.99 ? "> 99.99 %" : `${percent.toPrecision(percent < 10 ? 2 : 3)} %`;
}

const shaped = (shape) => (shape === null ? "" : shape.length ? shape.join("×") : "scalar");

function clipped(text, length) {
  return text.length > length ? `…${text.slice(1 - length)}` : text;
}

// Tensors

const steps = (i) => {
  const parts = tensors.name[i].split(data.separator);
  return parts.length <= MAX_LAYERS
    ? parts
    : [...parts.slice(0, MAX_LAYERS), parts.slice(MAX_LAYERS).join(data.separator)];
};
const leafOf = (i) => steps(i).at(-1);
const layerOf = (i) => steps(i).slice(0, -1).join(data.separator);

const LEVELS = ["error", "warning", "note"];
const flagsOf = new Map(); // by tensor
for (const finding of data.findings) {
  if (finding.tensor === null) continue;
  if (!flagsOf.has(finding.tensor)) flagsOf.set(finding.tensor, []);
  flagsOf.get(finding.tensor).push(finding);
}
const worst = (findings) =>
  LEVELS.find((level) => findings?.some((each) => each.level === level)) ?? null;

// The tree: a layer has entries in the order of the model, which are tensors or layers.

function branch(label, parent) {
  return { label, parent, entries: [], inner: new Map(), bytes: 0, count: 0, open: false };
}

function grown(indices) {
  const root = branch("", null);
  for (const i of indices) {
    let at = root;
    for (const step of steps(i).slice(0, -1)) {
      let next = at.inner.get(step);
      if (!next) {
        next = branch(step, at);
        at.inner.set(step, next);
        at.entries.push(next);
      }
      at = next;
    }
    at.entries.push(i);
    for (let up = at; up; up = up.parent) { up.bytes += tensors.bytes[i]; up.count += 1; }
  }
  root.entries = root.entries.map(joined);
  return root;
}

// A layer that holds nothing but another layer is one with it.
function joined(entry) {
  if (typeof entry === "number") return entry;
  while (entry.entries.length === 1 && typeof entry.entries[0] !== "number") {
    const only = entry.entries[0];
    entry.label += data.separator + only.label;
    entry.entries = only.entries;
  }
  for (const each of entry.entries) if (typeof each !== "number") each.parent = entry;
  entry.entries = entry.entries.map(joined);
  return entry;
}
