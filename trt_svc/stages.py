"""A network run stage by stage: the chain in time, and how it is told in an engine's metadata."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any

from trt_svc.arrays import joined
from trt_svc.windows import Bounds, Pending, Span, Windows

RunStage = Callable[[Mapping[str, Any], int], Any]


def prefix(number: int) -> str:
    """What the names of a stage's files begin with."""
    return f"stage{number}-"


def files_of(files: Mapping[str, bytes], number: int) -> dict[str, bytes]:
    """The files of one stage under their own names."""
    start = prefix(number)
    return {name.removeprefix(start): data for name, data in files.items() if name.startswith(start)}


def spans_from(described: Sequence[Mapping[str, Any]]) -> tuple[Span, ...]:
    """The chain as metadata tells it."""
    return tuple(_span(stage) for stage in described)


def _span(stage: Mapping[str, Any]) -> Span:
    rates = {name: Fraction(rate) for name, rate in stage["inputs"].items()}
    left, right = stage["context"]
    return Span(
        rates,
        Fraction(stage["out_per_tick"]),
        int(left),
        int(right),
        per_frame=Fraction(stage["per_frame"]),
        out_channels=stage["out_channels"],
    )


class Chain:
    """Stages one behind the other; pieces of the network's inputs go in, audio comes out."""

    def __init__(self, spans: Sequence[Span], run: RunStage, most_frames: Callable[[], int | None]) -> None:
        self.links = [_link(number, span, run, most_frames) for number, span in enumerate(spans)]

    def push(self, pieces: Mapping[str, Any], last: bool = False) -> list[Any]:
        """As `Windows.push`."""
        made: list[Any] = []
        for number, link in enumerate(self.links):
            given = pieces if number == 0 or not made else {**pieces, "x": joined(made)}
            made = link.push(given, last)
        return made


def _link(number: int, span: Span, run: RunStage, most_frames: Callable[[], int | None]) -> Windows:
    def start(inputs: Mapping[str, Any]) -> Pending:
        made = run(inputs, number)
        return lambda: made

    def bounds() -> Bounds:
        most = most_frames()
        # A stage needs room for its context, whatever the limit for the whole is.
        return Bounds(None if most is None else max(span.left + span.right + span.step, int(most * span.per_frame)))

    return Windows(span, start, bounds)
