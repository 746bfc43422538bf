"""The question stored with every engine: a short input and torch's answer to it."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np

from trt_svc.backends.base import Runner
from trt_svc.difference import difference
from trt_svc.guards import Problem, own_distance
from trt_svc.prebuilt import Engine
from trt_svc.types import Array
from trt_svc.voice import Voice

SENTINEL = "sentinel.npz"
MARGIN_DB = 3.0
"""The question is short, so its figure may lie a little below the gate's."""


@dataclass(frozen=True)
class Sentinel:
    """What to ask an opened engine, and how near the answer must come."""

    inputs: dict[str, Array]
    answer: Array
    gate_db: float

    @classmethod
    def of(cls, engine: Engine) -> Sentinel:
        with np.load(io.BytesIO(engine.entry.files[SENTINEL]), allow_pickle=False) as stored:
            inputs = {name.removeprefix("in_"): stored[name] for name in stored.files if name != "answer"}
            return cls(inputs, stored["answer"], float(engine.notes["gate_db"]))

    def ask(self, runner: Runner) -> Problem | None:
        """What is wrong with a runner's answer, if anything."""
        made = runner.run(self.inputs)
        if made.shape != self.answer.shape:
            return Problem("sentinel", f"it answers a known mel with shape {made.shape} instead of {self.answer.shape}")
        snr_db = difference(made, self.answer).snr_db
        if snr_db >= self.gate_db - MARGIN_DB:
            return None
        return Problem("sentinel", f"it answers a known mel with {snr_db:.1f} dB instead of {self.gate_db:g} dB")

    def own_distance(self, voice: Voice) -> float | None:
        """How far this voice's own audio is from its mel, where that means something."""
        return own_distance(voice, self.inputs["mel"], self.answer)
