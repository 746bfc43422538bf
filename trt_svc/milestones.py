"""How long after its start a process got where: imported, engine found, engine open, first samples."""

from __future__ import annotations

import os
import time
from pathlib import Path

_SINCE_HERE = time.perf_counter()
_STAT = Path("/proc/self/stat")
_STARTTIME = 19
"""Field of the process's start, counted from behind its name."""
_reached: dict[str, float] = {}


def since_start_s() -> float:
    """Seconds since the process began; where the system does not tell, since this module was imported."""
    try:
        fields = _STAT.read_text().rpartition(")")[2].split()
        began_s = int(fields[_STARTTIME]) / os.sysconf("SC_CLK_TCK")
        return time.clock_gettime(time.CLOCK_BOOTTIME) - began_s
    except (OSError, ValueError, IndexError, AttributeError):
        return time.perf_counter() - _SINCE_HERE


def reached(milestone: str) -> None:
    """Notes the first time that the process got there."""
    if milestone not in _reached:
        _reached[milestone] = since_start_s()


def milestones() -> dict[str, float]:
    """Seconds from the start of the process to each, in order."""
    return dict(_reached)
