"use strict";
// The views of one thing: the map, a channel, a cluster; image.js has that of an image. Each loads what it needs, and gives the elements to show.

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
  const { colours, meaning, text } = await colouring(key, images);
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
  const wordsFor = (i) => [imageName(i), labelOf(images, i), meaning(i)].filter(Boolean);
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
      pointed.replaceChildren(tile(i, 96), h("span", {}, wordsFor(i).join(" · ")));
      const right = x > plane.canvas.clientWidth - 180;
      Object.assign(pointed.style, {
        left: right ? "" : `${x + 16}px`,
        right: right ? `${plane.canvas.clientWidth - x + 16}px` : "",
        top: `${Math.max(4, Math.min(y - 40, plane.canvas.clientHeight - 150))}px`,
      });
    },
    onmiddle: (i) => {
      said.textContent = i < 0 ? "no image in the middle" : wordsFor(i).join(", ");
    },
  });
  const repaint = async () => {
    plane.colours = (await colouring(key, images)).colours;
    plane.draw();
  };
  const scheme = darkPaper();
  scheme.addEventListener("change", repaint);
  const button = (symbol, label, act) => h("button", { type: "button", "aria-label": label, title: label, onclick: act }, symbol);
  const content = [
    h("h1", { class: "small" }, overview.title),
    h(
      "div",
      { class: "tools" },
      choices("Layout", overview.layouts, layout, (i) => follow(address({ layout: overview.layouts[i], x: 0.5, y: 0.5, zoom: 1 }))),
      choices("Colour", names.map((of) => of.name), names.findIndex((of) => of.key === key), (i) => follow(address({ colour: names[i].key }))),
      channelField(key, overview.channels, (c) => follow(address({ colour: `channel-${c}` }))),
      button("−", "Zoom out", () => plane.zoomBy(1 / 1.6)),
      button("+", "Zoom in", () => plane.zoomBy(1.6)),
      button("All", "Show everything", () => plane.reset()),
    ),
    shown(
      h("div", { class: "plane-frame" }, plane.canvas, pointed, said),
      `All ${count(overview.images)} images, placed by ${overview.layouts[layout]}${text ? `; each in the colour of ${text}` : ""}. ` +
        `${overview.layouts[layout].includes("t-SNE") ? "t-SNE draws islands even where there are none. " : ""}` +
        "Wheel or pinch zooms, dragging moves, a click opens an image.",
    ),
  ];
  const close = () => {
    clearTimeout(timer);
    scheme.removeEventListener("change", repaint);
    plane.close();
  };
  return { title: "Map", content, close };
};

/** A field for the number of the channel that colours the map. */
function channelField(key, channels, choose) {
  const chosen = (event) => event.target.value && event.target.checkValidity() && choose(Number(event.target.value));
  const value = key.startsWith("channel-") ? key.slice(8) : null;
  return h(
    "span",
    { class: "choice" },
    h("label", { for: "colour-channel" }, "or channel"),
    h("input", { id: "colour-channel", type: "number", min: 0, max: channels - 1, value, onchange: chosen }),
  );
}

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

/** The images that excite a channel most, from its piece; only those above its least value are known. */
const topImages = (piece, c) => Array.from(explorer.row(piece.index, c % explorer.overview.channelsPerPiece)).filter((i) => i >= 0);

views.channel = async ([which]) => {
  const { overview } = explorer;
  const c = position(which, overview.channels, "channel");
  const [images, channels, values] = await Promise.all([explorer.load("images"), explorer.load("channels"), explorer.phiOfChannel(c)]);
  const top = overview.top && (await explorer.load(`top-${Math.floor(c / overview.channelsPerPiece)}`));
  const clusterings = await explorer.all(...overview.clusterings.map((_, k) => `clusters-${k}`));
  const column = (array) => Array.from({ length: overview.sigmas.length }, (_, level) => array[level * overview.channels + c]);
  const threshold = channels.threshold?.[c];
  const groups = Object.entries(channels.groups).filter(([, of]) => of[c]).map(([name]) => name);
  const facts = [
    ["group", groups.join(", ") || "none"],
    ...Object.entries(channels.numbers).map(([name, of]) => [name, figure(of[c])]),
    ["on the map", h("a", { href: `#map?colour=channel-${c}` }, "all images coloured by it")],
  ];
  const companions = Array.from(explorer.row(channels.companions, c), (other, k) => [other, explorer.row(channels.companionCorrelations, c)[k]]).filter(
    ([, value]) => Number.isFinite(value),
  );
  const content = [
    h("h1", {}, `Channel ${c}`, groups.length > 0 && h("span", { class: "soft" }, ` ${groups.join(", ")}`)),
    steps("channel", c, overview.channels),
    top ? part("The images that excite it most", topOf(c, top, images, values)) : absentPart("Top images"),
    part("What is known of it", shown(numbersTable(facts), "Numbers of the channel over all images."), absent("Selectivity")),
    part(
      "Its values over images",
      shown(histogram(values, { cut: threshold, unit: `phi of channel ${c}` }), `phi of channel ${c} over ${count(overview.images)} images${threshold === undefined ? "" : "; dashed, where it lies among them: its threshold, the largest phi of any image without noise (σ = 0)"}.`),
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
      companions.length
        ? shown(
            table(
              ["channel", "correlation over images"],
              companions.map(([other, value]) => [h("a", { href: `#channel/${other}` }, `channel ${other}`), figure(value)]),
              "Correlations of phi over images: the largest, then the most negative.",
            ),
            "From all images.",
          )
        : h("p", {}, "None: only channels that differ over images have correlations."),
    ),
    clusterings.length > 0 && part("Clusters that excite it most", clustersOf(c, clusterings)),
  ];
  return { title: `Channel ${c}`, content };
};

