// The filters: what the market offers, as controls. Each change gives `apply` a patch of the state.

import { button, byId, h, icon } from "./dom.js";
import { countryName, human, leaf, money, plural } from "./format.js";

const RADII = [5, 10, 25, 50, 100, 250];
const CHIPS = 16; // an attribute with more values than this is a select
const DISTANCE = 50; // the radius that a newly chosen place starts with
const HIDE = { popovertarget: "filters", popovertargetaction: "hide" };
const panel = byId("filters");

/** Draws every control as `state` has it. The control in use keeps the focus: it is found again by its data-key. */
export function draw(state, market, apply) {
  const held = panel.contains(document.activeElement) ? document.activeElement.dataset.key : null;
  const scrolled = panel.scrollTop;
  const parts = [
    h("header", { class: "filters-head" },
      h("h2", {}, "Filters"),
      button({ class: "close", "aria-label": "Close the filters", ...HIDE }, icon("close"))),
    place(state, market, apply),
    categories(state, market, apply),
    price(state, market, apply),
    market.conditions.length > 0 && conditions(state, market, apply),
    ...Object.entries(market.attributes).map(([key, values]) => attribute(key, values, state, apply)),
    market.countries.length > 1 && countries(state, market, apply),
    button({ class: "primary filters-done", ...HIDE }, "Show results"),
  ];
  panel.replaceChildren(...parts.filter(Boolean)); // a market without conditions has no such group
  if (held) panel.querySelector(`[data-key="${CSS.escape(held)}"]`)?.focus();
  panel.scrollTop = scrolled;
}

/** The filters in use, as [words, patch that takes it away]. */
export function active(state, market) {
  const chips = [];
  const add = (words, patch) => chips.push([words, patch]);
  if (state.category) add(leaf(state.category), { category: null });
  if (state.priceMin !== null) add(`from ${money(state.priceMin, market.currency)}`, { priceMin: null });
  if (state.priceMax !== null) add(`up to ${money(state.priceMax, market.currency)}`, { priceMax: null });
  for (const each of state.conditions) {
    add(human(each), { conditions: state.conditions.filter((other) => other !== each) });
  }
  for (const [key, value] of Object.entries(state.attributes)) {
    add(`${human(key)}: ${value}`, { attributes: without(state.attributes, key) });
  }
  if (state.country) add(countryName(state.country), { country: null });
  if (state.near) {
    const { near, radius, unit } = state;
    add(radius ? `within ${radius} ${unit} of ${near.name}` : `near ${near.name}`, { near: null, radius: null });
  }
  return chips;
}

const without = (attributes, key) =>
  Object.fromEntries(Object.entries(attributes).filter(([other]) => other !== key));

const group = (title, ...children) => h("fieldset", {}, h("legend", {}, title), children);

function select(key, label, options, chosen, onChange) {
  const onchange = (event) => onChange(event.target.value);
  const element = h("select", { "aria-label": label, "data-key": key, onchange },
    options.map(([value, words]) => h("option", { value, selected: value === chosen }, words)));
  const title = element.selectedOptions[0]?.textContent; // where the control is too narrow for it
  return h("span", { class: "select", title }, element, icon("chevron"));
}

function place(state, market, apply) {
  const here = state.near && !market.places.some(({ name }) => name === state.near.name);
  const names = [...market.places.map(({ name }) => name), ...(here ? [state.near.name] : [])];
  const radii = new Set([...RADII, state.radius].filter(Boolean));
  const choose = (name) => {
    if (here && name === state.near.name) return;
    const near = market.places.find((each) => each.name === name) ?? null;
    apply({ near, radius: near && (state.radius ?? DISTANCE) });
  };
  const note = h("p", { class: "note", role: "status" });
  const found = ({ coords }) => {
    const near = { latitude: rounded(coords.latitude), longitude: rounded(coords.longitude), name: "my location" };
    apply({ near, radius: state.radius ?? DISTANCE });
  };
  const refused = () => { note.textContent = "Your browser did not give a location. Choose a place instead."; };
  const locate = () => {
    note.textContent = "Asking your browser…";
    if (!navigator.geolocation) refused();
    else navigator.geolocation.getCurrentPosition(found, refused, { timeout: 10000, maximumAge: 600000 });
  };
  return group("Location",
    select("place", "Place", [["", "Anywhere"], ...names.map(same)], state.near?.name ?? "", choose),
    state.near && h("div", { class: "pair" },
      select("radius", "Within", [["", "Any distance"], ...[...radii].sort((a, b) => a - b).map(String).map(same)],
        String(state.radius ?? ""), (value) => apply({ radius: value ? Number(value) : null })),
      select("unit", "Unit", [["mi", "miles"], ["km", "km"]], state.unit, (unit) => apply({ unit }))),
    button({ class: "quiet", "data-key": "locate", onclick: locate }, icon("pin"), "Use my location"),
    note);
}

