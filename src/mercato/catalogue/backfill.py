"""`mercato backfill`: the whole catalogue embedded with a run into a standby beside what is served, then the swap.

What has been embedded lies in parts in the market's cache until it is indexed, so that an interrupted backfill goes on
where it was. What is written meanwhile, the server brings into the standby from the outbox.
"""

from __future__ import annotations

import io
import logging
import math
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from mercato.catalogue.belonging import open_catalogue
from mercato.catalogue.fingerprints import products_fingerprint
from mercato.catalogue.identity import Made, market_id
from mercato.catalogue.indexing import embed_each
from mercato.catalogue.ledger import GenerationLedger
from mercato.catalogue.products import StoredProduct
from mercato.catalogue.seeding import seed
from mercato.catalogue.store import Catalogue
from mercato.data.market import Market
from mercato.errors import MercatoError
from mercato.features.values import image_count_of
from mercato.files import exclusive, is_served, write_atomic
from mercato.progress import note, track
from mercato.retrieval.open import build_index, generations, open_index, swap_index
from mercato.retrieval.protocol import Generations, IndexRecord, record_from_product
from mercato.runs.encoder import RunEncoder
from mercato.runs.image_vectors import CACHE
from mercato.runs.onnx_encoder import OnnxEncoder

log = logging.getLogger("mercato.backfill")

PART = 512  # products
_POLL_SECONDS = 0.5
_LAST, _LEFT_OUT = b"last", b"left out"  # metadata of a part: up to which product it was read, and which it lacks


def backfill(run: Path, market: Market, url: str) -> dict[str, Any]:
    """Embed the market's catalogue with a run, build the standby of the index at `url`, and swap the two.

    Interrupted, the same call goes on where it was: with the same moment at which listings have their age. Where a
    server runs, it brings the standby up to date before the swap; where none does, the next one does. Returns the
    description of what is served then.

    Raises:
        MercatoError: there is no index to swap with, another backfill of this market runs, the server cannot load the
            run, or the standby is dropped while it waits for the server; or they do not belong together.
    """
    generations(url)
    folder = market.path / CACHE / "backfill"
    folder.parent.mkdir(exist_ok=True)
    refusal = f"another `mercato backfill` runs on this market ({market.path})"
    with exclusive(folder.with_suffix(".lock"), refusal), closing(open_catalogue(market, url)) as catalogue:
        seed(catalogue, market)
        ledger = GenerationLedger(catalogue)
        work = _Work.begin(folder, ledger.note_run(run), market, url, catalogue)
        named = generations(url)
        if work.fingerprint not in (named.served, named.standby):
            encoder = OnnxEncoder(run, market.path, threads=os.cpu_count() or 1)
            _embed(encoder, catalogue, work)
            ledger.note_read(work.fingerprint, work.number, work.left_out())
            build_index(url, _records(catalogue, work), encoder.dimension, work.fingerprint, standby=True)
            work.built()
        if named.served != work.fingerprint:
            _swap_once_up_to_date(ledger, market, url, work.fingerprint)
        work.end()
    with open_index(url, read_only=True) as index:
        return {"count": len(index), "dimension": index.dimension, "fingerprint": index.fingerprint}


@dataclass
class _Work:
    """A backfill under way: its folder, and when and as what it began."""

    folder: Path
    key: list[str]  # run, index, catalogue, products table and layout: of any other the parts are of no use
    began: float  # seconds since 1970
    number: int  # of the last write by then
    fingerprint: str
    is_built: bool

    @classmethod
    def begin(cls, folder: Path, made_by: str, market: Market, url: str, catalogue: Catalogue) -> _Work:
        """Go on with the one whose state lies in the folder, or begin anew where that is another's."""
        index = url if "://" in url else str(Path(url).absolute())
        table = products_fingerprint(market)
        key = [made_by, index, catalogue.name, table, _LAYOUT]
        state = folder / "state.json"
        stored = _stored(state)
        is_ours = stored.keys() >= {*_STORED} and stored["key"] == key
        # Killed before it noted so, it was built, too, where a server has followed it: it would seem to lack nothing.
        followed = is_ours and GenerationLedger(catalogue).is_followed(stored["fingerprint"])
        was_built = is_ours and (stored["is_built"] or followed)
        if is_ours and not (was_built and _dropped(url, stored["fingerprint"])):
            note(f"  going on with the backfill begun {_moment(stored['began']).isoformat(timespec='seconds')}")
            return cls(folder, **stored)
        for part in folder.glob("part-*"):
            part.unlink()
        began = time.time()
        fingerprint = Made(made_by, table, _moment(began).isoformat(), market_id(market.path)).fingerprint()
        work = cls(folder, key, began, catalogue.last_number(), fingerprint, is_built=False)
        work._save()
        return work

    @property
    def as_of(self) -> datetime:
        """The moment at which listings have their age."""
        return _moment(self.began)

    @property
    def parts(self) -> list[Path]:
        """What has been embedded, in the order of product ids."""
        return sorted(self.folder.glob("part-*"))

    def left_out(self) -> list[str]:
        """The products that could not be embedded."""
        return [key for part in self.parts for key in orjson.loads(pq.read_schema(part).metadata[_LEFT_OUT])]

    def built(self) -> None:
        """The standby is there: the parts are not needed any more."""
        self.is_built = True
        self._save()
        for part in self.parts:
            part.unlink()

    def end(self) -> None:
        """It is served: nothing is left to go on with."""
        shutil.rmtree(self.folder)

    def _save(self) -> None:
        state = {name: getattr(self, name) for name in _STORED}
        write_atomic(self.folder / "state.json", orjson.dumps(state))


