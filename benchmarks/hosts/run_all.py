"""Every host whose checkout is there, each in processes of its own: `make host-checks HOSTS=DIR`, `make host-speed`.

checks: before, during and after `accelerate`, then the host's plain process against the same one under `trt-svc run`.
--speed: the vocoders at full size, the host's own forward and the engine in turns.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.hosts import table
from benchmarks.hosts.check import commit_of, decibels
from benchmarks.hosts.report import CHECKS, MIN_SNR_DB, SPEED, HostResult, HostsReport, Left, SceneCheck, write
from trt_svc.bench.provenance import provenance
from trt_svc.files import DIRECTORY_VARIABLE

ROOT = Path(__file__).parents[2]
FOLDER = Path(__file__).parent
REPOSITORY = re.compile(r'^REPOSITORY = "([^"]+)"', re.MULTILINE)
TIME_LIMIT_S = 3600
TAIL_LINES = 15
"""Of what a failed process said."""


def main() -> int:
    given = _given()
    made = provenance(f"make {'host-speed' if given.speed else 'host-checks'} HOSTS=DIR")
    console = Console(width=None if sys.stdout.isatty() else 160)
    results = []
    for driver, repository in drivers(given.only):
        if (given.hosts / repository).is_dir():
            result = _speed(driver, repository, given) if given.speed else _checks(driver, repository, given)
        else:
            reason = f"no folder {repository}"
            result = HostResult(driver=driver, repository=repository, status="not there", reason=reason)
        results.append(result)
        console.print(f"{result.repository}: {result.status} {result.reason} ({result.seconds:.0f} s)", markup=False)
    report = HostsReport(provenance=made, hosts=tuple(results))
    rows = table.speed_rows(report) if given.speed else table.check_rows(report)
    console.print(_rich(table.SPEED_HEADS if given.speed else table.CHECK_HEADS, rows))
    statuses = {result.status for result in results}
    if statuses == {"not there"}:
        print("no host is there: nothing was checked, and nothing is written")
        return 1
    given.output.mkdir(parents=True, exist_ok=True)
    write(given.output / (SPEED if given.speed else CHECKS), report)
    if not given.speed:
        (given.output / "checks.md").write_text(table.checks_page(report), "utf-8")
    return 1 if "failed" in statuses else 0


def _given() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="every host that is there, before and after accelerate")
    parser.add_argument("--hosts", type=Path, required=True, help="folder with the hosts' checkouts")
    parser.add_argument("--speed", action="store_true", help="race them at full size instead")
    parser.add_argument("--backend", default="auto", help="of the engines that are raced")
    parser.add_argument("--only", nargs="*", default=(), help="names of drivers")
    parser.add_argument("-o", "--output", type=Path, help="folder of the report; by default the committed one")
    given = parser.parse_args()
    if given.only and not given.output:
        parser.error("--only needs --output: the committed report is of all hosts")
    given.output = given.output or table.FOLDER
    if not given.hosts.is_dir():
        parser.error(f"no folder {given.hosts}: HOSTS=DIR names the one that holds the hosts' checkouts")
    given.hosts = given.hosts.resolve()
    return given


def drivers(only: Sequence[str] = ()) -> Iterator[tuple[str, str]]:
    """(driver, folder of its host), read without importing: their packages may be missing here."""
    found = {path.stem: REPOSITORY.search(path.read_text("utf-8")) for path in sorted(FOLDER.glob("*.py"))}
    odd = set(only) - {name for name, repository in found.items() if repository}
    if odd:
        raise SystemExit(f"no driver {min(odd)}")
    for name, repository in found.items():
        if repository and (not only or name in only):
            yield name, repository[1]


def _checks(driver: str, repository: str, given: argparse.Namespace) -> HostResult:
    with tempfile.TemporaryDirectory() as scratch:
        result = _in_process(driver, repository, given.hosts, Path(scratch), [])
        if result.status != "not there":
            result = _through_run(result, given.hosts / repository, Path(scratch))
    return result


def _speed(driver: str, repository: str, given: argparse.Namespace) -> HostResult:
    with tempfile.TemporaryDirectory() as scratch:
        return _in_process(driver, repository, given.hosts, Path(scratch), ["--full-size", "--backend", given.backend])


def _in_process(driver: str, repository: str, hosts: Path, scratch: Path, options: Sequence[str]) -> HostResult:
    """The check of one host, whatever becomes of its process."""
    root, output = hosts / repository, scratch / "result.json"
    words = ["-m", "benchmarks.hosts.check", driver, "--root", str(root), "--json", str(output), *options]
    status, said = _run(words, scratch)
    if output.is_file():
        result = HostResult.model_validate_json(output.read_text("utf-8"))
    else:
        reason = f"its process ended with {status} and left no result"
        result = HostResult(
            driver=driver, repository=repository, commit=commit_of(root), status="failed", reason=reason
        )
    if result.status == "failed":
        print(_tail(said))
    return result


def _through_run(result: HostResult, root: Path, scratch: Path) -> HostResult:
    """The host's plain process against the same one under `trt-svc run`."""
    plain, faster, told = scratch / "plain.npz", scratch / "faster.npz", scratch / "run.json"
    play = ["-m", "benchmarks.hosts.play", result.driver, "--root", str(root), "-o"]
    run = ["-m", "trt_svc", "run", "--backend", "onnxruntime", "--precision", "fp32", "--report", str(told), "--"]
    for words, output in ((play, plain), ([*run, *play], faster)):
        status, said = _run([*words, str(output)], scratch)
        if status or not output.is_file():
            print(_tail(said))
            what = "trt-svc run" if output is faster else "the plain host"
            return _failed(result, f"{what} ended with {status}")
    compared = compare(result.scenes, plain, faster)
    places = json.loads(told.read_text("utf-8"))["places"]
    left = [Left(scene="trt-svc run", place=one["label"], reason=one["reason"]) for one in places if one["reason"]]
    changed = result.model_copy(update={"scenes": tuple(compared), "left": tuple(left)})
    problems = [f"{scene.scene}: {scene.problems[-1]}" for scene in compared if scene.problems]
    return _failed(changed, problems[0]) if problems else changed


