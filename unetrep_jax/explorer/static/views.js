"use strict";
// The views of one thing: the map, an image, a channel, a cluster. Each loads what it needs, and gives the elements to show.

const views = {};

/** A whole number from an address, or an error that says what there is. */
function position(text, total, what) {
  if (!/^\d+$/.test(text ?? "") || Number(text) >= total) {
    throw new Error(`There is no ${what} ${text ?? ""}; there are ${count(total)}, counted from 0.`);
  }
  return Number(text);
}

views.map = async (_, query) => {
  const { overview } = explorer;
  const layout = Math.max(0, overview.layouts.indexOf(query.get("layout")));
  const names = colourings();
  let key = query.get("colour") ?? names[0].key;
  if (/^channel-\d+$/.test(key)) {
    position(key.slice(8), overview.channels, "channel");
    names.push({ key, name: `channel ${key.slice(8)} of phi` });
  } else if (!names.some((of) => of.key === key)) key = names[0].key;
  const [positions, images] = await explorer.all(`layout-${layout}`, "images");
  const { colours, text } = await colouring(key, images);
  const points = inUnitSquare(positions);
  const ring = query.has("at") ? position(query.get("at"), overview.images, "image") : null;
  const number = (name, otherwise, low, high) => {
    const value = Number(query.get(name) ?? NaN);
    return Number.isFinite(value) ? Math.max(low, Math.min(high, value)) : otherwise;
  };
  const view = { x: number("x", 0.5, -0.2, 1.2), y: number("y", 0.5, -0.2, 1.2), zoom: number("zoom", 1, 0.8, MAP.most) };
  if (ring !== null && !query.has("x")) Object.assign(view, { x: points[2 * ring], y: points[2 * ring + 1], zoom: 6 });

  const address = (changes) => {
    const wanted = new URLSearchParams({ layout: overview.layouts[layout], colour: key });
    if (ring !== null) wanted.set("at", ring);
    for (const [name, value] of Object.entries({ ...view, ...changes })) {
      wanted.set(name, typeof value === "number" ? value.toFixed(6) : value);
    }
    return `#map?${wanted}`;
  };
  const pointed = h("div", { class: "pointed-image", hidden: true });
  const said = h("p", { class: "visually-hidden", role: "status" });
  // Where one has moved to is part of the address, but no step of the history.
  let own = location.hash;
  let timer = 0;
  const remember = () => {
    clearTimeout(timer);
    if (!timer || location.hash !== own) return;
    timer = 0;
    own = address({});
    history.replaceState(history.state, "", own);
  };
  const plane = new Plane({
    points,
    colours,
    view,
    ring,
    onopen: (i) => {
      remember();
      follow(`#image/${i}`);
    },
    onview: () => {
      clearTimeout(timer);
      timer = setTimeout(remember, 300);
    },
    onpoint: (i, x, y) => {
      pointed.hidden = i < 0;
      if (i < 0) return;
      const lines = [imageName(i), labelOf(images, i)].filter(Boolean);
      pointed.replaceChildren(tile(i, 96), h("span", {}, lines.join(" · ")));
      const right = x > plane.canvas.clientWidth - 180;
      Object.assign(pointed.style, {
        left: right ? "" : `${x + 16}px`,
        right: right ? `${plane.canvas.clientWidth - x + 16}px` : "",
        top: `${Math.max(4, Math.min(y - 40, plane.canvas.clientHeight - 150))}px`,
      });
      if (document.activeElement === plane.canvas) said.textContent = lines.join(", ");
    },
  });
  const button = (symbol, label, act) => h("button", { type: "button", "aria-label": label, title: label, onclick: act }, symbol);
  const content = [
    h("h1", { class: "small" }, overview.title),
    h(
      "div",
      { class: "tools" },
      choices("Layout", overview.layouts, layout, (i) => follow(address({ layout: overview.layouts[i], x: 0.5, y: 0.5, zoom: 1 }))),
      choices("Colour", names.map((of) => of.name), names.findIndex((of) => of.key === key), (i) => follow(address({ colour: names[i].key }))),
      button("−", "Zoom out", () => plane.zoomBy(1 / 1.6)),
      button("+", "Zoom in", () => plane.zoomBy(1.6)),
      button("All", "Show everything", () => plane.reset()),
    ),
    shown(
      h("div", { class: "plane-frame" }, plane.canvas, pointed, said),
      `All ${count(overview.images)} images, placed by ${overview.layouts[layout]}${text ? `; each in the colour of ${text}` : ""}. ` +
        "Wheel or pinch zooms, dragging moves, a click opens an image.",
    ),
  ];
  const close = () => {
    clearTimeout(timer);
    plane.close();
  };
  return { title: "Map", content, close };
};

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
      overview.neighbours.map((space, k) =>
        shown(
          thumbs(Array.from(explorer.row(spaces[k], i), (j) => thumb(images, j, { mark: overview.labelled && images.labels[j] === images.labels[i] }))),
          `Nearest first, by ${space}.${overview.labelled ? " Framed: those with the same label." : ""}`,
          space.includes("phi") ? overview.level : WITHOUT_NOISE,
        ),
      ),
      absent("Neighbours"),
    ),
    part("Its reconstructions from phi", reconstructionsOf(i, images)),
  ];
  return { title: `Image ${i}${label && `, ${label}`}`, content };
};

