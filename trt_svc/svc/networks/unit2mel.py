"""The diffusion model's weights: what turns content, pitch, volume and voice into a condition, and the denoiser."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self, cast

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from trt_svc.checkpoints.containers import opened_container
from trt_svc.checkpoints.layouts import unwrap
from trt_svc.checkpoints.load import shapes_of
from trt_svc.checkpoints.locate import locate, read_config
from trt_svc.errors import ConfigError, WeightsMismatch, shown
from trt_svc.svc.networks.denoiser import WaveNet
from trt_svc.svc.samplers.schedule import linear_betas
from trt_svc.vocoders.generator_config import Channels, SampleRate, UpstreamConfig, parse

logger = logging.getLogger(__name__)

TIMESTEPS = 1000
FULL_SHIFT_SEMITONES = 5.0
"""The pitch shift that the embedding of the augmentation calls 1."""
SCHEDULE_BUFFERS = frozenset(
    f"decoder.{name}"
    for name in (
        "betas", "alphas_cumprod", "alphas_cumprod_prev", "sqrt_alphas_cumprod", "sqrt_one_minus_alphas_cumprod",
        "log_one_minus_alphas_cumprod", "sqrt_recip_alphas_cumprod", "sqrt_recipm1_alphas_cumprod",
        "posterior_variance", "posterior_log_variance_clipped", "posterior_mean_coef1", "posterior_mean_coef2",
        "spec_min", "spec_max",
    )
)  # fmt: skip
"""Tables that upstream saves with the weights; ours are made from the config."""
_BETAS = "decoder.betas"

Count = Annotated[int, Field(ge=1, le=10_000)]
OptionalCount = Annotated[int | None, Field(ge=0, le=10_000)]


class ModelKeys(UpstreamConfig):
    """`model:` of the diffusion's config.yaml."""

    n_layers: Annotated[int, Field(ge=1, le=256)] = 20
    n_chans: Annotated[int, Field(ge=4, le=16384, multiple_of=2)] = 512
    n_hidden: Channels = 256
    n_spk: OptionalCount = None
    use_pitch_aug: bool | None = None
    timesteps: OptionalCount = None
    k_step_max: OptionalCount = None


class DataKeys(UpstreamConfig):
    """`data:`."""

    encoder: str | None = None
    encoder_out_channels: Channels
    sampling_rate: SampleRate = 44100
    block_size: Count = 512
    unit_interpolate_mode: str | None = None


class VocoderKeys(UpstreamConfig):
    """`vocoder:`."""

    type: str = "nsf-hifigan"
    ckpt: str | None = None


class InferKeys(UpstreamConfig):
    """`infer:`."""

    speedup: OptionalCount = None
    method: str | None = None


class DiffusionConfig(UpstreamConfig):
    """The keys of the diffusion's config.yaml that inference reads; an absent one is what upstream makes of it."""

    data: DataKeys
    model: ModelKeys
    vocoder: VocoderKeys = VocoderKeys()
    infer: InferKeys = InferKeys()
    spk: Mapping[str, Annotated[int, Field(ge=0, le=10_000)]] | None = None

    @field_validator("spk", mode="before")
    @classmethod
    def _names_are_text(cls, value: Any) -> Any:
        """YAML reads a speaker called 2333 as a number."""
        return {str(name): number for name, number in value.items()} if isinstance(value, Mapping) else value

    @property
    def speakers(self) -> int:
        return self.model.n_spk or 1

    @property
    def timesteps(self) -> int:
        return self.model.timesteps or TIMESTEPS

    @property
    def k_step_max(self) -> int:
        """The noisiest step that the model was trained on; below `timesteps` it can only start from a mel."""
        return min(self.model.k_step_max or self.timesteps, self.timesteps)


