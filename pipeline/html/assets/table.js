// The table: only the rows in view are in the document, however many tensors there are.

const OPEN_ROWS = 80;
const EXTRA = 12; // rows above and below the view, so that scrolling shows no gap
const stats = data.stats;

const text = (column) => (i) => coded(column, i) ?? "";
const inspectColumns = () => [
  { id: "role", title: "Role", width: "118px", value: text(tensors.role) },
  { id: "dtype", title: "Dtype", width: "72px", value: text(tensors.dtype) },
  { id: "shape", title: "Shape", width: "124px", number: true, value: (i) => tensors.size[i], text: (i) => shaped(tensors.shape[i]) },
  { id: "bytes", title: "Size", width: "86px", number: true, value: (i) => tensors.bytes[i], text: (i) => human(tensors.bytes[i]) },
  ...(stats ? ["mean", "std", "min", "max"].map(measure) : []),
  ...(stats ? [{ id: "zeros", title: "Zeros", width: "66px", number: true, value: (i) => (stats.size[i] ? stats.zeros[i] / stats.size[i] : null), text: (i) => (stats.size[i] ? share(stats.zeros[i], stats.size[i]) : "") }] : []),
];
const measure = (id) => ({
  id, title: id[0].toUpperCase() + id.slice(1), width: "78px", number: true,
  value: (i) => stats[id][i], text: (i) => shown(stats[id][i]),
});
const distance = (id, title) => ({
  id, title, width: "84px", number: true, value: (i) => tensors[id][i], text: (i) => shown(tensors[id][i]),
});
const diffColumns = () => [
  { id: "verdict", title: "Verdict", width: "112px", value: text(tensors.verdict) },
  { id: "dtype", title: "Dtype", width: differs(dtypes) ? "134px" : "72px", value: text(tensors.dtype), text: dtypes },
  { id: "shape", title: "Shape", width: differs(shapes) ? "200px" : "124px", number: true, value: (i) => tensors.size[i], text: shapes },
  distance("relative", "Relative L2"), distance("most", "Max abs"), distance("cosine", "Cosine"),
  { id: "share", title: "Elements", width: "86px", number: true, value: (i) => tensors.share[i], text: (i) => (tensors.share[i] === null ? "" : share(real(tensors.share[i]), 1)) },
];
const fromTo = (a, b) => (!b || a === b ? a : `${a} → ${b}`);
const dtypes = (i) => fromTo(coded(tensors.dtype, i), coded(tensors.dtypeB, i));
const shapes = (i) => fromTo(shaped(tensors.shape[i]), shaped(tensors.shapeB[i]));
const differs = (texts) => tensors.name.some((_, i) => texts(i).includes("→"));
const columns = isDiff ? diffColumns() : inspectColumns();
const nameColumn = { id: "name", title: "Name", width: "minmax(200px, 1fr)", value: (i) => tensors.name[i] };

const view = {
  tree: false, sort: null, descending: false, words: [], picks: {}, flagged: false,
  rows: [], picked: null, matched: total,
};
let root = null; // the tree; grown when it is first looked at

const layered = tensors.name.some((name) => name.includes(data.separator));
const haystack = tensors.name.map((name, i) =>
  [name, sparse(tensors.key, i), sparse(tensors.other, i)].filter(Boolean).join("\n").toLowerCase());

function matches(i) {
  return view.words.every((word) => haystack[i].includes(word))
    && Object.entries(view.picks).every(([column, code]) => tensors[column].codes[i] === code)
    && (!view.flagged || flagsOf.has(i));
}

const isFiltered = () => view.words.length || view.flagged || Object.keys(view.picks).length;