/** A part of which there is nothing but a line that says so. */
function absentPart(what) {
  const lines = absent(what);
  return lines.length ? part(what, lines) : null;
}

/** Links to what comes before and after. */
function steps(kind, i, total, prefix = `#${kind}/`) {
  return h(
    "nav",
    { class: "steps", "aria-label": `Other ${kind}s` },
    i > 0 && h("a", { href: `${prefix}${i - 1}`, rel: "prev" }, `← ${kind} ${i - 1}`),
    i < total - 1 && h("a", { href: `${prefix}${i + 1}`, rel: "next" }, `${kind} ${i + 1} →`),
  );
}

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
    const top = tops[k] && explorer.row(tops[k].index, c % overview.channelsPerPiece);
    return h(
      "div",
      { class: "card" },
      h("a", { href: `#channel/${c}`, class: "thumb", "aria-label": `channel ${c}` }, tile(i, 110, { map }), h("span", { class: "note" }, `channel ${c}`)),
      h("p", {}, `${figure(fires.deviations[at])} deviations; largest activation ${figure(fires.largest[at])}`),
      top && thumbs(Array.from(top.subarray(0, 4), (j) => thumb(images, j, { size: 40 }))),
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
        thumbs(own.map((k, number) => print(k, 96, "reconstructions", `sample ${number + 1}`))),
        title,
        levels,
      )
    );
  });
  if (rows.some(Boolean)) return rows.filter(Boolean);
  const known = [...new Set(reconstructions.flatMap(({ targets }) => Array.from(targets)))];
  return [h("p", {}, "This image was not reconstructed; these were:"), thumbs(known.map((j) => thumb(images, j)))];
}

views.channel = async ([which]) => {
  const { overview } = explorer;
  const c = position(which, overview.channels, "channel");
  const [images, channels, values] = await Promise.all([explorer.load("images"), explorer.load("channels"), explorer.phiOfChannel(c)]);
  const top = overview.top && (await explorer.load(`top-${Math.floor(c / overview.channelsPerPiece)}`));
  const column = (array) => Array.from({ length: overview.sigmas.length }, (_, level) => array[level * overview.channels + c]);
  const threshold = channels.threshold?.[c];
  const groups = Object.entries(channels.groups).filter(([, of]) => of[c]).map(([name]) => name);
  const facts = [
    ["group", groups.join(", ") || "none"],
    ...Object.entries(channels.numbers).map(([name, of]) => [name, figure(of[c])]),
    ["on the map", h("a", { href: `#map?colour=channel-${c}` }, "all images coloured by it")],
  ];
  const companions = Array.from(explorer.row(channels.companions, c), (other, k) => [other, explorer.row(channels.companionCorrelations, c)[k]]);
  const content = [
    h("h1", {}, `Channel ${c}`, groups.length > 0 && h("span", { class: "soft" }, ` ${groups.join(", ")}`)),
    steps("channel", c, overview.channels),
    top ? part("The images that excite it most", topOf(c, top, images, values)) : absentPart("Top images"),
    part("What is known of it", numbersTable(facts), absent("Selectivity")),
    part(
      "Its values over images",
      shown(histogram(values, { cut: threshold, unit: `phi of channel ${c}` }), `phi of channel ${c} over ${count(overview.images)} images${threshold === undefined ? "" : "; dashed: its threshold, where it lies among them"}.`),
    ),
    part(
      "Noise",
      shown(
        levelCurves(overview.sigmas, [{ name: "correlation", values: column(channels.levelCorrelations) }], { high: 1, unit: "correlation", working: overview.working }),
        "How well the channel orders the images alike at other noise levels: correlation over images with its values at the working level.",
        "At every level analysed",
      ),
      shown(
        levelCurves(overview.sigmas, [{ name: "mean", values: column(channels.levelMeans) }], { unit: "mean of phi", working: overview.working }),
        "Mean of the channel's phi over images, at each noise level.",
        "At every level analysed",
      ),
    ),
    part(
      "Channels that go with it, and against it",
      shown(
        table(
          ["channel", "correlation over images"],
          companions.map(([other, value]) => [h("a", { href: `#channel/${other}` }, `channel ${other}`), figure(value)]),
          "Correlations of phi over images: the largest, then the most negative.",
        ),
        "From all images.",
      ),
    ),
  ];
  return { title: `Channel ${c}`, content };
};

