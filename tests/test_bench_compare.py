"""What changed between reports: matching, verdicts, notes, history, and both commands as people use them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner, Result

from tests.bench_reports import cell, network, peaks, provenance, ratio, refused, small_report, waveform
from trt_svc.bench.changes import Comparison, RowChange
from trt_svc.bench.compare import TOLERANCES, compare
from trt_svc.bench.history import ABSENT, BARS, REFUSED, history
from trt_svc.bench.quality.base import metrics
from trt_svc.bench.report import LeftOut, Network, Report, Row, Rules, write_report
from trt_svc.bench.statistics import latency_of, ratio_of
from trt_svc.cli import bench_compare, bench_history, console
from trt_svc.errors import InputError

NAME, UPSTREAM, OURS = "made_up_nsf", "torch fp32", "openvino fp32"
SPEEDS = {UPSTREAM: 0.060, "torch-compile fp32": 0.050, "onnxruntime fp32": 0.045, OURS: 0.040, "openvino bf16": 0.030}
ALIKE = {"torch-compile fp32": 1.03, "onnxruntime fp32": 0.97, OURS: 1.03}
"""What one day is to another."""
HOSTILE = "歌声[bold]网[/bold] | `x`"

app = typer.Typer()
app.command("compare")(bench_compare.command)
app.command("history")(bench_history.command)


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables fold names where there is no room."""
    monkeypatch.setattr(console.out, "_width", 220)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def only_nsf(**changes: Any) -> Network:
    return network(NAME, trained=True).model_copy(update=changes)


def report(*rows: Row, **changes: Any) -> Report:
    """One network in one shape."""
    cells = (cell(NAME, 64, 1, rows=rows),)
    return small_report(**{"networks": (only_nsf(),), "cells": cells, "left_out": (), **changes})


def row(label: str, snr_db: float = 60.0, **changes: Any) -> Row:
    contender, _, precision = label.partition(" ")
    fields = {"contender": contender, "precision": precision, "status": "measured", "waveform": waveform(snr_db)}
    return Row(**{**fields, **changes})


def raced(seed: int, slower: Mapping[str, float] | None = None, **changes: Any) -> Report:
    """Rounds as machines take them: 15 to 40, 1 to 5 % jitter, stragglers, and busy moments that all rows share."""
    rng = np.random.default_rng(seed)
    rounds, jitter = int(rng.integers(15, 41)), rng.uniform(0.01, 0.05)
    shared = np.exp(0.01 * rng.normal(size=rounds))
    series = {label: median * (slower or {}).get(label, 1.0) * shared for label, median in SPEEDS.items()}
    for label, seconds in series.items():
        stragglers = np.where(rng.random(rounds) < 0.05, rng.uniform(1.3, 3.0), 1.0)
        series[label] = seconds * np.exp(jitter * rng.normal(size=rounds)) * stragglers
    return report(*(_raced_row(label, series) for label in series), **changes)


def _raced_row(label: str, series: Mapping[str, Any]) -> Row:
    over = None if label == UPSTREAM else ratio_of(series[UPSTREAM], series[label], UPSTREAM)
    return row(label, latency=latency_of(series[label]), over_upstream=over)


def steady(slower: Mapping[str, float] | None = None, **changes: Any) -> Report:
    """The same rounds every time, scaled."""
    series = {label: np.linspace(0.99, 1.01, 15) * s * (slower or {}).get(label, 1.0) for label, s in SPEEDS.items()}
    return report(*(_raced_row(label, series) for label in series), **changes)


def later(**changes: Any) -> Any:
    return provenance(created="2031-03-04T05:06:07Z", commit="fedcba98" * 5, **changes)


def change_of(found: Comparison, label: str) -> RowChange:
    return next(one for one in found.rows if one.key.label == label)


def slower_rows(found: Comparison) -> set[str]:
    return {one.key.label for one in found.rows if one.speed is not None and one.speed.verdict == "slower"}


def faster_rows(found: Comparison) -> set[str]:
    return {one.key.label for one in found.rows if one.speed is not None and one.speed.verdict == "faster"}


