"use strict";
// All images at once, on a plane: points from afar, pictures from near.

const MAP = { smallestPicture: 15, largestPicture: 64, most: 400, reach: 14 };

/** Colour number `i` of as many as one likes: neighbours in number differ most in hue. */
const categoryColour = (i) => `hsl(${(i * 137.508) % 360} ${60 + ((i * 7) % 3) * 12}% ${46 + ((i * 5) % 3) * 7}%)`;

/** From blue to orange, for 0 to 1; every colour stands out from light and from dark paper. */
function rampColour(value) {
  const stops = [[95, 115, 185], [130, 100, 180], [170, 85, 150], [205, 80, 110], [225, 100, 60], [235, 140, 20]];
  const at = Math.max(0, Math.min(1, value)) * (stops.length - 1);
  const i = Math.min(stops.length - 2, Math.floor(at));
  return `rgb(${stops[i].map((from, k) => Math.round(from + (stops[i + 1][k] - from) * (at - i))).join(" ")})`;
}

/** What the images may be coloured by: [{ key, name }]. */
function colourings() {
  const { clusterings, labelled } = explorer.overview;
  const found = clusterings.map((K) => ({ key: `clusters-${K}`, name: `clusters of phi, K = ${K}` }));
  if (labelled) found.push({ key: "label", name: "label" });
  found.push({ key: "none", name: "nothing" });
  return found;
}

/** A colour for each image, and a line that says what the colours are. */
async function colouring(key, images) {
  const total = explorer.overview.images;
  const [kind, which] = key.split("-");
  if (kind === "channel") {
    const values = await explorer.phiOfChannel(Number(which));
    const { low, high } = histogramOf(values, 1);
    return {
      colours: Array.from(values, (value) => rampColour(high > low ? (value - low) / (high - low) : 0)),
      text: `phi of channel ${which}, from ${figure(low)} (blue) to ${figure(high)} (orange)`,
    };
  }
  if (kind === "clusters") {
    const number = explorer.overview.clusterings.indexOf(Number(which));
    const { assignment } = await explorer.load(`clusters-${number}`);
    return { colours: Array.from(assignment, categoryColour), text: `its cluster of phi, of ${which}` };
  }
  if (kind === "label" && images.labels) {
    return { colours: Array.from(images.labels, categoryColour), text: "its label, which pointing at it names" };
  }
  return { colours: new Array(total).fill("hsl(210 55% 50%)"), text: "" };
}

/** Positions scaled into the unit square, both axes alike. */
function inUnitSquare(layout) {
  const total = layout.shape[0];
  const [low, high] = [[Infinity, Infinity], [-Infinity, -Infinity]];
  for (let i = 0; i < 2 * total; i++) {
    low[i % 2] = Math.min(low[i % 2], layout[i]);
    high[i % 2] = Math.max(high[i % 2], layout[i]);
  }
  const size = Math.max(high[0] - low[0], high[1] - low[1]) || 1;
  const shift = [0, 1].map((axis) => (size - (high[axis] - low[axis])) / 2);
  return Float32Array.from(layout, (value, i) => (value - low[i % 2] + shift[i % 2]) / size);
}

/** Median distance of a point from its nearest one, of some of the points. */
function spacingOf(points) {
  const total = points.length / 2;
  const found = [];
  for (let k = 0; k < Math.min(150, total); k++) {
    const i = Math.floor((k * total) / Math.min(150, total));
    let nearest = Infinity;
    for (let j = 0; j < total; j++) {
      if (j === i) continue;
      const distance = (points[2 * i] - points[2 * j]) ** 2 + (points[2 * i + 1] - points[2 * j + 1]) ** 2;
      if (distance < nearest) nearest = distance;
    }
    if (nearest > 0 && nearest < Infinity) found.push(Math.sqrt(nearest)); // images with the same phi lie on each other
  }
  return found.sort((a, b) => a - b)[Math.floor(found.length / 2)] ?? 1;
}

