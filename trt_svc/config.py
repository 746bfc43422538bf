"""Values that travel through the whole library."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

MelPadding = Literal["hifigan", "nvstft", "centered"]


@dataclass(frozen=True)
class MelSpec:
    """How a family turns audio into its log-mel; see `trt_svc.features.mel`."""

    sample_rate: int
    n_fft: int
    win: int
    hop: int
    n_mels: int
    fmin: float
    fmax: float
    padding: MelPadding = "hifigan"
    epsilon: float = 1e-9
    """Added to re^2 + im^2 under the square root."""
    clip: float = 1e-5
    """Floor of the mel magnitude before the logarithm."""


@dataclass(frozen=True)
class AudioSpec:
    """What goes into a vocoder and what comes out."""

    sample_rate: int
    """Rate of the audio that comes out, Hz."""
    hop: int
    """Samples that come out per mel frame."""
    n_mels: int
    """Channels that go in (so-vits `dec` and GPT-SoVITS v2 `dec`: latent channels)."""
    needs_f0: bool = False
    needs_speaker: bool = False
    speaker_channels: int = 0
    mel: MelSpec | None = None
    """The mel front end; None where the input is a latent, not a mel."""
    source_rate: float | None = None
    """Rate at which the harmonic source is made, where it is not the audio's: f0 must stay below half of it."""

    @property
    def fmin(self) -> float | None:
        return self.mel.fmin if self.mel else None

    @property
    def fmax(self) -> float | None:
        return self.mel.fmax if self.mel else None

    @property
    def n_fft(self) -> int | None:
        return self.mel.n_fft if self.mel else None

    @property
    def win(self) -> int | None:
        return self.mel.win if self.mel else None

    @property
    def max_f0_hz(self) -> float:
        """The highest usable f0."""
        return (self.source_rate or self.sample_rate) / 2

    @property
    def frames_per_second(self) -> float:
        return self.sample_rate / self.hop

    def as_dict(self) -> dict[str, object]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> AudioSpec:
        """What `as_dict` described."""
        mel = data["mel"]
        return cls(**{**data, "mel": None if mel is None else MelSpec(**mel)})
