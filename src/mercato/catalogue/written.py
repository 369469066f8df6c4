"""What the API wrote, from the catalogue of record into the market's products table, for what learns and measures.

It is read at one moment, that of mining, into `products/live-api-N.parquet`, whose rows stand for those that the table
has of the same products (`Market.files`). So pairs and products are of one moment, a training that is resumed finds
what it began with, and the market's fingerprint follows. A deleted product is none of them: its row in the imported
table stays, for what the log says of it stays true; where it was in the catalogue alone, it is gone with its pairs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from mercato.catalogue.store import Catalogue
from mercato.data.live import product_snapshots, rewriting_lock
from mercato.data.market import CATALOGUE
from mercato.data.schema import PRODUCTS
from mercato.files import atomic_files, sweep
from mercato.progress import note

PAGE = 512  # products
_OF = b"of"  # metadata of a snapshot: the catalogue, and its last write through the API


def written_pages(catalogue: Catalogue) -> Iterator[list[str]]:
    """The ids of what was written or deleted through the API, ascending, a page at a time."""
    after = ""
    while ids := catalogue.products.written(after, PAGE):
        yield ids
        after = ids[-1]


def take_written(market: Path) -> None:
    """Read what the API wrote into the market's products table, where it is not yet there as it is now.

    The snapshot before stays, for who reads it still. A market without a catalogue keeps what it has.
    """
    if not (market / CATALOGUE).is_file():
        return
    with rewriting_lock(market), closing(Catalogue.open(market / CATALOGUE)) as catalogue:
        folder = market / "products"
        sweep(folder, "live-api-*.parquet")
        earlier = product_snapshots(folder)
        last = catalogue.products.last_written()
        of = f"{catalogue.name} {last}".encode()
        if not last or (earlier and (pq.read_schema(earlier[-1]).metadata or {}).get(_OF) == of):
            return
        number = int(earlier[-1].stem.removeprefix("live-api-")) + 1 if earlier else 1
        with (
            atomic_files(folder / f"live-api-{number:06}.parquet", mode=0o600) as (fresh,),
            pq.ParquetWriter(fresh, PRODUCTS.with_metadata({_OF: of}), compression="zstd") as writer,
        ):
            count = 0
            for ids in written_pages(catalogue):
                rows = sorted((product.row() for product in catalogue.products.load(ids)), key=_by_id)
                writer.write_batch(pa.RecordBatch.from_pylist(rows, schema=PRODUCTS))
                count += len(rows)
        for file in earlier[:-1]:
            file.unlink()
        note(f"  {count:,} products that were written through the API")


def _by_id(row: dict[str, object]) -> str:
    return str(row["product_id"])
