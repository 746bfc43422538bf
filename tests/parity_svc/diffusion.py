"""Shallow and full diffusion: network, condition, schedule, every sampler."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.golden_svc import arrays, meta
from tests.parity_svc.base import EXACT, Comparison, Subject, Tolerance, as_numbers
from trt_svc.svc.diffusion import MEL_HIGHEST, MEL_LOWEST, Diffusion, Sampling
from trt_svc.svc.networks.unit2mel import Unit2Mel
from trt_svc.svc.samplers.schedule import Schedule

META = meta("unit2mel")
DATA = arrays("unit2mel")
CASES: dict[str, dict[str, Any]] = META["cases"]


def golden_net() -> Unit2Mel:
    sizes = META["cfg"]
    made = Unit2Mel(
        units=sizes["input_channel"],
        n_mels=sizes["out_dims"],
        layers=sizes["n_layers"],
        channels=sizes["n_chans"],
        hidden=sizes["n_hidden"],
        speakers=sizes["n_spk"] or 1,
        pitch_shift=sizes["use_pitch_aug"],
    )
    made.load_state_dict({key[3:]: torch.from_numpy(value) for key, value in DATA.items() if key.startswith("sd.")})
    return made.eval().requires_grad_(False)


def condition(diffusion: Diffusion, case: dict[str, Any]) -> np.ndarray:
    shift = case.get("aug_shift")
    shift_semitones = None if shift is None else float(np.ravel(shift)[0])
    return diffusion.condition(DATA["units"], DATA["f0"], DATA["volume"], META["spk_id"], shift_semitones)


class Recorded:
    """Upstream's draws of one case, in order."""

    def __init__(self, case: str) -> None:
        found = [key for key in DATA if key.startswith(f"{case}.draw")]
        self.left = [DATA[key] for key in sorted(found, key=lambda key: int(key.split(".draw")[1].split(".")[0]))]

    def __call__(self, name: str, law: str, shape: tuple[int, ...]) -> np.ndarray:
        assert law == "normal"
        assert self.left[0].shape == shape, name
        return self.left.pop(0)


def engine_like(net: Unit2Mel, calls: list[float]) -> Callable[[np.ndarray], Callable[..., np.ndarray]]:
    """The denoiser as an engine gives it: NumPy in, NumPy out."""

    def for_slice(cond: np.ndarray) -> Callable[..., np.ndarray]:
        @torch.inference_mode()
        def denoise(x: np.ndarray, time: float) -> np.ndarray:
            assert isinstance(x, np.ndarray)
            assert x.dtype == np.float32
            calls.append(time)
            times = torch.full((len(x),), time, dtype=torch.float32)
            return net(torch.from_numpy(x), times, torch.from_numpy(cond)).numpy()

        return denoise

    return for_slice


def sampled(diffusion: Diffusion, case: dict[str, Any], draws: Any) -> np.ndarray:
    sampling = Sampling(case["method"], case["infer_speedup"])
    cond = condition(diffusion, case)
    if case["gt_spec"] is None:
        return diffusion.generated(cond, sampling, draws)
    return diffusion.refined(DATA["gt_spec"], cond, case["k_step"], sampling, draws)


def network(_: Path) -> Iterator[Comparison]:
    net = golden_net()
    x, cond = torch.from_numpy(DATA["denoise.x"][:, 0]), torch.from_numpy(DATA["denoise.cond"])
    made = net(x, torch.from_numpy(DATA["denoise.t"]), cond)
    yield Comparison("one call of the denoiser", "denoise.y", as_numbers(made)[:, None], DATA["denoise.y"])
    last = list(CASES.values())[-1]
    made_cond = condition(Diffusion(net), last).transpose(0, 2, 1)
    yield Comparison("condition", "cond", made_cond, DATA["cond"])


def samplers(_: Path) -> Iterator[Comparison]:
    """Every case, called as an engine is; the times of its calls, too."""
    net, sizes = golden_net(), META["cfg"]
    for name, case in CASES.items():
        calls: list[float] = []
        draws = Recorded(name)
        diffusion = Diffusion(net, sizes["timesteps"], sizes["k_step_max"], engine_like(net, calls))
        yield Comparison(name, f"{name}.out", sampled(diffusion, case, draws), DATA[f"{name}.out"])
        yield Comparison(name, f"{name}.t_calls", np.array(calls), DATA[f"{name}.t_calls"], Tolerance(1e-6, 0))
        count = np.array([case["n_denoiser_calls"], 0])
        yield Comparison(name, f"{name}.n_denoiser_calls", np.array([len(calls), len(draws.left)]), count, EXACT)


def schedule(_: Path) -> Iterator[Comparison]:
    made = Schedule(META["cfg"]["timesteps"] or 1000)
    steps = range(made.timesteps)
    posterior = np.array([made.posterior(t) for t in steps])
    with np.errstate(divide="ignore"):
        log_variance = np.maximum(2 * np.log(posterior[:, 2]), math.log(1e-20))
    curves = {
        "betas": (made.betas.astype(np.float32), EXACT),
        "alphas_cumprod": (made.kept.astype(np.float32), EXACT),
        "sqrt_alphas_cumprod": (np.array([made.signal(t) for t in steps]), Tolerance(1e-6, 0)),
        "sqrt_one_minus_alphas_cumprod": (np.array([made.noise(t) for t in steps]), Tolerance(1e-6, 0)),
        "posterior_mean_coef1": (posterior[:, 0], Tolerance(1e-6, 0)),
        "posterior_mean_coef2": (posterior[:, 1], Tolerance(1e-6, 0)),
        "posterior_log_variance_clipped": (log_variance, Tolerance(1e-5, 0)),
        "spec_min": (np.full((1, 1, 1), MEL_LOWEST), EXACT),
        "spec_max": (np.full((1, 1, 1), MEL_HIGHEST), EXACT),
    }
    for name, (curve, bound) in curves.items():
        key = f"buf.decoder.{name}"
        yield Comparison("schedule", key, curve, DATA[key], bound)


INPUTS = {
    "sd.*": "weights",
    "units": "units",
    "f0": "Hz",
    "volume": "volume",
    "gt_spec": "the mel to repair",
    "denoise.x": "noisy mel",
    "denoise.t": "its times",
    "denoise.cond": "its condition",
    "*.draw*": "noise",
}
SUBJECTS = [
    Subject("diffusion network", "unit2mel", network, INPUTS),
    Subject("diffusion schedule", "unit2mel", schedule),
    Subject(
        "samplers",
        "unit2mel",
        samplers,
        left_out={"spkmix_error": "a mix of speakers with diffusion: upstream crashes, so there is no array"},
    ),
]
