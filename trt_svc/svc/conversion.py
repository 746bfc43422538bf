"""What is asked for a song, and what is told about it afterwards."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np

from trt_svc.errors import InputError, shown
from trt_svc.features.f0.base import f0_estimators
from trt_svc.registry import did_you_mean
from trt_svc.svc.pieces import PieceSettings
from trt_svc.svc.samplers.base import samplers
from trt_svc.svc.slicer import SlicerSettings

COMPAT = "so-vits-svc-4.1"
"""The one upstream whose every sample can be asked for."""
AUTO_F0 = "auto"
"""rmvpe where its weights are found, else swift-f0, which brings its own."""
SHALLOW, ONLY = "shallow", "only"
MAX_TRANSPOSE = 60.0
LEAST_PADDING_S = 0.05
"""Encoders need something to hear and networks work in whole frames, so the default never goes below."""
SpeakerMap = Mapping[str | int, Sequence[Sequence[float]]]


@dataclass(frozen=True)
class Conversion:
    """How a song is converted; the letters are so-vits-svc's flags."""

    speaker: str | int | None = None
    """-s: a name or number of the config; None: the only one."""
    speaker_mix: SpeakerMap | None = None
    """-usm: {speaker: [[start, stop, from, to], ...]}, start and stop as shares of the song (`speaker_mix`)."""
    transpose: float = 0.0
    """-t: semitones."""
    f0: str = AUTO_F0
    """-f0p: how the pitch is found."""
    f0_threshold: float = 0.05
    """-ft: confidence below which crepe, rmvpe and fcpe hear no pitch."""
    auto_f0: bool = False
    """-a: the voice's own idea of the pitch. For speech; it ruins singing."""
    cluster_ratio: float = 0.0
    """-cr: how far units go towards what is known of the speaker, 0 to 1."""
    retrieval: bool = False
    """-fr: by the feature index in place of k-means."""
    noise_scale: float = 0.4
    """-ns: spread of the latent."""
    slice_db: float = -40.0
    """-sd: what is quieter is a pause."""
    clip_s: float = 0.0
    """-cl: the longest piece; 0: from pause to pause."""
    overlap_s: float = 0.0
    """-lg: what neighbouring clips share."""
    fade_share: float = 0.75
    """-lgr: how much of that is cross-faded."""
    padding_s: float = 0.5
    """-p: silence around every piece."""
    loudness_share: float = 1.0
    """-lea: 1 leaves the output's loudness, 0 gives it the source's."""
    diffusion: Literal["shallow", "only"] | None = None
    """ "shallow" (-shd): the voice's mel with its finest steps made anew; "only" (-od): all of it from noise."""
    k_step: int = 100
    """-ks: steps of shallow diffusion."""
    second_encoding: bool = False
    """-se: content units of the voice's own audio for the diffusion."""
    sampler: str | None = None
    """None: as the diffusion's config says."""
    speedup: int | None = None
    """Training steps taken at once; None: as the diffusion's config says."""
    enhance: bool = False
    """-eh: the vocoder speaks the voice's audio again. Not together with diffusion, which does so anyway."""
    enhancer_key: float = 0.0
    """-eak: semitones that the enhancer hears the voice lower."""
    seed: int = 0
    """The same seed gives the same sound."""

    def __post_init__(self) -> None:
        _check_numbers(self)
        _check_words(self)
        if self.diffusion not in (None, SHALLOW, ONLY):
            raise InputError(f"diffusion {shown(self.diffusion)}", "there is no such kind.", "Use 'shallow' or 'only'.")
        self.pieces(compat=False)  # refuses lengths that do not go together
        if self.diffusion == ONLY and self.auto_f0:
            asked = "automatic f0 with diffusion alone"
            raise InputError(asked, "the pitch would come from the voice model, which is left out.", "Leave one out.")
        if self.speaker_mix is not None and self.cluster_ratio:
            found = "clusters belong to one speaker."
            raise InputError("a mix of speakers with clusters or retrieval", found, "Set the cluster ratio to 0.")

    @classmethod
    def of(cls, **options: Any) -> Conversion:
        """From keywords: the names above or so-vits-svc's own; an unknown one is told what it might have been.

        speaker may be a mix; diffusion may be True, or a table with kind, k_step, sampler, speedup, second_encoding.
        """
        known = [spec.name for spec in fields(cls)]
        asked: dict[str, Any] = {}
        for given, value in options.items():
            name = UPSTREAM_WORDS.get(given, given)
            if name not in known and name not in _SWITCHES:
                raise InputError(f"option {shown(given)!r}", "there is none of that name.", did_you_mean(given, known))
            if name in asked:
                raise InputError(f"option {shown(given)!r}", f"{name} was given as well.", "Give it once.")
            asked[name] = value
        return cls(**_plain(asked))

    @property
    def speaks_through_vocoder(self) -> bool:
        """Is the vocoder heard, and not the voice's own decoder?"""
        return self.diffusion is not None or self.enhance

    def slicing(self) -> SlicerSettings:
        return SlicerSettings(self.slice_db)

    def pieces(self, compat: bool) -> PieceSettings:
        padding_s = self.padding_s if compat else max(self.padding_s, LEAST_PADDING_S)
        return PieceSettings(self.clip_s, self.overlap_s, self.fade_share, padding_s, compat)


