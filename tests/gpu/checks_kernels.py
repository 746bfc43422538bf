"""The fused kernels and the backend on them: parity, shipped code against Triton's, time, bytes, and recordings."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor

import trt_svc
from tests.gpu.common import captured, check, check_each, milliseconds, needs_gpu, refused, speech, truth, wait
from tests.gpu.suite import Figures, Skip
from tests.nets import healthy_short
from trt_svc.backends.torch_cuda import CudaRunner, programs_of
from trt_svc.build_config import BuildConfig, Precision, ShapeRange
from trt_svc.difference import difference
from trt_svc.graph.check import reference_audio
from trt_svc.graph.vocoder import graph_from_vocoder
from trt_svc.kernels import antialiased_snake, available, launch, nsf_source, residual_tail, snake
from trt_svc.noise import Noise
from trt_svc.vocoders.healthy import example_inputs

TYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
LEAST_DB = {"fp32": 105.0, "fp16": 60.0, "bf16": 42.0}
SLOPE = 0.1
FOLDS = ("fold-mean", "fold-snake")


@dataclass(frozen=True)
class Kernel:
    """A kernel, the chain of torch calls that it takes the place of, and how often a sample is read or written."""

    run: Callable[..., Any]
    plain: Callable[..., Any]
    tensors: int
    """Of the signal's shape, that go in; then come a and inverse where it has them."""
    passes: int
    per_channel: bool = False


def _mean(*branches: Tensor) -> Any:
    return residual_tail.mean_leaky(branches, 1 / 3, SLOPE)


def _plain_mean(*branches: Tensor) -> Any:
    return residual_tail.reference_mean_leaky(branches, 1 / 3, SLOPE)[1]


KERNELS = {
    "antialiased-snake": Kernel(antialiased_snake.run, antialiased_snake.reference, 1, 2, True),
    "snake": Kernel(snake.run, snake.reference, 1, 2, True),
    "add-leaky": Kernel(
        lambda x, y: residual_tail.add_leaky(x, y, SLOPE),
        lambda x, y: residual_tail.reference_add_leaky(x, y, SLOPE),
        2,
        4,
    ),
    "mean-leaky": Kernel(_mean, _plain_mean, 3, 4),
}
CASES = [(kernel, precision) for kernel in KERNELS for precision in TYPES]


@contextmanager
def kernels_on(device: str) -> Iterator[None]:
    """Skips where nothing starts them; on the CPU Triton's interpreter does."""
    with mock.patch.dict(os.environ, {} if device.startswith("cuda") else {"TRITON_INTERPRET": "1"}):
        if not available(device):
            raise Skip("nothing starts the fused kernels here")
        yield


def given_for(kernel: Kernel, shape: tuple[int, int, int], dtype: torch.dtype, device: str) -> list[Tensor]:
    """Seeded inputs, the same on every device."""
    random = np.random.default_rng(0)
    signals = [torch.from_numpy(random.normal(0, 1, shape)).to(dtype) for _ in range(kernel.tensors)]
    channels = [random.uniform(0.3, 3, shape[1]) for _ in range(2)] if kernel.per_channel else []
    return [t.to(device) for t in (*signals, *(torch.from_numpy(c).float() for c in channels))]


def shapes_on(device: str) -> Sequence[tuple[int, int, int]]:
    """Odd, short and whole lengths; small where the interpreter runs."""
    if device.startswith("cuda"):
        return ((1, 1, 1), (1, 5, 3), (2, 24, 1000), (3, 64, 20_011), (1, 96, 65_536))
    return ((1, 1, 1), (2, 3, 37), (1, 2, 64))


def as_tuple(made: Any) -> tuple[Tensor, ...]:
    return made if isinstance(made, tuple) else (made,)


@check_each(*CASES)
def kernels_against_float32(note: Figures, device: str, name: str, precision: str) -> None:
    """Each kernel against the plain chain in float32 on the host, over odd lengths; views are right too."""
    kernel = KERNELS[name]
    with kernels_on(device):
        for shape in shapes_on(device):
            given = given_for(kernel, shape, TYPES[precision], device)
            expected = as_tuple(kernel.plain(*[value.cpu().float() for value in given]))
            views = [_strided(value) if value.dim() == 3 else value for value in given]
            for asked in (given, views):
                for mine, theirs in zip(as_tuple(kernel.run(*asked)), expected, strict=True):
                    found = difference(mine.float().cpu().numpy(), theirs.numpy())
                    note["worst SNR dB"] = min(found.snr_db, note.get("worst SNR dB", 1e3))
                    assert found.snr_db >= LEAST_DB[precision], f"{shape}: {found.snr_db:.1f} dB"


def _strided(value: Tensor) -> Tensor:
    """The same numbers, every other one in memory."""
    return value.repeat_interleave(2, dim=2)[:, :, ::2]