/** The drawing of the map: a canvas that shows `points` in `colours`, and tells which image the pointer is on. */
class Plane {
  constructor({ points, colours, view, ring, onview, onpoint, onopen }) {
    Object.assign(this, { points, colours, view, ring, onview, onpoint, onopen });
    this.spacing = spacingOf(points);
    this.sheets = new Map();
    this.pointers = new Map();
    this.canvas = h("canvas", {
      class: "plane",
      tabindex: 0,
      role: "application",
      "aria-label": "Map of all images. Arrow keys move, plus and minus zoom, 0 shows everything, Enter opens the image in the middle.",
    });
    this.observer = new ResizeObserver(() => this.resize());
    this.observer.observe(this.canvas);
    this.listen();
  }

  resize() {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    if (!width || !height) return;
    const density = window.devicePixelRatio || 1;
    [this.canvas.width, this.canvas.height] = [Math.round(width * density), Math.round(height * density)];
    this.draw();
  }

  /** Pixels of the screen for the unit square's side, and where its corner is. */
  frame() {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    const side = (Math.min(width, height) - 24) * this.view.zoom;
    return { width, height, side, left: width / 2 - this.view.x * side, top: height / 2 - this.view.y * side };
  }

  draw() {
    if (this.waiting) return;
    this.waiting = requestAnimationFrame(() => {
      this.waiting = 0;
      this.drawNow();
    });
  }

  drawNow() {
    const context = this.canvas.getContext("2d");
    const density = window.devicePixelRatio || 1;
    const { width, height, side, left, top } = this.frame();
    context.setTransform(density, 0, 0, density, 0, 0);
    context.clearRect(0, 0, width, height);
    const size = Math.min(MAP.largestPicture, 1.5 * this.spacing * side);
    const pictures = size >= MAP.smallestPicture;
    const radius = Math.max(1.5, Math.min(4, size / 5));
    const margin = pictures ? size : radius;
    for (let i = 0; i < this.points.length / 2; i++) {
      const x = left + this.points[2 * i] * side;
      const y = top + this.points[2 * i + 1] * side;
      if (x < -margin || y < -margin || x > width + margin || y > height + margin) continue;
      context.fillStyle = this.colours[i];
      if (pictures) this.drawPicture(context, i, x, y, size);
      else context.fillRect(x - radius, y - radius, 2 * radius, 2 * radius);
    }
    if (this.ring !== null) {
      context.lineWidth = 3;
      context.strokeStyle = getComputedStyle(this.canvas).getPropertyValue("--link");
      context.beginPath();
      context.arc(left + this.points[2 * this.ring] * side, top + this.points[2 * this.ring + 1] * side, Math.max(9, 0.8 * size), 0, 7);
      context.stroke();
    }
    if (document.activeElement === this.canvas) {
      context.lineWidth = 1;
      context.strokeStyle = getComputedStyle(this.canvas).getPropertyValue("--soft");
      context.strokeRect(width / 2 - MAP.reach, height / 2 - MAP.reach, 2 * MAP.reach, 2 * MAP.reach);
    }
  }

  drawPicture(context, i, x, y, size) {
    const { folder, columns, per_sheet: perSheet, tile, cell } = explorer.overview.sheets.images;
    const [number, place] = [Math.floor(i / perSheet), i % perSheet];
    let sheet = this.sheets.get(number);
    if (!sheet) {
      sheet = new Image();
      sheet.onload = () => this.draw();
      sheet.src = explorer.address(`${folder}/${number}.jpg`);
      this.sheets.set(number, sheet);
    }
    const scale = size / Math.max(...tile);
    const [height, width] = [tile[0] * scale, tile[1] * scale];
    context.fillRect(x - width / 2 - 2, y - height / 2 - 2, width + 4, height + 4);
    if (!sheet.complete || !sheet.naturalWidth) return;
    const [sx, sy] = [(place % columns) * cell[1], Math.floor(place / columns) * cell[0]];
    context.drawImage(sheet, sx, sy, tile[1], tile[0], x - width / 2, y - height / 2, width, height);
  }

  /** The image that is nearest to a place on the canvas, within reach; -1 for none. */
  at(x, y, reach = MAP.reach) {
    const { side, left, top } = this.frame();
    const size = Math.min(MAP.largestPicture, 1.5 * this.spacing * side);
    let [found, nearest] = [-1, Math.max(reach, size / 2) ** 2];
    for (let i = 0; i < this.points.length / 2; i++) {
      const distance = (left + this.points[2 * i] * side - x) ** 2 + (top + this.points[2 * i + 1] * side - y) ** 2;
      if (distance < nearest) [found, nearest] = [i, distance];
    }
    return found;
  }

