"""The harness itself: known delays, known noise, and contenders that cheat. Time is simulated: nothing here waits."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from tests.nets import healthy_short
from trt_svc.bench.cost import cost_of
from trt_svc.bench.entries import REFERENCE, Entry
from trt_svc.bench.peaks import Probes
from trt_svc.bench.race import Entrant, Inputs, Pace, race
from trt_svc.bench.recipe import GATES_DB
from trt_svc.bench.report import Cell, Row, Rules
from trt_svc.bench.rows import RacedCell, cell_of
from trt_svc.bench.subjects import Subject
from trt_svc.cache import EngineCache
from trt_svc.types import Array

FRAMES, BATCH = 24, 1
NET = healthy_short("hifigan")
SUBJECT = Subject("test", NET, None, "random", EngineCache(), "0" * 64)
COST = cost_of(NET, BATCH, FRAMES)
HONEST_S = 0.100
RULES = Rules(gate_db=GATES_DB, max_spread=0.15, peak_slack=0.1)
PACE = Pace(min_rounds=15, max_rounds=15)


@dataclass
class Clock:
    """Time that passes only when somebody lets it pass."""

    now_s: float = 0.0
    pending: list[Callable[[], None]] = field(default_factory=list)
    """What a background thread has still to do."""

    def __call__(self) -> float:
        return self.now_s

    def settle(self) -> None:
        self.now_s += 0.005
        for work in self.pending:
            work()
        self.pending.clear()


def audio_of(inputs: Mapping[str, Array]) -> Array:
    """Stands for a network: every sample depends on the input, at no cost."""
    return np.repeat(np.sin(inputs["mel"].sum(axis=1)), NET.spec.hop, axis=1)


class Honest(Entrant):
    """Does the work, and takes its time with some jitter."""

    def __init__(self, clock: Clock, seconds: float = HONEST_S, jitter: float = 0.02, seed: int = 0) -> None:
        self.clock, self.seconds, self.jitter = clock, seconds, jitter
        self.random = np.random.default_rng(seed)

    def placed(self, inputs: Mapping[str, Array]) -> Any:
        return inputs

    def run(self, placed: Any) -> Any:
        self.clock.now_s += self.seconds * (1 + self.jitter * abs(self.random.normal()))
        return self.made(placed)

    def made(self, placed: Any) -> Any:
        return audio_of(placed)


class Noisy(Honest):
    """Adds noise of a known level."""

    def __init__(self, clock: Clock, level_db: float) -> None:
        super().__init__(clock)
        self.level_db = level_db

    def made(self, placed: Any) -> Any:
        audio = audio_of(placed).astype(np.float64)
        noise = self.random.normal(size=audio.shape)
        wanted = np.sqrt(np.mean(audio**2)) * 10 ** (self.level_db / 20)
        return (audio + noise * wanted / np.sqrt(np.mean(noise**2))).astype(np.float32)


class Cached(Honest):
    """Remembers its first answer."""

    answer: Array | None = None

    def made(self, placed: Any) -> Any:
        if self.answer is None:
            self.answer = audio_of(placed)
        return self.answer


class Skipping(Honest):
    """Computes the first half and repeats it."""

    def made(self, placed: Any) -> Any:
        half = {name: value[:, :, : value.shape[2] // 2] for name, value in placed.items()}
        return np.tile(audio_of(half), 2)


class Silent(Honest):
    def made(self, placed: Any) -> Any:
        return np.zeros_like(audio_of(placed))


class Late(Honest):
    """Comes back at once; a thread fills the buffer later."""

    def made(self, placed: Any) -> Any:
        buffer = np.zeros((BATCH, NET.samples_out(FRAMES)), np.float32)

        def work() -> None:
            thread = threading.Thread(target=lambda: np.copyto(buffer, audio_of(placed)))
            thread.start()
            thread.join()

        self.clock.pending.append(work)
        return buffer


class Ahead(Honest):
    """Does the work where the clock does not run."""

    def placed(self, inputs: Mapping[str, Array]) -> Any:
        return audio_of(inputs)

    def made(self, placed: Any) -> Any:
        return placed


class Short(Honest):
    def made(self, placed: Any) -> Any:
        return audio_of(placed)[:, :-1]


class Breaking(Honest):
    """Fails in the middle of the race."""

    calls = 0

    def made(self, placed: Any) -> Any:
        self.calls += 1
        if self.calls > 6:
            raise RuntimeError("the device is gone")
        return audio_of(placed)


class NotFinite(Honest):
    def made(self, placed: Any) -> Any:
        audio = audio_of(placed)
        audio[0, 3] = np.nan
        return audio


def raced(entrants: Mapping[str, Entrant], clock: Clock, precision: str = "fp32", pace: Pace = PACE) -> Cell:
    """A cell of these beside the honest reference, on a device twice as quick as an honest contender needs."""
    everybody = {REFERENCE: Honest(clock, seed=99), **{f"{name} {precision}": e for name, e in entrants.items()}}
    laps = race(everybody, REFERENCE, SUBJECT.inputs(BATCH, FRAMES), pace, clock, clock.settle)
    entries = [Entry("torch", "fp32", None), *(Entry(name, precision, None) for name in entrants)]
    peak = 2 * COST.gflop / HONEST_S
    probes = Probes("cpu", gflops={"fp32": peak}, copy_gb_per_s=10.0)
    gflop = {label: entrant.gflop(COST.gflop) for label, entrant in everybody.items()}
    return cell_of(RacedCell("test", FRAMES, BATCH, 1.0, COST, 0.0, tuple(entries), laps, gflop, {}), probes, RULES)


def row(cell: Cell, name: str) -> Row:
    return next(r for r in cell.rows if r.contender == name)


@pytest.mark.parametrize("delay_s", [0.002, 0.05, 1.0])
def test_a_known_delay_is_measured_within_two_percent(delay_s: float) -> None:
    clock = Clock()
    cell = raced({"slowed": Honest(clock, HONEST_S + delay_s, jitter=0.01)}, clock)
    found = row(cell, "slowed").latency
    assert found is not None
    assert found.median_s == pytest.approx(HONEST_S + delay_s, rel=0.02)
    ratio = row(cell, "slowed").over_upstream
    assert ratio is not None
    assert ratio.value == pytest.approx(HONEST_S / (HONEST_S + delay_s), rel=0.04)


@pytest.mark.parametrize("level_db", [-40, -60, -80])
def test_noise_of_a_known_level_is_reported_within_a_tenth_of_a_decibel(level_db: float) -> None:
    clock = Clock()
    found = row(raced({"noisy": Noisy(clock, level_db)}, clock, "bf16"), "noisy")
    assert found.waveform is not None
    assert found.waveform.snr_db == pytest.approx(-level_db, abs=0.1)
    assert found.status == "measured"


def test_noise_below_the_gate_has_no_speed() -> None:
    clock = Clock()
    found = row(raced({"noisy": Noisy(clock, -60)}, clock, "fp32"), "noisy")
    assert found.status == "refused"
    assert "60.0 dB" in found.reason and "90 dB" in found.reason
    assert found.latency is found.rtf is found.over_upstream is found.inferences_per_s is None
    assert found.waveform is not None  # the reason for it is shown


@pytest.mark.parametrize(
    ("cheat", "reason"),
    [(Cached, "dB"), (Skipping, "dB"), (Silent, "dB"), (Late, "dB"), (Short, "shape"), (NotFinite, "not finite"),
     (Breaking, "the device is gone")],
)  # fmt: skip
def test_cheats_are_refused(cheat: type[Honest], reason: str) -> None:
    clock = Clock()
    # Slow enough to be possible: only what comes out gives them away.
    found = row(raced({"cheat": cheat(clock, HONEST_S)}, clock), "cheat")
    assert found.status == "refused"
    assert reason in found.reason
    assert found.latency is None


class Previous(Honest):
    """Hands over what it made in the round before."""

    answer: Array | None = None

    def made(self, placed: Any) -> Any:
        before, self.answer = self.answer, audio_of(placed)
        return self.answer if before is None else before


@pytest.mark.parametrize("frames", [2, 24, 97, 98, 256])
def test_the_answer_of_the_round_before_is_refused(frames: int) -> None:
    clock = Clock()
    laps = race(
        {"a": Honest(clock), "previous": Previous(clock)}, "a", SUBJECT.inputs(1, frames), PACE, clock, clock.settle
    )
    found = laps["previous"].worst
    assert found is not None and found.snr_db < GATES_DB["bf16"]


def test_a_part_repeated_is_refused_in_long_inputs_and_batches() -> None:
    """Inputs are made of examples; none of them may come twice."""
    mel = SUBJECT.inputs(3, 1024).draw()["mel"]
    for start in range(256, 1024, 256):
        for shift in range(0, 256, 8):
            part = np.roll(mel[0, :, :256], shift, axis=1)
            assert np.abs(part - mel[0, :, start : start + 256]).mean() > 0.01
    assert np.abs(mel[0] - mel[1]).mean() > 0.1 and np.abs(mel[1] - mel[2]).mean() > 0.1


def test_nobody_is_measured_without_a_reference() -> None:
    class Dying(Honest):
        calls = 0

        def made(self, placed: Any) -> Any:
            self.calls += 1
            if self.calls > 6:
                raise RuntimeError("out of memory")
            return audio_of(placed)

    clock = Clock()
    laps = race({"a": Dying(clock), "b": Honest(clock)}, "a", SUBJECT.inputs(1, 8), PACE, clock, clock.settle)
    assert laps["a"].failure
    entries = (Entry("a", "fp32", None), Entry("b", "fp32", None))
    named = {"a fp32": laps["a"], "b fp32": laps["b"]}
    probes = Probes("cpu", gflops={"fp32": 1e9}, copy_gb_per_s=10.0)
    cell = cell_of(RacedCell("test", 8, 1, 1.0, COST, 0.0, entries, named, {}, {}), probes, RULES)
    assert [found.status for found in cell.rows] == ["refused", "refused"]


def test_a_race_goes_on_while_a_median_is_unsteady() -> None:
    class Settling(Honest):
        """Its first rounds are all over the place."""

        calls = 0

        def run(self, placed: Any) -> Any:
            self.calls += 1
            self.clock.now_s += HONEST_S * (1 + (self.random.random() * 4 if self.calls < 8 else 0))
            return audio_of(placed)

    clock = Clock()
    pace = Pace(min_rounds=3, max_rounds=200, budget_s=1.0)
    unsteady = race({"a": Settling(clock)}, "a", SUBJECT.inputs(1, 8), pace, clock, clock.settle)["a"]
    steady = race({"a": Honest(clock)}, "a", SUBJECT.inputs(1, 8), pace, clock, clock.settle)["a"]
    assert len(unsteady.seconds) > len(steady.seconds)


def test_work_outside_the_clock_is_refused_by_arithmetic() -> None:
    clock = Clock()
    cell = raced({"ahead": Ahead(clock, HONEST_S / 3), "possible": Honest(clock, HONEST_S / 1.9, 0.001)}, clock)
    assert row(cell, "ahead").status == "refused"
    assert "cannot do the work" in row(cell, "ahead").reason
    assert row(cell, "possible").status == "measured"


def test_a_declared_fast_algorithm_is_no_cheat_and_is_shown_by_the_plain_ones_operations() -> None:
    class Toom(Honest):
        def gflop(self, plain: float) -> float:
            return plain / 3

    clock = Clock()
    found = row(raced({"toom": Toom(clock, HONEST_S / 3)}, clock), "toom")
    assert found.status == "measured"
    assert found.gflops == pytest.approx(COST.gflop / (HONEST_S / 3), rel=0.05)


def test_a_wide_spread_is_refused() -> None:
    class Unsteady(Honest):
        def run(self, placed: Any) -> Any:
            self.clock.now_s += HONEST_S * self.random.choice([1.0, 4.0])
            return audio_of(placed)

    clock = Clock()
    found = row(raced({"unsteady": Unsteady(clock)}, clock), "unsteady")
    assert found.status == "refused"
    assert "spread" in found.reason


def test_a_against_a_gives_an_interval_around_one() -> None:
    """In 95 of 100 races; the seeds are fixed, so the count never changes."""
    hits = []
    for seed in range(20):
        clock = Clock()
        ratio = row(raced({"same": Honest(clock, seed=seed)}, clock), "same").over_upstream
        assert ratio is not None
        hits.append(ratio.low <= 1.0 <= ratio.high)
    assert sum(hits) >= 18


def test_both_baselines_and_the_order() -> None:
    clock = Clock()
    cell = raced({"quick": Honest(clock, HONEST_S / 1.6), "slow": Honest(clock, HONEST_S * 2)}, clock)
    assert [r.contender for r in cell.rows] == ["quick", "torch", "slow"]
    quick, torch_row, slow = cell.rows
    assert quick.over_fastest_other is not None and quick.over_fastest_other.against == REFERENCE
    assert torch_row.over_upstream is None
    assert torch_row.over_fastest_other is not None and torch_row.over_fastest_other.against == "quick fp32"
    assert slow.over_fastest_other is not None and slow.over_fastest_other.value == pytest.approx(0.3125, rel=0.1)
    assert quick.inferences_per_s == pytest.approx(1.6 / HONEST_S, rel=0.05)
    assert quick.rtf == pytest.approx(HONEST_S / 1.6, rel=0.05)


def test_no_ratio_is_taken_against_a_refused_row() -> None:
    clock = Clock()
    cell = raced({"silent": Silent(clock, HONEST_S / 2), "slow": Honest(clock, HONEST_S * 2)}, clock)
    found = row(cell, "slow").over_fastest_other
    assert found is not None and found.against == REFERENCE


def test_no_input_comes_twice() -> None:
    inputs = SUBJECT.inputs(2, 7)
    drawn = [inputs.draw()["mel"].tobytes() for _ in range(60)]
    assert len(set(drawn)) == len(drawn)
    assert inputs.draw()["mel"].shape == (2, NET.spec.n_mels, 7)


def test_every_round_runs_everybody_once_in_changing_order() -> None:
    clock, calls = Clock(), []

    class Named(Honest):
        def __init__(self, name: str) -> None:
            super().__init__(clock)
            self.name = name

        def run(self, placed: Any) -> Any:
            calls.append(self.name)
            return super().run(placed)

    names = ["a", "b", "c"]
    race({name: Named(name) for name in names}, "a", SUBJECT.inputs(1, 8), Pace(10, 10), clock, clock.settle)
    warm_ups, raced = calls[:6], calls[6:]
    assert sorted(warm_ups) == ["a", "a", "b", "b", "c", "c"]
    assert raced[::2] == raced[1::2]  # led in by itself
    rounds = [tuple(raced[i : i + 6 : 2]) for i in range(0, len(raced), 6)]
    assert len(rounds) == 10
    assert all(sorted(part) == names for part in rounds)
    assert len(set(rounds)) > 3


def test_long_runs_are_not_made_twice() -> None:
    clock, calls = Clock(), []

    class Slow(Honest):
        def run(self, placed: Any) -> Any:
            calls.append(placed["mel"].tobytes())
            return super().run(placed)

    race({"a": Slow(clock, 0.6)}, "a", SUBJECT.inputs(1, 8), Pace(10, 10, budget_s=100), clock, clock.settle)
    assert len(calls) == 12
    assert len(set(calls)) == 12


def test_a_timed_run_never_sees_the_input_of_its_lead_in() -> None:
    clock, calls = Clock(), []

    class Watching(Honest):
        def run(self, placed: Any) -> Any:
            calls.append(placed["mel"].tobytes())
            return super().run(placed)

    race({"a": Watching(clock)}, "a", SUBJECT.inputs(1, 8), Pace(10, 10), clock, clock.settle)
    raced = calls[2:]
    assert all(lead != timed for lead, timed in zip(raced[::2], raced[1::2], strict=True))
    assert len(set(raced[1::2])) == 10


def test_the_budget_ends_the_race_but_not_before_the_least_rounds() -> None:
    clock = Clock()
    laps = race({"a": Honest(clock, 10.0)}, "a", SUBJECT.inputs(1, 8), Pace(3, 40, budget_s=1.0), clock, clock.settle)
    assert len(laps["a"].seconds) == 3
    laps = race({"a": Honest(clock, 0.1)}, "a", SUBJECT.inputs(1, 8), Pace(3, 40, budget_s=1.0), clock, clock.settle)
    assert 3 < len(laps["a"].seconds) < 40


def test_inputs_of_every_kind_stay_in_step() -> None:
    """Source and mel are moved together, whatever the samples per frame."""
    net = healthy_short("nsf_hifigan")
    base = {
        "mel": np.arange(6, dtype=np.float32).reshape(1, 1, 6),
        "source": np.arange(96, dtype=np.float32).reshape(1, 1, 96),
    }
    per_frame = {spec.name: spec.per_frame for spec in net.core_inputs()}
    drawn = Inputs(base, per_frame).draw()  # type: ignore[arg-type]
    assert int(drawn["source"][0, 0, 0]) == 16 * round(float(drawn["mel"][0, 0, 0]))
