// A point for each method, with its name beside it. Costs differ by factors, so their axis is logarithmic.
function scatter(kind, panel) {
  const frame = html("div", { class: "plot" });
  const list = html("ul", {});
  const costs = panel.points.map((point) => point.x);
  const top = roundUp(Math.max(...panel.points.map((point) => point.y)));
  const redraw = plot(frame, {
    label: `${kind.yLabel} against ${kind.xLabel} at ${panel.title}, a point for each method; the values are below`,
    xLabel: kind.xLabel,
    yLabel: kind.yLabel,
    scales: (box) => [
      logScale(Math.min(...costs) / 1.6, Math.max(...costs) * 1.6, box.left, box.right),
      linearScale(0, top, box.bottom, box.top),
    ],
    draw(picture, box, x, y) {
      const shown = panel.points.filter((point) => !look.hidden.has(point.method)).sort((a, b) => b.y - a.y);
      list.replaceChildren(...shown.map((point) => costOf(point)));
      const taken = shown.map((point) => ({ from: x(point.x) - 5, to: x(point.x) + 5, y: y(point.y) }));
      shown.forEach((point, own) => {
        const method = look.of(point.method);
        const others = taken.filter((_, place) => place !== own);
        const name = nameBeside({ x: x(point.x), y: y(point.y) }, 7 * method.title.length, box, others);
        taken.push(name);
        picture.append(
          svg("circle", { cx: x(point.x), cy: y(point.y), r: 4.5, fill: method.colour }),
          svg("text", { class: "tick", x: name.at, y: name.y + 4, "text-anchor": name.anchor }, method.title));
      });
    },
  });
  redraw();
  return html("div", { class: "chart" }, html("h4", {}, panel.title), frame, html("div", { class: "readout" }, list));
}

function costOf(point) {
  const method = look.of(point.method);
  const dot = svg("svg", { class: "swatch", width: 34, height: 10, "aria-hidden": "true" },
    svg("circle", { cx: 29, cy: 5, r: 4.5, fill: method.colour }));
  return html("li", {}, dot, html("span", { class: "who" }, method.title),
    html("span", { class: "value" }, point.y.toFixed(3)), html("span", { class: "note" }, `${point.x} h`));
}

// The first place right, left, below or above of a point where its name covers neither points nor other names.
function nameBeside({ x, y }, width, box, taken) {
  const places = [0, 13, -13].flatMap((by) => [
    { from: x + 9, to: x + 9 + width, y: y + by, at: x + 9, anchor: "start" },
    { from: x - 9 - width, to: x - 9, y: y + by, at: x - 9, anchor: "end" },
  ]);
  const covers = (a, b) => a.from < b.to && b.from < a.to && Math.abs(a.y - b.y) < 12;
  const fits = (place) => place.from >= box.left && place.to <= box.right && !taken.some((other) => covers(place, other));
  return places.find(fits) ?? places[0];
}
