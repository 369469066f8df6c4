// The HTTP API, with its failures told in words a visitor can act on.

export class Failure extends Error {
  constructor(title, advice) {
    super(title);
    this.advice = advice;
  }
}

export const market = () => call("/v1/market");

export const search = (body, signal) => call("/v1/search", { ...json(body), signal });

export const product = (id) => call(`/v1/products/${encodeURIComponent(id)}`);

/** The queries that a product is likely searched as: [{query, probability}], likeliest first. */
export const likelyQueries = async (id, k) =>
  (await call(`/v1/predicted-queries/${encodeURIComponent(id)}?k=${k}`)).queries;

/** What brings a query and a product together: {cosine, words, query, product}, each part with its change. */
export const explain = (query, country, id) => call("/v1/explain", json({ query, country, product_id: id }));

/** The options of a fetch that posts `body` as JSON. */
export const json = (body) =>
  ({ method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });

async function call(path, options) {
  let answer;
  try {
    answer = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure("The market cannot be reached", "Check your connection, then try again.");
  }
  if (answer.ok) return answer.json();
  if (answer.status === 503 || answer.status === 429) {
    const seconds = Number.parseInt(answer.headers.get("Retry-After") ?? "", 10);
    const pause = seconds > 1 ? `${seconds} seconds` : "a moment";
    throw new Failure("The market is busy", `Many people are searching. Try again in ${pause}.`);
  }
  if (answer.status === 404) throw new Failure("This listing is gone", "It may have been sold or withdrawn.");
  if (answer.status < 500) throw new Failure("This search was not understood", await reason(answer));
  throw new Failure("Something went wrong", "It is not your search: the market had a fault. Try again.");
}

/** FastAPI says `detail` as a sentence or as a list of {loc, msg}. */
async function reason(answer) {
  const { detail } = await answer.json().catch(() => ({}));
  if (typeof detail === "string") return detail;
  if (!Array.isArray(detail)) return "Change the search and try again.";
  return detail.map(({ loc = [], msg }) => `${loc.slice(1).join(".")}: ${msg}`).join("; ");
}
