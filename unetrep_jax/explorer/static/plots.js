"use strict";
// Small plots, as SVG. Each says in words what it shows.

const WIDTH = 640;

function frame(height, text, ...children) {
  return s("svg", { class: "plot", viewBox: `0 0 ${WIDTH} ${height}`, role: "img", "aria-label": text }, s("title", {}, text), children);
}

function words(x, y, text, anchor = "middle") {
  const element = s("text", { x, y, "text-anchor": anchor });
  element.textContent = text;
  return element;
}

/** How often values lie in each of `bins` equal intervals. */
function histogramOf(values, bins) {
  let [low, high] = [Infinity, -Infinity];
  for (const value of values) {
    low = Math.min(low, value);
    high = Math.max(high, value);
  }
  const counts = new Array(bins).fill(0);
  for (const value of values) counts[high > low ? Math.min(bins - 1, Math.floor(((value - low) / (high - low)) * bins)) : 0]++;
  return { low, high, counts };
}

/**
 * The distribution of values, with a line at `cut` where it lies among them. Where one interval holds more than half of them, as with
 * a channel that seldom fires, the others would not be seen: heights are then logarithms, log(1 + number).
 */
function histogram(values, { cut, unit }) {
  const { low, high, counts } = histogramOf(values, 60);
  const most = Math.max(...counts);
  const logarithmic = 2 * most > values.length;
  const [height, floor, step] = [150, 120, WIDTH / counts.length];
  const tall = (of) => 105 * (logarithmic ? Math.log1p(of) / Math.log1p(most) : of / most);
  const x = (value) => (high > low ? ((value - low) / (high - low)) * WIDTH : WIDTH / 2);
  const bars = counts.map((of, i) =>
    s("rect", { class: "bar", x: i * step + 0.5, width: step - 1, y: floor - tall(of), height: tall(of) }),
  );
  const lines = [];
  if (Number.isFinite(cut) && cut >= low && cut <= high) {
    lines.push(s("line", { class: "cut", x1: x(cut), x2: x(cut), y1: 10, y2: floor }));
  }
  return frame(
    height,
    `${count(values.length)} values of ${unit}, from ${figure(low)} to ${figure(high)}; the fullest of 60 intervals holds ${count(most)}${logarithmic ? "; heights are logarithms" : ""}`,
    words(0, 10, `${count(most)}${logarithmic ? ", logarithmic heights" : ""}`, "start"),
    bars,
    lines,
    s("line", { class: "axis", x1: 0, x2: WIDTH, y1: floor, y2: floor }),
    words(0, 140, figure(low), "start"),
    words(WIDTH, 140, figure(high), "end"),
    words(WIDTH / 2, 140, unit),
  );
}