class Unit2Mel(nn.Module):
    """Content, pitch, volume and voice of every frame as a condition, and the denoiser that takes it."""

    def __init__(
        self, units: int, n_mels: int, layers: int, channels: int, hidden: int, speakers: int, pitch_shift: bool
    ) -> None:
        super().__init__()
        self.unit_channels, self.n_mels, self.hidden, self.speakers = units, n_mels, hidden, speakers
        self.unit_embed = nn.Linear(units, hidden)
        self.f0_embed = nn.Linear(1, hidden)
        self.volume_embed = nn.Linear(1, hidden)
        self.aug_shift_embed = nn.Linear(1, hidden, bias=False) if pitch_shift else None
        self.spk_embed = _voices(speakers, hidden) if speakers > 1 else None
        self.decoder = nn.ModuleDict({"denoise_fn": WaveNet(n_mels, layers, channels, hidden)})

    @classmethod
    def from_config(cls, config: DiffusionConfig, n_mels: int, pitch_shift: bool) -> Self:
        """The network of a config.yaml, which leaves the vocoder's number of mel bins to the vocoder."""
        wanted = config.model.use_pitch_aug
        return cls(
            units=config.data.encoder_out_channels,
            n_mels=n_mels,
            layers=config.model.n_layers,
            channels=config.model.n_chans,
            hidden=config.model.n_hidden,
            speakers=config.speakers,
            pitch_shift=pitch_shift if wanted is None else wanted,
        )

    @property
    def denoiser(self) -> WaveNet:
        return cast(WaveNet, self.decoder["denoise_fn"])

    def condition(
        self, units: Tensor, f0_hz: Tensor, volume: Tensor, voice: Tensor | None = None, shift: Tensor | None = None
    ) -> Tensor:
        """The condition (B, H, T) of units (B, T, D), f0 (B, T) and volume (B, T).

        voice: weights of all speakers (B, T, speakers) with T or 1 frames. shift: semitones (B,) by which the pitch
        was moved, for models trained with such recordings.
        """
        pitch = torch.log1p(f0_hz / 700).unsqueeze(-1)
        x = self.unit_embed(units) + self.f0_embed(pitch) + self.volume_embed(volume.unsqueeze(-1))
        if self.spk_embed is not None and voice is not None:
            x = x + voice @ self.spk_embed.weight
        if self.aug_shift_embed is not None and shift is not None:
            x = x + self.aug_shift_embed(shift[:, None, None] / FULL_SHIFT_SEMITONES)
        return cast(Tensor, x.transpose(1, 2))

    def forward(self, x: Tensor, time: Tensor, cond: Tensor) -> Tensor:
        """The denoiser."""
        return cast(Tensor, self.denoiser(x, time, cond))


def _voices(speakers: int, hidden: int) -> nn.Embedding:
    """Without random numbers to begin with, for which torch loads a compiler when there is no memory behind them."""
    table = nn.Embedding.from_pretrained(torch.zeros(speakers, hidden), freeze=False)  # type: ignore[no-untyped-call]
    return cast(nn.Embedding, table)


@dataclass(frozen=True)
class OpenedUnit2Mel:
    """A diffusion model from disk."""

    path: Path
    net: Unit2Mel
    config: DiffusionConfig


def open_unit2mel(where: str | Path, config: str | Path | Mapping[str, Any] | None = None) -> OpenedUnit2Mel:
    """The diffusion model of a weights file or folder, with the config.yaml beside it unless one is given."""
    found = locate(where)
    what = f"diffusion model {found.weights.name}"
    given = config if config is not None else found.config
    if given is None:
        advice = "Put the config.yaml of its training beside the weights, or name it (-dc)."
        raise ConfigError(f"config for {what}", "none lies beside it.", advice)
    with opened_container(found.weights) as tree:
        weights = unwrap(tree, what, found.weights.stat().st_size).weights
    checked = parse(DiffusionConfig, read_config(given), "diffusion")
    _check_schedule(weights, checked, what)
    return OpenedUnit2Mel(found.weights, unit2mel_from(weights, checked, what), checked)


def unit2mel_from(weights: Mapping[str, Tensor], config: DiffusionConfig, what: str = "diffusion model") -> Unit2Mel:
    """The network with these weights; a missing, unknown or misshapen one is a WeightsMismatch."""
    held = {name: value for name, value in weights.items() if name not in SCHEDULE_BUFFERS}
    first = held.get("decoder.denoise_fn.input_projection.weight")
    n_mels = int(first.shape[1]) if first is not None and first.ndim == 3 else 1
    with torch.device("meta"):
        net = Unit2Mel.from_config(config, n_mels, pitch_shift="aug_shift_embed.weight" in held)
    expected, found = shapes_of(net.state_dict()), shapes_of(held)
    faults = (
        ("are missing", sorted(expected.keys() - found.keys())),
        ("are unknown to it", sorted(found.keys() - expected.keys())),
        ("have another shape", [n for n, shape in expected.items() if found.get(n, shape) != shape]),
    )
    told = [f"{len(names)} weights {kind} ({', '.join(map(shown, names[:3]))})" for kind, names in faults if names]
    if told:
        advice = "Weights and config do not belong together: give the config.yaml that came with these weights."
        raise WeightsMismatch(f"{what} with its config", f"{'; '.join(told)}.", advice)
    net.load_state_dict(held, assign=True)
    return net.eval().requires_grad_(False)


def _check_schedule(weights: Mapping[str, Tensor], config: DiffusionConfig, what: str) -> None:
    """Says so where the tables in the file are not those that the config stands for."""
    saved = weights.get(_BETAS)
    if saved is None:
        return
    ours = torch.from_numpy(linear_betas(config.timesteps)).float()
    if saved.shape != ours.shape or not torch.allclose(saved, ours, rtol=1e-4, atol=0):
        logger.warning("%s was saved with another noise schedule than its config's; the config's is used", what)