def compare(scenes: Sequence[SceneCheck], plain: Path, faster: Path) -> list[SceneCheck]:
    """The scenes with the SNR of one process against the other. The same bits: no engine ran, and that is no pass."""
    with np.load(plain) as one, np.load(faster) as other:
        ours = {name: other[name] for name in other}
        theirs = {name: one[name] for name in one}
    found = []
    for scene in scenes:
        names = [name for name in theirs if name.startswith(f"{scene.scene}: ")]
        snr_db = decibels(_only(ours, names), _only(theirs, names)) if names else float("-inf")
        problem = "" if snr_db >= MIN_SNR_DB else f"under trt-svc run: {snr_db:.1f} dB"
        problem = "under trt-svc run: the same bits, so no engine ran" if snr_db == float("inf") else problem
        problems = (*scene.problems, *([problem] if problem else []))
        found.append(scene.model_copy(update={"run_db": snr_db, "problems": problems}))
    return found


def _only(heard: Mapping[str, np.ndarray], names: Sequence[str]) -> dict[str, np.ndarray]:
    return {name: heard[name] for name in names if name in heard}


def _failed(result: HostResult, reason: str) -> HostResult:
    reasons = "; ".join(part for part in (result.reason, reason) if part)
    return result.model_copy(update={"status": "failed", "reason": reasons})


def _run(words: Sequence[str], scratch: Path) -> tuple[int | str, str]:
    """A python process in this repository's folder, with engines of its own and no traces in the host's folder."""
    surroundings = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONWARNINGS": "ignore",
        DIRECTORY_VARIABLE: str(scratch / "engines"),
    }
    try:
        done = subprocess.run(
            [sys.executable, *words], cwd=ROOT, env=surroundings, timeout=TIME_LIMIT_S, check=False,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
        )  # fmt: skip
    except subprocess.TimeoutExpired as late:
        return f"no end within {TIME_LIMIT_S} s", str(late.output or "")
    return done.returncode, done.stdout


def _tail(said: str) -> str:
    return "\n".join(f"    {line}" for line in said.splitlines()[-TAIL_LINES:])


def _rich(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    shown = Table(*heads)
    for row in rows:
        shown.add_row(*row)
    return shown


if __name__ == "__main__":
    raise SystemExit(main())
