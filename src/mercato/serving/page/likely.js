// Product understanding: what people would search a product as, each a chip that starts that search.

import { likelyQueries } from "./api.js";
import { button, h } from "./dom.js";
import { number } from "./format.js";

const SHOWN = 6; // at most, and
const LEAST = 1 / 20; // none so much less likely than the first: it would only look wrong

/** A section that fills itself; it stays empty, and unseen, where the model cannot tell. `onQuery` starts a search. */
export function likely(product, onQuery) {
  const section = h("section", { class: "likely", "aria-label": "Likely searches", hidden: true });
  const fill = (found) => {
    const queries = found.filter(({ probability }) => probability >= LEAST * found[0].probability);
    const chip = ({ query, probability }) => {
      const title = `${number(100 * probability, 1)} % likely`;
      return button({ class: "chip", dir: "auto", title, onclick: () => onQuery(query) }, query);
    };
    section.append(h("h3", {}, "People would search this as"), h("div", { class: "chips" }, queries.map(chip)));
    section.hidden = false;
  };
  likelyQueries(product.product_id, SHOWN).then(fill, () => {}); // the product is shown all the same
  return section;
}
