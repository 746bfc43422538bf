"""The call that everybody makes: `load_vocoder(...)(mel, ...)`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import trt_svc
from tests.golden import SUBSET, GoldenNet, upstream_checkpoint
from trt_svc.errors import BackendUnavailable, ConfigError, InputError


@pytest.fixture(scope="module")
def nsf(tmp_path_factory: pytest.TempPathFactory) -> trt_svc.Vocoder:
    net = GoldenNet("nsf-openvpi-rb2", SUBSET)
    return trt_svc.load_vocoder(upstream_checkpoint(net, tmp_path_factory.mktemp("nsf")), source=net.source)


@pytest.fixture(scope="module")
def waveglow(tmp_path_factory: pytest.TempPathFactory) -> trt_svc.Vocoder:
    return trt_svc.load_vocoder(upstream_checkpoint(GoldenNet("waveglow-b2", SUBSET), tmp_path_factory.mktemp("wg")))


@pytest.fixture(scope="module")
def dec(tmp_path_factory: pytest.TempPathFactory) -> trt_svc.Vocoder:
    return trt_svc.load_vocoder(
        upstream_checkpoint(GoldenNet("sovits-dec-mix", SUBSET), tmp_path_factory.mktemp("dec"))
    )


def some_mel(vocoder: trt_svc.Vocoder, batch: int = 1, frames: int = 12, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(-4, 2, (batch, vocoder.spec.n_mels, frames)).astype(np.float32)


def some_f0(batch: int = 1, frames: int = 12) -> np.ndarray:
    return np.tile(np.where(np.arange(frames) % 5 < 4, 220.0, 0.0), (batch, 1)).astype(np.float32)


def test_spec(nsf: trt_svc.Vocoder, dec: trt_svc.Vocoder) -> None:
    spec = nsf.spec
    assert (spec.sample_rate, spec.hop, spec.n_mels, spec.needs_f0, spec.needs_speaker) == (16000, 48, 40, True, False)
    assert (spec.fmin, spec.fmax, spec.n_fft, spec.win) == (40, 8000, 2048, 2048)
    assert (dec.spec.needs_f0, dec.spec.needs_speaker, dec.spec.n_fft) == (True, True, None)
    assert "nsf_hifigan" in repr(nsf)


def test_numpy_in_numpy_out_torch_in_torch_out(nsf: trt_svc.Vocoder) -> None:
    mel, f0 = some_mel(nsf), some_f0()
    from_numpy = nsf(mel, f0, seed=3)
    from_torch = nsf(torch.from_numpy(mel), torch.from_numpy(f0), seed=3)
    assert isinstance(from_numpy, np.ndarray)
    assert isinstance(from_torch, torch.Tensor)
    assert from_numpy.dtype == np.float32
    assert np.array_equal(from_numpy, from_torch.numpy())
    odd = torch.from_numpy(mel).transpose(1, 2).contiguous().transpose(1, 2).double()
    assert np.allclose(nsf(odd, f0, seed=3).numpy(), from_numpy, atol=1e-6)


def test_the_same_seed_gives_the_same_sound_alone_and_in_a_batch(nsf: trt_svc.Vocoder) -> None:
    mels, f0 = some_mel(nsf, 4), some_f0(4)
    together = nsf(mels, f0, seed=[1, 2, 3, 1])
    for i, seed in enumerate((1, 2, 3, 1)):
        alone = nsf(mels[i : i + 1], f0[i : i + 1], seed=seed)
        assert np.abs(alone[0] - together[i]).max() <= 1e-6
    assert np.abs(nsf(mels[:1], f0[:1], seed=1) - nsf(mels[:1], f0[:1], seed=2)).max() > 1e-3


def test_part_of_the_noise_may_be_given(nsf: trt_svc.Vocoder) -> None:
    mel, f0 = some_mel(nsf), some_f0()
    shapes = nsf.noise_spec(1, 12)
    assert list(shapes) == ["initial_phase", "sine_noise", "conv_pre_noise"]
    still = nsf(mel, f0, noise={"sine_noise": np.zeros(shapes["sine_noise"])}, seed=1)
    assert np.abs(still - nsf(mel, f0, seed=1)).max() > 1e-4


def test_results_are_not_views_of_a_reused_buffer(nsf: trt_svc.Vocoder) -> None:
    mel, f0 = some_mel(nsf), some_f0()
    first = nsf(mel, f0)
    kept = first.copy()
    nsf(some_mel(nsf, seed=9), f0)
    assert np.array_equal(first, kept)
    first[:] = 0
    assert np.array_equal(nsf(mel, f0), kept)


def test_f0_one_or_two_frames_too_long_is_cut_with_a_warning(nsf: trt_svc.Vocoder) -> None:
    mel, f0 = some_mel(nsf), some_f0(1, 14)
    with pytest.warns(UserWarning, match="its end is cut off"):
        made = nsf(mel, f0)
    assert np.array_equal(made, nsf(mel, f0[:, :12]))
    assert np.array_equal(made, nsf(mel, f0[:, :12, None]))
    assert np.array_equal(made, nsf(mel, f0[0, :12]))


def test_unneeded_inputs_are_ignored_with_a_warning(waveglow: trt_svc.Vocoder, nsf: trt_svc.Vocoder) -> None:
    with pytest.warns(UserWarning, match="no pitch input"):
        waveglow(some_mel(waveglow, frames=2), f0=some_f0(1, 2))
    with pytest.warns(UserWarning, match="no speaker input"):
        nsf(some_mel(nsf), some_f0(), speaker=np.zeros((1, 4, 1)))


def test_speaker_per_utterance_and_per_frame(dec: trt_svc.Vocoder) -> None:
    mel, f0 = some_mel(dec), some_f0()
    voice = np.random.default_rng(0).normal(size=(1, dec.spec.speaker_channels, 1)).astype(np.float32)
    constant = dec(mel, f0, speaker=voice)
    assert np.abs(dec(mel, f0, speaker=voice[:, :, 0]) - constant).max() == 0
    assert np.abs(dec(mel, f0, speaker=np.repeat(voice, 12, 2)) - constant).max() <= 1e-6


def test_waveglow_options(waveglow: trt_svc.Vocoder, nsf: trt_svc.Vocoder) -> None:
    mel = some_mel(waveglow, frames=8)
    loud, quiet = waveglow(mel, sigma=1.0), waveglow(mel, sigma=0.1)
    assert np.abs(loud - quiet).max() > 1e-3
    assert np.array_equal(loud, waveglow(mel))
    denoised = waveglow(mel, denoiser_strength=0.5)
    assert denoised.shape == loud.shape
    assert np.abs(denoised - loud).max() > 1e-4
    with pytest.raises(InputError, match="belongs to WaveGlow"):
        nsf(some_mel(nsf), some_f0(), sigma=0.5)
    with pytest.raises(InputError, match="belongs to WaveGlow"):
        nsf(some_mel(nsf), some_f0(), denoiser_strength=0.5)
    with pytest.raises(InputError, match="sigma"):
        waveglow(mel, sigma=float("nan"))


BAD_CALLS: dict[str, tuple[dict[str, Any], str]] = {
    "transposed": ({"mel": np.zeros((1, 12, 40))}, "swap the last two axes"),
    "no batch": ({"mel": np.zeros((40, 12))}, "Add a batch axis"),
    "other bands": ({"mel": np.zeros((1, 80, 12))}, r"\(1, 80, 12\)"),
    "no frames": ({"mel": np.zeros((1, 40, 0))}, "at least one frame"),
    "nan": ({"mel": np.full((1, 40, 12), np.nan)}, "NaN"),
    "text": ({"mel": "song.wav"}, "not an array"),
    "objects": ({"mel": [[["a"]]]}, "not an array"),
    "no f0": ({"f0": None}, "none was given"),
    "f0 too short": ({"f0": np.zeros((1, 11))}, r"must be \(1, 12\)"),
    "f0 much too long": ({"f0": np.zeros((1, 20))}, r"must be \(1, 12\)"),
    "negative f0": ({"f0": np.full((1, 12), -1.0)}, "0 for unvoiced"),
    "nan f0": ({"f0": np.full((1, 12), np.nan)}, "NaN"),
    "f0 above nyquist": ({"f0": np.full((1, 12), 9000.0)}, "reaches 8000 Hz"),
    "seed": ({"seed": -1}, "seed"),
    "noise name": ({"noise": {"hiss": np.zeros(3)}}, "no random input of that name"),
    "noise shape": ({"noise": {"sine_noise": np.zeros(3)}}, "its shape is"),
}


@pytest.mark.parametrize("name", BAD_CALLS)
def test_bad_inputs_are_named_exactly(nsf: trt_svc.Vocoder, name: str) -> None:
    change, message = BAD_CALLS[name]
    with pytest.raises(InputError, match=message):
        nsf(**{"mel": some_mel(nsf), "f0": some_f0(), **change})


def test_bad_speakers(dec: trt_svc.Vocoder) -> None:
    mel, f0 = some_mel(dec), some_f0()
    with pytest.raises(InputError, match="needs one"):
        dec(mel, f0)
    with pytest.raises(InputError, match="its shape is"):
        dec(mel, f0, speaker=np.zeros((1, dec.spec.speaker_channels, 5)))


def test_mel_front_end(nsf: trt_svc.Vocoder, dec: trt_svc.Vocoder) -> None:
    audio = np.sin(np.arange(8000) / 10).astype(np.float32)
    mel = nsf.mel(audio, 16000)
    assert mel.shape == (1, 40, 8000 // 48)
    stereo = nsf.mel(np.stack([audio, audio]), 16000)
    assert np.array_equal(stereo[1], mel[0])
    assert nsf.mel(torch.from_numpy(audio), 8000).shape == (1, 40, 16000 // 48)
    with pytest.raises(InputError, match="latent"):
        dec.mel(audio, 44100)


def test_loading_options() -> None:
    with pytest.raises(InputError, match="backend 'torhc'"):
        trt_svc.load_vocoder("demo", backend="torhc")
    with pytest.raises(InputError, match="precision"):
        trt_svc.load_vocoder("demo", precision="fp16")
    with pytest.raises(ConfigError, match="precision 'int4'"):
        trt_svc.load_vocoder("demo", precision="int4")
    assert trt_svc.load_vocoder("demo", precision="auto").backend == "torch"
    with pytest.raises(InputError, match="device"):
        trt_svc.load_vocoder(SUBSET / "waveglow-b2-checkpoint.pt", config="waveglow_256", device="gpu!")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_missing_gpu_is_said(tmp_path: Path) -> None:
    path = upstream_checkpoint(GoldenNet("hifigan-v3", SUBSET), tmp_path)
    with pytest.raises(BackendUnavailable, match="no CUDA GPU"):
        trt_svc.load_vocoder(path, device="cuda:0")


@pytest.mark.parametrize("seed", [1.5, None, torch.tensor(3), "x"])
def test_odd_seeds(nsf: trt_svc.Vocoder, seed: Any) -> None:
    with pytest.raises(InputError, match="seed"):
        nsf(some_mel(nsf), some_f0(), seed=seed)


def test_noise_may_be_a_tensor_of_any_float_type(nsf: trt_svc.Vocoder) -> None:
    shape = nsf.noise_spec(1, 12)["sine_noise"]
    nsf(some_mel(nsf), some_f0(), noise={"sine_noise": torch.zeros(shape, dtype=torch.bfloat16)})
    for bad in ("text", [["a"]], object()):
        with pytest.raises(InputError, match="sine_noise"):
            nsf(some_mel(nsf), some_f0(), noise={"sine_noise": bad})


def test_mel_front_end_edges(nsf: trt_svc.Vocoder) -> None:
    tone = np.sin(np.arange(4800) / 10)
    floats = nsf.mel(tone.astype(np.float32), 48000.0)  # type: ignore[arg-type]
    assert np.abs(nsf.mel((tone * 32767).astype(np.int16), 48000) - floats).max() < 0.05
    tensor = nsf.mel(torch.from_numpy(tone), 48000)
    assert isinstance(tensor, torch.Tensor)
    for rate in (0, -1, 44100.5, "x", None):
        with pytest.raises(InputError, match="sample_rate"):
            nsf.mel(tone, rate)  # type: ignore[arg-type]
    for key in (float("nan"), 99, float("inf")):
        with pytest.raises(InputError, match="key shift"):
            nsf.mel(tone, 16000, key_shift=key)
    for audio in (np.zeros(0), np.zeros((1, 2, 3))):
        with pytest.raises(InputError, match="audio"):
            nsf.mel(audio, 16000)


@pytest.mark.parametrize("strength", [float("nan"), -1.0, float("inf")])
def test_bad_denoiser_strengths(waveglow: trt_svc.Vocoder, strength: float) -> None:
    with pytest.raises(InputError, match="denoiser_strength"):
        waveglow(some_mel(waveglow, frames=2), denoiser_strength=strength)


def test_f0_above_the_gliding_sources_reach_is_refused(tmp_path: Path) -> None:
    net = GoldenNet("nsf-mini-noise", SUBSET)
    mini = trt_svc.load_vocoder(upstream_checkpoint(net, tmp_path))
    assert mini.spec.max_f0_hz == 24000 / 8 / 2
    with pytest.raises(InputError, match="reaches 1500 Hz"):
        mini(some_mel(mini), np.full((1, 12), 1500.0))


@pytest.mark.parametrize("device", ["mps", "xpu", "meta", "gpu", "cuda:x"])
def test_other_devices_are_refused(device: str) -> None:
    with pytest.raises((InputError, BackendUnavailable), match="device"):
        trt_svc.load_vocoder("demo", device=device)