function refresh() {
  const kept = [];
  for (let i = 0; i < total; i += 1) if (matches(i)) kept.push(i);
  view.matched = kept.length;
  view.rows = view.tree ? treeRows(kept) : sorted(kept).map((i) => ({ i, depth: 0 }));
  const bytes = kept.reduce((sum, i) => sum + tensors.bytes[i], 0);
  find("found").textContent = isFiltered()
    ? `${counted(kept.length)} of ${counted(total)} · ${human(bytes)}`
    : `${counted(total)} · ${human(bytes)}`;
  draw();
}

function order(a, b) {
  if (typeof a === "string" || typeof b === "string") return String(a).localeCompare(String(b), "en", { numeric: true });
  return a - b;
}

// What has no value stays at the end, whichever way the rest is sorted; NaN is above all numbers.
function comparable(value) {
  const found = typeof value === "string" && value in { nan: 1, inf: 1, "-inf": 1 } ? real(value) : value;
  return Number.isNaN(found) ? Infinity : found;
}

function sorted(indices) {
  const column = [nameColumn, ...columns].find((each) => each.id === view.sort);
  if (!column) return indices;
  const sign = view.descending ? -1 : 1;
  const keyed = indices.map((i) => [comparable(column.value(i)), i]);
  const absent = keyed.filter(([value]) => value === null);
  const present = keyed.filter(([value]) => value !== null);
  present.sort((a, b) => sign * order(a[0], b[0]) || a[1] - b[1]);
  return [...present, ...absent].map(([, i]) => i);
}

function treeRows(kept) {
  root ??= planted();
  const wanted = isFiltered() ? new Set(kept) : null;
  const rows = [];
  walk(root, 0, wanted, rows);
  return rows;
}

// A small model is shown whole; of a large one, as many levels as fit on a screen or two.
function planted() {
  const tree = grown(tensors.name.keys());
  let level = [tree], rows = 0;
  while (level.length && rows + level.reduce((sum, each) => sum + each.entries.length, 0) <= OPEN_ROWS) {
    level.forEach((layer) => { layer.open = true; rows += layer.entries.length; });
    level = level.flatMap((layer) => layer.entries.filter((each) => typeof each !== "number"));
  }
  return tree;
}

function walk(layer, depth, wanted, rows) {
  for (const entry of entriesOf(layer)) {
    if (typeof entry === "number") {
      if (!wanted || wanted.has(entry)) rows.push({ i: entry, depth });
      continue;
    }
    const at = rows.length;
    rows.push({ layer: entry, depth, open: wanted !== null || entry.open });
    if (rows[at].open) walk(entry, depth + 1, wanted, rows);
    if (wanted && rows.length === at + 1) rows.pop();
  }
}

function entriesOf(layer) {
  if (!view.sort) return layer.entries;
  const sign = view.descending ? -1 : 1;
  const key = (entry) => {
    if (view.sort === "bytes") return typeof entry === "number" ? tensors.bytes[entry] : entry.bytes;
    return typeof entry === "number" ? leafOf(entry) : entry.label;
  };
  return [...layer.entries].sort((a, b) => sign * order(key(a), key(b)));
}

// Drawing

const rowHeight = () => parseFloat(getComputedStyle(document.documentElement).getPropertyValue("--row"));

function draw() {
  const height = rowHeight(), scroller = find("scroller"), rows = find("rows");
  rows.style.height = `${Math.max(view.rows.length * height, 80)}px`;
  if (!view.rows.length) {
    rows.replaceChildren(make("p", { className: "empty", text: total ? "Nothing matches." : "There are no tensors." }));
    return;
  }
  const first = Math.max(Math.floor(scroller.scrollTop / height) - EXTRA, 0);
  const last = Math.min(Math.ceil((scroller.scrollTop + scroller.clientHeight) / height) + EXTRA, view.rows.length);
  const made = [];
  for (let at = first; at < last; at += 1) {
    const row = view.rows[at].layer ? layerRow(view.rows[at]) : tensorRow(view.rows[at]);
    row.style.top = `${at * height}px`;
    row.setAttribute("role", "row");
    row.setAttribute("aria-rowindex", at + 2);
    made.push(row);
  }
  rows.replaceChildren(...made);
}

