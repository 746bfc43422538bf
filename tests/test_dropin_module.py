"""`DropIn`: a vocoder with upstream's calling convention, for people who write their own programs."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest
import torch

from tests.golden import networks, upstream_checkpoint
from trt_svc.difference import difference
from trt_svc.dropin import DropIn
from trt_svc.dropin.host import hosts
from trt_svc.errors import InputError
from trt_svc.loading import load_vocoder

FRAMES = 40


@pytest.fixture(autouse=True)
def _engines_here(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRT_SVC_ENGINE_DIR", str(tmp_path_factory.getbasetemp() / "dropin-module"))


def _mel(bands: int) -> torch.Tensor:
    return torch.randn(2, bands, FRAMES, generator=torch.Generator().manual_seed(0)) - 4


@pytest.mark.parametrize("backend", ["torch", "onnxruntime"])
def test_called_like_upstreams_generator(backend: str) -> None:
    generator = DropIn.load("demo", backend=backend, precision="fp32")
    mel, f0 = _mel(generator.h.num_mels), torch.full((2, FRAMES), 220.0)
    with torch.inference_mode():
        torch.manual_seed(4)
        first = generator(mel, f0)
        second = generator(mel, f0)
        torch.manual_seed(4)
        again = generator(mel, f0)
    assert first.shape == (2, 1, FRAMES * generator.h.hop_size)
    assert torch.equal(first, again)
    assert not torch.equal(first, second)  # new noise, as upstream draws it anew
    torch.manual_seed(4)
    seed = int(torch.randint(2**31 - 1, ()))
    ours = load_vocoder("demo")(mel, f0, seed=seed)
    assert difference(first[:, 0].numpy(), torch.as_tensor(ours).numpy()).snr_db > 90


def test_a_decoder_takes_its_speaker_as_hosts_give_it(tmp_path: Path) -> None:
    net = next(net for net in networks() if net.family == "sovits_dec")
    generator = DropIn.load(upstream_checkpoint(net, tmp_path), backend="torch")
    spec = generator.vocoder.spec
    latent, speaker = torch.randn(1, spec.n_mels, FRAMES), torch.randn(1, spec.speaker_channels, 1)
    made = generator(latent, g=speaker, f0=torch.full((1, FRAMES), 220.0))
    assert made.shape == (1, 1, FRAMES * spec.hop)


def test_what_hosts_ask_of_a_module() -> None:
    generator = DropIn.load("demo", backend="torch", class_name="BigVGAN")
    assert type(generator).__name__ == "BigVGAN"
    assert isinstance(generator, torch.nn.Module)
    assert not generator.training
    generator.remove_weight_norm()
    assert next(generator.half().parameters()).dtype == torch.float16
    made = generator(_mel(generator.h.num_mels).half(), torch.full((2, FRAMES), 220.0))
    assert made.dtype == torch.float16
    assert generator.h.sampling_rate == generator.vocoder.spec.sample_rate


def test_what_it_cannot_do_is_said() -> None:
    generator = DropIn.load("demo", backend="torch")
    with pytest.raises(InputError, match="its weights are in an engine"):
        generator.load_state_dict({})
    with pytest.raises(InputError, match="copying"):
        copy.deepcopy(generator)
    with pytest.raises(InputError, match="pickling"):
        pickle.dumps(generator)


def test_every_host_has_a_page_and_a_row() -> None:
    pages = Path(__file__).parents[1] / "docs" / "hosts"
    assert sorted(page.stem for page in pages.glob("*.md")) == sorted([*hosts.names(), "index"])
    index = (pages / "index.md").read_text("utf-8")
    assert all(f"({name}.md)" in index for name in hosts.names())
