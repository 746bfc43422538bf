"""Applio's generators, synthesizer and holders, on a stand-in with the same surface."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

import trt_svc
from tests.hosts import applio_double as host
from tests.hosts import rvc_double as rvc
from tests.hosts.applio_double import voice_file
from tests.hosts.rvc_double import glide_hz, units
from trt_svc.difference import difference
from trt_svc.dropin.accelerate import host_of
from trt_svc.dropin.handle import Handle

Sing = Callable[[], Tensor]


@pytest.fixture(autouse=True)
def _engines_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRT_SVC_ENGINE_DIR", str(tmp_path / "engines"))


def seeded(call: Callable[..., Any], *args: Any, **kwargs: Any) -> Tensor:
    torch.manual_seed(3)
    with torch.no_grad():
        made = call(*args, **kwargs)
    return made[0] if isinstance(made, tuple) else made


def check(obj: Any, sing: Sing, family: str = "rvc_dec", backend: str = "torch") -> Handle:
    """Plain, beside the engine, by the engine and plain again."""
    plain = sing()
    drawn = torch.rand(1)
    with trt_svc.accelerate(obj, backend, "fp32") as handle:
        assert torch.equal(sing(), plain)
        made = sing()
        assert torch.equal(torch.rand(1), drawn)
        (place,) = handle.report().places
        assert (place.state, place.family, place.by_engine) == ("engine", family, 1), place
        assert difference(made.numpy(), plain.numpy()).snr_db >= 90
    assert torch.equal(sing(), plain)
    return handle


def opened(tmp_path: Path, **options: Any) -> host.VoiceConverter:
    page = host.VoiceConverter()
    page.get_vc(voice_file(tmp_path / "voice.pth", **options), 0)
    return page


# Where a decoder may be.


@pytest.mark.parametrize("backend", ["torch", "onnxruntime"])
def test_voice_converter(backend: str, tmp_path: Path) -> None:
    page = opened(tmp_path)
    assert parametrize.is_parametrized(page.net_g.dec.ups[0])
    handle = check(page, lambda: seeded(page.convert, units(), glide_hz()), backend=backend)
    assert (handle.host, handle.report().places[0].label) == ("Applio", "net_g.dec")


def test_a_voice_without_pitch(tmp_path: Path) -> None:
    page = opened(tmp_path, pitch=False)
    check(page, lambda: seeded(page.convert, units(), None), "gptsovits_generator")


def test_the_realtime_one_strips_parametrizations_and_clips_in_place(tmp_path: Path) -> None:
    stream = host.RealtimeVoiceConverter(voice_file(tmp_path / "voice.pth"))
    assert not parametrize.is_parametrized(stream.net_g.dec.ups[0])
    given = units(), torch.tensor([40]), torch.tensor([0]), glide_hz().long(), glide_hz()
    for rate in (1.0, 0.4):
        check(stream, lambda r=rate: seeded(stream.inference, *given, torch.tensor(r)))
    with trt_svc.accelerate(stream, "torch", "fp32"):
        seeded(stream.inference, *given, torch.tensor(0.4))
        with torch.no_grad():
            first = stream.inference(*given, torch.tensor(0.4))
            kept = first.clone()
            stream.inference(*given, torch.tensor(0.4))
    assert torch.equal(first, kept)


def test_a_synthesizer() -> None:
    net = host.Synthesizer()
    given = units(), torch.tensor([40]), glide_hz().long(), glide_hz(), torch.tensor([2])
    check(net, lambda: seeded(net.infer, *given))


@pytest.mark.parametrize("changes", [{}, host.ODD], ids=["even", "odd"])
@pytest.mark.parametrize("backend", ["torch", "onnxruntime"])
def test_a_generator_with_odd_rates_too(changes: dict[str, Any], backend: str) -> None:
    dec = rvc.generator(host.WithPitch, 1, "parametrizations", **changes)
    draw = torch.Generator().manual_seed(1)
    z, g = torch.randn(1, rvc.INTER, 30, generator=draw), torch.randn(1, rvc.GIN, 1, generator=draw)
    check(dec, lambda: seeded(dec, z, glide_hz(30), g=g), backend=backend)


# What is left alone.


@pytest.mark.parametrize(
    ("vocoder", "reason"), [("MRF HiFi-GAN", "names its layers otherwise"), ("RefineGAN", "is another network")]
)
def test_the_other_vocoders_sing_as_before(vocoder: str, reason: str, tmp_path: Path) -> None:
    page = opened(tmp_path, vocoder=vocoder)
    plain = seeded(page.convert, units(), glide_hz())
    for obj in (page, page.net_g, page.net_g.dec):
        with trt_svc.accelerate(obj, "torch", "fp32") as handle:
            (place,) = handle.report().places
            assert place.state == "left to the host" and reason in place.reason
            assert torch.equal(seeded(page.convert, units(), glide_hz()), plain)


def test_a_vocoder_that_needs_pitch_in_a_voice_without(tmp_path: Path) -> None:
    page = opened(tmp_path, pitch=False, vocoder="RefineGAN")
    assert "needs a voice with pitch" in str(trt_svc.accelerate(page, "torch", "fp32").report())


# Loading.


def test_voices_come_and_go(tmp_path: Path) -> None:
    page = host.VoiceConverter()
    with trt_svc.accelerate(page, "torch", "fp32") as handle:
        assert "net_g.dec: left to the host: no voice is loaded yet" in str(handle.report())
        for seed, vocoder in ((1, "HiFi-GAN"), (2, "RefineGAN"), (3, "HiFi-GAN")):
            page.get_vc(voice_file(tmp_path / f"{seed}.pth", seed, vocoder=vocoder), 0)
            beside, made = (seeded(page.convert, units(), glide_hz()) for _ in range(2))
            (place,) = handle.report().places
            assert place.by_engine == (vocoder == "HiFi-GAN")
            assert difference(made.numpy(), beside.numpy()).snr_db >= 90
        page.get_vc("", 0)
    page.get_vc(str(tmp_path / "3.pth"), 0)
    assert torch.equal(seeded(page.convert, units(), glide_hz()), beside)
    assert "setup_network" not in vars(page) and "forward" not in vars(page.net_g.dec)


# A host that changed.


class Renamed(nn.Module):
    def __init__(self, older: Any) -> None:
        super().__init__()
        self.vocoder = older.dec


def test_a_synthesizer_with_a_renamed_decoder(tmp_path: Path) -> None:
    page = opened(tmp_path)
    page.net_g = Renamed(page.net_g)
    report = trt_svc.accelerate(page, "torch", "fp32").report()
    assert not report.accelerated and "has no dec here; it may be another version of the host" in str(report)


class Another(host.WithPitch):
    """Gives its source too."""

    def forward(self, x: Tensor, f0: Tensor, g: Tensor | None = None) -> Any:
        return super().forward(x, f0, g), f0


def test_a_generator_that_gives_something_else_sings_as_before(tmp_path: Path) -> None:
    dec = rvc.generator(Another)
    z, g = torch.randn(1, rvc.INTER, 20), torch.randn(1, rvc.GIN, 1)
    plain = seeded(dec, z, glide_hz(20), g=g)
    with trt_svc.accelerate(dec, "torch", "fp32") as handle:
        assert all(torch.equal(seeded(dec, z, glide_hz(20), g=g), plain) for _ in range(2))
        assert "its forward gives a tuple" in str(handle.report())


def test_what_belongs_to_this_host(tmp_path: Path) -> None:
    ours = [opened(tmp_path), host.Synthesizer(), rvc.generator(host.WithPitch), host.RefineGAN()]
    assert [type(host_of(obj)).__name__ for obj in ours] == ["Applio"] * 4
