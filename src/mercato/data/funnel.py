"""The way from events to pairs: how many come as far as each step, how many are lost there, and why."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import duckdb
from rich.markup import escape
from rich.table import Table as RichTable

from mercato.data.caps import Capped
from mercato.data.linking import Links
from mercato.data.market import Engagement


@dataclass(frozen=True)
class Lost:
    """What a step of the way lost for one reason, and what can be done about it."""

    count: int
    why: str
    do: str


UNSIGNED = Lost(
    0,
    "came without an API key and without a query_id that a server signed",
    "log the query_id of the search, or send them with a key; engagement.mine_unsigned = true takes them as they are",
)


@dataclass(frozen=True)
class Step:
    """A step of the way: of what was `found` all go on but the `lost`."""

    name: str
    found: int
    lost: tuple[Lost, ...]

    @property
    def kept(self) -> int:
        """How many go on."""
        return self.found - sum(lost.count for lost in self.lost)


@dataclass(frozen=True)
class Funnel:
    """The whole way, in its order: events, sessions, searches, chains, pairs."""

    steps: tuple[Step, ...]

    def as_list(self) -> list[dict[str, Any]]:
        """For `--json`."""
        return [
            {"step": step.name, "found": step.found, "kept": step.kept, "lost": [vars(lost) for lost in step.lost]}
            for step in self.steps
        ]

    def why_nothing(self) -> str:
        """Why nothing came of the log, in one sentence: the greatest loss of the first step that nothing passes."""
        closed = next((step for step in self.steps if step.found and not step.kept), None)
        if closed is None:
            return "no search displayed a product, and none took a step of engagement.chain (market.toml) on one"
        most = max(closed.lost, key=lambda lost: lost.count)
        return f"of {closed.found:,} {closed.name} {most.count:,} {most.why}: {most.do}"

    def __rich__(self) -> RichTable:
        grid = RichTable("", "found", "kept", "what was lost")
        for step in self.steps:
            lost = "\n".join(f"{lost.count:,} {lost.why}: {lost.do}" for lost in step.lost)
            grid.add_row(step.name, f"{step.found:,}", f"{step.kept:,}", escape(lost))
        return grid


def trace(
    db: duckdb.DuckDBPyConnection, engagement: Engagement, links: Links, capped: Capped, unsigned: int, unknown: Lost
) -> Funnel:
    """The way of a log that has been mined.

    Of its events so many were `unsigned`; `unknown` are the pairs of products that the catalogue does not have.
    """
    events = _events(db, engagement, links, capped, unsigned)
    return Funnel(
        (
            events,
            _sessions(db, complete=not events.lost),
            _searches(db, engagement),
            _chains(db, engagement),
            _step("pairs", _one(db, "SELECT count(*) FROM pairs")[0], unknown),
        )
    )


def _step(name: str, found: int, *lost: Lost) -> Step:
    return Step(name, found, tuple(one for one in lost if one.count))


def _events(db: duckdb.DuckDBPyConnection, engagement: Engagement, links: Links, capped: Capped, unsigned: int) -> Step:
    found, future = _one(db, "SELECT events, future_events FROM clock")
    rest = found - future - links.kept - sum(links.unlinked.values()) - links.unanswered
    nobody = (
        rest
        and _one(
            db,
            "SELECT count(*) FROM events, clock"
            " WHERE session_id IS NULL AND isfinite(timestamp) AND timestamp <= last_time",
        )[0]
    )
    untimed = (
        rest
        and _one(
            db,
            "SELECT count(*) FROM events, clock"
            " WHERE isfinite(timestamp) IS NOT TRUE AND (timestamp > last_time) IS NOT TRUE",
        )[0]
    )
    hours = engagement.attribution_hours
    return _step(
        "events",
        found + unsigned,
        replace(UNSIGNED, count=unsigned),
        Lost(future, "are later than now", "a clock that logs is wrong"),
        Lost(untimed, "have no timestamp", "`mercato check` lists them"),
        Lost(nobody, "have no session", "`mercato check` lists them"),
        Lost(
            rest - nobody - untimed,
            "have no query id and no query text",
            "log the query_id of the search that led there",
        ),
        *(
            Lost(
                count,
                f"({action}) have no query id, and their session no click on their product in the {hours:g} h before",
                "log the query_id, or the session_id of the click; engagement.attribution_window_hours is the window",
            )
            for action, count in links.unlinked.items()
        ),
        Lost(
            links.unanswered, "(seller_reply) answer to nobody under their query id", "log the query_id of the message"
        ),
        Lost(
            capped.own, "are of sellers on products of their own", "nothing: they tell nothing of what others look for"
        ),
        Lost(
            capped.searches,
            "are of more searches than a client, or an address without a key, may make in a day",
            "nothing if it is a robot; engagement.caps in market.toml has the numbers",
        ),
        Lost(
            capped.products,
            "are of searches without a key that have more products than a search shows",
            "nothing if they were made up; engagement.caps in market.toml has the number",
        ),
    )


def _sessions(db: duckdb.DuckDBPyConnection, *, complete: bool) -> Step:
    """`complete`: no event is missing from the log, so that no session is."""
    kept = _one(db, "SELECT count(DISTINCT session) FROM searches")[0]
    everyone = "SELECT count(DISTINCT session_id) FROM events, clock WHERE timestamp <= last_time"
    found = kept if complete else max(kept, _one(db, everyone)[0])
    return _step("sessions", found, Lost(found - kept, "have no event of a search", "see the events that were lost"))


def _searches(db: duckdb.DuckDBPyConnection, engagement: Engagement) -> Step:
    found, silent, idle, told, contacts = _one(
        db,
        """
        SELECT count(*), count(*) FILTER (query IS NULL),
               count(*) FILTER (query IS NOT NULL AND touched.search IS NULL),
               count(*) FILTER (told.search IS NOT NULL),
               count(*) FILTER (told.search IS NULL AND touched.search IS NOT NULL
                                 AND query IN (SELECT query FROM contacts))
        FROM searches LEFT JOIN (SELECT DISTINCT search FROM outcomes) AS touched USING (search)
             LEFT JOIN (SELECT DISTINCT search FROM told) AS told USING (search)
        """,
    )
    return _step(
        "searches",
        found,
        Lost(silent, "have no query text", "log user_query with the search of each query_id"),
        Lost(idle, "displayed no product and took no step on one", "log impressions and the steps of engagement.chain"),
        Lost(contacts, "are of queries that look like an e-mail address or a telephone number", "nothing"),
        Lost(
            found - silent - idle - told - contacts,
            f"are of queries that fewer than {engagement.min_sessions} people had made by the end of their split",
            "a longer log has more of them; engagement.min_sessions in market.toml is the floor",
        ),
    )


def _chains(db: duckdb.DuckDBPyConnection, engagement: Engagement) -> Step:
    found, astray, unfinished, *left = _one(
        db,
        "SELECT count(*), count(*) FILTER (astray), count(*) FILTER (NOT astray AND depth IS NULL)"
        + "".join(f", count(*) FILTER (depth = {depth})" for depth in range(1, len(engagement.steps)))
        + " FROM told WHERE stepped",
    )
    hours = engagement.window_hours
    return _step(
        "chains",
        found,
        Lost(
            astray,
            "have steps out of order, too late or in two splits",
            f"engagement.chain and its window of {hours:g} h say which",
        ),
        Lost(unfinished, "may go on after the end of their split", "nothing: the log ends there"),
        *(
            Lost(
                count,
                f"had no {after} within {hours:g} h",
                "it must have the query_id and the session_id of the step before",
            )
            for count, after in zip(left, engagement.steps[1:], strict=True)
        ),
    )


def _one(db: duckdb.DuckDBPyConnection, query: str) -> tuple[Any, ...]:
    row: tuple[Any, ...] = db.execute(query).fetchall()[0]
    return row
