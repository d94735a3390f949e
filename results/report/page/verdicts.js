// What every trial says of one image: a table with a body for each σ, the methods below each other.
function verdicts(dataset, image) {
  const name = (label) => dataset.classes[label] ?? `class ${label}`;
  const sigmas = [...new Set(dataset.trials.map((trial) => trial.sigma))];
  const headings = ["Method", "Outcome", "Radius", "p_lower", "Copies", "Counts"];
  return html("table", { class: "verdicts" },
    html("caption", { class: "unseen" }, `Image ${dataset.index[image]}: the outcome of each trial`),
    html("thead", {}, html("tr", {}, headings.map((heading) => html("th", { scope: "col" }, heading)))),
    sigmas.map((sigma) => {
      const trials = dataset.trials.filter((trial) => trial.sigma === sigma);
      const largest = Math.max(...trials.map((trial) => trial.largest));
      return html("tbody", {},
        html("tr", { class: "group" }, html("th", { scope: "rowgroup", colspan: headings.length }, sigma ? `σ = ${sigma}` : "σ per input")),
        trials.map((trial) => verdict(trial, image, dataset.label[image], largest, name)));
    }));
}

function verdict(trial, image, label, largest, name) {
  const status = trial.status[image];
  const right = status === CERTIFIED && trial.predicted[image] === label;
  const estimated = status !== MISCLASSIFIED && status !== ABSENT;
  const cell = (heading, ...children) => html("td", { "data-heading": heading }, ...children);
  const number = (heading, give) => (estimated
    ? cell(heading, ...[give()].flat()) : html("td", { class: "empty" }, "–"));
  return html("tr", { class: right ? "right" : "", "data-trial": trial.trial },
    html("th", { scope: "row" }, trial.title),
    cell("Outcome", outcome(trial, image, label, name)),
    number("Radius", () => radiusBar(trial.radius[image], largest)),
    number("p_lower", () => trial.p_lower[image].toFixed(6)),
    number("Copies", () => grouped(trial.n[image])),
    number("Counts", () => countBars(trial, image, label, name)));
}

function outcome(trial, image, label, name) {
  const [predicted, selected] = [trial.predicted[image], trial.selected[image]];
  switch (trial.status[image]) {
    case ABSENT: return "not certified in this trial";
    case CERTIFIED: return predicted === label ? `certified: ${name(predicted)}` : `certified, but wrong: ${name(predicted)}`;
    case ABSTAINED: return selected < 0 ? "abstains" : `abstains; selected: ${name(selected)}`;
    default: return `misclassified as ${name(selected)}; nothing estimated`;
  }
}

function radiusBar(radius, largest) {
  const bar = html("span", { class: "bar", "aria-hidden": "true" });
  bar.style.setProperty("--share", largest > 0 ? radius / largest : 0);
  return [html("span", { class: "value" }, radius.toFixed(4)), bar];
}

function countBars(trial, image, label, name) {
  if (!trial.counts) return "counts unknown";
  const classes = trial.num_classes;
  const counts = Array.from(trial.counts.subarray(image * classes, (image + 1) * classes));
  const said = counts.map((count, place) => `${name(place)} ${grouped(count)}`);
  const order = counts.map((_, place) => place).filter((place) => counts[place]).sort((a, b) => counts[b] - counts[a]);
  const width = Math.max(2, 100 / classes);
  const height = (count) => (count ? Math.max(1, (28 * count) / trial.n[image]) : 0);
  const bars = svg("svg", { class: "counts", role: "img", "aria-label": said.join(", "), width: width * classes, height: 30 },
    svg("title", {}, said.join("\n")),
    svg("line", { class: "axis", x1: 0, x2: width * classes, y1: 29.5, y2: 29.5 }),
    counts.map((count, place) => svg("rect", {
      class: place === label ? "label" : "", x: place * width + 1, width: Math.max(1, width - 2),
      y: 29 - height(count), height: height(count),
    })));
  const more = order.length > 3 ? ` and ${order.length - 3} more` : "";
  const words = order.slice(0, 3).map((place) => said[place]).join(", ") + more;
  return html("div", { class: "tally" }, bars, html("span", { class: "note" }, words));
}
