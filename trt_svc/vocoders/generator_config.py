"""Upstream's config dictionaries, checked: the keys a generator needs, bounded so that a hostile file cannot bloat."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Annotated, Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from trt_svc.config import MelPadding, MelSpec
from trt_svc.errors import ConfigError, shown

Rate = Annotated[int, Field(ge=1, le=512)]
Kernel = Annotated[int, Field(ge=1, le=2048)]
Channels = Annotated[int, Field(ge=1, le=16384)]
Dilation = Annotated[int, Field(ge=1, le=256)]
SampleRate = Annotated[int, Field(ge=4000, le=384000)]

MAX_HOP = 16384

Parsed = TypeVar("Parsed", bound=BaseModel)


class UpstreamConfig(BaseModel):
    """Unknown keys are upstream's business (training options) and ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)


class TrunkConfig(UpstreamConfig):
    """The upsampling trunk that the whole HiFi-GAN family shares."""

    resblock: str | int = "1"
    upsample_rates: Annotated[tuple[Rate, ...], Field(min_length=1, max_length=12)]
    upsample_kernel_sizes: Annotated[tuple[Kernel, ...], Field(min_length=1, max_length=12)]
    upsample_initial_channel: Channels
    resblock_kernel_sizes: Annotated[tuple[Kernel, ...], Field(min_length=1, max_length=8)]
    resblock_dilation_sizes: Annotated[
        tuple[Annotated[tuple[Dilation, ...], Field(min_length=1, max_length=12)], ...],
        Field(min_length=1, max_length=8),
    ]

    @model_validator(mode="after")
    def _lists_agree(self) -> Self:
        if len(self.upsample_rates) > len(self.upsample_kernel_sizes):
            raise ValueError("upsample_kernel_sizes has fewer entries than upsample_rates")
        if self.hop > MAX_HOP:
            raise ValueError(f"the upsample rates multiply to {self.hop}, more than {MAX_HOP}")
        if len(self.resblock_kernel_sizes) > len(self.resblock_dilation_sizes):
            raise ValueError("resblock_dilation_sizes has fewer entries than resblock_kernel_sizes")
        if any(kernel % 2 == 0 for kernel in self.resblock_kernel_sizes):
            raise ValueError("resblock_kernel_sizes must be odd")
        if any(k < u for k, u in zip(self.upsample_kernel_sizes, self.upsample_rates, strict=False)):
            raise ValueError("an upsample kernel is smaller than its rate")
        return self

    @property
    def hop(self) -> int:
        return prod(self.upsample_rates)

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels in front of stage 0, behind stage 0, behind stage 1 ..."""
        return tuple(self.upsample_initial_channel // 2**i for i in range(len(self.upsample_rates) + 1))


class MelConfig(UpstreamConfig):
    """The mel keys of HiFi-GAN, NSF-HiFiGAN and BigVGAN configs."""

    num_mels: Channels = 80
    n_fft: Annotated[int, Field(ge=16, le=65536)] = 1024
    win_size: Annotated[int, Field(ge=16, le=65536)] = 1024
    hop_size: Annotated[int, Field(ge=1, le=65536)] | None = None
    """Upstream's generators never read it: absent, it is the product of the upsample rates."""
    sampling_rate: SampleRate
    fmin: Annotated[float, Field(ge=0)] = 0.0
    fmax: Annotated[float, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _bands_exist(self) -> Self:
        if self.fmin >= (self.fmax or self.sampling_rate / 2):
            raise ValueError("fmin is not below fmax")
        if self.win_size > self.n_fft:
            raise ValueError("win_size is larger than n_fft")
        return self

    def mel_spec(self, padding: MelPadding, hop: int, n_mels: int | None = None) -> MelSpec:
        return MelSpec(
            sample_rate=self.sampling_rate,
            n_fft=self.n_fft,
            win=self.win_size,
            hop=hop,
            n_mels=n_mels or self.num_mels,
            fmin=self.fmin,
            fmax=self.fmax or self.sampling_rate / 2,
            padding=padding,
        )


def parse(model: type[Parsed], config: Mapping[str, Any], family: str) -> Parsed:
    """The checked config, or a ConfigError that names every wrong key."""
    try:
        return model.model_validate(dict(config))
    except ValidationError as err:
        faults = "; ".join(
            f"{'.'.join(map(str, e['loc'])) or 'config'}: {shown(e['msg'])} (found {shown(e['input'])})"
            for e in err.errors()[:4]
        )
        raise ConfigError(
            f"{family} config", f"{faults}.", "Give the config.json that belongs to these weights (--config)."
        ) from err


def check_hop(config: TrunkConfig, hop_size: int | None, family: str) -> None:
    """A stated hop must be what the network does."""
    if hop_size is not None and config.hop != hop_size:
        raise ConfigError(
            f"{family} config",
            f"hop_size is {hop_size} but the upsample rates multiply to {config.hop}.",
            "One of the two is wrong: use the config.json that came with the weights.",
        )