/** An option whose value is what it says. */
const same = (value) => [value, value];

/** About a kilometre: enough to search by, and the address can be shared without giving a home away. */
const rounded = (degrees) => Math.round(degrees * 100) / 100;

/** The chosen category's ancestors, itself, and its children: a walk down the tree. */
function categories(state, market, apply) {
  if (!market.categories.length) return null;
  const path = state.category?.split(" > ") ?? [];
  const ancestors = path.map((_, n) => path.slice(0, n + 1).join(" > "));
  const prefix = path.length ? `${state.category} > ` : "";
  const below = market.categories.filter((each) => each.startsWith(prefix));
  const children = below.filter((each) => !each.slice(prefix.length).includes(" > "));
  const entry = (category, words, level) =>
    h("li", {}, button({
      class: `level-${Math.min(level, 3)}`, "data-key": `category ${category ?? ""}`,
      "aria-current": category === state.category && "true", onclick: () => apply({ category }),
    }, words));
  return group("Category", h("ul", { class: "tree" },
    entry(null, "All categories", 0),
    ancestors.map((each, n) => entry(each, leaf(each), n + 1)),
    children.map((each) => entry(each, leaf(each), path.length + 1))));
}

function price(state, market, apply) {
  const amount = (text) => (text === "" ? null : Math.max(0, Number(text)));
  const field = (name, label, value) =>
    h("input", {
      type: "number", min: 0, step: "any", inputmode: "decimal", placeholder: label, value,
      "data-key": name, "aria-label": `${label} price in ${market.currency}`,
      onchange: (event) => apply({ [name]: amount(event.target.value) }),
    });
  return group(`Price (${market.currency})`,
    h("div", { class: "pair" }, field("priceMin", "From", state.priceMin), field("priceMax", "To", state.priceMax)));
}

function conditions(state, market, apply) {
  const toggle = (value, on) =>
    apply({ conditions: on ? [...state.conditions, value] : state.conditions.filter((each) => each !== value) });
  return group("Condition", market.conditions.map((value) =>
    h("label", { class: "check" },
      h("input", {
        type: "checkbox", name: "condition", value, "data-key": `condition ${value}`,
        checked: state.conditions.includes(value),
        onchange: (event) => toggle(value, event.target.checked),
      }), human(value))));
}

function attribute(key, values, state, apply) {
  const chosen = state.attributes[key];
  const others = without(state.attributes, key);
  const choose = (value) => apply({ attributes: value ? { ...others, [key]: value } : others });
  if (values.length > CHIPS) {
    const options = [["", "Any"], ...values.map(same)];
    return group(human(key), select(`a.${key}`, human(key), options, chosen ?? "", choose));
  }
  return group(human(key), h("div", { class: "chips" }, values.map((value) =>
    button({
      class: "chip", "data-key": `a.${key} ${value}`, "aria-pressed": String(value === chosen),
      onclick: () => choose(value === chosen ? null : value),
    }, swatch(key, value), value))));
}

/** A dot of the colour itself, where the browser knows the colour by that name. */
function swatch(key, value) {
  if (!/colou?r/i.test(key) || !CSS.supports("color", value)) return null;
  const dot = h("i", { class: "swatch", "aria-hidden": "true" });
  dot.style.backgroundColor = value;
  return dot;
}

function countries(state, market, apply) {
  const names = market.countries.map((code) => [code, countryName(code)]).sort(([, a], [, b]) => a.localeCompare(b));
  const options = [["", `All ${plural(names.length, "country", "countries")}`], ...names];
  const choose = (country) => apply({ country: country || null });
  return group("Country", select("country", "Country", options, state.country ?? "", choose));
}
