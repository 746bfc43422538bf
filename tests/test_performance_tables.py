"""The tables of docs/performance.md say what the reports say, and that one is missing where it is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks import performance_tables as tables
from benchmarks.cold_start import JSON as COLD_START_JSON
from benchmarks.cold_start import PHASES, ColdStartReport, Start
from benchmarks.cold_start import Row as StartRow
from benchmarks.linear_cost import JSON as LINEAR_JSON
from benchmarks.linear_cost import Length, LinearCostReport
from benchmarks.linear_cost import Row as LengthRow
from benchmarks.readme_tables import DOCS, MARKS, TABLES
from tests import bench_reports
from trt_svc.bench.report import REPORT, Cell, Ratio, Row, write_report
from trt_svc.native.toom_cook import FORMS

TABLES_OF_REPORTS = ("in_float32", "in_mixed", "roofline", "loaded", "everywhere", "by_length", "cold_start")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where all reports are looked for."""
    for name in ("BUSY", "LINEAR", "COLD_START"):
        monkeypatch.setattr(tables, name, tmp_path)
    for name in ("SPEEDS", "GRIDS"):
        monkeypatch.setattr(tables, name, (tmp_path,))
    return tmp_path


def row(cell: Cell, contender: str, precision: str, over: tuple[float, float], **changes: object) -> Row:
    """One of the report's rows as another contender's, so many times as fast as upstream and as the others."""
    ratios = [Ratio(value=value, low=value, high=value, against="torch fp32") for value in over]
    return cell.rows[2].model_copy(
        update={
            "contender": contender,
            "precision": precision,
            "forms": None,
            "over_upstream": ratios[0],
            "over_fastest_other": ratios[1],
            **changes,
        }
    )


def write(folder: Path, cell: Cell, rows: Sequence[Row], busy_cores: int = 0) -> None:
    made_up = bench_reports.small_report(
        cells=(cell.model_copy(update={"rows": (*cell.rows, *rows)}),),
        provenance=bench_reports.provenance(busy_cores=busy_cores),
    )
    write_report(made_up, folder / REPORT)


@pytest.mark.parametrize("name", TABLES_OF_REPORTS)
def test_a_report_that_is_not_there_is_told(name: str) -> None:
    assert getattr(tables, name)() == tables.NOT_MEASURED


def test_the_page_has_every_table() -> None:
    there = [found["name"] for found in MARKS.finditer((DOCS / "performance.md").read_text("utf-8"))]
    assert there == [name.replace("_", "-") for name in ("forms", *_in_order())]
    assert set(there) <= set(TABLES)


def _in_order() -> list[str]:
    *rest, cold = [name for name in TABLES_OF_REPORTS if name != "roofline"]
    return [*rest, cold, "roofline"]


def test_forms_need_fewer_products_than_the_direct_way() -> None:
    lines = tables.forms().splitlines()
    assert len(lines) == 2 + len(FORMS) + 2
    least, least_mixed = ([float(cell.strip(" *")) for cell in line.split("|")[3:-1]] for line in lines[-2:])
    shares = [[cell.strip() for cell in line.split("|")[3:-1]] for line in lines[2:-2]]
    for i in range(len(tables.KERNELS)):
        of_kernel = [float(line[i]) for line in shares if line[i] != "–"]
        assert min(of_kernel) == least_mixed[i] <= least[i] < 1


@pytest.mark.parametrize(
    ("over_upstream", "over_others", "snr_db", "words"),
    [
        (1.6, 1.1, 110.0, ("1.60x [1.60, 1.60], moonshot", "1.10x [1.10, 1.10], floor", "110 dB |")),
        (1.3, 0.9, 110.0, ("1.30x [1.30, 1.30], floor", "0.900x [0.900, 0.900], **missed**", "110 dB |")),
        (1.1, 1.0, 80.0, ("1.10x [1.10, 1.10], **missed**", "80.0 dB, **missed** |")),
    ],
)
def test_figures_stand_beside_what_was_asked(
    folder: Path, over_upstream: float, over_others: float, snr_db: float, words: Sequence[str]
) -> None:
    cell = bench_reports.cell("made_up_nsf", 64, 1)
    heard = cell.rows[2].waveform
    assert heard is not None
    ours = row(
        cell, "native", "fp32", (over_upstream, over_others), waveform=heard.model_copy(update={"snr_db": snr_db})
    )
    write(folder, cell, [ours])
    line = tables.in_float32().splitlines()[2]
    assert all(word in line for word in words)
    assert "| – | – | – | – |" in tables.in_mixed().splitlines()[2]


