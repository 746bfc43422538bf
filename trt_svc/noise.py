"""Random numbers by absolute position.

Every random number of a vocoder is a pure function of (seed, stream name, position), so a clip sounds
the same alone, in a batch, in a chunk, in a stream and on every backend. The generator is NumPy's
counter-based Philox4x64-10, whose bit stream is frozen by NumPy's compatibility policy; Box-Muller
(rather than NumPy's ziggurat, which eats a varying number of words) keeps one number per position.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import numpy as np
import numpy.typing as npt

from trt_svc.errors import InputError, shown
from trt_svc.types import Array

WORDS_PER_BLOCK = 4
# Vectorised float32 log/sin/cos may treat the ragged end of an array differently from its body, so
# transforms always run over whole tiles: the same position then sits in the same lane in every call.
TILE_WORDS = 1024


def stream_key(stream: str) -> int:
    """The second word of the generator's key; the first is the seed."""
    return int.from_bytes(hashlib.sha256(stream.encode()).digest()[:8], "little")


def _words(seed: int, stream: str, start: int, stop: int) -> npt.NDArray[np.uint64]:
    """Words [start, stop) of a stream; both are multiples of WORDS_PER_BLOCK."""
    # As uint64 arrays: from lists NumPy would go through float64 for keys of 2**63 and above.
    key = np.array([seed, stream_key(stream)], np.uint64)
    generator = np.random.Philox(key=key, counter=np.array([start // WORDS_PER_BLOCK, 0, 0, 0], np.uint64))
    return np.asarray(generator.random_raw(stop - start), dtype=np.uint64)


def _tile_bounds(start: int, stop: int, per_word: int) -> tuple[int, int]:
    first = start // (per_word * TILE_WORDS) * TILE_WORDS
    last = -(-stop // (per_word * TILE_WORDS)) * TILE_WORDS
    return first, max(last, first + TILE_WORDS)


def normals(seed: int, stream: str, start: int, stop: int) -> Array:
    """Standard normal numbers at positions [start, stop)."""
    first, last = _tile_bounds(start, stop, 2)
    words = _words(seed, stream, first, last)
    high = (words >> np.uint64(32)).astype(np.float32) + np.float32(0.5)
    radius = np.sqrt(np.float32(-2.0) * np.log(high * np.float32(2.0**-32)).clip(max=np.float32(0)))
    # The low half read as a signed number: an angle in [-pi, pi).
    angle = words.astype(np.uint32).view(np.int32).astype(np.float32) * np.float32(np.pi * 2.0**-31)
    pair = np.empty((words.size, 2), np.float32)
    np.multiply(radius, np.cos(angle), out=pair[:, 0])
    np.multiply(radius, np.sin(angle), out=pair[:, 1])
    return pair.reshape(-1)[start - 2 * first : stop - 2 * first]


def uniforms(seed: int, stream: str, start: int, stop: int) -> Array:
    """Uniform numbers in [0, 1) at positions [start, stop)."""
    first, last = _tile_bounds(start, stop, 1)
    words = _words(seed, stream, first, last)
    return ((words >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24))[start - first : stop - first]


@dataclass(frozen=True)
class NoiseField:
    """One random input of a vocoder: its name, law and shape, as upstream draws it."""

    name: str
    law: Literal["normal", "uniform"]
    channels: int
    per_frame: int | Fraction
    """Positions per mel frame; 0 for a value that does not change with time."""
    channels_last: bool = False
    shared_by_batch: bool = False
    unit_axes: int = 0
    """Extra axes of length 1 in front of the channels, as in upstream's (1, 1, 9)."""

    def shape(self, batch: int, frames: int) -> tuple[int, ...]:
        """Shape of the array for a whole utterance."""
        rows = 1 if self.shared_by_batch else batch
        if self.per_frame == 0:
            return (rows, *(1,) * self.unit_axes, self.channels)
        time = int(frames * self.per_frame)
        return (rows, time, self.channels) if self.channels_last else (rows, self.channels, time)


class Noise:
    """The random inputs of one call: arrays handed in where there are any, seeded numbers elsewhere."""

    def __init__(
        self,
        fields: tuple[NoiseField, ...],
        seeds: tuple[int, ...],
        given: Mapping[str, Array] | None = None,
        first_frame: int | Sequence[int] = 0,
    ) -> None:
        """first_frame: where in a longer recording frame 0 lies (one for all rows, or one each).

        Seeded numbers are those of there.
        """
        self.fields = {field.name: field for field in fields}
        self.seeds = seeds
        self.given = dict(given or {})
        self.places = tuple(zip(seeds, _one_each(first_frame, len(seeds)), strict=True))
        """Seed and first frame of every row."""

    def constant(self, name: str) -> Array:
        """A time-independent field as (batch, channels)."""
        field = self.fields[name]
        if name in self.given:
            values = self.given[name].reshape(-1, field.channels)
            return np.broadcast_to(values, (len(self.seeds), field.channels))
        draw = normals if field.law == "normal" else uniforms
        return np.stack([draw(seed, name, 0, field.channels) for seed in self.seeds])

    def over(self, name: str, start_frame: int, stop_frame: int) -> Array:
        """Frames [start, stop) of a time-varying field, in the field's own axis order."""
        field = self.fields[name]
        start, stop = int(start_frame * field.per_frame), int(stop_frame * field.per_frame)
        if name in self.given:
            whole = self.given[name]
            return whole[:, start:stop] if field.channels_last else whole[:, :, start:stop]
        draw = normals if field.law == "normal" else uniforms
        rows = {}
        for seed, first in dict.fromkeys(self.places):
            moved = int(first * field.per_frame)
            rows[seed, first] = self._row(draw, seed, field, moved + start, moved + stop)
        return np.stack([rows[place] for place in self.places])

    @staticmethod
    def _row(draw: Callable[[int, str, int, int], Array], seed: int, field: NoiseField, start: int, stop: int) -> Array:
        flat = draw(seed, field.name, start * field.channels, stop * field.channels)
        by_time = flat.reshape(stop - start, field.channels)
        return by_time if field.channels_last else by_time.T


def _one_each(first_frame: int | Sequence[int], rows: int) -> tuple[int, ...]:
    given = tuple(first_frame) if isinstance(first_frame, Sequence) else (first_frame,) * rows
    if len(given) != rows or not all(isinstance(first, (int, np.integer)) and first >= 0 for first in given):
        asked = f"first frame {shown(first_frame)} for a batch of {rows}"
        raise InputError(asked, "it is not usable.", "Give one whole number, 0 or more, or one per row.")
    return tuple(int(first) for first in given)


def check_seeds(seed: int | list[int] | tuple[int, ...], batch: int) -> tuple[int, ...]:
    """One seed per batch item: a single number is used for all of them."""
    seeds = tuple(seed) if isinstance(seed, (list, tuple)) else (seed,) * batch
    if len(seeds) != batch:
        raise InputError(
            f"seed for a batch of {batch}", f"{len(seeds)} seeds were given.", "Give one number, or one per batch item."
        )
    if not all(isinstance(s, (int, np.integer)) and not isinstance(s, bool) and 0 <= s < 2**64 for s in seeds):
        raise InputError("seed", f"{shown(seed)} is not usable.", "Use whole numbers from 0 to 2**64 - 1.")
    return tuple(int(s) for s in seeds)


def check_given(
    fields: tuple[NoiseField, ...], given: Mapping[str, Array], batch: int, frames: int
) -> dict[str, Array]:
    """The noise arrays handed to a call as float32, after checking names, shapes and values."""
    known = {field.name: field for field in fields}
    checked: dict[str, Array] = {}
    for name, values in given.items():
        if name not in known:
            names = ", ".join(known) or "none: this vocoder draws no random numbers"
            raise InputError(
                f"noise {name!r}", "this vocoder has no random input of that name.", f"Its noise inputs are: {names}."
            )
        try:
            array = np.asarray(values)
            if array.dtype.kind not in "fiu":
                raise TypeError
            array = array.astype(np.float32)
        except (TypeError, ValueError) as err:
            raise InputError(
                f"noise {name!r}", "it is not an array of numbers.", "Give a NumPy array or a tensor."
            ) from err
        shape = known[name].shape(batch, frames)
        if array.shape != shape:
            raise InputError(
                f"noise {name!r} for batch {batch} and {frames} frames",
                f"its shape is {array.shape}.",
                f"It must be {shape}; see noise_spec(batch, frames).",
            )
        if not np.isfinite(array).all():
            raise InputError(f"noise {name!r}", "it contains NaN or Inf.", "Give finite numbers.")
        checked[name] = array
    return checked
