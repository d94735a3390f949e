// Lines over equal steps of x, with a crosshair that pointer, finger and arrow keys move and a readout of its values.
function chart(kind, panel) {
  const count = Math.max(...panel.lines.map((line) => line.values.length));
  const end = panel.start + (count - 1) * panel.step;
  const xDigits = panel.step.toFixed(12).replace(/0+$/, "").split(".")[1].length; // 5e-7 has no point as a text
  const at = (place) => panel.start + place * panel.step;
  // Of trainings of several lengths, the last epoch that all of them reach.
  const last = Math.min(...panel.lines.map((line) => line.values.findLastIndex((value) => value !== null)));
  let place = kind.begin === "end" ? Math.max(0, last) : 0;
  let crosshair = null;

  const frame = html("div", { class: "plot" });
  const handle = html("div", {
    class: "handle", role: "slider", tabindex: "0", "aria-label": `${kind.xName}, ${panel.title}`,
    "aria-valuemin": panel.start, "aria-valuemax": end.toFixed(xDigits),
  });
  const readout = html("div", { class: "readout", "aria-live": "polite" });
  const heading = html("h4", {}, panel.title);
  const known = panel.lines.flatMap((line) => line.values).filter((value) => value !== null);
  const top = kind.top || roundUp(Math.max(...known, 0));
  const least = Math.min(...known, 0); // a loss may be negative
  const low = least < 0 ? -roundUp(-least) : 0;

  const redraw = plot(frame, {
    label: `${kind.yLabel} against ${kind.xName} at ${panel.title}, a line for each method; the values are below`,
    xLabel: kind.xLabel,
    yLabel: kind.yLabel,
    scales: (box) => [linearScale(panel.start, end, box.left, box.right, kind.whole), linearScale(low, top, box.bottom, box.top)],
    draw(picture, box, x, y) {
      Object.assign(handle.style, {
        left: `${box.left}px`, top: `${box.top}px`, width: `${box.right - box.left}px`, height: `${box.bottom - box.top}px`,
      });
      for (const line of shown()) {
        if (look.bands && line.lower) picture.append(bandOf(line, line.lower, line.upper, at, x, y));
        if (look.bands && line.lowest) picture.append(bandOf(line, line.lowest, line.highest, at, x, y));
      }
      for (const line of shown()) picture.append(...lineOf(line, kind.shape, at, x, y));
      crosshair = { node: svg("g", { class: "crosshair" }), box, x, y };
      picture.append(crosshair.node);
      update();
    },
  });
  frame.append(handle);

  function shown() {
    return panel.lines.filter((line) => !look.hidden.has(line.method));
  }

  function update() {
    const here = shown().filter((line) => (line.values[place] ?? null) !== null);
    if (crosshair) {
      const { node, box, x, y } = crosshair;
      const at0 = x(at(place));
      node.replaceChildren(
        svg("line", { x1: at0, x2: at0, y1: box.top, y2: box.bottom }),
        ...here.map((line) => svg("circle", { cx: at0, cy: y(line.values[place]), r: 3, fill: look.of(line.method).colour })));
    }
    const where = `${kind.xName} ${at(place).toFixed(xDigits)}`;
    handle.setAttribute("aria-valuenow", at(place).toFixed(xDigits));
    handle.setAttribute("aria-valuetext", where);
    readout.replaceChildren(
      html("p", {}, where),
      html("ul", {}, here.map((line) => readoutOf(line, place, at(place), kind))));
  }

  function move(to) {
    place = Math.min(count - 1, Math.max(0, Math.round(to)));
    update();
  }

  const follow = (event) => {
    const area = handle.getBoundingClientRect();
    move(((event.clientX - area.left) / area.width) * (count - 1));
  };
  handle.addEventListener("pointermove", follow);
  handle.addEventListener("pointerdown", follow);
  handle.addEventListener("keydown", (event) => {
    const large = Math.max(1, Math.round(count / 20));
    const steps = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -large, PageUp: large };
    const to = event.key === "Home" ? 0 : event.key === "End" ? count - 1 : place + (steps[event.key] ?? NaN);
    if (Number.isNaN(to)) return;
    event.preventDefault();
    move(to);
  });
  redraw();
  return html("div", { class: "chart" }, heading, frame, readout);
}

function readoutOf(line, place, x, kind) {
  const method = look.of(line.method);
  const notes = [];
  if (look.bands && line.lower) notes.push(`[${line.lower[place].toFixed(1)}, ${line.upper[place].toFixed(1)}]`);
  if (look.bands && line.lowest) notes.push(`seeds ${line.lowest[place].toFixed(1)} to ${line.highest[place].toFixed(1)}`);
  const published = (line.points || []).find((point) => Math.abs(point[0] - x) < 1e-9);
  if (published) notes.push(`published ${published[1].toFixed(1)}${line.apart.length ? ", for another setting" : ""}`);
  return html("li", {}, swatch(method), html("span", { class: "who" }, method.title),
    html("span", { class: "value" }, kind.text(line.values[place])), html("span", { class: "note" }, notes.join(", ")));
}

// pre: a value holds from the place before up to its own; post: from its own on; straight: in between by lines.
function lineOf(line, shape, at, x, y) {
  const method = look.of(line.method);
  let path = "";
  line.values.forEach((value, place) => {
    if (value === null) return;
    const [px, py] = [x(at(place)).toFixed(1), y(value).toFixed(1)];
    const begins = place === 0 || line.values[place - 1] === null;
    if (begins) path += `M${px} ${py}`;
    else path += { pre: `V${py}H${px}`, post: `H${px}V${py}`, straight: `L${px} ${py}` }[shape];
  });
  const points = (line.points || []).map(([px, py]) => svg("circle", {
    class: line.apart.length ? "published apart" : "published", cx: x(px), cy: y(py), r: 3.5,
    ...(line.apart.length ? {} : { stroke: method.colour }),
  }));
  return [
    svg("path", {
      class: "line", d: path, stroke: method.colour, "stroke-dasharray": method.dash, "data-method": line.method,
    }),
    ...points,
  ];
}

function bandOf(line, lower, upper, at, x, y) {
  const edge = (values) => values.map((value, place) => `${x(at(place)).toFixed(1)} ${y(value).toFixed(1)}`);
  return svg("polygon", {
    class: "band", points: [...edge(upper), ...edge(lower).reverse()].join(" "), fill: look.of(line.method).colour,
  });
}
