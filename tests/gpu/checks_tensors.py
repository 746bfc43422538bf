"""Tensors are worked on where they are, in the order of the caller's stream."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tests.gpu.common import (
    MIB,
    allocated,
    check,
    check_each,
    demo,
    folder,
    healthy,
    keep_busy,
    moved,
    near,
    needs_gpu,
    runner_of,
    speech,
    stream_of,
    truth,
    wait,
)
from tests.gpu.suite import Figures, Skip

BUSY_S = 3.0


@check
def a_mel_on_the_device_is_read_in_place(note: Figures, device: str) -> None:
    """The network gets the caller's own memory, and the audio is on the same device."""
    vocoder = demo(device)
    given = speech(1, 200)
    tensors = moved(given, device)
    if not vocoder._keeps(tensors["mel"]):
        needs_gpu(device)
    runner, seen = runner_of(vocoder), []
    run_tensors = runner.run_tensors

    def spy(inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        seen.append((inputs["mel"].data_ptr(), inputs["mel"].device))
        return run_tensors(inputs)

    runner.run_tensors = spy
    made = vocoder(**tensors)
    assert isinstance(made, torch.Tensor) and made.device == tensors["mel"].device, f"{type(made)}"
    assert seen, "the tensors went through the host"
    note["runs"] = len(seen)
    assert seen == [(tensors["mel"].data_ptr(), made.device)], "the network was given a copy"
    near(note, "max difference", made, truth(given))


@check
def no_mel_is_copied_to_the_host(note: Figures, device: str) -> None:
    """torch's profiler sees no transfer from the GPU that could be a mel or audio; only single numbers."""
    needs_gpu(device)
    vocoder = demo(device)
    tensors = moved(speech(1, 1000), device)
    for _ in range(3):
        vocoder(**{**tensors, "f0": tensors["f0"].cpu()})
    given = {**tensors, "f0": tensors["f0"].cpu()}
    with folder() as there:
        activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
        with torch.profiler.profile(activities=activities) as profile:
            vocoder(**given)
            wait(device)
        profile.export_chrome_trace(str(there / "trace.json"))
        copies = transfers(there / "trace.json")
    if not copies:
        raise Skip("the profiler sees nothing of the GPU here")
    down = [size for kind, size in copies if "DtoH" in kind]
    note["copies to the host"], note["largest, bytes"] = len(down), max(down, default=0)
    note["bytes up"] = sum(size for kind, size in copies if "HtoD" in kind)
    assert max(down, default=0) < 4096, f"{max(down)} bytes came back at once"


def transfers(trace: Path) -> list[tuple[str, int]]:
    """(kind, bytes) of every copy and kernel of a GPU in a trace; kernels have no bytes."""
    events = json.loads(trace.read_text("utf-8"))["traceEvents"]
    found = [event for event in events if str(event.get("cat", "")) in ("gpu_memcpy", "kernel")]
    return [(str(event["name"]), int(event.get("args", {}).get("bytes", 0))) for event in found]


def _expanded(mel: torch.Tensor) -> torch.Tensor:
    return mel[:1].expand(2, -1, -1)


KINDS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "float16": torch.Tensor.half,
    "bfloat16": torch.Tensor.bfloat16,
    "float64": torch.Tensor.double,
    "transposed": lambda mel: mel.transpose(1, 2).contiguous().transpose(1, 2),
    "every-other-frame": lambda mel: mel.repeat_interleave(2, dim=2)[:, :, ::2],
    "part-of-a-larger-one": lambda mel: torch.nn.functional.pad(mel, (3, 5), value=-9.0)[:, :, 3:-5],
    "expanded": _expanded,
    "autograd": lambda mel: mel.clone().requires_grad_(True),
    "inference-mode": lambda mel: _in_inference_mode(mel),
    "on-the-host": torch.Tensor.cpu,
}


@torch.inference_mode()
def _in_inference_mode(mel: torch.Tensor) -> torch.Tensor:
    return mel.clone()


