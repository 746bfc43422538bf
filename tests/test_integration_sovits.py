"""so-vits-svc's Svc, its vocoder and its enhancer, on a stand-in with the same surface."""

from __future__ import annotations

import gc
import logging
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import trt_svc
from tests.hosts import ddsp_svc_double, diffusion_svc_double
from tests.hosts import sovits_double as host
from tests.hosts.generators import Keys
from tests.hosts.openvpi import RATE, glide_hz, known_as, sung, vocoder_file
from trt_svc.difference import difference
from trt_svc.dropin.accelerate import host_of
from trt_svc.dropin.handle import Handle
from trt_svc.integrations.sovits import SoVitsSvc

FRAMES = 80
BOB = torch.tensor([[1]])
MIX = torch.softmax(torch.linspace(-2, 2, FRAMES)[:, None] * torch.arange(host.SPEAKERS), 1)
DEC, VOCODER, ENHANCER = "net_g_ms.dec", "vocoder.vocoder.model", "enhancer.enhancer.model"


@pytest.fixture(autouse=True)
def _engines_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRT_SVC_ENGINE_DIR", str(tmp_path / "engines"))


@pytest.fixture
def voice(tmp_path: Path) -> str:
    vocoder_file(tmp_path / host.NSF.parent)
    return host.voice_file(tmp_path / "G_0.pth")


def units(frames: int = FRAMES) -> Tensor:
    return torch.randn(1, host.UNITS, frames, generator=torch.Generator().manual_seed(1))


def sings(svc: host.Svc, speaker: Tensor = BOB, clips: int = 1) -> Callable[[], Tensor]:
    def sing() -> Tensor:
        torch.manual_seed(5)
        heard = svc.slice_inference(units(), glide_hz(FRAMES), speaker, clips)
        svc.clear_empty()
        return heard

    return sing


def decibels(made: Tensor, reference: Tensor) -> float:
    return difference(made.numpy(), reference.numpy()).snr_db


def check(obj: Any, sing: Callable[[], Tensor], backend: str = "torch") -> Handle:
    """Plain, beside the engine, by the engine alone, and plain again."""
    sing()  # a vocoder that is loaded by its first song draws random numbers in it
    plain = sing()
    drawn = torch.rand(1)
    with trt_svc.accelerate(obj, backend, "fp32") as handle:
        assert decibels(sing(), plain) >= 90
        before = [(swap.by_engine, swap.by_host.total()) for swap in handle.swaps]
        made = sing()
        assert torch.equal(torch.rand(1), drawn)
        assert decibels(made, plain) >= 90
        for swap, (engine, own) in zip(handle.swaps, before, strict=True):
            assert (swap.by_engine > engine, swap.by_host.total()) == (True, own), swap.by_host
    assert torch.equal(sing(), plain)
    return handle


def labels(handle: Handle) -> list[str]:
    return [place.label for place in handle.report().places]


OPTIONS = [
    ({}, [DEC]),
    ({"shallow_diffusion": True}, [DEC, VOCODER]),
    ({"only_diffusion": True}, [VOCODER]),
    ({"nsf_hifigan_enhance": True}, [DEC, ENHANCER]),
]


@pytest.mark.parametrize(("options", "expected"), OPTIONS, ids=str)
def test_every_way_to_sing(voice: str, options: dict[str, Any], expected: list[str]) -> None:
    svc = host.Svc(voice, **options)
    handle = check(svc, sings(svc, clips=2), "onnxruntime" if "shallow_diffusion" in options else "torch")
    assert (handle.host, labels(handle)) == ("so-vits-svc", expected)


def test_a_speaker_of_every_frame(voice: str) -> None:
    """A mix of speakers makes `g` as long as the song, after calls in which it was one frame long."""
    svc = host.Svc(voice)
    mixed, plain = sings(svc, MIX)(), sings(svc)()
    with trt_svc.accelerate(svc, "onnxruntime", "fp32") as handle:
        for sing, expected in ((sings(svc), plain), (sings(svc, MIX), mixed)) * 2:
            assert decibels(sing(), expected) >= 90
        assert handle.report().places[0].by_engine == 3
    assert decibels(mixed, plain) < 20


def test_a_voice_with_snakes(tmp_path: Path) -> None:
    svc = host.Svc(host.voice_file(tmp_path / "G_0.pth", net="sovits_snake"))
    assert isinstance(svc.net_g_ms.dec, host.SnakeDecoder)
    handle = check(svc, sings(svc))
    assert labels(handle) == [DEC]


def test_the_voice_keeps_its_object(voice: str) -> None:
    """`dtype` is read from the first parameter; files are written from the state dict."""
    svc = host.Svc(voice)
    dec, names = svc.net_g_ms.dec, list(svc.net_g_ms.state_dict())
    with trt_svc.accelerate(svc, "torch", "fp32"):
        sings(svc)()
        assert svc.net_g_ms.dec is dec
        assert list(svc.net_g_ms.state_dict()) == names
        assert next(iter(svc.net_g_ms.named_parameters()))[0] == "emb_g.weight"
        assert type(dec).__name__ == "Generator" and type(dec).__module__ == "vdecoder.hifigan.models"


