"""BigVGAN, by a stand-in with its surface: same sound in an engine, and everything else stays the host's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import trt_svc
from benchmarks.hosts.scene import level, log_mel_like
from tests.hosts.bigvgan_double import V1, V2, AttrDict, BigVGAN
from trt_svc.difference import difference
from trt_svc.dropin.accelerate import host_of
from trt_svc.dropin.handle import Handle
from trt_svc.dropin.report import LEFT

FRAMES = 20


@pytest.fixture(autouse=True)
def _own_engines(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TRT_SVC_ENGINE_DIR", str(tmp_path))


def made(config: dict[str, Any], kind: Callable[[AttrDict], Any] = BigVGAN, seed: int = 0) -> Any:
    """As from_pretrained gives it: weight norm still there, training mode."""
    torch.manual_seed(seed)
    model = kind(AttrDict(config))
    level(model, lambda: model(mel(model)))
    return model


def ready(config: dict[str, Any], kind: Callable[[AttrDict], Any] = BigVGAN) -> Any:
    model = made(config, kind)
    model.remove_weight_norm()
    return model.eval()


def mel(model: Any, frames: int = FRAMES, rows: int = 1, seed: int = 0) -> Tensor:
    return log_mel_like(model.conv_pre.in_channels, frames, rows, seed)


@torch.inference_mode()
def sung(model: Any, given: Tensor | None = None) -> Tensor:
    return model(mel(model) if given is None else given)


def snr_db(made_audio: Tensor, reference: Tensor) -> float:
    assert made_audio.shape == reference.shape
    return difference(made_audio.numpy(), reference.numpy()).snr_db


def by_engine(handle: Handle) -> int:
    return sum(place.by_engine for place in handle.report().places)


@pytest.mark.parametrize(
    "config",
    [V1, V2, V1 | {"resblock": "2"}, V1 | {"snake_logscale": False}],
    ids=["v1", "v2", "resblock 2", "no logscale"],
)
def test_same_sound_and_back(config: dict[str, Any]) -> None:
    model = ready(config)
    before = sung(model)
    assert 0.05 < before.abs().max() < 0.99
    with trt_svc.accelerate(model, backend="torch", precision="fp32") as handle:
        assert torch.equal(sung(model), before)  # the first call is the host's own
        assert snr_db(sung(model), before) >= 90
        assert by_engine(handle) == 1
        assert handle.report().host == "BigVGAN"
    assert torch.equal(sung(model), before)


def test_in_a_compiled_engine() -> None:
    model = ready(V2)
    rows = mel(model, rows=2)
    before = sung(model, rows)
    with trt_svc.accelerate(model, backend="onnxruntime", precision="fp32") as handle:
        sung(model, rows)
        kept = sung(model, rows)
        sung(model, mel(model, rows=2, seed=1))
        assert snr_db(kept, before) >= 90  # no later call writes into what the caller keeps
        (place,) = handle.report().places
        assert (place.family, place.backend, place.by_engine) == ("bigvgan", "onnxruntime", 2)


def test_everything_that_hosts_read_stays() -> None:
    model = ready(V2)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    config = model.h
    with trt_svc.accelerate(model, backend="torch", precision="fp32"):
        sung(model)
        assert type(model) is BigVGAN
        assert model.h is config and config.use_cuda_kernel is False
        assert model.state_dict().keys() == state.keys()
        assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_weight_norm_may_be_removed_while_accelerated() -> None:
    model = made(V2).eval()
    with trt_svc.accelerate(model, backend="torch", precision="fp32") as handle:
        sung(model)
        assert snr_db(sung(model), BigVGAN.forward(model, mel(model)).detach()) >= 90
        model.remove_weight_norm()
        model.remove_weight_norm()
        sung(model)
        count = by_engine(handle)
        assert snr_db(sung(model), BigVGAN.forward(model, mel(model)).detach()) >= 90
        assert by_engine(handle) == count + 1


def test_other_weights_sound_as_themselves() -> None:
    model, other = ready(V1), made(V1, seed=1)
    other.remove_weight_norm()
    expected = sung(other)
    with trt_svc.accelerate(model, backend="torch", precision="fp32") as handle:
        sung(model)
        assert snr_db(sung(model), expected) < 20
        model.load_state_dict(other.state_dict())
        sung(model)
        count = by_engine(handle)
        assert snr_db(sung(model), expected) >= 90
        assert by_engine(handle) == count + 1


def test_it_still_learns() -> None:
    model = made(V1)
    with trt_svc.accelerate(model, backend="torch", precision="fp32") as handle:
        model.train()
        model(mel(model)).square().mean().backward()
        assert model.conv_post.weight_g.grad is not None
        assert by_engine(handle) == 0


def test_a_class_made_from_it_is_known() -> None:
    class FineTuned(BigVGAN):
        pass

    host = host_of(made(V1, FineTuned))
    assert host is not None and host.title == "BigVGAN"


class Renamed(BigVGAN):
    """Another version, with another name for its last layer."""

    def __init__(self, h: Any) -> None:
        super().__init__(h)
        self.last = self.conv_post
        del self.conv_post

    def forward(self, x: Tensor) -> Tensor:
        self.__dict__["conv_post"] = self.last
        try:
            return super().forward(x)
        finally:
            del self.__dict__["conv_post"]


class TwoOutputs(BigVGAN):
    """Another version, whose forward gives its input back too."""

    def forward(self, x: Tensor) -> Any:
        return super().forward(x), x


class Louder(BigVGAN):
    """Another version with the same layers, another sound and a new argument."""

    def forward(self, x: Tensor, gain: float = 0.5) -> Tensor:
        return gain * super().forward(x)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [(Renamed, "conv_post"), (TwoOutputs, "tuple"), (Louder, "dB from the host's own")],
)
def test_a_changed_host_stays_as_it_is(kind: Any, reason: str) -> None:
    torch.manual_seed(0)
    model = kind(AttrDict(V1)).eval()

    def both() -> list[Tensor]:
        with torch.inference_mode():
            heard = model(mel(model))
        return list(heard) if isinstance(heard, tuple) else [heard]

    before = both()
    with trt_svc.accelerate(model, backend="torch", precision="fp32") as handle:
        for _ in range(3):
            assert all(torch.equal(now, then) for now, then in zip(both(), before, strict=True))
        (place,) = handle.report().places
        assert place.state == LEFT and reason in place.reason
        assert by_engine(handle) == 0
    assert all(torch.equal(now, then) for now, then in zip(both(), before, strict=True))
