"""What a metric is, what it is asked about, and what all of them say of one contender.

A metric that can say nothing about a pair says why; no number stands for "not measured".
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar

import numpy as np

from trt_svc.audio import resample
from trt_svc.config import MelSpec
from trt_svc.errors import InputError, MissingExtra, shown
from trt_svc.optional import require
from trt_svc.registry import Registry
from trt_svc.types import Array

Role = Literal["made", "reference", "recording"]
Better = Literal["lower", "higher", "zero"]
"""Which way is better; `zero`: the nearer to zero the better, as for a difference between two scores."""
Found = TypeVar("Found")

CALLED: dict[Role, str] = {"made": "the contender's audio", "reference": "the reference", "recording": "the recording"}
SILENT_BELOW = 1e-4
"""Peak, full scale being 1: -80 dB."""


class SaysNothing(Exception):
    """A metric has no answer for a pair; the text says why."""


@dataclass(frozen=True, eq=False)
class Pair:
    """What a contender made, beside what torch float32 makes of the same input."""

    made: Array
    """(N,)"""
    reference: Array
    """(N,), by torch float32."""
    sample_rate: int
    mel: MelSpec | None
    """The family's own; None where it takes a latent."""
    trained: bool
    """Are the weights more than random numbers?"""
    recording: Array | None = None
    """(N,), what both try to sound like, where there is one."""
    _shared: dict[tuple[str, tuple[Role, ...]], Any] = field(default_factory=dict, repr=False)
    _own: dict[tuple[str, tuple[Role, ...]], Any] = field(default_factory=dict, repr=False, init=False)

    def __post_init__(self) -> None:
        shapes = [audio.shape for audio in (self.made, self.reference, self.recording) if audio is not None]
        if any(len(shape) != 1 or shape != shapes[0] for shape in shapes):
            found = f"their shapes are {', '.join(map(str, shapes))}."
            raise InputError("audio to compare", found, "Give one channel (samples,) each, all equally long.")

    def with_made(self, made: Array) -> Pair:
        """The same for another contender; work on the reference and the recording is not done again."""
        return replace(self, made=made)

    def once(self, work: str, roles: tuple[Role, ...], compute: Callable[[], Found]) -> Found:
        """What `compute` returns, kept: for all contenders unless `roles` name what this one made."""
        kept = self._own if "made" in roles else self._shared
        if (work, roles) not in kept:
            kept[work, roles] = compute()
        found: Found = kept[work, roles]
        return found

    def audio(self, role: Role) -> Array:
        """(N,) finite samples."""
        audio: Array | None = getattr(self, role)
        if audio is None:
            raise SaysNothing("there is no recording")
        if audio.size == 0:
            raise SaysNothing(f"{CALLED[role]} is empty")
        if not np.isfinite(audio).all():
            raise SaysNothing(f"{CALLED[role]} has NaN or infinite samples")
        # Torch takes no views that run backwards or stand still.
        return np.ascontiguousarray(audio, np.float32)

    def sound(self, role: Role) -> Array:
        """The same, and not silent."""
        audio = self.audio(role)
        if _silent(audio):
            raise SaysNothing(f"{CALLED[role]} is silent")
        return audio

    def sound_at(self, role: Role, sample_rate: int) -> Array:
        """The same at another rate."""
        audio = self.sound(role)
        made = self.once(f"at {sample_rate} Hz", (role,), lambda: resample(audio, self.sample_rate, sample_rate))
        if _silent(made):
            raise SaysNothing(f"{CALLED[role]} is silent below {sample_rate / 2000:g} kHz")
        return made


def _silent(audio: Array) -> bool:
    return bool(np.max(np.abs(audio), initial=0.0) < SILENT_BELOW)


@dataclass(frozen=True)
class Metric:
    """A question about a pair, and what is needed to ask it."""

    title: str
    unit: str
    better: Better
    needs: tuple[str, ...]
    """Optional packages, by module name."""
    for_trained_only: bool
    """It judges voices; random weights make noise."""
    measure: Callable[[Pair], float]

    def __call__(self, pair: Pair) -> float:
        """A finite value, or SaysNothing."""
        if self.for_trained_only and not pair.trained:
            raise SaysNothing("the weights are random: what they make is noise, no voice")
        with asking(self.title):
            for module in self.needs:
                require(module, self.title)
            value = float(self.measure(pair))
        if not math.isfinite(value):
            raise SaysNothing(f"{self.title} came out as {value}")
        return value


metrics: Registry[Metric] = Registry("metric", "trt_svc.bench.quality")


def metric(
    name: str, title: str, *, unit: str, better: Better, needs: tuple[str, ...] = (), for_trained_only: bool = False
) -> Callable[[Callable[[Pair], float]], Callable[[Pair], float]]:
    """Function decorator that files the question under `name`."""

    def file_it(measure: Callable[[Pair], float]) -> Callable[[Pair], float]:
        metrics.register(name)(Metric(title, unit, better, needs, for_trained_only, measure))
        return measure

    return file_it


@contextmanager
def asking(whom: str) -> Iterator[None]:
    """Without the warnings of libraries; an error of theirs becomes the reason for saying nothing."""
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            yield
    except SaysNothing:
        raise
    except MissingExtra as err:
        raise SaysNothing(f"{err.found} {err.advice}") from err
    except Exception as err:
        raise SaysNothing(f"{whom} gave up: {type(err).__name__}: {shown(str(err))}") from err


def judged(pair: Pair, names: Iterable[str] | None = None) -> tuple[dict[str, float | None], dict[str, str]]:
    """(value by name, None where there is none; why there is none, by name) for all metrics or those named."""
    values: dict[str, float | None] = {}
    notes: dict[str, str] = {}
    for name in metrics.names() if names is None else names:
        try:
            values[name] = metrics.get(name)(pair)
        except SaysNothing as why:
            values[name], notes[name] = None, str(why)
    return values, notes
