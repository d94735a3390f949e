// How far a run is that goes on: a section above all others, which report.html has not.
function buildProgress({ progress }) {
  if (!progress) return;
  let place = section("progress");
  if (!place) {
    place = html("section", { id: "progress", "aria-labelledby": "progress-heading" },
      html("h2", { id: "progress-heading" }, "Progress"), html("div", { class: "state" }),
      html("p", { class: "caption", id: "looked", role: "status" }));
    section("main").prepend(place);
    document.querySelector("nav ul").prepend(html("li", {}, html("a", { href: "#progress" }, "Progress")));
  }
  const { done, trials, said } = progress;
  const columns = ["σ", "Method", "Stage", "Epochs", "Images", "Time left"];
  const count = `${done} of ${trials.length} trials done`;
  place.querySelector(".state").replaceChildren(
    ...(trials.length ? [
      html("progress", { max: trials.length, value: done, "aria-label": count }),
      html("p", { class: "said" }, [count, ...said].join(" · ")),
      scrolling("Progress of each trial", html("table", { class: "progress" },
        html("caption", { class: "unseen" }, "How far each trial is"),
        html("thead", {}, html("tr", {}, columns.map((name) => html("th", { scope: "col" }, name)))),
        html("tbody", {}, trials.map((trial) => html("tr", { "data-stage": trial.stage },
          html("td", {}, trial.sigma ? String(trial.sigma) : "per input"), html("th", { scope: "row" }, trial.title), html("td", {}, trial.stage),
          ...[trial.epochs, trial.images, trial.left].map((text) => html("td", { class: "number" }, text)))))))]
      : said.map((sentence) => html("p", {}, sentence))));
}
