// The page: the address bar holds the state; a change of state is a search; an answer is drawn.

import * as api from "./api.js";
import { card, move, skeletons } from "./cards.js";
import { comparison } from "./compare.js";
import * as detail from "./detail.js";
import { button, byId, h, icon } from "./dom.js";
import { log, watch } from "./events.js";
import * as filters from "./filters.js";
import { duration, number, placeName, plural } from "./format.js";
import { NOTHING, asks, read, request, searcherCountry, write } from "./state.js";

const SKELETON_AFTER_MS = 150; // a fast answer replaces the old one without a flash of grey

let market;
let state;
let page; // what is drawn: {contexts: Map id → {queryId, query, country, hit}, cursor, shown, bestBm25}, or null
let running = null; // the AbortController of the search under way
let returning = false; // on the way back in the browser's history, which comes about a little later

const searchable = (some) => write({ ...some, product: null });

// ---------------------------------------------------------------- state → screen

/** Goes to a new state: one step in the browser's history, and a search where it asks for one. */
function go(patch) {
  if (returning) return addEventListener("popstate", () => go(patch), { once: true });
  const before = state;
  state = { ...state, ...patch };
  if (write(state) !== write(before)) history.pushState({ within: true }, "", write(state));
  show(before);
  if (searchable(state) !== searchable(before)) scrollTo({ top: 0, behavior: "instant" });
  const used = document.activeElement; // a removed chip, a hidden start page: the keyboard goes on at the results
  if (used === document.body || !used.checkVisibility()) byId("main").focus({ preventScroll: true });
}

function show(before) {
  if (before && state.query !== before.query) byId("query").value = state.query; // else it may hold what is being typed
  byId("compare").setAttribute("aria-pressed", state.compare);
  byId("compare").hidden = !state.query; // BM25 has nothing to say about no words
  document.body.classList.toggle("home", !asks(state));
  document.title = state.query ? `${state.query} · ${market.name}` : `${market.name} · Mercato`;
  if (!asks(state)) clear();
  else if (!before || searchable(state) !== searchable(before)) {
    drawFilters();
    search();
  }
  if (state.product) open(state.product);
  else detail.close();
}

function clear() {
  running?.abort();
  page = null;
  byId("results").replaceChildren();
  byId("more").hidden = true;
}

function drawFilters() {
  filters.draw(state, market, go);
  const chips = filters.active(state, market);
  byId("filter-count").textContent = chips.length ? String(chips.length) : "";
  byId("active").replaceChildren(
    ...chips.map(([words, patch]) => h("li", {},
      button({ class: "chip", "aria-label": `Remove: ${words}`, onclick: () => go(patch) }, words, icon("close")))),
    chips.length > 1 ? h("li", {}, button({ class: "quiet", onclick: () => go(unfiltered()) }, "Clear all")) : "");
}

const unfiltered = () => ({ ...NOTHING, query: state.query, compare: state.compare, unit: state.unit });

// ---------------------------------------------------------------- searching

async function search() {
  running?.abort();
  const { signal } = (running = new AbortController());
  const results = byId("results");
  results.setAttribute("aria-busy", "true");
  byId("heading").replaceChildren(...(state.query ? ["Results for ", h("q", {}, state.query)] : ["Newest listings"]));
  byId("counts").textContent = "Searching…";
  byId("more").hidden = true;
  const grey = setTimeout(() => results.replaceChildren(skeletons()), SKELETON_AFTER_MS);
  try {
    const modes = state.compare && state.query ? ["hybrid", "text"] : ["hybrid"];
    const [ours, theirs] = await Promise.all(modes.map((mode) => api.search(request(state, market, mode), signal)));
    if (signal.aborted) return;
    page = { contexts: new Map(), cursor: null, shown: 0, bestBm25: Math.max(0, ...ours.hits.map((hit) => hit.bm25)) };
    log("search", { queryId: ours.query_id, query: state.query, country: searcherCountry(market) });
    if (!ours.hits.length && !theirs?.hits.length) empty();
    else if (theirs) drawComparison(ours, theirs);
    else drawGrid(ours);
    count(ours);
  } catch (error) {
    if (!signal.aborted) failed(error, search);
  } finally {
    clearTimeout(grey);
    if (!signal.aborted) results.removeAttribute("aria-busy");
  }
}

