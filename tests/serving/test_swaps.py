"""A backfill beside a running server: no write is lost, no query meets another run's vectors, no restart."""

from __future__ import annotations

import gc
import shutil
import threading
import weakref
from contextlib import closing
from types import SimpleNamespace

import pytest
from fastapi.testclient import TestClient

from mercato.catalogue import backfill as backfilling
from mercato.catalogue import indexing
from mercato.catalogue.backfill import backfill
from mercato.catalogue.store import Catalogue
from mercato.catalogue.worker import IngestionWorker
from mercato.data.market import CATALOGUE
from mercato.errors import MercatoError
from mercato.retrieval.open import drop_standby, generations, swap_index
from mercato.search.request import SearchRequest
from mercato.serving import deployment, rollout, server
from mercato.serving.rollout import Rollout
from mercato.serving.server import KEY, serve_run
from tests.support.salted_runs import SaltedEncoder, make_run
from tests.support.served import WRITE, ids, search, wait_until
from tests.support.small_market import KEY as KEY_OF_TESTS
from tests.support.small_market import make_market
from tests.support.stored import stored


@pytest.fixture
def runs(tmp_path):
    return make_run(tmp_path / "one", "one", 32), make_run(tmp_path / "two", "two", 48)


@pytest.fixture
def market(tmp_path, runs, monkeypatch):
    for module in (indexing, backfilling, deployment):
        monkeypatch.setattr(module, "OnnxEncoder", SaltedEncoder)
    monkeypatch.setattr(backfilling, "PART", 16)
    monkeypatch.setattr(backfilling, "_POLL_SECONDS", 0.02)
    monkeypatch.setattr(rollout, "LOOK_SECONDS", 0.02)
    monkeypatch.setenv(KEY, KEY_OF_TESTS)
    market = make_market(tmp_path / "market")
    indexing.index_market(runs[0], market, str(market.path / "index"))
    return market


@pytest.fixture(autouse=True)
def collected():
    """What a server keeps the garbage collector from is given back to it."""
    yield
    gc.unfreeze()


@pytest.fixture
def index(market) -> str:
    return str(market.path / "index")


@pytest.fixture
def serve(market, index, runs, monkeypatch):
    """Start a server and do something with its client in place of waiting for an interrupt."""

    def start(do) -> None:
        def now(application, *_):
            with TestClient(application) as client:
                do(client)

        monkeypatch.setattr(server, "serve", now)
        serve_run(runs[0], market, index, "127.0.0.1", 8300)

    return start


def model(client) -> str:
    return client.get("/v1/market").json()["model"]["name"]


def write(client, product_id: str, title: str) -> None:
    body = {"products": [{"product_id": product_id, "title": title}]}
    client.post("/v1/products", json=body, headers=WRITE).raise_for_status()


def nearest(client, query: str) -> str:
    return ids(search(client, query=query, mode="semantic", page_size=1))[0]


def answer(client, query: str) -> list[tuple[str, float]]:
    hits = search(client, query=query, mode="semantic", page_size=10)["hits"]
    return [(hit["product"]["product_id"], hit["cosine"]) for hit in hits]


def test_what_is_written_before_during_and_after_is_found_on_both_sides_of_the_swap(
    serve, market, index, runs, monkeypatch
):
    things = {"b": "orange hammock", "d": "purple xylophone", "a": "turquoise gramophone"}

    def session(client):
        class Meanwhile(SaltedEncoder):
            def encode_products(self, products, *, as_of=None):
                vectors = super().encode_products(products, as_of=as_of)  # these are read already
                write(client, "d", things["d"])
                write(client, "p40", "silver trombone")
                client.delete("/v1/products/p01", headers=WRITE)
                return vectors

        monkeypatch.setattr(backfilling, "OnnxEncoder", Meanwhile)
        write(client, "b", things["b"])
        assert model(client) == "run one"
        backfill(runs[1], market, index)
        wait_until(lambda: model(client) == "run two")
        everything = things | {"p40": "silver trombone"}
        for key in ("d", "b", "p40"):
            assert nearest(client, everything[key]) == key
        write(client, "a", things["a"])
        wait_until(lambda: nearest(client, things["a"]) == "a")
        for back in ("run one", "run two"):
            swap_index(index)
            wait_until(lambda back=back: model(client) == back)
            for key, title in everything.items():
                assert nearest(client, title) == key
            assert search(client, query="")["total"] == 50
        assert "mercato_index_size 50.0" in client.get("/metrics").text

    serve(session)