function tensorRow({ i, depth }) {
  const row = make("div", { className: i === view.picked ? "row picked" : "row", dataset: { tensor: i } });
  const parts = steps(i), leaf = parts.at(-1);
  const path = view.tree || parts.length < 2 ? "" : parts.slice(0, -1).join(data.separator) + data.separator;
  const name = make("div", { className: "name", title: tensors.name[i] });
  name.setAttribute("role", "cell");
  if (view.tree) row.style.setProperty("--indent", `${depth * 16 + 16}px`);
  const flag = worst(flagsOf.get(i));
  if (flag) name.append(make("span", { className: `flagged ${flag}`, title: flagsOf.get(i).map((each) => each.text).join("\n") }));
  if (path) name.append(make("bdi", { className: "path", text: path }));
  name.append(make("bdi", { className: "leaf", text: leaf }));
  row.append(name, ...columns.map((column) => cellOf(column, i)), ...metaOf(i));
  return row;
}

function cellOf(column, i) {
  const value = (column.text ?? column.value)(i);
  const cell = make("div", { className: column.number ? "cell number" : "cell", title: value });
  cell.setAttribute("role", "cell");
  if (column.id === "verdict") cell.append(markOf(value)); else cell.textContent = value;
  return cell;
}

const markOf = (verdict) => make("span", { className: `mark ${verdict.split(" ").at(-1)}`, text: verdict });

// On a narrow screen a second line takes the place of the columns.
function metaOf(i) {
  const meta = make("div", { className: "meta" });
  if (isDiff) meta.append(markOf(coded(tensors.verdict, i)), ` ${columns[2].text(i)}`);
  else meta.textContent = [coded(tensors.dtype, i), shaped(tensors.shape[i]), coded(tensors.role, i)].join(" · ");
  const end = isDiff ? shown(tensors.relative[i]) : human(tensors.bytes[i]);
  return [meta, make("div", { className: "meta number", text: end })];
}

function layerRow(entry) {
  const { layer, depth, open } = entry;
  const row = make("div", { className: "row layer" });
  row.setAttribute("aria-expanded", open);
  const name = make("div", { className: "name", title: layer.label });
  name.setAttribute("role", "cell");
  row.style.setProperty("--indent", `${depth * 16}px`);
  name.append(make("span", { className: "toggle", text: open ? "▼" : "▶" }), make("bdi", { className: "leaf", text: layer.label + data.separator }));
  const count = `${counted(layer.count)} tensor${layer.count === 1 ? "" : "s"}`;
  const texts = { role: count, verdict: count, bytes: human(layer.bytes) };
  const cells = columns.map((column) => make("div", { className: column.number ? "cell number" : "cell", text: texts[column.id] ?? "" }));
  row.append(name, ...cells, make("div", { className: "meta", text: count }), make("div", { className: "meta number", text: human(layer.bytes) }));
  row.addEventListener("click", () => { layer.open = !layer.open; refresh(); });
  return row;
}

// Controls

function headings() {
  find("table").style.setProperty("--grid", [nameColumn, ...columns].map((each) => each.width).join(" "));
  find("columns").replaceChildren(...[nameColumn, ...columns].map((column) => {
    const button = make("button", { type: "button", text: column.title, title: `Sort by ${column.title.toLowerCase()}`, onclick: () => sortBy(column) });
    const head = make("div", { className: column.number ? "number" : "", dataset: { column: column.id } }, button);
    head.setAttribute("role", "columnheader");
    const sort = view.sort !== column.id ? "none" : view.descending ? "descending" : "ascending";
    head.setAttribute("aria-sort", sort);
    return head;
  }));
}

