"""Where a report comes from: code, command, machine, versions."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import torch

import trt_svc
from trt_svc.bench.report import Provenance
from trt_svc.hardware import all_gpus
from trt_svc.request import PACKAGES as BUILD_PACKAGES
from trt_svc.request import versions

PACKAGES = (*BUILD_PACKAGES, "triton", "auraloss", "pesq", "visqol-python", "swift-f0", "soxr")


def provenance(command: str) -> Provenance:
    """Of a run that begins now."""
    commit, dirty = _commit()
    gpus, _ = all_gpus()
    return Provenance(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command=command,
        trt_svc=trt_svc.__version__,
        commit=commit,
        dirty=dirty,
        python=platform.python_version(),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        cpu=_cpu(),
        cores=os.cpu_count() or 1,
        affinity=_affinity(),
        threads=torch.get_num_threads(),
        memory_bytes=_memory_bytes(),
        load=_load(),
        gpus=tuple(str(gpu) for gpu in gpus),
        packages=versions(PACKAGES),
    )


def _commit() -> tuple[str | None, bool | None]:
    """Of the checkout this package runs from; nothing where it is installed."""
    root = Path(__file__).parents[2]
    git = shutil.which("git")
    if git is None or not (root / ".git").exists():
        return None, None
    try:
        commit = _asked(git, "rev-parse", "HEAD", root)
        # Reports are what a run writes: they do not change what was measured.
        changes = _asked(git, "status", "--porcelain", root, "--", ".", ":!benchmarks/reports")
    except (OSError, subprocess.SubprocessError):
        return None, None
    return commit, bool(changes)


def _asked(git: str, verb: str, option: str, root: Path, *paths: str) -> str:
    done = subprocess.run([git, verb, option, *paths], cwd=root, capture_output=True, text=True, timeout=20, check=True)
    return done.stdout.strip()


def _cpu() -> str:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()


def _affinity() -> tuple[int, ...]:
    try:
        return tuple(sorted(os.sched_getaffinity(0)))
    except AttributeError:  # not on this system
        return tuple(range(os.cpu_count() or 1))


def _load() -> tuple[float, ...]:
    try:
        return tuple(round(value, 2) for value in os.getloadavg())
    except (AttributeError, OSError):  # not on this system
        return ()


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not on this system
        return None
