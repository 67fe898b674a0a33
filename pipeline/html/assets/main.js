// Flags, plots that come into view, links to tensors.

const SHOWN_FLAGS = 8; // of a rule, before one asks for more
const MORE_FLAGS = 500;

function flags() {
  if (!data.findings.length || isDiff) return;
  const counts = LEVELS.map((level) => [level, data.findings.filter((each) => each.level === level).length]).filter(([, count]) => count);
  find("flags").hidden = find("to-flags").hidden = find("flag-figure").hidden = false;
  find("flag-count").textContent = counts.map(([level, count]) => `${counted(count)} ${level}${count === 1 ? "" : "s"}`).join(", ");
  const [value, label] = find("flag-figure").children;
  value.textContent = counted(data.findings.length);
  label.append(make("a", { href: "#flags", text: data.findings.length === 1 ? "flag" : "flags" }));
  find("flag-figure").classList.add(counts[0][0] === "error" ? "bad" : "odd");
  const rules = Map.groupBy ? Map.groupBy(data.findings, (each) => each.rule) : grouped(data.findings);
  const rank = (findings) => LEVELS.indexOf(worst(findings));
  const sortedRules = [...rules].sort((a, b) => rank(a[1]) - rank(b[1]));
  find("flag-list").append(...sortedRules.map(([rule, findings], at) => flagGroup(rule, findings, at < 4)));
}

function grouped(findings) {
  const rules = new Map();
  for (const each of findings) rules.set(each.rule, [...(rules.get(each.rule) ?? []), each]);
  return rules;
}

function flagGroup(rule, findings, isOpen) {
  const level = worst(findings);
  const list = make("ul", { className: "plain" });
  const group = make("details", { className: "flag-group", open: isOpen },
    make("summary", {}, make("span", { className: `level ${level}`, text: level }), make("b", { text: rule }), make("span", { className: "aside", text: counted(findings.length) })), list);
  let shownSoFar = 0;
  const more = make("button", { type: "button", className: "more", onclick: () => extend(MORE_FLAGS) });
  const extend = (by) => {
    list.append(...findings.slice(shownSoFar, shownSoFar + by).map(flag));
    shownSoFar = Math.min(shownSoFar + by, findings.length);
    more.textContent = `Show more of ${counted(findings.length)}`;
    more.hidden = shownSoFar === findings.length;
  };
  extend(SHOWN_FLAGS);
  group.append(more);
  return group;
}

function flag(finding) {
  const place = [finding.path, finding.where].filter(Boolean).join(": ");
  const subject = finding.tensor !== null
    ? make("a", { href: `#t${finding.tensor}` }, isolated(tensors.name[finding.tensor]))
    : make("span", { className: "mono" }, isolated(finding.name ?? place));
  const extra = finding.tensor !== null || finding.name ? place : "";
  return make("li", {}, subject, make("span", {}, isolated(finding.text), extra ? make("span", { className: "aside" }, " ", isolated(extra)) : null));
}

// Plots

const plots = { treemap, strips, heat };

function redraw(place) {
  return plots[place.dataset.plot](place).catch((error) => {
    place.textContent = "This browser cannot draw the plot.";
    console.error(error);
  });
}

function watch() {
  const places = [...document.querySelectorAll("[data-plot]")];
  const observer = new IntersectionObserver((seen) => {
    for (const { isIntersecting, target } of seen) {
      if (!isIntersecting) continue;
      observer.unobserve(target);
      redraw(target);
    }
  }, { rootMargin: "300px" });
  places.forEach((place) => observer.observe(place));
  const again = () => {
    palette.clear();
    places.filter((place) => place.dataset.drawn).forEach(redraw);
    if (view.picked !== null && find("histogram")) histogram(find("histogram"), view.picked);
  };
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", again);
  matchMedia("(max-width: 760px)").addEventListener("change", again);
}

function switches() {
  const buttons = [...document.querySelectorAll("[data-group]")];
  const press = () => buttons.forEach((each) => each.setAttribute("aria-pressed", each.dataset.group === grouping));
  buttons.forEach((each) => each.addEventListener("click", () => {
    grouping = each.dataset.group;
    press();
    redraw(find("treemap"));
  }));
  press();
  for (const button of document.querySelectorAll("[data-verdict]")) {
    button.addEventListener("click", () => {
      const select = find("pick-verdict");
      if (select) {
        select.value = tensors.verdict.texts.indexOf(button.dataset.verdict);
        select.dispatchEvent(new Event("change"));
      }
      find("tensors").scrollIntoView();
    });
  }
}

function follow() {
  const found = /^#t(\d+)$/.exec(location.hash);
  if (found && Number(found[1]) < total) show(Number(found[1])); else hide();
}

table();
flags();
switches();
watch();
window.addEventListener("hashchange", follow);
document.addEventListener("keydown", (event) => {
  if (find("details").hidden) return;
  if (event.key === "Escape") close();
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (step && find("details").contains(event.target) && event.altKey === false) { event.preventDefault(); move(step); }
});
follow();
