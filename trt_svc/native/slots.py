"""Which tensors share memory: one that is no longer needed gives its place to the next."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from trt_svc.native.plan import CHANNEL_BLOCK, Step, Tensor, View


def with_slots(
    channels: Sequence[int],
    mono: Collection[int],
    singles: Collection[int],
    steps: Sequence[Step],
    inputs: Sequence[int],
    output: int,
) -> tuple[tuple[Tensor, ...], tuple[Step, ...], int]:
    """The tensors with their places; those that no step makes are left out, and the steps numbered anew.

    `mono` are tensors whose samples lie side by side, `singles` those of one row whatever the length.
    """
    made = list(dict.fromkeys([*inputs, *(step.to.tensor for step in steps)]))
    number = {tensor: i for i, tensor in enumerate(made)}
    last = {number[output]: len(steps)}
    for at, step in enumerate(steps):
        for view in (step.source, *step.adds):
            last[number[view.tensor]] = max(at, last.get(number[view.tensor], 0))
    slot: dict[int, int] = {}
    free: list[tuple[int, int]] = []
    slots = 0

    def take(tensor: int, wanted: int | None = None) -> None:
        nonlocal slots
        place = wanted if wanted is not None else _best(free, channels[made[tensor]])
        if place is None:
            place, slots = slots, slots + 1
        else:
            free[:] = [entry for entry in free if entry[0] != place]
        slot[tensor] = place

    def give(tensor: int) -> None:
        free.append((slot[tensor], channels[made[tensor]]))

    for tensor in inputs:
        take(number[tensor])
    for at, step in enumerate(steps):
        to = number[step.to.tensor]
        if to not in slot:
            inherited = _dying_add(step, at, number, last, channels, mono, singles)
            if inherited is not None:
                slot[to] = slot[inherited]
            else:
                take(to)
        taken = {slot[to]}
        for tensor in dict.fromkeys(number[view.tensor] for view in (step.source, *step.adds)):
            if last[tensor] == at and slot[tensor] not in taken:
                give(tensor)
    strides = [1 if old in mono else -(-channels[old] // CHANNEL_BLOCK) * CHANNEL_BLOCK for old in made]
    tensors = tuple(Tensor(slot[i], channels[old], strides[i]) for i, old in enumerate(made))
    return tensors, tuple(_renumbered(step, number) for step in steps), number[output]


def _best(free: Sequence[tuple[int, int]], channels: int) -> int | None:
    """The place used last by a tensor as wide, else by any: it is still in the caches."""
    for place, width in reversed(free):
        if width == channels:
            return place
    return free[-1][0] if free else None


def _dying_add(
    step: Step,
    at: int,
    number: dict[int, int],
    last: dict[int, int],
    channels: Sequence[int],
    mono: Collection[int],
    singles: Collection[int],
) -> int | None:
    """A summand that nothing needs afterwards: the sum is made in its place, row by row."""
    for view in step.adds if step.kind in ("convolve", "upsample") else ():
        tensor = number[view.tensor]
        whole = view.channel == 0 and channels[view.tensor] == channels[step.to.tensor] == step.out_channels
        shared = view.tensor == step.source.tensor or sum(v.tensor == view.tensor for v in step.adds) > 1
        alike = (view.tensor in mono) == (step.to.tensor in mono) and view.tensor not in singles
        if last[tensor] == at and whole and not shared and alike:
            return tensor
    return None


def _renumbered(step: Step, number: dict[int, int]) -> Step:
    def view(old: View) -> View:
        return View(number[old.tensor], old.channel)

    return replace(step, source=view(step.source), to=view(step.to), adds=tuple(view(add) for add in step.adds))
