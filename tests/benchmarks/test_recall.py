"""The benchmark of the recall stage measures a step of what is trained."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.scripts import script


@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="memory is told as Linux tells it")
@pytest.mark.parametrize("chunk", [None, 32])
def test_a_step_is_measured(chunk):
    with script("recall") as recall:
        found = recall.measure(100, chunk, known=0.5)
    assert found["seconds"] > 0 and found["cpu_seconds"] > 0 and found["held_mb"] > 0
    assert found["negatives"] == 100 and found["known"] == 50 and found["chunk"] == (chunk or 0)
