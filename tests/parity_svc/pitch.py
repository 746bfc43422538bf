"""f0: so-vits-svc's rules, its estimators, the two networks at full size."""

from __future__ import annotations

import gzip
import json
import re
import wave
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from tests.golden_svc import FOLDER, arrays, fill, meta
from tests.parity_svc.base import EXACT, Comparison, Subject, Tolerance, as_numbers
from trt_svc.checkpoints.layouts import fold_weight_norm
from trt_svc.features.f0 import crepe, fcpe, rmvpe
from trt_svc.features.f0.kaiser import resample_kaiser
from trt_svc.features.f0.upstream import (
    f0_like_upstream,
    interpolate_f0,
    masked_mean,
    masked_median,
    post_process,
    resize_f0,
)

GOLDEN = arrays("f0")
RATE, HOP = 44100, 512
THRESHOLD = 0.05
INTERPOLATED, WORLD, DECODED, CENTS = Tolerance(1e-12, 0), Tolerance(1e-9, 0), Tolerance(1e-5, 0), Tolerance(0, 2e-6)


def golden_glide() -> np.ndarray:
    """The golden recording (samples,)."""
    with wave.open(str(FOLDER / "glide.wav")) as file:
        assert file.getframerate() == RATE
        return np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / 32768


def golden_like(pattern: str) -> dict[str, np.ndarray]:
    """What the pattern's group caught -> the array."""
    return {found[1]: value for key, value in GOLDEN.items() if (found := re.fullmatch(pattern, key))}


def inventory(start: str) -> dict[str, tuple[int, ...]]:
    """The weights (not the counters) of a full-size model by name."""
    models = json.loads(gzip.decompress((FOLDER / "state_dict_inventory.json.gz").read_bytes()))
    (found,) = (entries for name, entries in models.items() if name.startswith(start))
    return {name: tuple(shape) for name, (shape, dtype) in found.items() if dtype.startswith("float")}


def rules(_: Path) -> Iterator[Comparison]:
    """Curves made by hand through the rules between an estimator and the network."""
    curve, case = GOLDEN["crafted.in"], "rules on a crafted curve"
    f0, uv = interpolate_f0(curve, HOP, RATE)
    gaps = np.where(curve == 0, np.nan, curve).astype(np.float32)
    exact = {
        "crafted.interpolate.f0": f0,
        "crafted.interpolate.uv": uv,
        "crafted.maskedmedian3": masked_median(gaps)[None],
        "crafted.maskedavg3": masked_mean(gaps)[None],
    }
    for key, made in exact.items():
        yield Comparison(case, key, made, GOLDEN[key], EXACT)
    for frames, expected in golden_like(r"crafted\.resize_f0\.(\d+)").items():
        yield Comparison(case, f"crafted.resize_f0.{frames}", resize_f0(curve, int(frames)), expected, INTERPOLATED)
    for frames, expected in golden_like(r"crafted\.post_process\.(\d+)\.f0").items():
        f0, uv = post_process(curve, int(frames), HOP, RATE)
        key = f"crafted.post_process.{frames}"
        yield Comparison(case, f"{key}.f0", f0, expected, INTERPOLATED)
        yield Comparison(case, f"{key}.uv", uv, GOLDEN[f"{key}.uv"], EXACT)


def signal_methods(_: Path) -> Iterator[Comparison]:
    glide = golden_glide()
    audio = {
        "": (glide, RATE, HOP),
        "hop320sr32k": (glide[:32000], 32000, 320),
        "silence": (np.zeros(22050, np.float32), RATE, HOP),
    }
    for case in golden_like(r"((?:pm|dio|harvest)(?:\.\w+)?)\.f0"):
        method, _, variant = case.partition(".")
        f0, uv = f0_like_upstream(method, *audio[variant])
        assert f0.dtype == np.float64 and uv.dtype == np.float32
        yield Comparison(case, f"{case}.f0", f0, GOLDEN[f"{case}.f0"], WORLD)
        yield Comparison(case, f"{case}.uv", uv, GOLDEN[f"{case}.uv"], EXACT)


