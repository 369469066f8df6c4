// Values as people read them, in the language of the browser.

const locale = navigator.languages?.length ? [...navigator.languages] : undefined;
const countries = new Intl.DisplayNames(locale, { type: "region" });
const relative = new Intl.RelativeTimeFormat(locale, { numeric: "auto" });
const region = new Intl.Locale(navigator.language || "en").maximize().region ?? "";
const DAY = 86400;
const AGES = [
  ["year", 365 * DAY], ["month", 30 * DAY], ["week", 7 * DAY], ["day", DAY], ["hour", 3600], ["minute", 60],
];

export const KM_PER_MILE = 1.609344;

/** The visitor's country by their browser's language, lower case, e.g. "us". */
export const homeCountry = region.toLowerCase();

/** "mi" where roads are signed in miles, else "km". */
export const homeUnit = ["US", "GB", "LR", "MM"].includes(region) ? "mi" : "km";

export const number = (value, digits = 0) =>
  value.toLocaleString(locale, { minimumFractionDigits: digits, maximumFractionDigits: digits });

export function money(price, currency) {
  if (price === null || price === undefined) return "No price given";
  if (price === 0) return "Free";
  const digits = Number.isInteger(price) ? 0 : 2;
  try {
    const style = { style: "currency", currency, minimumFractionDigits: digits, maximumFractionDigits: digits };
    return new Intl.NumberFormat(locale, style).format(price);
  } catch { // no currency, or not an ISO 4217 code
    return `${number(price, digits)} ${currency ?? ""}`.trim();
  }
}

/** "3 days ago"; an empty string where there is no date. */
export function age(timestamp) {
  const seconds = (Date.now() - Date.parse(timestamp)) / 1000;
  if (timestamp === null || Number.isNaN(seconds)) return "";
  const [unit, length] = AGES.find(([, span]) => seconds >= span) ?? ["minute", 60];
  return relative.format(-Math.max(0, Math.floor(seconds / length)), unit);
}

export function distance(km, unit) {
  if (km === null || km === undefined) return "";
  const value = unit === "mi" ? km / KM_PER_MILE : km;
  return value < 1 ? `under 1 ${unit}` : `${number(value, value < 10 ? 1 : 0)} ${unit}`;
}

export function countryName(code) {
  if (!code) return "";
  try {
    return countries.of(code.toUpperCase()) ?? code;
  } catch { // not a region code
    return code;
  }
}

/** "like_new" → "Like new". */
export function human(text) {
  if (!text) return "";
  const words = text.replaceAll(/[_-]+/g, " ");
  return words[0].toUpperCase() + words.slice(1);
}

export const leaf = (category) => category?.split(" > ").at(-1) ?? "";

export const plural = (count, one, many) => `${number(count)} ${count === 1 ? one : many}`;

/** Milliseconds, kept on one line. */
export const duration = (ms) => `${number(ms, 1)}\u00a0ms`;

/** "United States · 30.2°, −97.8°": a place has no other name here. */
export const placeName = ({ country, latitude, longitude }) =>
  [countryName(country), `${number(latitude, 1)}°, ${number(longitude, 1)}°`].filter(Boolean).join(" · ")
    .replaceAll("-", "−");
