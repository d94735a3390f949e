function pairs(entries) {
  return html("dl", { class: "pairs" },
    entries.map(([name, value]) => html("div", {}, html("dt", {}, name), html("dd", {}, value))));
}

function buildWords(content) {
  const { facts, best, caption } = content.summary;
  section("summary").append(
    best.length
      ? html("ul", { class: "winners" }, best.map((row) => html("li", {},
        html("span", { class: "where" }, `Largest ACR at ${row.sigma}`),
        html("span", { class: "figure" }, row.acr),
        html("span", {}, row.interval ? `${row.title} [${row.interval}]` : row.title))))
      : "",
    pairs(facts),
    html("p", { class: "caption" }, caption.join(" ")));
  section("figures").append(...content.pictures.map(({ title, words }, place) => {
    const file = section(`picture-${place}`).textContent;
    return html("img", { class: "picture", src: `data:image/png;base64,${file}`, alt: `${title}. ${words}` });
  }));
  buildSettings(content.settings);
  section("environment").append(
    ...content.environment.flatMap(({ title, entries }) => [html("h3", {}, title), pairs(entries)]));
  section("caveats").append(html("ul", {}, content.caveats.map((sentence) => html("li", {}, sentence))));
}

function buildSettings({ differing, shared }) {
  const line = (...cells) => html("tr", {}, cells);
  const column = (name) => html("th", { scope: "col" }, name);
  if (differing.length) {
    section("settings").append(html("h3", {}, "Different between trials"), scrolling("Settings that differ",
      html("table", { class: "settings" },
        html("caption", { class: "unseen" }, "Settings that differ between trials"),
        html("thead", {}, line(column("Setting"), column("Value"), column("Of"))),
        differing.map(({ key, values }) => html("tbody", {}, values.map(([value, whose], place) => line(
          place ? "" : html("th", { scope: "rowgroup", rowspan: values.length }, key),
          html("td", {}, html("code", {}, value)), html("td", {}, whose))))))));
  }
  section("settings").append(html("h3", {}, differing.length ? "The same in all trials" : "Of all trials"), pairs(shared));
}