@check_each(*KINDS)
def mels_of_every_kind(note: Figures, device: str, kind: str) -> None:
    """Types, layouts and places: float32 audio without gradients, where the mel is."""
    vocoder = demo(device)
    given = speech(2, 60)
    mel = KINDS[kind](torch.from_numpy(given["mel"]).to(device))
    f0 = torch.from_numpy(given["f0"]).to(device).requires_grad_(kind == "autograd")
    expected = truth({"mel": mel.detach().float().cpu().numpy(), "f0": given["f0"]})
    for _ in range(4):  # plain, recorded, replayed
        made = vocoder(mel, f0)
        assert isinstance(made, torch.Tensor), f"a {type(made).__name__} came"
        assert (made.dtype, made.device, made.requires_grad) == (torch.float32, mel.device, False), (
            f"{made.dtype} on {made.device}, gradients: {made.requires_grad}"
        )
        near(note, "max difference", made, expected)
    healthy(vocoder)


@check
def the_callers_stream_is_kept(note: Figures, device: str) -> None:
    """A mel that comes late on the caller's stream and is overwritten right after the call, many times."""
    vocoder, side = demo(device), stream_of(device)
    clips = [speech(1, 120, seed=i) for i in range(6)]
    mel = torch.full((1, 128, 120), -9.0, device=device)
    made = []
    with torch.cuda.stream(side):
        for clip in clips:
            late = torch.from_numpy(clip["mel"]).to(device)
            if side is not None:
                keep_busy(0.05)
            mel.copy_(late)
            made.append(vocoder(mel, clip["f0"]))
            mel.fill_(-9.0)
        copies = [wave.clone() for wave in made]
    if side is not None:
        side.synchronize()
    for clip, wave in zip(clips, copies, strict=True):
        near(note, "max difference", wave, truth(clip))


@check
def the_default_stream_is_not_waited_for(note: Figures, device: str) -> None:
    """A call on a stream of its own ends while the default stream is busy with a long kernel."""
    needs_gpu(device)
    vocoder, side = demo(device), torch.cuda.Stream(device)
    given = speech(1, 150)
    tensors = {**moved(given, device), "f0": given["f0"]}
    keep_busy(0.01)
    with torch.cuda.stream(side):
        for _ in range(4):
            vocoder(**tensors)
    wait(device)
    keep_busy(BUSY_S)
    ended = torch.cuda.Event()
    ended.record()
    with torch.cuda.stream(side):
        made = vocoder(**tensors)
    side.synchronize()
    still_busy = not ended.query()
    wait(device)
    near(note, "max difference", made, truth(given))
    note["default stream still busy"] = still_busy
    assert still_busy, f"the call waited for a kernel of {BUSY_S:g} s on the default stream"


@check
def outputs_belong_to_the_caller(note: Figures, device: str) -> None:
    """Kept outputs do not change with later calls, and may be overwritten; NumPy and tensors."""
    vocoder = demo(device)
    clips = [speech(1, 80, seed=i) for i in range(8)]
    for as_given in (lambda clip: clip, lambda clip: moved(clip, device)):
        kept: list[Any] = [vocoder(**as_given(clip)) for clip in clips]
        for clip, wave in zip(clips, kept, strict=True):
            near(note, "max difference", wave, truth(clip))
            wave[:] = 7.0
        near(note, "after overwriting", vocoder(**as_given(clips[0])), truth(clips[0]))


@check
def calls_leave_no_memory_behind(note: Figures, device: str) -> None:
    """Forty calls of changing lengths, then as many again: no more memory is held."""
    vocoder = demo(device)
    clips = [moved(speech(1, 20 + 5 * (i % 10), seed=i), device) for i in range(40)]

    def held() -> float:
        for clip in clips:
            vocoder(**clip)
        wait(device)
        return allocated(device) / MIB

    held()
    note["MiB"], note["MiB later"] = held(), held()
    assert note["MiB later"] <= note["MiB"] + 8, f"{note['MiB later'] - note['MiB']:.1f} MiB more after forty calls"
