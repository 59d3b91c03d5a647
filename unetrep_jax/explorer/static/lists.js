"use strict";
// The views of all things of a kind, and what the page is.

const PAGE = 120;

views.images = async (_, query) => {
  const { overview } = explorer;
  const images = await explorer.load("images");
  const label = query.has("label") ? labelFrom(query.get("label")) : null;
  const order = Object.keys(images.numbers);
  const by = order.indexOf(query.get("by"));
  let chosen = Array.from({ length: overview.images }, (_, i) => i);
  if (label !== null) chosen = chosen.filter((i) => images.labels[i] === label);
  if (by >= 0) {
    const values = images.numbers[order[by]];
    const key = (i) => (Number.isFinite(values[i]) ? -values[i] : Infinity);
    const keys = Float64Array.from({ length: overview.images }, (_, i) => key(i));
    chosen.sort((a, b) => (keys[a] === keys[b] ? a - b : keys[a] - keys[b]));
  }
  const pages = Math.max(1, Math.ceil(chosen.length / PAGE));
  const page = Math.max(0, Math.min(pages - 1, (Number(query.get("page")) || 1) - 1));
  const address = (changes) => {
    const wanted = new URLSearchParams();
    for (const [name, value] of Object.entries({ label, by: by >= 0 ? order[by] : null, page: page + 1, ...changes })) {
      if (value !== null && !(name === "page" && value === 1)) wanted.set(name, value);
    }
    return `#images${String(wanted) && `?${wanted}`}`;
  };
  const present = overview.labels;
  const some = chosen.slice(page * PAGE, (page + 1) * PAGE);
  const content = [
    h("h1", {}, "Images", label !== null && h("span", { class: "soft" }, ` ${labelName(label)}`)),
    h(
      "div",
      { class: "tools" },
      overview.labelled &&
        choices("Label", ["all", ...present.map(labelName)], label === null ? 0 : present.indexOf(label) + 1, (i) => follow(address({ label: i ? present[i - 1] : null, page: 1 }))),
      choices("Order", ["as analysed", ...order.map((name) => `${name}, largest first`)], by + 1, (i) => follow(address({ by: i ? order[i - 1] : null, page: 1 }))),
    ),
    overview.labelled && h("p", {}, h("a", { href: "#map?colour=label" }, "All images on the map, coloured by their label")),
    !some.length && h("p", {}, "No image has this label."),
    some.length > 0 && shown(
      thumbs(some.map((i) => thumb(images, i, { note: by >= 0 ? figure(images.numbers[order[by]][i]) : String(i) }))),
      `${count(some.length)} of ${count(chosen.length)} images${by >= 0 ? `, with their ${order[by]}` : ", with their numbers"}.`,
      by >= 0 ? overview.level : WITHOUT_NOISE,
    ),
    pagesOf(page, pages, (to) => address({ page: to + 1 })),
  ];
  return { title: "Images", content };
};

/** A label from an address: one that images have, or that has a name at least. */
function labelFrom(text) {
  const { labels, labelled, classNames } = explorer.overview;
  return labels.find((of) => String(of) === text) ?? position(text, labelled ? classNames.length : 0, "label");
}

/** Links to the first, previous, next and last page. */
function pagesOf(page, pages, address) {
  if (pages < 2) return null;
  const link = (to, text) => (to >= 0 && to < pages && to !== page ? h("a", { href: address(to) }, text) : h("span", { class: "soft" }, text));
  return h(
    "nav",
    { class: "steps", "aria-label": "Pages" },
    link(0, "first"),
    link(page - 1, "← previous"),
    h("span", {}, `page ${count(page + 1)} of ${count(pages)}`),
    link(page + 1, "next →"),
    link(pages - 1, "last"),
  );
}