/** The clusters in which a channel's phi is highest, of every clustering. */
function clustersOf(c, clusterings) {
  const rows = clusterings.flatMap(({ clustersOf: clusters, clusterExcess: excess }, number) => {
    const K = explorer.overview.clusterings[number];
    const found = Array.from(explorer.row(clusters, c), (cluster, k) => [cluster, explorer.row(excess, c)[k]]).filter(([, value]) => value > 0);
    return found.slice(0, 5).map(([cluster, value]) => [h("a", { href: `#cluster/${K}/${cluster}` }, `cluster ${cluster} of ${K}`), figure(value)]);
  });
  if (!rows.length) return h("p", {}, "None: its phi is the same for all images.");
  return shown(
    table(["cluster", "deviations above the mean"], rows, "Mean phi of the channel in a cluster, above that of all images, in deviations over images."),
    "The clusters where it is highest.",
  );
}

/** A channel's top images, each with where the channel fires. */
function topOf(c, top, images, values) {
  const { channelsPerPiece, top: { count: most, map: shape } } = explorer.overview;
  const row = c % channelsPerPiece;
  const size = shape[0] * shape[1];
  const index = topImages(top, c);
  if (!index.length) return h("p", {}, "None: its phi is the same for all images.");
  const maps = explorer.row(top.maps, row);
  const few = index.length < most ? " No other image lies above its least value." : "";
  const lit = index.map((i, k) =>
    thumb(images, i, { size: 96, note: figure(values[i]), map: { values: maps.subarray(k * size, (k + 1) * size), largest: explorer.row(top.largest, row)[k] > 0 ? 255 : 0, shape } }),
  );
  return [
    shown(thumbs(lit), `The ${index.length} images with the largest phi of channel ${c}, which stands below each.${few} Light where the channel fires, dark where it does not, each on its own scale.`),
    shown(thumbs(index.map((i) => thumb(images, i, { size: 96 }))), "The same images, plain.", WITHOUT_NOISE),
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
  const portraits = members.slice(0, first).map((i) => thumb(images, i, { note: figure(clustering.distance[i]) }));
  const excited = Array.from(explorer.row(clustering.channels, c), (channel, k) => [channel, explorer.row(clustering.channelExcess, c)[k]]);
  const labels = labelCounts(images, members);
  const near = Array.from(explorer.row(clustering.nearest, c), (other, k) => [other, explorer.row(clustering.separation, c)[k]]);
  const content = [
    h("h1", {}, `Cluster ${c}`, h("span", { class: "soft" }, ` of ${K}`)),
    steps("cluster", c, K, `#cluster/${K}/`),
    h("p", {}, h("a", { href: `#map?colour=clusters-${K}` }, "All images on the map, coloured by their cluster")),
    part(
      `Its ${count(members.length)} images`,
      shown(
        thumbs(portraits),
        `The nearest to the cluster's centre first${first < members.length ? `; ${count(first)} of ${count(members.length)}` : ""}. ` +
          "Below each its distance from it, 1 being the root mean squared distance of all images from their mean.",
      ),
      first < members.length && h("p", {}, h("a", { href: `#cluster/${K}/${c}?show=${Math.min(members.length, first * 4)}&from=${first}` }, "Show more")),
    ),
    overview.labelled &&
      part(
        "Labels inside",
        table(
          ["label", "images", "share"],
          labels.slice(0, 12).map(([label, of]) => [
            h("a", { href: `#images?label=${label}` }, labelName(label)),
            count(of),
            `${figure((100 * of) / members.length)} %`,
          ]),
          `The ${Math.min(12, labels.length)} most frequent of ${count(labels.length)} labels.`,
        ),
      ),
    part(
      "Channels that it excites most",
      shown(
        table(
          ["channel", "deviations above the mean"],
          excited.filter(([, value]) => value > 0).map(([channel, value]) => [h("a", { href: `#channel/${channel}` }, `channel ${channel}`), figure(value)]),
          "Mean phi of the cluster's images, above that of all images, in deviations over images.",
        ),
        "The channels where it is highest.",
      ),
    ),
    part(
      "Nearest clusters",
      h("p", {}, "What separation the clusters of a Gaussian without clusters have is in the report."),
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
  return { title: `Cluster ${c} of ${K}`, content, focus: query.has("from") ? portraits[Number(query.get("from"))] : null };
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
