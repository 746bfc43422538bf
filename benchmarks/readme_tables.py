"""Writes the tables of README.md and of pages in docs that come from the committed reports: `make readme-tables`.

A table stands between `<!-- table NAME -->` and `<!-- end -->`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from benchmarks.hosts import table as hosts
from benchmarks.song_report import Run, SongReport
from trt_svc.bench import words
from trt_svc.bench.report import Cell, Report, Row, read_report
from trt_svc.errors import InputError

ROOT = Path(__file__).parents[1]
REPORTS = ROOT / "benchmarks" / "reports"
PAGES = (ROOT / "README.md", ROOT / "docs" / "benchmarks.md", ROOT / "docs" / "hosts" / "index.md")
MARKS = re.compile(r"(<!-- table (?P<name>[\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
README_CELLS = {
    "demo": 500,
    "hifigan_v1": 500,
    "gptsovits_v4": 500,
    "nsf_hifigan_44k": 861,
    "bigvgan_v2_24khz_100band_256x": 468,
    "waveglow_256": 443,
}
"""One shape per network for the README; all of them are in docs/benchmarks.md."""
HEADINGS = (
    "network", "shape", "audio", "torch eager", "fastest here", "x upstream [95 %]", "RTF", "% of peak", "SNR", "MAE",
)  # fmt: skip


def reports() -> list[Report]:
    """The committed ones, quick first; times beside busy cores are no speeds."""
    paths = sorted(REPORTS.glob("*/report.json"), key=lambda p: (p.parent.name != "quick", p))
    return [report for report in map(read_report, paths) if not report.provenance.busy_cores]


def speed() -> str:
    """One shape per network; raises where one of them is in no report, rather than leaving it out."""
    cells = [cell for report in reports() for cell in report.cells if cell.batch == 1]
    found = [cell for cell in cells if README_CELLS.get(cell.network) == cell.frames]
    absent = README_CELLS.keys() - {cell.network for cell in found}
    if absent:
        shapes = ", ".join(f"{name} with {README_CELLS[name]} frames" for name in sorted(absent))
        raise InputError(
            "the table of the README", f"no report has {shapes}.", "Run the recipes, or change README_CELLS."
        )
    return _table([_line(cell) for cell in found])


def all_cells() -> str:
    """Every cell of every report, and where it was measured."""
    parts = []
    for report in reports():
        parts += [
            f"### {report.recipe}",
            "",
            report.about,
            "",
            _table([_line(cell) for cell in report.cells]),
            "",
            _origin(report),
            "",
        ]
    return "\n".join(parts).rstrip() + "\n"


def all_rows() -> str:
    """Every contender in every cell, against upstream."""
    labels = list(dict.fromkeys(row.label for report in reports() for cell in report.cells for row in cell.rows))
    lines = ["| network | shape | " + " | ".join(labels) + " |", "|---" * (2 + len(labels)) + "|"]
    for report in reports():
        for cell in report.cells:
            rows = {row.label: row for row in cell.rows}
            entries = [_against_upstream(rows.get(label)) for label in labels]
            lines.append(f"| {cell.network} | {words.shape(cell.frames, cell.batch)} | {' | '.join(entries)} |")
    return "\n".join(lines) + "\n"


def machine() -> str:
    """Where the README's figures come from."""
    return "\n".join(f"- {line}" for line in dict.fromkeys(_origin(report) for report in reports())) + "\n"


def song() -> str:
    """The reference song: every contender, and where the time goes."""
    report = SongReport.model_validate_json((REPORTS / "song" / "song.json").read_text("utf-8"))
    eager = report.runs[0]
    heads = ("contender", "seconds", "x eager", "SNR", "longest stages")
    lines = [
        (run.label, f"{run.median_s:.1f}", f"{eager.median_s / run.median_s:.2f}", _snr(run), _longest(run))
        for run in report.runs
    ]
    rows = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    return "\n".join([*rows, *("| " + " | ".join(line) + " |" for line in lines)]) + "\n"


def _snr(run: Run) -> str:
    return "-" if run.snr_db == math.inf else f"{run.snr_db:.0f} dB"


def _longest(run: Run) -> str:
    stages = sorted(run.stages, key=lambda stage: stage.median_s, reverse=True)[:3]
    return ", ".join(f"{stage.name} {stage.median_s:.1f} s" for stage in stages)


TABLES: dict[str, Callable[[], str]] = {
    "speed": speed,
    "all-cells": all_cells,
    "all-rows": all_rows,
    "machine": machine,
    "song": song,
    "host-checks": hosts.checks,
    "host-speed": hosts.speed,
}


def with_tables(text: str) -> str:
    """A page with its tables as they should be."""

    def replaced(found: re.Match[str]) -> str:
        return f"{found[1]}{TABLES[found['name']]()}{found[3]}"

    return MARKS.sub(replaced, text)


def _table(lines: Sequence[Sequence[str]]) -> str:
    rows = ["| " + " | ".join(HEADINGS) + " |", "|---" * len(HEADINGS) + "|"]
    return "\n".join([*rows, *("| " + " | ".join(line) + " |" for line in lines)]) + "\n"


def _line(cell: Cell) -> list[str]:
    fastest, upstream = words.fastest(cell), [row for row in words.measured(cell) if words.is_upstream(row)]
    eager = f"{words.milliseconds(words.median_s(upstream[0]))} ms" if upstream else words.MISSING
    start = [cell.network, words.shape(cell.frames, cell.batch), f"{words.three(cell.audio_s)} s", eager]
    return [*start, *(_best(fastest) if fastest else [words.REFUSED, *[words.MISSING] * 5])]


def _best(row: Row) -> list[str]:
    ratio, heard, latency = row.over_upstream, row.waveform, row.latency
    assert heard is not None and latency is not None
    return [
        f"{words.name_of(row)}, {words.milliseconds(latency.median_s)} ms",
        f"{words.times(ratio)} {words.interval(ratio)}" if ratio else words.no_ratio(row),
        words.three(row.rtf),
        words.three(row.percent_of_peak),
        words.with_unit(heard.snr_db),
        words.three(heard.mae),
    ]


def _against_upstream(row: Row | None) -> str:
    if row is None:
        return words.MISSING
    if row.status == "refused" or row.latency is None:
        return words.REFUSED
    chosen = f" ({row.chosen})" if row.chosen else ""
    if row.over_upstream is None:
        return f"{'1' if words.is_upstream(row) else words.MISSING}{chosen}"
    return f"{words.times(row.over_upstream)}{chosen}"


def _origin(report: Report) -> str:
    origin = report.provenance
    packages = ", ".join(
        f"{name} {origin.packages[name]}" for name in ("torch", "onnxruntime", "openvino") if name in origin.packages
    )
    commit = f"commit {origin.commit[:12]}" if origin.commit else "no commit"
    return (
        f"`{report.recipe}`: {words.moment(origin.created)}, {origin.cpu}, {origin.cores} cores, {packages}, {commit}; "
        f"peaks {words.three(report.peaks.gflops['fp32'])} GFLOP/s (matrix products), "
        f"{words.three(report.peaks.copy_gb_per_s)} GB/s (copying)"
    )


def pages() -> Iterator[tuple[Path, str, str]]:
    """(page, as it is, as it should be)."""
    for page in PAGES:
        text = page.read_text("utf-8")
        yield page, text, with_tables(text)


def main() -> None:
    for page, before, after in pages():
        page.write_text(after, "utf-8")
        print(page.relative_to(ROOT), "unchanged" if before == after else "rewritten")


if __name__ == "__main__":
    main()
