"""The log of what was written since a generation was sealed: batches end to end, in segments, one writer, any readers.

    LOG/00000001 …   segments; a new one is begun when a compaction begins, and the last one grows
    LOG/owner        locked by whoever may write

A batch, the entries of one `append`, is whole or not there: its length and checksum come first. What has been appended
survives `kill -9`, and a power cut once `flush` has returned.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from filelock import FileLock
from numpy.typing import NDArray

from mercato.files import sync
from mercato.retrieval.expression import Vector
from mercato.retrieval.signals import NO_SIGNALS, Signals

_FRAME = struct.Struct("<QI")  # of a batch: length, CRC-32
_NO_VECTOR = np.zeros(0, np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """A product as it was written; one without a vector was deleted. `fields` are those of `payload`."""

    product_id: str
    vector: Vector = field(default_factory=lambda: _NO_VECTOR)
    terms: NDArray[np.uint32] = field(default_factory=lambda: np.zeros(0, np.uint32))
    weights: NDArray[np.float32] = field(default_factory=lambda: _NO_VECTOR)
    fields: Mapping[str, Any] = field(default_factory=dict)
    signals: Signals = NO_SIGNALS

    @property
    def deleted(self) -> bool:
        """Whether it says that the product is gone."""
        return len(self.vector) == 0

    def packed(self) -> bytes:
        """As it stands in a batch, behind its length."""
        head = orjson.dumps([self.product_id, len(self.vector), len(self.terms), dict(self.fields)])
        arrays = [array.tobytes() for array in (self.vector, self.terms, self.weights)]
        signals = [] if self.deleted else [self.signals.packed()]
        return b"".join([len(head).to_bytes(4, "little"), head, *arrays, *signals])

    @classmethod
    def unpacked(cls, body: bytes) -> Entry:
        """What `packed` wrote."""
        start = 4 + int.from_bytes(body[:4], "little")
        product_id, dimension, terms, fields = orjson.loads(body[4:start])
        at = start + 4 * dimension
        end = at + 8 * terms
        return cls(
            product_id,
            np.frombuffer(body, np.float32, dimension, start),
            np.frombuffer(body, np.uint32, terms, at),
            np.frombuffer(body, np.float32, terms, at + 4 * terms),
            fields,
            Signals.unpacked(body[end:]) if dimension else NO_SIGNALS,
        )


def segment(log: Path, number: int) -> Path:
    """The file of a segment."""
    return log / f"{number:08}"


def segments(log: Path) -> list[int]:
    """The segments that there are, ascending."""
    return sorted(int(file.name) for file in log.iterdir() if file.name.isdigit())


def whole_bytes(file: Path) -> int:
    """How many bytes at the beginning of a segment are whole batches."""
    return sum(_FRAME.size + len(batch) for batch in _batches(file.read_bytes()))


class LogWriter:
    """Appends to a log, alone: raises `Timeout` where somebody else has it."""

    def __init__(self, log: Path) -> None:
        log.mkdir(parents=True, exist_ok=True)
        self._log = log
        self._owned = FileLock(log / "owner", thread_local=False)  # taken in one thread, given back in another
        self._owned.acquire(timeout=0)
        self.number = (segments(log) or [1])[-1]
        self._file, self._end = self._found(segment(log, self.number))
        self._named = False  # whether the names of the segment and of the log would survive a power cut

    def append(self, entries: Iterable[Entry]) -> None:
        """Write some entries, all or none, also for who reads meanwhile; they survive `kill -9` from here on."""
        whole = _packed(entries)
        os.ftruncate(self._file, self._end)  # what a full disk left half of would hide all that comes after it
        at = self._end
        while whole:
            written = os.pwrite(self._file, whole, at)
            whole, at = whole[written:], at + written
        self._end = at

    def flush(self) -> None:
        """Return once they would survive a power cut."""
        os.fsync(self._file)
        if not self._named:
            for folder in (self._log, self._log.parent):
                sync(folder)
            self._named = True

    def rotate(self) -> int:
        """Begin a new segment and return its number: all that was written before lies in earlier ones."""
        self.flush()
        fresh = os.open(segment(self._log, self.number + 1), os.O_WRONLY | os.O_CREAT, 0o644)
        full, self._file = self._file, fresh  # only now that there is one: else what is open goes on
        self._named = False
        self.number, self._end = self.number + 1, 0
        os.close(full)
        return self.number

    def close(self) -> None:
        """Flush and let go."""
        self.flush()
        os.close(self._file)
        self._owned.release()

    @staticmethod
    def _found(file: Path) -> tuple[int, int]:
        """The open file of a segment, and the end of what is whole in it: what a killed writer left half is cut off."""
        whole = whole_bytes(file) if file.is_file() else 0
        opened = os.open(file, os.O_WRONLY | os.O_CREAT, 0o644)
        os.ftruncate(opened, whole)
        return opened, whole


class LogReader:
    """Follows a log from a segment on, up to before another one where that is given."""

    def __init__(self, log: Path, first: int, before: int | None = None) -> None:
        self._log, self._number, self._before, self._place = log, first, before, 0
        self._file: int | None = None

    def news(self) -> Iterator[Entry]:
        """What was written since the last call."""
        while self._before is None or self._number < self._before:
            ended = segment(self._log, self._number + 1).is_file()  # asked before reading: nothing comes after it
            for batch in self._read():
                yield from _entries(batch)
                self._place += _FRAME.size + len(batch)  # last: whoever was interrupted gets the whole batch again
            if not ended:
                return
            self.close()
            self._number, self._place = self._number + 1, 0

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _read(self) -> Iterator[bytes]:
        if self._file is None:
            try:
                self._file = os.open(segment(self._log, self._number), os.O_RDONLY)
            except FileNotFoundError:
                return iter(())
        size = os.fstat(self._file).st_size
        return _batches(os.pread(self._file, size - self._place, self._place)) if size > self._place else iter(())


def _packed(entries: Iterable[Entry]) -> bytes:
    """A batch with its frame; nothing where there is no entry."""
    packed = [entry.packed() for entry in entries]
    batch = b"".join(part for each in packed for part in (len(each).to_bytes(4, "little"), each))
    return _FRAME.pack(len(batch), zlib.crc32(batch)) + batch if batch else b""


def _entries(batch: bytes) -> Iterator[Entry]:
    at = 0
    while at < len(batch):
        start = at + 4
        at = start + int.from_bytes(batch[at:start], "little")
        yield Entry.unpacked(batch[start:at])


def _batches(content: bytes) -> Iterator[bytes]:
    """The whole batches at the beginning of some bytes, without their frames."""
    at = 0
    while at + _FRAME.size <= len(content):
        length, checksum = _FRAME.unpack_from(content, at)
        batch = content[at + _FRAME.size : at + _FRAME.size + length]
        if not length or len(batch) < length or zlib.crc32(batch) != checksum:
            return  # of no length: zeros, which a power cut leaves where the file had grown and its bytes had not come
        yield batch
        at += _FRAME.size + length
