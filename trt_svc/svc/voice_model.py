"""A so-vits-svc voice opened: G_*.pth and config.json become a checked network with its weights.

Upstream keeps random numbers wherever a weight is missing or shaped otherwise. Here the file, the config and the
network must agree to the last weight; what config and weights each say alone is taken from where it is said.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from trt_svc.checkpoints.load import shapes_of
from trt_svc.checkpoints.locate import locate, read_config
from trt_svc.errors import ConfigError, shown
from trt_svc.svc.networks.synthesizer import SOURCE_RATE_HZ, Synthesizer
from trt_svc.svc.voice_weights import PITCH_DECODER, fill, of_dec, read_weights, settled

ENCODER_OF_CHANNELS = {256: "vec256l9", 768: "vec768l12"}
"""The encoder of a config that names none: so-vits 4.0 and 4.1."""


@dataclass(frozen=True)
class VoiceModel:
    """A voice ready to sing."""

    path: Path
    net: Synthesizer
    sample_rate_hz: int
    speech_encoder: str
    """The content encoder it was trained with, by upstream's name."""
    unit_interpolate_mode: str
    """How units are brought to the voice's frames."""
    speakers: Mapping[str, int]
    """Name -> number."""
    left_out: tuple[str, ...]
    """Names of weights in the file that inference does not need."""
    dtype: str
    """What the file stores; the network is float32."""

    @property
    def hop_samples(self) -> int:
        return self.net.hop_samples

    @property
    def takes_volume(self) -> bool:
        return self.net.emb_vol is not None

    @property
    def unit_channels(self) -> int:
        return self.net.config.ssl_dim


def load_voice(where: str | Path, config: str | Path | Mapping[str, Any] | None = None) -> VoiceModel:
    """The voice at a path (of a folder: its newest G_*.pth), with the config.json beside it or the one given."""
    found = locate(where)
    what = f"voice {found.weights.name}"
    given, origin = _config(config, found.config, what)
    voice = read_weights(found.weights, what)
    model = settled(_section(given, "model", origin), shapes_of(voice.weights), what, origin)
    if not model["use_automatic_f0_prediction"]:
        voice = voice.without(PITCH_DECODER)
    with torch.device("meta"):
        net = Synthesizer.from_config(model, shapes_of(of_dec(voice.weights)))
    fill(net, voice, what, origin)
    data = _section(given, "data", origin, optional=True)
    return VoiceModel(
        path=found.weights,
        net=net,
        sample_rate_hz=_checked_rate(data, net, origin),
        speech_encoder=_encoder(model, origin),
        unit_interpolate_mode=str(data.get("unit_interpolate_mode") or "left"),
        speakers=_speakers(given, net, origin),
        left_out=voice.left_out,
        dtype=voice.dtype,
    )


def _config(
    asked: str | Path | Mapping[str, Any] | None, beside: Path | None, what: str
) -> tuple[Mapping[str, Any], str]:
    if asked is not None:
        return read_config(asked), "given config" if isinstance(asked, Mapping) else Path(asked).name
    if beside is None:
        raise ConfigError(
            f"config for {what}",
            "no config.json lies beside it.",
            "Put the config.json that it was trained with beside it, or give it (config=…, --config_path).",
        )
    return read_config(beside), beside.name


def _section(config: Mapping[str, Any], name: str, origin: str, optional: bool = False) -> dict[str, Any]:
    section = config.get(name)
    if section is None and optional:
        return {}
    if not isinstance(section, Mapping):
        found = f"it has no {name!r} section."
        raise ConfigError(f"{origin} of a voice", found, "Give the config.json that the voice was trained with.")
    return {str(key): value for key, value in section.items()}


def _checked_rate(data: Mapping[str, Any], net: Synthesizer, origin: str) -> int:
    rate, hop = data.get("sampling_rate") or SOURCE_RATE_HZ, data.get("hop_length") or net.hop_samples
    if not isinstance(rate, int) or isinstance(rate, bool) or not 4000 <= rate <= 384_000:
        raise ConfigError(f"{origin} of a voice", f"its sampling_rate is {shown(rate)}.", "Give a rate in Hz.")
    if hop != net.hop_samples:
        rates = net.dec.config.upsample_rates
        raise ConfigError(
            f"{origin} of a voice",
            f"hop_length is {shown(hop)} but its upsample_rates {list(rates)} multiply to {net.hop_samples}.",
            "Give the config.json that the voice was trained with.",
        )
    return rate


def _encoder(model: Mapping[str, Any], origin: str) -> str:
    named = model.get("speech_encoder") or ENCODER_OF_CHANNELS.get(model["ssl_dim"])
    if not isinstance(named, str):
        raise ConfigError(
            f"{origin} of a voice",
            f"it does not say which content encoder makes its {model['ssl_dim']} channels.",
            'Add "speech_encoder" to its "model" section.',
        )
    return named


def _speakers(config: Mapping[str, Any], net: Synthesizer, origin: str) -> dict[str, int]:
    named = config.get("spk")
    if named is None:
        return {}
    last = net.config.n_speakers - 1
    good = isinstance(named, Mapping) and all(
        isinstance(number, int) and not isinstance(number, bool) and 0 <= number <= last for number in named.values()
    )
    if not good:
        raise ConfigError(
            f"{origin} of a voice",
            f'its "spk" is {shown(named)}.',
            f"It must give every speaker's name a number from 0 to {last}.",
        )
    return {str(name): number for name, number in named.items()}