def test_a_query_meets_the_vectors_of_its_own_run_alone(serve, market, index, runs):
    queries = ("red chair", "blue lamp", "green sofa")

    def session(client):
        by_run = [{query: answer(client, query) for query in queries}]
        backfill(runs[1], market, index)
        wait_until(lambda: model(client) == "run two")
        by_run.append({query: answer(client, query) for query in queries})
        seen, ended = set(), threading.Event()

        def ask() -> None:
            while not ended.is_set():
                for query in queries:
                    found = answer(client, query)
                    seen.add(next((n for n, answers in enumerate(by_run) if answers[query] == found), None))

        asking = threading.Thread(target=ask)
        asking.start()
        for back in ("run one", "run two", "run one"):
            swap_index(index)
            wait_until(lambda back=back: model(client) == back)
        ended.set()
        asking.join()
        assert seen == {0, 1}

    serve(session)


def test_a_process_that_reads_changes_over_once_its_requests_have_ended(serve, market, index, runs):
    def session(client):
        with closing(Catalogue.open(market.path / CATALOGUE)) as catalogue:
            reader = Rollout(index, market, catalogue, writes=False)
            request = SearchRequest(query="red chair", mode="semantic")
            with reader.deployments.using() as old:
                before = old.searcher.search(request).hits
                backfill(runs[1], market, index)
                looking = threading.Thread(target=reader.look, args=[lambda _: None])
                looking.start()
                wait_until(lambda: reader.deployments.served is not old)
                assert (old.name, reader.deployments.served.name) == ("run one", "run two")
                assert old.searcher.search(request).hits == before, "a request that is under way ends on the old one"
                assert looking.is_alive()
            looking.join()
            with pytest.raises(MercatoError, match="closed"):
                old.searcher.search(request)
            with reader.deployments.using() as new:
                assert new.searcher.search(request).hits != before
            reader.close()

    serve(session)


def test_pages_go_on_over_a_swap_and_repeat_nothing(serve, market, index, runs):
    def session(client):
        shown, cursor = [], None
        for page in range(4):
            found = search(client, query="red chair", page_size=12, **({"cursor": cursor} if cursor else {}))
            shown += ids(found)
            cursor = found["cursor"]
            if page == 1:
                backfill(runs[1], market, index)
                wait_until(lambda: model(client) == "run two")
        assert len(shown) == len(set(shown)) == 48

    serve(session)


def test_a_standby_that_was_dropped_is_written_to_no_more(serve, market, index, runs, monkeypatch):
    embedded = []
    whole = SaltedEncoder.encode_products

    def noted(self, products, *, as_of=None):
        embedded.append(self.salt)
        return whole(self, products, as_of=as_of)

    monkeypatch.setattr(SaltedEncoder, "encode_products", noted)

    def session(client):
        backfill(runs[1], market, index)
        wait_until(lambda: model(client) == "run two")
        embedded.clear()
        write(client, "n", "orange hammock")
        wait_until(lambda: set(embedded) == {"one", "two"})
        drop_standby(index)
        wait_until(lambda: len(list((market.path / "index").glob("generation-*"))) == 1)
        embedded.clear()
        write(client, "m", "purple xylophone")
        wait_until(lambda: nearest(client, "purple xylophone") == "m")
        assert set(embedded) == {"two"}

    serve(session)


def test_a_standby_whose_run_is_gone_is_named_and_the_server_goes_on(serve, market, index, runs, monkeypatch):
    build, away = backfilling.build_index, runs[1].with_name("away")

    def moved_away(*arguments, **named):
        shutil.move(runs[1], away)
        return build(*arguments, **named)

    def session(client):
        with monkeypatch.context() as moved:
            moved.setattr(backfilling, "build_index", moved_away)
            with pytest.raises(MercatoError, match=f"is not at {runs[1]} any more"):
                backfill(runs[1], market, index)
        write(client, "n", "orange hammock")
        wait_until(lambda: nearest(client, "orange hammock") == "n")
        swap_index(index)  # what is served cannot be loaded: what was goes on
        write(client, "m", "purple xylophone")
        wait_until(lambda: nearest(client, "purple xylophone") == "m")
        assert model(client) == "run one"
        shutil.move(away, runs[1])
        wait_until(lambda: model(client) == "run two")
        assert nearest(client, "orange hammock") == "n" and nearest(client, "purple xylophone") == "m"

    serve(session)


def test_what_was_exchanged_is_forgotten_and_what_serves_now_is_kept_from_the_garbage_collector(
    serve, market, index, runs
):
    def session(client):
        with (
            closing(Catalogue.open(market.path / CATALOGUE)) as catalogue,
            closing(Rollout(index, market, catalogue, writes=False)) as reader,
        ):
            before = weakref.ref(reader.deployments.served)
            before().itself = before()  # only a collection finds it
            backfill(runs[1], market, index)
            wait_until(lambda: model(client) == "run two")
            gc.unfreeze()
            reader.look(lambda _: None)
            assert reader.deployments.served.name == "run two"
            assert before() is None and gc.get_freeze_count() > 10_000

    serve(session)


