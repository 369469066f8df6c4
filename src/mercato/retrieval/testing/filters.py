"""The part of the engine contract about filters (see `mercato.retrieval.testing`)."""

from __future__ import annotations

import numpy as np

from mercato.retrieval.expression import Expression, Filters, GeoRadius
from mercato.retrieval.samples import QUERY, distance_km, drawn_filters, drawn_record, product, satisfies
from mercato.retrieval.testing.tools import LARGE, clear, day, holding, ids


class FilterContract:
    """What callers rely on where an expression has filters."""

    rounds = 12  # of drawn products; an engine whose writes are slow may want fewer

    def test_a_search_returns_exactly_what_satisfies_the_filters(self, url: str) -> None:
        """By vector, by vector and text, and in a browse; `count` says how many."""
        random = np.random.default_rng(0)
        with holding(url) as index:
            for _ in range(self.rounds):
                records = [drawn_record(random, number) for number in range(12)]
                index.upsert(records)
                for filters in (drawn_filters(random) for _ in range(20)):
                    wanted = sorted(record.product_id for record in records if satisfies(record, filters))
                    for expression in (
                        Expression(vector=QUERY, filters=filters),
                        Expression(vector=QUERY, text="red 红色", filters=filters),
                        Expression(filters=filters),
                    ):
                        assert sorted(ids(index.search(expression, 12))) == wanted, filters
                    assert index.count(filters) == len(wanted), filters
                clear(index)

    def test_filters_leave_what_is_far_old_and_seldom(self, url: str) -> None:
        """They hold within the search, and not of its first hits: the 20 that they leave come last in every order."""
        records = [product(n, QUERY, created_at=day(n), title="lamp lamp") for n in range(20, LARGE)]
        far = [product(n, -QUERY, created_at=day(n), seller_id="far", title=f"lamp {'chair ' * 9}") for n in range(20)]
        with holding(url, [*far, *records]) as index:
            filters = Filters(seller_id="far")
            expressions = [Expression(vector=QUERY, filters=filters), Expression(filters=filters)]
            if index.capabilities.text:
                expressions.append(Expression(text="lamp", filters=filters))
            for expression in expressions:
                assert set(ids(index.search(expression, 50))) == {record.product_id for record in far}

    def test_filters_hold_for_what_is_written_after_they_were_first_asked(self, url: str) -> None:
        """A product that comes, that changes its category, and that goes; and a value that nobody had before."""
        lamps, chairs, nobodys = Filters(category="Lamps"), Filters(category="Chairs"), Filters(seller_id="nobody")
        with holding(url, [product(n, category="Lamps > Desk") for n in range(3)]) as index:

            def left() -> list[int]:
                found = [ids(index.search(Expression(vector=QUERY, filters=f), 9)) for f in (lamps, chairs, nobodys)]
                browsed = [ids(index.search(Expression(filters=f), 9)) for f in (lamps, chairs, nobodys)]
                assert [sorted(each) for each in found] == [sorted(each) for each in browsed]
                assert [index.count(f) for f in (lamps, chairs, nobodys)] == [len(each) for each in found]
                return [len(each) for each in found]

            assert left() == [3, 0, 0]
            index.upsert([product(1, category="Chairs")])
            assert left() == [2, 1, 0]
            index.upsert([product(3, category="Chairs", seller_id="nobody"), product(1, category="Lamps")])
            assert left() == [3, 1, 1]
            index.delete(["p3", "p2"])
            assert left() == [2, 0, 0]

    def test_attributes_are_pairs(self, url: str) -> None:
        """Without case; one of two spellings of a key does; no sign in a key or value makes two pairs one."""
        attributes = [{"Color": "Red", "color": "blue"}, {"a=b": "c"}, {"a": "b=c"}, {"a": 'b","c'}]
        with holding(url, [product(n, attributes=held) for n, held in enumerate(attributes)]) as index:
            for wanted, found in (
                ({"color": "red"}, ["p0"]),
                ({"COLOR": "BLUE"}, ["p0"]),
                ({"color": "red", "Color": "blue"}, ["p0"]),
                ({"color": "green"}, []),
                ({"a": "b=c"}, ["p2"]),
                ({"a=b": "c"}, ["p1"]),
                ({"a": "b"}, []),
            ):
                filters = Filters(attributes=wanted)
                assert ids(index.search(Expression(vector=QUERY, filters=filters), 9)) == found
                assert index.count(filters) == len(found)

    def test_a_radius_goes_over_a_pole_and_the_antimeridian(self, url: str) -> None:
        """And ends where it says, for both parts and a browse."""
        places = {
            1: (89.9, 10.0),
            2: (89.9, -170.0),
            3: (0.0, 179.9),
            4: (0.0, -179.9),
            5: (-90.0, 0.0),
            6: (-89.9, 77.0),
        }
        records = [product(n, latitude=place[0], longitude=place[1]) for n, place in places.items()]
        with holding(url, [*records, product(7)]) as index:
            for first, second in ((1, 2), (3, 4), (5, 6)):
                latitude, longitude = places[first]
                apart = distance_km(records[second - 1], GeoRadius(latitude=latitude, longitude=longitude, radius_km=1))
                for part, wanted in ((0.9995, {f"p{first}"}), (1.0005, {f"p{first}", f"p{second}"})):
                    near = GeoRadius(latitude=latitude, longitude=longitude, radius_km=part * apart)
                    filters = Filters(near=near)
                    text = "lamp" if index.capabilities.text else None
                    for expression in (
                        Expression(filters=filters),
                        Expression(vector=QUERY, filters=filters),
                        Expression(vector=QUERY if text is None else None, text=text, filters=filters),
                    ):
                        assert set(ids(index.search(expression, 9))) == wanted, near
                    assert index.count(filters) == len(wanted)
            whole = Filters(near=GeoRadius(latitude=0, longitude=0, radius_km=30_000))
            assert index.count(whole) == len(places), "what has no place is nowhere"
