"""The backfill without a server: the whole catalogue by another run, wherever it was interrupted."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from contextlib import closing
from typing import ClassVar
from unittest.mock import Mock

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mercato.catalogue import backfill as module
from mercato.catalogue import indexing
from mercato.catalogue.backfill import backfill
from mercato.catalogue.ledger import GenerationLedger
from mercato.catalogue.store import Catalogue
from mercato.catalogue.worker import IngestionWorker, Target
from mercato.data.market import CATALOGUE, Market
from mercato.data.schema import PRODUCTS
from mercato.errors import MercatoError
from mercato.files import market_lock
from mercato.retrieval.expression import Expression
from mercato.retrieval.open import build_index, drop_standby, generations, open_index, swap_index
from mercato.runs.onnx_encoder import OnnxEncoder
from tests.support.salted_runs import SaltedEncoder, make_run
from tests.support.small_market import make_market
from tests.support.stored import stored


class CountingEncoder(SaltedEncoder):
    calls: ClassVar[list[tuple[int, object]]] = []  # how many products, and as of when

    def encode_products(self, products, *, as_of=None):
        self.calls.append((len(products), as_of))
        return super().encode_products(products, as_of=as_of)


@pytest.fixture
def runs(tmp_path):
    return make_run(tmp_path / "one", "one", 32), make_run(tmp_path / "two", "two", 48)


@pytest.fixture
def market(tmp_path, runs, monkeypatch) -> Market:
    """A market whose index is of the first run; a backfill reads eight products at once."""
    monkeypatch.setattr(indexing, "OnnxEncoder", SaltedEncoder)
    monkeypatch.setattr(module, "OnnxEncoder", CountingEncoder)
    monkeypatch.setattr(module, "PART", 8)
    monkeypatch.setattr(CountingEncoder, "calls", [])
    market = make_market(tmp_path / "market")
    indexing.index_market(runs[0], market, str(market.path / "index"))
    return market


def writes(market: Market) -> None:
    with closing(Catalogue.open(market.path / CATALOGUE)) as catalogue:
        catalogue.products.upsert([stored("n1", "orange hammock"), stored("p03", "purple xylophone")])
        catalogue.products.delete("p07")


def interrupted(monkeypatch, where: object, step: str, market: Market, run) -> None:
    """A backfill that ends as it comes to a step."""
    with monkeypatch.context() as killed:
        killed.setattr(where, step, lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            backfill(run, market, str(market.path / "index"))


def cosines(market: Market, run, text="red chair") -> dict[str, float]:
    (vector,) = SaltedEncoder(run).encode_queries([text])
    with open_index(market.path / "index") as index:
        hits = index.search(Expression(vector=vector), 100)
        return {hit.product_id: round(hit.cosine, 5) for hit in hits}


def test_the_catalogue_is_served_by_the_other_run_and_the_first_stands_by(market, runs):
    index = str(market.path / "index")
    backfill(runs[0], market, index)  # seeds the catalogue
    before = generations(index)
    writes(market)
    assert backfill(runs[1], market, index)["count"] == 48
    served, standby = generations(index).served, generations(index).standby
    assert served.split()[0] == indexing.run_fingerprint(runs[1]) and standby == before.served
    found = cosines(market, runs[1], "orange hammock")
    assert found["n1"] == pytest.approx(1, abs=1e-4) and "p07" not in found and len(found) == 48
    assert cosines(market, runs[1], "purple xylophone")["p03"] == pytest.approx(1, abs=1e-4)
    assert not list((market.path / ".cache").glob("backfill/*"))
    with closing(Catalogue.open(market.path / CATALOGUE)) as catalogue:
        assert GenerationLedger(catalogue).run_of(served) == runs[1]


def test_it_makes_the_vectors_that_indexing_makes(tiny_run, tiny_market, tmp_path):
    """With real towers, photos and all; read from the catalogue, not from the tables."""
    market = Market.open(shutil.copytree(tiny_market.path, tmp_path / "market"))
    indexing.index_market(tiny_run, market, str(tmp_path / "index"))
    plain = generations(tmp_path / "index").served
    assert backfill(tiny_run, market, str(tmp_path / "index"))["count"] == 300
    (vector,) = OnnxEncoder(tiny_run).encode_queries(["red chair"])
    with open_index(tmp_path / "index") as new, open_index(tmp_path / "index", fingerprint=plain) as old:
        cosines = [{hit.product_id: hit.cosine for hit in i.search(Expression(vector=vector), 300)} for i in (new, old)]
    assert len(cosines[0]) == 300 and cosines[0] == pytest.approx(cosines[1], abs=1e-5)


def test_a_killed_backfill_goes_on_where_it_was(market, runs, tmp_path):
    whole = Market.open(shutil.copytree(market.path, tmp_path / "whole"))
    backfill(runs[1], whole, str(whole.path / "index"))
    calls = len(CountingEncoder.calls)
    assert calls == 6
    command = [sys.executable, "-m", "tests.support.backfill_process", runs[1], market.path, market.path / "index", "4"]
    assert subprocess.run([*map(str, command)], check=False).returncode == -signal.SIGKILL
    assert generations(market.path / "index").standby is None
    (began,) = {as_of for _, as_of in CountingEncoder.calls}
    backfill(runs[1], market, str(market.path / "index"))
    assert len(CountingEncoder.calls) == calls + 2, "four of six parts were there"
    (again,) = {as_of for _, as_of in CountingEncoder.calls[calls:]}
    moment = generations(market.path / "index").served.split()[2]
    assert moment == again.isoformat() and again > began, "listings have the age of when it began"
    assert cosines(market, runs[1]) == cosines(whole, runs[1])


def test_what_was_embedded_for_another_run_is_not_used(market, runs, tmp_path):
    index = str(market.path / "index")
    command = [sys.executable, "-m", "tests.support.backfill_process", runs[1], market.path, index, "4"]
    assert subprocess.run([*map(str, command)], check=False).returncode == -signal.SIGKILL
    third = make_run(tmp_path / "three", "three", 16)
    backfill(third, market, index)
    assert len(CountingEncoder.calls) == 6 and len(cosines(market, third)) == 48


def test_one_killed_before_the_swap_has_nothing_left_but_to_swap(market, runs, monkeypatch):
    index = str(market.path / "index")
    interrupted(monkeypatch, module, "swap_index", market, runs[1])
    built = generations(index).standby
    calls = len(CountingEncoder.calls)
    assert backfill(runs[1], market, index)["count"] == 48
    assert generations(index).served == built and len(CountingEncoder.calls) == calls


def test_one_killed_right_after_the_build_has_nothing_left_but_to_swap(market, runs, monkeypatch):
    index = str(market.path / "index")
    interrupted(monkeypatch, module._Work, "built", market, runs[1])
    built, calls = generations(index).standby, len(CountingEncoder.calls)
    described = backfill(runs[1], market, index)
    assert described == {"count": 48, "dimension": 48, "fingerprint": built} and len(CountingEncoder.calls) == calls
    assert not list((market.path / ".cache").glob("backfill/*"))


def test_a_table_that_changed_since_it_was_interrupted_is_embedded_anew(market, runs):
    index = str(market.path / "index")
    command = [sys.executable, "-m", "tests.support.backfill_process", runs[1], market.path, index, "4"]
    assert subprocess.run([*map(str, command)], check=False).returncode == -signal.SIGKILL
    rows = market.arrow("products").to_pylist()
    rows[0] |= {"title": "purple xylophone"}
    rows.append(rows[1] | {"product_id": "a new one, before all others", "title": "orange hammock"})
    pq.write_table(pa.Table.from_pylist(rows, schema=PRODUCTS), market.path / "products.parquet")
    assert backfill(runs[1], market, index)["count"] == 49
    for title in ("purple xylophone", "orange hammock"):
        assert max(cosines(market, runs[1], title).values()) == pytest.approx(1, abs=1e-4)


def test_a_standby_that_was_dropped_before_the_swap_is_made_anew(market, runs, monkeypatch):
    index = str(market.path / "index")
    interrupted(monkeypatch, module, "swap_index", market, runs[1])
    dropped = generations(index).standby
    drop_standby(index)
    assert backfill(runs[1], market, index)["fingerprint"] > dropped, "listings have their age of now"
    assert len(CountingEncoder.calls) == 12


def test_one_killed_right_after_the_build_is_made_anew_where_it_was_followed_and_dropped(market, runs, monkeypatch):
    index = str(market.path / "index")
    interrupted(monkeypatch, module._Work, "built", market, runs[1])
    dropped = generations(index).standby
    with closing(Catalogue.open(market.path / CATALOGUE)) as catalogue:
        GenerationLedger(catalogue).follow([dropped])  # as a server did, until it was killed
        catalogue.products.upsert([stored("n1", "orange hammock")])
        catalogue.outbox.ack(catalogue.outbox.claim("server", 1))
        drop_standby(index)
        backfill(runs[1], market, index)
        with open_index(index) as opened:
            targets = [Target(SaltedEncoder(runs[1]), opened)]
            worker = IngestionWorker(catalogue, targets, market.path, "server")
            worker.retarget(targets)
            worker.drain()
    assert cosines(market, runs[1], "orange hammock")["n1"] == pytest.approx(1, abs=1e-4)


def test_a_product_that_cannot_be_embedded_is_left_out_and_hinders_no_other(market, runs, caplog):
    with closing(Catalogue.open(market.path / CATALOGUE)) as catalogue:
        catalogue.products.upsert([stored("bad", "unembeddable thing")])
    assert backfill(runs[1], market, str(market.path / "index"))["count"] == 48
    assert "product bad is left out" in caplog.text


def test_a_part_of_which_everything_was_deleted_is_empty(market, runs):
    with closing(Catalogue.open(market.path / CATALOGUE)) as catalogue:
        catalogue.products.upsert([stored(f"{number:02}") for number in range(8)])  # one part, before all others
        for number in range(8):
            catalogue.products.delete(f"{number:02}")
    assert backfill(runs[1], market, str(market.path / "index"))["count"] == 48


def test_what_could_not_be_embedded_for_a_moment_is_left_to_the_server(market, runs, monkeypatch):
    class Short(CountingEncoder):
        def encode_products(self, products, *, as_of=None):
            if "p05" in [row["product_id"] for row in products]:
                raise MemoryError
            return super().encode_products(products, as_of=as_of)

    monkeypatch.setattr(module, "OnnxEncoder", Short)
    index = str(market.path / "index")
    assert backfill(runs[1], market, index)["count"] == 47
    with closing(Catalogue.open(market.path / CATALOGUE)) as catalogue, open_index(index) as opened:
        targets = [Target(SaltedEncoder(runs[1]), opened)]
        worker = IngestionWorker(catalogue, targets, market.path, "w")
        worker.retarget(targets)
        assert worker.drain() == 1 and len(opened) == 48


def test_where_nothing_can_be_embedded_nothing_is_swapped(market, runs, monkeypatch):
    monkeypatch.setattr(CountingEncoder, "encode_products", lambda *_, **__: 1 / 0)
    before = generations(market.path / "index")
    with pytest.raises(MercatoError, match="none of 8 products could be embedded"):
        backfill(runs[1], market, str(market.path / "index"))
    assert generations(market.path / "index") == before


def test_there_must_be_an_index_to_swap_with(market, runs):
    with pytest.raises(MercatoError, match="holds no index"):
        backfill(runs[1], market, str(market.path / "elsewhere"))


def test_one_backfill_of_a_market_at_a_time(market, runs, monkeypatch):
    index = str(market.path / "index")

    class Meanwhile(CountingEncoder):
        def encode_products(self, products, *, as_of=None):
            with pytest.raises(MercatoError, match="another `mercato backfill`"):
                backfill(runs[1], market, index)
            return super().encode_products(products, as_of=as_of)

    monkeypatch.setattr(module, "OnnxEncoder", Meanwhile)
    backfill(runs[1], market, index)


def test_a_server_brings_the_standby_up_to_date_before_the_swap(market, runs, monkeypatch):
    asked = []

    def is_up_to_date(_, fingerprint):
        named = generations(market.path / "index")
        assert named.standby == fingerprint, "not swapped before"
        asked.append(fingerprint)
        return len(asked) == 3

    monkeypatch.setattr(module, "_POLL_SECONDS", 0)
    monkeypatch.setattr(GenerationLedger, "is_followed", lambda *_: True)
    monkeypatch.setattr(GenerationLedger, "is_up_to_date", is_up_to_date)
    with market_lock(market.path):
        fingerprint = backfill(runs[1], market, str(market.path / "index"))["fingerprint"]
    assert asked == [fingerprint] * 3


@pytest.fixture
def meanwhile(market, monkeypatch):
    """Something that a person does while a backfill waits for the server, which is not through then."""

    def arrange(does):
        polls, index = [], market.path / "index"

        def sleep(_):
            assert not polls, "it goes on waiting"
            polls.append(does())

        monkeypatch.setattr(module.time, "sleep", sleep)
        monkeypatch.setattr(GenerationLedger, "is_followed", lambda *_: True)
        monkeypatch.setattr(GenerationLedger, "is_up_to_date", lambda _, made: generations(index).served == made)

    with market_lock(market.path):
        yield arrange


@pytest.mark.parametrize("drop", [drop_standby, lambda index: build_index(index, [], 32, "a plain index")])
def test_a_standby_that_is_dropped_while_the_server_works_on_it_ends_the_backfill(market, runs, meanwhile, drop):
    index = str(market.path / "index")
    meanwhile(lambda: drop(index))
    with pytest.raises(MercatoError, match=r"the standby was dropped before the swap .* Run this again"):
        backfill(runs[1], market, index)
    assert generations(index).standby is None


def test_a_swap_that_somebody_makes_meanwhile_is_not_reversed(market, runs, meanwhile):
    index = str(market.path / "index")
    before = generations(index).served
    meanwhile(lambda: swap_index(index))
    assert backfill(runs[1], market, index)["fingerprint"] == generations(index).served
    assert generations(index).standby == before


def test_a_run_that_moved_is_named(market, runs):
    with closing(Catalogue.open(market.path / CATALOGUE)) as catalogue:
        ledger = GenerationLedger(catalogue)
        fingerprint = f"{ledger.note_run(runs[0])} rest"
        assert ledger.run_of(fingerprint) == runs[0]
        shutil.move(runs[0], runs[0].with_name("moved"))
        with pytest.raises(MercatoError, match=f"is not at {runs[0]} any more"):
            ledger.run_of(fingerprint)
        with pytest.raises(MercatoError, match="the run cafe that made its vectors is unknown"):
            ledger.run_of("cafe rest")


def test_what_a_generation_missed_is_put_in_the_outbox_again(market, monkeypatch):
    with closing(Catalogue.open(market.path / CATALOGUE)) as catalogue:
        ledger = GenerationLedger(catalogue)

        def waiting() -> set[str]:
            jobs = catalogue.outbox.claim("w", 99)
            catalogue.outbox.ack(jobs)
            return {job.product_id for job in jobs}

        catalogue.products.upsert([stored("a")])
        ledger.follow(["one"])
        assert not ledger.is_up_to_date("one") and not ledger.is_up_to_date("two")
        assert waiting() == {"a"} and ledger.is_up_to_date("one")
        ledger.note_read("two", catalogue.last_number())
        catalogue.products.seed([stored("c")])
        monkeypatch.setattr(time, "time", lambda: 1.0)  # a clock that is set back loses nothing
        catalogue.products.upsert([stored("b")])
        assert waiting() == {"b"}, "for what is followed by now"
        ledger.follow(["one", "two"])
        assert waiting() == {"b"} and ledger.is_up_to_date("two")
        ledger.lapse(["two"])
        assert ledger.is_followed("two") and not ledger.is_followed("one")
        ledger.note_read("one", catalogue.last_number(), ["c"])
        ledger.follow(["one", "two"])
        assert waiting() == {"c"}


def test_a_generation_is_followed_only_once_what_it_missed_is_in_the_outbox(market, monkeypatch):
    with closing(Catalogue.open(market.path / CATALOGUE)) as catalogue:
        ledger = GenerationLedger(catalogue)
        catalogue.products.upsert([stored("a")])
        catalogue.outbox.ack(catalogue.outbox.claim("w", 99))
        for step in ("replay", "put_again"):
            with monkeypatch.context() as locked:
                locked.setattr(catalogue.outbox, step, Mock(side_effect=OSError("the database is locked")))
                with pytest.raises(OSError, match="locked"):
                    ledger.follow(["one"])
            assert not ledger.is_followed("one")
        ledger.follow(["one"])
        assert [job.product_id for job in catalogue.outbox.claim("w", 99)] == ["a"]
