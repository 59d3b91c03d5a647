"use strict";
// All images at once, on a plane: points from afar, pictures from near.

// Up to `pictures` in view are drawn as such; `sheets` are kept beside those in view.
const MAP = { smallestPicture: 15, largestPicture: 64, most: 400, reach: 14, pictures: 1500, sheets: 64 };

const darkPaper = () => matchMedia("(prefers-color-scheme: dark)");

/** Colour number `i` of as many as one likes: neighbours in number differ most in hue; all stand out from the paper. */
const categoryColour = (i, dark) => `oklch(${(dark ? 0.68 : 0.48) + (i % 3) * 0.07} 0.15 ${(i * 137.508) % 360})`;

/** From dark blue to light orange, for 0 to 1: ever lighter, and all stand out from the paper. */
function rampColour(value, dark) {
  const at = Math.max(0, Math.min(1, value));
  const [from, to] = dark ? [0.54, 0.86] : [0.32, 0.64];
  return `oklch(${from + (to - from) * at} 0.14 ${(265 + 150 * at) % 360})`;
}

/** What the images may be coloured by: [{ key, name }]. */
function colourings() {
  const { clusterings, labelled } = explorer.overview;
  const found = clusterings.map((K) => ({ key: `clusters-${K}`, name: `clusters of phi, K = ${K}` }));
  if (labelled) found.push({ key: "label", name: "label" });
  found.push({ key: "none", name: "nothing" });
  return found;
}

/** A colour for each image, what it stands for there (where the label does not say it), and a line that says what the colours are. */
async function colouring(key, images) {
  const total = explorer.overview.images;
  const [kind, which] = key.split("-");
  const dark = darkPaper().matches;
  if (kind === "channel") {
    const values = await explorer.phiOfChannel(Number(which));
    const { low, high } = histogramOf(values, 1);
    return {
      colours: Array.from(values, (value) => rampColour(high > low ? (value - low) / (high - low) : 0, dark)),
      meaning: (i) => `channel ${which}: ${figure(values[i])}`,
      text: `phi of channel ${which}, from ${figure(low)} (blue) to ${figure(high)} (orange)`,
    };
  }
  if (kind === "clusters") {
    const number = explorer.overview.clusterings.indexOf(Number(which));
    const { assignment } = await explorer.load(`clusters-${number}`);
    return {
      colours: Array.from(assignment, (of) => categoryColour(of, dark)),
      meaning: (i) => `cluster ${assignment[i]}`,
      text: `its cluster of phi, of ${which}, which pointing at it names`,
    };
  }
  if (kind === "label" && images.labels) {
    const colours = Array.from(images.labels, (of) => categoryColour(of, dark));
    return { colours, meaning: () => "", text: "its label, which pointing at it names" };
  }
  return { colours: new Array(total).fill("hsl(210 55% 50%)"), meaning: () => "", text: "" };
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
  constructor(given) {
    Object.assign(this, given); // points, colours, view, ring, onview, onpoint, onmiddle, onopen
    this.spacing = spacingOf(this.points);
    this.sheets = new Map(); // address -> sheet, the last used last
    this.pointers = new Map();
    this.canvas = h("canvas", {
      class: "plane",
      id: "plane",
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
    const { images, size, pictures } = this.inView();
    const radius = Math.max(1.5, Math.min(4, size / 5));
    const used = new Set();
    for (const i of images) {
      const x = left + this.points[2 * i] * side;
      const y = top + this.points[2 * i + 1] * side;
      context.fillStyle = this.colours[i];
      if (pictures) used.add(this.drawPicture(context, i, x, y, size));
      else context.fillRect(x - radius, y - radius, 2 * radius, 2 * radius);
    }
    for (const url of this.sheets.keys()) {
      if (used.has(url) || this.sheets.size <= used.size + MAP.sheets) break;
      this.sheets.delete(url);
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

  /** The images in view in the order in which they are drawn, the size of a picture, and whether pictures are drawn, not points. */
  inView() {
    const { width, height, side, left, top } = this.frame();
    const size = Math.min(MAP.largestPicture, 1.5 * this.spacing * side);
    const margin = Math.max(4, size);
    const images = [];
    for (let i = 0; i < this.points.length / 2; i++) {
      const x = left + this.points[2 * i] * side;
      const y = top + this.points[2 * i + 1] * side;
      if (x >= -margin && y >= -margin && x <= width + margin && y <= height + margin) images.push(i);
    }
    return { images, size, pictures: size >= MAP.smallestPicture && images.length <= MAP.pictures };
  }

  /** Draws an image in a frame of its colour, once its sheet is there; the address of the sheet. */
  drawPicture(context, i, x, y, size) {
    const at = placeOnSheet(sheetsFor("images", size), i, size);
    const sheet = this.sheet(at.url);
    context.fillRect(x - at.width / 2 - 2, y - at.height / 2 - 2, at.width + 4, at.height + 4);
    if (sheet.complete && sheet.naturalWidth) {
      const own = sheet.naturalWidth / at.sheetWidth; // pixels of the sheet for one on the screen
      const place = [at.left, at.top, at.width, at.height].map((of) => of * own);
      context.imageSmoothingEnabled = !at.enlarged;
      context.imageSmoothingQuality = "medium";
      context.drawImage(sheet, ...place, x - at.width / 2, y - at.height / 2, at.width, at.height);
    }
    return at.url;
  }

  sheet(url) {
    let sheet = this.sheets.get(url);
    if (!sheet) {
      sheet = new Image();
      sheet.onload = () => this.draw();
      sheet.src = url;
    }
    this.sheets.delete(url);
    this.sheets.set(url, sheet);
    return sheet;
  }

  /** The image whose picture is on top at a place on the canvas; where there is none the nearest one within reach; -1 for none. */
  at(x, y, reach = MAP.reach) {
    const { side, left, top } = this.frame();
    const { images, size, pictures } = this.inView();
    if (pictures) {
      const { width, height } = placeOnSheet(sheetsFor("images", size), 0, size);
      const covers = (i) =>
        Math.abs(left + this.points[2 * i] * side - x) <= width / 2 + 2 && Math.abs(top + this.points[2 * i + 1] * side - y) <= height / 2 + 2;
      const topmost = images.findLast(covers);
      if (topmost !== undefined) return topmost;
    }
    let [found, nearest] = [-1, reach ** 2];
    for (const i of images) {
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
    if (!action || event.ctrlKey || event.metaKey || event.altKey || (event.shiftKey && event.key.startsWith("Arrow"))) return;
    event.preventDefault();
    action();
    if (event.key === "Enter") return;
    const i = this.middle();
    this.onpoint(i, this.canvas.clientWidth / 2, this.canvas.clientHeight / 2);
    this.onmiddle(i);
  }

  close() {
    this.observer.disconnect();
    cancelAnimationFrame(this.waiting);
  }
}