# Time.


@pytest.mark.parametrize("seed", range(20))
def test_a_fifth_slower_is_caught_and_noise_is_not(seed: int) -> None:
    before, again, after = raced(seed), raced(seed + 1000, ALIKE), raced(seed + 2000, {**ALIKE, OURS: 1.2})
    for by in ("latency", "speedup"):
        quiet, forth, back = (compare(*pair, by=by) for pair in ((before, again), (before, after), (after, before)))  # type: ignore[arg-type]
        assert not quiet.regressions
        assert not quiet.gains
        assert (slower_rows(forth), faster_rows(forth), forth.failed) == ({OURS}, set(), True)
        assert (slower_rows(back), faster_rows(back), back.failed) == (set(), {OURS}, False)


def test_figures_of_a_change() -> None:
    found = change_of(compare(steady(), steady({OURS: 1.5})), OURS).speed
    assert found is not None
    assert (found.before, found.after, found.ratio) == pytest.approx((0.04, 0.06, 1.5))
    assert 1.4 < found.low < 1.5 < found.high < 1.6
    by_speedup = change_of(compare(steady(), steady({OURS: 1.5}), by="speedup"), OURS).speed
    assert by_speedup is not None
    assert (by_speedup.before, by_speedup.after, by_speedup.ratio) == pytest.approx((1.5, 1.0, 1.5))


def test_the_threshold_decides() -> None:
    before, after = steady(), steady({OURS: 1.08})
    assert slower_rows(compare(before, after)) == set()
    assert slower_rows(compare(before, after, threshold=0.05)) == {OURS}
    for bad in (-0.1, math.nan):
        with pytest.raises(InputError):
            compare(before, after, threshold=bad)


def test_a_change_that_may_be_chance_is_said_to_be() -> None:
    wild = [0.03, 0.09, 0.04, 0.08, 0.05, 0.045, 0.1]
    before = report(row(OURS, latency=latency_of(wild)))
    found = compare(before, report(row(OURS, latency=latency_of([1.2 * s for s in wild]))))
    assert change_of(found, OURS).speed.unsure  # type: ignore[union-attr]
    assert not found.failed
    assert any("scatter too much" in note for note in found.notes)


def test_uncertainty_of_both_speedups_counts() -> None:
    before = report(row(OURS, over_upstream=ratio(2.0, UPSTREAM)))
    wide = ratio(1.7, UPSTREAM).model_copy(update={"low": 1.2, "high": 2.3})
    assert not compare(before, report(row(OURS, over_upstream=wide)), by="speedup").failed
    assert compare(before, report(row(OURS, over_upstream=ratio(1.7, UPSTREAM))), by="speedup").failed


def test_a_speedup_that_is_none_is_refused() -> None:
    broken = report(row(OURS, over_upstream=ratio(0.0, UPSTREAM)))
    with pytest.raises(InputError, match="no interval of a factor"):
        compare(broken, broken, by="speedup")


# The machine.


def test_a_slower_machine_is_told_from_slower_code() -> None:
    before, after = steady(), steady(dict.fromkeys(SPEEDS, 1.18))
    found = compare(before, after)
    assert found.failed
    assert len(found.regressions) == len(SPEEDS)
    assert "every row, upstream's too, is 18 % slower: the machine, not the code; use --by speedup" in found.notes
    assert not compare(before, after, by="speedup").regressions


def test_slower_code_on_a_slower_machine() -> None:
    found = compare(steady(), steady({**dict.fromkeys(SPEEDS, 1.18), OURS: 1.9}))
    assert any(note.startswith("upstream's own rows are 18 % slower") for note in found.notes)
    relative = compare(steady(), steady({**dict.fromkeys(SPEEDS, 1.18), OURS: 1.9}), by="speedup")
    assert slower_rows(relative) == {OURS}


