"""Every check that needs a GPU, in one run: `make gpu-validation`. Writes one JSON and one Markdown report.

Where there is no GPU the run goes to its end and every check says so. The exit code is 1 where a check failed.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from tests.gpu import machine
from tests.gpu.checks import all_checks
from tests.gpu.report import as_report, summary, write
from tests.gpu.suite import BUDGET_S, LIMIT_S, NO_GPU, Outcome, Settings, run_all
from trt_svc.files import DIRECTORY_VARIABLE

WITH_GPU, WITHOUT_GPU = machine.ROOT / "benchmarks" / "reports", machine.ROOT / "build" / "reports"


def main(words: Sequence[str] | None = None) -> int:
    """The command; gives its exit code."""
    options = _options(words)
    device = "cpu" if options.dry_run else "cuda"
    settings = Settings(device, options.limit_s, options.budget_s)
    names = [name for name in all_checks().checks if fnmatchcase(name, options.only)]
    runs = options.dry_run or machine.has_gpu()
    book = Book(facts(settings), options.out, options.dry_run)
    outcomes = _run(names, settings, book) if runs else [_without_gpu(name) for name in names]
    book.write(outcomes)
    print(", ".join(f"{count} {word}" for word, count in summary(outcomes).items()))
    print(*book.paths, sep="\n")
    return int(any(outcome.failed for outcome in outcomes))


def facts(settings: Settings) -> dict[str, Any]:
    """What is known before the first check."""
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "settings": {**asdict(settings), "tf32": False},
        "hardware": machine.hardware(),
        "versions": machine.software(),
        "backends": machine.backends_here(),
        "project": machine.project(),
    }


class Book:
    """The reports of a run; written after every check, so that a run which is stopped leaves what it found."""

    def __init__(self, known: dict[str, Any], folder: Path | None, dry_run: bool) -> None:
        self._known = known
        self._began = time.monotonic()
        self._outcomes: list[Outcome] = []
        gpus = known["hardware"]["gpus"]
        self._folder = folder or (WITH_GPU if gpus and not dry_run else WITHOUT_GPU)
        self._name = f"gpu-validation-{'dry-run' if dry_run else machine.slug(gpus)}"
        self.paths: list[Path] = []

    def add(self, outcome: Outcome) -> None:
        print(f"{outcome.check}: {outcome.result} ({outcome.seconds} s)", flush=True)
        self._outcomes.append(outcome)
        self.write(self._outcomes)

    def write(self, outcomes: Sequence[Outcome]) -> None:
        known = {**self._known, "seconds": round(time.monotonic() - self._began, 1)}
        self.paths = write(as_report(known, outcomes), self._folder, self._name)


def _options(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    where = "where the reports go (default: benchmarks/reports, without a GPU build/reports)"
    parser.add_argument("--out", type=Path, help=where)
    parser.add_argument("--budget-s", type=float, default=BUDGET_S, help="seconds for all checks together")
    parser.add_argument("--limit-s", type=float, default=LIMIT_S, help="seconds for one check")
    parser.add_argument("--only", default="*", help="checks whose names match this shell pattern")
    parser.add_argument("--dry-run", action="store_true", help="on the CPU, as far as the checks can be run there")
    return parser.parse_args(words)


def _run(names: Sequence[str], settings: Settings, book: Book) -> list[Outcome]:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as engines:
        os.environ[DIRECTORY_VARIABLE] = engines  # for the workers: engines are built anew, once per run
        return run_all(all_checks, names, settings, book.add)


def _without_gpu(name: str) -> Outcome:
    print(f"{name}: {NO_GPU}")
    return Outcome(name, all_checks().checks[name].about, NO_GPU)


if __name__ == "__main__":
    code = main()
    if multiprocessing.active_children():  # one that even a kill does not end would be waited for
        sys.stdout.flush()
        os._exit(code)
    raise SystemExit(code)
