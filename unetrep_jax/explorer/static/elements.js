"use strict";
// Elements from data. Names come from folders and labels of data sets: they are only ever text, never markup.

/** An element; attributes that begin with "on" are listeners, `style` is an object, children are nodes or text. */
function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") Object.assign(element.style, value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** An SVG element. */
function s(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== undefined && value !== null && value !== false) element.setAttribute(name, value);
  }
  element.append(...children.flat(Infinity).filter(Boolean));
  return element;
}

const count = (number) => number.toLocaleString("en");

/** A number as a person reads it: three digits that count, powers of ten beyond. */
function figure(value) {
  if (!Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  if (size === 0) return "0";
  if (size >= 1e-3 && size < 1e5) return String(Number(value.toPrecision(3)));
  const [digits, power] = value.toExponential(2).split("e");
  const raised = [...String(Number(power))].map((d) => (d === "-" ? "⁻" : "⁰¹²³⁴⁵⁶⁷⁸⁹"[d])).join("");
  return `${digits}·10${raised}`;
}

const imageName = (i) => `image ${i}`;

/** A label in words. */
const labelName = (label) => explorer.overview.classNames[label] ?? `label ${label}`;

/** The label of an image in words, or "". */
const labelOf = (images, i) => (explorer.overview.labelled ? labelName(images.labels[i]) : "");

/** A heading, with an id so that it can be linked to. */
const heading = (text) => h("h2", {}, text);

/** A titled part of a view. */
const part = (title, ...children) => h("section", {}, heading(title), ...children);

/** A figure with the line that says what it is, at which noise level (the working one, if no other is said), from which checkpoint. */
function shown(content, text, level = explorer.overview.level) {
  return h("figure", {}, content, h("figcaption", {}, text, ` ${level}; ${explorer.overview.checkpoint}.`));
}

const WITHOUT_NOISE = "Without noise";

/** Name and value, row by row. */
function numbersTable(rows) {
  return h("dl", {}, rows.filter(Boolean).map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
}

/** A table with a header. */
function table(header, rows, caption) {
  return h(
    "div",
    { class: "wide", tabindex: 0, role: "region", "aria-label": caption },
    h(
      "table",
      {},
      h("caption", {}, caption),
      h("thead", {}, h("tr", {}, header.map((name) => h("th", { scope: "col" }, name)))),
      h("tbody", {}, rows.map((cells) => h("tr", {}, cells.map((cell, i) => h(i ? "td" : "th", i ? {} : { scope: "row" }, cell))))),
    ),
  );
}

/** What is not there, and the command that adds it; nothing where it is there. */
function absent(...what) {
  const missing = explorer.overview.missing.filter((of) => what.includes(of.what));
  return missing.map((of) =>
    h(
      "div",
      { class: "absent" },
      h("p", {}, `${of.what}: not here. ${of.why}`),
      of.command && h("p", {}, "This adds it: ", h("code", {}, of.command)),
    ),
  );
}

/** Goes to another view, as a click on a link does. */
function follow(address) {
  explorer.followed = new URL(address, location).hash !== location.hash;
  location.hash = address;
}

/** A row of choices of which one holds; calls back with its position. */
function choices(label, names, chosen, choose) {
  const id = `choice-${label.replace(/\W+/g, "-")}`;
  return h(
    "span",
    { class: "choice" },
    h("label", { for: id }, label),
    h(
      "select",
      { id, onchange: (event) => choose(Number(event.target.value)) },
      names.map((name, i) => h("option", { value: i, selected: i === chosen }, name)),
    ),
  );
}
