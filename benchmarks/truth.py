"""Does the harness tell the truth? Real runs, real sleeps: known delays, known noise, cheats. `make bench-truth`.

The unit tests ask the same on simulated time (tests/test_bench_race.py); here the clock of the machine is asked.
Exits with 1 where an answer is off.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from trt_svc.bench.contenders.base import UPSTREAM, Track, contenders
from trt_svc.bench.cost import cost_of
from trt_svc.bench.entries import REFERENCE, Entry
from trt_svc.bench.peaks import Probes
from trt_svc.bench.race import Entrant, Pace, race
from trt_svc.bench.recipe import GATES_DB
from trt_svc.bench.report import Row, Rules
from trt_svc.bench.rows import RacedCell, cell_of
from trt_svc.bench.subjects import Subject, opened_subject
from trt_svc.types import Array

FRAMES = 86
DELAY_S = 0.5
PACE = Pace(min_rounds=31, max_rounds=31)
NOISE_DB = (-40, -60, -80)


class Wrapped(Entrant):
    """An honest contender with something done to it."""

    def __init__(self, honest: Entrant, change: Callable[[Array], Array] = lambda audio: audio, delay_s: float = 0.0):
        self.honest, self.change, self.delay_s = honest, change, delay_s

    def placed(self, inputs: Mapping[str, Array]) -> Any:
        return self.honest.placed(inputs)

    def run(self, placed: Any) -> Any:
        if self.delay_s:
            time.sleep(self.delay_s)
        return self.change(self.honest.audio(self.honest.run(placed)))


class Sleeping(Entrant):
    """Sleeps, and hands over audio made where the clock does not run."""

    def __init__(self, honest: Entrant, delay_s: float) -> None:
        self.honest, self.delay_s = honest, delay_s

    def placed(self, inputs: Mapping[str, Array]) -> Any:
        return self.honest.audio(self.honest.run(self.honest.placed(inputs)))

    def run(self, placed: Any) -> Any:
        time.sleep(self.delay_s)
        return placed


class Late(Wrapped):
    """Comes back at once; a thread fills the buffer."""

    def run(self, placed: Any) -> Any:
        buffer = np.zeros((1, FRAMES * 512), np.float32)
        threading.Thread(target=lambda: np.copyto(buffer, self.honest.audio(self.honest.run(placed)))).start()
        return buffer


class Spinning(Wrapped):
    """Leaves a thread behind that is busy for a while, as some runtimes do."""

    def run(self, placed: Any) -> Any:
        made, end = super().run(placed), time.perf_counter() + 0.05
        threading.Thread(target=lambda: [None for _ in iter(lambda: time.perf_counter() < end, False)]).start()
        return made


class Cached(Wrapped):
    answer: Array | None = None

    def run(self, placed: Any) -> Any:
        if self.answer is None:
            self.answer = super().run(placed)
        return self.answer


class Skipping(Wrapped):
    """The first half, twice."""

    def run(self, placed: Any) -> Any:
        half = [tensor[:, :, : tensor.shape[2] // 2].contiguous() for tensor in placed]
        return np.tile(self.honest.audio(self.honest.run(half)), 2)


def noisy(level_db: float) -> Callable[[Array], Array]:
    random = np.random.default_rng(0)

    def add(audio: Array) -> Array:
        noise = random.normal(size=audio.shape)
        wanted = np.sqrt(np.mean(audio.astype(np.float64) ** 2)) * 10 ** (level_db / 20)
        return (audio + noise * wanted / np.sqrt(np.mean(noise**2))).astype(np.float32)

    return add


@dataclass
class Answer:
    question: str
    expected: str
    found: str
    right: bool


def answers() -> list[Answer]:
    with opened_subject("demo") as subject:
        opened = contenders.get(UPSTREAM).prepare(subject, Track("cpu", (), None), "fp32", None)()
        honest = opened.entrant
        upright: dict[str, Entrant] = {
            "again": Wrapped(honest),
            "spinning": Spinning(honest),
            "slowed": Sleeping(honest, DELAY_S),
            **{f"noise {level}": Wrapped(honest, noisy(level)) for level in NOISE_DB},
        }
        # In a race of their own: work that one of them leaves behind slows down whoever comes next.
        cheats: dict[str, Entrant] = {
            "cached": Cached(honest),
            "skipping": Skipping(honest),
            "silent": Wrapped(honest, np.zeros_like),
            "late": Late(honest),
            "ahead": Sleeping(honest, 0.0),
        }
        rows = {**raced(subject, honest, upright), **raced(subject, honest, cheats)}
    return list(judged(rows))


def raced(subject: Subject, honest: Entrant, racers: Mapping[str, Entrant]) -> dict[str, Row]:
    """Rows by name, at the gate of bf16."""
    everybody = {REFERENCE: honest, **{f"{name} bf16": entrant for name, entrant in racers.items()}}
    probes = Probes("cpu")
    probes.look()
    laps = race(everybody, REFERENCE, subject.inputs(1, FRAMES), PACE)
    cost = cost_of(subject.net, 1, FRAMES)
    entries = [Entry("torch", "fp32", None), *(Entry(name, "bf16", None) for name in racers)]
    gflop = dict.fromkeys(everybody, cost.gflop)
    cell = RacedCell("demo", FRAMES, 1, FRAMES * 512 / 44100, cost, 0.0, tuple(entries), laps, gflop, {})
    rules = Rules(gate_db=GATES_DB, max_spread=0.5, peak_slack=0.1)
    return {row.contender: row for row in cell_of(cell, probes, rules).rows}


def judged(rows: Mapping[str, Row]) -> Any:
    slowed = rows["slowed"].latency
    assert slowed is not None, rows["slowed"].reason
    off = slowed.median_s / DELAY_S - 1
    yield Answer(
        "a sleep of 500 ms", "within 2 %", f"{1000 * slowed.median_s:.2f} ms ({100 * off:+.2f} %)", abs(off) < 0.02
    )
    again = rows["again"].over_upstream
    assert again is not None, rows["again"].reason
    found = f"{again.value:.3f} [{again.low:.3f}, {again.high:.3f}]"
    yield Answer("A against A", "an interval around 1", found, again.low <= 1 <= again.high)
    for level in NOISE_DB:
        heard = rows[f"noise {level}"].waveform
        assert heard is not None
        off = heard.snr_db + level
        yield Answer(f"noise of {level} dB", "within 0.1 dB", f"{heard.snr_db:.3f} dB", abs(off) < 0.1)
    for cheat in ("cached", "skipping", "silent", "late", "ahead"):
        row = rows[cheat]
        yield Answer(f"a cheat: {cheat}", "refused", f"{row.status}: {row.reason}", row.status == "refused")


def main() -> int:
    found = answers()
    print("| question | expected | found | |\n|---|---|---|---|")
    for answer in found:
        print(f"| {answer.question} | {answer.expected} | {answer.found} | {'right' if answer.right else 'WRONG'} |")
    return int(not all(answer.right for answer in found))


if __name__ == "__main__":
    sys.exit(main())
