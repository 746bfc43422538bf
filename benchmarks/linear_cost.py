"""Does the cost grow linearly? Seconds of work per second of audio, and memory, for 5 to 60 seconds in one call.

`make linear-cost` calls a session as users do. Times come from one process, all lengths in every round in random order;
memory from a process of its own per length, because what one call gives back another takes without growth.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.own_checkpoint import checkpoint_for
from benchmarks.report_files import write_files
from trt_svc.bench.memory import Watch
from trt_svc.bench.provenance import provenance
from trt_svc.bench.report import Provenance, Record
from trt_svc.loading import load_vocoder
from trt_svc.session import Vocoder
from trt_svc.timing import at_rest
from trt_svc.types import Array

FOLDER = Path(__file__).parent / "reports" / "linear"
JSON, MARKDOWN = "linear-cost.json", "linear-cost.md"
ALLOWED_COST = 1.1
"""Of the longest against the shortest, per second of audio."""
ALLOWED_MIB = 64.0
"""Beyond the memory of one whole window and of the audio itself."""
MIB = 2.0**20


class Length(Record):
    """Calls of one length."""

    audio_s: float
    frames: int
    seconds: tuple[float, ...]
    """Of whole calls, in the order of the rounds."""
    network_s: tuple[float, ...]
    """Of the network in them."""
    grown_mib: float | None
    """Peak of the process during the first call, less what it held before."""
    arrays_mib: float
    """Mel, pitch and audio of the call."""

    @property
    def cost(self) -> float:
        """Seconds of work per second of audio."""
        return statistics.median(self.seconds) / self.audio_s

    @property
    def working_mib(self) -> float | None:
        """What the call took beside the audio itself."""
        return None if self.grown_mib is None else self.grown_mib - self.arrays_mib


class Row(Record):
    """One network on one backend."""

    network: str
    backend: str
    chosen: str
    chunk_frames: int | None
    """Longest single run of the session."""
    window_mib: float | None
    """What a call of just that length took beside its audio."""
    lengths: tuple[Length, ...]

    @property
    def growth(self) -> float:
        """Cost of the longest over that of the shortest."""
        return self.lengths[-1].cost / self.lengths[0].cost

    @property
    def is_linear(self) -> bool:
        return self.growth <= ALLOWED_COST

    @property
    def is_bounded(self) -> bool | None:
        """Does no length take more than one whole window? None where the system cannot tell."""
        needed = [length.working_mib for length in self.lengths]
        if self.window_mib is None or any(mib is None for mib in needed):
            return None
        return max(mib for mib in needed if mib is not None) <= self.window_mib + ALLOWED_MIB


class LinearCostReport(Record):
    schema_name: str = "trt_svc.linear_cost/1"
    provenance: Provenance
    rows: tuple[Row, ...]

    @property
    def kept(self) -> bool:
        return all(row.is_linear and row.is_bounded is not False for row in self.rows)


def given_for(vocoder: Vocoder, frames: int, seed: int) -> dict[str, Array]:
    """A mel and a pitch of any length; no part of them repeats another."""
    rng = np.random.default_rng(seed)
    level = np.linspace(-2.0, -8.0, vocoder.spec.n_mels, dtype=np.float32)[None, :, None]
    given = {"mel": level + rng.normal(0, 1, (1, vocoder.spec.n_mels, frames)).astype(np.float32)}
    if vocoder.spec.needs_f0:
        steps = np.cumsum(rng.normal(0, 0.01, (1, frames)), axis=1)
        given["f0"] = np.clip(220 * 2**steps, 80, 800).astype(np.float32)
    if vocoder.spec.needs_speaker:
        given["speaker"] = rng.normal(0, 0.5, (1, vocoder.spec.speaker_channels, 1)).astype(np.float32)
    return given


def frames_of(vocoder: Vocoder, seconds: float) -> int:
    return max(1, round(seconds * vocoder.spec.frames_per_second))


def one_call(model: str, backend: str, frames: int) -> dict[str, float | None]:
    """In a process of its own: how much it grew by one call, after a short one that brought everything in."""
    vocoder = load_vocoder(model, backend=backend, device="cpu")
    vocoder(**given_for(vocoder, min(frames, 1 + sum(vocoder.receptive_field)), 0))
    given = given_for(vocoder, frames, 1)
    watch = Watch("cpu")
    audio = np.asarray(vocoder(**given))
    grown = watch.rss_added()
    return {
        "grown_mib": None if grown is None else grown / MIB,
        "arrays_mib": (sum(value.nbytes for value in given.values()) + audio.nbytes) / MIB,
    }


def grown_by(model: str, backend: str, frames: int) -> tuple[float | None, float]:
    """(growth, arrays) of a call in MiB."""
    command = [sys.executable, "-m", "benchmarks.linear_cost", "--one", model, backend, str(frames)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    return found["grown_mib"], found["arrays_mib"]


def timed(vocoder: Vocoder, frames: Sequence[int], rounds: int) -> dict[int, list[tuple[float, float]]]:
    """(call, network) seconds of every length, interleaved; every call has an input of its own."""
    found: dict[int, list[tuple[float, float]]] = {length: [] for length in frames}
    order, shuffled = list(frames), random.Random(0)
    for length in order:
        vocoder(**given_for(vocoder, length, 0))
    for number in range(rounds):
        shuffled.shuffle(order)
        for length in order:
            given = given_for(vocoder, length, 1 + number)
            at_rest()
            began = time.perf_counter()
            vocoder(**given)
            found[length].append((time.perf_counter() - began, vocoder.last_run_s))
    return found


def row_of(network: str, model: str, backend: str, seconds: Sequence[float], rounds: int) -> Row:
    vocoder = load_vocoder(model, backend=backend, device="cpu")
    frames = {length: frames_of(vocoder, length) for length in seconds}
    times = timed(vocoder, list(frames.values()), rounds)
    chunk = vocoder.chunk_frames
    window_mib = None
    if chunk is not None:
        grown, arrays = grown_by(model, backend, chunk)
        window_mib = None if grown is None else grown - arrays
    lengths = []
    for length, count in frames.items():
        grown, arrays = grown_by(model, backend, count)
        calls, runs = zip(*times[count], strict=True)
        lengths.append(
            Length(audio_s=length, frames=count, seconds=calls, network_s=runs, grown_mib=grown, arrays_mib=arrays)
        )
        print(f"{network} {backend}: {length:g} s at {lengths[-1].cost:.3f}", file=sys.stderr)
    return Row(
        network=network,
        backend=backend,
        chosen=vocoder.backend,
        chunk_frames=chunk,
        window_mib=window_mib,
        lengths=tuple(lengths),
    )


def _mib(value: float | None) -> str:
    return "–" if value is None else f"{value:.0f}"


def _verdict(row: Row) -> str:
    bounded = {True: "bounded by one window", False: "NOT bounded by one window", None: "not measured"}[row.is_bounded]
    linear = "linear" if row.is_linear else "NOT linear"
    return (
        f"{row.network} on {row.backend}: the longest costs {row.growth:.2f}x the shortest per second of audio "
        f"({linear}); a window of {row.chunk_frames} frames takes {_mib(row.window_mib)} MiB, memory is {bounded}."
    )


def markdown_of(report: LinearCostReport) -> str:
    origin = report.provenance
    load = ", ".join(f"{value:g}" for value in origin.load)
    heads = (
        "network",
        "backend",
        "audio",
        "work per second of audio",
        "network alone",
        "x shortest",
        "MiB",
        "of it audio",
    )
    lines = [
        "# Cost by length",
        "",
        f"`{origin.command}`, {origin.created}, commit {(origin.commit or 'unknown')[:12]}. {origin.cpu}, "
        f"{origin.cores} cores, load before: {load}.",
        "",
        "Whole calls of a session, all lengths interleaved in one process, medians; memory is what a process of its "
        "own grew by during one such call.",
        "",
        "| " + " | ".join(heads) + " |",
        "|" + "---|" * len(heads),
    ]
    for row in report.rows:
        backend = row.backend if row.chosen == row.backend else f"{row.backend} ({row.chosen})"
        for length in row.lengths:
            alone = statistics.median(length.network_s) / length.audio_s
            cells = (
                row.network, backend, f"{length.audio_s:g} s", f"{length.cost:.4f} s", f"{alone:.4f} s",
                f"{length.cost / row.lengths[0].cost:.2f}", _mib(length.grown_mib), _mib(length.arrays_mib),
            )  # fmt: skip
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", *(f"- {_verdict(row)}" for row in report.rows)]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--networks", default="nsf_hifigan_44k,demo", help="published configs or checkpoints")
    parser.add_argument("--backends", default="auto", help="with commas")
    parser.add_argument("--seconds", default="5,10,20,40,60", help="of audio, with commas")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=FOLDER)
    options = parser.parse_args()
    if options.one:
        model, backend, frames = options.one
        print(json.dumps(one_call(model, backend, int(frames))))
        return
    origin = provenance(" ".join(["python -m benchmarks.linear_cost", *sys.argv[1:]]))
    seconds = sorted(float(word) for word in options.seconds.split(","))
    with tempfile.TemporaryDirectory() as name:
        models = {network: checkpoint_for(network, Path(name)) for network in options.networks.split(",")}
        rows = [
            row_of(network, model, backend, seconds, options.rounds)
            for network, model in models.items()
            for backend in options.backends.split(",")
        ]
    report = LinearCostReport(provenance=origin, rows=tuple(rows))
    write_files(options.out, {JSON: report.model_dump_json(indent=1) + "\n", MARKDOWN: markdown_of(report)})
    print(markdown_of(report))
    raise SystemExit(not report.kept)


if __name__ == "__main__":
    main()
