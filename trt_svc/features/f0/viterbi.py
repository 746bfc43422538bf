"""The most likely path through pitch bins where pitch moves by a few bins per frame, as torchcrepe decodes CREPE."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from trt_svc.features.f0.salience import BINS
from trt_svc.types import Array, Doubles

REACH_BINS = 11
"""A pitch further away in the next frame is as good as impossible."""
TINY = float(np.finfo(np.float32).tiny)


@lru_cache(maxsize=1)
def _log_moves() -> Doubles:
    """(bins, 2 x reach + 1): how likely each bin was reached from its neighbours, lower ones first."""
    distance = np.abs(np.arange(BINS)[:, None] - np.arange(BINS))
    moves = np.maximum(REACH_BINS + 1 - distance, 0).astype(np.float64)
    moves /= moves.sum(axis=1, keepdims=True)
    origins = np.arange(BINS)[:, None] + np.arange(-REACH_BINS, REACH_BINS + 1)
    inside = (origins >= 0) & (origins < BINS)
    reached = moves[np.clip(origins, 0, BINS - 1), np.arange(BINS)[:, None]]
    return np.where(inside, np.log(reached + TINY), -np.inf)


def likeliest_bins(salience: Array) -> npt.NDArray[np.int64]:
    """The path (frames,) through salience (frames, 360), whose softmax counts as the probability of a bin."""
    frames = len(salience)
    weight = np.exp(salience - salience.max(axis=1, keepdims=True))
    log_seen = np.log(weight / weight.sum(axis=1, keepdims=True) + np.float32(TINY)).astype(np.float64)
    origin = np.zeros((frames, BINS), np.int64)
    score = log_seen[0] - np.log(BINS) if frames else np.zeros(BINS)
    padded = np.full(BINS + 2 * REACH_BINS, -np.inf)
    near = np.lib.stride_tricks.sliding_window_view(padded, 2 * REACH_BINS + 1)
    for frame in range(1, frames):
        padded[REACH_BINS:-REACH_BINS] = score
        arrivals = near + _log_moves()
        best = arrivals.argmax(axis=1)
        reached = np.take_along_axis(arrivals, best[:, None], axis=1)[:, 0]
        top = int(score.argmax())
        jump = score[top] + np.log(TINY)
        origin[frame] = np.where(reached >= jump, np.arange(BINS) + best - REACH_BINS, top)
        score = log_seen[frame] + np.maximum(reached, jump)
    path = np.zeros(frames, np.int64)
    for frame in range(frames - 1, -1, -1):
        path[frame] = score.argmax() if frame == frames - 1 else origin[frame + 1, path[frame + 1]]
    return path
