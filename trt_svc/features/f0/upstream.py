"""so-vits-svc's rules around its pitch estimators: one f0 and one voiced mark per unit frame.

The voice model is given a continuous f0, with gaps bridged; only the marks (`uv`) say what was sung. Upstream has two
sets of rules, one for pm, dio and harvest and one for the neural methods. They differ where a single frame is voiced.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from trt_svc.errors import InputError, shown
from trt_svc.features.f0.base import F0Estimator, f0_estimators
from trt_svc.types import Array, Doubles

UpstreamPitch = tuple[Doubles, Array]
"""f0 (frames,) in Hz, continuous, and uv (frames,): 1 where voiced."""

DEFAULT_THRESHOLD = 0.05
UNVOICED_BELOW_HZ = 0.001


@runtime_checkable
class UpstreamEstimator(Protocol):
    """A method that so-vits-svc has, with its own rules around it."""

    def like_upstream(self, wav: Array, sample_rate: int, hop_samples: int, threshold: float) -> UpstreamPitch: ...


def f0_like_upstream(
    method: str | F0Estimator, wav: Array, sample_rate: int, hop_samples: int, threshold: float = DEFAULT_THRESHOLD
) -> UpstreamPitch:
    """(f0, uv) of `len(wav) // hop_samples` frames, as so-vits-svc hands them to its model.

    `method` is a registered name or an estimator, which keeps its network loaded between calls. `threshold` is the
    confidence below which crepe, rmvpe and fcpe hear no pitch. Methods that upstream lacks get its later rules.
    """
    _check(wav, sample_rate, hop_samples)
    frames = len(wav) // hop_samples
    if frames == 0:
        return np.zeros(0), np.zeros(0, np.float32)
    estimator = f0_estimators.get(method)() if isinstance(method, str) else method
    if isinstance(estimator, UpstreamEstimator):
        return estimator.like_upstream(wav, sample_rate, hop_samples, threshold)
    track = estimator(wav, sample_rate)
    return post_process(track.at_frames(frames, hop_samples, sample_rate), frames, hop_samples, sample_rate)


def _check(wav: Array, sample_rate: int, hop_samples: int) -> None:
    if wav.ndim != 1 or wav.dtype.kind != "f" or not np.isfinite(wav).all():
        raise InputError(
            "pitch of a recording",
            f"it is an array of shape {shown(wav.shape)}, {wav.dtype}, or holds NaN or Inf.",
            "Give finite samples (n,) as floats.",
        )
    if sample_rate < 1 or hop_samples < 1:
        raise InputError(
            "pitch of a recording",
            f"sample rate {sample_rate} Hz, hop {hop_samples} samples.",
            "Give positive whole numbers.",
        )


# The rules of pm, dio and harvest.


def interpolate_f0(f0_hz: Doubles, hop_samples: int, sample_rate: int) -> UpstreamPitch:
    """Gaps bridged in a straight line, edges held; with a single voiced frame, the *first* value everywhere."""
    f0 = np.asarray(f0_hz, np.float64)
    voiced = f0 > 0
    (places,) = voiced.nonzero()
    if len(places) == 0:
        bridged = np.zeros(len(f0))
    elif len(places) == 1:
        # Upstream takes f0[0] and not the voiced frame's value: usually 0.
        bridged = np.full(len(f0), f0[0])
    else:
        # The times of voiced frames are in single precision and those of all frames are not, which shows in the
        # sixth digit.
        known_s = np.float32(hop_samples / sample_rate) * places.astype(np.float32)
        bridged = np.interp(np.arange(len(f0)) * hop_samples / sample_rate, known_s, f0[places])
    return bridged, voiced.astype(np.float32)


def resize_f0(f0_hz: Doubles, frames: int) -> Doubles:
    """As many frames, read in a straight line between neighbours; between voiced and unvoiced there is nothing."""
    if len(f0_hz) == 0:
        return np.zeros(frames)
    gaps = np.where(np.asarray(f0_hz, np.float64) < UNVOICED_BELOW_HZ, np.nan, f0_hz)
    places = np.arange(frames) * len(gaps) / max(frames, 1)
    return np.nan_to_num(np.interp(places, np.arange(len(gaps)), gaps))


# The rules of crepe, rmvpe and fcpe.


def post_process(f0_hz: Array | Doubles, frames: int, hop_samples: int, sample_rate: int) -> UpstreamPitch:
    """The nearest value for every frame, then gaps bridged over time and edges held."""
    f0 = nearest(np.asarray(f0_hz), frames).astype(np.float64)
    voiced = f0 > 0
    (places,) = voiced.nonzero()
    if len(places) == 0:
        return np.zeros(frames), np.zeros(frames, np.float32)
    known_s = places * (hop_samples / sample_rate)
    bridged = np.interp(np.arange(frames) * hop_samples / sample_rate, known_s, f0[places])
    return bridged, voiced.astype(np.float32)


def nearest(values: npt.NDArray[Any], frames: int) -> npt.NDArray[Any]:
    """`frames` of the values, chosen as torch's "nearest" interpolation does: in single precision, rounded down."""
    if len(values) == 0:
        return np.zeros(frames, values.dtype)
    step = np.float32(len(values)) / np.float32(max(frames, 1))
    places = np.floor(np.arange(frames, dtype=np.float32) * step).astype(np.int64)
    chosen: npt.NDArray[Any] = values[np.minimum(places, len(values) - 1)]
    return chosen


def masked_median(values: Array, width: int = 3) -> Array:
    """The lower median of the neighbours that are not NaN; NaN where all are."""
    if len(values) == 0:
        return values
    windows = _windows(np.where(np.isnan(values), np.inf, values), width, np.inf)
    count = (windows < np.inf).sum(axis=1)
    middle = np.take_along_axis(np.sort(windows, axis=1), np.maximum(count - 1, 0)[:, None] // 2, axis=1)[:, 0]
    return np.where(middle == np.inf, np.nan, middle).astype(np.float32)


def masked_mean(values: Array, width: int = 3) -> Array:
    """The mean of the neighbours that are not NaN ("f0 mean pooling"); NaN where all are, or where it is 0."""
    if len(values) == 0:
        return values
    present = _windows(~np.isnan(values), width, False)
    total = _windows(np.nan_to_num(values), width, 0.0).sum(axis=1)
    mean = total / np.maximum(present.sum(axis=1), 1)
    return np.where(mean == 0, np.nan, mean).astype(np.float32)


def _windows(values: npt.NDArray[Any], width: int, outside: float) -> npt.NDArray[Any]:
    side = width // 2
    padded = np.pad(values, (side, width - 1 - side), constant_values=outside)
    return np.lib.stride_tricks.sliding_window_view(padded, width)
