"""The forms of a report that people read, beside its JSON."""

from __future__ import annotations

from pathlib import Path

from trt_svc.bench.markdown import markdown_of
from trt_svc.bench.page import write_page
from trt_svc.bench.report import MARKDOWN, REPORT, Report, write_report
from trt_svc.errors import MissingExtra
from trt_svc.files import replacing


def publish(report: Report, folder: Path) -> str:
    """report.json, report.md and report.html in a folder that holds the audio; gives the reason if there is no page."""
    write_report(report, folder / REPORT)
    with replacing(folder / MARKDOWN) as part:
        part.write_text(markdown_of(report), "utf-8")
    try:
        write_page(report, folder)
    except MissingExtra as err:  # the figures of an hour's race are worth more than the page
        return f"no report.html: {err.found} {err.advice}"
    return ""
