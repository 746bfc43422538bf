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
    started, began = datetime.now(UTC).isoformat(timespec="seconds"), time.monotonic()
    hardware = machine.hardware()
    outcomes = _outcomes(names, settings, runs=options.dry_run or machine.has_gpu())
    facts: dict[str, Any] = {
        "started": started,
        "seconds": round(time.monotonic() - began, 1),
        "settings": {"device": device, "limit_s": settings.limit_s, "budget_s": settings.budget_s, "tf32": False},
        "hardware": hardware,
        "versions": machine.software(),
        "backends": machine.backends_here(),
        "project": machine.project(),
    }
    report = as_report(facts, outcomes)
    folder = options.out or (WITH_GPU if machine.has_gpu() and not options.dry_run else WITHOUT_GPU)
    kind = "dry-run" if options.dry_run else machine.slug(hardware["gpus"])
    paths = write(report, folder, f"gpu-validation-{kind}")
    print(", ".join(f"{count} {word}" for word, count in summary(outcomes).items()))
    print(*paths, sep="\n")
    return int(any(outcome.failed for outcome in outcomes))


def _options(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    where = "where the reports go (default: benchmarks/reports, without a GPU build/reports)"
    parser.add_argument("--out", type=Path, help=where)
    parser.add_argument("--budget-s", type=float, default=BUDGET_S, help="seconds for all checks together")
    parser.add_argument("--limit-s", type=float, default=LIMIT_S, help="seconds for one check")
    parser.add_argument("--only", default="*", help="checks whose names match this shell pattern")
    parser.add_argument("--dry-run", action="store_true", help="on the CPU, as far as the checks can be run there")
    return parser.parse_args(words)


def _outcomes(names: Sequence[str], settings: Settings, runs: bool) -> list[Outcome]:
    if not runs:
        checks = all_checks().checks
        return [_said(Outcome(name, checks[name].about, NO_GPU)) for name in names]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as engines:
        os.environ[DIRECTORY_VARIABLE] = engines  # for the workers: engines are built anew, once per run
        return run_all(all_checks, names, settings, _said)


def _said(outcome: Outcome) -> Outcome:
    print(f"{outcome.check}: {outcome.result} ({outcome.seconds} s)", flush=True)
    return outcome


if __name__ == "__main__":
    code = main()
    if multiprocessing.active_children():  # one that even a kill does not end would be waited for
        sys.stdout.flush()
        os._exit(code)
    raise SystemExit(code)