def test_slower_code_alone_is_not_blamed_on_the_machine() -> None:
    others = {label: 1.2 for label in SPEEDS if label != UPSTREAM}
    assert not any("machine" in note for note in compare(steady(), steady(others)).notes)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"provenance": later(cpu="Other Processor")}, "another machine: Imaginary Processor"),
        ({"provenance": later(threads=1)}, "2 cores, 1 used"),
        ({"provenance": later(gpus=("Made-up GPU",))}, "Made-up GPU"),
        ({"provenance": later(affinity=(0,))}, "may use 1 cores, before 2"),
        ({"provenance": later(python="3.13.1")}, "other versions: python 3.11.0 → 3.13.1"),
        ({"provenance": later(packages={"torch": "3.0"})}, "torch 2.99 → 3.0, onnxruntime 1.99 → none"),
        ({"provenance": later(load=(1.9, 1.0, 0.5))}, "busy when the second run began (load 1.9)"),
        ({"provenance": provenance(created="2030-01-01T00:00:00Z")}, "the first report is the newer one"),
        ({"recipe": "another"}, "another recipe: made-up → another"),
        ({"rules": Rules(gate_db={}, max_spread=0.5, peak_slack=0.1)}, "other rules"),
        ({"peaks": peaks(gflops={"fp32": 60.0})}, "reached 60 GFLOP/s, before 120"),
        ({"stopped": True}, "the second run was stopped"),
        ({"networks": (only_nsf(listened_to="a dog"),)}, "listened to with another input"),
        ({"networks": (only_nsf(listening=()),)}, "listening metrics in one report only"),
    ],
)
def test_notes_say_what_else_differs(changes: dict[str, Any], said: str) -> None:
    notes = compare(steady(), steady(**changes)).notes
    assert any(said in note for note in notes), notes


def test_nothing_to_note_between_runs_of_one_machine() -> None:
    assert compare(steady(networks=(judged(),)), steady(networks=(judged(),), provenance=later())).notes == ()


# Which rows are the same.


def test_rows_that_came_or_went_are_seen_but_do_not_fail() -> None:
    after = steady({UPSTREAM: 1.0})
    kept = [one for one in after.cells[0].rows if one.label not in (OURS, "openvino bf16")]
    after = report(*kept, row("tensorrt fp16", latency=kept[0].latency), left_out=(_gone(),))
    found = compare(steady(), after)
    states = {one.key.label: (one.state, one.reason) for one in found.rows if one.state != "compared"}
    assert states == {
        OURS: ("missing", "left out there: no such package"),
        "openvino bf16": ("missing", "left out there: no such package"),
        "tensorrt fp16": ("new", "that contender was not benchmarked there"),
    }
    assert not found.failed
    assert not found.gains
    assert [one.key.label for one in found.missing] == [OURS, "openvino bf16"]
    assert found.as_dict()["missing"] == 2


def _gone() -> LeftOut:
    return LeftOut(contender="openvino", reason="no such package")


@pytest.mark.parametrize(
    ("left", "fits"),
    [
        (LeftOut(contender="openvino", precision="fp32", reason="r"), True),
        (LeftOut(contender="openvino", network=NAME, reason="r"), True),
        (LeftOut(contender="openvino", precision="bf16", reason="r"), False),
        (LeftOut(contender="openvino", network="another", reason="r"), False),
        (LeftOut(contender="open", reason="r"), False),
    ],
)
def test_what_is_left_out_explains_its_own_rows_only(left: LeftOut, fits: bool) -> None:
    before, after = steady(), steady(left_out=(left,))
    rows = tuple(one for one in after.cells[0].rows if one.label != OURS)
    after = after.model_copy(update={"cells": (cell(NAME, 64, 1, rows=rows),)})
    assert change_of(compare(before, after), OURS).reason.startswith("left out there: r") is fits


def test_why_rows_are_missing() -> None:
    both = (*steady().cells, cell(NAME, 999, 1), cell("made_up_gan", 64, 1))
    for stopped in (False, True):
        found = compare(steady(cells=both), steady(stopped=stopped))
        reasons = {(one.key.network, one.key.frames): one.reason for one in found.rows if one.state == "missing"}
        expected = ("that network was not benchmarked there", "that shape was not benchmarked there")
        stop = "that run was stopped before"
        assert reasons == {
            ("made_up_gan", 64): stop if stopped else expected[0],
            (NAME, 999): stop if stopped else expected[1],
        }


