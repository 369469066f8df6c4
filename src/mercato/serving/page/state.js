// What the visitor asked for, as one plain object, and its two forms: the (shareable) address and the API's request.

import { homeCountry, homeUnit } from "./format.js";

export const NOTHING = Object.freeze({
  query: "", category: null, priceMin: null, priceMax: null, conditions: [], country: null, attributes: {},
  near: null, radius: null, unit: homeUnit, compare: false, product: null,
});

/** Whether a state asks for results: by words, by filters, or both. */
export const asks = (state) => write({ ...state, compare: false, product: null }) !== "/";

/** The state that an address's query string stands for; what cannot be read is left out. */
export function read(search) {
  const parameters = new URLSearchParams(search);
  const attributes = {};
  for (const [name, value] of parameters) if (name.startsWith("a.") && value) attributes[name.slice(2)] = value;
  const [latitude, longitude] = (parameters.get("near") ?? "").split(",").map(Number.parseFloat);
  const onEarth = Math.abs(latitude) <= 90 && Math.abs(longitude) <= 180;
  const radius = /^(\d+(?:\.\d+)?)(mi|km)$/.exec(parameters.get("radius") ?? "");
  return {
    ...NOTHING,
    query: (parameters.get("q") ?? "").slice(0, 512),
    category: parameters.get("category") || null,
    priceMin: amount(parameters.get("min")),
    priceMax: amount(parameters.get("max")),
    conditions: parameters.getAll("condition"),
    country: parameters.get("country") || null,
    attributes,
    near: onEarth ? { latitude, longitude, name: parameters.get("place") || "chosen place" } : null,
    radius: onEarth && radius ? Number(radius[1]) : null,
    unit: radius?.[2] ?? homeUnit,
    compare: parameters.get("compare") === "1",
    product: parameters.get("product") || null,
  };
}

/** The address ("/" or "/?q=…") that stands for a state: `read(write(state))` is the state. */
export function write(state) {
  const parameters = new URLSearchParams();
  const put = (name, value) => value !== null && value !== "" && parameters.append(name, value);
  put("q", state.query);
  put("category", state.category);
  put("min", state.priceMin);
  put("max", state.priceMax);
  for (const condition of state.conditions) put("condition", condition);
  put("country", state.country);
  for (const [key, value] of Object.entries(state.attributes)) put(`a.${key}`, value);
  if (state.near) {
    put("near", `${state.near.latitude},${state.near.longitude}`);
    put("place", state.near.name);
    if (state.radius) put("radius", `${state.radius}${state.unit}`);
  }
  if (state.compare) put("compare", "1");
  put("product", state.product);
  const text = parameters.toString();
  return text ? `/?${text}` : "/";
}

/** The country that a search is made with: the visitor's, where the market has listings from it. */
export const searcherCountry = (market) => (market.countries.includes(homeCountry) ? homeCountry : null);

/** The body of POST /v1/search for a state. Prices given the wrong way round are read the right way round. */
export function request(state, market, mode, cursor = null) {
  const swapped = state.priceMin !== null && state.priceMax !== null && state.priceMin > state.priceMax;
  const body = {
    query: state.query,
    country: searcherCountry(market),
    location: state.near && { latitude: state.near.latitude, longitude: state.near.longitude },
    filters: {
      category: state.category,
      price_min: swapped ? state.priceMax : state.priceMin, price_max: swapped ? state.priceMin : state.priceMax,
      condition: state.conditions, country: state.country, attributes: state.attributes,
    },
    mode, page_size: 24, cursor,
  };
  if (state.near && state.radius) body[state.unit === "mi" ? "radius_miles" : "radius_km"] = state.radius;
  return body;
}

function amount(text) {
  const value = Number.parseFloat(text ?? "");
  return Number.isFinite(value) && value >= 0 ? value : null;
}
