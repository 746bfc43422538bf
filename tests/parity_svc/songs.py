"""Whole conversions: files of a model and a recording in, upstream's audio out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests import golden_svc as golden
from tests.parity_svc.base import NETWORK, Comparison, Subject, Tolerance
from trt_svc.svc.listening import Encoder
from trt_svc.svc.pipeline import SVCPipeline

E2E = golden.FOLDER / "e2e"
ABOUT = golden.meta("e2e/e2e")
SEED, CHANNELS = ABOUT["seed"], 256
OPTIONS = {
    "spk": "speaker",
    "tran": "transpose",
    "f0_predictor": "f0",
    "auto_predict_f0": "auto_f0",
    "cluster_infer_ratio": "cluster_ratio",
    "noice_scale": "noise_scale",
    "slice_db": "slice_db",
    "clip_seconds": "clip_s",
    "lg_num": "overlap_s",
    "lgr_num": "fade_share",
    "pad_seconds": "padding_s",
    "loudness_envelope_adjustment": "loudness_share",
    "k_step": "k_step",
    "second_encoding": "second_encoding",
    "enhancer_adaptive_key": "enhancer_key",
}
"""Upstream's arguments -> ours."""
AMPLIFIED = {"kmeans_autof0": Tolerance(0, 1e-3), "only_diffusion": Tolerance(0, 2e-4)}
"""Rounding alone moves these further than others (`moved_by_rounding`), as another CPU's does: predicted pitch adds up
to a phase, and the untrained denoiser makes everything larger, hundreds of times over."""


def stand_in_encoder(audio: np.ndarray) -> np.ndarray:
    """Units (1, channels, frames) of audio (samples,) at 16 kHz: a random projection of every 400 samples.

    By torch, as where the golden arrays were made: another order of the sums shows in a predicted pitch.
    """
    weights = torch.from_numpy((golden.u("fakehubert", (400, CHANNELS), SEED) - 0.5).astype(np.float32))
    units = torch.from_numpy(audio).unfold(0, 400, 320) @ weights
    return np.ascontiguousarray((units * 0.3).T[None].numpy())


def draws(number: int, kind: str, shape: tuple[int, ...]) -> np.ndarray:
    """The numbers of one piece."""
    return (golden.uniform if kind == "rand" else golden.normal)(number, shape, SEED).astype(np.float32)


def options_of(case: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a case as options of a conversion."""
    flags, arguments = case["init"], dict(case["args"])
    options = {OPTIONS[name]: value for name, value in arguments.items() if name in OPTIONS}
    if arguments.get("use_spk_mix"):
        options["speaker_mix"] = options.pop("speaker")
    if flags.get("only_diffusion"):
        options["diffusion"] = "only"
    elif flags.get("shallow_diffusion"):
        options["diffusion"] = "shallow"
    return {**options, "enhance": flags.get("nsf_hifigan_enhance", False)}


def converted(name: str, encoder: Encoder = stand_in_encoder) -> np.ndarray:
    """The audio of a case."""
    case = ABOUT["cases"][name]
    pipeline = SVCPipeline.from_pretrained(E2E, encoder=encoder, draws=draws, compat="so-vits-svc-4.1")
    return pipeline(E2E / case["args"]["raw_audio_path"], **options_of(case))


def conversions(_: Path) -> Iterator[Comparison]:
    """Every case that upstream finished, sample by sample."""
    expected = golden.arrays("e2e/outputs")
    for name, case in ABOUT["cases"].items():
        if not name.startswith("assembly.") and "error" not in case:
            bound = AMPLIFIED.get(name, NETWORK)
            yield Comparison(f"{name}, {case['args']['f0_predictor']}", name, converted(name), expected[name], bound)


def moved_by_rounding(name: str) -> float:
    """How far a case moves, relative to its largest sample, when every unit is at most one last place off."""
    random = np.random.default_rng(0)

    def rounded_otherwise(audio: np.ndarray) -> np.ndarray:
        units = stand_in_encoder(audio)
        towards = np.where(random.random(units.shape) < 0.5, -np.inf, np.inf).astype(np.float32)
        return np.nextafter(units, towards)

    whole = converted(name)
    return float(np.abs(converted(name, rounded_otherwise) - whole).max() / np.abs(whole).max())


def note() -> str:
    """Why two bounds are wider."""
    moves = ", ".join(f"`{name}` by {moved_by_rounding(name):.1e}" for name in AMPLIFIED)
    return f"Units that are one last place off, up or down, move {moves} of the largest sample; hence their bounds."


LEFT_OUT = {
    name: f"upstream fails: {json.dumps(case['error'])}" for name, case in ABOUT["cases"].items() if "error" in case
}
SUBJECTS = [Subject("songs", "e2e/outputs", conversions, left_out=LEFT_OUT, note=note)]
