"""Which layers of a network may multiply in bfloat16: as many as a target quality allows.

Every layer is rounded alone, on inputs like real ones; costs add up nearly independently. The target's noise is spent
where it buys the most: on the layers with the most multiplications per noise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, TypeVar

import numpy as np
from torch import Tensor, nn

from trt_svc.difference import difference
from trt_svc.types import Array

Case = TypeVar("Case")
MARGIN_DB = 0.5
SPARE_DB = 0.3
"""An engine that only just passes may fail when it is built again: kernels are chosen as they are needed."""
ATTEMPTS = 4
SEED = 11
KINDS = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.Linear)


@dataclass(frozen=True)
class RoundingCost:
    """A layer that multiplies in bfloat16, all others in float32."""

    layer: str
    multiplications: int
    noise: float
    """Its mean square, over that of the output."""


def rounding_costs(
    module: nn.Module, answers: Callable[[], Array], candidates: Sequence[str], kept: Sequence[str] = ()
) -> Iterator[RoundingCost]:
    """What each candidate costs, but for those that match a pattern of `kept`. `answers` runs the module."""
    parts = dict(module.named_modules())
    reference = np.asarray(answers(), np.float64)
    power = max(float(np.mean(reference**2)), 1e-30)
    for name in candidates:
        layer = parts.get(name)
        if isinstance(layer, KINDS) and not any(fnmatchcase(name, pattern) for pattern in kept):
            with _rounded(layer) as seen:
                noise = float(np.mean((answers() - reference) ** 2)) / power
            yield RoundingCost(name, seen["multiplications"], noise)


def worth_rounding(costs: Sequence[RoundingCost], target_db: float) -> tuple[str, ...]:
    """The layers to round: the cheapest per multiplication, while their noise stays within the target."""
    left, chosen = 10 ** (-(target_db + MARGIN_DB) / 10), []
    for cost in sorted(costs, key=lambda c: c.noise / max(c.multiplications, 1)):
        if cost.noise <= left:
            chosen.append(cost.layer)
            left -= cost.noise
    return tuple(sorted(chosen))


def protected_layers(
    layers: Sequence[str],
    costs: Sequence[RoundingCost],
    target_db: float,
    measured_db: Callable[[tuple[str, ...]], float],
) -> tuple[str, ...]:
    """Those of `layers` to keep in float32: all, if no choice reaches the target.

    measured_db: the quality of an engine with such layers in float32.
    """
    wanted_db = aimed_db = target_db + SPARE_DB
    for _ in range(ATTEMPTS):
        rounded = set(worth_rounding(costs, aimed_db))
        protected = tuple(layer for layer in layers if layer not in rounded)
        if not rounded:
            break
        found_db = measured_db(protected)
        if found_db >= wanted_db:
            return protected
        # Costs add up only nearly: what is still lacking is taken off the allowance.
        aimed_db += max(wanted_db - found_db, 0.5)
    return tuple(layers)


def protected_on_cases(
    layers: Sequence[str],
    costs: Sequence[RoundingCost],
    target_db: float,
    cases: Sequence[tuple[Case, Array]],
    built: Callable[[tuple[str, ...]], Callable[[Case], Array]],
) -> tuple[str, ...]:
    """The same, measured on inputs with their float32 answers; `built` makes an engine that protects some layers."""

    def measured_db(protected: tuple[str, ...]) -> float:
        run = built(protected)
        return min(difference(run(case), answer).snr_db for case, answer in cases)

    return protected_layers(layers, costs, target_db, measured_db)


@contextmanager
def _rounded(layer: nn.Module) -> Iterator[dict[str, int]]:
    """The layer with its weights, inputs and output in bfloat16; how much it multiplies is counted."""
    seen = {"multiplications": 0}

    def round_inputs(_: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(_brain(x) for x in given)

    def round_output(_: nn.Module, given: tuple[Any, ...], made: Tensor) -> Tensor:
        seen["multiplications"] += _multiplications(layer, given[0], made)
        return _brain(made)

    hooks = [layer.register_forward_pre_hook(round_inputs), layer.register_forward_hook(round_output)]
    weight = layer.get_parameter("weight")
    exact = weight.data
    try:
        weight.data = _brain(exact)
        yield seen
    finally:
        weight.data = exact
        for hook in hooks:
            hook.remove()


def _multiplications(layer: nn.Module, given: Tensor, made: Tensor) -> int:
    """Of one run: every number of the weights meets every position, of the input where a layer spreads it out."""
    weight = layer.get_parameter("weight")
    if isinstance(layer, nn.Linear):
        return made.numel() // made.shape[-1] * weight.numel()
    spread = given if isinstance(layer, (nn.ConvTranspose1d, nn.ConvTranspose2d)) else made
    return spread.numel() // spread.shape[1] * weight.numel()


def _brain(value: Tensor) -> Tensor:
    return value.bfloat16().float()
