"""The NSF-HiFiGAN vocoder as the diffusion and the enhancer use it: audio to mel, mel and f0 to audio.

Mels lie as the diffusion takes them, (B, T, n_mels), in natural log whatever the vocoder was trained on.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from trt_svc.errors import InputError, shown
from trt_svc.features.mel import log10_from_ln, log_mel
from trt_svc.inputs import as_array, as_wave, check_rate
from trt_svc.loading import load_vocoder
from trt_svc.registry import did_you_mean
from trt_svc.session import Vocoder
from trt_svc.svc.samplers.base import Draws
from trt_svc.svc.sinc import WIDE_WIDTH, sinc_resample
from trt_svc.types import Array

TAKES_LOG10 = {"nsf-hifigan": False, "nsf-hifigan-log10": True}
"""The vocoder types of a diffusion's config.yaml, and whether they were trained on log10 mels."""
SOURCE = "sovits-interp"
"""The source maths of so-vits-svc's own copy of NSF-HiFiGAN."""


class MelVocoder:
    """A loaded vocoder with its mel front end."""

    def __init__(self, vocoder: Vocoder, kind: str = "nsf-hifigan") -> None:
        if kind not in TAKES_LOG10:
            found = "there is none of that type."
            raise InputError(f"vocoder type {shown(kind)!r}", found, did_you_mean(str(kind), list(TAKES_LOG10)))
        spec = vocoder.spec.mel
        if spec is None or not vocoder.spec.needs_f0:
            found = f"{vocoder.family} does not go from mel and f0 to audio."
            raise InputError("vocoder of the diffusion", found, "Give an NSF-HiFiGAN.")
        self.vocoder, self.kind, self._mel_spec = vocoder, kind, spec

    @property
    def sample_rate(self) -> int:
        return self.vocoder.spec.sample_rate

    @property
    def hop_samples(self) -> int:
        return self.vocoder.spec.hop

    @property
    def n_mels(self) -> int:
        return self.vocoder.spec.n_mels

    def extract(
        self, audio: Any, sample_rate: int | None = None, key_shift: float = 0.0, single_precision: bool = False
    ) -> Array:
        """The natural-log mel (B, T, n_mels) of audio (samples,) or (B, samples), at the vocoder's rate by default.

        key_shift: semitones that the spectrum is read higher. single_precision: see `sinc.resampled_length`.
        """
        wave = as_wave(audio)
        rate = self.sample_rate if sample_rate is None else check_rate(sample_rate)
        wave = sinc_resample(wave, rate, self.sample_rate, WIDE_WIDTH, single_precision)
        return np.ascontiguousarray(log_mel(wave, self._mel_spec, key_shift).transpose(0, 2, 1))

    def infer(
        self,
        mel: Any,
        f0_hz: Any,
        draws: Draws | None = None,
        seed: int | list[int] = 0,
        first_frame: int | Sequence[int] = 0,
    ) -> Array:
        """Audio (B, T * hop) of a mel (B, T, n_mels) and f0 (B, T or more), which is cut to the mel's frames.

        draws: where the random numbers come from, in upstream's order; by default they follow from the seed and from
        where in a longer recording frame 0 lies (first_frame).
        """
        given, curve = as_array("mel", mel), as_array("f0", f0_hz)
        if given.ndim != 3 or given.shape[2] != self.n_mels:
            asked = f"mel of shape {given.shape}"
            raise InputError(asked, f"the vocoder has {self.n_mels} mel bins.", "Give (B, frames, n_mels).")
        batch, frames, _ = given.shape
        curve = curve[..., 0] if curve.ndim == 3 and curve.shape[2] == 1 else curve
        if curve.ndim != 2 or curve.shape[1] < frames:
            raise InputError(f"f0 of shape {curve.shape}", f"the mel has {frames} frames.", "Give f0 for each.")
        fields = self.vocoder.excitation.fields
        noise = {} if draws is None else {f.name: draws(f.name, f.law, f.shape(batch, frames)) for f in fields}
        turned = np.ascontiguousarray(given.transpose(0, 2, 1))
        if not TAKES_LOG10[self.kind]:
            return self._spoken(turned, curve[:, :frames], noise, seed, first_frame)
        with _scale_is_meant():
            return self._spoken(log10_from_ln(turned), curve[:, :frames], noise, seed, first_frame)

    def _spoken(
        self, mel: Array, f0_hz: Array, noise: Any, seed: int | list[int], first_frame: int | Sequence[int]
    ) -> Array:
        return np.asarray(self.vocoder(mel, f0_hz, noise=noise, seed=seed, first_frame=first_frame))


def open_mel_vocoder(
    where: str | Path, kind: str = "nsf-hifigan", config: str | Path | Mapping[str, Any] | None = None, **session: Any
) -> MelVocoder:
    """The vocoder of a weights file or folder; `session` goes to `load_vocoder` (backend, device, precision ...)."""
    return MelVocoder(load_vocoder(where, config, source=SOURCE, **session), kind)


@contextmanager
def _scale_is_meant() -> Iterator[None]:
    """A log10 vocoder gets log10 mels on purpose: a session warns of them."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the mel looks like", UserWarning)
        yield
