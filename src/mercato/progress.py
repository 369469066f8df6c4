"""Progress of long work: notes and progress bars, all on stderr, all silenced by `quiet()`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

T = TypeVar("T")

console = Console(stderr=True, highlight=False)


def quiet(on: bool = True) -> None:
    """Silence (or restore) every note and bar of this process."""
    console.quiet = on


def note(text: str) -> None:
    """Print one line (Rich markup allowed) on stderr."""
    console.print(text)


def track(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Yield `items` under a progress bar; where stderr is not a terminal, print one line when done instead."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    with bar(description, total) as advance:
        for item in items:
            yield item
            advance(1)


@contextmanager
def bar(description: str, total: float | None = None) -> Iterator[Callable[[float], None]]:
    """As `track`, for work that says itself how far it came."""
    start, count = time.perf_counter(), 0.0

    def advance(by: float) -> None:
        nonlocal count
        count += by
        shown.advance(task, by)

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as shown:
        task = shown.add_task(description, total=total)
        yield advance
    note(f"  {description}: {count:,.0f} in {time.perf_counter() - start:.1f} s")