// The first click sorts as one most often wants it; the third gives the model's own order back.
function sortBy(column) {
  const usual = Boolean(column.number);
  if (view.sort !== column.id) Object.assign(view, { sort: column.id, descending: usual });
  else if (view.descending === usual) view.descending = !usual;
  else view.sort = null;
  if (view.tree && view.sort && !["name", "bytes"].includes(view.sort)) arrange(false);
  headings();
  find("scroller").scrollTop = 0;
  refresh();
}

function arrange(tree) {
  view.tree = tree;
  if (tree && view.sort && !["name", "bytes"].includes(view.sort)) view.sort = null;
  find("as-tree").setAttribute("aria-pressed", tree);
  find("as-list").setAttribute("aria-pressed", !tree);
  headings();
}

function selectOf(column, title) {
  const { texts, codes } = tensors[column];
  if (texts.length < 2) return null;
  const counts = texts.map(() => 0);
  for (const code of codes) if (code >= 0) counts[code] += 1;
  const select = make("select", { id: `pick-${column}`, onchange: () => {
    if (select.value === "") delete view.picks[column]; else view.picks[column] = Number(select.value);
    find("scroller").scrollTop = 0;
    refresh();
  } }, make("option", { value: "", text: title }),
  ...texts.map((each, code) => make("option", { value: code, text: `${each} (${counted(counts[code])})` })));
  select.setAttribute("aria-label", title);
  return select;
}

function onlyFlagged() {
  if (!flagsOf.size) return null;
  const box = make("input", { type: "checkbox", id: "flagged", onchange: () => {
    view.flagged = box.checked;
    find("scroller").scrollTop = 0;
    refresh();
  } });
  return make("label", { className: "check" }, box, "Flagged");
}

function search(words) {
  view.words = words.toLowerCase().split(/\s+/).filter(Boolean);
  find("scroller").scrollTop = 0;
  refresh();
}

function table() {
  const selects = [isDiff ? selectOf("verdict", "All verdicts") : null, selectOf("role", "All roles"), selectOf("dtype", "All dtypes"), onlyFlagged()];
  find("selects").append(...selects.filter(Boolean));
  find("filters").addEventListener("submit", (event) => event.preventDefault());
  find("search").addEventListener("input", (event) => search(event.target.value));
  find("as-tree").addEventListener("click", () => { arrange(true); refresh(); });
  find("as-list").addEventListener("click", () => { arrange(false); refresh(); });
  find("as-tree").parentElement.hidden = !layered;
  find("scroller").addEventListener("scroll", () => requestAnimationFrame(draw), { passive: true });
  find("rows").addEventListener("click", (event) => {
    const row = event.target.closest("[data-tensor]");
    if (row) open(Number(row.dataset.tensor));
  });
  find("table").setAttribute("aria-rowcount", total + 1);
  find("scroller").addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!step || view.picked === null) return;
    event.preventDefault();
    move(step);
  });
  window.addEventListener("resize", draw);
  arrange(layered && !isDiff);
  refresh();
}

// Show a tensor's row, whatever is set to hide it.
function reveal(i) {
  if (!matches(i)) unfilter();
  if (view.tree) {
    root ??= planted();
    unfold(root, i);
    refresh();
  }
  const at = view.rows.findIndex((row) => row.i === i);
  const scroller = find("scroller"), height = rowHeight();
  const top = at * height;
  if (top < scroller.scrollTop || top + height > scroller.scrollTop + scroller.clientHeight) {
    scroller.scrollTop = Math.max(top - scroller.clientHeight / 2, 0);
  }
  draw();
}

function unfold(layer, i) {
  for (const entry of layer.entries) {
    if (entry === i || (typeof entry !== "number" && unfold(entry, i))) {
      layer.open = true;
      return true;
    }
  }
  return false;
}

function unfilter() {
  Object.assign(view, { words: [], picks: {}, flagged: false });
  find("search").value = "";
  for (const select of find("selects").querySelectorAll("select")) select.value = "";
  if (find("flagged")) find("flagged").checked = false;
  refresh();
}
