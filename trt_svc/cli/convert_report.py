"""What `trt-svc convert` says: a line per recording, then where the time went."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from rich.table import Column, Table

from trt_svc.cli.console import err, escape, out
from trt_svc.cli.convert_run import Outcome
from trt_svc.svc.conversion import StageTime


def tell(outcome: Outcome) -> None:
    """One finished job, on standard error."""
    name = escape(outcome.job.source.name)
    if outcome.error is not None:
        error = outcome.error
        text = f"{error['asked']}: {error['found']} {error['advice']}"
        err.print(f"[red]failed[/] {name}: {error['error']}: {escape(text)}", highlight=False, soft_wrap=True)
    elif outcome.status == "kept":
        err.print(f"kept {escape(outcome.job.output.name)}", highlight=False, soft_wrap=True)


def as_object(done: Sequence[Outcome]) -> dict[str, Any]:
    """All of it for `--json`."""
    return {
        "files": [outcome.as_dict() for outcome in done],
        "stages": [asdict(stage) for stage in summed_stages(done)],
        "failed": sum(outcome.status == "failed" for outcome in done),
    }


def show(done: Sequence[Outcome]) -> None:
    """The tables, on standard output."""
    finished = [outcome for outcome in done if outcome.converted is not None]
    if not finished:
        return
    grid = Table(Column("written", overflow="fold"), "audio", "pieces", "time", "RTF")
    for outcome in finished:
        made = outcome.converted
        assert made is not None
        audio = f"{made.audio_s:.2f} s, {made.sample_rate} Hz"
        grid.add_row(escape(outcome.job.output), audio, str(made.slices), f"{made.seconds:.2f} s", f"{made.rtf:.3f}")
    out.print(grid)
    out.print(_waterfall(done))


def _waterfall(done: Sequence[Outcome]) -> Table:
    """Stages overlap, so that their shares of the whole time may add up to more than all of it."""
    made = [outcome.converted for outcome in done if outcome.converted is not None]
    seconds = max(sum(song.seconds for song in made), 1e-9)
    audio_s = max(sum(song.audio_s for song in made), 1e-9)
    stages = summed_stages(done)
    columns = {
        "stage": [stage.name for stage in stages],
        "time": [f"{stage.seconds:.2f} s" for stage in stages],
        "share": [f"{stage.seconds / seconds:.0%}" for stage in stages],
        "RTF": [f"{stage.seconds / audio_s:.3f}" for stage in stages],
        "runs on": [stage.backend for stage in stages],
        "against torch": ["" if stage.quality_db is None else f"{stage.quality_db:.1f} dB" for stage in stages],
        "note": [stage.note for stage in stages],
    }
    columns = {name: cells for name, cells in columns.items() if any(cells)}
    grid = Table(*(Column(name, no_wrap=name != "note") for name in columns))
    for row in zip(*columns.values(), strict=True):
        grid.add_row(*map(escape, row))
    return grid


def summed_stages(done: Sequence[Outcome]) -> list[StageTime]:
    """The stages of all songs together, in the order in which they first came."""
    sums: dict[tuple[str, str], StageTime] = {}
    for stage in (stage for outcome in done if outcome.converted for stage in outcome.converted.stages):
        before = sums.get((stage.name, stage.backend))
        sums[stage.name, stage.backend] = stage if before is None else _sum(before, stage)
    return list(sums.values())


def _sum(one: StageTime, other: StageTime) -> StageTime:
    qualities = [quality for quality in (one.quality_db, other.quality_db) if quality is not None]
    return replace(
        one,
        seconds=one.seconds + other.seconds,
        calls=one.calls + other.calls,
        quality_db=min(qualities, default=None),
        note=one.note or other.note,
    )
