"""The log-mel of audio that arrives in blocks: the frames of the whole, without the whole."""

from __future__ import annotations

import numpy as np

from trt_svc.config import MelSpec
from trt_svc.features.mel import log_mel
from trt_svc.types import Array


class MelBlocks:
    """`log_mel` one block after the other, for audio (channels, samples) at the spec's rate."""

    def __init__(self, spec: MelSpec, key_shift: float = 0.0) -> None:
        self._spec = spec
        self._key_shift = key_shift
        self._window: int = round(spec.n_fft * 2.0 ** (key_shift / 12))
        # No padding is wider than half a transform, so these frames at most see the edge of a piece.
        self._context = -(-(self._window // 2) // spec.hop)
        self._held: Array | None = None
        self._given = 0
        """Frames handed out already, counted from the beginning of what is held."""

    def push(self, samples: Array, last: bool = False) -> Array:
        """Log-mel (channels, n_mels, t) of the frames that are certain now; with `last`, of all the rest."""
        held = samples if self._held is None else np.concatenate([self._held, samples], axis=1)
        first, ready = self._given, self._ready(held.shape[1])
        if last:
            mel = log_mel(held, self._spec, self._key_shift)[:, :, first:]
        elif ready > first:
            mel = log_mel(held, self._spec, self._key_shift)[:, :, first:ready]
        else:
            mel = np.zeros((len(held), self._spec.n_mels, 0), np.float32)
        self._keep(held, max(first, ready))
        return mel

    def _ready(self, length: int) -> int:
        """Frames whose window ends inside this many samples, wherever the padding puts its middle."""
        return max(0, (length - self._window) // self._spec.hop + 1)

    def _keep(self, held: Array, given: int) -> None:
        """Forgets what no later frame needs; the rest stays long enough to be mirrored like a long recording."""
        hop = self._spec.hop
        spare = (held.shape[1] - self._window - hop) // hop
        dropped = max(0, min(given - self._context, spare))
        self._held = held[:, dropped * hop :].copy()
        self._given = given - dropped
