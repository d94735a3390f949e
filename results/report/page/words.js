function pairs(entries) {
  return html("dl", { class: "pairs" },
    entries.map(([name, value]) => html("div", {}, html("dt", {}, name), html("dd", {}, value))));
}

function buildWords(content) {
  const { facts, best, caption } = content.summary;
  section("summary").append(
    best.length
      ? html("ul", { class: "winners" }, best.map((row) => html("li", {},
        html("span", { class: "where" }, `Largest ACR at σ = ${row.sigma}`),
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
  section("settings").append(...content.grids.flatMap(gridOf));
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

// A file to be copied: by its button, or selected as any text.
function gridOf({ title, toml, command }) {
  const text = html("pre", { class: "file", tabindex: "0", role: "region", "aria-label": `${title}, a TOML file` }, html("code", {}, toml));
  const said = html("span", { role: "status" });
  const button = html("button", { type: "button", on: { click: copy } }, "Copy");
  function copy() {
    getSelection().selectAllChildren(text);
    const copied = navigator.clipboard ? navigator.clipboard.writeText(toml) : Promise.reject();
    copied.then(() => { said.textContent = "Copied."; }, () => { said.textContent = "Selected: copy it with Ctrl-C."; });
  }
  return [
    html("h3", {}, title),
    html("p", { class: "caption" }, "As the last command loaded it, with every default. Saved as grid.toml it runs again with ",
      html("code", {}, command), "."),
    html("p", { class: "copy" }, button, said), text,
  ];
}
