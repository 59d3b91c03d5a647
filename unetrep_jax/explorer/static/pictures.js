"use strict";
// Images cut out of sheets, and where channels fire in them.

const ENLARGED = 2; // times its own size, from which a picture shows its pixels as squares; below it is smooth

/** The sheets of that kind for pictures of `size` pixels on the longer side: of images there may be small ones too. */
function sheetsFor(kind, size) {
  const { small, [kind]: sheets } = explorer.overview.sheets;
  return kind === "images" && small && size <= Math.max(...small.tile) ? small : sheets;
}

/** Where an image lies on its sheet, for an element that is `size` pixels on the image's longer side. */
function placeOnSheet(sheets, i, size) {
  const { folder, columns, per_sheet: perSheet, count: total, tile, cell, margin } = sheets;
  const [number, place] = [Math.floor(i / perSheet), i % perSheet];
  const scale = size / Math.max(...tile);
  const rows = Math.ceil(Math.min(perSheet, total - number * perSheet) / columns);
  return {
    url: explorer.address(`${folder}/${number}.jpg`),
    height: tile[0] * scale,
    width: tile[1] * scale,
    enlarged: scale >= ENLARGED,
    left: ((place % columns) * cell[1] + margin) * scale,
    top: (Math.floor(place / columns) * cell[0] + margin) * scale,
    sheetWidth: columns * cell[1] * scale,
    sheetHeight: rows * cell[0] * scale,
  };
}

/** An image, by its position on a kind of sheets. */
function tile(i, size, { kind = "images", text, map } = {}) {
  const at = placeOnSheet(sheetsFor(kind, size), i, size);
  return h(
    "span",
    {
      class: at.enlarged ? "tile enlarged" : "tile",
      role: text && "img",
      "aria-label": text,
      style: {
        width: `${at.width}px`,
        height: `${at.height}px`,
        backgroundImage: `url("${at.url}")`,
        backgroundSize: `${at.sheetWidth}px ${at.sheetHeight}px`,
        backgroundPosition: `-${at.left}px -${at.top}px`,
      },
    },
    map && spotlight(map),
  );
}

/** Darkness over an image but where a channel fires: map is { values: bytes, largest: byte that stands for full light, shape }. */
function spotlight({ values, largest, shape: [height, width] }) {
  const canvas = h("canvas", { class: "spotlight", width, height, "aria-hidden": "true" });
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(width, height);
  for (let i = 0; i < values.length; i++) {
    pixels.data[4 * i + 3] = 215 * (1 - (largest > 0 ? Math.min(1, values[i] / largest) : 0));
  }
  context.putImageData(pixels, 0, 0);
  return canvas;
}

/** An image that links to its own view; `note` is a line below it. */
function thumb(images, i, { size = 72, note, map, mark } = {}) {
  const label = labelOf(images, i);
  const text = [imageName(i), label, note].filter(Boolean).join(", ");
  return h(
    "a",
    { class: mark ? "thumb marked" : "thumb", href: `#image/${i}`, "aria-label": text, title: text },
    tile(i, size, { map }),
    note && h("span", { class: "note" }, note),
  );
}

/** Images in rows. */
const thumbs = (children) => h("div", { class: "thumbs" }, children);

/** An image that belongs to no view of its own, with a line below it. */
function print(i, size, kind, text) {
  return h("span", { class: "thumb" }, tile(i, size, { kind, text }), h("span", { class: "note" }, text));
}
