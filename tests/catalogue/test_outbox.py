"""Claim, acknowledge, retry: no clock is waited for, a lease of 0 seconds has expired at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from types import SimpleNamespace

import pytest

from mercato.catalogue import outbox
from mercato.catalogue.store import Catalogue
from tests.support.stored import stored


def ids(jobs) -> list[str]:
    return [job.product_id for job in jobs]


def test_jobs_are_claimed_oldest_first_and_held(catalogue):
    for name in ("c", "a", "b"):
        catalogue.products.upsert([stored(name)])
    assert ids(catalogue.outbox.claim("one", 2)) == ["c", "a"]
    assert ids(catalogue.outbox.claim("two", 9)) == ["b"]
    assert catalogue.outbox.claim("one", 9) == [] == catalogue.outbox.claim("two", 9)
    assert catalogue.outbox.depth() == 3, "they stay until they are acknowledged"


def test_two_workers_never_hold_one_job(file):
    names = [f"p{number:03}" for number in range(200)]

    def work(worker: str) -> list[str]:
        held = []
        with closing(Catalogue.open(file)) as own:
            while jobs := own.outbox.claim(worker, 7):
                held += ids(jobs)
        return held

    with closing(Catalogue.open(file)) as catalogue:
        catalogue.products.upsert([stored(name) for name in names])
        with ThreadPoolExecutor(4) as pool:
            held = [name for each in pool.map(work, ["w1", "w2", "w3", "w4"]) for name in each]
    assert sorted(held) == names


def test_an_expired_lease_is_anyones_and_a_heartbeat_extends_it(catalogue):
    catalogue.products.upsert([stored()])
    dead = catalogue.outbox.claim("dead", 9, lease_seconds=0)
    (job,) = catalogue.outbox.claim("alive", 9, lease_seconds=0)
    assert job.worker == "alive"
    catalogue.outbox.heartbeat(dead)  # too late: it has lost the job
    (job,) = catalogue.outbox.claim("other", 9, lease_seconds=0)
    catalogue.outbox.heartbeat([job])
    assert catalogue.outbox.claim("alive", 9) == []


@pytest.fixture
def clock(monkeypatch):
    """What the outbox reads: a number of seconds that a test sets."""
    clock = SimpleNamespace(now=1e9)
    monkeypatch.setattr(outbox, "time", SimpleNamespace(time=lambda: clock.now))
    return clock


def wait(catalogue, delay_seconds: float) -> None:
    """Write three products: of one another worker holds the job, one job failed, one is new."""
    for name in ("held", "failed", "new"):
        catalogue.products.upsert([stored(name)])
    catalogue.outbox.claim("other", 1)
    (job,) = catalogue.outbox.claim("server", 1)
    catalogue.outbox.retry(job, "RuntimeError: no", delay_seconds)


@pytest.mark.parametrize("restarted", [True, False])
@pytest.mark.chaos
def test_a_clock_that_was_set_back_holds_up_nobody(catalogue, clock, restarted):
    wait(catalogue, delay_seconds=1e9)
    clock.now -= 30 * 86_400
    if restarted:
        catalogue.outbox.release("server")
    assert sorted(ids(catalogue.outbox.claim("server", 9))) == ["failed", "held", "new"]
    assert catalogue.outbox.claim("third", 9) == [], "and what is claimed now is held"


@pytest.mark.parametrize("restarted", [True, False])
def test_a_second_back_changes_no_lease_and_no_retry(catalogue, clock, restarted):
    wait(catalogue, delay_seconds=60)
    clock.now -= 1
    if restarted:
        catalogue.outbox.release("server")
    assert ids(catalogue.outbox.claim("server", 9)) == ["new"]
    clock.now += 3
    assert catalogue.outbox.claim("server", 9) == []


def test_a_worker_that_starts_again_has_its_jobs_at_once(catalogue):
    catalogue.products.upsert([stored("a"), stored("b")])
    mine, _ = catalogue.outbox.claim("server", 1), catalogue.outbox.claim("other", 1)
    catalogue.outbox.release("server")
    assert catalogue.outbox.claim("server", 9) == mine, "and not what another holds"


def test_ack_spares_a_product_that_was_written_again(catalogue):
    catalogue.products.upsert([stored()])
    jobs = catalogue.outbox.claim("w", 9)
    catalogue.products.upsert([stored(title="a blue sofa")])
    catalogue.outbox.ack(jobs)
    (job,) = catalogue.outbox.claim("another", 9)
    assert job.version == jobs[0].version + 1
    catalogue.outbox.ack([job])
    assert catalogue.outbox.depth() == 0


def test_versions_of_a_product_are_worked_in_order(catalogue):
    """Else a slow worker's old vector could overwrite a quick one's new vector."""
    catalogue.products.upsert([stored()])
    (first,) = catalogue.outbox.claim("slow", 9)
    catalogue.products.upsert([stored(title="a blue sofa")])
    assert catalogue.outbox.claim("quick", 9) == []
    (second,) = catalogue.outbox.claim("slow", 9)  # but its holder need not wait for its own acknowledgement
    assert second.version == first.version + 1
    catalogue.outbox.ack([first])
    assert catalogue.outbox.claim("quick", 9) == [], "the second is still held"
    catalogue.outbox.ack([second])
    assert catalogue.outbox.depth() == 0


def test_a_worker_that_slept_through_its_lease_leaves_the_product_to_be_worked_once_more(catalogue):
    """Whether another worker is done with it or still holds it: whose vector the index has, nobody knows."""
    catalogue.products.upsert([stored("done"), stored("held"), stored("gone")])
    late = catalogue.outbox.claim("asleep", 9, lease_seconds=0)
    catalogue.products.upsert([stored("done", title="a blue sofa")])
    catalogue.products.delete("gone")
    awake = catalogue.outbox.claim("awake", 9)
    catalogue.outbox.ack([job for job in awake if job.product_id != "held"])
    catalogue.outbox.ack(late)
    catalogue.outbox.ack(awake)
    again = catalogue.outbox.claim("awake", 9)
    assert sorted((job.product_id, job.operation) for job in again) == [
        ("done", "upsert"),
        ("gone", "delete"),
        ("held", "upsert"),
    ]
    catalogue.outbox.ack(again)
    assert catalogue.outbox.depth() == 0


def test_versions_acknowledged_together_are_done_once(catalogue):
    catalogue.products.upsert([stored()])
    first = catalogue.outbox.claim("w", 9)
    catalogue.products.upsert([stored(title="a blue sofa")])
    second = catalogue.outbox.claim("w", 9)
    catalogue.outbox.ack([*second, *first])
    assert catalogue.outbox.depth() == 0


def test_a_late_acknowledgement_does_not_spoil_the_failure_of_the_holder(catalogue):
    catalogue.products.upsert([stored()])
    late = catalogue.outbox.claim("asleep", 9, lease_seconds=0)
    (job,) = catalogue.outbox.claim("awake", 9)
    catalogue.outbox.retry(job, "no", delay_seconds=3600)
    catalogue.outbox.ack(late)
    assert catalogue.outbox.failures() == [("x1", 1, "no")]


def test_a_failed_job_waits_its_turn_and_says_why(catalogue):
    catalogue.products.upsert([stored("bad"), stored("good")])
    bad = next(job for job in catalogue.outbox.claim("w", 9) if job.product_id == "bad")
    catalogue.outbox.retry(bad, "RuntimeError: no", delay_seconds=3600)
    catalogue.outbox.release("w")
    assert ids(catalogue.outbox.claim("w", 9)) == ["good"]
    assert catalogue.outbox.failures() == [("bad", 1, "RuntimeError: no")] and catalogue.outbox.depth() == 1
    catalogue.products.upsert([stored("bad")])  # a new version gets a new chance
    assert ids(catalogue.outbox.claim("w", 9)) == ["bad"] and catalogue.outbox.failures() == []


def test_a_retry_is_free_for_any_worker_and_counts_its_attempts(catalogue):
    catalogue.products.upsert([stored()])
    for attempts, worker in enumerate(("one", "two", "three")):
        (job,) = catalogue.outbox.claim(worker, 9)
        assert job.attempts == attempts
        catalogue.outbox.retry(job, "no", delay_seconds=0)


def test_a_retry_of_an_old_version_or_of_a_lost_lease_changes_nothing(catalogue):
    catalogue.products.upsert([stored()])
    (old,) = catalogue.outbox.claim("one", 9, lease_seconds=0)
    catalogue.products.upsert([stored(title="a blue sofa")])
    (new,) = catalogue.outbox.claim("two", 9)
    catalogue.outbox.retry(old, "no", delay_seconds=3600)
    assert catalogue.outbox.failures() == [] and catalogue.outbox.claim("one", 9) == [], "two still holds it"
    catalogue.products.upsert([stored(title="a green sofa")])
    catalogue.outbox.retry(new, "no", delay_seconds=3600)
    (newest,) = catalogue.outbox.claim("three", 9)
    assert newest.attempts == 0 and newest.version == new.version + 1


def test_a_product_waits_since_the_first_write_that_no_index_has_seen(catalogue):
    for name in ("a", "b"):
        catalogue.products.upsert([stored(name)])
    first = catalogue.outbox.oldest()
    catalogue.products.upsert([stored("a")])  # again, so that it stands behind b
    (job,) = catalogue.outbox.claim("w", 1)
    catalogue.outbox.ack([job])
    assert job.product_id == "b" and catalogue.outbox.oldest() == first
    (job,) = catalogue.outbox.claim("w", 1)
    catalogue.products.upsert([stored("a")])
    catalogue.outbox.ack([job])
    assert catalogue.outbox.oldest() == catalogue.last_number(), "what came before is known by now"


@pytest.mark.parametrize("is_written_while_it_is_held", [False, True])
def test_a_product_that_fails_and_is_written_time_and_again_holds_up_nobody(catalogue, is_written_while_it_is_held):
    """A backfill swaps once nothing is older than a write: not never."""
    catalogue.products.upsert([stored("bad")])
    before = catalogue.last_number()
    for _ in range(2):
        (job,) = catalogue.outbox.claim("w", 9)
        assert job.attempts == 0, "it has its chances anew"
        if is_written_while_it_is_held:
            catalogue.products.upsert([stored("bad")])
        catalogue.outbox.retry(job, "no", delay_seconds=3600)
        if not is_written_while_it_is_held:
            catalogue.products.upsert([stored("bad")])
        assert catalogue.outbox.oldest() == catalogue.last_number() > before
    assert catalogue.outbox.depth() == 1


def test_what_is_put_in_again_goes_as_what_it_is_now(catalogue):
    catalogue.products.upsert([stored("a"), stored("b")])
    catalogue.products.delete("b")
    catalogue.outbox.put_again(["a", "b", "unknown"])
    jobs = catalogue.outbox.claim("w", 9)
    assert {job.product_id: job.operation for job in jobs} == {"a": "upsert", "b": "delete"}


def test_replay_sends_the_apis_products_and_deletions_only(catalogue):
    catalogue.products.seed([stored("seeded"), stored("gone")])
    catalogue.products.upsert([stored("mine")])
    catalogue.products.delete("gone")
    catalogue.outbox.ack(catalogue.outbox.claim("w", 9))
    catalogue.outbox.replay()
    jobs = catalogue.outbox.claim("w", 9)
    assert {(job.product_id, job.operation) for job in jobs} == {("mine", "upsert"), ("gone", "delete")}
