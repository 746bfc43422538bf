"""DiffSinger's NSF-HiFiGAN in its three kinds, on a stand-in with the same surface."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import trt_svc
from tests.hosts import diffsinger_double as host
from tests.hosts.openvpi import BINS, RATE, glide_hz, mel_of, sung, vocoder_file
from trt_svc.difference import difference

KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "nine harmonics": ("nsf_hifigan", {"mini_nsf": False}),
    "mini": ("mini", {}),
    "mini with noise": ("mini", {"noise_sigma": 0.2}),
    "no key for noise": ("nsf_hifigan", {"noise_sigma": None}),
}


@pytest.fixture(autouse=True)
def _engines_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRT_SVC_ENGINE_DIR", str(tmp_path / "engines"))


@pytest.fixture(autouse=True)
def _settings(tmp_path: Path) -> Iterator[None]:
    host.hparams.update(vocoder="NsfHifiGAN", mel_base="e", audio_sample_rate=RATE, audio_num_mel_bins=BINS)
    yield
    host.hparams.clear()


def stored(tmp_path: Path, kind: str) -> None:
    net, changes = KINDS[kind]
    path = vocoder_file(tmp_path / "vocoder", net, name="model.ckpt", **changes)
    host.hparams["vocoder_ckpt"] = str(path)


def mel() -> Tensor:
    """(1, frames, bins)"""
    return mel_of(sung(glide_hz())).transpose(1, 2)


def sung_by(singer: host.DiffSingerAcousticInfer) -> Tensor:
    torch.manual_seed(3)
    return singer.run_vocoder(mel(), f0=glide_hz())[0]


@pytest.mark.parametrize("kind", KINDS)
def test_the_object_that_sings(tmp_path: Path, kind: str) -> None:
    stored(tmp_path, kind)
    singer = host.DiffSingerAcousticInfer()
    plain = sung_by(singer)
    drawn = torch.rand(1)
    with trt_svc.accelerate(singer, "onnxruntime" if kind == "mini" else "torch", "fp32") as handle:
        assert torch.equal(sung_by(singer), plain)
        made = sung_by(singer)
        assert torch.equal(torch.rand(1), drawn)
        report = handle.report()
        assert (report.host, report.places[0].label) == ("DiffSinger", "vocoder.model")
        assert report.places[0].by_engine == 1, report
        assert made.ndim == 1
        assert difference(made.numpy(), plain.numpy()).snr_db >= 90
    assert torch.equal(sung_by(singer), plain)


@pytest.mark.parametrize("mel_base", ["e", "10"])
def test_numpy_in_and_out(tmp_path: Path, mel_base: str) -> None:
    stored(tmp_path, "mini with noise")
    host.hparams["mel_base"] = mel_base
    vocoder = host.VOCODERS["nsfhifigan"]()
    given = mel()[0].numpy() * (1 if mel_base == "e" else 0.434294)

    def sing() -> Any:
        torch.manual_seed(3)
        return vocoder.spec2wav(given, f0=glide_hz()[0].numpy())

    plain = sing()
    with trt_svc.accelerate(vocoder, "torch", "fp32") as handle:
        sing()
        made = sing()
        assert type(made) is np.ndarray and made.dtype == np.float32
        assert handle.report().places[0].by_engine == 1
        assert difference(made, plain).snr_db >= 90
    assert np.array_equal(sing(), plain)


def test_the_device_that_the_host_reads(tmp_path: Path) -> None:
    stored(tmp_path, "mini")
    singer = host.DiffSingerAcousticInfer()
    with trt_svc.accelerate(singer, "torch", "fp32"):
        assert singer.vocoder.get_device() == torch.device("cpu")
        singer.vocoder.to_device("cpu")
        assert singer.vocoder.device == torch.device("cpu")
        assert type(singer.vocoder.model) is host.Generator


def test_without_a_pitch_the_host_complains_as_ever(tmp_path: Path) -> None:
    stored(tmp_path, "mini")
    singer = host.DiffSingerAcousticInfer()
    with trt_svc.accelerate(singer, "torch", "fp32"):
        for _ in range(2):
            with pytest.raises(TypeError, match="f0"):
                singer.run_vocoder(mel())
        sung_by(singer)
        with pytest.raises(TypeError, match="f0"):
            singer.run_vocoder(mel())


def test_the_generator_alone(tmp_path: Path) -> None:
    stored(tmp_path, "mini")
    vocoder = host.NsfHifiGAN()
    with trt_svc.accelerate(vocoder.model, "torch", "fp32") as handle:
        assert (handle.host, handle.report().places[0].label) == ("DiffSinger", "Generator")


def test_vocoders_that_are_left_alone(tmp_path: Path) -> None:
    host.hparams["vocoder"] = "ddsp"
    with trt_svc.accelerate(host.DiffSingerAcousticInfer(), "torch", "fp32") as handle:
        assert "a TorchScript program" in str(handle.report())
    with trt_svc.accelerate(host.DiffSingerAcousticInfer(load_vocoder=False), "torch", "fp32") as handle:
        assert "load_vocoder=False" in str(handle.report())


def test_a_host_with_a_renamed_attribute_sings_as_before(tmp_path: Path) -> None:
    class NsfHifiGAN(host.NsfHifiGAN):
        __module__ = "modules.vocoders.nsf_hifigan"

        def __init__(self) -> None:
            super().__init__()
            self.net = self.__dict__.pop("model")

        def spec2wav_torch(self, mel: Tensor, **kwargs: Any) -> Tensor:
            with torch.no_grad():
                return self.net(mel.transpose(2, 1), kwargs["f0"]).view(-1)

    stored(tmp_path, "mini")
    singer = host.DiffSingerAcousticInfer()
    plain = sung_by(singer)
    singer.vocoder = NsfHifiGAN()
    with trt_svc.accelerate(singer, "torch", "fp32") as handle:
        assert "has no model here; it may be another version" in str(handle.report())
        assert torch.equal(sung_by(singer), plain)
