"""PESQ, wide-band (ITU-T P.862.2): a telephone listener's opinion, 1.04 to 4.64, of what lies below 8 kHz."""

from __future__ import annotations

from trt_svc.bench.quality.base import Pair, Role, SaysNothing, metric

RATE = 16000
SHORTEST_S, LONGEST_S = 0.25, 20.0
"""The C code keeps 50 utterances and writes beyond its table for more; each takes at least 0.4 s."""


def _opinion(pair: Pair, original: Role, heard: Role) -> float:
    import pesq

    sounds = [pair.sound_at(role, RATE) for role in (original, heard)]
    seconds = len(pair.reference) / pair.sample_rate
    if not SHORTEST_S <= seconds <= LONGEST_S:
        raise SaysNothing(f"PESQ takes {SHORTEST_S:g} to {LONGEST_S:g} s, this has {seconds:.2f} s")
    return float(pesq.pesq(RATE, *sounds, "wb"))


def opinion(pair: Pair, original: Role, heard: Role) -> float:
    """MOS-LQO of `heard`, the other one being the original."""
    return pair.once("PESQ", (original, heard), lambda: _opinion(pair, original, heard))


@metric("pesq_wb", "PESQ wide-band", unit="MOS-LQO", better="higher", needs=("pesq",), for_trained_only=True)
def pesq_wb(pair: Pair) -> float:
    """The contender, the reference being the original."""
    return opinion(pair, "reference", "made")


@metric("pesq_wb_delta", "PESQ change", unit="MOS-LQO", better="zero", needs=("pesq",), for_trained_only=True)
def pesq_wb_delta(pair: Pair) -> float:
    """What the contender scores against the recording, less what the reference scores."""
    return opinion(pair, "recording", "made") - opinion(pair, "recording", "reference")
