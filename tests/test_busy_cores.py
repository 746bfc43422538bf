"""Cores kept busy on purpose: they are, they end, and what was raced beside them is no speed."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import bench_reports
from trt_svc.bench import busy
from trt_svc.bench.compare import compare
from trt_svc.bench.facts import facts_of
from trt_svc.bench.history import machine_of
from trt_svc.bench.recipe import BUSY_SPREAD, NetworkCase, Recipe
from trt_svc.bench.report import read_report
from trt_svc.bench.run import run_recipe
from trt_svc.errors import InputError

USER_TICKS, STATE = 11, 0
"""Fields of /proc/PID/stat behind the name."""


def stat_of(pid: int, field: int) -> str | None:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[field]
    except OSError:
        return None


def comes_true(found: Callable[[], bool]) -> bool:
    """Within half a minute, however busy the machine is."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if found():
            return True
        time.sleep(0.02)
    return False


def test_cores_are_busy_while_it_lasts_and_free_again_behind_it() -> None:
    with busy.busy_cores(2) as pids:
        assert len(pids) == 2
        assert comes_true(lambda: all(int(stat_of(pid, USER_TICKS) or 0) > 20 for pid in pids))
    assert not any(map(runs, pids))


def test_nothing_is_started_for_none() -> None:
    with busy.busy_cores(0) as pids:
        assert pids == []


def test_they_end_with_whoever_started_them() -> None:
    code = (
        "import os\nfrom trt_svc.bench import busy\n"
        "process = busy._started()\nprocess.stdout.read(1)\nprint(process.pid, flush=True)\nos._exit(1)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    pid = int(done.stdout)
    assert comes_true(lambda: not runs(pid))


def runs(pid: int) -> bool:
    """Does it still turn? One that ended may wait for its parent to ask."""
    return stat_of(pid, STATE) not in (None, "Z", "X")


def test_one_that_ended_early_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(busy, "_TURN", "import os\nos.write(1, b'.')")
    with pytest.raises(InputError, match="ended before"), busy.busy_cores(1) as (pid,):
        assert comes_true(lambda: not runs(pid))


def test_no_more_than_there_are() -> None:
    busy.check_busy_cores(1)
    with pytest.raises(InputError, match="may use"):
        busy.check_busy_cores(100_000)


def test_reports_say_so_and_are_compared_with_their_like() -> None:
    quiet = bench_reports.small_report()
    loaded = bench_reports.small_report(provenance=bench_reports.provenance(busy_cores=1))
    assert "Busy cores" not in dict(facts_of(quiet))
    assert "no speeds" in dict(facts_of(loaded))["Busy cores"]
    assert machine_of(quiet.provenance) != machine_of(loaded.provenance)
    assert "1 kept busy" in str(machine_of(loaded.provenance))
    assert compare(loaded, loaded).rows
    for pair in ((quiet, loaded), (loaded, quiet)):
        with pytest.raises(InputError, match="busy cores"):
            compare(*pair)


def test_times_may_be_less_steady_beside_them() -> None:
    cases = (NetworkCase(network="demo"),)
    quiet, loaded = Recipe(networks=cases), Recipe(networks=cases, busy_cores=1)
    assert quiet.rules.max_spread == quiet.max_spread < loaded.rules.max_spread == BUSY_SPREAD
    assert loaded.pace(cases[0]).max_spread == BUSY_SPREAD
    assert Recipe(networks=cases, busy_cores=1, max_spread=0.5).rules.max_spread == 0.5


def test_a_race_beside_a_busy_core(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRT_SVC_ENGINE_DIR", str(tmp_path / "engines"))
    case = NetworkCase(network="demo", frames=(8,))
    lenient: dict[str, Any] = {
        "max_spread": 1e6,
        "peak_slack": 1e6,
        "min_rounds": 2,
        "max_rounds": 2,
        "listen_s": 0.2,
        "judge": False,
    }
    run_recipe(Recipe(networks=(case,), contenders=("torch",), device="cpu", busy_cores=1, **lenient), tmp_path)
    report = read_report(tmp_path)
    assert report.provenance.busy_cores == 1
    assert [row.status for cell in report.cells for row in cell.rows] == ["measured"]
