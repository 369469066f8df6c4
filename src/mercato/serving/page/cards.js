// One result as a card, its photo, and the arrow keys' way through the grid.

import { h, icon } from "./dom.js";
import { age, countryName, distance, human, leaf, money } from "./format.js";
import { why } from "./why.js";

/** The product's n-th photo, or a quiet drawing where it has none (or the photo cannot be read). */
export function photo(product, n = 0, { eager = false, alt = "" } = {}) {
  const frame = h("div", { class: "photo" });
  const source = product.images?.[n];
  if (!source) return placeholder(frame, product);
  const image = h("img", { alt, width: 320, height: 320, decoding: "async", loading: eager ? "eager" : "lazy" });
  image.addEventListener("load", () => frame.classList.add("loaded"));
  image.addEventListener("error", () => placeholder(frame, product));
  image.src = source;
  frame.append(image);
  return frame;
}

function placeholder(frame, product) {
  frame.classList.add("bare");
  const name = [...(product.category ?? product.title)];
  const hue = name.reduce((sum, letter) => (sum * 31 + letter.codePointAt(0)) % 360, 7);
  frame.style.setProperty("--hue", hue);
  frame.replaceChildren(icon("photo"), h("span", {}, leaf(product.category) || "No photo"));
  return frame;
}

/** "Good · 3 days ago" and "Spain · 12 mi": what is unknown is left out. */
export const condition = (product) => [human(product.condition), age(product.created_at)].filter(Boolean).join(" · ");
export const whereabouts = (hit, unit) =>
  [countryName(hit.product.country), distance(hit.distance_km, unit)].filter(Boolean).join(" · ");

export const priceTag = ({ price, currency }) =>
  h("p", { class: Number.isFinite(price) ? "price" : "price unknown" }, money(price, currency));

const PLACED = { pin: "Pinned", exploration: "New listing" };

/** A card of the grid; `target` is that of `link`, `bestBm25` and `asked` are as in why.js. */
export function card(hit, { target, unit, bestBm25, asked }) {
  const { product } = hit;
  const count = product.images?.length ?? 0;
  return h("li", { class: "card", "data-id": product.product_id },
    photo(product),
    count > 1 && h("span", { class: "photo-count" }, icon("photo"), String(count)),
    hit.placed_by && h("span", { class: "placed" }, PLACED[hit.placed_by]),
    h("div", { class: "card-text" },
      priceTag(product),
      h("h3", {}, link(product, target)),
      h("p", { class: "meta" }, condition(product)),
      h("p", { class: "meta" }, whereabouts(hit, unit))),
    why(hit, bestBm25, asked));
}

/**
 * The title as a link to `href`. A plain click calls `open` in place of following it; one for a new tab is left to the
 * browser. Of both kinds `clicked` hears first.
 */
export function link(product, { href, open, clicked }) {
  const onauxclick = (event) => event.button === 1 && clicked();
  const onclick = (event) => {
    clicked();
    if (event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
    event.preventDefault();
    open();
  };
  return h("a", { class: "card-link", href, lang: product.language, dir: "auto", onclick, onauxclick }, product.title);
}

/** Grey cards in the shape of what is to come. */
export const skeletons = (count = 12) =>
  h("ol", { class: "grid waiting", "aria-hidden": "true" }, Array.from({ length: count }, () =>
    h("li", { class: "card" },
      h("div", { class: "photo" }),
      h("div", { class: "card-text" }, h("i"), h("i"), h("i")))));

/** Moves the focus among the links of `container`: by cards, or by whole rows of the grid. True when it moved. */
export function move(container, key) {
  const links = [...container.querySelectorAll(".card-link")];
  if (!links.length) return false;
  const at = links.indexOf(document.activeElement?.closest("li")?.querySelector(".card-link"));
  if (at < 0) return focus(links[0]);
  const tops = links.map((each) => Math.round(each.closest("li").getBoundingClientRect().top));
  const columns = Math.max(1, tops.filter((top) => top === tops[0]).length);
  const step = { ArrowRight: 1, j: 1, ArrowLeft: -1, k: -1, ArrowDown: columns, ArrowUp: -columns }[key];
  return focus(links[Math.min(links.length - 1, at + step)] ?? links[0]);
}

function focus(link) {
  link.focus({ preventScroll: true });
  const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  link.closest("li").scrollIntoView({ block: "nearest", behavior: calm ? "instant" : "smooth" });
  return true;
}
