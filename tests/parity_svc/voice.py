"""SynthesizerTrn, stage by stage, from checkpoint files."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests import golden_svc
from tests.parity_svc.base import EXACT, NETWORK, Comparison, Subject, as_numbers
from trt_svc.svc.networks.pitch_decoder import normalised
from trt_svc.svc.networks.prior import coarse_pitch
from trt_svc.svc.networks.synthesizer import InferOptions
from trt_svc.svc.voice_model import VoiceModel, load_voice

META = golden_svc.meta("vits")
SPEAKER_OF = {"plain": 1, "autof0": 2}
NOISE = ("prior_noise", "initial_phase", "sine_noise")


@cache
def arrays(net: str) -> dict[str, np.ndarray]:
    return golden_svc.arrays(f"vits_{net}")


def stored(net: str) -> dict[str, Tensor]:
    """The inference weights as upstream stores them."""
    return {name[3:]: torch.from_numpy(value.copy()) for name, value in arrays(net).items() if name.startswith("sd.")}


def config_of(net: str) -> dict[str, Any]:
    cfg = META[net]["cfg"]
    return {
        "train": {"segment_size": 10240},
        "data": {"sampling_rate": 44100, "hop_length": int(np.prod(cfg["upsample_rates"])), "filter_length": 2048},
        "model": dict(cfg),
        "spk": {f"singer {number}": number for number in range(cfg["n_speakers"])},
    }


def write_voice(folder: Path, weights: dict[str, Tensor], config: dict[str, Any] | None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    tree = {"model": weights, "iteration": 7, "optimizer": {"state": {}, "param_groups": []}, "learning_rate": 1e-4}
    torch.save(tree, folder / "G_0.pth")
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder / "G_0.pth"


def golden_voice(net: str, folder: Path) -> VoiceModel:
    return load_voice(write_voice(folder, stored(net), config_of(net)))


def take_of(net: str) -> dict[str, Tensor | None]:
    found = arrays(net)
    return {
        "units": torch.from_numpy(found["c"]),
        "f0_hz": torch.from_numpy(found["f0"]),
        "uv": torch.from_numpy(found["uv"]),
        "volume": torch.from_numpy(found["vol"]) if META[net]["cfg"]["vol_embedding"] else None,
    }


def noise_of(net: str) -> dict[str, np.ndarray]:
    """The recorded draws; upstream's fourth is never used."""
    draws = {int(found[1]): v for k, v in arrays(net).items() if (found := re.match(r"draw(\d+)\.", k))}
    return {name: draws[number] for number, name in enumerate(NOISE)}


def stages(net: str, folder: Path) -> Iterator[Comparison]:
    """What the network makes on its way to the audio, in every case."""
    voice = golden_voice(net, folder).net
    for case, about in META[net]["cases"].items():
        expected = {key[len(case) + 1 :]: v for key, v in arrays(net).items() if key.startswith(f"{case}.")}
        mix = expected.pop("mix", None)
        options = InferOptions(about["noice_scale"], about["predict_f0"], as_upstream=True)
        speaker = SPEAKER_OF[case] if mix is None else torch.from_numpy(mix)
        seen: dict[str, Tensor] = {}
        audio, f0_hz = voice.infer(speaker=speaker, **take_of(net), options=options, noise=noise_of(net), seen=seen)
        assert torch.equal(f0_hz, seen["f0_out"])
        seen["audio"] = audio[:, None]
        for name, array in expected.items():
            bound = NETWORK if np.issubdtype(array.dtype, np.floating) else EXACT
            yield Comparison(case, f"{case}.{name}", as_numbers(seen[name]), array, bound)


def pitch_scales(_: Path) -> Iterator[Comparison]:
    data = golden_svc.arrays("retrieval_utils")
    bins = coarse_pitch(torch.from_numpy(data["coarse.in"]), clamps_high=False)
    yield Comparison("pitch bins", "coarse.out", as_numbers(bins), data["coarse.out"], EXACT)
    curve = normalised(torch.from_numpy(data["normf0.lf0"]), torch.from_numpy(data["normf0.uv"]))
    yield Comparison("normalised log f0", "normf0.out", as_numbers(curve), data["normf0.out"])


INPUTS = {
    "sd.*": "weights",
    "c": "units",
    "f0": "Hz",
    "uv": "voiced frames",
    "vol": "volume",
    "draw?.*": "noise",
    "spkmix.mix": "weights of the speakers",
}
SUBJECTS = [
    *(Subject(f"voice {net}", f"vits_{net}", partial(stages, net), INPUTS) for net in META),
    Subject(
        "pitch scales",
        "retrieval_utils",
        pitch_scales,
        dict.fromkeys(("coarse.in", "normf0.lf0", "normf0.uv"), "given"),
    ),
]