def test_a_vocoder_that_comes_with_the_first_song(voice: str) -> None:
    """It is loaded at once, by the host's own loader, whose random numbers do not count."""
    svc = host.Svc(voice, shallow_diffusion=True)
    assert svc.vocoder.vocoder.model is None
    torch.manual_seed(0)
    drawn = torch.rand(1)
    torch.manual_seed(0)
    handle = trt_svc.accelerate(svc, "torch", "fp32")
    assert torch.equal(torch.rand(1), drawn)
    assert type(svc.vocoder.vocoder.model) is host.Vocoding
    first, second = sings(svc)(), sings(svc)()
    assert [(place.state, place.by_engine) for place in handle.report().places] == [("engine", 1)] * 2
    handle.restore()
    assert decibels(second, first) >= 90
    assert torch.equal(sings(svc)(), first)


def test_noise_sigma_is_a_key_that_this_host_never_reads(voice: str, tmp_path: Path) -> None:
    vocoder_file(tmp_path / host.NSF.parent, noise_sigma=0.5)
    svc = host.Svc(voice, only_diffusion=True)
    assert svc.vocoder.vocoder.h.noise_sigma == 0.5
    with trt_svc.accelerate(svc, "torch", "fp32") as handle:
        (swap,) = handle.swaps
        assert swap.vocoder is not None
        assert [spec.name for spec in swap.vocoder.voice.inputs] == ["mel", "source"]


def test_another_voice_is_loaded(voice: str, tmp_path: Path) -> None:
    svc = host.Svc(voice)
    first = sings(svc)()
    with trt_svc.accelerate(svc, "torch", "fp32") as handle:
        sings(svc)()
        gone = weakref.ref(svc.net_g_ms.dec)
        svc.unload_model()
        gc.collect()
        assert gone() is None
        svc.net_g_path = host.voice_file(tmp_path / "G_1.pth", seed=1)
        svc.load_model()
        beside, made = sings(svc)(), sings(svc)()
        assert handle.report().places[0].by_engine == 1
    assert decibels(made, beside) >= 90
    assert torch.equal(sings(svc)(), beside)
    assert decibels(beside, first) < 10
    assert "load_model" not in vars(svc)


def test_unloading_ends_in_a_clear_report(voice: str) -> None:
    svc = host.Svc(voice, nsf_hifigan_enhance=True)
    with trt_svc.accelerate(svc, "torch", "fp32"):
        sings(svc)()
        svc.unload_model()
    with trt_svc.accelerate(svc, "torch", "fp32") as handle:
        reasons = [place.reason for place in handle.report().places]
        assert all("has no" in reason for reason in reasons) and len(reasons) == 2
        assert not handle.report().accelerated


def test_half_precision_and_back(voice: str) -> None:
    svc = host.Svc(voice)
    plain = sings(svc)()
    with trt_svc.accelerate(svc, "torch", "fp32") as handle:
        sings(svc)()
        svc.net_g_ms.half()
        svc.dtype = torch.float16
        halves = [sings(svc)() for _ in range(2)]
        assert decibels(halves[1], halves[0]) > 20
        svc.net_g_ms.float()
        svc.dtype = torch.float32
        sings(svc)()
        made = sings(svc)()
        assert handle.report().accelerated
        beside = sings(svc)()
    assert decibels(made, beside) >= 90
    assert decibels(made, plain) > 30


def test_slices_are_kept_until_the_end(voice: str) -> None:
    svc = host.Svc(voice)
    with trt_svc.accelerate(svc, "onnxruntime", "fp32"):
        sings(svc)()
        pieces = [svc.infer(units(20), f0, BOB) for f0 in glide_hz(FRAMES).split(20, 1)]
        copies = [piece.clone() for piece in pieces]
        sings(svc, clips=3)()
        assert all(torch.equal(*both) for both in zip(pieces, copies, strict=True))


def through_generator(dec: Any) -> Callable[[], Tensor]:
    def sing() -> Tensor:
        torch.manual_seed(2)
        z, g = torch.randn(1, 192, FRAMES), torch.randn(1, 6, 1)
        with torch.inference_mode():
            named, placed = dec(z, g=g, f0=glide_hz(FRAMES)), dec(z, glide_hz(FRAMES), g)
        return torch.cat([named[0, 0], placed[0, 0]])

    return sing


def through_vocoder(vocoder: host.Vocoder) -> Callable[[], Tensor]:
    def sing() -> Tensor:
        torch.manual_seed(2)
        return vocoder.infer(vocoder.extract(sung(glide_hz()), RATE), glide_hz()[..., None])[0, 0]

    return sing


