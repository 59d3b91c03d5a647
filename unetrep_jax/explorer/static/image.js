"use strict";
// The view of an image: its phi, the channels that it excites, its nearest images, its reconstructions.

views.image = async ([which]) => {
  const { overview } = explorer;
  const i = position(which, overview.images, "image");
  const { imagesPerPiece } = overview;
  const [images, scale, names, phi, fires, spaces, clusterings] = await Promise.all([
    explorer.load("images"),
    explorer.load("phi-scale"),
    overview.named && explorer.load("names"),
    explorer.phiOfImage(i),
    overview.fires && explorer.load(`fires-${Math.floor(i / imagesPerPiece)}`),
    explorer.all(...overview.neighbours.map((_, k) => `neighbours-${k}`)),
    explorer.all(...overview.clusterings.map((_, k) => `clusters-${k}`)),
  ]);
  const deviations = phi.map((value, c) => (scale.deviation[c] > 0 ? (value - scale.mean[c]) / scale.deviation[c] : 0));
  const label = labelOf(images, i);
  const facts = [
    names && ["name", names[i]],
    label && ["label", h("a", { href: `#images?label=${images.labels[i]}` }, label)],
    ...overview.clusterings.map((K, k) => [
      `cluster of ${K}`,
      h("a", { href: `#cluster/${K}/${clusterings[k].assignment[i]}` }, `cluster ${clusterings[k].assignment[i]}`),
    ]),
    ...Object.entries(images.numbers).map(([name, values]) => [name, figure(values[i])]),
    ["on the map", h("a", { href: `#map?at=${i}` }, "where it lies")],
  ];
  const content = [
    h("h1", {}, `Image ${i}`, label && h("span", { class: "soft" }, ` ${label}`)),
    steps("image", i, overview.images),
    h("div", { class: "beside" }, shown(tile(i, 192, { text: `image ${i}` }), `Image ${i}.`, WITHOUT_NOISE), numbersTable(facts)),
    part(
      "Its phi",
      shown(
        channelBars(deviations, "phi, in deviations over images from its mean"),
        "phi of the image, channel by channel: how many deviations over the images it lies above or below the channel's mean.",
      ),
      shown(channelBars(phi, "phi"), "The same values as they are, above 0."),
    ),
    fires ? part("The channels that it excites most, and where they fire", await firing(i, fires, images)) : absentPart("Where channels fire"),
    part(
      "Nearest images",
      h(
        "div",
        { class: "columns" },
        overview.neighbours.map((space, k) =>
          shown(
            thumbs(Array.from(explorer.row(spaces[k], i), (j) => thumb(images, j, { mark: overview.labelled && images.labels[j] === images.labels[i] }))),
            `Nearest first, by ${space}.${overview.labelled ? " Framed: those with the same label." : ""}`,
            space.includes("phi") ? overview.level : WITHOUT_NOISE,
          ),
        ),
      ),
      absent("Neighbours"),
    ),
    part("Its reconstructions, and controls", reconstructionsOf(i, images)),
  ];
  return { title: `Image ${i}${label && `, ${label}`}`, content };
};

/** Of the channels that an image excites most: the image where each fires, and the channel's own top images. */
async function firing(i, fires, images) {
  const { overview } = explorer;
  const { count: most, map: shape, what } = overview.fires;
  const row = i % overview.imagesPerPiece;
  const size = shape[0] * shape[1];
  const excited = Array.from({ length: most }, (_, k) => row * most + k).filter((at) => fires.deviations[at] > 0);
  if (!excited.length) return h("p", {}, `None of ${what} lies above its mean for this image.`);
  const channels = excited.map((at) => fires.channels[at]);
  const tops = overview.top ? await explorer.all(...channels.map((c) => `top-${Math.floor(c / overview.channelsPerPiece)}`)) : [];
  const cards = channels.map((c, k) => {
    const at = excited[k];
    const map = { values: fires.maps.subarray(at * size, (at + 1) * size), largest: fires.largest[at] > 0 ? 255 : 0, shape };
    const top = tops[k] && topImages(tops[k], c);
    return h(
      "div",
      { class: "card" },
      h("a", { href: `#channel/${c}`, class: "thumb", "aria-label": `channel ${c}` }, tile(i, 110, { map }), h("span", { class: "note" }, `channel ${c}`)),
      h("p", {}, `${figure(fires.deviations[at])} deviations; largest activation ${figure(fires.largest[at])}`),
      top && thumbs(top.slice(0, 4).map((j) => thumb(images, j, { size: 40 }))),
    );
  });
  return shown(
    h("div", { class: "cards" }, cards),
    `Of ${what}, at most ${most}, those in which this image lies most deviations above the mean. Light where the channel fires, dark where it does not, each on its own scale` +
      `${overview.top ? "; below, the channel's own top images" : ""}.`,
  );
}

/** The reconstructions of an image, in every way; or which images have some. */
function reconstructionsOf(i, images) {
  const { reconstructions } = explorer.overview;
  if (!reconstructions) return absent("Reconstructions");
  const rows = reconstructions.map(({ title, levels, targets, first }) => {
    const own = Array.from(targets, (target, k) => (target === i ? first + k : -1)).filter((k) => k >= 0);
    return (
      own.length &&
      shown(
        thumbs([print(i, 96, "images", "original"), ...own.map((k, number) => print(k, 96, "reconstructions", `sample ${number + 1}`))]),
        title,
        levels,
      )
    );
  });
  if (rows.some(Boolean)) return rows.filter(Boolean);
  const known = [...new Set(reconstructions.flatMap(({ targets }) => Array.from(targets)))];
  return shown(thumbs(known.map((j) => thumb(images, j))), "This image was not reconstructed; these were.", WITHOUT_NOISE);
}