async function more() {
  const trigger = byId("more");
  const { signal } = running;
  trigger.disabled = true;
  trigger.textContent = "Loading…";
  try {
    const answer = await api.search(request(state, market, "hybrid", page.cursor), signal);
    if (signal.aborted) return;
    append(answer)?.querySelector(".card-link").focus({ preventScroll: true });
    count(answer);
  } catch (error) {
    if (!signal.aborted) announce(`${error.message}. ${error.advice ?? ""}`, byId("counts"));
  } finally {
    trigger.disabled = false;
    trigger.textContent = "Load more";
  }
}

// ---------------------------------------------------------------- drawing answers

function drawGrid(answer) {
  byId("results").replaceChildren(h("ol", { class: "grid", "aria-label": "Results" }));
  append(answer);
}

/** Adds an answer's cards to the grid and gives the first of them. */
function append(answer) {
  const fresh = answer.hits.filter((hit) => !page.contexts.has(hit.product.product_id));
  const cards = fresh.map((hit) => {
    const context = remember(answer, hit);
    const element = card(hit, { target: target(hit), unit: state.unit, bestBm25: page.bestBm25, asked: context });
    watch(element, context);
    return element;
  });
  byId("results").querySelector("ol").append(...cards);
  page.cursor = answer.cursor;
  page.shown += cards.length;
  byId("more").hidden = !answer.cursor;
  return cards[0];
}

function drawComparison(ours, theirs) {
  const row = (hit, column) => {
    if (column === "ours") remember(ours, hit);
    return column === "ours" ? target(hit) : target(hit, { hit: { ...hit, cosine: null } });
  };
  byId("results").replaceChildren(comparison(ours, theirs, { row, unit: state.unit }));
  for (const element of byId("results").querySelectorAll(".ours [data-id]")) {
    watch(element, page.contexts.get(element.dataset.id));
  }
  page.shown = ours.hits.length;
}

function remember(answer, hit) {
  const context = { queryId: answer.query_id, query: state.query, country: searcherCountry(market), hit };
  page.contexts.set(hit.product.product_id, context);
  return context;
}

/** Where a hit's link leads. Only what Mercato showed is logged: `unlogged` is a hit of BM25's column. */
function target(hit, unlogged = null) {
  const id = hit.product.product_id;
  return {
    href: write({ ...state, product: id }),
    clicked: () => unlogged || log("click", page.contexts.get(id)),
    open: () => {
      page.opening = unlogged;
      go({ product: id });
    },
  };
}

function count(answer) {
  const shown = state.compare && state.query ? "Two first pages" : `${number(page.shown)} shown`;
  const more = answer.truncated ? ", and there may be more" : "";
  const of = filters.active(state, market).length
    ? `${plural(answer.total, "listing matches", "listings match")} your filters`
    : `${plural(answer.total, "listing", "listings")} in all`;
  const words = page.shown || answer.truncated ? `${shown}${more} · ${of}` : "No results";
  announce(`${words} · ${duration(answer.took_ms)}`, byId("counts"));
}

function announce(words, visible) {
  visible.textContent = words;
  byId("live").textContent = words;
}

function empty() {
  const narrowed = filters.active(state, market).length > 0;
  byId("results").replaceChildren(h("div", { class: "notice" }, icon("empty"),
    h("h2", {}, "Nothing found"),
    h("p", {}, `No listing fits ${narrowed ? "the words and the filters" : "these words"}. You could try:`),
    narrowed && button({ class: "primary", onclick: () => go(unfiltered()) }, "Search without the filters"),
    h("div", { class: "examples" }, suggestions())));
}

function failed(error, retry) {
  page = null;
  byId("heading").textContent = "";
  announce("", byId("counts"));
  byId("results").replaceChildren(h("div", { class: "notice", role: "alert" }, icon("alert"),
    h("h2", {}, error instanceof api.Failure ? error.message : "Something went wrong on this page"),
    h("p", {}, error.advice ?? "Reload it to start again."),
    button({ class: "primary", onclick: retry }, "Try again")));
  if (!(error instanceof api.Failure)) throw error;
}

