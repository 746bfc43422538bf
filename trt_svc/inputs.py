"""What users hand to a vocoder, checked: shapes, ranges and the mistakes that make wrong sounds."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from trt_svc.arrays import is_tensor, repeated
from trt_svc.config import AudioSpec
from trt_svc.errors import InputError, shown
from trt_svc.input_statistics import Floats, extremes, foreign_pitch, foreign_scale
from trt_svc.types import Array
from trt_svc.voice import Voice

SPARE_F0_FRAMES = 2
_OWN_MODULES = ("trt_svc", "contextlib", "torch.utils._contextlib")


@dataclass(frozen=True)
class Utterance:
    """Checked inputs, float32. On the host, unless tensors are kept: then a tensor stays one, where it is."""

    mel: Floats
    f0: Array | None
    """Always on the host: the source is made there."""
    speaker: Floats | None

    @property
    def batch(self) -> int:
        return int(self.mel.shape[0])

    @property
    def frames(self) -> int:
        return int(self.mel.shape[2])


@dataclass(frozen=True)
class _Given:
    """An input as float32, and how it came."""

    values: Floats
    dtype: str
    lowest: float
    highest: float

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.values.shape)

    def __str__(self) -> str:
        if 0 in self.shape:
            return f"{self.shape} ({self.dtype}, no values)"
        return f"{self.shape} ({self.dtype}, values {self.range})"

    @property
    def range(self) -> str:
        return f"{self.lowest:.4g} to {self.highest:.4g}"


def warn_caller(message: str, category: type[Warning] = UserWarning) -> None:
    """A warning that points at the line outside of this package that led here."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and _is_own(frame.f_globals.get("__name__", "")):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)


def _is_own(module: str) -> bool:
    return any(module == own or module.startswith(f"{own}.") for own in _OWN_MODULES)


def _warn_once(seen: set[str], what: str, message: str) -> None:
    if what not in seen:
        seen.add(what)
        warn_caller(message)


def as_array(name: str, value: Any) -> Array:
    """float32 on the host, or an InputError."""
    array: Array = _given(name, value).values
    return array


def _given(name: str, value: Any, keep_tensors: bool = False, gaps: str = "") -> _Given:
    """An input as finite float32, or an InputError. `gaps` says what belongs in the place of NaN."""
    source = _numbers(name, value)
    floats = _float32(name, source)
    if not keep_tensors and is_tensor(floats):
        # A view that is negated lazily has no NumPy form.
        floats = floats.cpu().resolve_neg().numpy()
    lowest, highest = extremes(floats) if 0 not in floats.shape else (0.0, 0.0)
    if not (np.isfinite(lowest) and np.isfinite(highest)):
        raise _not_finite(name, source, gaps)
    return _Given(floats, str(source.dtype), lowest, highest)


def _numbers(name: str, value: Any) -> Any:
    """An array or a dense tensor of real numbers, as given."""
    if is_tensor(value):
        return _dense(name, value)
    try:
        array = np.asanyarray(value)
    except MemoryError:
        raise
    except Exception as err:
        # An object that says it is an array runs its own code here, and that may raise anything.
        raise _not_numbers(name, value, shown(str(err)) or type(err).__name__) from err
    if array.dtype.kind not in "fiu" and array.dtype.name != "bfloat16":
        raise _not_numbers(name, value, f"its dtype is {shown(str(array.dtype))}")
    if isinstance(array, np.ma.MaskedArray) and np.ma.is_masked(array):
        hidden = np.ma.getmaskarray(array)
        raise InputError(
            name, f"{_count(hidden.sum())} masked, {_place(hidden)}.", "Fill them: array.filled(...), f0 with 0."
        )
    return np.asarray(array)


