"""so-vits-svc-fork's Svc, on a stand-in with the same surface."""

from __future__ import annotations

import gc
import logging
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.utils.weight_norm import WeightNorm

import trt_svc
from tests.hosts import sovits_double
from tests.hosts import sovits_fork_double as host
from tests.hosts.openvpi import glide_hz
from trt_svc.difference import difference
from trt_svc.dropin.accelerate import host_of
from trt_svc.integrations.sovits_fork import SoVitsSvcFork

FRAMES = 80


@pytest.fixture(autouse=True)
def _engines_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRT_SVC_ENGINE_DIR", str(tmp_path / "engines"))


@pytest.fixture
def svc(tmp_path: Path) -> host.Svc:
    return host.Svc(net_g_path=host.voice_file(tmp_path / "G_0.pth"))


def sung_by(svc: host.Svc) -> Tensor:
    torch.manual_seed(5)
    units = torch.randn(1, host.UNITS, FRAMES, generator=torch.Generator().manual_seed(1))
    return svc.infer_silence(units, glide_hz(FRAMES))


def decibels(made: Tensor, reference: Tensor) -> float:
    return difference(made.numpy(), reference.numpy()).snr_db


@pytest.mark.parametrize("backend", ["torch", "onnxruntime"])
def test_svc(svc: host.Svc, backend: str) -> None:
    plain = sung_by(svc)
    drawn = torch.rand(1)
    with trt_svc.accelerate(svc, backend, "fp32") as handle:
        assert decibels(sung_by(svc), plain) >= 90
        made = sung_by(svc)
        assert torch.equal(torch.rand(1), drawn)
        (place,) = handle.report().places
        assert (handle.host, place.label, place.by_engine) == ("so-vits-svc-fork", "net_g.dec", 3)
    assert decibels(made, plain) >= 90
    assert torch.equal(sung_by(svc), plain)


def test_another_voice_is_loaded(svc: host.Svc, tmp_path: Path) -> None:
    first = sung_by(svc)
    with trt_svc.accelerate(svc, "torch", "fp32") as handle:
        sung_by(svc)
        gone = weakref.ref(svc.net_g)
        svc.net_g_path = host.voice_file(tmp_path / "G_1.pth", seed=1)
        svc.load_model()
        gc.collect()
        assert gone() is None
        beside, made = sung_by(svc), sung_by(svc)
        assert handle.report().places[0].by_engine == 3
    assert decibels(made, beside) >= 90
    assert decibels(beside, first) < 10
    assert torch.equal(sung_by(svc), host_sings_alone(svc))


def host_sings_alone(svc: host.Svc) -> Tensor:
    return sung_by(host.Svc(net_g_path=svc.net_g_path))


def test_weight_norm_that_goes_after_the_engine_came(svc: host.Svc) -> None:
    """The fork looks for its own hook among all hooks of a layer."""
    plain = sung_by(svc)
    host.with_norm(svc.net_g)
    with trt_svc.accelerate(svc, "torch", "fp32") as handle:
        sung_by(svc)
        for module in svc.net_g.modules():
            host.remove_norm(module)
        hooks = [hook for module in svc.net_g.modules() for hook in module._forward_pre_hooks.values()]
        assert not any(isinstance(hook, WeightNorm) for hook in hooks)
        sung_by(svc)
        assert decibels(sung_by(svc), plain) >= 90
        assert handle.report().accelerated
    assert decibels(sung_by(svc), plain) >= 90


def test_half_precision(tmp_path: Path, svc: host.Svc) -> None:
    half = host.Svc(net_g_path=svc.net_g_path, half=True)
    plain = sung_by(half)
    with trt_svc.accelerate(half, "torch", "fp32") as handle:
        heard = [sung_by(half) for _ in range(2)]
        assert handle.report().places[0].by_engine == 3
        assert next(half.net_g.parameters()).dtype == torch.float16
    assert decibels(heard[1], sung_by(svc)) > 20
    assert torch.equal(sung_by(half), plain)


def test_decoders_with_an_inverse_transform(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    svc = host.Svc(net_g_path=host.voice_file(tmp_path / "G_0.pth", type_="mb-istft"))
    plain = sung_by(svc)
    with caplog.at_level(logging.WARNING), trt_svc.accelerate(svc, "torch", "fp32") as handle:
        (place,) = handle.report().places
        assert place.state == "left to the host"
        assert "Multiband_iSTFT_Generator" in place.reason and "hifi-gan" in place.reason
        assert torch.equal(sung_by(svc), plain)
    assert len(caplog.records) == 1


def test_voices_of_both_kinds_in_turn(svc: host.Svc, tmp_path: Path) -> None:
    files = [svc.net_g_path, host.voice_file(tmp_path / "G_2.pth", type_="mb-istft")]
    with trt_svc.accelerate(svc, "torch", "fp32") as handle:
        for svc.net_g_path, expected in zip(files * 2, ["not heard yet", "left to the host"] * 2, strict=True):
            svc.load_model()
            assert [place.state for place in handle.report().places] == [expected]
            assert decibels(sung_by(svc), host_sings_alone(svc)) >= 90


def test_parts_alone(svc: host.Svc) -> None:
    plain = sung_by(svc)
    for obj, label in ((svc.net_g, "dec"), (svc.net_g.dec, "NSFHifiGANGenerator")):
        with trt_svc.accelerate(obj, "torch", "fp32") as handle:
            sung_by(svc)
            assert decibels(sung_by(svc), plain) >= 90
            assert [(place.label, place.state) for place in handle.report().places] == [(label, "engine")]


def test_so_vits_svc_is_another_host(svc: host.Svc, tmp_path: Path) -> None:
    other = sovits_double.Svc(sovits_double.voice_file(tmp_path / "G_9.pth"))
    assert type(host_of(svc)) is type(host_of(svc.net_g)) is type(host_of(svc.net_g.dec)) is SoVitsSvcFork
    assert not any(SoVitsSvcFork().claims(obj) for obj in (other, other.net_g_ms, other.net_g_ms.dec))


# A host that changed.


def test_odd_kernels_stay_the_hosts_trouble(tmp_path: Path) -> None:
    svc = host.Svc(net_g_path=host.voice_file(tmp_path / "G_0.pth", upsample_kernel_sizes=[7, 4, 4]))
    with pytest.raises(RuntimeError, match="size of tensor") as plain:
        sung_by(svc)
    with trt_svc.accelerate(svc, "torch", "fp32") as handle:
        assert "do not keep lengths" in handle.report().places[0].reason
        with pytest.raises(RuntimeError) as accelerated:
            sung_by(svc)
    assert str(accelerated.value) == str(plain.value)


def test_a_renamed_decoder(svc: host.Svc) -> None:
    class Renamed(host.SynthesizerTrn):
        def infer(self, c: Tensor, f0: Tensor, g: Tensor, noice_scale: float = 0.35) -> Tensor:
            m = self.pre(c)
            z = m + noice_scale * torch.randn_like(m)
            return self.decoder(z, g=self.emb_g(g).transpose(1, 2), f0=f0)

    plain = sung_by(svc)
    net: Any = svc.net_g
    net.__class__, net.decoder = Renamed, net.dec
    del net.dec
    with trt_svc.accelerate(svc, "torch", "fp32") as handle:
        assert "has no dec here" in handle.report().places[0].reason
        assert torch.equal(sung_by(svc), plain)
