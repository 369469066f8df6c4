"""The event log: who searched, saw, clicked, wrote to the seller and got an answer, over five weeks."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from mercato.data.schema import EVENTS, TIMESTAMP
from mercato.progress import track
from mercato.simulation.engine import Engine, Searches
from mercato.simulation.listings import CONDITION_VALUE, LOG_DAYS, LOG_START, Catalogue
from mercato.simulation.ontology import CONDITIONS, COUNTRIES
from mercato.simulation.queries import Demand
from mercato.simulation.relevance import Floats, Ints, grade

SECOND_SEARCH = 0.25  # sessions that try another spelling of the same wish
EXAMINED = 0.28  # the chance to look at position p is p^-EXAMINED
CLICK = {1.0: 0.66, 0.5: 0.055, 0.0: 0.008}  # by how the listing, as seen, answers the wish
NO_IMAGE_CLICK = 0.5
LATE_REPLY = 0.06  # replies after a day or more
_DAY_WEIGHTS = np.array([0.95, 0.92, 0.94, 0.98, 1.0, 1.25, 1.35])  # Monday to Sunday
_HOUR_WEIGHTS = np.array([2, 1, 1, 1, 1, 2, 4, 6, 7, 7, 7, 8, 9, 8, 7, 7, 8, 9, 11, 13, 14, 13, 9, 5], float)
_DAY = 86_400_000_000  # microseconds
_ACTIONS = ("search", "impression", "click", "message", "seller_reply")


@dataclass(frozen=True)
class Sessions:
    """Every search: its query, session, moment (days) and place."""

    query: Ints
    session: Ints
    time: Floats
    latitude: Floats
    longitude: Floats


def write_events(
    folder: Path, catalogue: Catalogue, engine: Engine, demand: Demand, sessions: int, chance: np.random.Generator
) -> None:
    """Simulate the log and write it as one Parquet file a week, in order of time."""
    searches = _search(demand, sessions, chance)
    seen = _browse(catalogue, engine, demand, searches, chance)
    table = _table(catalogue, demand, searches, seen, _respond(catalogue, engine, searches, seen, chance))
    folder.mkdir()
    moments = table.column("timestamp").cast(pa.int64()).to_numpy()
    start = int(LOG_START.timestamp() * 1e6)
    weeks = -(-LOG_DAYS // 7)
    edges = np.searchsorted(moments, start + 7 * _DAY * np.arange(1, weeks))
    for week, (first, last) in enumerate(zip([0, *edges], [*edges, len(moments)], strict=True)):
        pq.write_table(table.slice(first, last - first), folder / f"week-{week + 1}.parquet", compression="zstd")


def when_sold(catalogue: Catalogue, chance: np.random.Generator) -> Floats:
    """The day each listing is sold (days): the fairer the price, the sooner; about 70 days at a fair price."""
    return catalogue.created + chance.exponential(70 * np.exp(1.2 * catalogue.unfairness))


def appeal(catalogue: Catalogue, rows: Ints, kilometres: Floats, age: Floats) -> Floats:
    """What makes a person write, relevance apart, in log-odds: price, condition, distance, seller, age."""
    condition = np.array([CONDITION_VALUE[name] for name in CONDITIONS])[catalogue.condition[rows]]
    stars = np.nan_to_num(catalogue.seller_rating[rows], nan=4.2)
    return np.asarray(
        -2.6 * catalogue.unfairness[rows]
        + 1.6 * (condition - 0.6)
        - 1.5 * np.log1p(kilometres / 60)
        + 0.9 * (stars - 4.4)
        - 0.025 * age,
        np.float64,
    )


def _search(demand: Demand, sessions: int, chance: np.random.Generator) -> Sessions:
    first = chance.choice(len(demand.queries), sessions, p=demand.weights)
    days = np.array([_DAY_WEIGHTS[day % 7] for day in range(LOG_DAYS)])
    hours = _HOUR_WEIGHTS / _HOUR_WEIGHTS.sum()
    time = (
        chance.choice(LOG_DAYS, sessions, p=days / days.sum())
        + (chance.choice(24, sessions, p=hours) + chance.random(sessions)) / 24
    )
    countries = np.array([query.country for query in demand.queries])[first]
    cities = [np.array([city[1:] for city in place.cities]) for place in COUNTRIES]
    where = np.array(
        [
            cities[country][int(dice * len(cities[country]))]
            for country, dice in zip(countries, chance.random(sessions), strict=True)
        ]
    )
    where += chance.normal(0, 0.15, where.shape)
    again = np.flatnonzero(chance.random(sessions) < SECOND_SEARCH)
    second = np.array([_reworded(demand, int(query), chance) for query in first[again]], np.int64)
    return Sessions(
        query=np.concatenate([first, second]),
        session=np.concatenate([np.arange(sessions), again]),
        time=np.concatenate([time, time[again] + chance.uniform(0.5, 4, len(again)) / 1440]),
        latitude=np.concatenate([where[:, 0], where[again, 0]]),
        longitude=np.concatenate([where[:, 1], where[again, 1]]),
    )


def _reworded(demand: Demand, query: int, chance: np.random.Generator) -> int:
    family = demand.by_intent[query]
    weights = demand.weights[family]
    return int(family[np.searchsorted(np.cumsum(weights / weights.sum()), chance.random() * 0.999999)])


@dataclass(frozen=True)
class _Impressions:
    """Everything that was displayed, one row each; `fit` is the guideline's grade."""

    search: Ints
    row: Ints
    position: Ints
    fit: Floats
    kilometres: Floats


