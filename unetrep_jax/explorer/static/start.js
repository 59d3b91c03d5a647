"use strict";
// Addresses: #view/what?settings. Every view is one, so that it can be shared and the back button works.

(async () => {
  const main = document.getElementById("main");
  const scrolled = new Map(); // address -> how far down it was left
  let shownView = null;
  let newest = 0;
  let before = null; // the view that is shown: { path, page }
  history.scrollRestoration = "manual";

  /** The view of an address, or what there is to say where there is none. */
  async function viewOf(name, what, query) {
    try {
      if (!Object.hasOwn(views, name)) throw new Error(`There is no view called ${name}.`);
      return await views[name](what, query);
    } catch (error) {
      return {
        title: "Not found",
        content: [h("h1", {}, "Not found"), h("p", { role: "alert" }, error.message), h("p", {}, h("a", { href: "#map" }, "To the map"))],
      };
    }
  }

  async function open() {
    const number = ++newest;
    const address = location.hash;
    const [path, settings] = address.slice(1).split("?");
    const [name, ...what] = path.split("/");
    const query = new URLSearchParams(settings);
    const view = await viewOf(name || "map", what, query);
    if (number !== newest) return view.close?.();
    shownView?.close?.();
    shownView = view;
    const focused = main.contains(document.activeElement) ? document.activeElement.id : null;
    main.replaceChildren(...view.content.flat(Infinity).filter(Boolean));
    document.title = `${view.title} · ${explorer.overview.title}`;
    for (const link of document.querySelectorAll("header nav a")) {
      const here = link.getAttribute("href").slice(1).replace(/s$/, "") === (name || "map").replace(/s$/, "");
      if (here) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
    arrive({ path, page: query.get("page") }, address, focused);
    main.dataset.ready = address;
  }

  /** Scrolls and focuses as a new page would: a link leads to the top, going back to where one was, a setting moves nothing. */
  function arrive(now, address, focused) {
    const { followed } = explorer;
    explorer.followed = false;
    const elsewhere = before && (before.path !== now.path || before.page !== now.page);
    if (before && !followed) window.scrollTo(0, scrolled.get(address) ?? 0);
    else if (elsewhere) window.scrollTo(0, 0);
    const same = focused && document.getElementById(focused);
    if (same && !elsewhere) same.focus({ preventScroll: true });
    else if (before) {
      const title = main.querySelector("h1");
      title?.setAttribute("tabindex", "-1");
      title?.focus({ preventScroll: true });
    }
    before = now;
  }

  /** Where a search leads, or null. */
  function find(text) {
    const { overview } = explorer;
    const [, kind, number] = text.match(/^(image|channel|cluster)?\s*#?(\d+)$/i) ?? [];
    if (number !== undefined) {
      if (kind?.toLowerCase() === "cluster") return overview.clusterings.length ? `#cluster/${overview.clusterings[0]}/${number}` : null;
      return `#${kind?.toLowerCase() ?? "image"}/${number}`;
    }
    const wanted = text.toLowerCase();
    const exact = overview.classNames.findIndex((name) => name.toLowerCase() === wanted);
    const label = exact >= 0 ? exact : overview.classNames.findIndex((name) => name.toLowerCase().includes(wanted));
    return label >= 0 && overview.labelled ? `#images?label=${label}` : null;
  }

  /** The image of that name, or part of a name; -1 for none. */
  async function named(text) {
    if (!explorer.overview.named) return -1;
    const names = await explorer.load("names");
    const exact = names.indexOf(text);
    return exact >= 0 ? exact : names.findIndex((name) => name.toLowerCase().includes(text.toLowerCase()));
  }

  document.querySelector(".skip").addEventListener("click", (event) => {
    event.preventDefault();
    main.focus();
  });

  document.getElementById("go").addEventListener("submit", async (event) => {
    event.preventDefault();
    const [field, answer] = [document.getElementById("goto"), document.getElementById("gone")];
    const text = field.value.trim();
    if (!text) return;
    const i = await named(text);
    const address = find(text) ?? (i >= 0 ? `#image/${i}` : null);
    answer.textContent = address ? "" : `Nothing is called ${text}.`;
    if (address) {
      follow(address);
      field.value = "";
      field.blur();
    }
  });

  window.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|SELECT|TEXTAREA|CANVAS)$/.test(event.target.tagName)) return;
    const link = { ArrowLeft: "prev", ArrowRight: "next" }[event.key];
    const found = link && !event.target.closest(".wide") && main.querySelector(`a[rel="${link}"]`);
    if (event.key === "/") document.getElementById("goto").focus();
    else if (event.key === "m") follow("#map");
    else if (found) found.click();
    else return;
    event.preventDefault();
  });

  try {
    explorer.overview = await explorer.load("overview");
  } catch (error) {
    main.replaceChildren(h("p", { role: "alert" }, error.message));
    return;
  }
  document.addEventListener("click", (event) => {
    const elsewhere = event.defaultPrevented || event.ctrlKey || event.metaKey || event.shiftKey; // a new tab, or no link
    if (!elsewhere && event.target.closest?.('a[href^="#"]')) explorer.followed = true;
  });
  window.addEventListener("hashchange", (event) => {
    scrolled.set(new URL(event.oldURL).hash, window.scrollY);
    open();
  });
  await open();
})();