def test_graphs_rewritten_in_another_way_are_other_rows() -> None:
    seconds = latency_of([0.1, 0.11, 0.1])
    plain = report(row("onnxruntime fp32", forms=(), latency=seconds), row(OURS, latency=seconds))
    folded = report(row("onnxruntime fp32", forms=("folded",), latency=seconds), row(OURS, latency=seconds))
    found = {one.key.label: one.state for one in compare(plain, folded).rows}
    assert found == {
        OURS: "compared",
        "onnxruntime fp32": "missing",
        "onnxruntime fp32 + folded": "new",
    }


def test_other_weights_are_another_network() -> None:
    def with_gan(**changes: Any) -> Report:
        cells = (*steady().cells, cell("made_up_gan", 64, 1))
        return steady(cells=cells, networks=(only_nsf(), network("made_up_gan", trained=True, **changes)))

    found = compare(with_gan(), with_gan(weights_sha256="cd" * 32))
    assert {one.key.network for one in found.rows} == {NAME}
    assert "made_up_gan has other weights now: its rows are not compared" in found.notes
    assert {heard.network for heard in found.listening} == {NAME}


def drawn(**changes: Any) -> Report:
    """A published config, its weights drawn at random."""
    return steady(networks=(network(NAME, **{"trained": False, **changes}),))


def test_random_weights_of_two_machines_are_the_same_network() -> None:
    """They differ in their last bits."""
    found = compare(drawn(), drawn(weights_sha256="cd" * 32))
    assert {one.key.label: one.state for one in found.rows} == dict.fromkeys(SPEEDS, "compared")
    (note,) = found.notes
    assert note == (
        f"{NAME}: weights drawn at random in both, not the same to the last bit; matched by name and parameters"
    )
    assert found.listening
    for other in ({"trained": True}, {"parameters": 5}):
        with pytest.raises(InputError, match="made_up_nsf: other weights"):
            compare(drawn(), drawn(weights_sha256="cd" * 32, **other))


def test_another_choice_of_auto_is_noted() -> None:
    seconds = latency_of([0.1, 0.11, 0.1])
    pair = [report(row("auto fp32", chosen=name, latency=seconds)) for name in ("onnxruntime", "openvino")]
    assert "auto chose otherwise: onnxruntime → openvino" in compare(*pair).notes
    assert not compare(pair[0], pair[0]).notes


def test_reports_without_a_row_in_common_are_refused() -> None:
    with pytest.raises(InputError, match="no row in common"):
        compare(steady(), steady(cells=()))
    with pytest.raises(InputError, match="made_up_nsf: other weights"):
        compare(steady(), steady(networks=(only_nsf(weights_sha256="cd" * 32),)))


# Refusals and quality.


def test_a_row_that_is_refused_now_is_a_regression() -> None:
    measured, turned_down = report(row(OURS, latency=latency_of([0.1, 0.1]))), report(refused(precision="fp32"))
    forth, back, still = (
        compare(*pair) for pair in ((measured, turned_down), (turned_down, measured), (turned_down, turned_down))
    )
    assert [one.state for one in forth.regressions if isinstance(one, RowChange)] == ["refused now"]
    assert "12 dB is below" in forth.rows[0].reason
    assert [one.state for one in back.gains if isinstance(one, RowChange)] == ["measured now"]
    assert (still.failed, still.gains, still.rows[0].state) == (False, (), "refused in both")
    assert still.rows[0].snr is not None
    assert still.rows[0].snr.verdict == "unknown", "the reason says it"


