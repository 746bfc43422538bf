"""RVC's generators, synthesizers and holders, on a stand-in with the same surface."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import trt_svc
from tests.hosts import rvc_double as host
from tests.hosts.openvpi import known_as
from tests.hosts.rvc_double import glide_hz, units, voice_file
from trt_svc.difference import difference
from trt_svc.dropin.accelerate import host_of
from trt_svc.dropin.handle import Handle

Sing = Callable[[], Tensor]


@pytest.fixture(autouse=True)
def _engines_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRT_SVC_ENGINE_DIR", str(tmp_path / "engines"))
    monkeypatch.delenv("RVC_CUDA_GRAPH", raising=False)


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


def page(tmp_path: Path, pitch: bool = True, **options: Any) -> host.VC:
    vc = host.VC(**options)
    vc.get_vc(voice_file(tmp_path / "voice.pth", pitch=pitch))
    return vc


# Where a decoder may be.


@pytest.mark.parametrize("backend", ["torch", "onnxruntime"])
def test_the_web_page(backend: str, tmp_path: Path) -> None:
    vc = page(tmp_path)
    handle = check(vc, lambda: seeded(vc.vc, units(), glide_hz()), backend=backend)
    assert (handle.host, handle.report().places[0].label) == ("RVC", "net_g.dec")


def test_a_voice_without_pitch(tmp_path: Path) -> None:
    vc = page(tmp_path, pitch=False)
    check(vc, lambda: seeded(vc.vc, units(version="v1"), None), "gptsovits_generator")


@pytest.mark.parametrize("formant", [0.0, 3.0, -5.0])
def test_the_realtime_window(formant: float) -> None:
    window = host.RVC(host.WithPitch(), formant)
    check(window, lambda: seeded(window.infer, units(), glide_hz(), 12, 20))


def test_a_synthesizer_and_its_tail() -> None:
    net = host.WithPitch()
    given = units(), torch.tensor([40]), glide_hz().long(), glide_hz(), torch.tensor([2])
    check(net, lambda: seeded(net.infer, *given))
    check(net, lambda: seeded(net.infer, *given, torch.tensor(5), torch.tensor(30)))


def latent(frames: int = 30) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(1)
    return torch.randn(1, host.INTER, frames, generator=draw), torch.randn(1, host.GIN, 1, generator=draw)


@pytest.mark.parametrize("norm", ["hooks", "none"])
@pytest.mark.parametrize("resblock", ["1", "2"])
def test_a_generator(norm: str, resblock: str) -> None:
    dilations = [[1, 3, 5] if resblock == "1" else [1, 3]] * 2
    dec = host.generator(host.GeneratorNSF, 1, norm, resblock=resblock, resblock_dilation_sizes=dilations)
    z, g = latent()
    check(dec, lambda: seeded(dec, z, glide_hz(30), g=g))


# Its ways of calling.


@pytest.mark.parametrize("n_res", [30, 37, 21, torch.tensor(37)], ids=str)
def test_both_inputs_are_resized_before_the_engine_sees_them(n_res: int | Tensor) -> None:
    dec, (z, g) = host.generator(host.GeneratorNSF), latent()
    plain = seeded(dec, z, glide_hz(30), g=g, n_res=n_res)
    assert plain.shape == (1, 1, 160 * int(n_res))
    check(dec, lambda: seeded(dec, z, glide_hz(30), g=g, n_res=n_res))
    flat = host.generator(host.Generator)
    check(flat, lambda: seeded(flat, z, g=g, n_res=n_res), "gptsovits_generator")


def test_a_call_without_a_speaker_is_the_hosts() -> None:
    dec, (z, g) = host.generator(host.GeneratorNSF), latent()
    with trt_svc.accelerate(dec, "torch", "fp32") as handle:
        seeded(dec, z, glide_hz(30), g=g)
        by_host = seeded(dec, z, glide_hz(30))
        assert handle.swaps[0].by_engine == 0
    assert torch.equal(seeded(dec, z, glide_hz(30)), by_host)


def test_lengths_that_change_from_call_to_call(tmp_path: Path) -> None:
    vc = page(tmp_path)
    plain = [seeded(vc.vc, units(n), glide_hz(n)) for n in (40, 9, 73)]
    with trt_svc.accelerate(vc, "torch", "fp32") as handle:
        made = [seeded(vc.vc, units(n), glide_hz(n)) for n in (40, 40, 9, 73)][1:]
        assert handle.report().places[0].by_engine == 3
    for ours, theirs in zip(made, plain, strict=True):
        assert difference(ours.numpy(), theirs.numpy()).snr_db >= 90


def test_while_a_graph_is_captured_the_host_runs_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vc = page(tmp_path)
    monkeypatch.setattr(host, "captures", True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    plain = seeded(vc.vc, units(), glide_hz())
    with trt_svc.accelerate(vc, "torch", "fp32", build=None) as handle:
        captured = seeded(vc.vc, units(), glide_hz())
        (swap,) = handle.swaps
        assert swap.by_host["a CUDA graph is being captured"] == 1
        assert swap.by_engine == host.WARM_UPS - 1  # the first is heard beside the host
    assert torch.equal(captured, plain)


def test_one_line_says_that_graphs_keep_engines_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    vc = page(tmp_path)
    monkeypatch.setenv("RVC_CUDA_GRAPH", "1")
    trt_svc.accelerate(vc, "torch", "fp32").restore()
    assert [record.message for record in caplog.records] == [
        "RVC replays CUDA graphs, in which no engine is asked: start it with RVC_CUDA_GRAPH=0."
    ]


# Loading.


def test_voices_come_and_go(tmp_path: Path) -> None:
    vc = host.VC()
    with trt_svc.accelerate(vc, "torch", "fp32") as handle:
        assert "net_g.dec: left to the host: no voice is loaded yet" in str(handle.report())
        for seed, pitch in ((1, True), (2, False), (3, True)):
            assert vc.get_vc(voice_file(tmp_path / f"{seed}.pth", seed, pitch))["maximum"] == host.SPEAKERS
            given = (units(version="v2" if pitch else "v1"), glide_hz() if pitch else None)
            beside, made = seeded(vc.vc, *given), seeded(vc.vc, *given)
            (place,) = handle.report().places
            assert (place.state, place.by_engine) == ("engine", 1)
            assert difference(made.numpy(), beside.numpy()).snr_db >= 90
        vc.get_vc("")
        assert "no voice is loaded yet" in str(handle.report())
    vc.get_vc(voice_file(tmp_path / "again.pth", seed, pitch))
    assert torch.equal(seeded(vc.vc, *given), beside)
    assert "get_vc" not in vars(vc) and "forward" not in vars(vc.net_g.dec)


def test_half_precision_stays_half(tmp_path: Path) -> None:
    vc = page(tmp_path, is_half=True)
    z, g = (tensor.half() for tensor in latent())
    plain = seeded(vc.net_g.dec, z, glide_hz(30), g=g)
    with trt_svc.accelerate(vc, "torch", "fp32") as handle:
        seeded(vc.net_g.dec, z, glide_hz(30), g=g)
        made = seeded(vc.net_g.dec, z, glide_hz(30), g=g)
        assert handle.report().places[0].by_engine == 1, handle.report()
    assert made.dtype == plain.dtype == torch.float16
    assert difference(made.float().numpy(), plain.float().numpy()).snr_db >= 30


# A host that changed.


class Renamed(nn.Module):
    def __init__(self, older: Any) -> None:
        super().__init__()
        self.decoder = older.dec


def test_a_synthesizer_with_a_renamed_decoder(tmp_path: Path) -> None:
    vc = page(tmp_path)
    vc.net_g = Renamed(vc.net_g)
    with trt_svc.accelerate(vc, "torch", "fp32") as handle:
        assert not handle.report().accelerated
        assert "has no dec here; it may be another version of the host" in str(handle.report())


class Another(host.GeneratorNSF):
    """Its f0 comes by another name, and it gives its source too."""

    def forward(self, x: Tensor, pitch_hz: Tensor, g: Tensor | None = None) -> Any:
        return super().forward(x, pitch_hz, g=g), self.m_source(pitch_hz, self.upp)[0]


def test_a_generator_that_gives_something_else_sings_as_before() -> None:
    dec, (z, g) = host.generator(Another), latent()
    plain = seeded(dec, z, pitch_hz=glide_hz(30), g=g)
    with trt_svc.accelerate(dec, "torch", "fp32") as handle:
        for _ in range(2):
            assert torch.equal(seeded(dec, z, pitch_hz=glide_hz(30), g=g), plain)
        assert "its forward gives a tuple" in str(handle.report())


# What is RVC's.


def test_what_belongs_to_this_host(tmp_path: Path) -> None:
    ours = [page(tmp_path), host.RVC(host.WithPitch()), host.WithoutPitch(), host.generator(host.Generator)]
    assert [type(host_of(obj)).__name__ for obj in ours] == ["RVC"] * 4
    stranger = known_as("some.other.project", "VC")(type("VC", (), {"net_g": None}))()
    assert host_of(stranger) is None


def test_the_hosts_are_read_without_torch() -> None:
    code = "import sys, trt_svc.integrations.rvc, trt_svc.integrations.applio; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env=dict(os.environ), check=False).returncode == 0
