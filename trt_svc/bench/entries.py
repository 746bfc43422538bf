"""Who races: every contender that was asked for, in every precision and form, opened or left out with the reason."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from trt_svc.bench.contenders.base import UPSTREAM, Contender, Forms, Track, contenders
from trt_svc.bench.contenders.engines import AUTO
from trt_svc.bench.memory import Watch
from trt_svc.bench.peaks import finish
from trt_svc.bench.race import Entrant, failure
from trt_svc.bench.recipe import NetworkCase, Recipe
from trt_svc.bench.report import LeftOut, Opening, Row
from trt_svc.bench.subjects import Subject
from trt_svc.build_config import ShapeRange, default_batch, default_frames

REFERENCE = f"{UPSTREAM} fp32"
"""Label of the row that all others are compared with."""


@dataclass
class Entry:
    """A contender in one precision and form, for one network."""

    contender: str
    precision: str
    forms: Forms
    entrant: Entrant | None = None
    opening: Opening = field(default_factory=Opening)
    threads: int | None = None
    chosen: str = ""
    failure: str = ""

    @property
    def label(self) -> str:
        """As its rows are called."""
        return Row(contender=self.contender, precision=self.precision, forms=self.forms, status="refused").label


@dataclass(frozen=True)
class Starters:
    """Which contenders may start, and why the others may not."""

    rows: tuple[tuple[Contender, str], ...]
    left_out: tuple[LeftOut, ...]


def starters_of(recipe: Recipe, case: NetworkCase, device: str) -> Starters:
    """What a recipe asks of a network, on this machine; the upstream way is always there, and first."""
    names = _names(case.contenders or recipe.contenders)
    asked_by_name = "auto" not in (case.precisions or recipe.precisions)
    rows: list[tuple[Contender, str]] = [(contenders.get(UPSTREAM), "fp32")]
    left_out: list[LeftOut] = []
    for name in names:
        contender = contenders.get(name)
        precisions = recipe.precisions_on(device, case, name)
        # What a contender does not have at all is worth a line only if somebody asked for it.
        own = [p for p in precisions if asked_by_name or p in contender.precisions]
        reasons = {precision: _why_not(contender, device, precision) for precision in own}
        rows += [(contender, precision) for precision, reason in reasons.items() if not reason]
        left_out += _left_out(name, {p: reason for p, reason in reasons.items() if reason}, len(reasons))
    return Starters(tuple(dict.fromkeys(rows)), tuple(left_out))


def _why_not(contender: Contender, device: str, precision: str) -> str:
    if precision not in contender.precisions:
        return f"it does not do {precision}"
    return contender.why_not(device, precision)


def _names(asked: Sequence[str]) -> list[str]:
    """`all` is every contender but `auto`, which only runs one of the others again."""
    everybody = [name for name in contenders.names() if name != AUTO]
    return list(dict.fromkeys(n for name in asked for n in (everybody if name == "all" else [name])))


def _left_out(name: str, reasons: dict[str, str], precisions: int) -> Iterator[LeftOut]:
    if len(reasons) == precisions and len(set(reasons.values())) == 1:
        yield LeftOut(contender=name, reason=next(iter(reasons.values())))
        return
    for precision, reason in reasons.items():
        yield LeftOut(contender=name, precision=precision, reason=reason)


def track_for(subject: Subject, frames: Sequence[int], batches: Sequence[int], device: str) -> Track:
    """The shapes of a race: the family's usual profiles where they cover a checkpoint's, else a range of its own."""
    family = subject.net.family
    inside = all(any(length in usual for usual in default_frames(family)) for length in frames)
    if subject.trained and inside and all(rows in default_batch(family) for rows in batches):
        return Track(device, (), None)
    rising = sorted(frames)
    # CPU runtimes do not tune for a length, and an engine's quality is measured at the usual one: a short one is cheap.
    usual = rising[0] if device == "cpu" else rising[len(rising) // 2]
    return Track(device, (ShapeRange(rising[0], usual, rising[-1]),), ShapeRange(1, min(batches), max(batches)))


def entries_of(starters: Starters, subject: Subject, recipe: Recipe) -> list[Entry]:
    """One entry per row that a network's cells will have."""
    return [
        Entry(contender.name, precision, forms)
        for contender, precision in starters.rows
        for forms in contender.forms(subject, recipe.forms)
    ]


def open_entry(entry: Entry, subject: Subject, track: Track, batch: int, frames: int) -> None:
    """Opens it and makes its first call, watching the clock and, once its engine is built, the memory."""
    try:
        ready = contenders.get(entry.contender).prepare(subject, track, entry.precision, entry.forms)
        watch = Watch(track.device)
        opened = ready()
        entrant = opened.entrant
        placed = entrant.placed(subject.inputs(batch, frames).draw())
        finish(entrant.device)
        begin = time.perf_counter()
        made = entrant.run(placed)
        finish(entrant.device)
        first_call_s = time.perf_counter() - begin
        entrant.audio(made)
    except Exception as err:  # whatever is wrong with one contender must not stop the others
        entry.failure = failure(err)
        return
    entry.entrant, entry.threads, entry.chosen = entrant, opened.threads, opened.chosen
    entry.opening = opened.opening.model_copy(
        update={
            "first_call_s": first_call_s,
            "rss_added_bytes": watch.rss_added(),
            "device_bytes": watch.device_bytes(),
        }
    )


def bare(entry: Entry) -> Entry:
    """The same without its runtime."""
    return replace(entry, entrant=None)


def close(entry: Entry) -> None:
    """Lets go of its runtime and memory."""
    if entry.entrant is not None:
        entry.entrant.close()
    entry.entrant = None