  /** Moves and zooms; the place (x, y) of the canvas stays where it is. */
  zoomBy(factor, x = this.canvas.clientWidth / 2, y = this.canvas.clientHeight / 2) {
    const before = this.frame();
    const place = [(x - before.left) / before.side, (y - before.top) / before.side];
    this.view.zoom = Math.max(0.8, Math.min(MAP.most, this.view.zoom * factor));
    const after = this.frame();
    this.moveBy(x - (after.left + place[0] * after.side), y - (after.top + place[1] * after.side));
  }

  moveBy(dx, dy) {
    const { side } = this.frame();
    this.view.x = Math.max(-0.2, Math.min(1.2, this.view.x - dx / side));
    this.view.y = Math.max(-0.2, Math.min(1.2, this.view.y - dy / side));
    this.onview(this.view);
    this.draw();
  }

  reset() {
    Object.assign(this.view, { x: 0.5, y: 0.5, zoom: 1 });
    this.onview(this.view);
    this.draw();
  }

  listen() {
    const canvas = this.canvas;
    const place = (event) => {
      const box = canvas.getBoundingClientRect();
      return [event.clientX - box.left - canvas.clientLeft, event.clientY - box.top - canvas.clientTop];
    };
    canvas.addEventListener(
      "wheel",
      (event) => {
        event.preventDefault();
        this.zoomBy(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0015)), ...place(event));
      },
      { passive: false },
    );
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      canvas.setPointerCapture(event.pointerId);
      this.pointers.set(event.pointerId, place(event));
      this.moved = this.pointers.size > 1 ? Infinity : 0;
    });
    canvas.addEventListener("pointermove", (event) => {
      const [x, y] = place(event);
      if (event.buttons === 0) this.pointers.delete(event.pointerId);
      const before = this.pointers.get(event.pointerId);
      if (!before) {
        const i = this.at(x, y);
        this.onpoint(i, x, y);
        canvas.style.cursor = i < 0 ? "grab" : "pointer";
        return;
      }
      const other = [...this.pointers].find(([id]) => id !== event.pointerId)?.[1];
      if (other) {
        const distance = (a) => Math.hypot(a[0] - other[0], a[1] - other[1]) || 1;
        this.zoomBy(distance([x, y]) / distance(before), (x + other[0]) / 2, (y + other[1]) / 2);
      } else {
        this.moved = Math.max(this.moved, Math.hypot(x - before[0], y - before[1]));
        if (this.moved > 4) this.moveBy(x - before[0], y - before[1]);
        else return;
      }
      this.pointers.set(event.pointerId, [x, y]);
    });
    canvas.addEventListener("pointerup", (event) => {
      if (!this.pointers.delete(event.pointerId)) return;
      const i = this.moved <= 4 ? this.at(...place(event)) : -1;
      if (i >= 0) this.onopen(i);
    });
    for (const end of ["pointercancel", "lostpointercapture"]) {
      canvas.addEventListener(end, (event) => this.pointers.delete(event.pointerId));
    }
    canvas.addEventListener("pointerleave", () => this.onpoint(-1));
    canvas.addEventListener("focus", () => this.draw());
    canvas.addEventListener("blur", () => this.draw());
    canvas.addEventListener("keydown", (event) => this.key(event));
  }

  middle() {
    return this.at(this.canvas.clientWidth / 2, this.canvas.clientHeight / 2, 60);
  }

  key(event) {
    const step = 60;
    const actions = {
      ArrowLeft: () => this.moveBy(step, 0),
      ArrowRight: () => this.moveBy(-step, 0),
      ArrowUp: () => this.moveBy(0, step),
      ArrowDown: () => this.moveBy(0, -step),
      "+": () => this.zoomBy(1.5),
      "=": () => this.zoomBy(1.5),
      "-": () => this.zoomBy(1 / 1.5),
      0: () => this.reset(),
      Enter: () => this.middle() >= 0 && this.onopen(this.middle()),
    };
    const action = actions[event.key];
    if (!action || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    action();
    if (event.key !== "Enter") this.onpoint(this.middle(), this.canvas.clientWidth / 2, this.canvas.clientHeight / 2);
  }

  close() {
    this.observer.disconnect();
    cancelAnimationFrame(this.waiting);
  }
}
