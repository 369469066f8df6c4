// One product in full, in a <dialog>: every photo, what the seller wrote, its attributes, and why it was found.

import { button, byId, h, icon } from "./dom.js";
import { photo, priceTag, whereabouts } from "./cards.js";
import { age, human, number } from "./format.js";
import { likely } from "./likely.js";
import { explanation } from "./why.js";

const dialog = byId("detail");

/**
 * Opens the dialog on `hit`. `onMessage` records a press of "Message seller" (null: there is no search to record it
 * with), `onQuery` starts a search for a query that the product may be known by (null: the model predicts none),
 * `bestBm25` and `asked` are as in why.js; a hit without `found_by` (opened by its address) has no "why".
 */
export function show(hit, { unit, bestBm25, asked, onMessage, onQuery }) {
  const { product } = hit;
  dialog.replaceChildren(
    button({ class: "close", "aria-label": "Close", onclick: () => dialog.close() }, icon("close")),
    gallery(product),
    h("div", { class: "detail-text" },
      product.category && h("p", { class: "path" }, product.category.replaceAll(" > ", " › ")),
      h("h2", { id: "detail-title", lang: product.language, dir: "auto" }, product.title),
      priceTag(product),
      h("p", { class: "meta place" }, icon("pin"), whereabouts(hit, unit) || "Place unknown"),
      product.description && h("p", { class: "description", lang: product.language, dir: "auto" }, product.description),
      facts(product),
      onMessage && message(onMessage),
      onQuery && likely(product, onQuery),
      hit.found_by && h("section", { class: "detail-why" },
        h("h3", {}, "Why this result"),
        explanation(hit, bestBm25, asked))));
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
}

/** Closes the dialog; `onClose` of `start` is called as after Esc. */
export const close = () => dialog.open && dialog.close();

/** Call once: a click beside the dialog closes it, and `onClose` hears of every way it closes. */
export function start(onClose) {
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  dialog.addEventListener("close", () => {
    if (dialog.open) return; // opened again before this was heard
    dialog.replaceChildren();
    onClose();
  });
}

function gallery(product) {
  const count = product.images?.length ?? 0;
  const stage = h("div", { class: "stage" });
  const view = h("div", { class: "gallery" }, stage);
  let at = 0;
  const turn = (to) => {
    at = (to + count) % count;
    const alt = `Photo ${at + 1} of ${count}: ${product.title}`;
    stage.replaceChildren(photo(product, at, { eager: true, alt }), ...arrows);
    thumbs.forEach((thumb, n) => thumb.setAttribute("aria-current", n === at));
  };
  const arrow = (step, name, label) =>
    button({ class: `turn ${name}`, "aria-label": label, onclick: () => turn(at + step) }, icon(name));
  const arrows = count > 1 ? [arrow(-1, "left", "Photo before"), arrow(1, "right", "Next photo")] : [];
  const thumbs = count > 1
    ? Array.from({ length: count }, (_, n) =>
      button({ "aria-label": `Photo ${n + 1}`, onclick: () => turn(n) }, photo(product, n, { eager: true })))
    : [];
  if (count) turn(0);
  else stage.append(photo(product));
  if (thumbs.length) view.append(h("div", { class: "thumbs" }, thumbs));
  dialog.onkeydown = (event) => {
    if (count > 1 && event.key === "ArrowRight") turn(at + 1);
    if (count > 1 && event.key === "ArrowLeft") turn(at - 1);
  };
  return view;
}

function facts(product) {
  const rows = [
    ["Condition", human(product.condition)],
    ["Brand", product.brand],
    ...Object.entries(product.attributes ?? {}).map(([key, value]) => [human(key), value]),
    ["Listed", age(product.created_at)],
    ["Seller’s rating", stars(product.seller_rating)],
    ["Product’s rating", stars(product.rating)],
  ].filter(([, value]) => value);
  const row = ([label, value]) => h("div", {}, h("dt", {}, label), h("dd", {}, value));
  return rows.length ? h("dl", { class: "facts" }, rows.map(row)) : null;
}

const stars = (rating) => (Number.isFinite(rating) ? `★ ${number(rating, 1)}` : null);

function message(onMessage) {
  const note = h("p", { class: "note", role: "status" },
    "This page sends no message to anyone: it only records that you would.");
  const onclick = (event) => {
    onMessage();
    event.currentTarget.disabled = true;
    note.textContent = "Recorded, so that the search can learn from it. No message was sent.";
  };
  return h("div", { class: "message" }, button({ class: "primary", onclick }, icon("message"), "Message seller"), note);
}
