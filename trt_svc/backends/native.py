"""Our own kernels on CPUs: fewer multiplications than a convolution seems to need, activations fused around them.

`mixed` allows forms with still fewer products, which round a little more; everything is computed in float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from trt_svc.backends.base import Backend, Built, Probe, Runner, backends
from trt_svc.build_config import BuildConfig, Precision
from trt_svc.errors import BackendUnavailable, BuildCancelled
from trt_svc.graph.model import Graph
from trt_svc.hardware import cpu_threads
from trt_svc.native import forms
from trt_svc.native.library import Contexts, Network, isa, kernels_sha256, library
from trt_svc.native.plan import plan_from
from trt_svc.native.toom_cook import FORMS
from trt_svc.progress import Progress
from trt_svc.request import processor_mark
from trt_svc.types import Array

MAX_IDLE = 4
"""Contexts, each with the memory of a run, that wait for their next use."""
MOST_FRAMES_TUNED = 100
MOST_POINTS = {"fp32": forms.POINTS_OF_FLOAT32, "mixed": max(form.points for form in FORMS)}
SPARE_DB = 7.0
"""What the forms may cost is measured on noise: so much better there than the gate asks for."""


class NativeRunner:
    def __init__(self, network: Network) -> None:
        self._contexts = Contexts(network, cpu_threads(), MAX_IDLE)
        self.share_of_products = network.plan.share_of_products()
        """Of those that its convolutions would need done directly."""

    def run(self, inputs: Mapping[str, Array]) -> Array:
        return self._contexts.run(inputs)

    def sibling(self) -> Runner:
        """This one: it has a context for each call that runs at a time."""
        return self


@backends.register("native")
class Native(Backend):
    name = "native"
    precisions = ("fp32", "mixed")
    computes = ("fp32", "mixed")
    folds = ("fold-mean", "fold-snake", "two-phase-conv")
    competing_rewrites = ((),)
    takes_plain = False
    gate_shapes_engines = True
    stand_in = "onnxruntime"

    def probe(self) -> Probe:
        try:
            library()
        except BackendUnavailable as err:
            return Probe(False, False, err.found.rstrip("."), err.advice)
        return Probe(True, True, f"kernels for {isa()}, {cpu_threads()} threads")

    def graph_precision(self, config: BuildConfig) -> Precision:
        return Precision()

    def identity(self, config: BuildConfig) -> dict[str, str]:
        rounding = f"{config.min_snr_db + SPARE_DB:g}"
        return {"kernels": kernels_sha256(), "isa": isa(), "cpu": processor_mark(), "rounding": rounding}

    def build(self, graph: Graph, config: BuildConfig, progress: Progress) -> Built:
        from trt_svc.native.lowering import lowered  # brings torch and onnx, which stored engines do without

        profile, most_points = config.profiles[0], MOST_POINTS[config.precision.name]
        frames = max(profile.frames.min, min(profile.frames.opt, MOST_FRAMES_TUNED))
        stopped = partial(_stop_if_cancelled, progress)
        least_db = config.min_snr_db + SPARE_DB
        plan = forms.measured(lowered(graph), frames, cpu_threads(), most_points, least_db, stopped)
        chosen = {step.layer: step.form.name if step.form else "direct" for step in plan.steps if step.weight}
        return Built(plan.files(), {"forms": chosen})

    def open(self, files: Mapping[str, bytes], device: str) -> Runner:
        return NativeRunner(Network(plan_from(files), cpu_threads()))


def _stop_if_cancelled(progress: Progress) -> None:
    if progress.cancelled:
        raise BuildCancelled("building an engine", "it was stopped.", "Nothing was stored.")
