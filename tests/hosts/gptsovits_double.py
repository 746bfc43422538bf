"""A stand-in for GPT-SoVITS: its `TTS` with the loaders of all versions, the settings it reads and writes, the voices.

Written for these tests from what the project does: same names, same signatures, same draws in the same order. Its
models folder is `DISK`, and what was read from it is in `was_read`.
"""

from __future__ import annotations

from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn
from torch.nn import functional as F

from tests.hosts.generators import CONVOLUTIONS, BigVGANDouble, Keys, SpeakerDouble, config, normed
from trt_svc.vocoders.healthy import healthy_net

BANDS, LATENTS, SPEAKER = 100, 12, 6
HOP = 80
VOICES = {"a.v2": "v2", "b.v2": "v2", "a.v3": "v3", "a.v4": "v4", "b.v4": "v4"}
was_read: list[str] = []
TRUNK: dict[str, Any] = {
    "resblock": "1",
    "resblock_kernel_sizes": [3, 5],
    "resblock_dilation_sizes": [[1, 3, 5], [1, 3, 5]],
    "upsample_rates": [10, 4, 2],
    "upsample_initial_channel": 16,
    "upsample_kernel_sizes": [20, 8, 4],
}
BIGVGAN = config(
    **TRUNK, num_mels=BANDS, sampling_rate=24000, activation="snakebeta", snake_logscale=True,
    use_tanh_at_final=False, use_bias_at_final=True, n_fft=64, win_size=64, hop_size=HOP, fmin=0, fmax=None,
)  # fmt: skip
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "v2": ("gptsovits_generator", {**TRUNK, "initial_channel": LATENTS, "gin_channels": SPEAKER}),
    "v3": ("bigvgan", BIGVGAN),
    "v4": ("gptsovits_generator", {**TRUNK, "initial_channel": BANDS, "is_bias": True}),
}


@cache
def _stored(version: str, seed: int = 0) -> dict[str, Tensor]:
    family, keys = CONFIGS[version]
    return healthy_net(family, keys, seed=seed).state_dict()


def from_disk(name: str) -> dict[str, Tensor]:
    was_read.append(name)
    return _stored(name.rpartition(".")[2], seed=ord(name[0]))


class Generator(SpeakerDouble):
    """The vocoder of version 4, and the decoder of version 2, whose weight norm stays."""

    __module__ = "module.models"
    forward = SpeakerDouble.forward

    def __init__(
        self,
        initial_channel: int,
        resblock: str,
        resblock_kernel_sizes: list[int],
        resblock_dilation_sizes: list[list[int]],
        upsample_rates: list[int],
        upsample_initial_channel: int,
        upsample_kernel_sizes: list[int],
        gin_channels: int = 0,
        is_bias: bool = False,
    ) -> None:
        given = {name: value for name, value in locals().items() if name not in ("self", "__class__", "is_bias")}
        self.ends_with_bias = is_bias
        super().__init__(Keys(given, num_mels=initial_channel))
        del self.h  # it carries no config

    def add_parts(self) -> None:
        if self.h.gin_channels:
            super().add_parts()
        self.num_kernels = len(self.h.resblock_kernel_sizes)

    def trunk(self, x: Tensor, source: Tensor | None = None) -> Tensor:
        for stage, up in enumerate(self.ups):
            x = up(F.leaky_relu(x, 0.1))
            blocks = self.resblocks[stage * self.num_kernels : (stage + 1) * self.num_kernels]
            x = sum(block(x) for block in blocks) / self.num_kernels
        return torch.tanh(self.conv_post(F.leaky_relu(x)))


class BigVGAN(BigVGANDouble):
    __module__ = "BigVGAN.bigvgan"
    forward = BigVGANDouble.forward

    @classmethod
    def from_pretrained(cls, folder: str) -> BigVGAN:
        net = cls(BIGVGAN)
        net.load_state_dict(from_disk(folder), strict=False)
        return net


def with_weight_norm(net: nn.Module) -> None:
    for layer in [*net.ups.modules(), *net.resblocks.modules()]:
        if isinstance(layer, CONVOLUTIONS):
            normed(layer, "hooks")


