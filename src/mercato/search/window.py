"""The window of a search: the candidates that its pages are cut from, kept between two pages where that is possible."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass, field, replace
from typing import cast

import numpy as np
from numpy.typing import NDArray

from mercato.catalogue.products import ProductDocument
from mercato.ranking.ranker import LeftOut, Scored, Stage
from mercato.retrieval.expression import Filters, GeoRadius, category_path
from mercato.retrieval.protocol import Hits
from mercato.search.paging import shown_as
from mercato.search.placing import Placed, Placing
from mercato.search.policy import Effort
from mercato.search.request import Location

Sift = Callable[[Iterator[int]], Iterator[int]]  # lets through, of places in a window, those that a page may show

_AT_ONCE = 32  # ids read
_EARTH_KM = 6371.0088
_LEEWAY_KM = 0.001  # of a radius: distances are rounded
_OBJECT_BYTES, _HIT_BYTES = 3_500, 90  # that a kept window takes, and each of its hits


@dataclass(frozen=True)
class Window:
    """The best candidates of a search, in its order; `whole` where the index has no more of them."""

    hits: Hits
    effort: Effort  # that it was retrieved with
    whole: bool
    scores_H: NDArray[np.float32] | None = None  # by which a ranker has ordered them
    features_HF: NDArray[np.float32] | None = None  # and what these were made of, where that is logged
    places: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)  # (H,), by retrieval and each ranking stage
    placing: Placing | None = None  # None: pages take them as they are
    left_out: LeftOut | None = None  # why a ranking stage was left out; None: none was

    @property
    def ranked_by(self) -> Stage | None:
        """The last ranking stage; None: they are in retrieval's order."""
        return cast(Stage, [*self.places][-1]) if self.places else None

    @property
    def memory(self) -> int:
        """The bytes that it takes once it is kept, about."""
        return (
            _OBJECT_BYTES + _HIT_BYTES * len(self.hits) + (0 if self.features_HF is None else self.features_HF.nbytes)
        )

    def ordered(self, ranked: Scored, logged: bool) -> Window:
        """The same in the order of the last of a ranker's stages, exact hits first, with features to be logged."""
        places = {"retrieval": np.arange(len(self.hits))}
        for stage, scores_H in ranked.stages.items():
            order_H = np.lexsort([-scores_H, ~self.hits.exact_H])
            places[stage] = np.argsort(order_H)
        by_stage = {stage: place_H[order_H] for stage, place_H in places.items()}
        features_HF = ranked.features_HF[order_H] if logged and ranked.features_HF is not None else None
        hits = self.hits.take(order_H)
        return replace(
            self,
            hits=hits,
            scores_H=scores_H[order_H],
            features_HF=features_HF,
            places=by_stage,
            left_out=ranked.left_out,
        )

    def ranking(self, place: int) -> tuple[float | None, dict[str, int] | None]:
        """The score that a hit was ordered by, and its places by stage, from 1; None where nothing ranked."""
        if self.scores_H is None:
            return None, None
        return float(self.scores_H[place]), {stage: int(place_H[place]) + 1 for stage, place_H in self.places.items()}

    def features(self, place: int) -> NDArray[np.float32] | None:
        """What a hit was ordered by, (F,), where that is logged."""
        return None if self.features_HF is None else self.features_HF[place]

    def kept(self) -> Window:
        """The same, to be kept: the index's generation may be removed meanwhile."""
        return replace(self, hits=self.hits.detached())

    def unseen(self, skipped: Set[bytes], places_h: NDArray[np.int64] | None = None) -> Iterator[int]:
        """The places of those that are not skipped (`paging.shown_as`), best first; or of some, in their order."""
        places_h = np.arange(len(self.hits)) if places_h is None else places_h
        for start in range(0, len(places_h), _AT_ONCE):
            some_h = places_h[start : start + _AT_ONCE]
            keys = zip(some_h.tolist(), self.hits.take(some_h).product_ids, strict=True)
            yield from (place for place, key in keys if not skipped or shown_as(key) not in skipped)

    def placed(self, skipped: Set[bytes], position: int, sift: Sift) -> Iterator[Placed]:
        """The same as a page takes them whose next hit has this position, and which shows what comes through the sieve:
        under a bound of sellers perhaps not all.
        """
        if self.placing is None:
            return ((place, None) for place in sift(self.unseen(skipped)))
        exact, others = (np.flatnonzero(which_H) for which_H in (self.hits.exact_H, ~self.hits.exact_H))
        drawn_E = self.placing.drawn_E
        new = drawn_E[~self.hits.exact_H[drawn_E]]  # an exact hit needs no place that is given
        of_exact, of_others, of_new = (sift(self.unseen(skipped, places)) for places in (exact, others, new))
        return self.placing.order(of_exact, of_others, of_new, position)


def satisfies(product: ProductDocument, filters: Filters) -> bool:
    """Whether a product as it is stored now meets the filters."""
    price = product["price"]
    own = {(key.casefold(), (value or "").casefold()) for key, value in (product["attributes"] or {}).items()}
    path = category_path(product["category"] or "")
    return (
        (filters.category is None or f"{path} > ".startswith(f"{filters.category} > "))
        and (filters.price_min is None or (price is not None and price >= filters.price_min))
        and (filters.price_max is None or (price is not None and price <= filters.price_max))
        and (not filters.conditions or product["condition"] in filters.conditions)
        and (filters.country is None or (product["country"] or "").strip().lower() == filters.country)
        and (filters.seller_id is None or product["seller_id"] == filters.seller_id)
        and (filters.near is None or _is_near(product, filters.near))
        and all((key.casefold(), value.casefold()) in own for key, value in filters.attributes.items())
    )


def _is_near(product: ProductDocument, near: GeoRadius) -> bool:
    distance = distance_km(near, product)
    return distance is not None and distance <= near.radius_km + _LEEWAY_KM


def distance_km(location: Location | GeoRadius | None, product: ProductDocument) -> float | None:
    """Great-circle distance (haversine)."""
    latitude, longitude = product["latitude"], product["longitude"]
    if location is None or latitude is None or longitude is None:
        return None
    phi, other = math.radians(location.latitude), math.radians(latitude)
    half = math.sin((other - phi) / 2) ** 2
    half += math.cos(phi) * math.cos(other) * math.sin(math.radians(longitude - location.longitude) / 2) ** 2
    return round(2 * _EARTH_KM * math.asin(math.sqrt(min(1.0, half))), 3)