def test_what_cannot_be_opened_is_tried_again_after_a_while(serve, market, index, runs, monkeypatch):
    def session(client):
        backfill(runs[1], market, index)
        wait_until(lambda: model(client) == "run two")
        shutil.move(runs[0], runs[0].with_name("away"))
        tried, now = [], [0.0]
        with (
            closing(Catalogue.open(market.path / CATALOGUE)) as catalogue,
            closing(Rollout(index, market, catalogue, writes=False)) as reader,
            monkeypatch.context() as patch,
        ):
            run_of = reader._ledger.run_of
            patch.setattr(reader._ledger, "run_of", lambda name: tried.append(name) or run_of(name))
            patch.setattr(rollout, "time", SimpleNamespace(monotonic=lambda: now[0]))
            swap_index(index)
            pause = rollout.LOOK_SECONDS * rollout._SOON_LOOKS
            for now[0], times in ((0.0, 1), (0.9 * pause, 1), (1.1 * pause, 2), (1.2 * pause, 2)):
                reader.look(lambda _: None)
                assert len(tried) == times
            assert reader.deployments.served.name == "run two"

    serve(session)


def test_what_could_not_be_followed_for_a_moment_is_followed_at_the_next_look(serve, market, index, runs, monkeypatch):
    retarget, failed = IngestionWorker.retarget, []

    def locked_at_first(self, targets):
        if len(targets) == 2 and not failed:
            failed.append(targets)
            raise OSError("the database is locked")
        retarget(self, targets)

    def session(client):
        backfill(runs[1], market, index)  # it waits until the server follows the standby
        wait_until(lambda: model(client) == "run two")
        assert failed

    monkeypatch.setattr(IngestionWorker, "retarget", locked_at_first)
    serve(session)


@pytest.fixture
def of_tables(market, index, runs, monkeypatch):
    """Builds the index without what the API wrote, as if all that had come later."""

    def build() -> None:
        with monkeypatch.context() as earlier:
            earlier.setattr(indexing, "CATALOGUE", "not-there.sqlite")
            indexing.index_market(runs[0], market, index)

    return build


def test_a_plain_build_is_taken_up_once_it_holds_what_the_api_wrote(serve, market, of_tables):
    def session(client):
        write(client, "n", "orange hammock")
        wait_until(lambda: nearest(client, "orange hammock") == "n")
        of_tables()

        def the_old_one_is_gone() -> bool:
            assert nearest(client, "orange hammock") == "n", "at no moment it is not found"
            return len(list((market.path / "index").glob("generation-*"))) == 1

        wait_until(the_old_one_is_gone)

    serve(session)


def test_a_process_that_begins_meanwhile_answers_from_what_the_others_do(serve, market, index, of_tables, monkeypatch):
    whole, may_embed = SaltedEncoder.encode_products, threading.Event()

    def held_back(self, products, *, as_of=None):
        if "n" in [product["product_id"] for product in products]:  # which is not in the tables
            may_embed.wait()
        return whole(self, products, as_of=as_of)

    def session(client):
        write(client, "n", "orange hammock")
        wait_until(lambda: nearest(client, "orange hammock") == "n")
        monkeypatch.setattr(SaltedEncoder, "encode_products", held_back)
        of_tables()
        request = SearchRequest(query="orange hammock", mode="semantic", page_size=1)
        with (
            closing(Catalogue.open(market.path / CATALOGUE)) as catalogue,
            closing(Rollout(index, market, catalogue, writes=False)) as reader,
        ):

            def answers_from_what_was_built() -> bool:
                reader.look(lambda _: None)
                with reader.deployments.using() as deployment:
                    assert deployment.searcher.search(request).hits[0].product["product_id"] == "n"
                return deployment.index.fingerprint == generations(index).served

            try:
                assert not answers_from_what_was_built() and not answers_from_what_was_built()
            finally:
                may_embed.set()
            wait_until(answers_from_what_was_built)

    serve(session)


def test_a_swap_outlives_the_server_and_the_next_is_ready_once_it_holds_what_was_written_meanwhile(
    serve, market, index, runs, monkeypatch, capfd
):
    whole, may_embed = SaltedEncoder.encode_products, threading.Event()

    def held_back(self, products, *, as_of=None):
        may_embed.wait()
        return whole(self, products, as_of=as_of)

    def first(client):
        write(client, "n", "orange hammock")
        wait_until(lambda: nearest(client, "orange hammock") == "n")

    def second(client):
        assert model(client) == "run two" and nearest(client, "orange hammock") == "n"
        try:
            assert client.get("/readyz").status_code == 503
        finally:
            may_embed.set()
        wait_until(lambda: client.get("/readyz").status_code == 200)
        assert nearest(client, "purple xylophone") == "m"
        assert generations(index).standby is not None

    serve(first)
    backfill(runs[1], market, index)
    with closing(Catalogue.open(market.path / CATALOGUE)) as catalogue:
        catalogue.products.upsert([stored("m", title="purple xylophone")])  # by a server that was killed
    monkeypatch.setattr(SaltedEncoder, "encode_products", held_back)
    serve(second)
    assert f"{runs[1]} serves in place of {runs[0]}" in capfd.readouterr().err