class SynthesizerTrn(nn.Module):
    """A voice of version 2."""

    __module__ = "module.models"

    def __init__(self) -> None:
        super().__init__()
        self.dec = Generator(**CONFIGS["v2"][1])

    @torch.no_grad()
    def decode(
        self,
        codes: Tensor,
        text: Tensor,
        refer: list[Tensor],
        noise_scale: float = 0.5,
        speed: float = 1,
        sv_emb: Any = None,
    ) -> Tensor:
        frames = int(codes.size(2) * 2 / speed)
        ge = torch.stack([spec.mean(2, keepdim=True)[:, :SPEAKER] for spec in refer]).mean(0)
        z = torch.randn(1, LATENTS, frames) * 2 * noise_scale
        return self.dec((z * torch.ones(1, 1, frames))[:, :, :], g=ge)


class CFM(nn.Module):
    def inference(
        self, mu: Tensor, x_lens: Tensor, prompt: Tensor, n_timesteps: int, inference_cfg_rate: float = 0
    ) -> Tensor:
        return torch.randn(mu.size(0), BANDS, mu.size(1)) / 7 + 6 / 7  # about 0 on the vocoder's own scale


class SynthesizerTrnV3(nn.Module):
    """A voice of version 3 or 4: it has no decoder."""

    __module__ = "module.models"

    def __init__(self) -> None:
        super().__init__()
        self.bridge = nn.Linear(1, 1)
        self.cfm = CFM()

    def decode_encp(self, codes: Tensor, text: Tensor, refer: Tensor, ge: Any = None, speed: float = 1) -> Any:
        return torch.zeros(1, 4, int(codes.size(2) * 4 / speed)), torch.zeros(1, SPEAKER, 1)


class TTS_Config:  # noqa: N801 - as the host has it
    """Reads all of its file; the section `custom` is written anew with its own keys whenever a model is loaded."""

    __module__ = "TTS_infer_pack.TTS"

    default_configs: dict[str, Any] = {
        version: {"version": version, "device": "cpu", "is_half": False, "vits_weights_path": f"a.{version}"}
        for version in ("v2", "v3", "v4")
    }

    def __init__(self, configs: dict[str, Any] | str | None = None) -> None:
        self.configs_path = "tts_infer.yaml"
        if configs in ("", None):
            configs = deepcopy(self.default_configs)
        if isinstance(configs, str):
            self.configs_path = configs
            configs = yaml.safe_load(Path(configs).read_text("utf-8"))
        assert isinstance(configs, dict)
        merged = deepcopy(self.default_configs)
        merged.update(configs)
        self.configs = merged.get("custom", merged["v2"])
        self.default_configs = deepcopy(merged)
        self.device = self.configs.get("device", "cpu")
        self.is_half = self.configs.get("is_half", False)
        self.version = self.configs["version"]
        self.vits_weights_path = self.configs.get("vits_weights_path", f"a.{self.version}")
        self.use_vocoder = False

    def update_configs(self) -> dict[str, Any]:
        own = ("device", "is_half", "version", "vits_weights_path")
        return {name: getattr(self, name) for name in own}

    def save_configs(self) -> None:
        configs = deepcopy(self.default_configs)
        configs["custom"] = self.update_configs()
        Path(self.configs_path).write_text(yaml.safe_dump(configs), "utf-8")

    def __str__(self) -> str:
        self.configs = self.update_configs()
        return str(self.configs)