def after_crepe(_: Path) -> Iterator[Comparison]:
    """From what torchcrepe gives to what the voice is given."""
    glide, hop = golden_glide(), crepe.hop_at_network(HOP, RATE)
    level = crepe.loudness_db(resample_kaiser(glide, RATE, crepe.RATE), hop)
    pooled = crepe.pooled_f0(GOLDEN["crepe.raw_f0"][0], GOLDEN["crepe.raw_periodicity"][0], level, THRESHOLD)
    f0, uv = post_process(pooled, len(glide) // HOP, HOP, RATE)
    yield Comparison("crepe, after its network", "crepe.f0", f0, GOLDEN["crepe.f0"], Tolerance(1e-6, 0))
    yield Comparison("crepe, after its network", "crepe.uv", uv, GOLDEN["crepe.uv"], EXACT)


def cents_of(f0_hz: np.ndarray, unvoiced: float) -> np.ndarray:
    """Cents over 10 Hz, as the networks count."""
    return np.where(f0_hz > 0, 1200 * np.log2(np.maximum(f0_hz, 1) / 10), unvoiced)


def salience(_: Path) -> Iterator[Comparison]:
    given = GOLDEN["rmvpe.salience"]
    for threshold, expected in golden_like(r"rmvpe\.f0\.([\d.]+)").items():
        made = rmvpe.rmvpe_hz(given, float(threshold))
        cents = f"rmvpe.cents.{threshold}"
        yield Comparison("rmvpe, salience to pitch", f"rmvpe.f0.{threshold}", made, expected, DECODED)
        yield Comparison("rmvpe, salience to pitch", cents, cents_of(made, 0), GOLDEN[cents], CENTS)
    made = fcpe.fcpe_hz(given, THRESHOLD, GOLDEN["fcpe.cent_table"].astype(np.float64))
    case = "fcpe, salience to pitch"
    yield Comparison(case, "fcpe.f0", made[None, :, None], GOLDEN["fcpe.f0"], DECODED)
    local = cents_of(made, -np.inf)[None, :, None]
    yield Comparison(case, "fcpe.local_cents", local, GOLDEN["fcpe.local_cents"], CENTS)
    yield Comparison("rmvpe, mel", "rmvpe.mel.out", rmvpe.rmvpe_mel(GOLDEN["rmvpe.mel.in"]), GOLDEN["rmvpe.mel.out"])


def rmvpe_network(_: Path) -> Iterator[Comparison]:
    data, seeds = arrays("f0nets"), meta("f0nets")
    network = rmvpe.rmvpe_with(fill(inventory("rmvpe.pt"), seeds["seed_rmvpe"]), "golden weights")
    made = rmvpe.salience_of(network, data["mel"])[None]
    yield Comparison("RMVPE at full size", "hidden", made, data["hidden"])


def fcpe_network(_: Path) -> Iterator[Comparison]:
    data, seeds = arrays("f0nets"), meta("f0nets")
    weights = fold_weight_norm(fill(inventory("fcpe.pt"), seeds["seed_fcpe"]), "golden weights")
    network = fcpe.fcpe_with(weights, "golden weights")
    with torch.inference_mode():
        logits = network(torch.from_numpy(data["fcpe.mel"]))
    yield Comparison("FCPE at full size", "fcpe.logits", as_numbers(logits), data["fcpe.logits"])
    made = fcpe.fcpe_hz(torch.sigmoid(logits)[0].numpy(), THRESHOLD, network.cent_table.double().numpy())
    yield Comparison("FCPE at full size", "fcpe.hz", made[None, :, None], data["fcpe.hz"])


INPUTS = {
    "crafted.in": "Hz",
    "rmvpe.salience": "salience",
    "rmvpe.mel.in": "audio",
    "fcpe.cent_table": "the file's bins",
    "true_f0_per_sample_decim64": "what glide.wav was sung from",
    "crepe.raw_*": "what the torchcrepe package gave for glide.wav",
}
LEFT_OUT = {"fcpe.argmax_f0": "a decoder that so-vits-svc never asks for"}
SUBJECTS = [
    Subject("f0 rules", "f0", rules, INPUTS, LEFT_OUT),
    Subject("f0 of signals", "f0", signal_methods),
    Subject("after crepe", "f0", after_crepe),
    Subject("salience", "f0", salience),
    Subject("rmvpe network", "f0nets", rmvpe_network, {"mel": "mel", "fcpe.mel": "mel"}),
    Subject("fcpe network", "f0nets", fcpe_network),
]