/** A channel's top images, each with where the channel fires. */
function topOf(c, top, images, values) {
  const { channelsPerPiece, top: { count: most, map: shape } } = explorer.overview;
  const row = c % channelsPerPiece;
  const size = shape[0] * shape[1];
  const index = explorer.row(top.index, row);
  const maps = explorer.row(top.maps, row);
  const lit = Array.from(index, (i, k) =>
    thumb(images, i, { size: 96, note: figure(values[i]), map: { values: maps.subarray(k * size, (k + 1) * size), largest: explorer.row(top.largest, row)[k] > 0 ? 255 : 0, shape } }),
  );
  return [
    shown(thumbs(lit), `The ${most} images with the largest phi of channel ${c}, which stands below each. Light where the channel fires, dark where it does not, each on its own scale.`),
    shown(thumbs(Array.from(index, (i) => thumb(images, i, { size: 96 }))), "The same images, plain.", WITHOUT_NOISE),
  ];
}

views.cluster = async ([ofText, which], query) => {
  const { overview } = explorer;
  if (!overview.clusterings.length) return { title: "Cluster", content: [h("h1", {}, "Clusters"), absent("Clusters")] };
  const number = overview.clusterings.indexOf(Number(ofText));
  if (number < 0) throw new Error(`There is no clustering with K = ${ofText}; there are ${overview.clusterings.join(", ")}.`);
  const K = overview.clusterings[number];
  const c = position(which, K, "cluster");
  const [images, clustering] = await explorer.all("images", `clusters-${number}`);
  const members = membersOf(clustering, c);
  const first = Math.max(60, Math.min(members.length, Number(query.get("show")) || 60));
  const labels = labelCounts(images, members);
  const near = Array.from(explorer.row(clustering.nearest, c), (other, k) => [other, explorer.row(clustering.separation, c)[k]]);
  const content = [
    h("h1", {}, `Cluster ${c}`, h("span", { class: "soft" }, ` of ${K}`)),
    steps("cluster", c, K, `#cluster/${K}/`),
    part(
      `Its ${count(members.length)} images`,
      shown(thumbs(members.slice(0, first).map((i) => thumb(images, i))), `The nearest to the cluster's centre first${first < members.length ? `; ${count(first)} of ${count(members.length)}` : ""}.`),
      first < members.length && h("p", {}, h("a", { href: `#cluster/${K}/${c}?show=${Math.min(members.length, first * 4)}` }, "Show more")),
    ),
    overview.labelled &&
      part(
        "Labels inside",
        table(
          ["label", "images", "share"],
          labels.slice(0, 12).map(([label, of]) => [
            h("a", { href: `#images?label=${label}` }, overview.classNames[label] ?? `label ${label}`),
            count(of),
            `${figure((100 * of) / members.length)} %`,
          ]),
          `The ${Math.min(12, labels.length)} most frequent of ${count(labels.length)} labels.`,
        ),
      ),
    part(
      "Nearest clusters",
      near.map(([other, separation]) =>
        shown(
          thumbs(membersOf(clustering, other).slice(0, 6).map((i) => thumb(images, i))),
          [
            h("a", { href: `#cluster/${K}/${other}` }, `Cluster ${other}`),
            `${Number.isFinite(separation) ? `, ${figure(separation)} deviations away` : ""}.`,
          ],
        ),
      ),
    ),
  ];
  return { title: `Cluster ${c} of ${K}`, content };
};

/** The images of a cluster, the nearest to its centre first. */
function membersOf({ assignment, distance }, c) {
  const members = [];
  for (let i = 0; i < assignment.length; i++) if (assignment[i] === c) members.push(i);
  return members.sort((a, b) => distance[a] - distance[b]);
}

/** [label, how many of the images have it], the most frequent first. */
function labelCounts(images, members) {
  const counts = new Map();
  if (images.labels) for (const i of members) counts.set(images.labels[i], (counts.get(images.labels[i]) ?? 0) + 1);
  return [...counts].sort((a, b) => b[1] - a[1] || a[0] - b[0]);
}