@pytest.mark.parametrize(
    ("before_db", "after_db", "verdict"),
    [
        (60, 58, "same"),
        (60, 56.5, "worse"),
        (60, 64, "better"),
        (math.inf, 120, "same"),
        (120, math.inf, "same"),
        (130, 101, "same"),
        (101, 97.5, "same"),
        (130, 96, "worse"),
        (math.inf, 50, "worse"),
        (50, math.inf, "better"),
    ],
)
def test_an_snr_counts_where_it_is_more_than_rounding(before_db: float, after_db: float, verdict: str) -> None:
    found = compare(report(row(OURS, before_db)), report(row(OURS, after_db)))
    snr = change_of(found, OURS).snr
    assert snr is not None
    assert snr.verdict == verdict
    assert found.failed is (verdict == "worse")
    assert bool(found.gains) is (verdict == "better")


def judged(**values: float | None) -> Network:
    plain = {"pesq_wb": 4.5, "visqol": 4.6, "mr_stft": 0.1, "pesq_wb_delta": 0.03}
    heard = only_nsf().listening[-1]
    return only_nsf(listening=(heard.model_copy(update={"metrics": {**plain, **values}, "contender": OURS}),))


@pytest.mark.parametrize(
    ("metric", "value", "verdict"),
    [
        ("pesq_wb", 4.495, "same"),
        ("pesq_wb", 4.48, "worse"),
        ("pesq_wb", 4.52, "better"),
        ("visqol", 4.585, "same"),
        ("visqol", 4.57, "worse"),
        ("mr_stft", 0.11, "same"),
        ("mr_stft", 0.13, "worse"),
        ("mr_stft", 0.05, "better"),
        ("pesq_wb_delta", -0.03, "same"),
        ("pesq_wb_delta", -0.05, "worse"),
        ("pesq_wb_delta", 0.0, "better"),
        ("pesq_wb", None, "unknown"),
        ("pesq_wb", math.nan, "unknown"),
    ],
)
def test_listening_metrics_have_tolerances(metric: str, value: float | None, verdict: str) -> None:
    found = compare(steady(networks=(judged(),)), steady(networks=(judged(**{metric: value}),)))
    assert {one.metric: one.verdict for heard in found.listening for one in heard.metrics}[metric] == verdict
    assert found.failed is (verdict == "worse")
    assert bool(found.gains) is (verdict == "better")
    assert any("without a value now: pesq_wb" in note for note in found.notes) is (value is None)


def test_a_metric_that_nobody_knows_is_shown_and_not_judged() -> None:
    found = compare(steady(networks=(judged(taste=9.0),)), steady(networks=(judged(taste=1.0),)))
    assert not found.failed
    assert any("no tolerance is known for taste" in note for note in found.notes)


def test_every_metric_of_the_suite_has_a_tolerance_that_points_the_same_way() -> None:
    suite = {name: one.better for name, one in metrics}
    assert {name: TOLERANCES[name].better for name in suite} == suite


def test_the_worst_comes_first() -> None:
    slower = {OURS: 1.3, "openvino bf16": 2.0, "onnxruntime fp32": 0.5}
    found = compare(steady(), steady(slower))
    assert [one.key.label for one in found.rows[:3]] == ["openvino bf16", OURS, "onnxruntime fp32"]
    assert [one.key.label for one in found.rows[3:]] == [UPSTREAM, "torch-compile fp32"], "as in the report"


# History.


def saved(folder: Path, name: str, found: Report) -> Path:
    write_report(found, folder / name / "report.json")
    return folder / name


def three_runs(folder: Path) -> Path:
    times = {"b": ("2031-05-01T00:00:00Z", 1.2), "a": ("2031-04-01T00:00:00+00:00", 1.0), "c": ("2031-06-01", 0.5)}
    for name, (created, factor) in times.items():
        where = provenance(created=created, commit=name * 40, dirty=name == "c")
        saved(folder / "deep" / "er", name, steady({OURS: factor}, provenance=where))
    return folder


