"""Cores kept busy on purpose while a race runs: processes that do nothing but turn."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from trt_svc.errors import InputError

# It ends when its input does, so it never outlives whoever started it.
_TURN = """
import os, threading
def last():
    os.read(0, 1)
    os._exit(0)
threading.Thread(target=last, daemon=True).start()
os.write(1, b".")
while True:
    pass
"""
ENDS_WITHIN_S = 5.0


@contextmanager
def busy_cores(count: int) -> Iterator[list[int]]:
    """So many processes turn, wherever the system puts them, until this is left; gives their ids.

    One that ended early is an error.
    """
    turning = [_started() for _ in range(count)]
    try:
        for process in turning:
            assert process.stdout is not None
            process.stdout.read(1)
        yield [process.pid for process in turning]
        if any(process.poll() is not None for process in turning):
            raise InputError(
                f"a race beside {count} busy cores",
                "a process that keeps one busy ended before the race did.",
                "Was it stopped by hand? Race again.",
            )
    finally:
        for process in turning:
            _end(process)


def check_busy_cores(count: int) -> None:
    """No more than the process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if count > cores:
        raise InputError(f"{count} busy cores", f"this process may use {cores}.", f"Use 0 to {cores}.")


def _started() -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-S", "-E", "-c", _TURN], stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def _end(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
    try:
        process.wait(ENDS_WITHIN_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
