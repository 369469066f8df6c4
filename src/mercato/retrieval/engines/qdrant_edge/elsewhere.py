"""Work on an index in a process of its own, which ends when it is told to, and at the latest with its parent."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from contextlib import suppress
from threading import Event, Lock

from mercato.errors import MercatoError

_DEATH_SIGNAL = 1  # Linux's PR_SET_PDEATHSIG


class Elsewhere:
    """Runs modules on one index in processes of their own, one at a time, until it is stopped."""

    def __init__(self, failing: str) -> None:
        """`failing` begins what is said of a module that failed."""
        self._failing = failing
        self._guard = Lock()
        self._process: subprocess.Popen[str] | None = None
        self._stopped = Event()

    def run(self, module: str, *arguments: str) -> None:
        """Return once a module has ended; its last argument is this process's id, for `end_with`.

        Raises a MercatoError where it failed, with the last line that it said, or was stopped.
        """
        command = [sys.executable, "-m", module, *arguments, str(os.getpid())]
        with self._guard:
            if self._stopped.is_set():
                raise MercatoError("the index is closed")
            self._process = process = subprocess.Popen(
                command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
            )
        with process:
            try:
                _, said = process.communicate()
            except BaseException:
                process.kill()
                raise
        if process.returncode:
            if self._stopped.is_set():
                raise MercatoError("the index is closed")
            last = (said.strip().splitlines() or [f"exit code {process.returncode}"])[-1]
            raise MercatoError(f"{self._failing}: {last}")

    def stop(self) -> None:
        """End what runs, at once, and let nothing begin any more."""
        with self._guard:
            self._stopped.set()
            if self._process is not None:
                self._process.kill()  # not asked: the engine holds the GIL, so that it could not answer for minutes


def end_with(parent: int) -> None:
    """Let the system (Linux) kill this process as soon as the thread that started it is gone, killed or not."""
    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).prctl(_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != parent:  # it was gone before that
        sys.exit("the process that asked for this has ended")