def test_history_is_sorted_by_date_and_spans_folders(tmp_path: Path) -> None:
    found = history([three_runs(tmp_path)])
    (series,) = found.series
    assert series.runs == ("2031-04-01 aaaaaaa", "2031-05-01 bbbbbbb", "2031-06-01 ccccccc dirty")
    line = next(line for line in series.lines if line.label == OURS)
    assert [value for _, value in line.measured("latency")] == pytest.approx([40, 48, 20])
    assert line.change("latency") == pytest.approx(-0.5)
    assert line.best("latency") == ("2031-06-01 ccccccc dirty", pytest.approx(20))
    assert line.best("speedup") == ("2031-06-01 ccccccc dirty", pytest.approx(3))
    assert (line.change("snr"), line.best("snr")) == (0, ("2031-04-01 aaaaaaa", 60))
    bars = line.sparkline("latency")
    assert (bars[1], bars[2]) == (BARS[-1], BARS[0])
    assert bars[2] < bars[0] < bars[1]


def test_small_changes_are_small_bars(tmp_path: Path) -> None:
    for day in range(3):
        where = provenance(created=f"2031-01-0{day + 1}")
        saved(tmp_path, str(day), steady({OURS: 1 + 0.01 * day}, provenance=where))
    lines = {line.label: line for line in history([tmp_path]).series[0].lines}
    assert lines[UPSTREAM].sparkline("latency") == BARS[0] * 3
    assert lines[OURS].sparkline("latency")[-1] < BARS[3]


def test_refused_and_absent_rows_leave_gaps(tmp_path: Path) -> None:
    rows = steady().cells[0].rows
    turned_down = [refused(precision="fp32"), *rows[:1]]
    for day, kept in enumerate((rows, turned_down, rows[:1])):
        saved(tmp_path, str(day), report(*kept, provenance=provenance(created=f"2031-01-0{day + 1}")))
    line = next(line for line in history([tmp_path]).series[0].lines if line.label == OURS)
    for measure in ("latency", "snr"):
        assert line.sparkline(measure)[1:] == REFUSED + ABSENT  # type: ignore[arg-type]
        assert line.change(measure) is None  # type: ignore[arg-type]


def test_machines_are_not_mixed(tmp_path: Path) -> None:
    for number, changes in enumerate(({}, {"cpu": "Other"}, {"gpus": ("G",)}, {"threads": 1}, {"cores": 64}, {})):
        saved(tmp_path, str(number), steady(provenance=provenance(created=f"2031-01-0{number + 1}", **changes)))
    found = history([tmp_path])
    assert [len(one.runs) for one in found.series] == [2, 1, 1, 1, 1]
    assert str(found.series[0].machine) == "Imaginary Processor @ 3 GHz, 2 cores, 2 used, no GPU", "the last run first"


def test_what_is_no_report_is_skipped_with_a_note(tmp_path: Path) -> None:
    folder = saved(tmp_path, "a", steady(provenance=provenance(commit=None)))
    (tmp_path / "b.json").write_text("{")
    (tmp_path / "c.json").write_bytes(b"\xff\xfe")
    (tmp_path / ".half-written.json").write_text("{")
    found = history([tmp_path, folder, folder / "report.json"])
    assert found.series[0].runs == ("2031-02-03 v9.9.9",), "named thrice, read once"
    assert len(found.notes) == 2
    assert all(note.startswith("skipped: report ") for note in found.notes)
    with pytest.raises(InputError, match="there are none"):
        history([tmp_path / "b.json"])
    with pytest.raises(InputError, match="no such file"):
        history([tmp_path / "nowhere"])


def test_new_weights_are_noted(tmp_path: Path) -> None:
    saved(tmp_path, "a", steady())
    saved(tmp_path, "b", steady(networks=(only_nsf(weights_sha256="cd" * 32),)))
    assert history([tmp_path]).notes == ("made_up_nsf had 2 different sets of weights in these runs",)


def test_the_last_bits_of_random_weights_are_not(tmp_path: Path) -> None:
    saved(tmp_path, "a", drawn())
    saved(tmp_path, "b", drawn(weights_sha256="cd" * 32))
    assert history([tmp_path]).notes == ()


# The commands.


