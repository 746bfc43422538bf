"""HiFi-GAN, by a stand-in with its surface: same sound in an engine, and everything else stays the host's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import trt_svc
from benchmarks.hosts.scene import level, log_mel_like
from tests.hosts.hifigan_double import BANDS, V1, V3, AttrDict, Generator
from trt_svc.difference import difference
from trt_svc.dropin.accelerate import host_of
from trt_svc.dropin.report import LEFT

MEL = log_mel_like(BANDS, 12)


@pytest.fixture(autouse=True)
def _own_engines(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TRT_SVC_ENGINE_DIR", str(tmp_path))


def made(config: dict[str, Any], kind: Any = Generator) -> Any:
    torch.manual_seed(0)
    generator = kind(AttrDict(config))
    level(generator, lambda: generator(MEL))
    return generator.eval()


@torch.no_grad()
def sung(generator: Any, mel: Tensor = MEL) -> Tensor:
    """As its inference script does it."""
    return generator(mel).squeeze()


def snr_db(made_audio: Tensor, reference: Tensor) -> float:
    assert made_audio.shape == reference.shape
    return difference(made_audio.numpy(), reference.numpy()).snr_db


@pytest.mark.parametrize(
    ("config", "backend", "folded"),
    [(V1, "onnxruntime", True), (V1, "torch", False), (V3, "torch", True), (V3, "torch", False)],
    ids=["V1", "V1 under weight norm", "V3", "V3 under weight norm"],
)
def test_same_sound_and_back(config: dict[str, Any], backend: str, folded: bool) -> None:
    generator = made(config)
    if folded:
        generator.remove_weight_norm()
    before = sung(generator)
    assert 0.05 < before.abs().max() < 0.99
    with trt_svc.accelerate(generator, backend=backend, precision="fp32") as handle:
        assert torch.equal(sung(generator), before)  # the first call is the host's own
        assert snr_db(sung(generator), before) >= 90
        (place,) = handle.report().places
        assert (place.family, place.backend, place.by_engine) == ("hifigan", backend, 1)
        assert type(generator) is Generator
    assert torch.equal(sung(generator), before)


def test_its_layers_win_over_its_config() -> None:
    generator = made(V1 | {"num_mels": 128, "hop_size": 512})
    before = sung(generator)
    with trt_svc.accelerate(generator, backend="torch", precision="fp32") as handle:
        sung(generator)
        assert snr_db(sung(generator), before) >= 90
        assert handle.report().places[0].by_engine == 1


def test_any_length_and_number_of_rows() -> None:
    generator = made(V3)
    with trt_svc.accelerate(generator, backend="torch", precision="fp32") as handle:
        sung(generator)
        for frames, rows in ((1, 1), (7, 3), (40, 2)):
            mel = log_mel_like(BANDS, frames, rows)
            with torch.no_grad():
                expected = Generator.forward(generator, mel).squeeze()
            assert snr_db(sung(generator, mel), expected) >= 90
        assert handle.report().places[0].by_engine == 3


def test_generators_of_other_projects_are_not_its_own() -> None:
    generator = made(V1)
    host = host_of(generator)
    assert host is not None and host.title == "HiFi-GAN"
    generator.m_source = nn.Identity()
    found = host_of(generator)
    assert found is None or found.title != "HiFi-GAN"


class Renamed(Generator):
    """Another version, with another name for its last layer."""

    def __init__(self, h: Any) -> None:
        super().__init__(h)
        self.tail = self.conv_post
        del self.conv_post

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_pre(x)
        for i in range(self.num_upsamples):
            x = self.ups[i](x)
        return self.tail(x)


class NeedsAnother(Generator):
    """Another version, whose forward wants more."""

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        return super().forward(x + style)


def test_a_renamed_layer_is_reported_and_nothing_changes() -> None:
    generator = Renamed(AttrDict(V1)).eval()
    before = sung(generator)
    handle = trt_svc.accelerate(generator, backend="torch", precision="fp32")
    assert torch.equal(sung(generator), before)
    (place,) = handle.report().places
    assert handle.report().host == "HiFi-GAN"
    assert place.state == LEFT and "conv_post" in place.reason


def test_another_signature_is_the_hosts_own_affair() -> None:
    torch.manual_seed(0)
    generator = NeedsAnother(AttrDict(V1)).eval()
    style = torch.full((1, BANDS, 1), 0.5)
    with torch.no_grad():
        before = generator(MEL, style=style)
        with trt_svc.accelerate(generator, backend="torch", precision="fp32") as handle:
            with pytest.raises(TypeError, match="style"):
                generator(MEL)
            assert torch.equal(generator(MEL, style=style), before)
            assert snr_db(generator(MEL, style=style), before) >= 90
            assert handle.report().places[0].by_engine == 1
        assert torch.equal(generator(MEL, style=style), before)
