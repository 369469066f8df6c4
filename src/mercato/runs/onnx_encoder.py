"""The ONNX encoder: a run's towers in ONNX Runtime, without torch (Que2Search §4)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from hashlib import blake2b
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from mercato.data.normalize import clean, normalize
from mercato.errors import MercatoError
from mercato.features.featurizer import Features
from mercato.runs.cache import TTLCache
from mercato.runs.encoder import RunEncoder
from mercato.runs.folder import (
    PRODUCT_TOWER,
    QUERY_TOWER,
    load_image_encoder,
    load_query_head,
    load_recipe_and_featurizer,
    reading_run,
)
from mercato.runs.query_head import QueryHead

CACHED_BYTES = 32 << 20  # of query vectors: those of 30,000 queries at 128 numbers
_OBJECT_BYTES = 600  # that a vector takes in the cache besides its numbers


class OnnxEncoder(RunEncoder):
    """Encoder of a run in ONNX Runtime; query vectors are cached for eight hours (§4), by country and query as read."""

    def __init__(self, run: Path, market_path: Path | None = None, threads: int = 1) -> None:
        """Load a run's towers; `threads` batches of products are encoded at once, each by one thread.

        Raises:
            MercatoError: the folder is not a run, or it has no exported towers.
        """
        recipe, featurizer = load_recipe_and_featurizer(run)
        super().__init__(recipe, featurizer, load_image_encoder(run), market_path, threads)
        self.cache: TTLCache[bytes, NDArray[np.float32]] = TTLCache(
            CACHED_BYTES, size=lambda vector: vector.nbytes + _OBJECT_BYTES
        )
        self._run = run
        _check(run / PRODUCT_TOWER)
        with reading_run(run / PRODUCT_TOWER):
            pass  # loaded later, but where it was damaged that is told now
        self._query = _session(run / QUERY_TOWER)

    def encode_queries(self, queries: Sequence[str], country: str | None = None) -> NDArray[np.float32]:
        """As `RunEncoder.encode_queries`, through the cache."""
        same = normalize if self.featurizer.spec.normalized else clean  # what the towers cannot tell apart
        keys = [_key(same(query), country) for query in queries]
        found = [self.cache.get(key) for key in keys]
        missing = [place for place, vector in enumerate(found) if vector is None]
        if missing:
            fresh = self.encode_queries_once([queries[place] for place in missing], country)
            for place, vector in zip(missing, fresh, strict=True):
                found[place] = vector
                self.cache.put(keys[place], vector.copy())  # a view would keep all of them
        return np.stack([v for v in found if v is not None]) if found else self.encode_queries_once([], country)

    @cached_property
    def query_head(self) -> QueryHead | None:
        """The run's classification head, read when first asked for; None where it was trained without."""
        return load_query_head(self._run)

    @cached_property
    def _product(self) -> ort.InferenceSession:
        """Loaded when first asked for: a process that only searches never is."""
        return _session(self._run / PRODUCT_TOWER)

    def query_vectors(self, features: Features) -> NDArray[np.float32]:
        """The query tower on a batch of features → (B, D)."""
        vectors: NDArray[np.float32] = self._query.run(None, features)[0]
        return vectors

    def product_vectors(self, features: Features) -> NDArray[np.float32]:
        """The product tower on a batch of features → (B, D)."""
        vectors: NDArray[np.float32] = self._product.run(None, features)[0]
        return vectors


def _check(tower: Path) -> None:
    if not tower.is_file():
        raise MercatoError(f"{tower.parent} has no {tower.name}: run `mercato export {tower.parent}`")


def _key(query: str, country: str | None) -> bytes:
    """Of one size, however long a query is: strangers fill the cache."""
    return blake2b(f"{country or ''}\0{query}".encode(errors="surrogatepass"), digest_size=16).digest()


def _session(file: Path) -> ort.InferenceSession:
    _check(file)
    with reading_run(file):
        return _loaded(file)


def _loaded(file: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # more pay less than batches beside one another
    return ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
