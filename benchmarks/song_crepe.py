"""A CREPE of the published size that finds pitches, without training: only its last layer is fitted.

Random weights would hear noise, and so would everything behind them. Here the first layer holds tones of all pitches,
the middle is random, and the last is the least-squares answer on sung windows.
"""

from __future__ import annotations

import numpy as np
import torch

from benchmarks.song_audio import VOWELS_HZ, sung
from trt_svc.features.f0 import crepe
from trt_svc.features.f0.networks.crepe import WINDOW_SAMPLES, Crepe
from trt_svc.features.f0.networks.norm import StoredNorm
from trt_svc.types import Array, Doubles

LOWEST_HZ, OCTAVES = 60.0, 4.0
TONES_FROM_HZ, TONES_OCTAVES, LONGEST_S, PERIODS = 50.0, 5.5, 0.012, 6.0
KERNEL = 512
PEAK_LOGIT, REST_LOGIT, BUMP_CENTS = 4.0, -6.0, 60.0
"""What the last layer is fitted to."""
RIDGE = 1e-3


@torch.no_grad()
def fitted_crepe(widths: tuple[int, ...], windows: int, seed: int) -> Crepe:
    """A network of these widths, fitted on so many windows."""
    torch.manual_seed(seed)
    net = Crepe(widths).eval().requires_grad_(False)
    for name, parameter in net.named_parameters():
        if parameter.ndim == 4:
            parameter.copy_(torch.randn(parameter.shape) * (2 / parameter[0].numel()) ** 0.5)
        elif "BN" not in name:
            parameter.zero_()
    net.get_submodule("conv1").weight[:, 0, :, 0] = torch.from_numpy(_tones(widths[0]))
    heard, f0_hz = _sung_windows(windows, np.random.default_rng(seed))
    _settle_norms(net, heard[:64])
    features = np.concatenate([_features(net, part) for part in np.array_split(heard, -(-windows // 64))])
    given = np.concatenate([features, np.ones((windows, 1))], axis=1, dtype=np.float64)
    weights = least_squares(given, _logits(f0_hz))
    net.classifier.weight.copy_(torch.from_numpy(weights[:-1].T))
    net.classifier.bias.copy_(torch.from_numpy(weights[-1]))
    return net


def _tones(count: int) -> Array:
    """(count, 512): short tones of all pitches, four phases each."""
    seconds = (np.arange(KERNEL) - KERNEL / 2) / crepe.RATE
    pitches = TONES_FROM_HZ * 2 ** np.linspace(0, TONES_OCTAVES, -(-count // 4))[:, None, None]
    envelopes = np.exp(-0.5 * (seconds / np.minimum(LONGEST_S, PERIODS / pitches)) ** 2)
    waves = np.cos(2 * np.pi * (pitches * seconds + np.arange(4)[:, None] / 4))
    made = envelopes * waves / np.linalg.norm(envelopes, axis=2, keepdims=True)
    return np.asarray(made.reshape(-1, KERNEL)[:count], np.float32)


def _sung_windows(count: int, rng: np.random.Generator) -> tuple[Array, Doubles]:
    """(count, 1024) of vowels, normalised, and their pitches."""
    f0_hz = LOWEST_HZ * 2 ** rng.uniform(0, OCTAVES, count)
    glides = np.linspace(-1, 1, WINDOW_SAMPLES) * rng.uniform(-0.02, 0.02, (count, 1))
    vowels = np.array(VOWELS_HZ, float)[rng.integers(0, len(VOWELS_HZ), count)] * rng.uniform(0.85, 1.2, (count, 1))
    curves = zip(f0_hz[:, None] * 2**glides, vowels, strict=True)
    audio = np.stack([sung(f0, np.repeat(vowel[:, None], len(f0), axis=1), crepe.RATE) for f0, vowel in curves])
    audio += rng.uniform(0, 0.05) * audio.std(axis=1, keepdims=True) * rng.standard_normal(audio.shape)
    return crepe.normalised(audio.astype(np.float32)), f0_hz


def _settle_norms(net: Crepe, heard: Array) -> None:
    """Gives every norm the statistics of what comes to it."""

    def settle(norm: StoredNorm, given: tuple[torch.Tensor]) -> None:
        norm.running_mean.copy_(given[0].mean((0, 2, 3)))
        norm.running_var.copy_(given[0].var((0, 2, 3)))

    hooks = [m.register_forward_pre_hook(settle) for m in net.modules() if isinstance(m, StoredNorm)]
    net(torch.from_numpy(heard))
    for hook in hooks:
        hook.remove()


def _features(net: Crepe, heard: Array) -> Array:
    """What the last layer is given."""
    seen: list[Array] = []
    hook = net.classifier.register_forward_pre_hook(lambda _module, given: seen.append(given[0].numpy()))
    net(torch.from_numpy(heard))
    hook.remove()
    return seen[0]


def _logits(f0_hz: Doubles) -> Doubles:
    """(windows, 360): a bump at the pitch."""
    gaps = 1200 * np.log2(f0_hz / 10)[:, None] - crepe.CREPE_CENTS
    return np.asarray((PEAK_LOGIT - REST_LOGIT) * np.exp(-0.5 * (gaps / BUMP_CENTS) ** 2) + REST_LOGIT)


def least_squares(given: Doubles, wanted: Doubles) -> Array:
    """Ridge regression of rows on rows, on whichever side is smaller."""
    ridge = RIDGE * len(given) * given.var()
    if len(given) > given.shape[1]:
        solved = np.linalg.solve(given.T @ given + ridge * np.eye(given.shape[1]), given.T @ wanted)
    else:
        solved = given.T @ np.linalg.solve(given @ given.T + ridge * np.eye(len(given)), wanted)
    return np.asarray(solved, np.float32)