@pytest.fixture
def folders(tmp_path: Path) -> Callable[..., tuple[Path, Path]]:
    def written(before: Report, after: Report) -> tuple[Path, Path]:
        return saved(tmp_path, "前", before), saved(tmp_path, "後", after) / "report.json"

    return written


def test_compare_exits_by_what_it_finds(folders: Callable[..., tuple[Path, Path]], tmp_path: Path) -> None:
    before, after = folders(steady(), steady({OURS: 1.2}, provenance=later(dirty=True)))
    result = run("compare", before, after)
    assert result.exit_code == bench_compare.REGRESSED == 3
    assert "2031-02-03 0123456 → 2031-03-04 fedcba9 dirty, by latency, threshold 10 %" in result.output
    for word in (OURS, "40.0 ms", "48.0 ms", "+20.0 %", "slower", "1 regression, 0 gains, 4 rows unchanged"):
        assert word in result.output, word
    assert UPSTREAM not in result.output
    assert UPSTREAM in run("compare", before, after, "--all").output
    assert run("compare", before, after, "--threshold", 25).exit_code == 0
    assert run("compare", before, after, "--by", "speedup").exit_code == 3
    back = run("compare", after, before)
    assert (back.exit_code, "faster" in back.output) == (0, True)
    assert run("compare", before, before).exit_code == 0


def test_compare_as_json(folders: Callable[..., tuple[Path, Path]]) -> None:
    before, after = folders(
        report(row(OURS, math.inf, latency=latency_of([0.1, 0.1]))),
        report(row(OURS, latency=latency_of([0.3, 0.3])), provenance=later()),
    )
    result = run("compare", before, after, "--json")
    assert result.exit_code == 3
    said = json.loads(result.stdout, parse_constant=pytest.fail)
    assert (said["failed"], said["regressions"], said["output"]) == (True, 1, None)
    (one,) = said["rows"]
    assert (one["label"], one["state"], one["regressed"]) == (OURS, "compared", True)
    assert one["speed"]["ratio"] == pytest.approx(3)
    assert one["snr"] == {"metric": "snr_db", "before": None, "after": 60, "verdict": "worse"}


def test_compare_writes_markdown(folders: Callable[..., tuple[Path, Path]], tmp_path: Path) -> None:
    after = steady({OURS: 0.5}, networks=(judged(pesq_wb=4.0),), provenance=later(threads=1))
    before, after_file = folders(steady(networks=(judged(),)), after)
    target = tmp_path / "deep" / "对比.md"
    result = run("compare", before, after_file, "-o", target)
    assert result.exit_code == 3
    assert target.name in result.output
    written = target.read_text("utf-8")
    assert f"| {NAME} | 64 x 1 | {OURS} | 40.0 ms | 20.0 ms | -50.0 % |" in written
    assert f"| {NAME} | {OURS} | pesq_wb | 4.50 | 4.00 | **worse** |" in written
    assert "- note: another machine" in written
    assert [file.name for file in target.parent.iterdir()] == [target.name]


def test_names_print_unharmed(folders: Callable[..., tuple[Path, Path]], tmp_path: Path) -> None:
    def named(factor: float) -> Report:
        net = only_nsf(name=HOSTILE, listening=())
        mine = Row(
            contender="[red]引擎",
            precision="fp32",
            status="measured",
            latency=latency_of([0.1 * factor, 0.101 * factor]),
        )
        return steady(networks=(net,), cells=(cell(HOSTILE, 64, 1, rows=(mine,)),))

    before, after = folders(named(1), named(9))
    target = tmp_path / "x.md"
    for result in (run("compare", before, after, "-o", target), run("history", before, after)):
        assert HOSTILE in result.output
        assert "[red]引擎 fp32" in result.output
    (line,) = [line for line in target.read_text("utf-8").splitlines() if "引擎" in line]
    assert "\\[bold\\]网" in line
    assert line.replace("\\|", "").count("|") == 10, "nine cells"


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00", b"[]", b'{"schema": "another/1"}'])
@pytest.mark.parametrize("options", [(), ("--json",)])
def test_what_is_no_report_gets_a_sentence(content: bytes, options: tuple[str, ...], tmp_path: Path) -> None:
    good, bad = saved(tmp_path, "good", steady()), tmp_path / "坏.json"
    bad.write_bytes(content)
    for result in (run("compare", good, bad, *options), run("history", bad, *options)):
        assert result.exit_code == 2
        assert "Traceback" not in result.output
        assert "InputError" in result.output
        if options:
            assert json.loads(result.stdout)["error"] == "InputError"