/** A bar for each channel. Pointer or arrow keys choose one, which the line below names and links to; a click of a mouse opens it. */
function channelBars(values, unit) {
  const [height, top, bottom] = [190, 12, 178];
  let [low, high] = [0, 0];
  for (const value of values) {
    low = Math.min(low, value);
    high = Math.max(high, value);
  }
  const y = (value) => bottom - ((value - low) / (high - low || 1)) * (bottom - top);
  const step = WIDTH / values.length;
  const path = Array.from(values, (value, c) => {
    const [a, b] = [y(Math.max(0, value)), y(Math.min(0, value))];
    return `M${(c * step).toFixed(2)} ${a.toFixed(2)}h${(step * 0.8).toFixed(2)}V${b.toFixed(2)}h-${(step * 0.8).toFixed(2)}z`;
  }).join("");
  const band = s("rect", { class: "band", x: -2 * WIDTH, y: 0, width: Math.max(step, 2), height });
  const line = h("p", { class: "pointed" }, "Point at a bar, or choose one with the arrow keys.");
  const svg = frame(
    height,
    `${unit} of ${values.length} channels, from ${figure(low)} to ${figure(high)}`,
    band,
    s("path", { class: "bar", d: path }),
    s("line", { class: "axis", x1: 0, x2: WIDTH, y1: y(0), y2: y(0) }),
    words(0, 10, figure(high), "start"),
    low < 0 && words(0, height - 1, figure(low), "start"),
  );
  let chosen = 0;
  const choose = (c) => {
    chosen = Math.max(0, Math.min(values.length - 1, c));
    band.setAttribute("x", chosen * step);
    line.replaceChildren(h("a", { href: `#channel/${chosen}` }, `channel ${chosen}`), `: ${figure(values[chosen])}`);
    svg.setAttribute("aria-valuenow", chosen);
    svg.setAttribute("aria-valuetext", `channel ${chosen}, ${figure(values[chosen])}`);
  };
  const channelAt = (event) => {
    const box = svg.getBoundingClientRect();
    return Math.floor(((event.clientX - box.left) / box.width) * values.length);
  };
  for (const [name, value] of Object.entries({ role: "slider", tabindex: 0, "aria-valuemin": 0, "aria-valuemax": values.length - 1, "aria-valuenow": 0 })) {
    svg.setAttribute(name, value);
  }
  svg.classList.add("clickable");
  let pressed = null;
  svg.addEventListener("pointermove", (event) => choose(channelAt(event)));
  svg.addEventListener("pointerdown", (event) => {
    pressed = event.button === 0 ? [event.clientX, event.clientY] : null;
  });
  svg.addEventListener("pointerup", (event) => {
    choose(channelAt(event));
    const clicked = pressed && Math.hypot(event.clientX - pressed[0], event.clientY - pressed[1]) < 4; // and not the end of a drag
    pressed = null;
    if (clicked && event.pointerType === "mouse") follow(`#channel/${chosen}`);
  });
  svg.addEventListener("keydown", (event) => {
    const to = { ArrowLeft: chosen - 1, ArrowRight: chosen + 1, Home: 0, End: values.length - 1, PageUp: chosen - 10, PageDown: chosen + 10 }[event.key];
    if (event.shiftKey) return;
    if (event.key === "Enter") follow(`#channel/${chosen}`);
    else if (to !== undefined) choose(to);
    else return;
    event.preventDefault();
    event.stopPropagation();
  });
  return h("div", {}, svg, line);
}

/** Curves over noise levels, which stand at equal distances: [{ name, values }]. */
function levelCurves(sigmas, curves, { low, high, unit, working }) {
  const [height, top, bottom, left, right] = [190, 12, 150, 112, WIDTH - 24]; // labels fit in a phone's larger letters too
  const values = curves.flatMap((curve) => Array.from(curve.values)).filter(Number.isFinite);
  const least = low ?? Math.min(...values, 0);
  const largest = high ?? Math.max(...values, least);
  const most = largest > least ? largest : least + 1;
  const x = (i) => left + (sigmas.length > 1 ? (i / (sigmas.length - 1)) * (right - left) : (right - left) / 2);
  const y = (value) => bottom - ((value - least) / (most - least || 1)) * (bottom - top);
  const every = Math.ceil(sigmas.length / 12);
  const drawn = curves.map(({ values: of }, number) => {
    const points = Array.from(of, (value, i) => [x(i), y(value), value]).filter(([, , value]) => Number.isFinite(value));
    return [
      s("polyline", { class: `curve curve-${number}`, points: points.map(([a, b]) => `${a.toFixed(1)},${b.toFixed(1)}`).join(" ") }),
      points.map(([a, b]) => s("circle", { class: `dot curve-${number}`, cx: a.toFixed(1), cy: b.toFixed(1), r: 3 })),
    ];
  });
  const text = curves
    .map(({ name, values: of }) => `${name}: ${Array.from(of, (value, i) => `${figure(value)} at ${sigmas[i]}/255`).join(", ")}`)
    .join("; ");
  return frame(
    height,
    `${unit}; ${text}`,
    s("line", { class: "axis", x1: left, x2: right, y1: bottom, y2: bottom }),
    least < 0 && most > 0 && s("line", { class: "axis", x1: left, x2: right, y1: y(0), y2: y(0) }),
    s("line", { class: "cut", x1: x(working), x2: x(working), y1: top, y2: bottom }),
    drawn,
    words(left - 4, top + 4, figure(most), "end"),
    words(left - 4, bottom, figure(least), "end"),
    sigmas.map((sigma, i) => (i % every ? null : words(x(i), bottom + 15, String(sigma)))),
    words((left + right) / 2, height - 6, "noise level, × 255 (dashed: the working one)"),
  );
}
