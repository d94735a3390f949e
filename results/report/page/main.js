// Each part of the page with what it is made of. Shown again with other content, what has not changed stays as it is.
const PARTS = [
  { of: ["progress"], build: buildProgress },
  { of: ["summary"], sections: ["summary"], build: buildSummary },
  { of: ["tables"], sections: ["tables"], build: (content) => section("tables").append(...content.tables.flatMap(buildTable)) },
  { of: ["methods", "charts"], sections: ["curves", "training", "cost"], build: buildCharts },
  { of: ["pictures"], sections: ["figures"], build: buildPictures },
  { of: ["images", "tiles"], sections: ["images"], build: buildExplorer },
  { of: ["settings", "grids"], sections: ["settings"], build: buildSettings },
  { of: ["environment"], sections: ["environment"], build: buildEnvironment },
  { of: ["caveats"], sections: ["caveats"], build: buildCaveats },
];

function show(content, before) {
  const changed = (key) => !before || JSON.stringify(content[key]) !== JSON.stringify(before[key]);
  for (const { of, sections, build } of PARTS) {
    if (!of.some(changed)) continue;
    for (const name of sections ?? []) section(name).replaceChildren(section(name).querySelector("h2"));
    build(content);
  }
}

const content = JSON.parse(section("content").textContent);
show(content);