@dataclass(frozen=True)
class _Responses:
    """When (days) each impression led to a click, a message and a reply; NaN where it did not."""

    click: Floats
    message: Floats
    reply: Floats


def _browse(
    catalogue: Catalogue, engine: Engine, demand: Demand, searches: Sessions, chance: np.random.Generator
) -> _Impressions:
    """What every search displayed, one query after the other."""
    order = np.argsort(searches.query, kind="stable")
    queries, starts = np.unique(searches.query[order], return_index=True)
    groups = np.split(order, starts[1:])
    found: list[_Impressions] = []
    for number, group in track(zip(queries, groups, strict=True), "searching the old engine", len(queries)):
        query = demand.queries[number]
        context = Searches(searches.time[group], searches.latitude[group], searches.longitude[group])
        pages = engine.pages(query, context, chance)
        at, slot = np.nonzero(pages.shown)
        rows = pages.rows[at, slot]
        table = np.zeros(len(catalogue.ids))
        distinct = np.unique(rows)
        table[distinct] = grade(query.intent, catalogue.things, distinct)
        position = np.cumsum(pages.shown, 1, dtype=np.int64)[at, slot]
        found.append(_Impressions(group[at], rows, position, table[rows], pages.kilometres[at, slot]))
    return _Impressions(
        *(np.concatenate([getattr(part, each.name) for part in found]) for each in fields(_Impressions))
    )