def _dense(name: str, tensor: Any) -> Any:
    import torch

    if tensor.is_nested or tensor.layout != torch.strided:
        kind = "nested" if tensor.is_nested else str(tensor.layout).removeprefix("torch.")
        raise InputError(name, f"it is a {kind} tensor ({tensor.dtype}).", "Give a dense one: tensor.to_dense().")
    if tensor.is_meta:
        raise InputError(
            name, f"it is on the meta device, shape {tuple(tensor.shape)}, without values.", "Give one with values."
        )
    if tensor.dtype == torch.bool or tensor.is_complex() or tensor.is_quantized:
        raise _not_numbers(name, tensor, f"its dtype is {tensor.dtype}")
    return tensor.detach()


def _float32(name: str, source: Any) -> Floats:
    try:
        if is_tensor(source):
            return source.float().contiguous()
        with np.errstate(all="ignore"):
            return np.asarray(source, np.float32, order="C")
    except (TypeError, ValueError, RuntimeError) as err:
        raise _not_numbers(name, source, f"its dtype is {source.dtype}") from err


def _not_numbers(name: str, value: object, why: str) -> InputError:
    found = f"a {shown(type(value).__name__)} is not an array of numbers ({why})."
    return InputError(name, found, "Give a NumPy array or a torch tensor of real numbers.")


def _not_finite(name: str, source: Any, gaps: str) -> InputError:
    values = source.double().cpu().resolve_neg().numpy() if is_tensor(source) else source
    came_as = f"its shape is {values.shape} ({source.dtype})"
    bad = ~np.isfinite(values)
    if not bad.any():
        with np.errstate(over="ignore"):
            bad = ~np.isfinite(values.astype(np.float32))
        largest = f"{np.abs(values[bad]).max():.4g}"
        found = f"{came_as}; {_count(bad.sum())} too large for float32 (up to {largest}), {_place(bad)}."
        return InputError(name, found, "Check the scale of what made it.")
    nans = int(np.isnan(values).sum())
    found = f"{came_as}; {_count(nans)} NaN and {int(bad.sum()) - nans} infinite, {_place(bad)}."
    return InputError(name, found, gaps if nans and gaps else "Repair what made it.")


def _count(number: int) -> str:
    return "1 value is" if number == 1 else f"{number} values are"


def _place(bad: Any) -> str:
    return f"the first at {tuple(int(i) for i in np.unravel_index(int(np.argmax(bad)), bad.shape))}"


def as_wave(value: Any) -> Array:
    """Audio (samples,) or (batch, samples), float32; integers are scaled from their full range."""
    given = _given("audio", value)
    wave: Array = given.values
    kind = given.dtype.removeprefix("torch.")
    if "int" in kind:
        wave = wave / np.float32(2.0 ** (8 * np.dtype(kind).itemsize - 1))
    if wave.ndim not in (1, 2) or 0 in wave.shape:
        raise InputError("audio", f"its shape is {given}.", "Give (samples,) or (batch, samples) with samples.")
    return wave


def check_amount(name: str, value: Any, advice: str) -> float:
    """A finite number, 0 or more."""
    if isinstance(value, (int, float, np.floating, np.integer)) and np.isfinite(value) and value >= 0:
        return float(value)
    raise InputError(name, f"{shown(value)} is not usable.", advice)


def check_rate(sample_rate: Any) -> int:
    """A whole sample rate in Hz, or an InputError."""
    whole = isinstance(sample_rate, (int, np.integer)) or (isinstance(sample_rate, float) and sample_rate.is_integer())
    if not whole or not 1000 <= sample_rate <= 768_000:
        raise InputError(
            "sample_rate", f"{shown(sample_rate)} is not usable.", "Give the rate of the audio in Hz, such as 44100."
        )
    return int(sample_rate)


