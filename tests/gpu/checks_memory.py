"""Memory: limits are kept, too little of it makes runs smaller, and it comes back."""

from __future__ import annotations

import gc
import time
import weakref
from functools import partial

import numpy as np
import torch

from tests.gpu.common import (
    MIB,
    allocated,
    check,
    check_each,
    demo,
    healthy,
    moved,
    near,
    needs_gpu,
    number_of,
    peak_of,
    runner_of,
    speech,
    wait,
)
from tests.gpu.suite import Figures
from trt_svc.build_config import parse_bytes

LONG_S = 300.0
SMALL_SHARE = 0.4
"""Of the memory that a run takes, what is left to it on a GPU that is too small."""


@check_each("2GiB", "256MiB")
def memory_limit_is_kept(note: Figures, device: str, limit: str) -> None:
    """A long call of a batch: the most that it holds stays below the limit, and the audio is the same."""
    frames, batch = (2000, 12) if device.startswith("cuda") else (400, 2)
    given = speech(batch, frames)
    free, limited = demo(device), demo(device, memory_limit=limit)
    weights = 4 * free.checkpoint.parameters
    made, peak = peak_of(device, lambda: limited(**given))
    expected, free_peak = peak_of(device, lambda: free(**given))
    note["peak MiB"], note["without a limit MiB"], note["weights MiB"] = peak / MIB, free_peak / MIB, weights / MIB
    near(note, "max difference", made, expected)
    assert peak <= parse_bytes(limit) + weights, f"{peak / MIB:.0f} MiB were held at once, {limit} allowed"
    healthy(limited)


@check
def a_small_gpu_makes_runs_smaller(note: Figures, device: str) -> None:
    """The process may take less than half of what the run needs: the call succeeds in pieces and is right."""
    needs_gpu(device)
    frames = 20_000
    given = speech(1, frames)
    expected, peak = peak_of(device, partial(demo(device, chunk_frames=frames), **given))
    tight = demo(device, chunk_frames=frames)
    gc.collect()
    torch.cuda.empty_cache()
    allowed = torch.cuda.memory_reserved(device) + int(SMALL_SHARE * peak)
    note["needed MiB"], note["allowed MiB"] = peak / MIB, allowed / MIB
    total, number = torch.cuda.get_device_properties(device).total_memory, number_of(device)
    torch.cuda.set_per_process_memory_fraction(allowed / total, number)
    try:
        made = tight(**given)
        again = tight(**given)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, number)
        note["memory faults"] = tight.health.counts.get("memory", 0)
    near(note, "max difference", made, expected)
    near(note, "max difference", again, expected)
    assert note["memory faults"] >= 1, "the memory was not too small"
    assert set(tight.health.counts) == {"memory"}, f"{tight.health.counts}"


@check
def a_dropped_session_gives_its_memory_back(note: Figures, device: str) -> None:
    """Weights, recordings and threads go with the last reference."""
    vocoder = demo(device, contexts=2)
    for frames in (20, 20, 20, 30, 30, 30):
        vocoder(**moved(speech(1, frames), device))
    wait(device)
    before, runner = allocated(device), weakref.ref(runner_of(vocoder))
    del vocoder
    ends = time.monotonic() + 10
    while runner() is not None and time.monotonic() < ends:
        gc.collect()
        time.sleep(0.05)
    assert runner() is None, "something still holds the network"
    note["MiB before"], note["MiB after"] = before / MIB, allocated(device) / MIB
    assert not device.startswith("cuda") or allocated(device) < before, "no memory came back"


@check
def five_minutes_in_one_call(note: Figures, device: str) -> None:
    """The same audio whatever the chunks, and no more memory than a minute takes but for the audio itself."""
    seconds = LONG_S if device.startswith("cuda") else 10.0
    vocoder = demo(device)
    rate, hop = vocoder.spec.sample_rate, vocoder.spec.hop
    frames = int(seconds * rate / hop)
    given = speech(1, frames)
    minute = {name: value[..., : frames // 5] for name, value in given.items()}
    vocoder(**{name: value[..., :100] for name, value in given.items()})
    _, short_peak = peak_of(device, lambda: vocoder(**minute))
    started = time.perf_counter()
    whole, peak = peak_of(device, lambda: vocoder(**given))
    took = time.perf_counter() - started
    note["audio s"], note["seconds"], note["times real time"] = seconds, took, seconds / took
    note["peak MiB"], note["peak MiB of a fifth"] = peak / MIB, short_peak / MIB
    assert np.isfinite(whole).all(), "NaN or infinite samples"
    audio_bytes = 4 * frames * hop
    assert peak <= short_peak + 4 * audio_bytes, f"{peak / MIB:.0f} MiB, {short_peak / MIB:.0f} MiB for a fifth"
    for size in (500, 1999):
        near(note, f"chunks of {size}", demo(device, chunk_frames=size)(**given), whole)
    near(note, "tensors", vocoder(**moved(given, device)), whole)
    healthy(vocoder)
