"""From a recording to pieces and back: resampling, slicing, joining, and what is measured along the way."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from tests import golden_svc as golden
from tests.parity_svc.sound import settings_of, slicer_of, slicer_recording
from trt_svc.errors import InputError
from trt_svc.svc.assembly import Joiner, converted_blocks, converted_recording, cross_faded
from trt_svc.svc.loudness import following_loudness, windowed_rms, windowed_rms_of_blocks
from trt_svc.svc.piece_rules import AlignedRules, Joint, UpstreamRules, piece_rules, through_16_bits
from trt_svc.svc.pieces import Piece, PieceSettings, pieces_of
from trt_svc.svc.sinc import resampled_length, sinc_kernel, sinc_resample, sinc_resampled_blocks
from trt_svc.svc.slicer import (
    Slice,
    SlicerSettings,
    all_slices,
    cut_at_silences,
    cut_blocks_at_silences,
)
from trt_svc.svc.speaker_mix import frame_places, speaker_mix, upstream_frames
from trt_svc.svc.units import MODES, repeated_units
from trt_svc.svc.volume import frame_volume

random = np.random.default_rng(5)


def noise(samples: int, *channels: int) -> np.ndarray:
    return np.random.default_rng(samples).uniform(-0.9, 0.9, (*channels, samples)).astype(np.float32)


def assert_same(made: np.ndarray, expected: np.ndarray) -> None:
    """Equal within the tolerance of the golden data."""
    assert made.dtype == np.float32
    assert made.shape == expected.shape
    np.testing.assert_allclose(made, expected, rtol=1e-4, atol=2e-5 * np.abs(expected).max(initial=0))


def in_blocks(audio: np.ndarray, *sizes: int) -> list[np.ndarray]:
    return np.split(audio, np.cumsum(sizes)[np.cumsum(sizes) < audio.shape[-1]], axis=-1)


# Resampling


def plainly_resampled(audio: np.ndarray, rate_in: int, rate_out: int, width: int) -> np.ndarray:
    """The definition, one output sample at a time."""
    cutoff = min(1.0, rate_out / rate_in) * 0.99
    made = []
    for m in range(-(-len(audio) * rate_out // rate_in)):
        x = (np.arange(len(audio)) - m * rate_in / rate_out) * cutoff
        made.append(audio @ (np.sinc(x) * np.cos(np.clip(x / width, -1, 1) * np.pi / 2) ** 2 * cutoff))
    return np.array(made, np.float32)


@pytest.mark.parametrize(
    ("rates", "width"),
    [((44100, 48001), 6), ((8000, 44100), 1), ((96000, 16000), 16), ((16000, 16001), 3), ((7, 3), 6)],
)
@pytest.mark.parametrize("samples", [1, 2, 441, 700])
def test_resampling_any_rates(rates: tuple[int, int], width: int, samples: int) -> None:
    audio = noise(samples)
    made, expected = sinc_resample(audio, *rates, width), plainly_resampled(audio.astype(np.float64), *rates, width)
    np.testing.assert_allclose(made, expected, atol=1e-3)  # torchaudio has its phases in single precision


def test_resampling_in_blocks_gives_the_same_samples() -> None:
    audio = noise(150_001, 2)
    whole = sinc_resample(audio, 44100, 16000)
    for sizes in [(1, 2, 3, 50_000), (70_000,), tuple([9_999] * 15)]:
        made = np.concatenate(list(sinc_resampled_blocks(in_blocks(audio, *sizes), 44100, 16000)), axis=1)
        np.testing.assert_array_equal(made, whole)
    assert all(block.shape[1] < 40_000 for block in sinc_resampled_blocks([audio], 44100, 16000))


def test_resampling_shapes_and_the_same_rate() -> None:
    audio = noise(1000, 2, 3)
    np.testing.assert_array_equal(sinc_resample(audio, 16000, 16000), audio)
    made = sinc_resample(audio, 32000, 16000)
    assert made.shape == (2, 3, 500)
    np.testing.assert_allclose(made[1, 2], sinc_resample(audio[1, 2], 32000, 16000), atol=1e-6)
    assert sinc_resample(np.zeros((2, 0), np.float32), 44100, 16000).shape == (2, 0)
    assert list(sinc_resampled_blocks([], 44100, 16000)) == []


def test_lengths_in_single_precision() -> None:
    for samples in random.integers(1, 40_000_000, 200).tolist():
        upstream = int(torch.ceil(torch.as_tensor(160 * samples / 441)).long())
        assert resampled_length(samples, 44100, 16000, single_precision=True) == upstream
        assert resampled_length(samples, 44100, 16000) == -(-160 * samples // 441)
    differing = [n for n in range(180_000, 190_000) if resampled_length(n, 44100, 16000, True) != -(-160 * n // 441)]
    for samples in differing[:2]:
        audio = noise(samples)
        made = sinc_resample(audio, 44100, 16000, single_precision=True)
        np.testing.assert_array_equal(made, sinc_resample(audio, 44100, 16000)[:-1])
    assert differing


def test_odd_ratios_need_no_huge_kernel() -> None:
    kernel = sinc_kernel(44100, 48001)
    assert sum(group.weights.size for group in kernel.groups) < 20_000_000


@pytest.mark.parametrize("bad", [(0, 16000, 6), (44100, -1, 6), (44100, 16000, 0), (44100.5, 16000, 6), (True, 2, 6)])
def test_bad_rates(bad: Any) -> None:
    with pytest.raises(InputError, match="resampling"):
        sinc_resample(noise(10), *bad)
    with pytest.raises(InputError, match="resampling"):
        list(sinc_resampled_blocks([noise(10, 1)], *bad))


# Slicing


def test_slices_of_blocks() -> None:
    audio, rate = slicer_recording()
    whole = cut_at_silences(audio, rate)
    for sizes in [(1, 1, 5_000), tuple([8_192] * 50), (369_599,)]:
        assert cut_blocks_at_silences(in_blocks(audio, *sizes), rate) == whole


def song(*parts: tuple[float, float], rate: int = 1000) -> np.ndarray:
    """(level, seconds) one after the other."""
    return np.concatenate([level * noise(round(seconds * rate)) for level, seconds in parts])


RATE = 1000
LAYOUTS = {
    "no silence": [(1, 8)],
    "too short a silence": [(1, 6), (0, 0.2), (1, 6)],
    "too early a silence": [(1, 3), (0, 1), (1, 6)],
    "a short silence": [(1, 6), (0, 1), (1, 6)],
    "a silence with its middle left out": [(1, 6), (0.0001, 7), (1, 6)],
    "a long silence": [(1, 6), (0.0001, 12), (1, 6)],
    "a short lead": [(0, 2), (1, 6)],
    "a long lead": [(0.0001, 7), (1, 6)],
    "a very long lead": [(0.0001, 12), (1, 6)],
    "a short tail": [(1, 6), (0.0001, 2)],
    "a long tail": [(1, 6), (0.0001, 9)],
    "several": [(1, 6), (0, 1), (1, 2), (0, 1), (1, 6), (0.0001, 6), (1, 0.5), (0, 6), (1, 7)],
}


def walked(levels: np.ndarray, threshold: float, interval: int, shortest: int, kept: int) -> list[tuple[int, int]]:
    """The rules of the slicer hop by hop, as the facts state them."""

    def quietest(first: int, last: int) -> int:
        return min(range(first, min(last + 1, len(levels))), key=lambda hop: levels[hop])

    tags, start, cut = [], None, 0
    for i, level in enumerate(levels):
        if level < threshold:
            start = i if start is None else start
            continue
        if start is None:
            continue
        if (start == 0 and i > kept) or (i - start >= interval and i - cut >= shortest):
            if i - start <= kept:
                tag = (quietest(start, i),) * 2
            elif i - start <= 2 * kept:
                middle = quietest(i - kept, start + kept)
                tag = min(quietest(start, start + kept), middle), max(quietest(i - kept, i), middle)
            else:
                tag = quietest(start, start + kept), quietest(i - kept, i)
            tags.append((0 if start == 0 else tag[0], tag[1]))
            cut = tag[1]
        start = None
    if start is not None and len(levels) - start >= interval:
        tags.append((quietest(start, min(len(levels), start + kept)), len(levels) + 1))
    return tags


@pytest.mark.parametrize("layout", LAYOUTS)
def test_slices_follow_the_rules(layout: str) -> None:
    audio = song(*LAYOUTS[layout])
    tags = walked(windowed_rms(audio, 80, 20), 0.01, 15, 250, 250)
    silent = [(min(first * 20, len(audio)), min(last * 20, len(audio))) for first, last in tags]
    slices = all_slices([audio], RATE)
    assert [(cut.start, cut.stop) for cut in slices if cut.silent] == silent
    ends = [0, *(cut.stop for cut in slices)]
    assert [cut.start for cut in slices] == ends[:-1]
    assert ends[-1] == len(audio)
    assert all(one.silent != other.silent for one, other in pairwise(slices))
    assert (len(slices) > 1) == ("too" not in layout and layout not in ("no silence", "a short lead"))


@pytest.mark.parametrize("samples", [0, 1, 2, 250, 251])
def test_slices_of_next_to_nothing(samples: int) -> None:
    assert cut_at_silences(np.ones(samples, np.float32) / 2, 8000) == [Slice(0, samples, False)] * (samples > 0)


def test_slices_of_silence() -> None:
    assert cut_at_silences(np.zeros(160_000, np.float32), 16000) == [Slice(0, 160_000, True)]


@pytest.mark.parametrize(
    "audio", [np.array([0.1, np.nan] * 300), np.full(600, -200.0), np.full(600, 1000, np.int16), 0.5, "la"]
)
def test_bad_recordings(audio: Any) -> None:
    calls: list[Callable[[], object]] = [
        lambda: cut_at_silences(audio, 8000),
        lambda: sinc_resample(audio, 8000, 16000),
        lambda: frame_volume(audio, 512),
        lambda: following_loudness(audio, 8000, noise(600), 8000, 0.5),
        lambda: following_loudness(noise(600), 8000, audio, 8000, 0.5),
        lambda: converted_recording(audio, 8000, 8000, lambda piece, rate: piece),
    ]
    for call in calls:
        with pytest.raises(InputError):
            call()


def test_bad_slicer_settings() -> None:
    for wrong in ({"threshold_db": np.nan}, {"hop_ms": 0}, {"shortest_silence_ms": 9000}, {"kept_silence_ms": 10}):
        with pytest.raises(InputError, match=r"slic|silence"):
            SlicerSettings(**wrong)
    with pytest.raises(InputError, match="sample rate"):
        cut_at_silences(noise(600), 20)
    with pytest.raises(InputError, match="shape"):
        cut_at_silences(noise(600, 1, 1), 8000)


# Pieces and their assembly


ASSEMBLED = golden.arrays("e2e/outputs")


def test_sixteen_bits_are_those_of_a_wav_file() -> None:
    steps = np.arange(-32_800, 32_800) / 32_768
    audio = np.concatenate([steps, steps + 0.3 / 32_768, steps + 0.5 / 32_768, random.uniform(-1.1, 1.1, 20_000)])
    audio = audio.astype(np.float32)
    file = io.BytesIO()
    soundfile.write(file, audio.astype(np.float64), 8000, format="wav")
    file.seek(0)
    np.testing.assert_array_equal(through_16_bits(audio), soundfile.read(file, dtype="float32")[0])


def test_what_the_network_is_fed() -> None:
    audio = noise(1000)
    exact = AlignedRules(PieceSettings(padding_s=0.01), 8000, 8000)
    upstream = UpstreamRules(PieceSettings(padding_s=0.01), 8000, 8000)
    assert not exact.fed(audio)[:80].any()
    assert not exact.fed(audio)[-80:].any()
    np.testing.assert_array_equal(exact.fed(audio)[80:1080], audio)
    assert len(exact.fed(audio)) % 2000 == 0, "lengths fall on quarters of a second"
    np.testing.assert_array_equal(upstream.fed(audio)[80:-80], through_16_bits(audio))


def whole_frames(rate_out: int, hop: int = 512) -> Callable[[np.ndarray, int], np.ndarray]:
    """A network that changes nothing but works in whole frames, as the real ones do."""

    def infer(piece: np.ndarray, rate: int) -> np.ndarray:
        made = sinc_resample(piece, rate, rate_out)
        return made[: len(made) // hop * hop]

    return infer


@pytest.mark.parametrize("padding_s", [0.0, 0.1])
@pytest.mark.parametrize("rate_out", [8000, 16000, 11025, 6000])
def test_the_default_keeps_every_sample_in_its_place(rate_out: int, padding_s: float) -> None:
    rate, hop = 8000, 64
    time = np.arange(12 * rate + 3) / rate
    audio = np.where(abs(time - 7) > 0.5, 0.5 * np.sin(2 * np.pi * 40 * time), 0).astype(np.float32)
    expected = sinc_resample(audio, rate, rate_out)
    for settings in (PieceSettings(padding_s=padding_s), PieceSettings(1.3, 0.2, 0.5, padding_s)):
        made = converted_recording(audio, rate, rate_out, whole_frames(rate_out, hop), settings)
        assert made.shape == expected.shape
        off = np.abs(made - expected) > 0.015  # half a sample of a wave of 40 Hz
        assert off.sum() <= (12 if padding_s else 2 * hop)
        if padding_s and rate_out == rate:
            np.testing.assert_allclose(made, audio, atol=1e-6)


def test_upstreams_quirks_are_kept_in_compat_only() -> None:
    audio = noise(30_869)
    for compat in (True, False):
        none = PieceSettings(padding_s=0, compat=compat)
        made = converted_recording(audio, 44100, 44100, whole_frames(44100), none)
        assert made.any() != compat
        assert len(made) == (30_870 if compat else 30_869)
    settings = PieceSettings(padding_s=0.1, compat=True)
    made = converted_recording(audio, 44100, 44100, whole_frames(44100), settings)
    sound = np.flatnonzero(made)
    assert (sound[0], len(made) - 1 - sound[-1]) == (133, 133)


def test_lengths_of_upstreams_real_runs() -> None:
    """Every end-to-end case that upstream finished: how long its output is, given the frames of every call."""
    for name, case in golden.meta("e2e/e2e")["cases"].items():
        if name.startswith("assembly.") or "error" in case:
            continue
        audio, rate = soundfile.read(golden.FOLDER / "e2e" / case["args"]["raw_audio_path"], dtype="float32")
        lengths = iter([call["samples"] for call in case["infer_calls"]])
        settings = settings_of(case["args"], compat=True)
        slicing = slicer_of(case["args"])
        ones = lambda _p, _r, n=lengths: np.ones(next(n), np.float32)  # noqa: E731
        made = converted_recording(audio, rate, 44100, ones, settings, slicing)
        assert len(made) == case["n"] == len(ASSEMBLED[name])
        assert next(lengths, None) is None
        differs = (made == 0) != (ASSEMBLED[name] == 0)
        assert differs.mean() < 1e-3


def test_pieces_of_slices() -> None:
    slices = [Slice(0, 100, False), Slice(100, 130, True), Slice(130, 130, True), Slice(130, 331, False)]
    assert list(pieces_of(slices, 100, PieceSettings())) == [
        Piece(0, 100),
        Piece(100, 130, silent=True),
        Piece(130, 331),
    ]
    assert list(pieces_of(slices, 100, PieceSettings(1.0, 0.2))) == [
        Piece(0, 100),
        Piece(100, 130, silent=True),
        Piece(130, 230),
        Piece(210, 330, lead=20),
        Piece(310, 331, lead=20),
    ]


@pytest.mark.parametrize("rates", [(8000, 44100), (44100, 8000), (44100, 44100), (48000, 44100)])
@pytest.mark.parametrize("compat", [True, False])
def test_constant_sound_stays_constant(rates: tuple[int, int], compat: bool) -> None:
    """At joints nothing is lost, added or faded; with upstream's rules only while the rates are the same."""
    rate_in, rate_out = rates
    audio = np.full(rate_in * 2 + 1, 0.5, np.float32)
    settings = PieceSettings(clip_s=0.5, overlap_s=0.2, fade_share=0.6, padding_s=0, compat=compat)
    rules = piece_rules(settings, *rates)
    pieces = list(pieces_of([Slice(0, len(audio), False)], rate_in, settings))
    joiner = Joiner(rules.overlap_samples)
    sound = [np.full(rules.length(piece), 0.5, np.float32) for piece in pieces]
    try:
        blocks = [joiner.add(made, rules.joint(piece)) for piece, made in zip(pieces, sound, strict=True)]
    except InputError as error:
        assert compat and rate_out < rate_in
        assert re.search("too short", str(error))
        return
    made = np.concatenate([*blocks, joiner.rest()])
    assert np.allclose(made, 0.5, atol=1e-6)
    expected = -(-len(audio) * rate_out // rate_in)
    assert (len(made) == expected) == (not compat or rate_in == rate_out)


def test_assembly_in_blocks_holds_one_piece() -> None:
    audio, rate = slicer_recording()
    settings = PieceSettings(clip_s=1, overlap_s=0.1)
    rules = piece_rules(settings, rate, rate)
    slices = cut_at_silences(audio, rate)
    pieces = pieces_of(slices, rate, settings)
    blocks = list(converted_blocks(lambda start, stop: audio[start:stop], pieces, lambda p, _: p, rules))
    assert (
        max(len(block) for cut, block in zip(pieces_of(slices, rate, settings), blocks, strict=False) if not cut.silent)
        <= 1.2 * rate
    )
    np.testing.assert_allclose(np.concatenate(blocks), np.where(silent_mask(slices), 0, audio), atol=1e-6)


def silent_mask(slices: list[Slice]) -> np.ndarray:
    return np.concatenate([np.full(cut.samples, cut.silent) for cut in slices])


@pytest.mark.parametrize("samples", [0, 1, 2])
@pytest.mark.parametrize("compat", [True, False])
def test_assembly_of_next_to_nothing(samples: int, compat: bool) -> None:
    made = converted_recording(noise(samples), 8000, 16000, whole_frames(16000, 1), PieceSettings(compat=compat))
    assert made.shape == (2 * samples,)
    assert made.any() == (samples > 0)


def test_a_network_that_returns_too_little_or_nonsense() -> None:
    made = converted_recording(noise(800), 8000, 8000, lambda p, _: p[:10], PieceSettings(padding_s=0))
    assert made.shape == (800,)
    assert not made[10:].any()
    for wrong in (lambda p, _: p[None], lambda p, _: p * np.nan, lambda p, _: "la"):
        with pytest.raises(InputError, match="joining"):
            converted_recording(noise(800), 8000, 8000, wrong)  # type: ignore[arg-type]


def test_cross_fades() -> None:
    ones, twos = np.ones(10, np.float32), np.full(10, 2, np.float32)
    np.testing.assert_allclose(cross_faded(ones, twos, Joint(1, 3, 2)), [1] * 6 + [1, 1.5, 2] + [2] * 5)
    np.testing.assert_allclose(cross_faded(ones, twos, Joint(0, 2, 0)), [1] * 8 + [1, 2] + [2] * 8)
    assert len(cross_faded(ones, twos, Joint())) == 20
    assert Joint.of(400, 0.75) == Joint(50, 300, 50)
    assert Joint.of(15, 0.5) == Joint(4, 7, 4)
    assert Joint.of(16, 0.5) == Joint(4, 8, 4)
    assert Joint.of(20, 1) == Joint(0, 20, 0)
    assert Joint.of(1, 0.3) == Joint(1, 0, 0)
    for joint in (Joint(5, 6, 0), Joint(0, 5, 6)):
        with pytest.raises(InputError, match="too short"):
            cross_faded(ones, twos, joint)


@pytest.mark.parametrize(
    "wrong",
    [
        {"clip_s": -1},
        {"padding_s": np.nan},
        {"fade_share": 0},
        {"fade_share": 1.1},
        {"clip_s": 0.5, "overlap_s": 0.5},
    ],
)
def test_bad_piece_settings(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError):
        PieceSettings(**wrong)  # type: ignore[arg-type]


def test_clips_below_a_sample() -> None:
    with pytest.raises(InputError, match="longer clips"):
        list(pieces_of([Slice(0, 10, False)], 8000, PieceSettings(clip_s=1e-5)))
    with pytest.raises(InputError, match="sample rates"):
        piece_rules(PieceSettings(), 0, 44100)


# Units, volume, loudness


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("units", [1, 2, 7])
@pytest.mark.parametrize("frames", [1, 2, 7, 20])
def test_stretched_units_of_any_length(mode: str, units: int, frames: int) -> None:
    given = noise(units, 1, 3)
    made = repeated_units(given, frames, mode)
    assert made.shape == (1, 3, frames)
    if units == frames:
        np.testing.assert_allclose(made, given, rtol=1e-6)
    if units == 1:
        np.testing.assert_allclose(made, np.repeat(given, frames, axis=-1), rtol=1e-6)


def test_left_walks_one_step_per_frame() -> None:
    for units, frames in [(5, 5), (5, 12), (12, 5), (1, 3), (3, 1), (50, 86), (1500, 2584)]:
        place, places = 0, []
        for frame in range(frames):
            place += frame * units >= (place + 1) * frames
            places.append(place)
        made = repeated_units(np.arange(units, dtype=np.float32), frames)
        np.testing.assert_array_equal(made, places)


def test_bad_units() -> None:
    good = noise(5, 3)
    for units, frames, mode in [
        (good, 0, "left"),
        (good[:, :0], 5, "left"),
        (good, 5, "bicubic"),
        (np.float32(3), 5, "left"),
    ]:
        with pytest.raises(InputError, match="stretching units"):
            repeated_units(units, frames, mode)


@pytest.mark.parametrize("hop", [1, 2, 3, 5, 512])
@pytest.mark.parametrize("samples", [0, 1, 2, 5, 513, 5000])
def test_volume_of_any_length(samples: int, hop: int) -> None:
    audio = noise(samples)
    made = frame_volume(audio, hop)
    assert made.shape == (samples // hop,)
    if len(made):
        padded = np.pad(audio, (hop // 2, (hop + 1) // 2), mode="reflect") if samples > 1 else np.pad(audio, hop)
        expected = [np.sqrt(np.mean(padded[i * hop : (i + 1) * hop] ** 2)) for i in range(len(made))]
        if samples > 1:
            np.testing.assert_allclose(made, expected, rtol=1e-5)
    np.testing.assert_array_equal(frame_volume(np.stack([audio, audio]), hop)[1], made)


def test_bad_hop() -> None:
    with pytest.raises(InputError, match="hop"):
        frame_volume(noise(10), 0)
    with pytest.raises(InputError, match="hop"):
        windowed_rms(noise(10), 4, 5)


def test_loudness_of_edges() -> None:
    audio = noise(9000)
    np.testing.assert_array_equal(following_loudness(audio, 8000, noise(100), 8000, 1), audio)
    assert not following_loudness(audio, 8000, np.zeros(9000, np.float32), 8000, 0.5).any()
    assert not following_loudness(np.zeros(9000, np.float32), 8000, audio, 8000, 0.0).any()
    np.testing.assert_allclose(following_loudness(audio / 4, 8000, audio, 8000, 0.0), audio, atol=1e-5)
    np.testing.assert_allclose(following_loudness(audio, 16000, audio, 16000, 0.0), audio, atol=1e-5)
    for samples in (0, 1, 2):
        assert following_loudness(audio[:samples], 8000, audio, 16000, 0.5).shape == (samples,)
    for share in (-0.1, 1.1, np.nan):
        with pytest.raises(InputError, match="loudness"):
            following_loudness(audio, 8000, audio, 8000, share)


def test_rms_in_blocks() -> None:
    audio = noise(70_001)
    whole = windowed_rms(audio, 641, 160)
    assert whole.shape == (1 + 70_000 // 160,)
    padded = np.pad(audio, 320)
    assert whole[100] == pytest.approx(np.sqrt(np.mean(padded[16_000:16_641] ** 2)))
    for sizes in [(1, 2, 3, 1000), tuple([4_097] * 20)]:
        np.testing.assert_array_equal(windowed_rms_of_blocks(in_blocks(audio, *sizes), 641, 160), whole)


# Mixing speakers


TWO = {0: [[0, 0.5, 1, 0], [0.5, 1, 0, 1]], 1: [[0, 1, 1, 1]]}


def test_speakers_mixed() -> None:
    mix = speaker_mix(TWO, 3)
    made = mix.weights(np.array([0, 0.25, 0.5, 0.75, 1.0]))
    np.testing.assert_allclose(
        made, [[1 / 2, 1 / 3, 0, 1 / 3, 1 / 2], [1 / 2, 2 / 3, 1, 2 / 3, 1 / 2], [0] * 5], atol=1e-6
    )
    for frames in (0, 1, 2, 3, 94, 95):
        table = mix.frame_weights(frames)
        assert table.shape == (3, frames)
        np.testing.assert_allclose(table.sum(axis=0), 1, atol=1e-6)
    np.testing.assert_allclose(mix.frame_weights(94), mix.weights(np.arange(94) / 94), atol=1e-6)


def test_one_speaker_and_no_weight_at_all() -> None:
    np.testing.assert_array_equal(speaker_mix({1: [[0, 1, 0.2, 3]]}, 2).weights(np.linspace(0, 1, 4))[1], 1)
    nobody = speaker_mix({0: [[0, 1, 0, 0]], 2: [[0, 0.5, 0, 0], [0.5, 1, 0, 1]]}, 3)
    np.testing.assert_allclose(nobody.frame_weights(4), [[0.5, 0.5, 0.5, 0], [0] * 4, [0.5, 0.5, 0.5, 1]])


def test_names_and_written_numbers() -> None:
    by_name = speaker_mix({"alice": TWO[0], "1": TWO[1]}, 3, {"alice": 0, "bob": 1})
    assert by_name == speaker_mix(TWO, 3)
    for case in golden.meta("e2e/e2e")["cases"].values():
        if isinstance(case["args"].get("spk"), dict):
            assert speaker_mix(case["args"]["spk"], 3).frame_weights(94).shape == (3, 94)


def test_the_frames_that_upstream_counts_out() -> None:
    """Its cases with a mix: one that it finished, and one where the weights ran out in the last piece."""
    for case in golden.meta("e2e/e2e")["cases"].values():
        if not isinstance(case["args"].get("spk"), dict):
            continue
        audio, rate = soundfile.read(golden.FOLDER / "e2e" / case["args"]["raw_audio_path"], dtype="float32")
        settings = settings_of(case["args"], compat=True)
        rules = piece_rules(settings, rate, 44100)
        slices = cut_at_silences(audio, rate, slicer_of(case["args"]))
        pieces = list(pieces_of(slices, rate, settings))
        counted = upstream_frames(pieces, len(slices), 512, rules)
        padding = 2 * int(settings.padding_s * 44100)
        used = [(rules.length(piece) + padding) // 512 for piece in pieces]
        if "error" in case:
            left = counted - np.cumsum([0, *used[:-1]])
            lacking = next(number for number, frames in enumerate(used) if frames > left[number])
            assert [used[lacking], left[lacking]] == [int(n) for n in re.findall(r"\((\d+)\)", case["error"])]
        else:
            assert used == [call["frames"] for call in case["infer_calls"]]
            assert counted == sum(used) + 1


def test_frames_know_their_places() -> None:
    """At any rate and however the recording is cut, a frame finds the weights of its own time."""
    settings = PieceSettings(clip_s=0.5, overlap_s=0.1, padding_s=0.1)
    for rate in (32000, 44100, 48000):
        rules = piece_rules(settings, rate, 44100)
        pieces = list(pieces_of([Slice(0, 2 * rate, False)], rate, settings))
        for piece in pieces:
            frames = len(rules.fed(np.zeros(piece.samples, np.float32))) * 44100 // rate // 512
            places = frame_places(piece, frames, 512, rules, 2 * rate)
            times = np.arange(frames) * 512 / 44100 - 0.1 + piece.start / rate
            np.testing.assert_allclose(places, np.clip(times / 2, 0, 1), atol=1e-9)
            assert speaker_mix(TWO, 2).weights(places).shape == (2, frames)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "at least one"),
        ([], "at least one"),
        ({5: TWO[0]}, "0 to 2"),
        ({-1: TWO[0]}, "0 to 2"),
        ({"alcie": TWO[0]}, "alice"),
        ({None: TWO[0]}, "neither"),
        ({"0": TWO[0], 0: TWO[0]}, "twice"),
        ({0: []}, "no segments"),
        ({0: 7}, "no list"),
        ({0: [[0, 1, 1]]}, "no list"),
        ({0: [["a", 1, 1, 1]]}, "no list"),
        ({0: [[0, 1, -1, 1]]}, "negative"),
        ({0: [[0, 1, np.nan, 1]]}, "negative"),
        ({0: [[0.5, 0.2, 1, 1]]}, "forwards"),
        ({0: [[0, 1.5, 1, 1]]}, "forwards"),
        ({0: [[0.1, 1, 1, 1]]}, "cover"),
        ({0: [[0, 0.9, 1, 1]]}, "cover"),
        ({0: [[0, 0.4, 1, 1], [0.6, 1, 1, 1]]}, "cover"),
    ],
)
def test_bad_mixes(given: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        speaker_mix(given, 3, {"alice": 0, "bob": 1})


def test_settings_are_values() -> None:
    assert replace(PieceSettings(), clip_s=3.0) == PieceSettings(clip_s=3.0)
