"""ViSQOL in audio mode: a listener's opinion of music, 1 to 4.73, up to 15 kHz.

About as slow as the audio is long, so no score is computed twice.
"""

from __future__ import annotations

import numpy as np

from trt_svc.bench.quality.base import Pair, Role, SaysNothing, metric

RATE = 48000
SHORTEST_S = 1.0
"""It compares patches of 0.6 s and skips the first half of one."""


def _opinion(pair: Pair, original: Role, heard: Role) -> float:
    import visqol

    first, second = (pair.sound_at(role, RATE).astype(np.float64) for role in (original, heard))
    seconds = len(pair.reference) / pair.sample_rate
    if seconds < SHORTEST_S:
        raise SaysNothing(f"ViSQOL takes {SHORTEST_S:g} s or more, this has {seconds:.2f} s")
    judge = visqol.VisqolApi()
    judge.create(mode="audio")
    return float(judge.measure_from_arrays(first, second, RATE).moslqo)


def opinion(pair: Pair, original: Role, heard: Role) -> float:
    """MOS-LQO of `heard`, the other one being the original."""
    return pair.once("ViSQOL", (original, heard), lambda: _opinion(pair, original, heard))


@metric("visqol", "ViSQOL", unit="MOS-LQO", better="higher", needs=("visqol",), for_trained_only=True)
def of_reference(pair: Pair) -> float:
    """The contender, the reference being the original."""
    return opinion(pair, "reference", "made")


@metric("visqol_delta", "ViSQOL change", unit="MOS-LQO", better="zero", needs=("visqol",), for_trained_only=True)
def of_recording(pair: Pair) -> float:
    """What the contender scores against the recording, less what the reference scores."""
    return opinion(pair, "recording", "made") - opinion(pair, "recording", "reference")
