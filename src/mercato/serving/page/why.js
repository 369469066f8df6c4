// "Why this result": the two scores as they are, which search found the product, where each stage put it, and one plain
// sentence about it.

import { h, icon } from "./dom.js";
import { number } from "./format.js";
import { parts } from "./parts.js";

/** "both", "meaning", "words", "rule" or "filters": which of the two searches listed the hit, or what else did. */
export function finder(hit) {
  if (hit.placed_by === "pin") return "rule";
  const [meaning, words] = [hit.found_by.includes("ann"), hit.found_by.includes("text")];
  if (meaning) return words ? "both" : "meaning";
  return words ? "words" : "filters";
}

const STAGES = {
  retrieval: ["Retrieval", "found", "The order in which the search found it"],
  trees: ["Stage 1", "trees", "Boosted trees on words, prices and what people clicked"],
  linear: ["Stage 1", "judged", "What judges called right: a weighted sum of meaning, words and numbers"],
  dlrm: ["Stage 2", "network", "How far people go with it: the network over the best of stage 1"],
};

const LABEL = {
  both: "meaning and words", meaning: "meaning", words: "words", rule: "a rule of this market", filters: "the filters",
};

function sentence(hit) {
  if (hit.exact) return "Listed first: every word of the query is in this listing, and one of them is rare here.";
  switch (finder(hit)) {
    case "both":
      return "Found by meaning and by words: it is close to the query in meaning, and shares words with it.";
    case "rule":
      return "Listed first: whoever runs this market has pinned it to this search.";
    case "filters":
      return "Listed by the filters alone, newest first: there was no query to compare it with.";
    case "words":
      if (hit.cosine === null) return "Found by words: this is BM25’s own list, which knows nothing of meaning.";
      return "Found by words only: it shares words with the query, but was not among the closest in meaning.";
    default:
      return hit.bm25 > 0
        ? "Found by meaning: it shares a word with the query too, but not enough for the word search to list it."
        : "Found by meaning: no word of the query is in the listing.";
  }
}

/**
 * The panel's content. `bestBm25` is the highest BM25 score on the page: BM25 has no upper end of its own; `asked` is the
 * {query, country} that the hit was found with.
 */
export function explanation(hit, bestBm25, asked) {
  const rows = finder(hit) === "filters" ? [] : [
    ["Meaning", "cosine", hit.cosine, 1, 3, "Cosine of the query's and the product's vectors: 1 is the same meaning"],
    ["Words", "BM25", hit.bm25, bestBm25, 2, "BM25, beside the highest score on this page"],
  ];
  return h("div", { class: "why-panel" },
    h("p", {}, sentence(hit)),
    hit.placed_by === "exploration" && h("p", {},
      "This place was drawn for a new listing, of which little is known yet: it was not earned."),
    rows.length > 0 && h("dl", { class: "scores" }, rows.map(([label, name, value, most, digits, title]) => [
      h("dt", { title }, label, " ", h("small", {}, name)),
      h("dd", {}, h("b", {}, Number.isFinite(value) ? number(value, digits) : "–"), bar(value, most)),
    ])),
    hit.places && stages(hit.places),
    asked?.query && hit.cosine !== null && parts(hit.product, asked),
    h("p", { class: "found" },
      "Position ", h("b", {}, String(hit.position)), " · found by ", h("b", {}, LABEL[finder(hit)])));
}

/** Where retrieval and each ranking stage put the hit among the candidates, and how many places each moved it. */
function stages(places) {
  let before = null;
  return h("dl", { class: "scores stages" }, Object.entries(places).map(([stage, place]) => {
    const [label, name, title] = STAGES[stage];
    const up = before === null ? 0 : before - place;
    before = place;
    const moved = up > 0 ? `up ${number(up, 0)}` : up < 0 ? `down ${number(-up, 0)}` : "";
    return [h("dt", { title }, label, " ", h("small", {}, name)),
      h("dd", {}, h("b", {}, `no. ${number(place, 0)}`), h("span", { class: up < 0 ? "moved down" : "moved" }, moved))];
  }));
}

/** The panel behind a "Why this result" that opens in place. */
export function why(hit, bestBm25, asked) {
  const mark = h("i", { class: `found-by ${finder(hit)}`, "aria-hidden": "true" });
  const details = h("details", { class: "why" }, h("summary", {}, mark, "Why this result", icon("chevron")));
  details.addEventListener("toggle", () => {
    if (details.open && details.childElementCount === 1) details.append(explanation(hit, bestBm25, asked));
  });
  return details;
}

function bar(value, most) {
  const fill = h("i");
  fill.style.inlineSize = `${most > 0 ? 100 * Math.min(1, Math.max(0, value / most)) : 0}%`;
  return h("span", { class: "bar", "aria-hidden": "true" }, fill);
}
