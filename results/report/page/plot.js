const MARGIN = { left: 46, right: 14, top: 10, bottom: 42 };

// The frame of a chart: axes, grid and labels in an SVG as wide as its container, drawn anew when that changes.
function plot(container, { label, xLabel, yLabel, scales, draw }) {
  const picture = svg("svg", { role: "img", "aria-label": label });
  container.append(picture);
  function redraw() {
    const width = container.clientWidth;
    if (width === 0) return;
    const height = Math.round(Math.min(340, Math.max(230, width * 0.62)));
    const box = { left: MARGIN.left, right: width - MARGIN.right, top: MARGIN.top, bottom: height - MARGIN.bottom };
    const [x, y] = scales(box);
    fill(picture, { width, height, viewBox: `0 0 ${width} ${height}` }, []);
    picture.replaceChildren(...axes(box, x, y, xLabel, yLabel));
    draw(picture, box, x, y);
  }
  // A frame later: a drawing inside the observer's own call changes the height that it observes.
  new ResizeObserver(() => requestAnimationFrame(redraw)).observe(container);
  look.changed(redraw);
  return redraw;
}

function axes(box, x, y, xLabel, yLabel) {
  const middle = (box.top + box.bottom) / 2;
  return [
    ...y.ticks.map((value) => svg("g", {},
      svg("line", { class: "grid", x1: box.left, x2: box.right, y1: y(value), y2: y(value) }),
      svg("text", { class: "tick", x: box.left - 7, y: y(value) + 4, "text-anchor": "end" }, y.text(value)))),
    ...x.ticks.map((value) => svg("g", {},
      svg("line", { class: "axis", x1: x(value), x2: x(value), y1: box.bottom, y2: box.bottom + 4 }),
      svg("text", { class: "tick", x: x(value), y: box.bottom + 17, "text-anchor": "middle" }, x.text(value)))),
    svg("line", { class: "axis", x1: box.left, x2: box.right, y1: box.bottom, y2: box.bottom }),
    svg("text", { class: "name", x: (box.left + box.right) / 2, y: box.bottom + 36, "text-anchor": "middle" }, xLabel),
    svg("text", { class: "name", x: 12, y: middle, "text-anchor": "middle", transform: `rotate(-90 12 ${middle})` }, yLabel),
  ];
}

// A short piece of a method's line, for legends.
function swatch(method) {
  return svg("svg", { class: "swatch", width: 34, height: 10, "aria-hidden": "true" },
    svg("line", { x1: 1, x2: 33, y1: 5, y2: 5, stroke: method.colour, "stroke-width": 2, "stroke-dasharray": method.dash }));
}
