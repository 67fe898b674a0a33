// The table of a batch's models: only the rows in view are in the document, however many there are.

const EXTRA = 12; // rows above and below the view, so that scrolling shows no gap
const view = { rows: [], words: [], picks: {}, sort: null, descending: false, picked: null };
let models = null, texts = []; // columns; and of each model what a search looks through

const state = (i) => coded(models.state, i);
const took = (seconds) => `${seconds < 10 ? seconds.toFixed(2) : counted(Math.round(seconds))} s`;
const since = (i) => (models.ended[i] === null ? "" : `+${took(models.ended[i])}`);
const moment = (i) => (models.ended[i] === null ? "" : new Date(1000 * (models.first + models.ended[i])).toISOString().replace("T", " ").slice(0, 19) + " UTC");
const sized = (value) => (value === null ? "" : human(value));
const columns = [
  { id: "target", title: "Target", width: "minmax(200px, 3fr)", value: (i) => models.target[i] },
  { id: "state", title: "State", width: "96px", value: state },
  { id: "formats", title: "Formats", width: "minmax(110px, 1fr)", value: (i) => coded(models.formats, i) ?? "" },
  { id: "before", title: "Read", width: "84px", number: true, value: (i) => models.before[i], text: (i) => sized(models.before[i]) },
  { id: "after", title: "Written", width: "84px", number: true, value: (i) => models.after[i], text: (i) => (state(i) === "done" ? human(models.after[i]) : "") },
  { id: "seconds", title: "Took", width: "76px", number: true, value: (i) => models.seconds[i], text: (i) => took(models.seconds[i]) },
  { id: "ended", title: "Ended", width: "84px", number: true, value: (i) => models.ended[i], text: since },
  { id: "error", title: "Error", width: "minmax(120px, 2fr)", value: (i) => sparse(models.error, i) ?? "" },
];
const textOf = (column, i) => (column.text ?? column.value)(i);

function matches(i) {
  if (!view.words.every((word) => texts[i].includes(word))) return false;
  return Object.entries(view.picks).every(([column, wanted]) =>
    column === "exit" ? sparse(models.exit, i) === wanted : models[column].codes[i] === wanted);
}

function order(a, b) {
  if (a === b) return 0;
  if (a === null || a === "") return 1;
  if (b === null || b === "") return -1;
  return a < b ? -1 : 1;
}

function refresh() {
  const rows = [...models.target.keys()].filter(matches);
  const column = columns.find((each) => each.id === view.sort);
  if (column) {
    const keys = rows.map(column.value), sign = view.descending ? -1 : 1;
    const places = rows.map((_, at) => at);
    const isEmpty = (key) => key === null || key === "";
    // What has no value stays at the end, whichever way it is sorted.
    places.sort((a, b) => (isEmpty(keys[a]) || isEmpty(keys[b]) ? 1 : sign) * order(keys[a], keys[b]));
    view.rows = places.map((at) => rows[at]);
  } else view.rows = rows;
  const before = rows.reduce((sum, i) => sum + (models.before[i] ?? 0), 0);
  find("found").textContent = `${counted(rows.length)} of ${counted(models.target.length)} · ${human(before)}`;
  draw();
}

const rowHeight = () => parseFloat(getComputedStyle(document.documentElement).getPropertyValue("--row"));

function draw() {
  const height = rowHeight(), scroller = find("scroller"), rows = find("rows");
  rows.style.height = `${Math.max(view.rows.length * height, 80)}px`;
  if (!view.rows.length) {
    rows.replaceChildren(make("p", { className: "empty", text: models.target.length ? "Nothing matches." : "There are no models." }));
    return;
  }
  const first = Math.max(Math.floor(scroller.scrollTop / height) - EXTRA, 0);
  const last = Math.min(Math.ceil((scroller.scrollTop + scroller.clientHeight) / height) + EXTRA, view.rows.length);
  rows.replaceChildren(...view.rows.slice(first, last).map((i, at) => rowOf(i, (first + at) * height, first + at + 2)));
}

function rowOf(i, top, number) {
  const row = make("div", { className: i === view.picked ? "row picked" : "row", dataset: { model: i } });
  row.setAttribute("role", "row");
  row.setAttribute("aria-rowindex", number);
  row.style.top = `${top}px`;
  const [name, ...others] = columns.map((column) => cellOf(column, i));
  const meta = make("div", { className: "meta" }, markOf(i), ` ${took(models.seconds[i])}`);
  row.append(name, ...others, meta, make("div", { className: "meta number", text: sized(models.before[i]) }));
  return row;
}

function cellOf(column, i) {
  const text = textOf(column, i), kind = column.id === "target" ? "name" : column.number ? "cell number" : "cell";
  const cell = make("div", { className: kind, title: text });
  cell.setAttribute("role", "cell");
  cell.append(column.id === "state" ? markOf(i) : isolated(text));
  return cell;
}

function markOf(i) {
  const code = sparse(models.exit, i);
  return make("span", { className: `mark ${state(i)}`, text: code === null ? state(i) : `exit ${code}` });
}