@pytest.mark.parametrize(
    "arguments", [("nowhere.json",), ("--by", "taste"), ("--threshold", "-1"), ("--threshold", "nan")]
)
def test_unusable_arguments_exit_2(arguments: tuple[str, ...], tmp_path: Path) -> None:
    folder = saved(tmp_path, "a", steady())
    paths = (folder,) if arguments == ("nowhere.json",) else (folder, folder)
    result = run("compare", *paths, *arguments)
    assert result.exit_code == 2
    assert "internal error" not in result.output


def test_rows_in_one_report_only_are_listed_by_reason(folders: Callable[..., tuple[Path, Path]]) -> None:
    cells = (*steady().cells, cell(NAME, 999, 1, rows=steady().cells[0].rows))
    before, after = folders(steady(cells=cells), steady())
    result = run("compare", before, after)
    assert result.exit_code == 0
    assert f"missing: 5 rows of {NAME} ({', '.join(SPEEDS)}): that shape was not benchmarked there" in result.output
    assert "0 regressions, 0 gains, 5 rows are missing, 5 rows unchanged" in result.output


def test_refusals_are_told_with_their_reason(folders: Callable[..., tuple[Path, Path]]) -> None:
    rows = steady().cells[0].rows
    before, after = folders(report(*rows), report(*rows[:3], refused(precision="fp32"), rows[4]))
    result = run("compare", before, after)
    assert result.exit_code == 3
    assert "refused now: SNR 12 dB" in result.output
    assert "was refused: SNR 12 dB" in run("compare", after, before).output


def test_history_on_the_console(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    three_runs(tmp_path / "benchmarks" / "reports")
    monkeypatch.chdir(tmp_path)
    result = run("history")
    assert result.exit_code == 0
    for word in ("Imaginary Processor", OURS, "-50.0 %", "20.0 (2031-06-01 ccccccc dirty)", "3: 2031-06-01 ccccccc"):
        assert word in result.output, word
    said = json.loads(run("history", "--json", "--measure", "speedup").stdout)
    assert (said["measure"], said["unit"]) == ("speedup", "x upstream")
    line = next(line for line in said["machines"][0]["lines"] if line["label"] == OURS)
    assert line["best"] == {"run": "2031-06-01 ccccccc dirty", "value": pytest.approx(3)}
    assert len(line["points"]) == len(line["sparkline"]) == 3
    assert run("history", "--network", NAME, "--measure", "snr").exit_code == 0


def test_history_of_nothing_says_what_to_give(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    nothing = run("history")
    assert (nothing.exit_code, "Give report.json files" in nothing.output) == (2, True)
    saved(tmp_path, "a", steady())
    unknown = run("history", "a", "--network", "made_up_nfs")
    assert (unknown.exit_code, f"Did you mean '{NAME}'" in unknown.output) == (2, True)
    measure = run("history", "a", "--measure", "speed")
    assert (measure.exit_code, "Did you mean 'speedup'" in measure.output) == (2, True)


def test_infinite_snrs_have_a_place_in_json(tmp_path: Path) -> None:
    for day, snr in enumerate((60.0, math.inf)):
        found = report(row(OURS, snr), provenance=provenance(created=f"2031-01-0{day + 1}"))
        saved(tmp_path, str(day), found)
    said = json.loads(run("history", tmp_path, "--measure", "snr", "--json").stdout, parse_constant=pytest.fail)
    (line,) = said["machines"][0]["lines"]
    assert (line["change"], line["best"]) == (None, {"run": "2031-01-02 0123456", "value": None})
    assert "identical" in run("history", tmp_path, "--measure", "snr").output
