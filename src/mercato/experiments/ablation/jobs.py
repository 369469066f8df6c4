"""The jobs of a study: which of its runs are missing, and training those, several processes at once."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rich.markup import escape

from mercato.config import Recipe
from mercato.data.market import Market
from mercato.errors import MercatoError
from mercato.experiments.ablation.measures import MEASURES
from mercato.progress import note, track
from mercato.runs.folder import PRODUCT_TOWER, WEIGHTS

TRIAL = [sys.executable, "-m", "mercato.experiments.ablation.trial"]
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "POLARS_MAX_THREADS", "RAYON_NUM_THREADS")
PAUSE = 0.1  # seconds between two looks at the processes


@dataclass(frozen=True)
class Job:
    """One run to train and measure."""

    label: str  # row and seed
    recipe: Recipe
    run: Path


def run_name(recipe: Recipe, fingerprint: str) -> str:
    """A folder's name by content: the same recipe on the same market is the same run, in whichever row or study."""
    digest = hashlib.sha256(f"{recipe.toml()}\n{fingerprint}".encode()).hexdigest()[:12]
    return f"{slug(recipe.name) or 'run'}-{digest}"


def slug(name: str) -> str:
    """A name as part of a file's name: "+ two towers" is two-towers; empty where no letter or digit is left."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def is_measured(run: Path, keep: bool) -> bool:
    """Whether nothing is left to do; a run to keep must also have its weights and ONNX towers."""
    return all((run / name).is_file() for name in (MEASURES, *((WEIGHTS, PRODUCT_TOWER) if keep else ())))


def do_missing(
    jobs: Sequence[Job], market: Market, *, at_once: int | None, keep: bool, ended: Callable[[], None]
) -> None:
    """Do every job whose run is not there yet, in order, `at_once` processes together, which share the cores.

    None is one a core, or one in all where there is a GPU. A job that fails does not stop the others; `ended` is called
    after each.

    Raises:
        MercatoError: a job failed, after all were tried; the message names row and seed, and says why.
    """
    distinct = {job.run: job for job in reversed(jobs)}  # the first that wants a run gives it its name
    missing = [job for job in jobs if distinct[job.run] is job and not is_measured(job.run, keep)]
    at_once = min(at_once or _together(), max(1, len(missing)))
    shared = len(jobs) - len(distinct)
    note(
        f"  {len(jobs)} runs ({shared} of them shared), {len(missing)} to do, {at_once} at once"
        if missing
        else f"  {len(jobs)} runs, all there"
    )
    failures, spent, begun = [], 0.0, time.perf_counter()
    finished = _work_off(missing, market, at_once, keep)
    for done, (job, seconds, failure) in enumerate(track(finished, "runs", len(missing)) if missing else (), 1):
        spent += seconds
        left = max(0.0, spent / done * len(missing) / at_once - (time.perf_counter() - begun))
        after = f"; {done} of {len(missing)}, about {left / 60:.0f} min left" if done < len(missing) else ""
        if failure is None:
            note(f"  {escape(job.label)}: {seconds:.0f} s{after}")
        else:
            failures.append(f"{job.label}: {failure}")
            note(f"  [red]{escape(job.label)} failed[/]{after}")
        ended()
    if failures:
        kept = len(missing) - len(failures)
        raise MercatoError(
            "\n".join(failures) + f"\n{len(failures)} of {len(missing)} runs failed; {kept} are kept: the same command"
            " picks up there"
        )


def _together() -> int:
    """As many as the machine does best together."""
    import torch  # it takes seconds

    return 1 if torch.cuda.is_available() else os.cpu_count() or 1


def _work_off(jobs: Sequence[Job], market: Market, at_once: int, keep: bool) -> Iterator[tuple[Job, float, str | None]]:
    """Run the jobs in order and yield each as it ends, with its seconds and what went wrong."""
    waiting = list(jobs)
    running: dict[int, tuple[Job, subprocess.Popen[bytes], float]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                job = waiting.pop(0)
                process = _start(job, market, max(1, (os.cpu_count() or 1) // at_once), keep)
                running[process.pid] = job, process, time.perf_counter()
            for pid, (job, process, start) in list(running.items()):
                if process.poll() is not None:
                    del running[pid]
                    yield job, time.perf_counter() - start, _failure(job, process.returncode)
            time.sleep(PAUSE)
    finally:
        for _, process, _ in running.values():  # interrupted: each run picks up at its last finished epoch
            process.terminate()
            process.wait()


def _start(job: Job, market: Market, threads: int, keep: bool) -> subprocess.Popen[bytes]:
    job.run.parent.mkdir(parents=True, exist_ok=True)
    command = [*TRIAL, str(market.path), str(job.run), *(["--keep"] if keep else [])]
    environment = os.environ | dict.fromkeys(THREADS, str(threads))
    with _log(job).open("wb") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT, env=environment
        )
    assert process.stdin is not None
    with suppress(BrokenPipeError), process.stdin as pipe:  # a trial that died at once is reported as any other
        pipe.write(job.recipe.toml().encode())
    return process


def _failure(job: Job, code: int) -> str | None:
    log = _log(job)
    if code == 0 and is_measured(job.run, keep=False):
        log.unlink(missing_ok=True)
        return None
    said = log.read_text(errors="replace").strip()
    _, marked, why = f"\n{said}".rpartition("\nerror: ")
    if not marked:
        why = "\n".join(said.splitlines()[-3:])
    killed = f"killed by signal {-code}{' (out of memory?)' if code == -9 else ''}; " if code < 0 else ""
    return f"{killed}{why or 'said nothing'} (all of it: {log})"


def _log(job: Job) -> Path:
    return job.run.parent / f".{job.run.name}.log"