def test_of_several_forms_the_fastest_counts_and_bigvgan_has_its_own_goals(folder: Path) -> None:
    cell = bench_reports.cell("made_up_nsf", 64, 1).model_copy(update={"network": "bigvgan_made_up"})
    quick = cell.rows[2].latency
    assert quick is not None
    slow = quick.model_copy(update={"median_s": 2 * quick.median_s})
    both = [
        row(cell, "native", "fp32", (1.1, 1.1), latency=slow),
        row(cell, "native", "fp32", (1.16, 1.16), forms=("x",)),
    ]
    write(folder, cell, both)
    line = tables.in_float32().splitlines()[2]
    assert "1.16x [1.16, 1.16], floor | 1.16x [1.16, 1.16], floor" in line


def test_a_refused_row_has_no_figures(folder: Path) -> None:
    cell = bench_reports.cell("made_up_nsf", 64, 1)
    refused = row(cell, "native", "fp32", (9.0, 9.0), status="refused", reason="unsteady", latency=None)
    write(folder, cell, [refused])
    assert tables.in_float32().splitlines()[2].endswith("| refused | – | – | – | – |")
    assert tables.roofline().splitlines()[2].endswith("| refused | – |")


def test_the_roofline_is_that_of_the_report(folder: Path) -> None:
    cell = bench_reports.cell("made_up_nsf", 64, 1)
    cell = cell.model_copy(update={"gflop": 240.0, "traffic_bytes": 2e9})
    write(folder, cell, [row(cell, "native", "fp32", (1.5, 1.2), percent_of_peak=123.0, percent_of_roofline=124.0)])
    line = tables.roofline().splitlines()[2]
    at_least_ms = 1000 * 240 / bench_reports.peaks().gflops["fp32"]
    assert f"| 240 | 2.00 | 120 | {at_least_ms:.0f} ms |" in line
    assert line.endswith("| 123 % (124 %) | – |")


def test_busy_cores_are_told(folder: Path) -> None:
    cell = bench_reports.cell("made_up_nsf", 64, 1)
    write(folder, cell, [row(cell, "native", "fp32", (1.9, 1.9))], busy_cores=1)
    text = tables.loaded()
    assert "1.90x, **missed** |" in text
    assert text.endswith("; 1 of the cores kept busy\n")


def test_auto_is_held_against_the_fastest(folder: Path) -> None:
    cell = bench_reports.cell("made_up_nsf", 64, 1)
    write(folder, cell, [row(cell, "auto", "fp32", (1.9, 0.97), chosen="native")])
    text = tables.everywhere()
    assert "| made_up_nsf | 1 | native | 0.970x **missed** |" in text
    assert "1 valid cells, 1 of them below 0.98, the lowest 0.970x." in text


def test_cost_by_length(folder: Path) -> None:
    lengths = [
        Length(audio_s=s, frames=int(86 * s), seconds=(cost,), network_s=(cost,), grown_mib=120.0, arrays_mib=20.0)
        for s, cost in ((5.0, 1.0), (60.0, 15.0))
    ]
    made_up = LengthRow(
        network="made_up", backend="auto", chosen="native", chunk_frames=1000, window_mib=10.0, lengths=tuple(lengths)
    )
    report = LinearCostReport(provenance=bench_reports.provenance(), rows=(made_up,))
    (folder / LINEAR_JSON).write_text(report.model_dump_json())
    text = tables.by_length()
    assert "| made_up | auto (native) | 60 s | 0.2500 s | 1.25 | 100 |" in text
    assert "- made_up: **not linear** (1.25x), memory **not bounded**" in text


def test_a_cold_start(folder: Path) -> None:
    start = Start(reached_s={name: 0.7 * (i + 1) for i, name in enumerate(PHASES)}, whole_s=5.0)
    made_up = StartRow(network="made_up", backend="native", chosen="native", audio_s=10.0, starts=(start,) * 3)
    report = ColdStartReport(provenance=bench_reports.provenance(), allowed_s=3.0, rows=(made_up,))
    (folder / COLD_START_JSON).write_text(report.model_dump_json())
    text = tables.cold_start()
    assert f"| made_up | native | {' | '.join(['0.70'] * len(PHASES))} | 4.20 | 4.20 |" in text
    assert "Within 3 s: **not kept**; medians of 3 starts." in text
