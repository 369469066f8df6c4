"""What a figure was measured on."""

from __future__ import annotations

import os
import platform
from pathlib import Path


def cpu() -> str:
    """The processor's name."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def machine() -> str:
    """The processor, its cores and the load of others just before: the first thing to ask about a bad p99."""
    return f"{cpu()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
