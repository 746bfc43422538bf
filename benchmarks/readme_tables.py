"""Writes the tables of README.md and of pages in docs that come from the committed reports: `make readme-tables`.

A table stands between `<!-- table NAME -->` and `<!-- end -->`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

from benchmarks import performance_tables as performance
from benchmarks.hosts import table as hosts
from benchmarks.performance_tables import best, grid_of, origin
from benchmarks.song_report import Run, SongReport
from trt_svc.bench import words
from trt_svc.bench.report import Cell, Report, Row, read_report
from trt_svc.errors import InputError

ROOT = Path(__file__).parents[1]
REPORTS = ROOT / "benchmarks" / "reports"
DOCS = ROOT / "docs"
PAGES = (ROOT / "README.md", DOCS / "benchmarks.md", DOCS / "performance.md", DOCS / "hosts" / "index.md")
MARKS = re.compile(r"(<!-- table (?P<name>[\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
README_NETWORKS = (
    "demo", "hifigan_v1", "gptsovits_v4", "nsf_hifigan_44k", "bigvgan_v2_24khz_100band_256x", "waveglow_256",
)  # fmt: skip
README_SECONDS = 10
"""The length nearest to this stands for a network; all are in docs/benchmarks.md."""
HEADINGS = (
    "network", "shape", "audio", "torch eager", "fastest here", "x upstream [95 %]", "RTF", "% of peak", "SNR", "MAE",
)  # fmt: skip


def reports() -> list[Report]:
    """Those with tables of speed, quick first; what has a table of its own in docs/performance.md is left out."""
    paths = sorted(REPORTS.glob("*/report.json"), key=lambda p: (p.parent.name != "quick", p))
    found = [read_report(path) for path in paths if path.parent not in performance.GRIDS]
    return [report for report in found if not report.provenance.busy_cores]


def readme_cells() -> list[tuple[Report, Cell]]:
    """One shape per network, of the newest report that has it; raises where a network is in none."""
    newest = sorted(reports(), key=lambda report: report.provenance.created, reverse=True)
    found = [_stands_for(name, newest) for name in README_NETWORKS]
    absent = [name for name, cell in zip(README_NETWORKS, found, strict=True) if cell is None]
    if absent:
        raise InputError(
            "the table of the README",
            f"no report has {', '.join(absent)}.",
            "Run the recipes, or change README_NETWORKS.",
        )
    return [cell for cell in found if cell is not None]


def _stands_for(network: str, newest: Sequence[Report]) -> tuple[Report, Cell] | None:
    for report in newest:
        cells = [cell for cell in report.cells if (cell.network, cell.batch) == (network, 1) and _upstream(cell)]
        if cells:
            return report, min(cells, key=lambda cell: abs(cell.audio_s - README_SECONDS))
    return None


def _upstream(cell: Cell) -> Row | None:
    """Upstream's row, where it is valid."""
    return next((row for row in words.measured(cell) if words.is_upstream(row)), None)


def speed() -> str:
    """A line per network, in float32."""
    return grid_of(HEADINGS, [_line(cell, ("fp32",)) for _, cell in readme_cells()])


def all_cells() -> str:
    """Every cell of every report, and where it was measured."""
    parts = []
    for report in reports():
        parts += [
            f"### {report.recipe}",
            "",
            report.about,
            "",
            grid_of(HEADINGS, [_line(cell) for cell in report.cells]),
            "",
            origin(report),
            "",
        ]
    return "\n".join(parts).rstrip() + "\n"


def all_rows() -> str:
    """Every contender in every cell, in the fastest of its forms, against upstream."""
    rows = [row for report in reports() for cell in report.cells for row in cell.rows]
    kinds = list(dict.fromkeys((row.contender, row.precision) for row in rows))
    lines = [
        [cell.network, words.shape(cell.frames, cell.batch), *(_against_upstream(best(cell, *kind)) for kind in kinds)]
        for report in reports()
        for cell in report.cells
    ]
    return grid_of(("network", "shape", *(" ".join(kind) for kind in kinds)), lines)


def machine() -> str:
    """Where the README's figures come from."""
    return "\n".join(f"- {line}" for line in dict.fromkeys(origin(report) for report, _ in readme_cells())) + "\n"


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
    "forms": performance.forms,
    "in-float32": performance.in_float32,
    "in-mixed": performance.in_mixed,
    "roofline": performance.roofline,
    "loaded": performance.loaded,
    "everywhere": performance.everywhere,
    "by-length": performance.by_length,
    "cold-start": performance.cold_start,
}


def with_tables(text: str) -> str:
    """A page with its tables as they should be."""

    def replaced(found: re.Match[str]) -> str:
        return f"{found[1]}{TABLES[found['name']]()}{found[3]}"

    return MARKS.sub(replaced, text)


def _line(cell: Cell, precisions: Collection[str] = ()) -> list[str]:
    """The fastest, of these precisions only where some are named."""
    rows = [row for row in words.measured(cell) if not precisions or row.precision in precisions]
    fastest, upstream = min(rows, key=words.median_s, default=None), _upstream(cell)
    eager = f"{words.milliseconds(words.median_s(upstream))} ms" if upstream else words.MISSING
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
