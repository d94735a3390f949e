// Which methods the charts show, and how: one choice for all of them.
const look = {
  methods: new Map(),
  hidden: new Set(),
  bands: false,
  listeners: [],
  of(method) {
    return this.methods.get(method);
  },
  changed(listener) {
    this.listeners.push(listener);
  },
  tell() {
    for (const listener of this.listeners) listener();
  },
};

const percent = (value) => `${value.toFixed(1)} %`;
const RADIUS = { xLabel: "ℓ2 radius", xName: "radius", yLabel: "certified accuracy (%)", top: 100, shape: "pre", text: percent };
const P_A = { xLabel: "p_A", xName: "p_A", yLabel: "images up to this p_A (%)", top: 100, shape: "post", text: percent };
const EPOCH = { xLabel: "epoch", xName: "epoch", whole: true, shape: "straight", begin: "end" };
const ACCURACY = { ...EPOCH, yLabel: "noisy test accuracy (%)", top: 100, text: percent };
const LOSS = { ...EPOCH, yLabel: "loss", text: (value) => value.toPrecision(4) };

function buildCharts(content) {
  look.listeners = [];
  for (const method of content.methods) look.methods.set(method.method, method);
  document.querySelector(".toolbar")?.remove();
  if (content.methods.length) section("charts").prepend(toolbar(content));
  const { certified, envelope, p_a, accuracy, loss, cost } = content.charts;
  hideWithout("curves", certified);
  section("curves").append(blocks(
    block("Certified accuracy", certified.map((panel) => chart(RADIUS, panel)),
      "As Figure 5.1 of the thesis. Share of all test images that are predicted correctly with at least this certified "
      + "radius; mean over the seeds. A band of 95 % holds at all radii at once, over test images (DKW); the "
      + "table has the intervals at single radii; a darker one is from the lowest to the highest of several seeds. "
      + `${marks(certified)}Move along a chart with the pointer, a finger or the arrow keys.`),
    envelope.length ? block("Best of several σ", envelope.map((panel) => chart(RADIUS, panel)),
      "Certified accuracy at each radius at whichever of the σ gives most of it there, as papers on denoised smoothing "
      + "report: no one classifier has it, and it is chosen on the test images. The table says which σ.") : null,
    block("Distribution of p_A", p_a.map((panel) => chart(P_A, panel)),
      "p_A: share of an image’s noise samples that are classified as its label. At 1/2 stand all images below it and those "
      + "for which nothing was estimated. Of imported certificates the lower bound of p_A is drawn.")));
  section("training").append(accuracy.length
    ? blocks(block("Accuracy on noisy test images", accuracy.map((panel) => chart(ACCURACY, panel)),
      "Of the network itself, on one noise sample of each test image, after each epoch; mean over the models trained."),
    block("Training loss", loss.map((panel) => chart(LOSS, panel)),
      "Mean over the images of an epoch. Methods have losses of their own: their heights do not compare."))
    : html("p", {}, content.progress ? "No epoch is finished yet." : "No model of this run was trained in it."));
  const hours = { xLabel: "hours × workers, training and certification", yLabel: "ACR" };
  section("cost").append(cost.length
    ? block("ACR against cost", cost.map((panel) => scatter(hours, panel)),
      "Means over the seeds. Memory, speed and energy are in the table of costs.")
    : html("p", {}, content.progress ? "No trial is finished yet."
      : "No model of this run was trained in it, so its cost is not known."));
}

// What the circles of the charts are, if there are any.
function marks(panels) {
  const lines = panels.flatMap((panel) => panel.lines).filter((line) => (line.points || []).length);
  const reasons = [...new Set(lines.flatMap((line) => line.apart))];
  const like = lines.some((line) => !line.apart.length) ? "Circles: published. " : "";
  return like + (reasons.length ? `Grey circles: published for another setting, since here ${reasons.join("; ")}. ` : "");
}

// Charts under a title, one for each σ; where there is one σ, one such block beside another.
function blocks(...all) {
  const shown = all.filter(Boolean);
  const single = shown.every((own) => own.querySelectorAll(".chart").length === 1);
  return html("div", { class: single ? "blocks beside" : "blocks" }, shown);
}

function block(title, panels, caption) {
  return html("div", { class: "block" },
    html("h3", {}, title), html("div", { class: "panels" }, panels), html("p", { class: "caption" }, caption));
}

function toolbar(content) {
  const toggle = (name, pressed, press, ...children) => {
    const button = html("button", { type: "button", "aria-pressed": String(pressed), "data-toggle": name }, ...children);
    button.addEventListener("click", () => {
      const now = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", String(now));
      press(now);
      look.tell();
    });
    return button;
  };
  const methods = content.methods.map((method) => toggle(method.method, !look.hidden.has(method.method), (on) => {
    if (on) look.hidden.delete(method.method);
    else look.hidden.add(method.method);
  }, swatch(method), method.title));
  const bands = toggle("", look.bands, (on) => { look.bands = on; }, "Bands");
  return html("div", { class: "toolbar", role: "group", "aria-label": "Shown in all charts" }, methods, bands);
}
