"""Diffusion-SVC's vocoder wrapper and the object that holds it, on a stand-in with the same surface."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import trt_svc
from tests.hosts import diffusion_svc_double as host
from tests.hosts.openvpi import HOP, RATE, glide_hz, loaded, sung, vocoder_file
from trt_svc.difference import difference


@pytest.fixture(autouse=True)
def _engines_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRT_SVC_ENGINE_DIR", str(tmp_path / "engines"))


@pytest.fixture
def svc(tmp_path: Path) -> host.DiffusionSVC:
    """Its vocoder's weights come with the first call."""
    made = host.DiffusionSVC()
    made.flush(model_path=vocoder_file(tmp_path / "one"))
    sung_by(made)
    return made


def f0() -> Tensor:
    return glide_hz()[..., None].clone()


def sung_by(svc: host.DiffusionSVC) -> Tensor:
    torch.manual_seed(3)
    return svc.infer(sung(glide_hz()), f0())


def live(svc: host.DiffusionSVC) -> Tensor:
    """As in real time: what lies before the block is not computed."""
    torch.manual_seed(3)
    return svc.mel2wav(svc.vocoder.extract(sung(glide_hz()), RATE), f0(), start_frame=20)


def alone(svc: host.DiffusionSVC) -> Tensor:
    torch.manual_seed(3)
    return svc.vocoder.infer(svc.vocoder.extract(sung(glide_hz()), RATE), f0())


@pytest.mark.parametrize("sing", [sung_by, live])
def test_the_whole_object(svc: host.DiffusionSVC, sing: Callable[[Any], Tensor]) -> None:
    plain = sing(svc)
    drawn = torch.rand(1)
    with trt_svc.accelerate(svc, "torch", "fp32") as handle:
        assert torch.equal(sing(svc), plain)
        made = sing(svc)
        assert torch.equal(torch.rand(1), drawn)
        report = handle.report()
        assert (report.host, report.places[0].label) == ("Diffusion-SVC", "vocoder.vocoder.model")
        assert report.places[0].by_engine == 1
        assert difference(made.numpy(), plain.numpy()).snr_db >= 90
    assert torch.equal(sing(svc), plain)


def test_what_real_time_leaves_out_is_silent(svc: host.DiffusionSVC) -> None:
    with trt_svc.accelerate(svc, "torch", "fp32"):
        live(svc)
        made = live(svc)
    assert made.shape[-1] == glide_hz().shape[-1] * HOP
    assert not made[..., : 20 * HOP].any() and made[..., 20 * HOP :].any()


def test_the_vocoder_alone(svc: host.DiffusionSVC) -> None:
    plain = alone(svc)
    with trt_svc.accelerate(svc.vocoder, "onnxruntime", "fp32") as handle:
        alone(svc)
        assert difference(alone(svc).numpy(), plain.numpy()).snr_db >= 90
        assert (handle.host, handle.report().places[0].by_engine) == ("Diffusion-SVC", 1)
    assert torch.equal(alone(svc), plain)


def test_extract_and_what_the_host_reads_stay(svc: host.DiffusionSVC) -> None:
    plain = svc.vocoder.extract(sung(glide_hz()), RATE, keyshift=-3)
    with trt_svc.accelerate(svc, "torch", "fp32"):
        assert torch.equal(svc.vocoder.extract(sung(glide_hz()), RATE, keyshift=-3), plain)
        vocoder = svc.vocoder
        assert (vocoder.vocoder_hop_size, vocoder.vocoder_sample_rate, vocoder.dimension) == (HOP, RATE, 128)


def test_a_naive_model_shares_the_vocoder(svc: host.DiffusionSVC, tmp_path: Path) -> None:
    before = svc.vocoder
    with trt_svc.accelerate(svc, "torch", "fp32") as handle:
        sung_by(svc)
        svc.flush(model_path=svc.model_path, naive_model_path=tmp_path / "naive")
        sung_by(svc)
        assert svc.vocoder is before
        assert [place.by_engine for place in handle.report().places] == [1]


def test_another_model_gets_an_engine_of_its_own(tmp_path: Path) -> None:
    svc = host.DiffusionSVC()
    with trt_svc.accelerate(svc, "torch", "fp32") as handle:
        assert "no model is loaded yet" in str(handle.report())
        for folder in ("one", "two"):
            svc.flush(model_path=vocoder_file(tmp_path / folder))
            assert handle.report().places[-1].state == "not heard yet"
            beside, made = sung_by(svc), sung_by(svc)
            assert difference(made.numpy(), beside.numpy()).snr_db >= 90
            assert handle.report().places[-1].by_engine == 1
    assert torch.equal(sung_by(svc), beside)
    assert not {"load_model", "mel2wav"} & set(vars(svc))


class Renamed(nn.Module):
    """What a later version may look like."""

    def __init__(self, older: Any) -> None:
        super().__init__()
        self.net, self.extract = older.model, older.extract

    def forward(self, mel: Tensor, f0: Tensor) -> Tensor:
        with torch.no_grad():
            return self.net(mel.transpose(1, 2), f0)


def test_a_host_with_a_renamed_attribute_sings_as_before(svc: host.DiffusionSVC) -> None:
    plain = sung_by(svc)
    svc.vocoder.vocoder = Renamed(svc.vocoder.vocoder)
    with trt_svc.accelerate(svc, "torch", "fp32") as handle:
        assert "has no model here; it may be another version" in str(handle.report())
        assert torch.equal(sung_by(svc), plain)


class OtherOrder(host.Generator):
    def forward(self, f0: Tensor, x: Tensor) -> Tensor:
        return super().forward(x, f0)


def test_a_generator_with_another_signature_fits_as_long_as_its_layers_do(svc: host.DiffusionSVC) -> None:
    inner = svc.vocoder.vocoder
    plain = sung_by(svc)
    generator, _ = loaded(OtherOrder, inner.model_path)
    inner.model = generator
    inner.forward = lambda mel, f0: generator(f0, mel.transpose(1, 2))
    with torch.no_grad(), trt_svc.accelerate(svc, "torch", "fp32") as handle:
        assert torch.equal(sung_by(svc), plain)
        assert difference(sung_by(svc).numpy(), plain.numpy()).snr_db >= 90
        assert handle.report().places[0].by_engine == 1
