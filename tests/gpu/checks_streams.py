"""Streams on the GPU give what one call on everything gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from tests.gpu.common import check, check_each, demo, folder, healthy, moved, near, speech, stream_of, truth, wait
from tests.gpu.suite import Figures
from tests.nets import SMALL, utterance, vocoder_of
from trt_svc import Vocoder

FRAMES = 170
SPEAKER = "speaker"


def piece(given: Mapping[str, Any], start: int, stop: int) -> dict[str, Any]:
    """Some frames of inputs; the speaker belongs to the stream."""
    return {name: value[..., start:stop] for name, value in given.items() if name != SPEAKER}


def streamed(vocoder: Vocoder, given: Mapping[str, Any], sizes: Sequence[int], seed: Any) -> np.ndarray:
    """Everything pushed in pieces of these sizes, the rest at once; on the host."""
    frames, at, made = given["mel"].shape[2], 0, []
    with vocoder.stream(speaker=given.get(SPEAKER), seed=seed) as stream:
        for size in [*sizes, frames]:
            made.append(stream.push(**piece(given, at, min(frames, at + size))))
            at = min(frames, at + size)
        made.append(stream.flush())
    mel = given["mel"]
    for part in made:
        assert type(part) is type(mel), f"a {type(part).__name__} for a {type(mel).__name__}"
        assert not isinstance(part, torch.Tensor) or part.device == mel.device, f"on {part.device}"
    if isinstance(mel, torch.Tensor):
        return torch.cat(made, 1).cpu().numpy()
    return np.concatenate(made, axis=1)


def random_sizes(rng: np.random.Generator) -> list[int]:
    return [int(size) for size in rng.integers(1, 50, rng.integers(2, 9))]


@check_each(*SMALL)
def streams_equal_the_whole(note: Figures, device: str, name: str) -> None:
    """A family's exact stream, pushed in random pieces: NumPy in and out, tensors in and out."""
    rng = np.random.default_rng(SMALL.index(name))
    with folder() as there:
        vocoder = vocoder_of(name, there, device=device, on_failure="raise")
        for batch in (1, 2):
            given = utterance(vocoder, batch, FRAMES, seed=batch)
            whole = vocoder(**given, seed=3)
            near(note, "numpy", streamed(vocoder, given, random_sizes(rng), 3), whole)
            near(note, "torch", streamed(vocoder, moved(given, device), random_sizes(rng), 3), whole)
        near(note, "single frames", streamed(vocoder, moved(given, device), [1] * 40, 3), whole)
        healthy(vocoder)


@check
def streams_of_the_demo_voice(note: Figures, device: str) -> None:
    """Several streams taking turns on one session, against the CPU; the second half of the pushes on another stream."""
    vocoder, side = demo(device), stream_of(device)
    clips = [speech(1, 150, seed=i) for i in range(4)]
    made: list[list[torch.Tensor]] = [[] for _ in clips]
    streams = [vocoder.stream(seed=i) for i in range(len(clips))]
    for at in range(0, 150, 30):
        wait(device)  # the pieces may come on another stream than their past
        with torch.cuda.stream(side if at >= 60 else None):
            for clip, stream, parts in zip(clips, streams, made, strict=True):
                parts.append(stream.push(**moved(piece(clip, at, at + 30), device)))
            wait(device)
    for i, (clip, stream, parts) in enumerate(zip(clips, streams, made, strict=True)):
        parts.append(stream.flush())
        near(note, "max difference", torch.cat(parts, 1), truth(clip, i))
    healthy(vocoder)
