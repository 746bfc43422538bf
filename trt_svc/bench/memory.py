"""How much memory opening a contender takes: of the process, and of the GPU where torch sees it."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import re
import sys
from dataclasses import dataclass
from pathlib import Path

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass
class Watch:
    """Peaks since it was made."""

    device: str
    _resident: int | None = None
    _resets: bool = False

    def __post_init__(self) -> None:
        gc.collect()
        _give_back()
        self._resident = _status("VmRSS")
        self._resets = _reset_peak()
        if self.device != "cpu":
            import torch

            torch.cuda.synchronize(self.device)
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)
            self._allocated = torch.cuda.memory_allocated(self.device)
            self._free = torch.cuda.mem_get_info(self.device)[0]

    def rss_added(self) -> int | None:
        """Bytes that the process held at most, less what it held before; None where the system cannot tell."""
        peak = _status("VmHWM")
        if peak is None or self._resident is None or not self._resets:
            return None
        return max(0, peak - self._resident)

    def device_bytes(self) -> int | None:
        """Bytes of GPU memory more than before: that torch used at most, or that is taken now, whichever is more."""
        if self.device == "cpu":
            return None
        import torch

        torch.cuda.synchronize(self.device)
        taken = self._free - torch.cuda.mem_get_info(self.device)[0]
        return max(0, taken, torch.cuda.max_memory_allocated(self.device) - self._allocated)


def _give_back() -> None:
    """glibc keeps freed memory for itself: what is opened next would take it without the process growing."""
    if sys.platform != "linux":
        return
    with contextlib.suppress(OSError, AttributeError):  # other C libraries have no such call
        ctypes.CDLL(None).malloc_trim(0)


def _reset_peak() -> bool:
    """Linux forgets the peak of a process when told so."""
    try:
        _CLEAR.write_text("5")
    except OSError:
        return False
    return True


def _status(name: str) -> int | None:
    try:
        found = re.search(rf"^{name}:\s+(\d+) kB", _STATUS.read_text(), re.MULTILINE)
    except OSError:
        return None
    return None if found is None else int(found[1]) * 1024