def check_utterance(
    spec: AudioSpec, mel: Any, f0: Any, speaker: Any, keep_tensors: bool = False, seen: set[str] | None = None
) -> Utterance:
    """The inputs of one call, or an InputError with the exact shape, type and range seen.

    keep_tensors: a torch mel or speaker stays a tensor on its device. seen: warnings already given.
    """
    seen = set() if seen is None else seen
    checked = _check_mel(spec, mel, keep_tensors, seen)
    batch, _, frames = checked.shape
    if batch == 0 or frames == 0:
        raise InputError("mel", f"its shape {checked} holds nothing.", "Give at least one frame.")
    curve = _check_f0(spec, f0, batch, frames, SPARE_F0_FRAMES, seen)
    return Utterance(checked.values, curve, check_speaker(spec, speaker, batch, frames, keep_tensors, seen))


def check_network_inputs(voice: Voice, inputs: Mapping[str, Any], keep_tensors: bool) -> dict[str, Floats]:
    """The network's own inputs of one call, or an InputError; a value for all frames is repeated."""
    checked: dict[str, Floats] = {}
    for spec in voice.inputs:
        if spec.name not in inputs:
            raise InputError(spec.name, "it was not given.", "Give every input of `voice.inputs`.")
        given = _given(spec.name, inputs[spec.name], keep_tensors)
        batch, frames = (given.shape[0], given.shape[-1]) if not checked else checked["mel"].shape[::2]
        shape = (batch, spec.channels, int(frames * spec.per_frame))
        values = given.values
        if spec.name == "speaker" and given.shape in (shape[:2], (*shape[:2], 1)):
            values = repeated(values.reshape(*shape[:2], 1), frames)
        if tuple(values.shape) != shape or 0 in shape:
            raise InputError(spec.name, f"its shape is {given}.", f"It must be {shape}, with at least one frame.")
        checked[spec.name] = values
    return checked


def check_piece(
    spec: AudioSpec,
    mel: Any,
    f0: Any,
    batch: int | None,
    keep_tensors: bool = False,
    seen: set[str] | None = None,
) -> Utterance:
    """One push of a stream, checked like a call; it may hold no frames.

    batch: that of the earlier pushes, None before the first. seen: warnings that the stream has given already.
    """
    seen = set() if seen is None else seen
    checked = _check_mel(spec, mel, keep_tensors, seen)
    found, _, frames = checked.shape
    if found == 0:
        raise InputError("mel", f"its shape {checked} holds nothing.", "Give at least one voice.")
    if batch is not None and found != batch:
        raise InputError(
            "mel of a stream",
            f"its shape {checked} has a batch of {found}, the earlier pushes had {batch}.",
            "Keep the batch, or open another stream.",
        )
    if f0 is None and frames == 0:
        return Utterance(checked.values, np.zeros((found, 0), np.float32) if spec.needs_f0 else None, None)
    return Utterance(checked.values, _check_f0(spec, f0, found, frames, 0, seen), None)


def _check_mel(spec: AudioSpec, mel: Any, keep_tensors: bool, seen: set[str]) -> _Given:
    given = _given("mel", mel, keep_tensors)
    if len(given.shape) != 3 or given.shape[1] != spec.n_mels:
        raise InputError(
            f"mel for a vocoder with {spec.n_mels} bands",
            f"its shape is {given}, expected (batch, {spec.n_mels}, frames).",
            _shape_advice(spec, given.shape),
        )
    if spec.mel is not None and "mel scale" not in seen:
        likely = foreign_scale(given.values, given.lowest, given.highest)
        if likely is not None:
            looks, advice = likely
            found = f"the mel looks like {looks} (values {given.range}); this vocoder expects the natural logarithm."
            _warn_once(seen, "mel scale", f"{found} {advice}")
    return given


def _shape_advice(spec: AudioSpec, shape: tuple[int, ...]) -> str:
    if len(shape) == 3 and shape[2] == spec.n_mels:
        return "It looks transposed: swap the last two axes."
    if len(shape) == 2:
        turned = shape[1] == spec.n_mels != shape[0]
        return f"Add a batch axis if it is missing{', and swap the other two' if turned else ''}."
    if len(shape) == 4 and 1 in shape:
        return "Take out the axis of length 1."
    return (
        "Use the mel of this vocoder: v.mel(audio, sample_rate)." if spec.mel else "Use the latent of its voice model."
    )


