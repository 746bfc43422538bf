"""When a row is worth nothing: the reasons for which no speed is printed."""

from __future__ import annotations

import math

from trt_svc.bench.report import Latency, Rules
from trt_svc.difference import Difference


def refusal(
    precision: str,
    worst: Difference | None,
    latency: Latency | None,
    gflop: float,
    peak_gflops: float,
    rules: Rules,
) -> str:
    """Why a row is refused, or nothing. `gflop`: the operations it says it does per call."""
    return (
        wrong_sound(precision, worst, rules)
        or impossible_speed(latency, gflop, peak_gflops, rules)
        or unsteady(latency, rules)
    )


def wrong_sound(precision: str, worst: Difference | None, rules: Rules) -> str:
    """The worst round is further from torch float32 than this precision may be."""
    if worst is None:
        return "nothing could be compared with torch float32"
    gate_db = rules.gate_db[precision]
    if math.isinf(worst.mse):
        return "the shape of its audio is wrong, or it is not finite"
    if worst.snr_db < gate_db:
        return f"{worst.snr_db:.1f} dB from torch float32, the gate for {precision} is {gate_db:g} dB"
    return ""


def impossible_speed(latency: Latency | None, gflop: float, peak_gflops: float, rules: Rules) -> str:
    """More operations per second than this device does in its best matrix product."""
    if latency is None:
        return "it was not timed"
    implied = gflop / latency.median_s
    if implied <= peak_gflops * (1 + rules.peak_slack):
        return ""
    return f"{implied:.0f} GFLOP/s are implied, the device's measured peak is {peak_gflops:.0f}: it cannot do the work"


def unsteady(latency: Latency | None, rules: Rules) -> str:
    """The median is not known well enough."""
    if latency is None or latency.spread <= rules.max_spread:
        return ""
    return (
        f"the spread is too wide: ±{100 * latency.spread:.0f} % for the median of {latency.rounds} rounds, "
        f"±{100 * rules.max_spread:.0f} % is the limit"
    )
