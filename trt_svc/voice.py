"""What a session has to know of a vocoder: from its network, or from what an engine says about itself."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from trt_svc.config import AudioSpec
from trt_svc.excitation import Excitation, LatentNoise, excitation_from_dict


@dataclass(frozen=True)
class VoiceInput:
    """One tensor input of the network: (batch, channels, frames * per_frame)."""

    name: str
    channels: int
    per_frame: Fraction


@dataclass(frozen=True)
class Voice:
    """A vocoder without its weights."""

    family: str
    variant: str
    spec: AudioSpec
    excitation: Excitation
    receptive_field: tuple[int, int]
    """Mel frames each side (left, right) that an output frame depends on."""
    inputs: tuple[VoiceInput, ...]
    extra_samples: int
    """Samples beyond frames * hop that odd upsamplers put out (or leave out) at the end."""
    bounded: bool
    """Does the network end in tanh or clamp, so that no sample can exceed 1?"""
    bytes_per_frame: int
    """Memory that a run takes per mel frame, estimated from the largest activations in float32."""

    @property
    def frame_step(self) -> int:
        """Windows start at multiples of this, so that every input starts on a whole position."""
        return math.lcm(*(spec.per_frame.denominator for spec in self.inputs))

    def samples_out(self, frames: int) -> int:
        """Length of the audio made from `frames` mel frames."""
        if isinstance(self.excitation, LatentNoise) and self.excitation.fields:
            per_frame = Fraction(self.excitation.fields[0].per_frame)
            return int(frames * per_frame) * int(self.spec.hop / per_frame)
        return frames * self.spec.hop + self.extra_samples

    def as_dict(self) -> dict[str, Any]:
        """As it stands in an engine's metadata."""
        return {
            "family": self.family,
            "variant": self.variant,
            "spec": self.spec.as_dict(),
            "excitation": self.excitation.as_dict(),
            "receptive_field": list(self.receptive_field),
            "inputs": [{"name": i.name, "channels": i.channels, "per_frame": str(i.per_frame)} for i in self.inputs],
            "extra_samples": self.extra_samples,
            "bounded": self.bounded,
            "bytes_per_frame": self.bytes_per_frame,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Voice:
        """From an engine's metadata."""
        left, right = data["receptive_field"]
        return cls(
            family=data["family"],
            variant=data["variant"],
            spec=AudioSpec.from_dict(data["spec"]),
            excitation=excitation_from_dict(data["excitation"]),
            receptive_field=(int(left), int(right)),
            inputs=tuple(VoiceInput(i["name"], int(i["channels"]), Fraction(i["per_frame"])) for i in data["inputs"]),
            extra_samples=int(data["extra_samples"]),
            bounded=bool(data["bounded"]),
            bytes_per_frame=int(data["bytes_per_frame"]),
        )
