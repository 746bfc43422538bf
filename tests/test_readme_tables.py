"""The tables in README and docs are what the committed reports say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks import readme_tables
from benchmarks.readme_tables import MARKS, PAGES, REPORTS, pages, reports, with_tables
from tests import bench_reports
from trt_svc.bench.report import read_report
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


def test_a_shape_that_no_report_has_is_no_silent_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(readme_tables.README_CELLS, "demo", 501)
    with pytest.raises(InputError, match="demo with 501 frames"):
        readme_tables.speed()


def test_what_auto_chose_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    one = bench_reports.cell("made_up_nsf", 64, 1)
    chosen = one.rows[3].model_copy(update={"contender": "auto", "forms": None, "chosen": "openvino"})
    report = bench_reports.small_report(cells=(one.model_copy(update={"rows": (one.rows[0], chosen)}),))
    monkeypatch.setattr(readme_tables, "reports", lambda: [report])
    assert "| auto fp32 (openvino), " in readme_tables.all_cells()
    heading, _, line = readme_tables.all_rows().splitlines()
    assert heading.endswith("| torch fp32 | auto fp32 |")
    assert line.endswith("x (openvino) |")