_LAYOUT = "2"  # of the parts
_STORED = ("key", "began", "number", "fingerprint", "is_built")


def _stored(state: Path) -> dict[str, Any]:
    """What `_save` wrote; nothing where it did not, or it was damaged since: then it is begun anew."""
    try:
        stored: Any = orjson.loads(state.read_bytes())
    except (OSError, ValueError):
        return {}
    return stored if isinstance(stored, dict) else {}


def _dropped(url: str, fingerprint: str) -> bool:
    named = generations(url)
    return fingerprint not in (named.served, named.standby)


def _embed(encoder: RunEncoder, catalogue: Catalogue, work: _Work) -> None:
    """Write the parts that are not there yet."""
    parts = work.parts
    after = pq.read_schema(parts[-1]).metadata[_LAST].decode() if parts else ""
    left = max(0, math.ceil(catalogue.products.count() / PART) - len(parts))
    for number, ids in enumerate(
        track(_pages(catalogue, after), f"products → vectors ({PART} a part)", left), len(parts)
    ):
        products = sorted(
            (product.row() for product in catalogue.products.load(ids)), key=lambda row: row["product_id"]
        )
        kept, vectors = embed_each(encoder, products, work.as_of)
        if products and not kept:
            raise MercatoError(f"none of {len(products)} products could be embedded: see the log")
        names = {product["product_id"] for product in kept}
        left_out = [product["product_id"] for product in products if product["product_id"] not in names]
        columns = {
            "product_id": pa.array([product["product_id"] for product in kept], pa.string()),
            "images": pa.array([int(image_count_of(product)) for product in kept], pa.int32()),
            "vector": pa.FixedSizeListArray.from_arrays(vectors.ravel(), encoder.dimension),
        }
        content = io.BytesIO()
        about = {_LAST: ids[-1].encode(), _LEFT_OUT: orjson.dumps(left_out)}
        pq.write_table(pa.table(columns).replace_schema_metadata(about), content)
        write_atomic(work.folder / f"part-{number:08}.parquet", content.getvalue())


def _pages(catalogue: Catalogue, after: str) -> Iterator[list[str]]:
    while ids := catalogue.products.ids(after, PART):
        yield ids
        after = ids[-1]


def _records(catalogue: Catalogue, work: _Work) -> Iterator[IndexRecord]:
    """The records of all that was embedded and still exists, with its fields as they are now."""
    for part in track(work.parts, "vectors → index"):
        table = pq.read_table(part)
        ids, images, vectors = (table[name].to_pylist() for name in ("product_id", "images", "vector"))
        documents = catalogue.products.get_many(ids)
        for product_id, count, vector in zip(ids, images, vectors, strict=True):
            if document := documents.get(product_id):
                row = StoredProduct(document).row() | {"image_count": count}
                try:
                    yield record_from_product(row, np.array(vector, np.float32))
                except MercatoError as error:
                    log.warning("%s: it is left out", error)


def _swap_once_up_to_date(ledger: GenerationLedger, market: Market, url: str, fingerprint: str) -> None:
    """Where a server runs on this index, let it bring the standby up to date first."""
    ledger.refuse(fingerprint, None)  # what hindered the server before may be mended
    said = False
    while is_served(market.path) and ledger.is_followed(_named(url, fingerprint).served):
        if ledger.is_up_to_date(fingerprint):
            break
        if why := ledger.refusal(fingerprint):
            raise MercatoError(f"the server cannot open the standby: {why}. Then run this again, which goes on here")
        if not said:
            note("  the server brings the standby up to date with what was written meanwhile")
            said = True
        time.sleep(_POLL_SECONDS)
    _named(url, fingerprint)
    swap_index(url, fingerprint)


def _named(url: str, fingerprint: str) -> Generations:
    """What there is, this generation among it."""
    named = generations(url)
    if fingerprint not in (named.served, named.standby):
        raise MercatoError(
            "the standby was dropped before the swap (by `mercato drop-standby`, `mercato index` or another backfill): "
            "nothing is swapped. Run this again to build it anew"
        )
    return named


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
