"""CUDA graphs: recorded runs give what plain ones give, and their number and memory are bounded."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch

from tests.gpu.common import (
    MIB,
    captured,
    check,
    check_each,
    demo,
    graph_messages,
    healthy,
    milliseconds,
    moved,
    near,
    needs_gpu,
    reference,
    refused,
    runner_of,
    speech,
    truth,
    wait,
    without_graphs,
)
from tests.gpu.suite import Figures
from trt_svc.backends.cuda_graphs import MAX_GRAPHS
from trt_svc.vocoders.healthy import example_inputs


@check_each("16", "100", "500")
def recorded_runs_equal_plain_ones(note: Figures, device: str, frames: str) -> None:
    """One shape many times with changing values, with and without recordings, NumPy and tensors."""
    recording, plain = demo(device), without_graphs(demo(device))
    with graph_messages() as said:
        for seed in range(12):
            given = speech(1, int(frames), seed)
            tensors = moved(given, device)
            expected = plain(**tensors, seed=seed)
            near(note, "tensors", recording(**tensors, seed=seed), expected)
            near(note, "arrays", recording(**given, seed=seed), expected)
    near(note, "cpu", expected, truth(given, seed))
    runner = runner_of(recording)
    note["captured"], note["refused"] = captured(runner), refused(runner)
    assert not said, f"{len(said)} times not recorded, first: {said[0]}"
    assert captured(runner) == (1 if device.startswith("cuda") else 0), f"{captured(runner)} recordings of one shape"
    assert captured(runner_of(plain)) == 0, "recordings were switched off"


@check
def recordings_of_many_shapes_are_bounded(note: Figures, device: str) -> None:
    """Thirty shapes in random order, three times over: few recordings, no growing memory, every run right."""
    vocoder, rng = demo(device), np.random.default_rng(0)
    runner = runner_of(vocoder)
    clips = {frames: speech(1, frames, seed=frames) for frames in range(10, 160, 5)}
    expected = {frames: truth(clip) for frames, clip in clips.items()}
    reserved, most = [], 0
    with graph_messages() as said:
        for _ in range(3):
            for frames in rng.permutation(np.repeat(list(clips), 3)):
                near(note, "max difference", vocoder(**clips[int(frames)]), expected[int(frames)])
                most = max(most, captured(runner))
            wait(device)
            reserved.append(torch.cuda.memory_reserved(device) / MIB if device.startswith("cuda") else 0.0)
    note["most recordings"], note["refused"] = most, refused(runner)
    note["reserved MiB"], note["reserved MiB later"] = reserved[0], reserved[-1]
    assert most <= MAX_GRAPHS, f"{most} recordings are kept, {MAX_GRAPHS} allowed"
    assert not said, f"{len(said)} times not recorded, first: {said[0]}"
    assert reserved[-1] <= 1.25 * reserved[0] + 64, f"reserved memory grew: {[round(r) for r in reserved]} MiB"
    healthy(vocoder)


@check
def time_per_call(note: Figures, device: str) -> None:
    """Milliseconds of a whole call and of the network alone, with recordings and without. Figures only."""
    sessions = {"recorded": demo(device), "plain": without_graphs(demo(device))}
    net = reference().checkpoint.net
    runs = 20 if device.startswith("cuda") else 2
    for frames in (25, 100, 500):
        tensors = moved(speech(1, frames), device)
        inputs = {name: value.to(device) for name, value in example_inputs(net, 1, frames).items()}
        for name, session in sessions.items():
            call, alone = partial(session, **tensors), partial(runner_of(session).run_tensors, inputs)
            for what, run in (("call", call), ("network", alone)):
                for _ in range(3):
                    run()
                note[f"{frames} frames {name} {what} ms"] = milliseconds(device, run, runs)


@check
def a_callers_own_graph_may_hold_the_network(note: Figures, device: str) -> None:
    """The runner's tensors are recorded by the caller; replays with other values are right."""
    needs_gpu(device)
    vocoder = demo(device)
    runner = runner_of(vocoder)
    net = reference().checkpoint.net
    given = [example_inputs(net, 1, 64, seed) for seed in range(3)]
    fixed = {name: value.to(device) for name, value in given[0].items()}
    side = torch.cuda.Stream(device)
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side):
        for _ in range(3):
            runner.run_tensors(fixed)
    wait(device)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        made = runner.run_tensors(fixed)
    for inputs in given:
        for name, value in inputs.items():
            fixed[name].copy_(value)
        graph.replay()
        wait(device)
        with torch.inference_mode():
            expected = net(*[inputs[spec.name] for spec in net.core_inputs()])
        near(note, "max difference", made, expected)
    near(note, "a call behind it", vocoder(**moved(speech(1, 64), device)), truth(speech(1, 64)))
