"""The tables in README and docs are what the committed reports say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks import performance_tables, readme_tables
from benchmarks.readme_tables import MARKS, PAGES, REPORTS, pages, reports, with_tables
from tests import bench_reports
from trt_svc.bench.report import REPORT, read_report, write_report
from trt_svc.errors import InputError


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tables_agree_with_the_reports(page: Path) -> None:
    text = page.read_text("utf-8")
    assert MARKS.search(text)
    assert text == with_tables(text), "run `make readme-tables`"


def test_a_changed_figure_is_noticed() -> None:
    for _, text, _ in pages():
        table = next(found[0] for found in MARKS.finditer(text) if re.search(r"\d\.\d", found[0]))
        forged = text.replace(table, re.sub(r"(\d)\.(\d)", lambda m: f"{m[1]}.{(int(m[2]) + 1) % 10}", table, count=1))
        assert forged != text
        assert with_tables(forged) == text


def test_committed_reports_name_their_origin() -> None:
    found = reports()
    assert {report.recipe for report in found} >= {"quick", "cpu"}
    for report in found:
        origin = report.provenance
        assert origin.commit and origin.dirty is False
        assert origin.cpu and origin.packages and origin.command
        assert not report.stopped
        for cell in report.cells:
            for row in cell.rows:
                assert (row.latency is None) == (row.status == "refused")


def test_every_committed_report_is_readable() -> None:
    paths = list(REPORTS.glob("*/report.json"))
    assert paths
    for path in paths:
        assert read_report(path).cells


def test_a_network_that_no_report_has_is_no_silent_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readme_tables, "README_NETWORKS", ("demo", "nowhere"))
    with pytest.raises(InputError, match="nowhere"):
        readme_tables.speed()


def test_the_readme_shows_the_newest_report_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    old = bench_reports.small_report()
    short, long = (cell for cell in old.cells if (cell.network, cell.batch) == ("made_up_gan", 1))
    quicker = long.rows[2].model_copy(update={"precision": "mixed", "contender": "native"})
    assert quicker.latency is not None
    quicker = quicker.model_copy(update={"latency": quicker.latency.model_copy(update={"median_s": 1e-6})})
    cells = (short, long.model_copy(update={"rows": (*long.rows, quicker)}))
    new = old.model_copy(
        update={"cells": cells, "provenance": bench_reports.provenance(created="2032-02-03T04:05:06Z")}
    )
    monkeypatch.setattr(readme_tables, "reports", lambda: [old, new])
    monkeypatch.setattr(readme_tables, "README_NETWORKS", ("made_up_gan",))
    assert readme_tables.readme_cells() == [(new, cells[1])]
    assert "native" not in readme_tables.speed()
    assert "native mixed" in readme_tables.all_cells()


def test_reports_with_tables_of_their_own_are_in_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, busy in (("grid", 0), ("busy", 1), ("speed", 0)):
        made_up = bench_reports.small_report(recipe=name, provenance=bench_reports.provenance(busy_cores=busy))
        (tmp_path / name).mkdir()
        write_report(made_up, tmp_path / name / REPORT)
    monkeypatch.setattr(readme_tables, "REPORTS", tmp_path)
    monkeypatch.setattr(performance_tables, "GRIDS", (tmp_path / "grid",))
    assert [report.recipe for report in reports()] == ["speed"]


def test_what_auto_chose_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    one = bench_reports.cell("made_up_nsf", 64, 1)
    chosen = one.rows[3].model_copy(update={"contender": "auto", "forms": None, "chosen": "openvino"})
    report = bench_reports.small_report(cells=(one.model_copy(update={"rows": (one.rows[0], chosen)}),))
    monkeypatch.setattr(readme_tables, "reports", lambda: [report])
    assert "| auto fp32 (openvino), " in readme_tables.all_cells()
    heading, _, line = readme_tables.all_rows().splitlines()
    assert heading.endswith("| torch fp32 | auto fp32 |")
    assert line.endswith("x (openvino) |")
