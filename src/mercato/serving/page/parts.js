// What brings a query and a product together: by how much each word and each field moves their cosine, as signed bars.

import { explain } from "./api.js";
import { h } from "./dom.js";
import { human, number } from "./format.js";

const NAMES = { images: "Photos", created_at: "Age", seller_rating: "Seller’s rating", seller_id: "Seller" };
const FIELDS = 6; // shown of the product, those that move the cosine most
const LEAST = 0.005; // what would be shown as 0.00
let turn = Promise.resolve(); // one explanation at a time, however many panels are opened: the server has few places

/** A section that fills itself; it stays empty, and unseen, where the pair cannot be explained. */
export function parts(product, { query, country }) {
  const section = h("section", { class: "parts", "aria-label": "What brings them together", hidden: true });
  const fill = (found) => {
    const asked = [
      ...found.words.map(({ word, change, shared }) =>
        ({ name: `“${word}”`, change, note: shared === false ? "not in the listing" : "" })),
      ...found.query.map(named("Your ")),
    ];
    const offered = found.product.map(named("")).filter(({ change }) => Math.abs(change) >= LEAST).slice(0, FIELDS);
    const changes = [...asked, ...offered].map(({ change }) => change);
    const span = [Math.min(0, ...changes), Math.max(0, ...changes)];
    section.append(
      h("p", { title: "The cosine with it, less the cosine without it" }, "What each part adds to the cosine:"),
      list("In your search", asked, span), list("In this listing", offered, span));
    section.hidden = false;
  };
  turn = turn.then(() => explain(query, country, product.product_id)).then(fill, () => {}); // the rest says enough
  return section;
}

const named = (whose) => ({ feature, change }) => {
  const name = NAMES[feature] ?? human(feature);
  return { name: whose ? whose + name.toLowerCase() : name, change, note: "" };
};

function list(title, rows, [low, high]) {
  if (!rows.length) return "";
  return h("div", {},
    h("h4", {}, title),
    h("dl", { class: "scores" }, rows.map(({ name, change, note }) => [
      h("dt", { dir: "auto" }, name, note && [" ", h("small", {}, note)]),
      h("dd", {}, h("b", {}, signed(change)), bar(change, low, high)),
    ])));
}

/** From the line of no change, to the right where the part brings them nearer, to the left where it parts them. */
function bar(change, low, high) {
  const fill = h("i", { class: change < 0 && "apart" });
  const part = (value) => `${(100 * value) / (high - low || 1)}%`;
  fill.style.insetInlineStart = part(Math.min(0, change) - low);
  fill.style.inlineSize = part(Math.abs(change));
  return h("span", { class: "bar", "aria-hidden": "true" }, fill);
}

const signed = (value) =>
  (Math.abs(value) < LEAST ? "" : value > 0 ? "+" : "−") + number(Math.abs(value), 2);
