"""Vocoders inside other people's programs: on the GPU, in half precision, moved away and back, in a CUDA graph."""

from __future__ import annotations

import gc

import torch
from torch import Tensor

import trt_svc
from tests.gpu.common import MIB, check, check_each, needs_gpu, wait
from tests.gpu.suite import Figures
from tests.hosts.generators import KINDS, call, generator, played, snr_db

SAME_DB, HALF_DB = 90.0, 30.0
FRAMES = 60


def on(device: str, kind: str) -> dict[str, Tensor]:
    return {name: value.to(device) for name, value in call(kind, FRAMES).items()}


@check_each(*KINDS)
def a_host_before_and_after(note: Figures, device: str, kind: str) -> None:
    """The host's own forward, the engine on the same draws, the host in half precision, and the host again."""
    module, given = generator(kind).to(device), on(device, kind)
    own = played(module, given)
    with trt_svc.accelerate(module, "torch") as handle:
        for _ in range(2):
            made = played(module, given)
        (swap,) = handle.swaps
        assert swap.by_engine == 1, f"the host answered: {handle.report()}"
        note["float32 dB"] = snr_db(made.cpu(), own.cpu())
        assert note["float32 dB"] >= SAME_DB
        assert made.device == own.device
        note["speedup"] = handle.race(5)[swap.label].speedup
        module.half()
        halved = {name: value.half() if name != "f0" else value for name, value in given.items()}
        made = played(module, halved)
        note["half dB"] = snr_db(made.float().cpu(), own.cpu())
        assert made.dtype == torch.float16 and note["half dB"] >= HALF_DB
    module.float()
    module.load_state_dict(generator(kind).state_dict())
    assert torch.equal(played(module, given), own), "restore did not bring the host's own sound back"


@check
def a_host_that_is_unloaded_and_loaded(note: Figures, device: str) -> None:
    """`.cpu()` and back: an engine there, and one here again, each with the right sound."""
    module, given = generator("nsf").to(device), call("nsf", FRAMES)
    own = played(generator("nsf"), given)
    with trt_svc.accelerate(module, "torch"):
        for where in (device, "cpu", device):
            module.to(where)
            for _ in range(2):
                torch.manual_seed(1)
                made = played(module, {name: value.to(where) for name, value in given.items()})
            if where == "cpu":  # a GPU draws other numbers
                note["on the CPU dB"] = snr_db(made, own)
                assert note["on the CPU dB"] >= SAME_DB
            assert made.device.type == torch.device(where).type


@check
def a_host_that_captures_a_cuda_graph(note: Figures, device: str) -> None:
    """While it captures, its own forward runs; replays are right, and calls outside of them are the engine's."""
    needs_gpu(device)
    module, given = generator("hifigan").to(device), on(device, "hifigan")
    own = played(module, given)
    with trt_svc.accelerate(module, "torch") as handle, torch.no_grad():
        side = torch.cuda.Stream(device)
        side.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(side):
            for _ in range(3):
                module(**given)
        wait(device)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            made = module(**given)
        graph.replay()
        wait(device)
        note["replayed dB"] = snr_db(made.cpu(), own.cpu())
        assert note["replayed dB"] >= SAME_DB
        (swap,) = handle.swaps
        assert swap.by_host["a CUDA graph is being captured"] == 1, dict(swap.by_host)
        before = swap.by_engine
        note["a call behind it dB"] = snr_db(module(**given).cpu(), own.cpu())
        assert note["a call behind it dB"] >= SAME_DB and swap.by_engine == before + 1


@check
def a_host_that_lets_go_gets_its_memory_back(note: Figures, device: str) -> None:
    """Voices loaded one after the other do not pile up."""
    needs_gpu(device)

    def one(seed: int) -> None:
        module = generator("hifigan", seed).to(device)
        handle = trt_svc.accelerate(module, "torch")
        for _ in range(3):
            played(module, on(device, "hifigan"))
        assert handle.swaps[0].by_engine == 2

    one(0)
    gc.collect()
    wait(device)
    before = torch.cuda.memory_allocated(device)
    for seed in range(4):
        one(seed)
    gc.collect()
    wait(device)
    note["growth MiB"] = (torch.cuda.memory_allocated(device) - before) / MIB
    assert note["growth MiB"] < 4