class TTS:
    __module__ = "TTS_infer_pack.TTS"

    def __init__(self, configs: dict[str, Any] | str | TTS_Config) -> None:
        self.configs = configs if isinstance(configs, TTS_Config) else TTS_Config(configs)
        self.vits_model: Any = None
        self.vocoder: Any = None
        self.vocoder_configs: dict[str, Any] = {}
        self.precision = torch.float32
        self.init_vits_weights(self.configs.vits_weights_path)

    def init_vits_weights(self, weights_path: str) -> None:
        self.configs.vits_weights_path = weights_path
        version = self.configs.version = VOICES[weights_path]
        self.configs.use_vocoder = version in ("v3", "v4")
        net: Any = SynthesizerTrnV3() if self.configs.use_vocoder else SynthesizerTrn()
        if self.configs.use_vocoder:
            self.init_vocoder(version)
        else:
            net.dec.load_state_dict(from_disk(weights_path))
            with_weight_norm(net.dec)
        self.vits_model = net.to(self.configs.device).eval()
        self.configs.save_configs()

    def init_vocoder(self, version: str) -> None:
        """Decides by the name of the class whether the vocoder is the right one."""
        kind = {"v3": "BigVGAN", "v4": "Generator"}[version]
        if self.vocoder is not None and self.vocoder.__class__.__name__ == kind:
            return
        if self.vocoder is not None:
            self.vocoder.cpu()
            del self.vocoder
        if version == "v3":
            self.vocoder = BigVGAN.from_pretrained("vocoder.v3")
            self.vocoder.remove_weight_norm()
            self.vocoder_configs.update(sr=24000, T_ref=20, T_chunk=40, upsample_rate=HOP, overlapped_len=4)
        else:
            self.vocoder = Generator(**CONFIGS["v4"][1])
            with_weight_norm(self.vocoder)
            self.vocoder.remove_weight_norm()
            self.vocoder.load_state_dict(from_disk("vocoder.v4"))
            self.vocoder_configs.update(sr=48000, T_ref=20, T_chunk=44, upsample_rate=HOP, overlapped_len=4)
        self.vocoder = self.vocoder.eval()
        self.vocoder = self.vocoder.to(self.configs.device)

    def enable_half_precision(self, enable: bool = True, save: bool = True) -> None:
        if str(self.configs.device) == "cpu" and enable:
            return
        self.precision = torch.float16 if enable else torch.float32
        if self.vocoder is not None:
            self.vocoder = self.vocoder.half() if enable else self.vocoder.float()

    def set_device(self, device: Any, save: bool = True) -> None:
        self.configs.device = device
        if self.vits_model is not None:
            self.vits_model = self.vits_model.to(device)
        if self.vocoder is not None:
            self.vocoder = self.vocoder.to(device)

    def using_vocoder_synthesis(
        self, semantic_tokens: Tensor, phones: Tensor, speed: float = 1.0, sample_steps: int = 32
    ) -> Tensor:
        features, _ = self.vits_model.decode_encp(semantic_tokens, phones, torch.zeros(1), None, speed)
        chunk = self.vocoder_configs["T_chunk"] - self.vocoder_configs["T_ref"]
        mels = [self._flowed(part, sample_steps) for part in features.split(chunk, 2)]
        mel = denorm_spec(torch.cat(mels, 2))
        with torch.inference_mode():
            return self.vocoder(mel)[0][0]

    def using_vocoder_synthesis_batched_infer(
        self,
        idx_list: list[int],
        semantic_tokens_list: list[Tensor],
        batch_phones: list[Tensor],
        speed: float = 1.0,
        sample_steps: int = 32,
    ) -> list[Tensor]:
        """All chunks in one call of the acoustic model, and end to end in one of the vocoder."""
        frames = [int(4 * count / speed) for count in idx_list]
        chunk = self.vocoder_configs["T_chunk"] - self.vocoder_configs["T_ref"]
        overlap, hop = self.vocoder_configs["overlapped_len"], self.vocoder_configs["upsample_rate"]
        count = -(-(sum(frames) + overlap) // (chunk - overlap))
        mel = self._flowed(torch.zeros(count, 4, chunk), sample_steps)
        mel = denorm_spec(mel.permute(1, 0, 2).contiguous().view(BANDS, -1).unsqueeze(0))
        with torch.no_grad():
            audio = self.vocoder(mel)[0][0]
        parts = audio.split(chunk * hop)
        joined = torch.cat([part[overlap * hop :] for part in parts])[: sum(frames) * hop]
        return list(joined.split([n * hop for n in frames]))

    def _flowed(self, features: Tensor, steps: int) -> Tensor:
        mu = features.transpose(2, 1)
        return self.vits_model.cfm.inference(mu, torch.LongTensor([mu.size(1)]), mu, steps, inference_cfg_rate=0)


def denorm_spec(x: Tensor) -> Tensor:
    return (x + 1) / 2 * 14 - 12
