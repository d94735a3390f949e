const KINDS = {
  all: ["all images", () => true],
  some: ["only some trials certify correctly", (certifiers) => certifiers === 1],
  every: ["every trial certifies correctly", (certifiers) => certifiers === 2],
  none: ["no trial certifies correctly", (certifiers) => certifiers === 0],
};
const ORDERS = { index: "index", disagreement: "largest disagreement in radius" };

async function buildExplorer(content) {
  const place = section("images");
  hideWithout("images", content.images);
  if (!content.images.length) return;
  if (!("DecompressionStream" in window)) {
    place.append(html("p", { class: "message" }, "This browser is too old to unpack the certificates (it lacks "
      + "DecompressionStream); tables and charts are complete."));
    return;
  }
  const waiting = html("p", { role: "status" }, "Unpacking the certificates …");
  place.append(waiting);
  const datasets = await unpackImages(content.images);
  waiting.remove();
  for (const dataset of datasets) place.append(...explorer(dataset, content.tiles[dataset.name], datasets.length > 1));
}

function explorer(dataset, tiles, several) {
  const { index, label } = dataset;
  const draw = pictures(tiles);
  const name = (value) => dataset.classes[value] ?? `class ${value}`;
  let order = [];
  let cursor = 0;

  const choice = (options) => html("select", { on: { change: filter } },
    options.map(([value, text]) => html("option", { value }, text)));
  const labels = [...new Set(label)].sort((a, b) => a - b);
  const byLabel = choice([["", "any"], ...labels.map((value) => [String(value), name(value)])]);
  const byKind = choice(Object.entries(KINDS).map(([key, [text]]) => [key, text]));
  const byOrder = choice(Object.entries(ORDERS));
  const number = html("input", {
    type: "number", min: index[0], max: index[index.length - 1], inputmode: "numeric", on: { change: jump },
  });
  const previous = html("button", { type: "button", on: { click: () => step(-1) } }, "Previous");
  const next = html("button", { type: "button", on: { click: () => step(1) } }, "Next");
  const status = html("p", { role: "status" });
  const canvas = html("canvas", { class: "thumbnail", role: "img" });
  const about = html("div", { class: "about" });
  const scores = html("div", { class: "scores" });
  const field = (text, control) => html("label", {}, html("span", {}, text), control);

  function filter() {
    const [, fits] = KINDS[byKind.value];
    order = Array.from(index.keys()).filter((image) => (
      (byLabel.value === "" || label[image] === Number(byLabel.value)) && fits(dataset.certifiers[image])));
    if (byOrder.value === "disagreement") order.sort((a, b) => dataset.disagreement[b] - dataset.disagreement[a]);
    cursor = 0;
    show(order[0]);
  }

  function step(by) {
    cursor += by;
    show(order[cursor]);
  }

  function jump() {
    const wanted = Number(number.value);
    const image = index.reduce((near, value, at) => (
      Math.abs(value - wanted) < Math.abs(index[near] - wanted) ? at : near), 0);
    const found = order.indexOf(image);
    if (found >= 0) cursor = found;
    show(image, [
      index[image] === wanted ? "" : `Image ${number.value} is not among those certified; this is the nearest.`,
      found < 0 ? "It is not among the images chosen above." : "",
    ]);
  }

  function show(image, remarks = []) {
    previous.disabled = cursor <= 0;
    next.disabled = cursor >= order.length - 1;
    const chosen = order[cursor] === image && order.length ? `${grouped(cursor + 1)} of ${grouped(order.length)} images.` : "";
    status.textContent = order.length || image !== undefined ? [chosen, ...remarks].join(" ").trim() : "No image is like that.";
    canvas.hidden = image === undefined;
    if (image === undefined) {
      about.replaceChildren();
      scores.replaceChildren();
      return;
    }
    number.value = index[image];
    canvas.setAttribute("aria-label", `Test image ${index[image]}: ${name(label[image])}`);
    draw(canvas, index[image]).catch((error) => report(String(error)));
    about.replaceChildren(html("h4", {}, `Image ${index[image]}`), html("p", {}, `Label: ${name(label[image])}`),
      html("p", {}, `Radii differ by up to ${dataset.disagreement[image].toFixed(4)} at equal σ.`));
    scores.replaceChildren(verdicts(dataset, image));
  }

  filter();
  return [
    html("h3", {}, several ? `Each image, ${dataset.name}` : "Each image"),
    html("div", { class: "controls" },
      field("Label", byLabel), field("Which", byKind), field("Order", byOrder), field("Image", number), previous, next),
    status,
    html("div", { class: "image" }, html("div", { class: "subject" }, canvas, about), scores),
  ];
}