def _respond(
    catalogue: Catalogue, engine: Engine, searches: Sessions, seen: _Impressions, chance: np.random.Generator
) -> _Responses:
    """Clicks, messages and replies of all impressions at once."""
    row, position, fit = seen.row, seen.position, seen.fit
    count = len(row)
    likely = np.where(fit == 1.0, CLICK[1.0], np.where(fit == 0.5, CLICK[0.5], CLICK[0.0]))
    likely = likely * np.where(catalogue.images[row] == 0, NO_IMAGE_CLICK, 1.0)
    examined = chance.random(count) < position**-EXAMINED
    clicked = examined & (chance.random(count) < likely)
    age = searches.time[seen.search] - catalogue.created[row]
    wish = appeal(catalogue, row, seen.kilometres, age) + np.where(fit == 1.0, 0.6, np.where(fit == 0.5, -1.2, -2.5))
    messaged = clicked & (chance.random(count) < _logistic(wish + 2.2))
    click = (
        searches.time[seen.search] + (5 + 12 * position * chance.random(count) + chance.exponential(15, count)) / 86400
    )
    message = click + (15 + chance.exponential(150, count)) / 86400
    stars = np.nan_to_num(catalogue.seller_rating[row], nan=4.2)
    open_still = message < engine.sold[row]
    replied = messaged & (chance.random(count) < np.where(open_still, _logistic(1.4 + 0.8 * (stars - 4.4)), 0.08))
    delay = np.where(
        chance.random(count) < LATE_REPLY, chance.uniform(1, 2.5, count), chance.lognormal(np.log(1.5), 1.0, count) / 24
    )
    return _Responses(
        click=np.where(clicked, click, np.nan),
        message=np.where(messaged, message, np.nan),
        reply=np.where(replied, message + delay, np.nan),
    )


def _logistic(x: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-x)), np.float64)


def _table(
    catalogue: Catalogue, demand: Demand, searches: Sessions, seen: _Impressions, responses: _Responses
) -> pa.Table:
    """All events in order of time; the log ends with the last day, so late replies fall off."""
    everything = np.arange(len(searches.query))
    nothing = np.full(len(everything), -1)
    moments = (searches.time[seen.search] + 0.4 / 86400, responses.click, responses.message, responses.reply)
    happened = [np.flatnonzero(~np.isnan(each)) for each in moments]
    action = np.repeat(np.arange(len(_ACTIONS)), [len(everything), *map(len, happened)])
    search = np.concatenate([everything, *(seen.search[some] for some in happened)])
    row = np.concatenate([nothing, *(seen.row[some] for some in happened)])
    position = np.concatenate([nothing, *(seen.position[some] for some in happened)])
    days = np.concatenate([searches.time, *(each[some] for each, some in zip(moments, happened, strict=True))])
    moment = (days * _DAY).astype(np.int64)
    order = np.lexsort((position, action, search, moment))
    order = order[moment[order] < LOG_DAYS * _DAY]
    action, search, row, position, moment = (column[order] for column in (action, search, row, position, moment))
    number = np.empty(len(everything), np.int64)
    number[np.argsort(searches.time, kind="stable")] = everything  # ids run with time
    session = np.unique(searches.session, return_inverse=True)[1]
    shuffled = np.empty(session.max() + 1, np.int64)
    shuffled[session[np.argsort(searches.time, kind="stable")][::-1]] = np.arange(len(session))[::-1]
    queries = pa.array([query.text for query in demand.queries])
    countries = pa.array([place.code for place in COUNTRIES])
    country = np.array([query.country for query in demand.queries])
    asked = searches.query[search]
    columns: dict[str, pa.Array | npt.NDArray[np.float64]] = {
        "timestamp": pa.array(moment + int(LOG_START.timestamp() * 1e6)).cast(TIMESTAMP),
        "query_id": pa.array([f"q{i:07d}" for i in range(len(everything))]).take(pa.array(number[search])),
        "session_id": pa.array([f"v{i:07d}" for i in range(len(everything))]).take(pa.array(shuffled[session[search]])),
        "action_name": pa.array(_ACTIONS).take(pa.array(action)),
        "user_query": queries.take(pa.array(asked)),
        "product_id": pa.array(catalogue.ids).take(pa.array(row, mask=row < 0)),
        "position": pa.array(position, mask=position < 0),
        "country": countries.take(pa.array(country[asked])),
        "latitude": searches.latitude[search].round(3),
        "longitude": searches.longitude[search].round(3),
    }
    unknown = {name: pa.nulls(len(moment), pa.string()) for name in EVENTS.names if name not in columns}
    return pa.table(columns | unknown, schema=EVENTS)
