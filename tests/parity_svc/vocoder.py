"""The vocoder wrapper of the diffusion and the enhancer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from tests.golden_svc import arrays, meta
from tests.parity_svc.base import EXACT, Comparison, Subject
from trt_svc.svc.enhancer import enhanced
from trt_svc.svc.nsf import MelVocoder, open_mel_vocoder

META = meta("nsf_wrapper")
DATA = arrays("nsf_wrapper")
RATE = META["h"]["sampling_rate"]


def golden_vocoder(folder: Path) -> MelVocoder:
    weights = {key[3:]: torch.from_numpy(value) for key, value in DATA.items() if key.startswith("sd.")}
    torch.save({"generator": weights}, folder / "model")
    (folder / "config.json").write_text(json.dumps(META["h"]))
    return open_mel_vocoder(folder / "model")


class Recorded:
    """Upstream's draws of one call, in order."""

    def __init__(self, case: str) -> None:
        found = [key for key in DATA if key.startswith(f"{case}.draw")]
        self.left = sorted(found, key=lambda key: int(key.split(".draw")[1].split(".")[0]))

    def __call__(self, name: str, law: str, shape: tuple[int, ...]) -> np.ndarray:
        key = self.left.pop(0)
        assert key.endswith("rand") == (law == "uniform")
        assert DATA[key].shape == shape, name
        return DATA[key]


def mels(folder: Path) -> Iterator[Comparison]:
    vocoder = golden_vocoder(folder)
    said = np.array([vocoder.sample_rate, vocoder.hop_samples, vocoder.n_mels])
    attributes = np.array(
        [META["vocoder_attrs"][f"{key}"] for key in ("vocoder_sample_rate", "vocoder_hop_size", "dimension")]
    )
    yield Comparison("what it says of itself", "vocoder_attrs", said, attributes, EXACT)
    for key in DATA:
        if key.startswith("mel.keyshift"):
            made = vocoder.extract(DATA["wav"], RATE, float(key.removeprefix("mel.keyshift")))
            yield Comparison("mel", key, made, DATA[key])
        elif key.startswith("mel.short"):
            made = vocoder.extract(DATA["wav"][: int(key.removeprefix("mel.short"))])
            yield Comparison("mel of little audio", key, made, DATA[key])
    other = vocoder.extract(DATA["wav_other"][None], META["other_sr"])
    yield Comparison("mel of another sample rate", "mel.other_sr", other, DATA["mel.other_sr"])


def audio(folder: Path) -> Iterator[Comparison]:
    vocoder = golden_vocoder(folder)
    log10_vocoder = MelVocoder(vocoder.vocoder, "nsf-hifigan-log10")
    made = vocoder.infer(DATA["mel.keyshift0"], DATA["infer.f0"], Recorded("infer"))
    yield Comparison("audio", "infer.audio", made[:, None], DATA["infer.audio"])
    mel = DATA["mel.keyshift0"] / np.float32(0.434294)
    made = log10_vocoder.infer(mel, DATA["infer.f0"], Recorded("infer"))
    yield Comparison("audio, log10 type", "infer_log10.audio", made[:, None], DATA["infer_log10.audio"])


def enhancer(folder: Path) -> Iterator[Comparison]:
    vocoder = golden_vocoder(folder)
    f0 = DATA["infer.f0"][0, : DATA["mel.keyshift0"].shape[1], 0]
    for key in [key for key in DATA if key.startswith("enh.") and key.endswith(".audio")]:
        case = key.removesuffix(".audio")
        draws, semitones = Recorded(case), float(case.removeprefix("enh.key"))
        made = enhanced(vocoder, DATA["wav"], RATE, f0, vocoder.hop_samples, semitones, draws, single_precision=True)
        assert not draws.left
        yield Comparison(f"enhancer, {semitones:+.0f} semitones", key, made, DATA[key])


INPUTS = {"sd.*": "weights", "wav": "audio", "wav_other": "audio", "infer.f0": "Hz", "*.draw*": "noise"}
SUBJECTS = [
    Subject("vocoder mels", "nsf_wrapper", mels, INPUTS),
    Subject("vocoder audio", "nsf_wrapper", audio),
    Subject("enhancer", "nsf_wrapper", enhancer),
]
