"""DDSP-SVC's enhancer, vocoder wrappers and holders, on a stand-in with the same surface."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import trt_svc
from tests.hosts import ddsp_svc_double as host
from tests.hosts.openvpi import HOP, RATE, glide_hz, known_as, loaded, mel_of, sung, vocoder_file
from trt_svc.difference import difference
from trt_svc.dropin.accelerate import host_of
from trt_svc.dropin.handle import Handle
from trt_svc.integrations.ddsp_svc import DDSPSVC

Sing = Callable[[], Tensor]


@pytest.fixture(autouse=True)
def _engines_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRT_SVC_ENGINE_DIR", str(tmp_path / "engines"))


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    return vocoder_file(tmp_path / "nsf_hifigan")


def column(f0_hz: Tensor) -> Tensor:
    return f0_hz[..., None].clone()


def enhanced(enhancer: host.Enhancer, **options: Any) -> Tensor:
    torch.manual_seed(3)
    return enhancer.enhance(sung(glide_hz()), RATE, column(glide_hz()), HOP, **options)[0]


def inferred(vocoder: Any) -> Tensor:
    torch.manual_seed(3)
    with torch.no_grad():
        return vocoder.infer(vocoder.extract(sung(glide_hz())), column(glide_hz()))


def flowed(vocoder: host.Vocoder) -> Tensor:
    torch.manual_seed(3)
    with torch.no_grad():
        return host.Unit2Wav()(sung(glide_hz()), column(glide_hz()), vocoder=vocoder, silence_front=0.01)


def enhancer_of(weights: Path) -> host.Enhancer:
    return host.Enhancer("nsf-hifigan", str(weights))


def loaded_vocoder(weights: Path, kind: type = host.Vocoder, name: str = "nsf-hifigan") -> Any:
    """The weights come with the first call."""
    vocoder = kind(name, str(weights))
    inferred(vocoder)
    return vocoder


def check(obj: Any, sing: Sing, backend: str = "torch") -> Handle:
    """Plain, beside the engine, by the engine and plain again."""
    plain = sing()
    drawn = torch.rand(1)
    with trt_svc.accelerate(obj, backend, "fp32") as handle:
        assert torch.equal(sing(), plain)
        made = sing()
        assert torch.equal(torch.rand(1), drawn)
        (place,) = handle.report().places
        assert (place.state, place.by_engine) == ("engine", 1), place
        assert difference(made.numpy(), plain.numpy()).snr_db >= 90
    assert torch.equal(sing(), plain)
    return handle


OPTIONS = [{}, {"silence_front": 0.01}, {"adaptive_key": 4}, {"adaptive_key": "auto", "silence_front": 0.02}]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_enhancer(weights: Path, options: dict[str, Any]) -> None:
    enhancer = enhancer_of(weights)
    handle = check(enhancer, lambda: enhanced(enhancer, **options), "onnxruntime" if not options else "torch")
    assert (handle.host, handle.report().places[0].label) == ("DDSP-SVC", "enhancer.model")


@pytest.mark.parametrize("sing", [inferred, flowed])
@pytest.mark.parametrize("name", ["nsf-hifigan", "nsf-hifigan-log10"])
def test_vocoder(weights: Path, name: str, sing: Callable[[Any], Tensor]) -> None:
    vocoder = loaded_vocoder(weights, name=name)
    check(vocoder, lambda: sing(vocoder))
    check(vocoder.vocoder, lambda: sing(vocoder))
    check(vocoder.vocoder.model, lambda: sing(vocoder))


def test_extract_stays_the_hosts(weights: Path) -> None:
    vocoder = loaded_vocoder(weights)
    plain = vocoder.extract(sung(glide_hz()), keyshift=2)
    with trt_svc.accelerate(vocoder, "torch", "fp32"):
        assert torch.equal(vocoder.extract(sung(glide_hz()), keyshift=2), plain)


def test_weights_that_the_host_loads_at_its_first_call(weights: Path) -> None:
    """They are loaded at once; no random number is lost by that."""
    vocoder = host.Vocoder("nsf-hifigan", str(weights))
    assert vocoder.vocoder.model is None
    torch.manual_seed(3)
    drawn = torch.rand(1)
    torch.manual_seed(3)
    with trt_svc.accelerate(vocoder, "torch", "fp32") as handle:
        assert torch.equal(torch.rand(1), drawn)
        assert handle.report().places[0].state == "not heard yet"
        beside, made = inferred(vocoder), inferred(vocoder)
        assert difference(made.numpy(), beside.numpy()).snr_db >= 90
    assert torch.equal(inferred(vocoder), beside)


def test_weights_that_are_not_there_yet(weights: Path) -> None:
    vocoder = host.Vocoder("nsf-hifigan", str(weights))
    elsewhere = weights.rename(weights.with_name("elsewhere"))
    with trt_svc.accelerate(vocoder, "torch", "fp32") as handle:
        assert "its weights are not loaded" in str(handle.report())
        with pytest.raises(FileNotFoundError):
            inferred(vocoder)
        elsewhere.rename(weights)
        inferred(vocoder)
        assert handle.report().places[0].state == "not heard yet"
        inferred(vocoder)
        inferred(vocoder)
        assert handle.report().places[0].by_engine == 1
    assert "infer" not in vars(vocoder)


@pytest.mark.parametrize(
    ("kind", "label"),
    [
        (host.SvcDDSP, "vocoder.vocoder.model"),
        (host.EnhancingSvcDDSP, "enhancer.enhancer.model"),
        (host.DiffGtMel, "vocoder.vocoder.model"),
    ],
)
def test_programs_that_load_models(tmp_path: Path, kind: type, label: str) -> None:
    svc = kind()
    load = getattr(kind, "update_model", None) or kind.flush_model

    def sing() -> Tensor:
        if kind is host.EnhancingSvcDDSP:
            return enhanced(svc.enhancer)
        torch.manual_seed(3)
        return svc.infer(sung(glide_hz()), column(glide_hz()))

    with trt_svc.accelerate(svc, "torch", "fp32") as handle:
        assert "no model is loaded yet" in handle.report().places[0].reason
        for folder in ("one", "two"):
            getattr(svc, load.__name__)(vocoder_file(tmp_path / folder))
            assert handle.report().places[-1].state == "not heard yet"
            beside, made = sing(), sing()
            place = handle.report().places[-1]
            assert (place.label, place.state) == (label, "engine")
            assert difference(made.numpy(), beside.numpy()).snr_db >= 90
    assert torch.equal(sing(), beside)


def test_audio_that_the_caller_keeps(weights: Path) -> None:
    vocoder = loaded_vocoder(weights)
    with trt_svc.accelerate(vocoder, "onnxruntime", "fp32"):
        inferred(vocoder)
        kept = inferred(vocoder)
        copy = kept.clone()
        flowed(vocoder)
        assert torch.equal(kept, copy)


def test_noise_sigma_is_a_key_that_this_host_never_reads(tmp_path: Path) -> None:
    vocoder = loaded_vocoder(vocoder_file(tmp_path / "noisy", noise_sigma=0.5))
    assert vocoder.vocoder.model.h.noise_sigma == 0.5
    check(vocoder, lambda: inferred(vocoder))
    with trt_svc.accelerate(vocoder, "torch", "fp32") as handle:
        (swap,) = handle.swaps
        assert swap.vocoder is not None
        assert [spec.name for spec in swap.vocoder.voice.inputs] == ["mel", "source"]


class RenamedNsfHifiGAN(nn.Module):
    """What a later version may look like."""

    def __init__(self, older: Any) -> None:
        super().__init__()
        self.net, self.h = older.model, older.h

    def forward(self, audio: Tensor, f0: Tensor) -> tuple[Tensor, int]:
        with torch.no_grad():
            mel = mel_of(audio)
            return self.net(mel, f0[:, : mel.size(-1)]), self.h.sampling_rate


def test_a_host_with_a_renamed_attribute_sings_as_before(weights: Path) -> None:
    enhancer = enhancer_of(weights)
    plain = enhanced(enhancer)
    enhancer.enhancer = RenamedNsfHifiGAN(enhancer.enhancer)
    with trt_svc.accelerate(enhancer, "torch", "fp32") as handle:
        assert not handle.report().accelerated
        assert "has no model here; it may be another version" in str(handle.report())
        assert torch.equal(enhanced(enhancer), plain)


class GeneratorWithMore(host.Generator):
    """Gives more than the audio."""

    def forward(self, x: Tensor, f0: Tensor) -> Any:
        return super().forward(x, f0), f0


def test_a_host_whose_generator_gives_something_else_sings_as_before(weights: Path) -> None:
    vocoder = loaded_vocoder(weights)
    plain = inferred(vocoder)
    vocoder.vocoder.model, _ = loaded(GeneratorWithMore, weights)
    with trt_svc.accelerate(vocoder, "torch", "fp32") as handle:
        for _ in range(2):
            assert torch.equal(inferred(vocoder)[0], plain)
        assert "gives a tuple" in str(handle.report())


def test_what_belongs_to_this_host(weights: Path) -> None:
    class Vocoder:
        """Of a project that wants the sample rate."""

        def extract(self, audio: Tensor, sample_rate: int) -> None: ...

    ours = [enhancer_of(weights), host.DiffusionVocoder("nsf-hifigan", str(weights)), host.DiffGtMel()]
    assert [type(found).__name__ for found in map(host_of, ours)] == ["DDSPSVC"] * 3
    known_as("diffusion.vocoder", "Vocoder")(Vocoder)
    assert not DDSPSVC().claims(Vocoder())
