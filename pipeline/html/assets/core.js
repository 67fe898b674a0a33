// What the page holds, and the tree of layers.

const data = JSON.parse(document.getElementById("data").textContent);
const tensors = data.tensors;
const total = tensors.name.length;
const MAX_LAYERS = 64; // of a name; what is deeper stays in one piece
const isDiff = data.kind === "diff";

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
