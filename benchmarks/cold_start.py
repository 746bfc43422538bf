"""How long `trt-svc vocode` takes to its first samples with an engine in the cache, interpreter start included.

`make cold-start` runs the real command in fresh processes; the program itself says when it got where. Every run finds
the files in the system's memory, because one before it read them: what a disk adds is not measured.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from benchmarks.own_checkpoint import checkpoint_for
from benchmarks.report_files import write_files
from trt_svc.bench.provenance import provenance
from trt_svc.bench.report import Provenance, Record
from trt_svc.checkpoints.locate import DEMO_FOLDER
from trt_svc.errors import InputError
from trt_svc.files import DIRECTORY_VARIABLE

FOLDER = Path(__file__).parent / "reports" / "cold-start"
JSON, MARKDOWN = "cold-start.json", "cold-start.md"
ALLOWED_S = 3.0
FIRST = "first samples"
PHASES = {
    "command line": "interpreter and command line",
    "imports": "imports",
    "engine found": "look-up",
    "vocoder open": "opening",
    "pitch": "reading and pitch",
    FIRST: FIRST,
}
"""What the program reaches, in order, and what the way there is called."""


class Start(Record):
    """One process."""

    reached_s: dict[str, float]
    """From the start of the process, by its own clock."""
    whole_s: float
    """Until it ended, seen from outside."""


class Row(Record):
    """One network on one backend."""

    network: str
    backend: str
    chosen: str
    """What the engine runs on."""
    audio_s: float
    starts: tuple[Start, ...]

    @property
    def first_samples_s(self) -> float:
        return statistics.median(start.reached_s[FIRST] for start in self.starts)

    @property
    def slowest_s(self) -> float:
        return max(start.reached_s[FIRST] for start in self.starts)

    @property
    def whole_s(self) -> float:
        return statistics.median(start.whole_s for start in self.starts)

    def phases_s(self) -> dict[str, float]:
        """Medians of the phases."""
        return {name: statistics.median(phases(start.reached_s)[name] for start in self.starts) for name in PHASES}


class ColdStartReport(Record):
    schema_name: str = "trt_svc.cold_start/1"
    provenance: Provenance
    allowed_s: float
    rows: tuple[Row, ...]

    @property
    def kept(self) -> bool:
        return all(row.first_samples_s < self.allowed_s for row in self.rows)


def phases(reached_s: dict[str, float]) -> dict[str, float]:
    """How long each phase took, from when the milestones were reached."""
    missing = [name for name in PHASES if name not in reached_s]
    if missing:
        found = f"it never got to: {', '.join(missing)}."
        raise InputError("a cold start", found, "Was the engine taken from the cache?")
    times = [0.0, *(reached_s[name] for name in PHASES)]
    return dict(zip(PHASES, (after - before for before, after in pairwise(times)), strict=True))


def write_clip(path: Path, seconds: float) -> None:
    """The demo's sung clip, over and over."""
    audio, rate = soundfile.read(DEMO_FOLDER / "sung.flac", dtype="float32")
    soundfile.write(path, np.resize(audio, round(seconds * rate)), rate)


def command_of(model: str, backend: str, clip: Path, f0: str) -> list[str]:
    """The command that users run, by the script that is installed beside this interpreter where there is one."""
    script = Path(sys.executable).with_name("trt-svc")
    program = [str(script)] if script.exists() else [sys.executable, "-m", "trt_svc"]
    output = clip.with_name("out.wav")
    options = ["--backend", backend, "--device", "cpu", "--f0", f0, "--json"]
    return [*program, "vocode", str(clip), "-o", str(output), "-m", model, *options]


def one_start(command: Sequence[str], folder: Path) -> tuple[Start, dict[str, Any]]:
    """Runs the command in a process of its own, with compiled modules and engines kept in the folder."""
    surroundings = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    surroundings |= {"PYTHONPYCACHEPREFIX": str(folder / "compiled"), DIRECTORY_VARIABLE: str(folder / "engines")}
    began = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, env=surroundings, check=False)
    whole_s = time.perf_counter() - began
    if done.returncode:
        raise InputError("a cold start", f"the command failed: {(done.stdout + done.stderr)[-400:]}", "Run it by hand.")
    said: dict[str, Any] = json.loads(done.stdout)
    return Start(reached_s=said["reached_s"], whole_s=whole_s), said


def measured(networks: Sequence[str], backends: Sequence[str], runs: int, seconds: float, f0: str) -> list[Row]:
    """All cases in turn, in every round."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clip = folder / "clip.wav"
        write_clip(clip, seconds)
        models = {network: checkpoint_for(network, folder) for network in networks}
        cases = [(network, backend) for network in networks for backend in backends]
        starts: dict[tuple[str, str], list[Start]] = {case: [] for case in cases}
        chosen: dict[tuple[str, str], str] = {}
        for number in range(-1, runs):
            for case in cases:
                start, said = one_start(command_of(models[case[0]], case[1], clip, f0), folder)
                if number < 0:
                    continue  # it built the engine and compiled the modules
                phases(start.reached_s)
                starts[case].append(start)
                chosen[case] = said["backend"]
                print(f"{case[0]} {case[1]}: first samples after {start.reached_s[FIRST]:.2f} s", file=sys.stderr)
    return [
        Row(network=network, backend=backend, chosen=chosen[network, backend], audio_s=seconds, starts=tuple(found))
        for (network, backend), found in starts.items()
    ]


def markdown_of(report: ColdStartReport) -> str:
    origin = report.provenance
    load = ", ".join(f"{value:g}" for value in origin.load)
    heads = ["network", "backend", *PHASES.values(), "in all to the first samples", "slowest", "whole process"]
    lines = [
        "# Cold start",
        "",
        f"`{origin.command}`, {origin.created}, commit {(origin.commit or 'unknown')[:12]}. {origin.cpu}, "
        f"{origin.cores} cores, load before: {load}.",
        "",
        "Seconds in fresh processes of the real command with the engine in the cache, medians of "
        f"{len(report.rows[0].starts)} runs; phases by the program's own clock, which begins with the process. "
        "The files were in the system's memory; what a disk adds is not measured.",
        "",
        "| " + " | ".join(heads) + " |",
        "|" + "---|" * len(heads),
    ]
    for row in report.rows:
        backend = row.backend if row.chosen == row.backend else f"{row.backend} ({row.chosen})"
        times = [*row.phases_s().values(), row.first_samples_s, row.slowest_s, row.whole_s]
        network = f"{row.network}, {row.audio_s:g} s"
        lines.append("| " + " | ".join([network, backend, *(f"{value:.2f}" for value in times)]) + " |")
    verdict = "kept" if report.kept else "not kept"
    return "\n".join([*lines, "", f"First samples within {report.allowed_s:g} s: {verdict}."]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", default="nsf_hifigan_44k", help="published configs or checkpoints, with commas")
    parser.add_argument("--backends", default="auto", help="with commas")
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=10.0, help="of the recording")
    parser.add_argument("--f0", default="swift-f0")
    parser.add_argument("--out", type=Path, default=FOLDER)
    options = parser.parse_args()
    origin = provenance(" ".join(["python -m benchmarks.cold_start", *sys.argv[1:]]))
    rows = measured(options.networks.split(","), options.backends.split(","), options.runs, options.seconds, options.f0)
    report = ColdStartReport(provenance=origin, allowed_s=ALLOWED_S, rows=tuple(rows))
    write_files(options.out, {JSON: report.model_dump_json(indent=1) + "\n", MARKDOWN: markdown_of(report)})
    print(markdown_of(report))
    raise SystemExit(not report.kept)


if __name__ == "__main__":
    main()