def _check_f0(spec: AudioSpec, f0: Any, batch: int, frames: int, spare: int, seen: set[str]) -> Array | None:
    if not spec.needs_f0:
        if f0 is not None:
            _warn_once(seen, "f0", "f0 was given, but this vocoder has no pitch input; it is ignored")
        return None
    if f0 is None:
        raise InputError(
            "f0",
            "none was given, but this vocoder has a harmonic source.",
            f"Give f0 in Hz, shape ({batch}, {frames}), 0 where unvoiced.",
        )
    given = _given("f0", f0, gaps="Use 0 where unvoiced: np.nan_to_num(f0).")
    curve = _f0_rows(given, batch, frames, spare, seen)
    if given.lowest < 0:
        raise InputError("f0", f"its lowest value is {given.lowest:g} Hz, in {given}.", "Use 0 for unvoiced frames.")
    if given.highest >= spec.max_f0_hz:
        found = f"its highest value is {given.highest:g} Hz, in {given}; this source reaches {spec.max_f0_hz:g} Hz."
        raise InputError("f0", found, "Give f0 in Hz.")
    likely = foreign_pitch(curve)
    if likely is not None:
        looks, advice = likely
        _warn_once(seen, "f0 unit", f"f0 looks like {looks} (values {given.range}), not Hz. {advice}")
    return curve


def _f0_rows(given: _Given, batch: int, frames: int, spare: int, seen: set[str]) -> Array:
    """(batch, frames), from the shapes in use."""
    curve: Array = given.values
    if curve.ndim == 1 and batch == 1:
        curve = curve[None]
    if curve.ndim == 3 and 1 in curve.shape[1:]:
        curve = curve[:, 0] if curve.shape[1] == 1 else curve[:, :, 0]
    if curve.ndim == 2 and curve.shape[0] == batch and frames < curve.shape[1] <= frames + spare:
        cut = f"f0 has {curve.shape[1]} frames for a mel of {frames}: its end is cut off, as upstream does"
        _warn_once(seen, "f0 length", cut)
        curve = curve[:, :frames]
    if curve.shape != (batch, frames):
        raise InputError(
            "f0", f"its shape is {given}.", f"It must be ({batch}, {frames}): one value in Hz per mel frame."
        )
    return np.ascontiguousarray(curve)


def check_speaker(
    spec: AudioSpec,
    speaker: Any,
    batch: int,
    frames: int | None,
    keep_tensors: bool = False,
    seen: set[str] | None = None,
) -> Floats | None:
    """The embedding (batch, channels, 1 or frames), or None where there is no such input.

    frames: None where only a constant embedding will do, as in a stream.
    """
    if not spec.needs_speaker:
        if speaker is not None:
            ignored = "a speaker was given, but this vocoder has no speaker input; it is ignored"
            _warn_once(set() if seen is None else seen, "speaker", ignored)
        return None
    constant = f"({batch}, {spec.speaker_channels}, 1)"
    if speaker is None:
        per_frame = "" if frames is None else " or one per frame"
        raise InputError(
            "speaker",
            "none was given, but this vocoder needs one.",
            f"Give an embedding of shape {constant}{per_frame}.",
        )
    given = _given("speaker", speaker, keep_tensors)
    embedding = given.values[:, :, None] if len(given.shape) == 2 else given.values
    lengths = (1,) if frames is None else (1, frames)
    if tuple(embedding.shape[:2]) != (batch, spec.speaker_channels) or tuple(embedding.shape[2:]) not in {
        (length,) for length in lengths
    }:
        other = "" if frames is None else f" or ({batch}, {spec.speaker_channels}, {frames})"
        raise InputError("speaker", f"its shape is {given}.", f"It must be {constant}{other}.")
    return embedding
