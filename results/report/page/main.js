const content = JSON.parse(section("content").textContent);
buildWords(content);
section("tables").append(...content.tables.flatMap(buildTable));
buildCharts(content);
buildExplorer(content);
