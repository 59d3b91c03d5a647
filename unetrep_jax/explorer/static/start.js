"use strict";
// Addresses: #view/what?settings. Every view is one, so that it can be shared and the back button works.

(async () => {
  const main = document.getElementById("main");
  const left = new Map(); // address -> how far down it was left, and the link that had the focus
  let shownView = null;
  let newest = 0; // number of the view that was asked for last
  let shownNumber = 0; // and of the one that is shown
  let searches = 0;
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

  async function open(followed) {
    const number = ++newest;
    answer("");
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
    shownNumber = number;
    arrive({ path, page: query.get("page") }, { address, followed, focused, wanted: view.focus });
    main.dataset.ready = address;
  }

  /** Scrolls and focuses as a new page would: a link leads to the top, going back to where one was, a setting moves nothing. */
  function arrive(now, { address, followed, focused, wanted }) {
    const elsewhere = before && (before.path !== now.path || before.page !== now.page);
    const was = followed ? null : left.get(address);
    if (before && !followed) window.scrollTo(0, was?.scrolled ?? 0);
    else if (elsewhere) window.scrollTo(0, 0);
    const same = focused && !elsewhere && document.getElementById(focused);
    const link = was?.link && [...main.querySelectorAll("a")].find((of) => of.getAttribute("href") === was.link);
    const title = main.querySelector("h1");
    title?.setAttribute("tabindex", "-1");
    if (before) ((followed && wanted) || same || link || title)?.focus({ preventScroll: true });
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
    const { labels, classNames } = overview;
    const exact = labels.find((of) => labelName(of).toLowerCase() === wanted);
    const label = exact ?? labels.find((of) => classNames[of]?.toLowerCase().includes(wanted));
    return label === undefined ? null : `#images?label=${label}`;
  }

  /** Where a search among the names of images leads, whole names first; null for none. */
  async function named(text) {
    if (!explorer.overview.named) return null;
    const names = await explorer.load("names");
    const exact = names.indexOf(text);
    const i = exact >= 0 ? exact : names.findIndex((name) => name.toLowerCase().includes(text.toLowerCase()));
    return i >= 0 ? `#image/${i}` : null;
  }

  /** The line below the search field; what a search under way would say after it no longer counts. */
  function answer(text) {
    searches++;
    document.getElementById("gone").textContent = text;
  }

  async function search(text) {
    let address = find(text);
    if (!address) {
      answer("Looking through the names …");
      const number = searches;
      let problem = null;
      try {
        address = await named(text);
      } catch (error) {
        problem = error.message;
      }
      if (number !== searches) return;
      answer(address ? "" : (problem ?? `Nothing is called ${text}.`));
    }
    if (!address) return;
    follow(address);
    const field = document.getElementById("goto");
    field.value = "";
    field.blur();
  }

  document.querySelector(".skip").addEventListener("click", (event) => {
    event.preventDefault();
    main.focus();
  });

  document.getElementById("go").addEventListener("submit", (event) => {
    event.preventDefault();
    answer("");
    const text = document.getElementById("goto").value.trim();
    if (text) search(text);
  });

  window.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|SELECT|TEXTAREA|CANVAS)$/.test(event.target.tagName)) return;
    const link = !event.shiftKey && { ArrowLeft: "prev", ArrowRight: "next" }[event.key];
    const found = link && !event.target.closest(".wide") && main.querySelector(`a[rel="${link}"]`);
    if (event.key === "/") document.getElementById("goto").focus();
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
    const link = !elsewhere && event.target.closest?.('a[href^="#"]');
    if (link) explorer.followed = link.hash !== location.hash; // otherwise nothing changes, and a later step back is no link
  });
  window.addEventListener("hashchange", (event) => {
    const { followed } = explorer;
    explorer.followed = false;
    // A view that had not opened yet was never scrolled.
    if (shownNumber === newest) {
      const link = main.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
      left.set(new URL(event.oldURL).hash, { scrolled: window.scrollY, link });
    }
    open(followed);
  });
  await open(false);
})();