UPSTREAM_WORDS = {
    "spk": "speaker",
    "tran": "transpose",
    "f0_predictor": "f0",
    "cr_threshold": "f0_threshold",
    "auto_predict_f0": "auto_f0",
    "cluster_infer_ratio": "cluster_ratio",
    "feature_retrieval": "retrieval",
    "noice_scale": "noise_scale",
    "clip_seconds": "clip_s",
    "lg_num": "overlap_s",
    "lgr_num": "fade_share",
    "pad_seconds": "padding_s",
    "loudness_envelope_adjustment": "loudness_share",
    "nsf_hifigan_enhance": "enhance",
    "enhancer_adaptive_key": "enhancer_key",
}
"""How so-vits-svc's own calls name the same."""
_SWITCHES = {"shallow_diffusion": SHALLOW, "only_diffusion": ONLY, "use_spk_mix": ""}
_OF_DIFFUSION = ("k_step", "sampler", "speedup", "second_encoding")


def _plain(asked: dict[str, Any]) -> dict[str, Any]:
    """Keywords of the class, from those and the switches around them."""
    diffusion = asked.pop("diffusion", None)
    if isinstance(diffusion, Mapping):
        for name in diffusion:
            if name not in ("kind", *_OF_DIFFUSION):
                advice = did_you_mean(str(name), ["kind", *_OF_DIFFUSION])
                raise InputError(f"diffusion option {shown(str(name))!r}", "there is none of that name.", advice)
        asked |= {name: value for name, value in diffusion.items() if name != "kind"}
        diffusion = diffusion.get("kind", SHALLOW)
    if isinstance(diffusion, bool):
        diffusion = SHALLOW if diffusion else None
    # Upstream lets diffusion alone win where both are asked for.
    kinds = [kind for name, kind in _SWITCHES.items() if asked.pop(name, False) and kind]
    asked["diffusion"] = kinds[-1] if kinds else diffusion
    if isinstance(asked.get("speaker"), Mapping):
        asked["speaker_mix"] = asked.pop("speaker")
    return asked


_RANGES = {
    "transpose": (-MAX_TRANSPOSE, MAX_TRANSPOSE),
    "f0_threshold": (0.0, 1.0),
    "cluster_ratio": (0.0, 1.0),
    "noise_scale": (0.0, 10.0),
    "slice_db": (-200.0, 0.0),
    "clip_s": (0.0, 86_400.0),
    "overlap_s": (0.0, 3_600.0),
    "fade_share": (0.0, 1.0),
    "padding_s": (0.0, 60.0),
    "loudness_share": (0.0, 1.0),
    "k_step": (1, 100_000),
    "enhancer_key": (-36.0, 36.0),
    "seed": (0, 2**64 - 1),
    "speedup": (1, 100_000),
}
_WHOLE = ("k_step", "seed", "speedup")


def _check_numbers(asked: Conversion) -> None:
    for name, (lowest, highest) in _RANGES.items():
        value = getattr(asked, name)
        if value is None and name == "speedup":
            continue
        number = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
        broken = name in _WHOLE and not isinstance(value, (int, np.integer))
        if not number or broken or not math.isfinite(value) or not lowest <= value <= highest:
            raise InputError(
                f"{name.replace('_', ' ')} {shown(value)}", "it is not usable.", f"Use {lowest:g} to {highest:g}."
            )


def _check_words(asked: Conversion) -> None:
    for name, value, kinds in (
        ("f0 method", asked.f0, (str,)),
        ("speaker", asked.speaker, (str, int, type(None))),
        ("sampler", asked.sampler, (str, type(None))),
    ):
        if not isinstance(value, kinds) or isinstance(value, bool):
            raise InputError(f"{name} {shown(value)}", f"a {type(value).__name__} is none.", "Give its name.")
    if asked.f0 != AUTO_F0:
        f0_estimators.get(asked.f0)  # says which there are
    if asked.sampler is not None:
        samplers.get(asked.sampler)


@dataclass(frozen=True)
class StageTime:
    """What one stage of the conversion took."""

    name: str
    seconds: float
    calls: int
    backend: str = ""
    """What ran it, where there is a choice."""
    quality_db: float | None = None
    """Of its engine against torch float32, measured when that was built."""
    note: str = ""


@dataclass(frozen=True)
class Converted:
    """A finished song."""

    output: Path | None
    audio_s: float
    sample_rate: int
    seconds: float
    """From opening the recording to the last sample."""
    slices: int
    """Pieces that were sung; pauses are not among them."""
    stages: tuple[StageTime, ...] = field(default=())
    """They overlap, so together they may take longer than the whole."""

    @property
    def rtf(self) -> float:
        """Seconds of work per second of audio."""
        return self.seconds / self.audio_s if self.audio_s else 0.0

    def as_dict(self) -> dict[str, Any]:
        output = None if self.output is None else str(self.output)
        return {**asdict(self), "output": output, "rtf": self.rtf, "stages": [asdict(stage) for stage in self.stages]}
