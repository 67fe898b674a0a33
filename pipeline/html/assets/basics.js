// Elements, texts and numbers, for all pages.
// Texts of others reach the page as text nodes only, never as markup.

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

// What lies compressed in the page.
async function unzipped(id) {
  const packed = atob(find(id).textContent);
  const bytes = new Uint8Array(packed.length);
  for (let at = 0; at < packed.length; at += 1) bytes[at] = packed.charCodeAt(at);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).text();
}