const chip = (words, patch) => button({ class: "chip", onclick: () => go({ ...NOTHING, ...patch }) }, words);

const suggestions = () => market.examples.slice(0, 6).map((query) => chip(query, { query }));

/** The start page's two rows: queries to try, and the top of the category tree. */
function startingPoints() {
  const tops = market.categories.filter((category) => !category.includes(" > ")).slice(0, 8);
  const browse = tops.map((category) => chip(category, { category }));
  const row = (label, chips) => (chips.length ? [h("p", {}, h("span", {}, label), chips)] : []);
  return [...row("Try", suggestions()), ...row("Browse", browse)];
}

// ---------------------------------------------------------------- one product

async function open(id) {
  const context = page?.opening ?? page?.contexts.get(id);
  if (page) page.opening = null;
  const onQuery = market.model.queries ? (query) => go({ ...NOTHING, query }) : null;
  const common = { unit: state.unit, bestBm25: page?.bestBm25 ?? 0, onQuery };
  if (context) {
    const onMessage = context.queryId ? () => log("message", context) : null;
    detail.show(context.hit, { ...common, asked: context, onMessage });
    return;
  }
  try { // opened by its address: no search found it
    const product = await api.product(id);
    if (state.product === id) detail.show({ product, distance_km: null }, { ...common, onMessage: null });
  } catch (error) {
    announce(`${error.message}. ${error.advice ?? ""}`, byId("counts"));
  }
}

/** The dialog is closed; the browser has given the focus back to where it was, and it may have gone on since. */
function closed() {
  if (!state.product) return; // the browser's back button closed it
  state = { ...state, product: null };
  returning = Boolean(history.state?.within);
  if (returning) history.back();
  else history.replaceState(null, "", write(state));
}

// ---------------------------------------------------------------- hands

function listen() {
  byId("search").addEventListener("submit", (event) => {
    event.preventDefault();
    const query = byId("query").value.trim();
    if (matchMedia("(pointer: coarse)").matches) byId("query").blur(); // a phone's keyboard would hide the results
    if (query === state.query && asks(state)) search();
    else go({ query, product: null });
  });
  byId("compare").addEventListener("click", () => go({ compare: !state.compare }));
  byId("more").addEventListener("click", more);
  document.querySelector(".brand").addEventListener("click", (event) => {
    event.preventDefault();
    go(NOTHING);
    byId("query").focus();
  });
  addEventListener("popstate", () => {
    const before = state;
    returning = false;
    state = read(location.search);
    show(before);
  });
  detail.start(closed);
}

function keys(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || byId("detail").open) return;
  const typing = event.target.matches("input:not([type=checkbox]), select, textarea");
  if (event.key === "/" && !typing) {
    event.preventDefault();
    byId("query").select();
    byId("query").focus();
  }
  const fromBox = event.target.id === "query" && event.key === "ArrowDown";
  const inList = event.target.closest(".card, .row") && /^(Arrow|[jk]$)/.test(event.key);
  if (fromBox || inList || (!typing && /^[jk]$/.test(event.key))) {
    const list = event.target.closest("ol") ?? byId("results").querySelector("ol");
    if (list && move(list, event.key)) event.preventDefault();
  }
  if (event.key === "Escape" && event.target.id === "query") event.target.blur();
}

// ---------------------------------------------------------------- start

/** Who types before the market has answered loses nothing: the keys work at once, and so does the form by itself. */
async function start() {
  state = read(location.search);
  byId("query").value = state.query;
  addEventListener("keydown", keys);
  try {
    market = await api.market();
    market.places = market.places.map((place) => ({ ...place, name: placeName(place) }));
  } catch (error) {
    document.body.classList.remove("home");
    failed(error, () => location.reload());
    return;
  }
  byId("market-name").textContent = market.name;
  byId("examples").replaceChildren(...startingPoints());
  byId("about").replaceChildren(`${plural(market.products, "listing", "listings")} · searched by `,
    h("b", {}, market.model.name), ` (${market.model.dimension} dimensions) · `, h("a", { href: "/docs" }, "API"));
  listen();
  show(null);
}

start();
