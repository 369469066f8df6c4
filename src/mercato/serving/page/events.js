// What the visitor saw and did, as UBI events (https://ubisearch.dev) in small batches; `mercato mine` reads them.

import { json } from "./api.js";

const BATCH = 50;
const PAUSE_MS = 1500;
const SESSION = "mercato.session";

let queue = [];
let timer = null;
const seen = new Set(); // "query_id product_id" of every impression already logged
const contexts = new WeakMap(); // card → {queryId, query, country, hit}

const observer = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    if (!isIntersecting) continue;
    observer.unobserve(target);
    const context = contexts.get(target);
    const key = `${context.queryId} ${context.hit.product.product_id}`;
    if (seen.has(key)) continue;
    seen.add(key);
    log("impression", context);
  }
}, { threshold: 0.5 });

/** Logs an impression once at least half of `card` has been on the screen. */
export function watch(card, context) {
  contexts.set(card, context);
  observer.observe(card);
}

/**
 * Logs `action`: "search" with {queryId, query, country}; "click", "message", … with the `hit` they were done to as well.
 * `country` is the one that the search was made with, or null.
 */
export function log(action, { queryId, query, country, hit }) {
  queue.push({
    action_name: action,
    query_id: queryId,
    session_id: session(),
    user_query: query,
    timestamp: new Date().toISOString(),
    event_attributes: {
      country,
      ...(hit && {
        object: { object_id: hit.product.product_id, object_id_field: "product_id" },
        position: { ordinal: hit.position, ...(hit.placed_by && { placed_by: hit.placed_by }) },
      }),
    },
  });
  if (queue.length >= BATCH) flush();
  else timer ??= setTimeout(flush, PAUSE_MS);
}

async function flush() {
  clearTimeout(timer);
  timer = null;
  const events = queue.splice(0, BATCH);
  if (!events.length) return;
  const options = { ...json({ events }), keepalive: true };
  const status = await fetch("/v1/events", options).then((answer) => answer.status, () => 503);
  if (status === 503 || status === 429) queue = [...events, ...queue].slice(0, 4 * BATCH); // sent with the next batch
  else if (queue.length) timer ??= setTimeout(flush, PAUSE_MS);
}

// The page may never run again after this: a beacon outlives it.
document.addEventListener("visibilitychange", () => {
  if (document.visibilityState !== "hidden") return;
  while (queue.length) {
    const events = queue.splice(0, BATCH);
    navigator.sendBeacon("/v1/events", new Blob([JSON.stringify({ events })], { type: "application/json" }));
  }
});

/** A random name for this tab's visit; it says nothing about the visitor and ends with the tab. */
function session() {
  let id = sessionStorage.getItem(SESSION);
  if (!id) {
    id = randomUuid();
    sessionStorage.setItem(SESSION, id);
  }
  return id;
}

/** crypto.randomUUID exists only on https and localhost; a market on a home network is neither. */
function randomUuid() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join("-");
}
