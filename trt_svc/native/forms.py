"""Which Toom-Cook form every convolution takes: measured on this machine, one step at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from trt_svc.difference import difference
from trt_svc.native.library import Context, Network
from trt_svc.native.plan import Plan, Step
from trt_svc.native.toom_cook import FORMS, Form
from trt_svc.types import Array

POINTS_OF_FLOAT32 = 12
"""Most points of a form that the usual plan of a float32 engine takes."""
MOST_PIECES = 16
RUNS = 3


def candidates(step: Step, most_points: int) -> list[Form | None]:
    """The forms that fit a step, direct first."""
    upsampling = step.kind == "upsample"
    convolves = upsampling or (step.kind == "convolve" and step.stride == 1)
    if not convolves or step.taps < 2 or min(step.in_channels, step.out_channels) < 2:
        return [None]
    fitting = [form for form in FORMS if form.points <= most_points and _fits(form, step.taps)]
    return [None, *fitting]


def _fits(form: Form, taps: int) -> bool:
    """One piece without idle taps (or a single one), or several pieces."""
    pieces = form.pieces(taps)
    idle = pieces * form.taps - taps
    return 0 < pieces <= MOST_PIECES and idle <= 1


def usual(plan: Plan, most_points: int = POINTS_OF_FLOAT32) -> Plan:
    """With the forms that save most products, unmeasured."""
    return plan.with_forms(tuple(_leanest(step, most_points) for step in plan.steps))


def _leanest(step: Step, most_points: int) -> Form | None:
    fitting = [form for form in candidates(step, most_points) if form is not None]
    return min(fitting, key=lambda form: form.pieces(step.taps) * form.points / form.outputs, default=None)


def measured(
    plan: Plan, frames: int, threads: int, most_points: int, least_snr_db: float, stopped: Callable[[], None]
) -> Plan:
    """With the form of each step that was quickest here at so many frames, as far as rounding allows."""
    choices = [candidates(step, most_points) for step in plan.steps]
    inputs = _noise(plan, frames)
    taken: list[dict[Form | None, float]] = [{} for _ in plan.steps]
    for turn in range(max(map(len, choices), default=0)):
        tried = [choice[turn % len(choice)] for choice in choices]
        seconds = _step_seconds(plan.with_forms(tuple(tried)), inputs, threads)
        for known, form, took in zip(taken, tried, seconds, strict=True):
            known[form] = min(took, known.get(form, took))
        stopped()
    for limit in sorted({form.points for choice in choices for form in choice if form}, reverse=True):
        quickest = plan.with_forms(tuple(_quickest(known, limit) for known in taken))
        if _snr_db(quickest, plan, inputs, threads) >= least_snr_db:
            return quickest
        stopped()
    return plan


def _quickest(known: Mapping[Form | None, float], most_points: int) -> Form | None:
    allowed = [form for form in known if form is None or form.points <= most_points]
    return min(allowed, key=lambda form: known[form])


def _snr_db(plan: Plan, direct: Plan, inputs: Mapping[str, Array], threads: int) -> float:
    made, wanted = (Context(Network(p, threads), threads).run(inputs) for p in (plan, direct))
    return difference(made, wanted).snr_db


def _step_seconds(plan: Plan, inputs: dict[str, Array], threads: int) -> list[float]:
    context = Context(Network(plan, threads), threads)
    for _ in range(RUNS):
        context.run(inputs)
    return context.step_seconds()


def _noise(plan: Plan, frames: int) -> dict[str, Array]:
    """Inputs of the right shapes: how long a step takes does not depend on what it computes."""
    generator = np.random.default_rng(0)
    shapes = {name: (1, plan.tensors[number].channels) for name, number in plan.inputs}
    return {
        name: (0.1 * generator.standard_normal((*shape, max(1, int(frames * plan.per_frame[name]))))).astype(np.float32)
        for name, shape in shapes.items()
    }