views.channels = async (_, query) => {
  const { overview } = explorer;
  const [images, channels] = await explorer.all("images", "channels");
  const numbers = Object.keys(channels.numbers);
  const by = numbers.indexOf(query.get("by"));
  const largestFirst = query.get("order") !== "smallest";
  const order = Array.from({ length: overview.channels }, (_, c) => c);
  if (by >= 0) {
    const values = channels.numbers[numbers[by]];
    const key = (c) => (Number.isFinite(values[c]) ? (largestFirst ? -values[c] : values[c]) : Infinity);
    order.sort((a, b) => (key(a) === key(b) ? a - b : key(a) - key(b)));
  }
  const pages = Math.ceil(order.length / 64);
  const page = Math.max(0, Math.min(pages - 1, (Number(query.get("page")) || 1) - 1));
  const some = order.slice(page * 64, (page + 1) * 64);
  const tops = overview.top ? await explorer.all(...some.map((c) => `top-${Math.floor(c / overview.channelsPerPiece)}`)) : [];
  const address = (changes) => {
    const wanted = new URLSearchParams();
    const now = { by: by >= 0 ? numbers[by] : null, order: largestFirst ? null : "smallest", page: page + 1, ...changes };
    for (const [name, value] of Object.entries(now)) if (value !== null && !(name === "page" && value === 1)) wanted.set(name, value);
    return `#channels${String(wanted) && `?${wanted}`}`;
  };
  const groupOf = (c) => Object.entries(channels.groups).filter(([, of]) => of[c]).map(([name]) => name).join(", ") || "–";
  const rows = some.map((c, k) => [
    h("a", { href: `#channel/${c}` }, `channel ${c}`),
    groupOf(c),
    ...numbers.map((name) => figure(channels.numbers[name][c])),
    tops.length ? h("span", { class: "strip" }, topImages(tops[k], c).slice(0, 5).map((i) => tile(i, 40))) : "",
  ]);
  const content = [
    h("h1", {}, "Channels"),
    h(
      "div",
      { class: "tools" },
      choices("Order", ["by number", ...numbers], by + 1, (i) => follow(address({ by: i ? numbers[i - 1] : null, page: 1 }))),
      by >= 0 && choices("from", ["largest", "smallest"], largestFirst ? 0 : 1, (i) => follow(address({ order: i ? "smallest" : null, page: 1 }))),
    ),
    absent("Selectivity", "Top images"),
    shown(
      table(["channel", "group", ...numbers, tops.length ? "top images" : ""], rows, `${count(some.length)} of the ${count(overview.channels)} channels of phi.`),
      tops.length ? "With the images that excite each most." : "Numbers over all images.",
    ),
    pagesOf(page, pages, (to) => address({ page: to + 1 })),
  ];
  return { title: "Channels", content };
};

views.clusters = async (_, query) => {
  const { overview } = explorer;
  if (!overview.clusterings.length) return { title: "Clusters", content: [h("h1", {}, "Clusters"), absent("Clusters")] };
  const number = Math.max(0, overview.clusterings.indexOf(Number(query.get("K"))));
  const K = overview.clusterings[number];
  const [images, clustering] = await explorer.all("images", `clusters-${number}`);
  const members = Array.from({ length: K }, () => []);
  for (let i = 0; i < overview.images; i++) members[clustering.assignment[i]].push(i);
  const order = [...members.keys()].sort((a, b) => members[b].length - members[a].length);
  const pages = Math.ceil(K / 100);
  const page = Math.max(0, Math.min(pages - 1, (Number(query.get("page")) || 1) - 1));
  const cards = order.slice(page * 100, (page + 1) * 100).map((c) => {
    const central = members[c].sort((a, b) => clustering.distance[a] - clustering.distance[b]).slice(0, 6);
    const text = `cluster ${c}, ${count(members[c].length)} images`;
    return h("a", { class: "card", href: `#cluster/${K}/${c}`, "aria-label": text }, h("span", { class: "strip" }, central.map((i) => tile(i, 40))), h("span", { class: "note" }, text));
  });
  const content = [
    h("h1", {}, "Clusters"),
    overview.clusterings.length > 1 &&
      h("div", { class: "tools" }, choices("Number of clusters", overview.clusterings.map(String), number, (i) => follow(`#clusters?K=${overview.clusterings[i]}`))),
    shown(h("div", { class: "cards" }, cards), `K-means of phi with K = ${count(K)}, the largest clusters first; of each, the images nearest to its centre.`),
    pagesOf(page, pages, (to) => `#clusters?K=${K}&page=${to + 1}`),
  ];
  return { title: "Clusters", content };
};

views.about = async () => {
  const { overview } = explorer;
  const content = [
    h("h1", {}, "About this page"),
    h("p", {}, `${overview.title}: ${count(overview.images)} images, ${count(overview.channels)} channels of phi. The page is made of files that lie beside it; it asks nothing of any network.`),
    h("p", {}, "phi is the spatial average of each channel of the denoiser's middle block, for an image with noise at the working level, averaged over draws of the noise. Every view has an address of its own: copy it from the address bar to share what you see."),
    h("p", {}, `The images have ${overview.imageSize.join(" × ")} pixels (height × width). Pictures of them are JPEG, quality ${overview.quality}, of ${[overview.sheets.images, overview.sheets.small].filter(Boolean).map(({ tile: size }) => size.join(" × ")).join(" and, where they are small, ")}.`),
    part("What was analysed", numbersTable(Object.entries(overview.facts))),
    overview.missing.length > 0 && part("What is not here", absent(...overview.missing.map((of) => of.what))),
    part(
      "Keys",
      numbersTable([
        ["/", "to the search field"],
        ["← →", "previous and next image, channel or cluster"],
        ["on the map", "arrows move, + and − zoom, 0 shows everything, Enter opens the image in the middle"],
      ]),
    ),
  ];
  return { title: "About", content };
};
