// Mercato beside BM25: the same query and filters, the first page of each, and where every product went.

import { link, photo, whereabouts } from "./cards.js";
import { h, s } from "./dom.js";
import { duration, money, plural } from "./format.js";
import { finder } from "./why.js";

/**
 * Two columns with the products they share joined by lines. `ours` and `theirs` are answers of /v1/search;
 * `row(hit, column)` gives the target of a hit's link, and `unit` is as on cards.
 */
export function comparison(ours, theirs, { row, unit }) {
  const ranks = { ours: rankOf(ours), theirs: rankOf(theirs) };
  const shared = ours.hits.filter((hit) => ranks.theirs.has(hit.product.product_id));
  const column = (name, title, note, answer, other, missing) =>
    h("section", { class: `column ${name}`, "aria-label": title },
      h("header", {}, h("h2", {}, title), h("p", {}, `${note} · ${duration(answer.took_ms)}`)),
      answer.hits.length
        ? h("ol", {}, answer.hits.map((hit) => entry(hit, other.get(hit.product.product_id), missing, row(hit, name))))
        : h("p", { class: "nothing" }, name === "theirs"
          ? "BM25 found nothing: no listing has any of these words."
          : "Mercato found nothing that is close enough."));
  const entry = (hit, rank, missing, target) =>
    h("li", { class: rank ? "row" : "row alone", "data-id": hit.product.product_id },
      h("span", { class: "rank" }, String(hit.position)),
      photo(hit.product),
      h("div", { class: "row-text" },
        h("h3", {}, link(hit.product, target)),
        h("p", { class: "meta" }, h("b", {}, money(hit.product.price, hit.product.currency)), " · ",
          whereabouts(hit, unit))),
      movement(hit, rank, missing));

  const lines = s("svg", { class: "lines", "aria-hidden": "true" });
  const view = h("div", { class: "compare" },
    column("ours", "Mercato", "meaning and words", ours, ranks.theirs, "not in BM25’s"),
    lines,
    column("theirs", "BM25", "words only", theirs, ranks.ours, "not in Mercato’s"));
  highlight(view);
  new ResizeObserver(() => draw(view, lines, shared)).observe(view);
  return h("div", {},
    h("p", { class: "compare-note" }, verdict(ours, theirs, shared)),
    view);
}

const rankOf = (answer) => new Map(answer.hits.map((hit) => [hit.product.product_id, hit.position]));

function verdict(ours, theirs, shared) {
  const meaning = ours.hits.filter((hit) => finder(hit) === "meaning").length;
  const [onlyOurs, onlyTheirs] = [ours, theirs].map((answer) => answer.hits.length - shared.length);
  const both = shared.length
    ? `On the first page ${plural(shared.length, "product is", "products are")} in both lists, `
      + `${onlyOurs} only in Mercato’s and ${onlyTheirs} only in BM25’s. `
    : "The two first pages have no product in common. ";
  return `${both}${meaning} of Mercato’s ${ours.hits.length} were found by meaning alone. `
    + (shared.length ? "▲ 3 says: three places higher than in the other list." : "");
}

/** Where the other list has this product. */
function movement(hit, rank, missing) {
  if (!rank) return h("span", { class: "move new", title: `${missing} first page` }, "only here");
  const up = rank - hit.position;
  const title = `number ${rank} in the other list`;
  if (!up) return h("span", { class: "move", title }, "same");
  const [name, arrow, word] = up > 0 ? ["up", "▲", "higher"] : ["down", "▼", "lower"];
  return h("span", { class: `move ${name}`, title },
    h("span", { "aria-hidden": "true" }, `${arrow} ${Math.abs(up)}`),
    h("span", { class: "unseen" }, `${Math.abs(up)} ${word}: ${title}`));
}

/** Pointing at a product, or focusing it, lights it up in both lists. */
function highlight(view) {
  const mark = (event) => {
    const left = event.type === "pointerleave" || event.type === "focusout";
    const id = left ? null : event.target.closest("[data-id]")?.dataset.id;
    for (const each of view.querySelectorAll("[data-id]")) each.classList.toggle("twin", each.dataset.id === id);
  };
  for (const type of ["pointerover", "pointerleave", "focusin", "focusout"]) view.addEventListener(type, mark);
}

function draw(view, lines, shared) {
  const box = lines.getBoundingClientRect();
  const middle = (side, id) => {
    const row = view.querySelector(`.${side} [data-id="${CSS.escape(id)}"]`).getBoundingClientRect();
    return row.top + row.height / 2 - box.top;
  };
  lines.replaceChildren(...shared.map(({ product }) => {
    const [from, to] = [middle("ours", product.product_id), middle("theirs", product.product_id)];
    const half = box.width / 2;
    const curve = `M0 ${from} C${half} ${from} ${half} ${to} ${box.width} ${to}`;
    return s("path", { "data-id": product.product_id, d: curve });
  }));
}
