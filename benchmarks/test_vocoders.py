"""Contenders under pytest-benchmark: the entrants, inputs and quality of `trt-svc bench`, but one after another.

pytest benchmarks --benchmark-only [--benchmark-json FILE]; compare runs with pytest-benchmark compare. Groups are
cells (network, frames); quality against torch float32 is in `extra_info`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest
import torch

from trt_svc.bench.contenders.base import UPSTREAM, contenders
from trt_svc.bench.cost import cost_of
from trt_svc.bench.entries import track_for
from trt_svc.bench.peaks import finish
from trt_svc.bench.race import Entrant
from trt_svc.bench.recipe import GATES_DB
from trt_svc.bench.subjects import Subject, opened_subject
from trt_svc.difference import difference
from trt_svc.graph.check import reference_audio

CELLS = [("demo", 86), ("demo", 500), ("hifigan_v1", 86), ("nsf_hifigan_44k", 86)]
CONTENDERS = [UPSTREAM, "onnxruntime", "openvino", "torch-cuda-graphs", "tensorrt", "tensorrt-rtx"]
ROUNDS, WARM_UPS = 10, 2
DEVICE = "cuda:0" if torch.cuda.is_available() else "cpu"


class Garage:
    """Opened networks and contenders, one network at a time: they are large."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._network = ""
        self._entrants: dict[str, Entrant] = {}

    def subject(self, network: str) -> Subject:
        if network != self._network:
            self.close()
            self._network = network
            self._subject = self._stack.enter_context(opened_subject(network))
        return self._subject

    def entrant(self, network: str, name: str) -> Entrant:
        subject = self.subject(network)
        if name not in self._entrants:
            frames = [frames for cell, frames in CELLS if cell == network]
            track = track_for(subject, frames, [1], DEVICE)
            forms = contenders.get(name).forms(subject, ["usual"])[0]
            self._entrants[name] = contenders.get(name).open(subject, track, "fp32", forms).entrant
        return self._entrants[name]

    def close(self) -> None:
        self._entrants.clear()
        self._stack.close()
        self._stack = ExitStack()


@pytest.fixture(scope="module")
def garage() -> Iterator[Garage]:
    kept = Garage()
    yield kept
    kept.close()


@pytest.mark.parametrize(("network", "frames"), CELLS)
@pytest.mark.parametrize("name", CONTENDERS)
def test_vocoder(benchmark: Any, garage: Garage, network: str, frames: int, name: str) -> None:
    reason = contenders.get(name).why_not(DEVICE, "fp32")
    if reason:
        pytest.skip(reason)
    subject, entrant = garage.subject(network), garage.entrant(network, name)
    inputs = subject.inputs(1, frames)

    def call(placed: Any) -> Any:
        made = entrant.run(placed)
        finish(entrant.device)
        return made

    benchmark.group = f"{network} {frames} frames"
    benchmark.pedantic(
        call, setup=lambda: ((entrant.placed(inputs.draw()),), {}), rounds=ROUNDS, warmup_rounds=WARM_UPS
    )
    given = inputs.draw()
    reference = reference_audio(subject.net, {key: torch.from_numpy(value) for key, value in given.items()})
    found = difference(entrant.audio(entrant.run(entrant.placed(given))), reference)
    median_s, audio_s = benchmark.stats.stats.median, reference.shape[1] / subject.net.spec.sample_rate
    gflop = cost_of(subject.net, 1, frames).gflop
    benchmark.extra_info.update(
        network=network,
        frames=frames,
        contender=name,
        mse=found.mse,
        mae=found.mae,
        max=found.max,
        snr_db=found.snr_db if np.isfinite(found.snr_db) else None,
        similarity=1 - found.mae,
        inferences_per_s=1 / median_s,
        rtf=median_s / audio_s,
        gflops=gflop / median_s,
        threads=torch.get_num_threads(),
        weights_sha256=subject.weights_sha256,
    )
    assert found.snr_db >= GATES_DB["fp32"]
