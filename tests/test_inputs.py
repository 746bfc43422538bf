"""What goes into a vocoder: every mistake is named with what was seen, and nothing right is complained about."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

import trt_svc
from tests.nets import SMALL, random_small
from trt_svc.audio import resample
from trt_svc.config import AudioSpec, MelSpec
from trt_svc.errors import InputError
from trt_svc.features.mel import gpt_sovits_normalised, log10_from_ln, log_mel
from trt_svc.inputs import as_array, as_wave, check_piece, check_speaker, check_utterance, is_tensor, warn_caller
from trt_svc.vocoders.healthy import example_inputs

FRONTS = {
    "80 bands": MelSpec(22050, 1024, 1024, 256, 80, 0, 8000),
    "80 bands, centered": MelSpec(22050, 1024, 1024, 256, 80, 0, 8000, "centered", 0.0),
    "80 bands, full": MelSpec(22050, 1024, 1024, 256, 80, 0, 11025),
    "100 bands": MelSpec(24000, 1024, 1024, 256, 100, 0, 12000),
    "100 bands, 32 kHz": MelSpec(32000, 1280, 1280, 320, 100, 0, 16000, epsilon=1e-8),
    "128 bands": MelSpec(44100, 2048, 2048, 512, 128, 40, 16000, "nvstft"),
    "128 bands, 256x": MelSpec(44100, 1024, 1024, 256, 128, 0, 22050),
}
VOICES = ("spoken", "sung")
N_MELS, FRAMES = 8, 30
MEL = MelSpec(16000, 512, 512, 128, N_MELS, 0, 8000)
PLAIN = AudioSpec(16000, 128, N_MELS, mel=MEL)
SOURCE = AudioSpec(16000, 128, N_MELS, needs_f0=True, mel=MEL)
VOICED = AudioSpec(16000, 128, N_MELS, needs_f0=True, needs_speaker=True, speaker_channels=4)


def front(spec: MelSpec) -> AudioSpec:
    return AudioSpec(spec.sample_rate, spec.hop, spec.n_mels, mel=spec)


def some_mel(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(-4, 2, shape or (1, N_MELS, FRAMES)).astype(np.float32)


def some_f0(*shape: int) -> np.ndarray:
    return np.full(shape or (1, FRAMES), 220.0, np.float32)


@cache
def recording(voice: str, rate: int) -> np.ndarray:
    audio, own_rate = soundfile.read(Path(trt_svc.__file__).parent / f"assets/demo_voice/{voice}.flac", dtype="float32")
    return resample(audio[: 3 * own_rate], own_rate, rate)


@cache
def recorded_mel(voice: str, name: str) -> np.ndarray:
    return log_mel(recording(voice, FRONTS[name].sample_rate), FRONTS[name])


@contextmanager
def silence() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def said(spec: AudioSpec, mel: Any, f0: Any = None) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_utterance(spec, mel, f0, None)
    assert {w.category for w in caught} <= {UserWarning}
    return [str(w.message) for w in caught]


# What is not an array of numbers


class Raising:
    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        raise RuntimeError("my array is on\nfire")


class Plain:
    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return some_mel()


def masked() -> np.ma.MaskedArray:
    mask = np.zeros((1, N_MELS, FRAMES), bool)
    mask[0, 2, 5] = mask[0, 3, 1] = True
    return np.ma.MaskedArray(some_mel(), mask)


def with_values(*values: float, dtype: Any = np.float32) -> np.ndarray:
    mel = some_mel().astype(dtype)
    mel[0, 1, 4 : 4 + len(values)] = values
    return mel


NOT_NUMBERS: dict[str, tuple[Any, str]] = {
    "None": (None, "a NoneType is not an array of numbers .*object"),
    "text": ("song.wav", "a str is not an array of numbers .*dtype is <U8"),
    "bytes": (b"song", "dtype is .S4"),
    "bool": (np.ones((1, N_MELS, FRAMES), bool), "dtype is bool"),
    "complex": (some_mel().astype(complex), "dtype is complex128"),
    "objects": (some_mel().astype(object), "dtype is object"),
    "huge integers": ([[[10**400]]], "dtype is object"),
    "times": (np.zeros((1, N_MELS, FRAMES), "datetime64[s]"), "dtype is datetime64"),
    "records": (np.zeros((1, N_MELS, FRAMES), [("a", "f4")]), "is not an array of numbers"),
    "ragged": ([[1.0], [1.0, 2.0]], "is not an array of numbers .*setting an array element"),
    "raising": (Raising(), "a Raising is not an array of numbers .*my array is on.fire"),
    "module": (torch.nn.Linear(1, 1), "a Linear is not an array of numbers"),
    "dtype": (torch.float32, "a dtype is not an array of numbers"),
    "generator": ((x for x in "ab"), "a generator is not an array of numbers"),
    "graph in a list": ([torch.ones(3, requires_grad=True)], "is not an array of numbers"),
    "bool tensor": (torch.ones(1, N_MELS, FRAMES, dtype=torch.bool), "dtype is torch.bool"),
    "complex tensor": (torch.ones(1, N_MELS, FRAMES, dtype=torch.complex64), "dtype is torch.complex64"),
    "sparse": (torch.ones(1, N_MELS, FRAMES).to_sparse(), r"sparse_coo tensor \(torch.float32\).*to_dense"),
    "meta": (torch.ones(1, N_MELS, FRAMES, device="meta"), rf"meta device, shape \(1, {N_MELS}, {FRAMES}\)"),
    "masked": (masked(), r"2 values are masked, the first at \(0, 2, 5\).*filled"),
    "nan": (
        with_values(np.nan, np.nan),
        r"\(1, 8, 30\) \(float32\); 2 values are NaN and 0 infinite, the first at \(0, 1, 4\)",
    ),
    "inf": (with_values(1, -np.inf), r"0 values are NaN and 1 infinite, the first at \(0, 1, 5\)"),
    "nan and inf": (with_values(np.inf, np.nan, dtype=np.float16), r"\(float16\); 1 value is NaN and 1 infinite"),
    "nan tensor": (torch.from_numpy(with_values(np.nan)), r"\(torch.float32\); 1 value is NaN .*\(0, 1, 4\)"),
    "beyond float32": (
        with_values(1, -1e300, dtype=np.float64),
        r"\(float64\); 1 value is too large for float32 \(up to 1e\+300\), the first at \(0, 1, 5\)",
    ),
    "tensor beyond float32": (torch.from_numpy(with_values(1e300, dtype=np.float64)), "too large for float32"),
}


@pytest.mark.parametrize("keep_tensors", [False, True])
@pytest.mark.parametrize("name", NOT_NUMBERS)
def test_what_is_not_finite_numbers_is_refused(name: str, keep_tensors: bool) -> None:
    value, message = NOT_NUMBERS[name]
    with silence(), pytest.raises(InputError, match=message) as caught:
        check_utterance(PLAIN, value, None, None, keep_tensors)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="f0"):
        check_utterance(SOURCE, some_mel(), value, None)


ARRAYS: dict[str, Any] = {
    "float64": some_mel().astype(np.float64),
    "float16": some_mel().astype(np.float16),
    "big-endian": some_mel().astype(">f4"),
    "longdouble": some_mel().astype(np.longdouble),
    "int8": some_mel().astype(np.int8),
    "uint64": np.full((1, N_MELS, FRAMES), 2**63, np.uint64),
    "lists": some_mel().tolist(),
    "an object with __array__": Plain(),
    "masked nowhere": np.ma.MaskedArray(some_mel()),
    "every other frame": some_mel(1, N_MELS, 2 * FRAMES)[:, :, ::2],
    "fortran": np.asfortranarray(some_mel()),
    "backwards": some_mel()[:, ::-1],
}
TENSORS: dict[str, torch.Tensor] = {
    **{str(d): torch.from_numpy(some_mel()).to(d) for d in (torch.float64, torch.float16, torch.bfloat16, torch.int32)},
    "requires_grad": torch.from_numpy(some_mel()).requires_grad_(),
    "parameter": torch.nn.Parameter(torch.from_numpy(some_mel()).double()),
    "transposed": torch.from_numpy(some_mel(1, FRAMES, N_MELS)).transpose(1, 2),
    "lazily negated": torch.complex(torch.zeros(1, N_MELS, FRAMES), torch.from_numpy(some_mel())).conj().imag,
}


@pytest.mark.parametrize("name", [*ARRAYS, *TENSORS])
def test_every_type_of_real_number_becomes_float32(name: str) -> None:
    value = ARRAYS.get(name, TENSORS.get(name))
    with silence():
        made = check_utterance(PLAIN, value, None, None)
    expected = value.detach().float().resolve_neg().numpy() if is_tensor(value) else np.asarray(value, np.float32)
    assert made.mel.dtype == np.float32
    assert made.mel.flags.c_contiguous
    assert np.array_equal(made.mel, expected)
    assert (made.batch, made.frames) == (1, FRAMES)


@pytest.mark.parametrize("name", TENSORS)
def test_tensors_may_be_kept(name: str) -> None:
    value = TENSORS[name]
    with silence():
        made = check_utterance(SOURCE, value, torch.full((1, FRAMES), 220), None, keep_tensors=True)
    assert isinstance(made.mel, torch.Tensor)
    assert (made.mel.dtype, made.mel.requires_grad, made.mel.is_contiguous()) == (torch.float32, False, True)
    assert torch.equal(made.mel, value.detach().float())
    assert isinstance(made.f0, np.ndarray)
    assert (made.batch, made.frames) == (1, FRAMES)


def test_kept_tensors_leave_arrays_as_they_are() -> None:
    assert isinstance(check_utterance(PLAIN, some_mel(), None, None, keep_tensors=True).mel, np.ndarray)


def test_is_tensor() -> None:
    class Mine(torch.Tensor):
        pass

    assert is_tensor(torch.ones(1).as_subclass(Mine))
    assert not any(is_tensor(x) for x in (torch.float32, torch.Size([1]), torch.nn.Linear(1, 1), np.ones(1), None))


@pytest.mark.parametrize("value", ["x", torch.ones(4, device="meta"), np.ones(4, bool), np.float32(1), [np.nan]])
def test_audio_is_checked_alike(value: Any) -> None:
    with pytest.raises(InputError, match="audio"):
        as_wave(value)


def test_integer_audio_is_scaled() -> None:
    assert np.array_equal(as_wave(np.array([-32768, 16384], np.int16)), np.float32([-1, 0.5]))
    assert np.array_equal(as_wave(torch.tensor([-(2**31)], dtype=torch.int32)), np.float32([-1]))
    assert as_array("x", 3).shape == ()


# Shapes

SHAPES: dict[str, tuple[tuple[int, ...], str]] = {
    "other bands": ((1, 80, FRAMES), rf"8 bands: its shape is \(1, 80, 30\) \(float64, values .* to .*\), expected \(batch, {N_MELS}, frames\). Use the mel of"),
    "transposed": ((2, FRAMES, N_MELS), r"\(2, 30, 8\).*swap the last two axes"),
    "no batch": ((N_MELS, FRAMES), "Add a batch axis"),
    "no batch, transposed": ((FRAMES, N_MELS), "Add a batch axis.* swap the other two"),
    "one band": ((FRAMES,), r"its shape is \(30,\)"),
    "four axes": ((1, 1, N_MELS, FRAMES), "Take out the axis of length 1"),
    "nothing": ((0,), r"its shape is \(0,\) \(float64, no values\)"),
    "no frames": ((1, N_MELS, 0), "at least one frame"),
    "no batch at all": ((0, N_MELS, FRAMES), "holds nothing"),
}  # fmt: skip


@pytest.mark.parametrize("name", SHAPES)
def test_shapes(name: str) -> None:
    shape, message = SHAPES[name]
    for mel in (some_mel(*shape).astype(np.float64), torch.from_numpy(some_mel(*shape))):
        with pytest.raises(InputError, match=message.replace("float64", r"(torch\.)?float\d\d")):
            check_utterance(PLAIN, mel, None, None)


def test_a_latent_is_not_called_a_mel_of_audio() -> None:
    with pytest.raises(InputError, match="Use the latent of its voice model"):
        check_utterance(VOICED, some_mel(1, 80, FRAMES), None, None)


# f0


@pytest.mark.parametrize("shape", [(FRAMES,), (1, FRAMES), (1, 1, FRAMES), (1, FRAMES, 1)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
def test_shapes_of_f0_in_use(shape: tuple[int, ...], dtype: Any) -> None:
    with silence():
        made = check_utterance(SOURCE, some_mel(), some_f0(*shape).astype(dtype), None)
    assert made.f0 is not None
    assert (made.f0.shape, made.f0.dtype) == ((1, FRAMES), np.float32)
    with pytest.warns(UserWarning, match="30 frames for a mel of 29"):
        cut = check_utterance(SOURCE, some_mel()[:, :, 1:], some_f0(*shape).astype(dtype), None)
    assert cut.f0 is not None
    assert cut.f0.shape == (1, FRAMES - 1)


BAD_F0: dict[str, tuple[Any, str]] = {
    "none": (None, r"shape \(2, 30\), 0 where unvoiced"),
    "for one of two": (some_f0(), r"its shape is \(1, 30\) \(float32, values 220 to 220\). It must be \(2, 30\)"),
    "without batch": (some_f0(FRAMES), r"its shape is \(30,\)"),
    "short": (some_f0(2, FRAMES - 1), r"\(2, 29\).*must be \(2, 30\)"),
    "long": (some_f0(2, FRAMES + 3), r"\(2, 33\).*must be \(2, 30\)"),
    "single": (220.0, r"its shape is \(\)"),
    "empty": (some_f0(2, 0), r"\(2, 0\) \(float32, no values\)"),
    "empty column": (some_f0(2, 0, 1), r"\(2, 0, 1\)"),
    "three axes": (some_f0(2, 2, FRAMES), r"\(2, 2, 30\)"),
    "nan": (np.where(np.arange(FRAMES) % 2, 220, [[np.nan], [0]]), r"15 values are NaN .*at \(0, 0\). Use 0 where unvoiced: np.nan_to_num"),
    "inf": (some_f0(2, FRAMES) * np.inf, "0 values are NaN and 60 infinite.*Repair"),
    "negative": (-some_f0(2, FRAMES), r"lowest value is -220 Hz, in \(2, 30\).*Use 0 for unvoiced"),
    "beyond reach": (some_f0(2, FRAMES) * 50, "highest value is 11000 Hz.*reaches 8000 Hz"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_F0)
def test_bad_f0(name: str) -> None:
    f0, message = BAD_F0[name]
    with silence(), pytest.raises(InputError, match=message):
        check_utterance(SOURCE, some_mel(2, N_MELS, FRAMES), f0, None)


UNITS: dict[str, tuple[Any, str]] = {
    "semitones": (np.linspace(48, 72, FRAMES), r"semitones \(MIDI notes\) \(values 48 to 72\), not Hz"),
    "whole notes with rests": (np.arange(FRAMES) % 3 * 30, "semitones"),
    "logarithm": (np.log(np.linspace(80, 900, FRAMES)), r"natural logarithm of Hz \(values 4.382 to 6.802\)"),
}


@pytest.mark.parametrize("name", UNITS)
def test_other_units_of_f0(name: str) -> None:
    f0, message = UNITS[name]
    with pytest.warns(UserWarning, match=message) as caught:
        check_utterance(SOURCE, some_mel(), f0, None)
    assert len(caught) == 1


@pytest.mark.parametrize(
    "f0",
    [
        some_f0(),
        np.zeros(FRAMES),
        np.where(np.arange(FRAMES) < 19, 60, 0),
        np.linspace(65, 110, FRAMES),
        np.linspace(84, 96, FRAMES),
        np.linspace(900, 2000, FRAMES),
    ],
)
def test_f0_in_hertz_is_not_complained_about(f0: np.ndarray) -> None:
    assert said(SOURCE, some_mel(), f0) == []


# Speakers


@pytest.mark.parametrize("shape", [(2, 4), (2, 4, 1), (2, 4, FRAMES)])
def test_speakers(shape: tuple[int, ...]) -> None:
    given = np.ones(shape)
    made = check_speaker(VOICED, given, 2, FRAMES)
    assert made is not None
    assert made.shape == (2, 4, 1 if len(shape) == 2 else shape[2])
    kept = check_speaker(VOICED, torch.from_numpy(given), 2, FRAMES, keep_tensors=True)
    assert isinstance(kept, torch.Tensor)
    assert kept.dtype == torch.float32


BAD_SPEAKERS: dict[str, tuple[Any, str]] = {
    "none": (None, r"needs one. Give an embedding of shape \(2, 4, 1\)"),
    "one of two": (np.ones((1, 4)), r"its shape is \(1, 4\).*must be \(2, 4, 1\)"),
    "vector": (np.ones(4), r"\(4,\) \(float64, values 1 to 1\)"),
    "row": (np.ones((2, 1, 4)), r"\(2, 1, 4\)"),
    "scalar": (1, r"\(\)"),
    "frames": (np.ones((2, 4, 5)), r"\(2, 4, 5\)"),
    "nan": (np.full((2, 4), np.nan), "8 values are NaN"),
    "name": ("Alice", "a str is not"),
}


@pytest.mark.parametrize("name", BAD_SPEAKERS)
@pytest.mark.parametrize("frames", [FRAMES, None])
def test_bad_speakers(name: str, frames: int | None) -> None:
    value, message = BAD_SPEAKERS[name]
    with pytest.raises(InputError, match=message):
        check_speaker(VOICED, value, 2, frames)


def test_a_stream_takes_only_a_constant_speaker() -> None:
    assert check_speaker(VOICED, np.ones((2, 4)), 2, None).shape == (2, 4, 1)
    with pytest.raises(InputError, match=r"It must be \(2, 4, 1\)\.$"):
        check_speaker(VOICED, np.ones((2, 4, FRAMES)), 2, None)


# Pieces of a stream


def test_an_empty_piece() -> None:
    for f0 in (None, np.zeros((2, 0)), np.zeros((2, 1, 0)), np.zeros((2, 0, 1))):
        made = check_piece(SOURCE, np.zeros((2, N_MELS, 0)), f0, None)
        assert (made.batch, made.frames, made.f0.shape, made.speaker) == (2, 0, (2, 0), None)
    assert check_piece(SOURCE, np.zeros((1, N_MELS, 0)), [], 1).f0.shape == (1, 0)
    assert check_piece(PLAIN, torch.zeros((1, N_MELS, 0)), None, None, keep_tensors=True).mel.shape == (1, N_MELS, 0)


def test_pieces() -> None:
    made = check_piece(SOURCE, some_mel(), some_f0(), 1)
    assert np.array_equal(made.mel, some_mel())
    with pytest.raises(InputError, match=r"batch of 1, the earlier pushes had 2"):
        check_piece(SOURCE, some_mel(), some_f0(), 2)
    with silence(), pytest.raises(InputError, match=r"\(1, 31\).*must be \(1, 30\)"):
        check_piece(SOURCE, some_mel(), some_f0(1, FRAMES + 1), 1)
    with pytest.raises(InputError, match="none was given"):
        check_piece(SOURCE, some_mel(), None, 1)
    with pytest.raises(InputError, match="holds nothing"):
        check_piece(SOURCE, np.zeros((0, N_MELS, 4)), None, None)
    with pytest.raises(InputError, match="swap the last two"):
        check_piece(SOURCE, np.zeros((1, 4, N_MELS)), None, None)


def test_a_stream_warns_once_of_each_thing() -> None:
    spec, mel = FRONTS["80 bands"], log10_from_ln(recorded_mel("spoken", "80 bands"))
    seen: set[str] = set()
    voiced = AudioSpec(22050, 256, 80, needs_f0=True, mel=spec)
    notes = np.full(mel.shape[2], 60)
    with pytest.warns(UserWarning) as caught:
        check_piece(voiced, mel[:, :, :10], notes[:10], None, seen=seen)
        assert not seen
        for _ in range(3):
            check_piece(voiced, mel, notes, 1, seen=seen)
            check_utterance(voiced, mel, notes, None, seen=seen)
    assert len(caught) == 2
    assert len(seen) == 2


# Which scale a mel is in


def variants(voice: str, rate: int) -> dict[str, np.ndarray]:
    audio = recording(voice, rate)
    quiet = np.zeros(rate, np.float32)
    return {
        "as it is": audio,
        "after silence": np.concatenate([quiet, audio, quiet]),
        "loud": np.clip(audio / np.abs(audio).max() * 4, -1, 1),
        "-40 dB": audio * np.float32(0.01),
        "over hiss": audio + np.random.default_rng(0).normal(0, 0.01, audio.shape).astype(np.float32),
    }


@pytest.mark.parametrize("name", FRONTS)
@pytest.mark.parametrize("voice", VOICES)
def test_natural_logarithms_of_recordings_pass(voice: str, name: str) -> None:
    spec = FRONTS[name]
    for audio in variants(voice, spec.sample_rate).values():
        assert said(front(spec), log_mel(audio, spec)) == []


@pytest.mark.parametrize("name", FRONTS)
def test_natural_logarithms_of_noise_and_tones_pass(name: str) -> None:
    spec = FRONTS[name]
    rng = np.random.default_rng(1)
    noise = rng.normal(0, 1, spec.sample_rate)
    tone = np.sin(2 * np.pi * 440 * np.arange(spec.sample_rate) / spec.sample_rate)
    pink = np.fft.irfft(np.fft.rfft(noise) / np.sqrt(np.arange(spec.sample_rate // 2 + 1) + 5), spec.sample_rate)
    made = [np.clip(noise * 5, -1, 1), np.zeros(spec.sample_rate)]
    made += [level * sound for level in (0.01, 0.1, 1) for sound in (noise, tone, pink / pink.std())]
    for audio in made:
        assert said(front(spec), log_mel(audio, spec)) == []


@pytest.mark.parametrize("name", FRONTS)
@pytest.mark.parametrize("voice", VOICES)
@pytest.mark.parametrize("tensor", [False, True])
def test_log10_of_recordings_is_noticed(voice: str, name: str, tensor: bool) -> None:
    ln = recorded_mel(voice, name)
    lead = np.full((*ln.shape[:2], 40), ln.min() if ln.min() > -11 else np.log(1e-5), np.float32)
    for mel in (ln, np.concatenate([lead, ln, lead], axis=2), np.maximum(ln, np.float32(np.log(1e-5)))):
        log10 = log10_from_ln(mel)
        found = said(front(FRONTS[name]), torch.from_numpy(log10).half() if tensor else log10)
        assert len(found) == 1
        assert "looks like log10 (values" in found[0]
        assert "Multiply it by 2.302585." in found[0]


@pytest.mark.parametrize("name", FRONTS)
@pytest.mark.parametrize("voice", VOICES)
def test_other_scales_are_noticed(voice: str, name: str) -> None:
    ln = recorded_mel(voice, name)
    cases = {
        "looks like decibels": ln * np.float32(20 / np.log(10)),
        "without a logarithm": np.exp(ln),
        "normalised to -1..1": gpt_sovits_normalised(ln),
    }
    for message, mel in cases.items():
        for given_mel in (mel, torch.from_numpy(mel)):
            found = said(front(FRONTS[name]), given_mel)
            assert len(found) == 1
            assert message in found[0]


@pytest.mark.parametrize("seed", range(5))
def test_test_mels_pass(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = (2, N_MELS, 20 + 40 * seed)
    made = [rng.normal(-4, 2, shape), rng.normal(-5, 2, shape), rng.normal(-2, 1, shape), rng.normal(0, 1, shape)]
    made += [rng.uniform(0, 1, shape), rng.uniform(-1, 1, shape), rng.integers(-5, 1, shape), abs(made[-1])]
    made += [np.full(shape, value) for value in (0.0, -5.0, -1.0, 1.0, -11.51, -50.0)]
    for mel in made:
        assert said(PLAIN, mel) == []


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("frames", [24, 96])
def test_example_mels_pass(name: str, frames: int) -> None:
    net = random_small(name)
    spec = AudioSpec(net.spec.sample_rate, net.spec.hop, net.spec.n_mels, mel=net.spec.mel)
    mel = example_inputs(net, 1, frames)["mel"]
    assert said(spec, mel) == []
    assert said(spec, mel.repeat(1, 1, 4)) == []


def test_scales_are_told_only_of_long_mels_of_audio() -> None:
    log10 = log10_from_ln(recorded_mel("spoken", "80 bands"))
    assert said(AudioSpec(22050, 256, 80), log10) == []
    assert said(front(FRONTS["80 bands"]), log10[:, :, 60:79]) == []


# Warnings point at the caller


def test_warnings_point_at_the_callers_line() -> None:
    with pytest.warns(UserWarning, match="pitch") as caught:
        check_utterance(PLAIN, some_mel(), some_f0(), None)
        line = sys._getframe().f_lineno - 1
    assert (caught[0].filename, caught[0].lineno) == (__file__, line)
    with pytest.warns(DeprecationWarning) as caught_:
        warn_caller("old", DeprecationWarning)
    assert caught_[0].filename == __file__


# Anything at all

ANYTHING = (
    npst.arrays(
        npst.scalar_dtypes() | npst.unicode_string_dtypes(max_len=3) | npst.complex_number_dtypes(),
        st.one_of(
            st.just((1, N_MELS, 25)), st.just((1, 25)), st.just((1, N_MELS, 0)), npst.array_shapes(min_dims=0, max_side=9)
        ),
    )
    | st.recursive(st.none() | st.floats() | st.integers() | st.text(max_size=3), st.lists, max_leaves=6)
    | st.sampled_from([value for value, _ in NOT_NUMBERS.values()] + [*ARRAYS.values(), *TENSORS.values()])
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(mel=ANYTHING | st.just(some_mel()), f0=ANYTHING | st.just(some_f0()), speaker=ANYTHING, keep=st.booleans())
def test_anything_gives_a_result_or_an_input_error(mel: Any, f0: Any, speaker: Any, keep: bool) -> None:
    for attempt in (
        lambda: check_utterance(SOURCE, mel, f0, speaker, keep_tensors=keep),
        lambda: check_utterance(SOURCE, some_mel(1, N_MELS, 25), f0, speaker, keep_tensors=keep),
        lambda: check_piece(SOURCE, mel, f0, 1, keep_tensors=keep),
        lambda: check_speaker(VOICED, speaker, 1, None, keep_tensors=keep),
        lambda: as_wave(mel),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.simplefilter("ignore", UserWarning)
            try:
                attempt()
            except InputError as err:
                assert len(str(err)) < 600
