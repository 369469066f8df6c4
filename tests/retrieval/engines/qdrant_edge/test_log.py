"""The log: what is whole comes back in order, to whoever follows it; what is not, never."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest
from filelock import Timeout
from hypothesis import given
from hypothesis import strategies as st

from mercato.retrieval.engines.qdrant_edge.log import Entry, LogReader, LogWriter, segment, segments


def entry(number: int, **fields: object) -> Entry:
    vector = np.full(3, number, np.float32)
    terms, weights = np.arange(number % 4, dtype=np.uint32), np.ones(number % 4, np.float32)
    return Entry(f"p{number}", vector, terms, weights, fields)


def told(entries) -> list[tuple]:
    return [(e.product_id, e.vector.tolist(), e.terms.tolist(), e.weights.tolist(), dict(e.fields)) for e in entries]


@given(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
    st.lists(st.floats(width=32, allow_nan=False), max_size=5),
    st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), st.none() | st.text("añ\0") | st.integers(0, 9)),
)
def test_an_entry_comes_back_as_it_was(product_id, vector, fields):
    there = Entry(
        product_id, np.array(vector, np.float32), np.array([7], np.uint32), np.array([0.5], np.float32), fields
    )
    back = Entry.unpacked(there.packed())
    assert told([back]) == told([there]) and back.deleted == (not vector)


def test_readers_follow_a_writer_from_segment_to_segment(tmp_path):
    writer, first, late = LogWriter(tmp_path), LogReader(tmp_path, 1), LogReader(tmp_path, 2)
    assert list(first.news()) == []
    writer.append([entry(1), entry(2, price=5.0)])
    assert told(first.news()) == told([entry(1), entry(2, price=5.0)])
    writer.append([entry(3)])
    assert writer.rotate() == 2
    writer.append([Entry("p1")])
    assert [(e.product_id, e.deleted) for e in first.news()] == [("p3", False), ("p1", True)]
    assert [e.product_id for e in late.news()] == ["p1"] and list(late.news()) == []
    assert [e.product_id for e in LogReader(tmp_path, 1, before=2).news()] == ["p1", "p2", "p3"]
    writer.close()
    assert segments(tmp_path) == [1, 2]


@pytest.mark.parametrize("cut", [1, 7, 8, 20, 60, 120])
def test_what_a_killed_writer_left_half_is_never_read_and_is_cut_off(tmp_path, cut):
    writer = LogWriter(tmp_path)
    writer.append([entry(1)])
    writer.append([entry(2), entry(3)])
    writer.close()
    file = segment(tmp_path, 1)
    whole = file.read_bytes()
    file.write_bytes(whole[:-cut])
    assert [e.product_id for e in LogReader(tmp_path, 1).news()] == ["p1"]
    writer = LogWriter(tmp_path)
    writer.append([entry(4)])
    writer.close()
    assert [e.product_id for e in LogReader(tmp_path, 1).news()] == ["p1", "p4"]


@pytest.mark.parametrize("length", [11, 12, 4096])
def test_zeros_that_a_power_cut_left_at_the_end_are_never_read_and_are_cut_off(tmp_path, length):
    writer = LogWriter(tmp_path)
    writer.append([entry(1)])
    writer.close()
    with segment(tmp_path, 1).open("ab") as file:
        file.write(bytes(length))
    reader = LogReader(tmp_path, 1)
    assert [e.product_id for e in reader.news()] == ["p1"]
    writer = LogWriter(tmp_path)
    writer.append([entry(2)])
    writer.close()
    assert [e.product_id for e in reader.news()] == ["p2"]


def test_a_reader_waits_for_the_rest_of_a_batch(tmp_path):
    writer = LogWriter(tmp_path)
    writer.append([entry(1), entry(2)])
    writer.close()
    reader, whole = LogReader(tmp_path, 1), segment(tmp_path, 1).read_bytes()
    for upto in range(len(whole) + 1):
        segment(tmp_path, 1).write_bytes(whole[:upto])
        assert [e.product_id for e in reader.news()] == (["p1", "p2"] if upto == len(whole) else [])


def test_a_reader_that_was_interrupted_gets_the_whole_batch_again(tmp_path):
    writer, reader = LogWriter(tmp_path), LogReader(tmp_path, 1)
    writer.append([entry(1), entry(2)])
    news = reader.news()
    assert next(news).product_id == "p1"
    news.close()
    assert [e.product_id for e in reader.news()] == ["p1", "p2"]
    writer.close()


def test_a_batch_of_nothing_ends_no_log(tmp_path):
    writer = LogWriter(tmp_path)
    for batch in ([], [entry(1)], [], [entry(2)]):
        writer.append(batch)
    writer.close()
    LogWriter(tmp_path).close()
    assert [e.product_id for e in LogReader(tmp_path, 1).news()] == ["p1", "p2"]


def test_a_changed_byte_ends_what_is_read(tmp_path):
    writer = LogWriter(tmp_path)
    writer.append([entry(1)])
    writer.append([entry(2)])
    writer.close()
    raw = bytearray(segment(tmp_path, 1).read_bytes())
    raw[-1] ^= 1
    segment(tmp_path, 1).write_bytes(raw)
    assert [e.product_id for e in LogReader(tmp_path, 1).news()] == ["p1"]


def test_what_was_flushed_has_its_name_on_the_disk_too(tmp_path, monkeypatch):
    """A power cut takes a file whose folder was not synced since it was made."""
    on_disk, fsync = [], os.fsync

    def synced(file):
        on_disk.append(Path(f"/proc/self/fd/{file}").readlink())
        fsync(file)

    monkeypatch.setattr(os, "fsync", synced)
    log = tmp_path / "log"
    writer = LogWriter(log)
    for number in (1, 2):
        writer.append([entry(number)])
        writer.flush()
        assert on_disk == [segment(log, number), log, tmp_path]
        on_disk.clear()
        writer.append([entry(number)])
        writer.flush()
        assert on_disk == [segment(log, number)], "no name has changed since"
        writer.rotate()
        on_disk.clear()
    writer.close()


def test_a_log_has_one_writer(tmp_path):
    writer = LogWriter(tmp_path)
    with pytest.raises(Timeout):
        LogWriter(tmp_path)
    writer.close()
    LogWriter(tmp_path).close()


def test_a_batch_that_a_full_disk_left_half_is_never_seen_and_hides_nothing_that_comes_after_it(tmp_path, monkeypatch):
    writer, reader = LogWriter(tmp_path), LogReader(tmp_path, 1)
    writer.append([entry(1)])
    pwrite = os.pwrite

    def full(file, content, at):
        if len(content) < 40:
            raise OSError(errno.ENOSPC, "No space left on device")
        return pwrite(file, content[:-30], at)

    with monkeypatch.context() as disk:
        disk.setattr(os, "pwrite", full)
        with pytest.raises(OSError, match="No space"):
            writer.append([entry(2), entry(5), entry(6)])
        assert told(reader.news()) == told([entry(1)])
        with pytest.raises(OSError, match="No space"):
            writer.append([entry(2), entry(5), entry(6)])
        assert told(reader.news()) == []
    writer.append([entry(3)])
    assert told(reader.news()) == told([entry(3)])
    writer.close()
    with_all = LogWriter(tmp_path)
    with_all.append([entry(4)])
    assert told(LogReader(tmp_path, 1).news()) == told([entry(1), entry(3), entry(4)])
    with_all.close()


def test_a_segment_that_cannot_be_begun_leaves_the_last_one_to_write_to(tmp_path, monkeypatch):
    writer, reader = LogWriter(tmp_path / "log"), LogReader(tmp_path / "log", 1)
    writer.append([entry(1)])
    with monkeypatch.context() as disk:
        disk.setattr(os, "open", lambda *_: (_ for _ in ()).throw(OSError(errno.EMFILE, "Too many open files")))
        with pytest.raises(OSError, match="Too many"):
            writer.rotate()
    with (tmp_path / "another").open("w+b") as another:  # of the number that a closed file would have had
        another.write(b"precious")
        another.flush()
        writer.append([entry(2)])
        assert (tmp_path / "another").read_bytes() == b"precious"
    assert writer.rotate() == 2
    writer.append([entry(3)])
    writer.close()
    assert told(reader.news()) == told([entry(1), entry(2), entry(3)])
