"use strict";
// The data: pieces that are scripts, loaded when first asked for. A page opened from a disk may load scripts, and nothing else.
const explorer = (() => {
  const TYPES = { uint8: Uint8Array, uint16: Uint16Array, int32: Int32Array, float32: Float32Array };
  const here = new Map();
  const coming = new Map();
  const others = new Set();

  function unpack(value) {
    if (Array.isArray(value)) return value.map(unpack);
    if (value === null || typeof value !== "object") return value;
    if (typeof value.data === "string" && TYPES[value.type]) {
      const text = atob(value.data);
      const bytes = new Uint8Array(text.length);
      for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
      const array = new TYPES[value.type](bytes.buffer);
      array.shape = value.shape;
      return array;
    }
    return Object.fromEntries(Object.entries(value).map(([name, of]) => [name, unpack(of)]));
  }

  // index.html asks for this script by an address that names the version of the page.
  const version = new URL(document.currentScript.src).searchParams.get("v");

  /** What every piece calls; all pieces of a page have its version. */
  function take(name, version, value) {
    if (version === explorer.version) here.set(name, unpack(value));
    else others.add(name);
  }

  /** A promise of a piece. */
  function load(name) {
    if (here.has(name)) return Promise.resolve(here.get(name));
    if (!coming.has(name)) {
      const promise = new Promise((resolve, reject) => {
        const script = document.createElement("script");
        const done = () => {
          script.remove();
          coming.delete(name);
          if (here.has(name)) resolve(here.get(name));
          else if (others.has(name)) reject(new Error(`data/${name}.js belongs to another version of this page; reload the page`));
          else reject(new Error(`data/${name}.js is missing or damaged; run the analysis again with --redo explorer`));
        };
        script.src = address(`data/${name}.js`);
        script.onload = done;
        script.onerror = done;
        document.head.append(script);
      });
      coming.set(name, promise);
    }
    return coming.get(name);
  }

  /** The address of a file of this version of the page, so that none is taken that a browser kept of another. */
  const address = (file) => `${file}?v=${version}`;

  /** Promises of several pieces. */
  const all = (...names) => Promise.all(names.map(load));

  /** phi of one image: Float32Array of all channels. */
  async function phiOfImage(image) {
    const size = explorer.overview.imagesPerPiece;
    const [piece, scale] = await all(`phi-images-${Math.floor(image / size)}`, "phi-scale");
    const channels = explorer.overview.channels;
    const first = (image % size) * channels;
    return Float32Array.from({ length: channels }, (_, c) => scale.low[c] + scale.step[c] * piece[first + c]);
  }

  /** One channel of phi over all images: Float32Array. */
  async function phiOfChannel(channel) {
    const size = explorer.overview.channelsPerPiece;
    const [piece, scale] = await all(`phi-channels-${Math.floor(channel / size)}`, "phi-scale");
    const images = explorer.overview.images;
    const first = (channel % size) * images;
    const [low, step] = [scale.low[channel], scale.step[channel]];
    return Float32Array.from({ length: images }, (_, i) => low + step * piece[first + i]);
  }

  /** Row `i` of an array whose first axis is cut into pieces or not: a view. */
  function row(array, i) {
    const size = array.shape.slice(1).reduce((a, b) => a * b, 1);
    return array.subarray(i * size, (i + 1) * size);
  }

  return { take, load, all, address, phiOfImage, phiOfChannel, row, version, overview: null, followed: false };
})();
