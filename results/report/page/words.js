function pairs(entries) {
  return html("dl", { class: "pairs" },
    entries.map(([name, value]) => html("div", {}, html("dt", {}, name), html("dd", {}, value))));
}

function buildSummary({ summary: { verdict, facts, best, caption } }) {
  section("summary").append(
    verdict.length ? html("p", { class: "verdict" }, verdict.join(" ")) : "",
    best.length
      ? html("ul", { class: "winners" }, best.map((row) => html("li", {},
        html("span", { class: "where" }, `Largest ACR at ${row.sigma}`),
        html("span", { class: "figure" }, row.acr),
        html("span", {}, row.interval ? `${row.title} [${row.interval}]` : row.title),
        row.aside ? html("span", { class: "where" }, row.aside) : "")))
      : "",
    facts.length ? pairs(facts) : "",
    html("p", { class: "caption" }, caption.join(" ")));
}

function buildPictures(content) {
  section("figures").append(...content.pictures.map(({ title, words }, place) => {
    const file = section(`picture-${place}`).textContent;
    return html("img", { class: "picture", src: `data:image/png;base64,${file}`, alt: `${title}. ${words}` });
  }));
  hideWithout("figures", content.pictures);
}

function buildEnvironment({ environment }) {
  section("environment").append(...environment.flatMap(({ title, entries }) => [html("h3", {}, title), pairs(entries)]));
  hideWithout("environment", environment);
}

function buildCaveats({ caveats }) {
  section("caveats").append(html("ul", {}, caveats.map((sentence) => html("li", {}, sentence))));
  hideWithout("caveats", caveats);
}

// A section with nothing in it is not there, and nothing leads to it.
function hideWithout(name, things) {
  section(name).hidden = !things.length;
  document.querySelector(`nav a[href="#${name}"]`).parentElement.hidden = !things.length;
}

function buildSettings({ settings: { differing, shared }, grids }) {
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
  if (shared.length) {
    section("settings").append(html("h3", {}, differing.length ? "The same in all trials" : "Of all trials"), pairs(shared));
  }
  section("settings").append(...grids.flatMap(gridOf));
  hideWithout("settings", [...differing, ...shared, ...grids]);
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
