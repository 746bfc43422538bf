"""Is a plan one that the kernels can run? They trust every number in it, and it may come from a damaged file."""

from __future__ import annotations

from collections.abc import Sequence

from trt_svc.errors import shown
from trt_svc.native.plan import CHANNEL_BLOCK, JOINTS, KINDS, NOTHING, POSTS, Plan, Step, Tensor, View, unfit
from trt_svc.native.toom_cook import FORMS

MOST = 1 << 16
"""Largest number of channels, taps or rows that a plan may name."""
MOST_ADDS, MOST_PIECES = 2, 16
SNAKE_TAPS = 28
CONVOLUTIONS = ("convolve", "upsample")
POSTS_OF_CONVOLUTIONS = tuple(post for post in POSTS if post != "leaky")


class _Unfit(Exception):
    """What is wrong."""


def check(plan: Plan) -> None:
    """EngineError unless all numbers fit together."""
    try:
        _check_tensors(plan)
        made = {number for _, number in plan.inputs}
        for step in plan.steps:
            _check_step(plan, step, made)
            made.add(step.to.tensor)
        _demand(plan.output in made, "nothing makes its output")
    except _Unfit as err:
        raise unfit(str(err)) from None


def _demand(fine: bool, otherwise: str) -> None:
    if not fine:
        raise _Unfit(otherwise)


def _whole(value: object, least: int, most: int, what: str) -> None:
    fine = isinstance(value, int) and not isinstance(value, bool) and least <= value <= most
    _demand(fine, f"{what} is {shown(value)}")


def _check_tensors(plan: Plan) -> None:
    for tensor in plan.tensors:
        _whole(tensor.slot, 0, len(plan.tensors) - 1, "a slot")
        _whole(tensor.channels, 1, MOST, "a number of channels")
        _whole(tensor.stride, 1, 2 * MOST, "a stride")
        blocks = -(-tensor.channels // CHANNEL_BLOCK) * CHANNEL_BLOCK
        _demand(tensor.stride == blocks or _is_mono(tensor), "a row is not as long as its channels")
    numbers = [number for _, number in plan.inputs]
    for number in (*numbers, plan.output):
        _whole(number, 0, len(plan.tensors) - 1, "a tensor")
    names = [name for name, _ in plan.inputs]
    _demand(all(isinstance(name, str) for name in names), "an input has no name")
    _demand(bool(names) and len(set(numbers)) == len(numbers) == len(set(names)), "its inputs are not told apart")
    _demand(set(plan.per_frame) == set(names), "the rates are not those of its inputs")
    _demand(plan.tensors[plan.output].channels == 1 or not plan.squeezed, "its output is no audio")


def _is_mono(tensor: Tensor) -> bool:
    return tensor.channels == tensor.stride == 1


def _check_step(plan: Plan, step: Step, made: set[int]) -> None:
    _demand(step.kind in KINDS and step.post in POSTS and step.joint in JOINTS, "a step is of an unknown kind")
    for value, least in ((step.in_channels, 1), (step.out_channels, 1), (step.kernel, 1), (step.stride, 1)):
        _whole(value, least, MOST, "a size")
    _whole(step.dilation, 1, MOST, "a dilation")
    _whole(step.pad, 0, MOST, "a padding")
    _whole(step.crop, 1 - step.stride if step.kind == "upsample" else 0, MOST, "a crop")
    _demand(step.kernel * step.dilation <= MOST, "a convolution reaches too far")
    numbers = (step.slope, step.scale)
    _demand(all(isinstance(n, (int, float)) and not isinstance(n, bool) for n in numbers), "a factor is no number")
    _demand(len(step.adds) <= (MOST_ADDS if step.kind in CONVOLUTIONS else int(step.joint != "")), "a sum is too long")
    _check_view(plan.tensors, step.source, step.in_channels)
    _check_view(plan.tensors, step.to, step.out_channels)
    for view in step.adds:
        _check_view(plan.tensors, view, step.out_channels)
    read = {step.source.tensor, *(view.tensor for view in step.adds)}
    _demand(read <= made and step.to.tensor not in read, "a step reads what is not made yet")
    _demand(step.to.tensor not in {number for _, number in plan.inputs}, "a step overwrites an input")
    if step.kind in CONVOLUTIONS:
        _check_convolution(plan, step)
    else:
        _check_even(plan, step)


def _check_view(tensors: Sequence[Tensor], view: View, channels: int) -> None:
    _whole(view.tensor, NOTHING + 1, len(tensors) - 1, "a tensor")
    _whole(view.channel, 0, tensors[view.tensor].channels - channels, "a channel")


def _fills(plan: Plan, step: Step) -> bool:
    return step.to.channel == 0 and plan.tensors[step.to.tensor].channels == step.out_channels


def _check_convolution(plan: Plan, step: Step) -> None:
    up = step.kind == "upsample"
    _demand(_fills(plan, step), "a convolution makes a part of a tensor")
    _demand(step.post in POSTS_OF_CONVOLUTIONS and not step.joint and step.extra == "", "a convolution ends oddly")
    _demand(not up or step.dilation == 1, "an upsampler is dilated")
    shape = (step.in_channels, step.out_channels) if up else (step.out_channels, step.in_channels)
    _check_weights(plan, step.weight, (*shape, step.kernel))
    if step.bias != "":
        _check_weights(plan, step.bias, (step.out_channels,))
    from_audio, to_audio = (_is_mono(plan.tensors[view.tensor]) for view in (step.source, step.to))
    if to_audio:
        whole = step.source.channel == 0 and plan.tensors[step.source.tensor].channels == step.in_channels
        _demand(whole and not (up or step.adds or step.form or from_audio), "no kernel makes audio in this way")
    if step.form:
        _demand(step.form in FORMS and not from_audio and (up or step.stride == 1), "a form does not fit its step")
        _demand(0 < step.form.pieces(step.taps) <= MOST_PIECES, "a form does not fit its kernel")


def _check_even(plan: Plan, step: Step) -> None:
    from_audio, to_audio = (_is_mono(plan.tensors[view.tensor]) for view in (step.source, step.to))
    named = (step.weight, step.bias, step.extra if step.kind != "snake" else "")
    _demand(all(name == "" for name in named), "weights that nothing needs")
    if step.kind == "pointwise":
        _demand(step.in_channels == step.out_channels, "channels come or go")
        _demand(bool(step.joint) == bool(step.adds), "an operand is missing")
        return
    _demand(_fills(plan, step) and not step.adds, "a step makes a part of a tensor")
    if step.kind == "snake":
        _demand(step.in_channels == step.out_channels and not from_audio and not to_audio, "channels come or go")
        _check_weights(plan, step.extra, (2 * step.in_channels + SNAKE_TAPS,))
    elif step.kind == "fold":
        _demand(step.out_channels == step.in_channels * step.kernel, "channels come or go")
    else:
        _demand(to_audio, "what it unfolds is no audio")


def _check_weights(plan: Plan, name: str, shape: tuple[int, ...]) -> None:
    found = plan.weights.get(name) if isinstance(name, str) else None
    _demand(found is not None and found.shape == shape, f"the weights {shown(name)} are missing or of another shape")