// One model

function show(i) {
  view.picked = i;
  const pairs = [
    ["state", state(i)], ["source", models.source[i]], ["formats", coded(models.formats, i)], ["read", models.before[i] === null ? null : `${counted(models.before[i])} bytes`],
    ["written", state(i) === "done" ? `${counted(models.after[i])} bytes` : null], ["took", took(models.seconds[i])], ["ended", moment(i)], ["attempts", counted(sparse(models.attempts, i) ?? 1)],
  ];
  const list = make("dl", { className: "pairs" }, ...pairs.filter(([, text]) => text).map(([name, text]) =>
    make("div", { className: "whole" }, make("dt", { text: name }), make("dd", {}, isolated(text)))));
  const error = sparse(models.error, i), hint = sparse(models.hint, i);
  find("details").replaceChildren(
    make("div", { className: "tools" }, closer()), make("h2", {}, isolated(models.target[i])),
    ...(error ? [make("p", { className: "problem error" }, isolated(error))] : []),
    ...(hint ? [make("p", { className: "problem note" }, "hint: ", isolated(hint))] : []), list);
  find("details").hidden = false;
  find("details").focus();
  draw();
}

function closer() {
  const button = make("button", { type: "button", text: "✕", onclick: hide });
  button.setAttribute("aria-label", "Close");
  return button;
}

function hide() {
  find("details").hidden = true;
  view.picked = null;
  draw();
}

// Controls

function headings() {
  find("table").style.setProperty("--grid", columns.map((each) => each.width).join(" "));
  find("columns").replaceChildren(...columns.map((column) => {
    const button = make("button", { type: "button", text: column.title, title: `Sort by ${column.title.toLowerCase()}`, onclick: () => sortBy(column) });
    const head = make("div", { className: column.number ? "number" : "" , dataset: { column: column.id } }, button);
    head.setAttribute("role", "columnheader");
    head.setAttribute("aria-sort", view.sort !== column.id ? "none" : view.descending ? "descending" : "ascending");
    return head;
  }));
}

// The first click sorts as one most often wants it; the third gives the order of paths back.
function sortBy(column) {
  const usual = Boolean(column.number);
  if (view.sort !== column.id) Object.assign(view, { sort: column.id, descending: usual });
  else if (view.descending === usual) view.descending = !usual;
  else view.sort = null;
  headings();
  top();
}

function top() {
  find("scroller").scrollTop = 0;
  refresh();
}

function selectOf(column, title, options) {
  if (options.length < 2) return null;
  const select = make("select", { id: `pick-${column}`, onchange: () => pick(column, select.value) }, make("option", { value: "", text: title }),
    ...options.map(([value, label, count]) => make("option", { value, text: `${label} (${counted(count)})` })));
  select.setAttribute("aria-label", title);
  return select;
}

function pick(column, value) {
  if (value === "") delete view.picks[column]; else view.picks[column] = Number(value);
  top();
}

function optionsOf({ texts: labels, codes }) {
  const counts = labels.map(() => 0);
  for (const code of codes) if (code >= 0) counts[code] += 1;
  return labels.map((label, code) => [code, label, counts[code]]);
}

function onlyExit(code) {
  view.picks = { exit: code };
  view.words = [];
  find("search").value = "";
  for (const select of find("selects").querySelectorAll("select")) select.value = "";
  find("all").hidden = false;
  top();
  find("models").scrollIntoView();
}

function controls() {
  const all = make("button", { type: "button", id: "all", className: "more", text: "Show all", hidden: true, onclick: () => { view.picks = {}; all.hidden = true; top(); } });
  find("selects").append(...[selectOf("state", "All states", optionsOf(models.state)), selectOf("formats", "All formats", optionsOf(models.formats)), all].filter(Boolean));
  find("filters").addEventListener("submit", (event) => event.preventDefault());
  find("search").addEventListener("input", (event) => {
    view.words = event.target.value.toLowerCase().split(/\s+/).filter(Boolean);
    top();
  });
  find("scroller").addEventListener("scroll", () => requestAnimationFrame(draw), { passive: true });
  find("rows").addEventListener("click", (event) => {
    const row = event.target.closest("[data-model]");
    if (row) show(Number(row.dataset.model));
  });
  find("table").setAttribute("aria-rowcount", models.target.length + 1);
  document.querySelectorAll("[data-exit]").forEach((button) => button.addEventListener("click", (event) => {
    event.preventDefault(); // it stands in what opens and closes its group
    onlyExit(Number(button.dataset.exit));
  }));
  document.addEventListener("keydown", (event) => { if (event.key === "Escape" && !find("details").hidden) hide(); });
  window.addEventListener("resize", draw);
}

async function start() {
  models = JSON.parse(await unzipped("data"));
  texts = models.target.map((target, i) => `${target} ${models.source[i]} ${sparse(models.error, i) ?? ""}`.toLowerCase());
  controls();
  headings();
  refresh();
  find("table").dataset.ready = "yes";
}

start().catch((error) => {
  find("found").textContent = "This browser cannot show the table.";
  console.error(error);
});
