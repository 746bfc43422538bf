"""The vocoder wrapper of the diffusion and the enhancer, against upstream's arrays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import golden
from tests.golden_svc import FOLDER
from tests.parity_svc.vocoder import DATA, META, RATE, golden_vocoder
from trt_svc.errors import InputError
from trt_svc.loading import load_vocoder
from trt_svc.svc.enhancer import adaptive_rate, enhanced, slowed_f0
from trt_svc.svc.nsf import MelVocoder, open_mel_vocoder


def close(made: np.ndarray, expected: np.ndarray) -> None:
    assert made.shape == expected.shape
    np.testing.assert_allclose(made, expected, rtol=1e-4, atol=2e-5 * float(np.abs(expected).max()))


@pytest.fixture(scope="module")
def vocoder(tmp_path_factory: pytest.TempPathFactory) -> MelVocoder:
    return golden_vocoder(tmp_path_factory.mktemp("nsf_hifigan"))


@pytest.fixture(scope="module")
def log10_vocoder(vocoder: MelVocoder) -> MelVocoder:
    return MelVocoder(vocoder.vocoder, "nsf-hifigan-log10")


@pytest.mark.parametrize("samples", [1, 2, 511, 512, 513, 1535])
def test_mel_lengths(vocoder: MelVocoder, samples: int) -> None:
    mel = vocoder.extract(np.zeros((2, samples), np.float32))
    assert mel.shape == (2, max(1, samples // vocoder.hop_samples), vocoder.n_mels)
    np.testing.assert_allclose(mel, np.log(1e-5), rtol=0.2)


@pytest.mark.parametrize(
    "audio", [np.zeros(0, np.float32), np.array([0.1, np.nan]), np.array([np.inf]), np.zeros((1, 1, 9)), "wav", None]
)
def test_unusable_audio(vocoder: MelVocoder, audio: Any) -> None:
    with pytest.raises(InputError):
        vocoder.extract(audio)


def test_log10_is_meant(vocoder: MelVocoder, log10_vocoder: MelVocoder) -> None:
    """A session warns of a log10 mel, but not where the vocoder was trained on them."""
    hiss = np.random.default_rng(0).normal(0, 0.1, RATE // 2).astype(np.float32)
    mel = vocoder.extract(np.concatenate([hiss, np.zeros_like(hiss)]))
    f0 = np.full(mel.shape[:2], 220.0)
    with pytest.warns(UserWarning, match="looks like log10"):
        loud = vocoder.infer(mel * np.float32(0.434294), f0, seed=3)
    np.testing.assert_array_equal(log10_vocoder.infer(mel, f0, seed=3), loud)


def test_f0_shapes_and_seeds(vocoder: MelVocoder) -> None:
    mel, f0 = DATA["mel.keyshift0"], DATA["infer.f0"]
    made = vocoder.infer(mel, f0, seed=1)
    np.testing.assert_array_equal(vocoder.infer(mel, f0[..., 0], seed=1), made)
    np.testing.assert_array_equal(vocoder.infer(mel, f0[:, : mel.shape[1]], seed=1), made)
    assert (vocoder.infer(mel, f0, seed=2) != made).any()
    both = vocoder.infer(np.repeat(mel, 2, 0), np.repeat(f0, 2, 0), seed=[1, 2])
    close(both[:1], made)


@pytest.mark.parametrize("frames", [1, 2])
def test_fewest_frames(vocoder: MelVocoder, frames: int) -> None:
    made = vocoder.infer(DATA["mel.keyshift0"][:, :frames], np.zeros((1, frames)))
    assert made.shape == (1, frames * vocoder.hop_samples)
    assert np.isfinite(made).all()


def test_unusable_inputs(vocoder: MelVocoder) -> None:
    mel, f0 = DATA["mel.keyshift0"], DATA["infer.f0"]
    wrong = [
        (mel[:, :0], f0),
        (mel[0], f0),
        (mel[:, :, :-1], f0),
        (np.full_like(mel, np.nan), f0),
        (mel, f0[:, : mel.shape[1] - 1]),
        (mel, f0[0]),
        (mel, -f0 - 1),
        (mel, np.full_like(f0, np.inf)),
        (mel, np.full_like(f0, RATE)),
        (mel, None),
    ]
    for bad_mel, bad_f0 in wrong:
        with pytest.raises(InputError):
            vocoder.infer(bad_mel, bad_f0)


def test_only_vocoders_with_mel_and_f0(vocoder: MelVocoder, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Did you mean 'nsf-hifigan'"):
        MelVocoder(vocoder.vocoder, "nsf-hifi")
    path = golden.upstream_checkpoint(golden.GoldenNet("hifigan-v1"), tmp_path)
    with pytest.raises(InputError, match="NSF-HiFiGAN"):
        MelVocoder(load_vocoder(path))


def test_pretrain_folder() -> None:
    opened = open_mel_vocoder(FOLDER / "e2e" / "pretrain" / "nsf_hifigan")
    mel = opened.extract(DATA["wav"])
    made = opened.infer(mel, np.full(mel.shape[:2], 220.0))
    assert made.shape == (1, mel.shape[1] * opened.hop_samples)


# The enhancer.


def test_enhancing_keeps_its_arguments(vocoder: MelVocoder) -> None:
    f0 = np.full(DATA["wav"].size // 512, 220.0)
    made = enhanced(vocoder, DATA["wav"], RATE, f0, 512, 5)
    np.testing.assert_array_equal(f0, 220.0)
    assert np.isfinite(made).all()


def test_adaptive_rates() -> None:
    assert adaptive_rate(44100, 0) == 44100
    assert adaptive_rate(44100, 12) == 88200
    assert adaptive_rate(44100, -12) == 22000  # 220.5 hundreds, rounded to even
    assert adaptive_rate(44100, 5) == 58900
    for key in (np.nan, 37, -40.5, "5", None):
        with pytest.raises(InputError, match="adaptive key"):
            adaptive_rate(44100, key)


def test_f0_of_a_slowed_recording(vocoder: MelVocoder) -> None:
    f0 = np.array([100, 200, 300], np.float32)
    spacing_s = vocoder.hop_samples / RATE
    np.testing.assert_array_equal(slowed_f0(f0, spacing_s, vocoder, RATE, 5), [100, 200, 300, 300, 300])
    np.testing.assert_allclose(slowed_f0(f0, spacing_s, vocoder, 2 * RATE, 6), [50, 75, 100, 125, 150, 150])


@pytest.mark.parametrize("samples", [1, 2, 511, 512, 1024])
@pytest.mark.parametrize("key", [0, 7, -7])
def test_enhancing_little(vocoder: MelVocoder, samples: int, key: int) -> None:
    made = enhanced(vocoder, np.zeros(samples, np.float32), 44100, np.zeros(1), 512, key)
    assert made.ndim == 1
    assert np.isfinite(made).all()


def test_enhancing_another_rate(vocoder: MelVocoder) -> None:
    made = enhanced(vocoder, DATA["wav_other"], META["other_sr"], np.full(13, 220.0), 512)
    assert abs(made.size - DATA["wav_other"].size * RATE / META["other_sr"]) < 2 * vocoder.hop_samples


def test_unusable_for_the_enhancer(vocoder: MelVocoder) -> None:
    wave, f0 = DATA["wav"], np.full(20, 220.0)
    for audio, pitch, hop in (
        (np.stack([wave, wave]), f0, 512),
        (wave, f0[:0], 512),
        (wave, f0, 0),
        (wave * np.nan, f0, 512),
        (wave, f0 * np.nan, 512),
        (wave[:0], f0, 512),
    ):
        with pytest.raises(InputError):
            enhanced(vocoder, audio, RATE, pitch, hop)