def through_enhancer(enhancer: host.Enhancer) -> Callable[[], Tensor]:
    def sing() -> Tensor:
        torch.manual_seed(2)
        return enhancer.enhance(sung(glide_hz()), RATE, glide_hz()[..., None], 16)[0]

    return sing


def test_parts_alone(voice: str) -> None:
    whole = host.Svc(voice, shallow_diffusion=True, nsf_hifigan_enhance=True)
    net = whole.net_g_ms
    for obj, sing, label in (
        (net, sings(whole), "dec"),
        (net.dec, through_generator(net.dec), "Generator"),
        (whole.vocoder, through_vocoder(whole.vocoder), "vocoder.model"),
        (whole.enhancer, through_enhancer(whole.enhancer), "enhancer.model"),
    ):
        handle = check(obj, sing)
        assert (handle.host, labels(handle)) == ("so-vits-svc", [label])


def test_wrappers_of_the_same_name_in_other_projects(voice: str, tmp_path: Path) -> None:
    weights = str(vocoder_file(tmp_path / "other"))
    ours = host.Svc(voice, shallow_diffusion=True, nsf_hifigan_enhance=True)
    others = [kind("nsf-hifigan", weights) for kind in (ddsp_svc_double.Vocoder, diffusion_svc_double.Vocoder)]
    assert not any(SoVitsSvc().claims(other) for other in others)
    for obj in (ours, ours.net_g_ms, ours.net_g_ms.dec, ours.vocoder, ours.enhancer, ours.enhancer.enhancer.model):
        assert type(host_of(obj)) is SoVitsSvc, type(obj)


# A host that changed.


def test_odd_kernels_stay_the_hosts_trouble(tmp_path: Path) -> None:
    """Kernels that differ from their rates by odd numbers do not keep lengths, in the host as well."""
    svc = host.Svc(host.voice_file(tmp_path / "G_0.pth", upsample_kernel_sizes=[7, 4, 4]))
    with pytest.raises(RuntimeError, match="size of tensor") as plain:
        sings(svc)()
    with trt_svc.accelerate(svc, "torch", "fp32") as handle:
        assert "do not keep lengths" in handle.report().places[0].reason
        with pytest.raises(RuntimeError) as accelerated:
            sings(svc)()
    assert str(accelerated.value) == str(plain.value)


def test_a_renamed_decoder(voice: str, caplog: pytest.LogCaptureFixture) -> None:
    svc = host.Svc(voice)
    plain = sings(svc)()

    class Renamed(host.SynthesizerTrn):
        def infer(self, c: Tensor, f0: Tensor, g: Tensor, **options: Any) -> Any:
            self.dec = self.decoder
            try:
                return super().infer(c, f0, g, **options)
            finally:
                del self.dec

    net = svc.net_g_ms
    net.__class__, net.decoder = Renamed, net.dec
    del net.dec
    with caplog.at_level(logging.WARNING), trt_svc.accelerate(svc, "torch", "fp32") as handle:
        (place,) = handle.report().places
        assert "has no dec here; it may be another version" in place.reason
        assert torch.equal(sings(svc)(), plain)
    assert len(caplog.records) == 1


class Vocoderless:
    """Diffusion is asked for, and nobody knows where its vocoder is now."""


def test_a_renamed_vocoder(voice: str) -> None:
    svc = host.Svc(voice, shallow_diffusion=True, nsf_hifigan_enhance=True)
    svc.vocoder, svc.enhancer.enhancer = Vocoderless(), nn.Identity()
    with trt_svc.accelerate(svc, "torch", "fp32") as handle:
        places = {place.label: place for place in handle.report().places}
    assert places[DEC].state != "left to the host"
    assert "has no vocoder" in places[VOCODER].reason
    assert "has no model" in places[ENHANCER].reason


@known_as("vdecoder.hifigan.models", "Generator")
class OtherSignature(host.Decoder):
    """Takes its inputs in another order and gives more than the audio."""

    def forward(self, f0: Tensor, x: Tensor, g: Tensor, key_shift: int) -> Any:
        return super().forward(x, f0, g), f0 * 2**key_shift


def test_another_signature(voice: str) -> None:
    svc = host.Svc(voice)
    dec = OtherSignature(Keys(svc.net_g_ms.dec.h))
    dec.load_state_dict(svc.net_g_ms.dec.state_dict())
    z, g = torch.randn(1, 192, FRAMES), torch.randn(1, 6, 1)

    def sing() -> Tensor:
        torch.manual_seed(2)
        with torch.no_grad():
            audio, shifted = dec(glide_hz(FRAMES), z, g, key_shift=1)
        assert torch.equal(shifted, 2 * glide_hz(FRAMES))
        return audio

    plain = sing()
    with trt_svc.accelerate(dec, "torch", "fp32") as handle:
        assert torch.equal(sing(), plain) and torch.equal(sing(), plain)
        (place,) = handle.report().places
        assert place.state == "left to the host"
        assert "tuple" in place.reason
