"""Engines of every GPU backend that is found: built, opened, compared with the CPU, and used as sessions are."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch

import trt_svc
from tests.gpu.checks_streams import random_sizes, streamed
from tests.gpu.checks_threads import in_threads
from tests.gpu.common import check_each, healthy, milliseconds, moved, near, reference, speech, truth
from tests.gpu.suite import Figures, Skip
from trt_svc.audio import mono, read_audio
from trt_svc.backends.base import backends
from trt_svc.build_config import BuildConfig, Precision, ShapeRange
from trt_svc.checkpoints.locate import DEMO_FOLDER
from trt_svc.difference import difference
from trt_svc.hardware import first_gpu

ENGINE_NEAR = 2e-3
LEAST_DB = {"fp32": 90.0, "fp16": 45.0}
FRAMES = ShapeRange(1, 250, 600)
RTX_GENERATIONS = ("sm75", "sm86", "sm89", "sm120", "sm121")
EXTRAS = ("strip_weights", "hardware_compatible", "version_compatible")
GPU_BACKENDS = tuple(name for name, kind in backends if kind.needs_gpu)
VARIANTS = [(name, precision) for name in GPU_BACKENDS for precision in ("fp32", "fp16")] + [
    (name, extra) for name, kind in backends if kind.needs_gpu for extra in EXTRAS if extra in kind.options
]


def settings(backend: str, variant: str, device: str) -> BuildConfig:
    """What to build; skips what is not here."""
    probe = backends.get(backend)().probe()
    if not (probe.builds and probe.runs) or not device.startswith("cuda"):
        raise Skip(probe.found)
    gpu = first_gpu()
    targets: tuple[str, ...] = ()
    if backend == "tensorrt-rtx":
        if gpu is None or gpu.capability not in RTX_GENERATIONS:
            raise Skip(f"TensorRT-RTX has no kernels for {gpu.capability if gpu else 'this GPU'}")
        targets = (gpu.capability,)
    precision = Precision(variant if variant in LEAST_DB else "fp16")
    extra = {variant: True} if variant in EXTRAS else {}
    return BuildConfig(
        backend, precision=precision, frames=(FRAMES,), batch=ShapeRange(1, 1, 2), targets=targets, **extra
    )


def opened(backend: str, variant: str, device: str, **options: Any) -> trt_svc.Vocoder:
    """A session on an engine of the demo voice; engines are built once per run."""
    build = settings(backend, variant, device)
    vocoder = trt_svc.load_vocoder("demo", build=build, device=device, on_failure="raise", **options)
    assert vocoder.backend == backend, f"it runs on {vocoder.backend}"
    return vocoder


@cache
def sung(frames: int = 300) -> dict[str, np.ndarray]:
    """The loud part of a recording, with a plain pitch."""
    audio, rate = read_audio(DEMO_FOLDER / "sung.flac")
    mel = np.asarray(reference().mel(mono(audio), rate))
    frames = min(frames, mel.shape[2])
    level = np.convolve(mel[0].mean(axis=0), np.ones(frames), mode="valid")
    start = int(np.argmax(level))
    voiced = np.arange(frames) % 50 < 45
    f0 = np.where(voiced, 220.0, 0.0)[None].astype(np.float32)
    return {"mel": np.ascontiguousarray(mel[:, :, start : start + frames]), "f0": f0}


@check_each(*VARIANTS)
def engines_near_torch(note: Figures, device: str, backend: str, variant: str) -> None:
    """A recording through an engine: its distance from torch on the CPU in dB."""
    vocoder = opened(backend, variant, device)
    given = sung()
    found = difference(np.asarray(vocoder(**given)), truth(given))
    note["SNR dB"], note["max difference"] = found.snr_db, found.max
    least = LEAST_DB[vocoder.precision]
    assert found.snr_db >= least, f"{found.snr_db:.1f} dB, at least {least:g} were expected"
    healthy(vocoder)


@check_each(*GPU_BACKENDS)
def engines_as_sessions(note: Figures, device: str, backend: str) -> None:
    """One shape many times, many shapes, batches beyond the profile, tensors, streams and threads on an engine."""
    vocoder = opened(backend, "fp32", device, contexts=2)
    short = speech(1, 64)
    expected = truth(short)
    for _ in range(6):
        near(note, "one shape", vocoder(**short), expected, ENGINE_NEAR)
        made = vocoder(**moved(short, device))
        assert made.device.type == torch.device(device).type, f"tensors came back on {made.device}"
        near(note, "one shape, tensors", made, expected, ENGINE_NEAR)
    for batch, frames in ((1, 1), (2, 33), (3, 100), (1, 1500)):
        given = speech(batch, frames)
        near(note, "many shapes", vocoder(**given), truth(given), ENGINE_NEAR)
    long = speech(1, 170)
    near(note, "stream", streamed(vocoder, long, random_sizes(np.random.default_rng(0)), 0), truth(long), ENGINE_NEAR)
    in_threads(_calls(note, vocoder, device), 4)
    note["64 frames ms"] = milliseconds(device, lambda: vocoder(**short))
    note["64 frames, tensors ms"] = milliseconds(device, lambda: vocoder(**moved(short, device)))
    healthy(vocoder)


def _calls(note: Figures, vocoder: trt_svc.Vocoder, device: str) -> Callable[[int], None]:
    clips = [speech(1, frames, seed=frames) for frames in (5, 40, 64, 100)]
    expected = [truth(clip) for clip in clips]

    def work(number: int) -> None:
        for call in range(8):
            given = clips[(number + call) % 4]
            made = vocoder(**(moved(given, device) if call % 2 else given))
            near(note, "threads", made, expected[(number + call) % 4], ENGINE_NEAR)

    return work
