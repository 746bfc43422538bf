"""One session, many threads and many streams of the device."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from tests.gpu.checks_streams import streamed
from tests.gpu.common import (
    captured,
    check,
    check_each,
    demo,
    graph_messages,
    healthy,
    moved,
    near,
    refused,
    runner_of,
    speech,
    stream_of,
    truth,
    wait,
)
from tests.gpu.suite import Figures

THREADS = 8
LENGTHS = (1, 3, 10, 16, 25, 40, 64, 64, 90, 121)
WAIT_S = 200.0


def calls_each(device: str) -> int:
    """Calls of a thread; few where there is no GPU."""
    return 50 if device.startswith("cuda") else 3


def in_threads(work: Callable[[int], None], threads: int = THREADS) -> float:
    """Runs `work(number)` in threads that start together; the seconds it took. The first error is raised."""
    failures: list[BaseException] = []
    gate = threading.Barrier(threads)

    def run(number: int) -> None:
        try:
            gate.wait(WAIT_S)
            work(number)
        except BaseException as err:  # raised below
            failures.append(err)

    pool = [threading.Thread(target=run, args=(number,), daemon=True) for number in range(threads)]
    started = time.perf_counter()
    for thread in pool:
        thread.start()
    for thread in pool:
        thread.join(max(0.0, WAIT_S - (time.perf_counter() - started)))
    if failures:
        raise failures[0]
    stuck = sum(thread.is_alive() for thread in pool)
    assert not stuck, f"{stuck} of {threads} threads did not come back"
    return time.perf_counter() - started


def _clips() -> list[tuple[dict[str, Any], np.ndarray]]:
    clips = [speech(1 + i % 2, frames, seed=i) for i, frames in enumerate(LENGTHS)]
    return [(clip, truth(clip, seed=5)) for clip in clips]


def _notes(note: Figures, vocoder: Any, calls: int, seconds: float) -> None:
    runner = runner_of(vocoder)
    note["calls"], note["calls per s"] = calls, calls / seconds
    note["captured"], note["refused"] = captured(runner), refused(runner)


@check_each("1", "2", "4")
def threads_share_a_session(note: Figures, device: str, contexts: str) -> None:
    """Eight threads, random lengths, NumPy and tensors in turn, with so many contexts: every call is right."""
    vocoder, clips, each = demo(device, contexts=int(contexts)), _clips(), calls_each(device)

    def work(number: int) -> None:
        rng = np.random.default_rng(number)
        for call in range(each):
            given, expected = clips[rng.integers(len(clips))]
            near(note, "max difference", vocoder(**(moved(given, device) if call % 2 else given), seed=5), expected)

    with graph_messages() as said:
        _notes(note, vocoder, THREADS * each, in_threads(work))
    note["not recorded"] = said[0] if said else "none"
    healthy(vocoder)


@check
def threads_with_streams_of_their_own(note: Figures, device: str) -> None:
    """Every thread works on its own stream of the device and reads its audio there, unasked for by the others."""
    vocoder, clips, each = demo(device), _clips(), calls_each(device)

    def work(number: int) -> None:
        rng, mine = np.random.default_rng(number), stream_of(device)
        with torch.cuda.stream(mine):
            for _ in range(each):
                given, expected = clips[rng.integers(len(clips))]
                made = vocoder(**moved(given, device), seed=5)
                near(note, "max difference", made * 1.0, expected)

    _notes(note, vocoder, THREADS * each, in_threads(work))
    healthy(vocoder)


@check
def several_streams_from_one_thread(note: Figures, device: str) -> None:
    """Calls that take turns on four streams, read only when all are under way."""
    vocoder, clips = demo(device), _clips()
    streams = [stream_of(device) for _ in range(4)]
    moved_clips = [moved(given, device) for given, _ in clips]
    wait(device)
    made = []
    for turn in range(len(clips) * 6):
        with torch.cuda.stream(streams[turn % 4]):
            made.append(vocoder(**moved_clips[turn % len(clips)], seed=5))
    wait(device)
    for turn, wave in enumerate(made):
        near(note, "max difference", wave, clips[turn % len(clips)][1])
    healthy(vocoder)


@check
def threads_with_a_stream_of_audio_each(note: Figures, device: str) -> None:
    """Eight voices are streamed at the same time through one session."""
    vocoder = demo(device)
    clips = [speech(1, 120, seed=i) for i in range(THREADS)]
    expected = [truth(clip, seed=i) for i, clip in enumerate(clips)]

    def work(number: int) -> None:
        given = moved(clips[number], device) if number % 2 else clips[number]
        for size in (7, 20, 50) if device.startswith("cuda") else (50,):
            near(note, "max difference", streamed(vocoder, given, [size] * (120 // size), number), expected[number])

    note["seconds"] = in_threads(work)
    healthy(vocoder)
