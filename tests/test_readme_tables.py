"""The tables in README and docs are what the committed reports say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks.readme_tables import MARKS, PAGES, REPORTS, pages, reports, with_tables
from trt_svc.bench.report import read_report


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
    for path in REPORTS.glob("*/report.json"):
        assert read_report(path).cells
