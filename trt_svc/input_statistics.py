"""What an input is likely to be, told from its values: natural log or log10, Hz or semitones.

Everything works on NumPy arrays and on torch tensors of any device; only single numbers come back from there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from trt_svc.types import Array

Floats = Any
"""A NumPy array or a torch tensor of float32."""

MIN_FRAMES = 20
SAMPLED_VALUES = 1 << 17
LOG10_FLOOR = -5.0
"""log10 of the 1e-5 at which every front end clips; in natural log it is -11.51."""
LOG10_LOWEST, LOG10_HIGHEST = -5.01, 1.8
LOG10_QUIET = -2.5
LOG10_SPREAD = 2.6
MAX_FLUTTER = 0.14
MAX_MOVEMENT = 0.16
"""Between frames a quarter window apart the ln mel of noise moves by 0.2 (median), at any level; log10 by 0.09."""
MAX_NORMALISED_FLUTTER = 0.08
FLOOR_SHARE = 0.02


@dataclass(frozen=True)
class Profile:
    """Robust statistics of a mel (B, n_mels, T)."""

    low: float
    """1% of the values are lower."""
    middle: float
    high: float
    """1% of the values are higher."""
    flutter: float
    """Median change from frame to frame of the quieter half."""
    movement: float
    """Median change from frame to frame of everything."""
    at_log10_floor: float
    """Share of values at -5."""


def extremes(values: Floats) -> tuple[float, float]:
    """Lowest and highest value; NaN if any is; one transfer from a device."""
    if isinstance(values, np.ndarray):
        with np.errstate(invalid="ignore"):
            return float(values.min()), float(values.max())
    import torch

    low, high = torch.stack(torch.aminmax(values)).tolist()
    return low, high


def profile(mel: Floats) -> Profile:
    """Statistics of evenly spaced pairs of neighbouring frames."""
    first, second = _frame_pairs(mel)
    change, height = abs(second - first).reshape(-1), ((first + second) / 2).reshape(-1)
    levels = _ordered(first.reshape(-1))
    quiet = change[height <= _quantile(_ordered(height), 0.5)]
    at_floor = abs(first - LOG10_FLOOR) < 1e-3
    return Profile(
        low=float(_quantile(levels, 0.01)),
        middle=float(_quantile(levels, 0.5)),
        high=float(_quantile(levels, 0.99)),
        flutter=float(_quantile(_ordered(quiet), 0.5)),
        movement=float(_quantile(_ordered(change), 0.5)),
        at_log10_floor=float(at_floor.sum()) / max(1, len(change)),
    )


def _frame_pairs(mel: Floats) -> tuple[Floats, Floats]:
    batch, n_mels, frames = mel.shape
    pairs = batch * (frames - 1)
    chosen = np.unique(np.linspace(0, pairs - 1, min(pairs, max(256, SAMPLED_VALUES // n_mels))).astype(np.int64))
    item, frame = (_beside(mel, index) for index in np.divmod(chosen, frames - 1))
    return mel[item, :, frame], mel[item, :, frame + 1]


def _beside(mel: Floats, index: Any) -> Any:
    """An index of the same kind and on the same device as the mel."""
    if isinstance(mel, np.ndarray):
        return index
    import torch

    return torch.from_numpy(index).to(mel.device)


def _ordered(values: Floats) -> Floats:
    return np.sort(values) if isinstance(values, np.ndarray) else values.sort().values


def _quantile(ordered: Floats, share: float) -> Floats:
    return ordered[round(share * (len(ordered) - 1))]


def foreign_scale(mel: Floats, lowest: float, highest: float) -> tuple[str, str] | None:
    """(what a mel looks like, what to do) where it is clearly not natural log; `lowest` and `highest` are its own."""
    if mel.shape[2] < MIN_FRAMES or highest - lowest < 1e-6:
        return None
    for could_be, looks, advice in _SCALES:
        # The extremes rule out nearly every mel before anything is sorted.
        if could_be(lowest, highest):
            seen = profile(mel)
            return advice if looks(seen) else None
    return None


def _could_be_log10(lowest: float, highest: float) -> bool:
    return LOG10_LOWEST <= lowest <= LOG10_QUIET and highest <= LOG10_HIGHEST and highest - lowest > 1


def _is_log10(seen: Profile) -> bool:
    wide = seen.low <= LOG10_QUIET and seen.high - seen.low >= LOG10_SPREAD
    still = seen.flutter <= MAX_FLUTTER and seen.movement <= MAX_MOVEMENT
    return still and (wide or seen.at_log10_floor >= FLOOR_SHARE)


def _could_be_decibels(lowest: float, highest: float) -> bool:
    return -200 <= lowest <= -30 and highest <= 60


def _is_decibels(seen: Profile) -> bool:
    return seen.middle <= -20 and seen.high - seen.low >= 25


def _could_be_linear(lowest: float, highest: float) -> bool:
    return lowest >= 0 and highest > 0


def _is_linear(seen: Profile) -> bool:
    return seen.high > 0 and seen.middle <= 0.2 * seen.high


def _could_be_normalised(lowest: float, highest: float) -> bool:
    return -1.1 <= lowest <= -0.5 and highest <= 1.1


def _is_normalised(seen: Profile) -> bool:
    return seen.flutter <= MAX_NORMALISED_FLUTTER and seen.high - seen.low >= 0.5


_SCALES = (
    (_could_be_log10, _is_log10, ("log10", "Multiply it by 2.302585.")),
    (_could_be_decibels, _is_decibels, ("decibels", "Multiply it by 0.1151293 if it is 20*log10 of the magnitude.")),
    (_could_be_linear, _is_linear, ("magnitudes without a logarithm", "Use np.log(np.maximum(mel, 1e-5)).")),
    (
        _could_be_normalised,
        _is_normalised,
        ("a mel normalised to -1..1", "Undo that; for GPT-SoVITS' scale it is (mel + 1) * 7 - 12."),
    ),
)


def foreign_pitch(f0: Array) -> tuple[str, str] | None:
    """(what a pitch curve looks like, what to do) where it is clearly not in Hz."""
    voiced = f0[f0 > 0]
    if len(voiced) < MIN_FRAMES:
        return None
    low, high = float(voiced.min()), float(voiced.max())
    if low >= 24 and high <= 96 and float(np.median(voiced)) < 84:
        return "semitones (MIDI notes)", "Give Hz: 440 * 2 ** ((note - 69) / 12), and 0 where unvoiced."
    if low >= 3 and high <= 8:
        return "the natural logarithm of Hz", "Give Hz: np.exp(f0), and 0 where unvoiced."
    return None
