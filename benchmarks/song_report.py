"""What the reference song took, stage by stage, as data and as a page of Markdown."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

from benchmarks.report_files import write_files
from trt_svc.bench.markdown import escaped
from trt_svc.bench.report import Decibels, Provenance, Record

SCHEMA: Literal["trt_svc.song/1"] = "trt_svc.song/1"
JSON, MARKDOWN = "song.json", "song.md"


class Stage(Record):
    """One stage of a contender's conversions."""

    name: str
    seconds: tuple[float, ...]
    """Of every round."""
    calls: int
    backend: str = ""
    quality_db: Decibels | None = None
    """Of its engine against torch float32 on the same input, measured when it was built."""
    note: str = ""

    @property
    def median_s(self) -> float:
        return statistics.median(self.seconds)


class Run(Record):
    """One contender."""

    label: str
    backend: str
    """As it was asked for."""
    precision: str
    opening_s: float
    """Opening the model and a first short conversion; engines are built in it, unless they were there already."""
    seconds: tuple[float, ...]
    """Of every round: from the recording to the last sample."""
    snr_db: Decibels
    """Of the whole song against torch float32; the worst round."""
    mel_db: float
    """Mean distance of the log mels of both songs, in dB; the worst round."""
    peak: float
    stages: tuple[Stage, ...]

    @property
    def median_s(self) -> float:
        return statistics.median(self.seconds)


class SongReport(Record):
    """The whole comparison."""

    schema_name: Literal["trt_svc.song/1"] = SCHEMA
    provenance: Provenance
    about: str
    """What the networks are."""
    song_s: float
    pieces: int
    options: dict[str, str | int | float]
    parameters: dict[str, int]
    """Of every network."""
    runs: tuple[Run, ...]
    """The first is torch float32."""
    took_s: float


def write_song_report(report: SongReport, folder: Path) -> None:
    """Both files, each whole or not at all."""
    data = report.model_dump(mode="json")
    SongReport.model_validate(data)
    text = json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    write_files(folder, {JSON: text, MARKDOWN: markdown_of(report)})


def markdown_of(report: SongReport) -> str:
    """The comparison, then a table of stages for every contender."""
    about = (
        f"A song of {report.song_s:.1f} s in {report.pieces} pieces through a so-vits-svc 4.1 model ({report.about}) "
        "with calibrated random weights, as files in upstream's layout. All contenders ran in one process, in turns, "
        "with the same noise. Times are medians over the rounds."
    )
    of_the_song = (
        "SNR and mel distance are those of the finished song against torch float32: a pitch that falls into the "
        "neighbouring bin shifts the phase of everything after it, so the SNR of the song can be far below those of "
        "its stages, which were measured on equal inputs."
    )
    parts = [
        "# The reference song",
        about,
        "\n".join(_grid(("", ""), ((f"**{name}**", escaped(words)) for name, words in _facts(report).items()))),
        f"```text\n{report.provenance.command}\n```",
        "## Whole song",
        "\n".join(_summary(report)),
        of_the_song,
        *(part for run in report.runs for part in _stages(run, report.runs[0], report.song_s)),
    ]
    return "\n\n".join(parts) + "\n"


def _facts(report: SongReport) -> dict[str, str]:
    source = report.provenance
    return {
        "Machine": f"{source.cpu}, {len(source.affinity)} of {source.cores} cores, {source.threads} torch threads",
        "GPUs": ", ".join(source.gpus) or "none",
        "System": source.system,
        "Versions": ", ".join([f"trt_svc {source.trt_svc}", *(f"{n} {v}" for n, v in source.packages.items())]),
        "Commit": f"{(source.commit or 'unknown')[:12]}{' with changes' if source.dirty else ''}",
        "Date": f"{source.created}, took {report.took_s:.0f} s",
        "Load before": ", ".join(f"{value:.2f}" for value in source.load),
        "Options": ", ".join(f"{name} {value}" for name, value in report.options.items()),
        "Parameters": ", ".join(f"{name} {count / 1e6:.1f} M" for name, count in report.parameters.items()),
    }


def _summary(report: SongReport) -> Iterator[str]:
    eager = report.runs[0]
    heads = ("contender", "seconds", "rounds", "RTF", "x eager", "SNR dB", "mel distance dB", "opening s")
    rows = [
        (
            escaped(run.label),
            f"{run.median_s:.2f}",
            " ".join(f"{seconds:.2f}" for seconds in run.seconds),
            f"{run.median_s / report.song_s:.3f}",
            "1" if run is eager else f"{eager.median_s / run.median_s:.2f}",
            _decibels(run.snr_db),
            f"{run.mel_db:.2g}",
            f"{run.opening_s:.1f}",
        )
        for run in report.runs
    ]
    return _grid(heads, rows)


def _stages(run: Run, eager: Run, song_s: float) -> Iterator[str]:
    """Heading and table of one contender; the longest stage comes first."""
    total = sum(stage.median_s for stage in run.stages)
    before = {stage.name: stage.median_s for stage in eager.stages}
    rows = [
        (
            escaped(stage.name),
            f"{stage.median_s:.3f}",
            f"{100 * stage.median_s / total:.1f} %" if total else "-",
            f"{stage.median_s / song_s:.4f}",
            f"{before[stage.name] / stage.median_s:.2f}" if stage.median_s and stage.name in before else "-",
            str(stage.calls),
            escaped(stage.backend) if stage.backend else "-",
            _decibels(stage.quality_db),
            escaped(stage.note) if stage.note else "",
        )
        for stage in sorted(run.stages, key=lambda stage: -stage.median_s)
    ]
    heads = ("stage", "seconds", "share", "RTF", "x eager", "calls", "backend", "SNR dB", "note")
    yield f"## {escaped(run.label)}"
    yield "\n".join(_grid(heads, rows))
    yield f"Stages overlap: together {total:.2f} s in a song of {run.median_s:.2f} s."


def _decibels(value: float | None) -> str:
    if value is None:
        return "-"
    return "identical" if value == float("inf") else f"{value:.1f}"


def _grid(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> Iterator[str]:
    heads = tuple(heads)
    yield f"| {' | '.join(heads)} |"
    yield "|" + " --- |" * len(heads)
    for row in rows:
        yield f"| {' | '.join(row)} |"