@check_each(*CASES)
def shipped_code_equals_tritons(note: Figures, device: str, name: str, precision: str) -> None:
    """The machine code that ships gives what Triton's compiler makes here, bit by bit or nearly."""
    needs_gpu(device)
    kernel = KERNELS[name]
    with kernels_on(device):
        for shape in shapes_on(device):
            given = given_for(kernel, shape, TYPES[precision], device)
            made = {way: as_tuple(_by(way, kernel, given)) for way in ("triton", "shipped")}
            for mine, theirs in zip(made["shipped"], made["triton"], strict=True):
                gap = float((mine.float() - theirs.float()).abs().max())
                note["max difference"] = max(gap, note.get("max difference", 0.0))
                torch.testing.assert_close(mine, theirs)


def _by(way: launch.Way, kernel: Kernel, given: Sequence[Tensor]) -> Any:
    """Started in one way alone; skipped where that does not work."""
    with launch.only(way):
        try:
            return kernel.run(*given)
        except trt_svc.errors.BackendUnavailable as err:
            raise Skip(err.found) from err


@check_each(*CASES)
def time_of_kernels(note: Figures, device: str, name: str, precision: str) -> None:
    """Microseconds and GB/s of a kernel and of the chain of torch calls in its place. Figures only."""
    kernel, dtype = KERNELS[name], TYPES[precision]
    shape = (1, 96, 262_144) if device.startswith("cuda") else (1, 2, 64)
    with kernels_on(device):
        given = given_for(kernel, shape, dtype, device)
        runs = 50 if device.startswith("cuda") else 1
        moved = kernel.passes * given[0].numel() * given[0].element_size()
        for what, run in (("kernel", kernel.run), ("torch", kernel.plain)):
            for _ in range(3 if runs > 1 else 1):
                run(*given)
            seconds = milliseconds(device, partial(run, *given), runs) / 1000
            note[f"{what} us"] = 1e6 * seconds
            note[f"{what} GB/s"] = moved / seconds / 1e9
        note["times as fast"] = note["torch us"] / note["kernel us"]


@check_each("nsf_hifigan", "mini", "rvc_dec")
def sources_made_on_the_device(note: Figures, device: str, name: str) -> None:
    """The source of NSF vocoders by the kernel against the host's, and the time of both."""
    excitation = healthy_short(name).excitation()
    frames = 500 if device.startswith("cuda") else 4
    f0 = np.where(np.arange(2 * frames).reshape(2, frames) % 50 < 45, 220.0, 0.0).astype(np.float32)
    noise = Noise(excitation.fields, (1, 2))
    if not nsf_source.supports(excitation, noise):
        raise Skip("the kernel does not make this one")
    with kernels_on(device):
        made = nsf_source.run(excitation, f0, noise, device)
        gap = float(np.abs(made.cpu().numpy() - nsf_source.reference(excitation, f0, noise).numpy()).max())
        note["max difference"] = gap
        note["kernel ms"] = milliseconds(device, lambda: nsf_source.run(excitation, f0, noise, device), 5)
    note["host ms"] = milliseconds(device, lambda: nsf_source.reference(excitation, f0, noise), 5)
    assert gap <= 1e-5, f"{gap:.3g} apart"


@check_each(("hifigan", "fp32"), ("hifigan", "fp16"), ("bigvgan2", "fp16"), ("sovits_snake", "fp16"))
def programs_on_kernels(note: Figures, device: str, name: str, precision: str) -> None:
    """Whole networks as torch-cuda runs them: kernels, recordings and tuned convolutions give the network's audio."""
    if name != "hifigan":
        needs_gpu(device)  # an interpreter takes minutes for so many snakes
    net, frames = healthy_short(name), (200 if device.startswith("cuda") else 2)
    graph = graph_from_vocoder(net, Precision(precision), FOLDS)
    inputs = example_inputs(net, 1, frames)
    expected = reference_audio(net, inputs)
    with kernels_on(device):
        runner = CudaRunner(programs_of(graph.to_bytes(), device), device, tunes=True)
        placed = {name: value.to(device) for name, value in inputs.items()}
        for call in range(4):  # plain, recorded, replayed twice
            found = difference(runner.run_tensors(placed).cpu().numpy(), expected)
            note["SNR dB"] = min(found.snr_db, note.get("SNR dB", 1e3))
            assert found.snr_db >= (100 if precision == "fp32" else 45), f"call {call}: {found.snr_db:.1f} dB"
        note["captured"], note["refused"] = captured(runner), refused(runner)
        assert captured(runner) == int(device.startswith("cuda")), "the shape was not recorded"


@check
def torch_cuda_of_any_length(note: Figures, device: str) -> None:
    """Many lengths in random order through a session in half precision: the last frames of each are right."""
    needs_gpu(device)
    build = BuildConfig("torch-cuda", frames=(ShapeRange(1, 100, 400),), batch=ShapeRange(1, 1, 2))
    vocoder = trt_svc.load_vocoder("demo", build=build, device=device, on_failure="raise")
    least = 1e3
    for frames in np.random.default_rng(0).permutation(np.repeat([1, 7, 33, 100, 101, 256, 400], 4)):
        given = speech(1, int(frames), seed=int(frames))
        made, expected = np.asarray(vocoder(**given)), truth(given)
        last = slice(-vocoder.voice.spec.hop, None)
        for part in (slice(None), last):
            least = min(least, difference(made[..., part], expected[..., part]).snr_db)
    note["worst SNR dB"] = least
    wait(device)
    assert least >= 40, f"{least:.1f} dB"
