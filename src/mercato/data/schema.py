"""The tables of a market: one Arrow schema each. Every column not in `REQUIRED` may be null or absent."""

from __future__ import annotations

import pyarrow as pa

TIMESTAMP = pa.timestamp("us", tz="UTC")
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])

PRODUCTS = pa.schema(
    [
        ("product_id", pa.string()),
        ("title", pa.string()),
        ("description", pa.string()),
        ("brand", pa.string()),
        ("category", pa.string()),  # "A > B > C"
        ("price", pa.float64()),
        ("currency", pa.string()),
        ("condition", pa.string()),
        ("created_at", TIMESTAMP),
        ("country", pa.string()),  # ISO 3166-1 alpha-2, lower case
        ("language", pa.string()),
        ("latitude", pa.float64()),
        ("longitude", pa.float64()),
        ("seller_id", pa.string()),
        ("seller_rating", pa.float64()),
        ("rating", pa.float64()),
        ("attributes", pa.map_(pa.string(), pa.string())),
        ("images", pa.list_(IMAGE)),  # a path is relative to the market
        ("image_embeddings", pa.list_(pa.list_(pa.float32()))),  # the user's own vectors, in place of `images`
    ]
)

EVENTS = pa.schema(
    [
        ("timestamp", TIMESTAMP),
        ("query_id", pa.string()),
        ("session_id", pa.string()),
        ("client_id", pa.string()),  # one browser or device over many sessions
        ("action_name", pa.string()),  # search, impression, click, message, seller_reply, add_to_cart, purchase, …
        ("user_query", pa.string()),
        ("product_id", pa.string()),
        ("position", pa.int64()),
        ("placed_by", pa.string()),  # pin | exploration: what put the product there; null: the order, or nobody knows
        ("country", pa.string()),
        ("latitude", pa.float64()),
        ("longitude", pa.float64()),
        ("received", pa.string()),  # by a server: key | signed | unsigned, by its sender; null: imported
        ("network", pa.string()),  # of who sent it without a key: a keyed hash of the address, another each day
    ]
)

JUDGMENTS = pa.schema(
    [
        ("query", pa.string()),
        ("country", pa.string()),
        ("product_id", pa.string()),
        ("grade", pa.float64()),  # higher is better
        ("rater", pa.string()),
        ("split", pa.string()),  # validation (early stopping may see it) | test (the default where null)
    ]
)

PAIRS = pa.schema(
    [
        ("query", pa.string()),
        ("country", pa.string()),
        ("product_id", pa.string()),
        ("label", pa.int64()),  # 1 engaged, 0 an impression without engagement
        ("weight", pa.float64()),
        ("last_seen", TIMESTAMP),
        ("split", pa.string()),  # train | validation | future
        ("grade", pa.float64()),  # how good the pair is, for graded losses; null: the label
        ("impressions", pa.int64()),  # how often it was shown in the split
        ("clicks", pa.int64()),
        ("depth", pa.int64()),  # the most steps of the chain that a search took on the product: 0 shown, 1 clicked, …
        ("position", pa.float64()),  # the mean position at which it was shown
    ]
)

LISTS = pa.schema(
    [
        ("list_id", pa.string()),  # of one displayed list; links to no session, query id or other list
        ("query", pa.string()),
        ("country", pa.string()),
        ("day", pa.date32()),  # UTC
        ("product_id", pa.string()),
        ("position", pa.int64()),
        ("placed_by", pa.string()),  # as in the events; null: the order, or nobody knows
        ("depth", pa.int64()),  # steps of the chain that the search took on the product; null: it may go on yet
        ("split", pa.string()),  # train | validation | future
        ("features", pa.list_(pa.float32())),  # that it was ordered by, where these were logged; null: unknown
        ("features_version", pa.string()),  # which features these are, and of which run
    ]
)

FEATURES = pa.schema(  # of the products that a search showed in a ranker's order; a share of the searches is logged
    [
        ("query_id", pa.string()),
        ("product_id", pa.string()),
        ("position", pa.int64()),
        ("features", pa.list_(pa.float32())),  # but for the listing's age and distance; null: unknown
        ("features_version", pa.string()),
        ("ranked_by", pa.string()),  # the stage that placed it: trees | linear | dlrm
        ("rank_score", pa.float64()),
    ]
)

INTENTS = pa.schema(
    [
        ("query", pa.string()),
        ("country", pa.string()),  # null: in every country
        ("intent", pa.string()),  # queries that ask for the same thing have the same; intervals resample whole ones
    ]
)

TABLES: dict[str, pa.Schema] = {
    "products": PRODUCTS,
    "events": EVENTS,
    "judgments": JUDGMENTS,
    "pairs": PAIRS,
    "lists": LISTS,
    "features": FEATURES,
    "intents": INTENTS,
}

OF_SERVERS = ("received", "network")  # columns of the events that no sender fills
LOGGED = ("events", "features")  # by a server, while it serves
IMPORTED = ("products", "events", "judgments", "pairs")  # from files; lists are mined, features served

REQUIRED: dict[str, tuple[str, ...]] = {
    "products": ("product_id", "title"),
    "events": ("timestamp", "session_id", "action_name"),
    "judgments": ("query", "product_id", "grade"),
    "pairs": ("query", "product_id", "label"),
    "lists": ("list_id", "query", "product_id", "position"),
    "features": ("query_id", "product_id", "position", "features", "features_version"),
    "intents": ("query", "intent"),
}
