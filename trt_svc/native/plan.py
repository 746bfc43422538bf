"""A network as the native kernels run it: steps over tensors of rows x channels, and how that is kept in files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from fractions import Fraction
from typing import Any

import safetensors.numpy
from safetensors import SafetensorError

from trt_svc.errors import EngineError, shown
from trt_svc.native.toom_cook import FORMS, Form
from trt_svc.types import Array

PLAN, WEIGHTS = "plan.json", "weights.safetensors"
CHANNEL_BLOCK = 16
NOTHING = -1
"""In the place of a tensor: there is none."""

KINDS = ("convolve", "upsample", "snake", "pointwise", "fold", "unfold")
POSTS = ("", "tanh", "clip", "sigmoid", "exp", "leaky")
JOINTS = ("", "add", "subtract", "multiply", "divide", "gate")


@dataclass(frozen=True)
class View:
    """Some neighbouring channels of a tensor."""

    tensor: int
    channel: int = 0


NO_VIEW = View(NOTHING)


@dataclass(frozen=True)
class Step:
    """One pass over time. `source` goes through a leaky ReLU of `slope` first (convolutions; 1: none)."""

    kind: str
    source: View
    to: View
    in_channels: int
    out_channels: int
    adds: tuple[View, ...] = ()
    """Added to a convolution's output; the second operand of a pointwise step."""
    kernel: int = 1
    dilation: int = 1
    stride: int = 1
    pad: int = 0
    crop: int = 0
    """Rows left out at the end."""
    slope: float = 1.0
    scale: float = 1.0
    post: str = ""
    joint: str = ""
    weight: str = ""
    bias: str = ""
    extra: str = ""
    layer: str = ""
    """The module that it comes from."""
    form: Form | None = None
    """The Toom-Cook form; None: direct."""

    @property
    def taps(self) -> int:
        """Taps that meet one row of the input."""
        return -(-self.kernel // self.stride) if self.kind == "upsample" else self.kernel

    def rows(self, rows: int) -> int:
        """Rows that it makes of so many."""
        if self.kind == "convolve":
            return (rows + 2 * self.pad - self.dilation * (self.kernel - 1) - 1) // self.stride + 1 - self.crop
        if self.kind == "upsample":
            return (rows - 1) * self.stride - 2 * self.pad + self.kernel - self.crop
        return {"fold": rows // self.kernel, "unfold": rows * self.in_channels}.get(self.kind, rows)

    @property
    def multiplies(self) -> int:
        """Products per row of the input of an upsampler, per row of the output elsewhere, done directly."""
        convolves = self.kind in ("convolve", "upsample")
        return self.in_channels * self.out_channels * self.kernel if convolves else 0


@dataclass(frozen=True)
class Tensor:
    """A place in memory (shared by tensors that are not needed at once) and the channels in it."""

    slot: int
    channels: int
    stride: int
    """Numbers from row to row: whole blocks of channels, or 1 for audio."""


@dataclass(frozen=True)
class Plan:
    """All steps in order, with the weights they name."""

    tensors: tuple[Tensor, ...]
    steps: tuple[Step, ...]
    inputs: tuple[tuple[str, int], ...]
    """Names and tensors."""
    output: int
    squeezed: bool
    """Is the output (batch, samples) rather than (batch, channels, length)?"""
    weights: Mapping[str, Array] = field(repr=False)
    per_frame: Mapping[str, Fraction]
    """Positions of an input for every mel frame; 0: one at any length."""

    @property
    def slots(self) -> int:
        return 1 + max(tensor.slot for tensor in self.tensors)

    def share_of_products(self, frames: int = 100) -> float:
        """Multiplications of its convolutions, as a share of what they would be done directly."""
        rows = {number: max(1, int(frames * self.per_frame[name])) for name, number in self.inputs}
        direct = done = 0.0
        for step in self.steps:
            # One row for all, as a speaker's, takes on those of the signal that it joins.
            joined = [rows[view.tensor] for view in step.adds] if step.kind == "pointwise" else []
            rows[step.to.tensor] = max([step.rows(rows[step.source.tensor]), *joined])
            products = step.multiplies * rows[step.source.tensor if step.kind == "upsample" else step.to.tensor]
            direct += products
            done += products * (step.form.share(step.taps) if step.form else 1.0)
        return done / direct if direct else 1.0

    def with_forms(self, forms: tuple[Form | None, ...]) -> Plan:
        """The same plan with these forms, one for each step."""
        return replace(self, steps=tuple(replace(s, form=f) for s, f in zip(self.steps, forms, strict=True)))

    def files(self) -> dict[str, bytes]:
        """As an engine keeps it."""
        described = {
            "tensors": [asdict(tensor) for tensor in self.tensors],
            "steps": [_described(step) for step in self.steps],
            "inputs": self.inputs,
            "output": self.output,
            "squeezed": self.squeezed,
            "per_frame": {name: str(rate) for name, rate in self.per_frame.items()},
        }
        return {
            PLAN: json.dumps(described).encode(),
            WEIGHTS: safetensors.numpy.save(dict(self.weights)),
        }


def _described(step: Step) -> dict[str, Any]:
    plain = {name: value for name, value in asdict(step).items() if value != getattr(_PLAIN, name)}
    return plain | {"form": step.form.name if step.form else ""}


_PLAIN = Step("", NO_VIEW, NO_VIEW, 0, 0)


def plan_from(files: Mapping[str, bytes]) -> Plan:
    """The plan in an engine's files; EngineError where they cannot be read."""
    try:
        found = json.loads(files[PLAN])
        return Plan(
            tuple(Tensor(**tensor) for tensor in found["tensors"]),
            tuple(_step(step) for step in found["steps"]),
            tuple((name, number) for name, number in found["inputs"]),
            found["output"],
            found["squeezed"],
            safetensors.numpy.load(files[WEIGHTS]),
            {name: Fraction(rate) for name, rate in found["per_frame"].items()},
        )
    except (
        SafetensorError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        ArithmeticError,
        RecursionError,
    ) as err:
        raise unfit(shown(f"{type(err).__name__}: {err}")) from err


def unfit(found: str) -> EngineError:
    """The error for a plan that cannot be used."""
    return EngineError("opening a native engine", f"its plan is damaged ({found}).", "Build the engine again.")


def _step(found: Mapping[str, Any]) -> Step:
    views = {"source": View(**found["source"]), "to": View(**found["to"])}
    adds = tuple(View(**view) for view in found.get("adds", ()))
    form = _FORMS_BY_NAME[found["form"]] if found["form"] else None
    return Step(**{**found, **views, "adds": adds, "form": form})


_FORMS_BY_NAME = {form.name: form for form in FORMS}
