"""A command that serves, as a process of its own, and what a shopper's program sends it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.support.served import wait_until


@contextmanager
def serving(command: Sequence[str | Path], **environment: str) -> Iterator[str]:
    """Yield the address that the command serves at, once it is ready; then stop it, which must succeed."""
    environment = os.environ | {"COLUMNS": "200"} | environment
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as server:
        try:
            assert server.stderr is not None
            said = ""
            while not (found := re.search(r"http://[\d.]+:\d+", said)):
                line = server.stderr.readline()
                assert line, said
                said += line
            wait_until(lambda: ready(found[0]), seconds=120)
            yield found[0]
        finally:
            server.terminate()
    assert server.returncode == 0


def ready(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/readyz"):
            return True
    except OSError:
        return False


def post(address: str, path: str, body: object, **headers: str) -> dict:
    request = urllib.request.Request(
        f"{address}{path}", json.dumps(body).encode(), {"content-type": "application/json", **headers}
    )
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)
