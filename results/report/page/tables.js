// One body per σ: sorting by a column orders the rows inside each, so that methods are compared at equal σ.
function buildTable(table) {
  const sigmas = [...new Set(table.rows.map((row) => row.sigma))];
  const groups = sigmas.map((sigma) => {
    const rows = table.rows.filter((row) => row.sigma === sigma);
    return { sigma, rows: rows.map((row) => ({ row, node: tableRow(row) })), body: html("tbody") };
  });
  const headings = [
    { name: "σ", by: null, first: "ascending" },
    { name: "Method", by: ({ row }) => row.title, first: "ascending" },
    ...table.columns.map((column, place) => ({
      name: column.unit ? `${column.heading} (${column.unit})` : column.heading,
      by: ({ row }) => row.cells[place].value,
      first: column.ascending ? "ascending" : "descending",
    })),
  ];
  // On paper a table stays on one page, if it has room there; a longer one has its headings on each.
  const node = html("table", { class: table.rows.length > 20 ? "results long" : "results" });
  const head = headings.map((heading) => {
    const arrow = html("span", { class: "arrow", "aria-hidden": "true" });
    const button = html("button", { type: "button" }, heading.name, arrow);
    // Browsers do not repeat buttons on the next sheet of paper.
    const cell = html("th", { scope: "col" }, button, html("span", { class: "printed" }, heading.name));
    button.addEventListener("click", () => {
      const before = cell.getAttribute("aria-sort");
      const other = heading.first === "ascending" ? "descending" : "ascending";
      order(heading, cell, before === heading.first ? other : heading.first);
    });
    return cell;
  });

  function order(heading, cell, direction) {
    const sign = direction === "ascending" ? 1 : -1;
    for (const other of head) other.removeAttribute("aria-sort");
    cell.setAttribute("aria-sort", direction);
    // By σ the groups change places, and the rows are in the given order again.
    const shown = heading.by || sign > 0 ? groups : [...groups].reverse();
    for (const { rows, body } of shown) {
      const sorted = heading.by ? [...rows].sort((a, b) => compare(heading.by(a), heading.by(b), sign)) : rows;
      body.replaceChildren(...sorted.map((entry) => entry.node));
      node.append(body);
    }
  }

  const caption = html("caption", {}, html("h3", {}, table.title));
  node.append(caption, html("thead", {}, html("tr", {}, head)));
  order(headings[0], head[0], "ascending");
  return [
    scrolling(table.title, node),
    html("p", { class: "caption" }, table.caption.join(" ")),
    table.notes.length
      ? html("details", { class: "notes" }, html("summary", {}, "Of the published numbers"),
        html("ul", {}, table.notes.map((note) => html("li", {}, note))))
      : "",
  ];
}

// Unknown values come last, whatever the direction.
function compare(a, b, sign) {
  if (a === null || b === null) return (a === null) - (b === null);
  return sign * (typeof a === "string" ? a.localeCompare(b, "en") : a - b);
}

function tableRow(row) {
  return html("tr", {},
    html("td", { class: "sigma" }, row.sigmas),
    html("th", { scope: "row" }, row.title),
    row.cells.map(tableCell));
}

function tableCell(cell) {
  const seeds = cell.spread
    ? html("details", { class: "seeds" },
      html("summary", { title: `Seeds: ${cell.seeds.join(", ")}` }, cell.spread), cell.seeds.join(" "))
    : "";
  return html("td", {},
    html("span", { class: cell.best ? "value best" : "value" }, cell.text), seeds,
    cell.sigma ? html("span", { class: "below" }, cell.sigma) : "",
    cell.interval ? html("span", { class: "below" }, `[${cell.interval}]`) : "",
    cell.published ? html("span", { class: "below" }, `(${cell.published})`) : "");
}
