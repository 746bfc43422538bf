"""What songs of all lengths need in memory: a minute, an hour with pauses, ten minutes without any.

`make bench-song-memory` converts each in a process of its own and compares the peaks with that of the minute; the
difference must stay within 1.5 GB. Rows that the report has already are kept, so it can be made in parts:
`python -m benchmarks.memory_of_songs --size small --songs minute,unbroken --methods dio --backends torch`.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from benchmarks.report_files import write_files
from benchmarks.song_audio import RATE_HZ, song
from benchmarks.song_models import FULL, SMALL, SPEAKER, write_models
from trt_svc.bench.provenance import provenance
from trt_svc.bench.report import Provenance, Record
from trt_svc.features.f0.networks.rmvpe import Rmvpe
from trt_svc.files import DIRECTORY_VARIABLE
from trt_svc.rungs import REFERENCE
from trt_svc.types import Array

FOLDER = Path(__file__).parent / "reports" / "song"
JSON, MARKDOWN = "memory.json", "memory.md"
ALLOWED_MIB = 1536
SIZES = {"small": SMALL, "full": FULL}
MINUTES = {"minute": 1.0, "hour": 60.0, "unbroken": 10.0}
"""The unbroken one has no pause anywhere: one slice."""
METHODS = ("dio", "swift-f0", "rmvpe", "crepe")
REPAIRS = ("none", "shallow")
BACKENDS = (REFERENCE, "onnxruntime")
K_STEP = 30
LOOP_S = 60.0
HOP_SAMPLES = RATE_HZ // 50


class Row(Record):
    """One song, converted once."""

    size: str
    """Of the networks; rmvpe's is always the published one."""
    song: str
    minutes: float
    f0: str
    diffusion: str
    backend: str
    peak_mib: float
    """Of the whole process."""
    rtf: float
    slices: int

    @property
    def case(self) -> tuple[str, str, str, str, str]:
        return self.size, self.song, self.f0, self.diffusion, self.backend


class MemoryReport(Record):
    """All rows, and the machine of the last ones."""

    schema_name: str = "trt_svc.song_memory/1"
    provenance: Provenance
    allowed_mib: int = ALLOWED_MIB
    rows: tuple[Row, ...]

    def growth_mib(self, row: Row) -> float | None:
        """Beyond the minute converted in the same way."""
        alike = (row.size, "minute", row.f0, row.diffusion, row.backend)
        minute = next((other for other in self.rows if other.case == alike), None)
        return None if minute is None else row.peak_mib - minute.peak_mib


# Songs and models.


def song_blocks(name: str, minutes: float) -> Iterator[Array]:
    """(samples,) at a time: phrases with pauses, or one breath."""
    left = round(minutes * 60 * RATE_HZ)
    if name == "unbroken":
        phrases = song(LOOP_S)
        hops = phrases[: len(phrases) // HOP_SAMPLES * HOP_SAMPLES].reshape(-1, HOP_SAMPLES)
        loop = hops[np.abs(hops).max(axis=1) > 0.1 * np.abs(phrases).max()].reshape(-1)  # no pause is left
        while left > 0:
            yield loop[:left]
            left -= len(loop)
    for minute in range(10**6):
        if left <= 0:
            return
        part = song(60.0, minute)[:left]
        left -= len(part)
        yield part


def write_song(path: Path, name: str, minutes: float) -> None:
    with soundfile.SoundFile(path, "w", RATE_HZ, 1, "PCM_16") as file:
        for block in song_blocks(name, minutes):
            file.write(block)


def write_everything(root: Path, size: str) -> None:
    """A model folder with the weights of every method."""
    write_models(root, SIZES[size])
    torch.manual_seed(0)
    torch.save({"model": Rmvpe().state_dict()}, root / "pretrain" / "rmvpe.pt")


# One conversion.


def one_run(model: Path, source: Path, f0: str, diffusion: str, backend: str) -> None:
    """In a process of its own: prints the peak of its memory."""
    from trt_svc.svc.conversion import Conversion
    from trt_svc.svc.pipeline import SVCPipeline

    pipe = SVCPipeline.from_pretrained(model, backend=backend, device="cpu")
    options: dict[str, Any] = {"speaker": SPEAKER, "f0": f0}
    if diffusion != "none":
        options |= {"diffusion": diffusion, "k_step": K_STEP}
    output = source.with_suffix(f".{os.getpid()}.wav")
    told = pipe.convert_file(source, output, Conversion.of(**options))
    output.unlink()
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"peak_mib": round(peak_mib, 1), "rtf": round(told.rtf, 4), "slices": told.slices}))


def measured(model: Path, source: Path, size: str, name: str, f0: str, diffusion: str, backend: str) -> Row:
    """A row, by a process of its own."""
    words = [str(model), str(source), f0, diffusion, backend]
    command = [sys.executable, "-m", "benchmarks.memory_of_songs", "--run", *words]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{size}, {name}, {f0}, {diffusion}, {backend} failed:\n{done.stderr}")
    found = json.loads(done.stdout.splitlines()[-1])
    return Row(size=size, song=name, minutes=MINUTES[name], f0=f0, diffusion=diffusion, backend=backend, **found)


# The report.


def as_markdown(report: MemoryReport) -> str:
    """The page: a line per conversion."""
    made = report.provenance
    lines = [
        "# Memory of long songs",
        "",
        f"Peak of the process (MiB), on {made.cpu}; the growth beyond the minute that was converted in the same way "
        f"must stay within {report.allowed_mib} MiB. `unbroken` has no pause: it goes through the networks as one "
        "slice. Written by `make bench-song-memory`.",
        "",
        "| networks | song | minutes | f0 | diffusion | backend | peak | growth | slices |",
        "|---|---|---:|---|---|---|---:|---:|---:|",
    ]
    for row in sorted(report.rows, key=lambda row: (row.size, row.f0, row.diffusion, row.backend, row.minutes)):
        grown = report.growth_mib(row)
        growth = "" if grown is None or row.song == "minute" else f"{grown:+.0f}"
        lines.append(
            f"| {row.size} | {row.song} | {row.minutes:g} | {row.f0} | {row.diffusion} | {row.backend} | "
            f"{row.peak_mib:.0f} | {growth} | {row.slices} |"
        )
    return "\n".join([*lines, ""])


def write(report: MemoryReport, folder: Path) -> None:
    write_files(folder, {JSON: report.model_dump_json(indent=1) + "\n", MARKDOWN: as_markdown(report)})


def known_rows(folder: Path) -> tuple[Row, ...]:
    path = folder / JSON
    return MemoryReport.model_validate_json(path.read_text("utf-8")).rows if path.is_file() else ()


def too_large(report: MemoryReport) -> list[str]:
    """Rows that grow beyond what is allowed, in words."""
    grown = ((row, report.growth_mib(row)) for row in report.rows)
    return [f"{', '.join(row.case)}: +{g:.0f} MiB" for row, g in grown if g is not None and g > report.allowed_mib]


def _all(size: str, wanted: Iterable[tuple[str, str, str, str]], folder: Path) -> MemoryReport:
    """Measures what is wanted, writing the report after every row."""
    rows = {row.case: row for row in known_rows(folder)}
    report = MemoryReport(provenance=provenance("make bench-song-memory"), rows=tuple(rows.values()))
    built: set[tuple[str, ...]] = set()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        os.environ[DIRECTORY_VARIABLE] = str(root / "engines")
        write_everything(root / "model", size)
        for case in wanted:
            source = root / f"{case[0]}.flac"
            if not source.exists():
                write_song(source, case[0], MINUTES[case[0]])
            if case[1:] not in built and case[-1] != REFERENCE:
                measured(root / "model", source, size, *case)  # builds the engines, which takes memory of its own
            built.add(case[1:])
            row = measured(root / "model", source, size, *case)
            print(f"{', '.join(row.case)}: {row.peak_mib:.0f} MiB, RTF {row.rtf:.2f}", flush=True)
            rows[row.case] = row
            report = report.model_copy(update={"rows": tuple(rows.values())})
            write(report, folder)
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", nargs=5, help=argparse.SUPPRESS)
    parser.add_argument("--size", choices=SIZES, default="small")
    for name, known in (("songs", tuple(MINUTES)), ("methods", METHODS), ("repairs", REPAIRS), ("backends", BACKENDS)):
        parser.add_argument(f"--{name}", default=",".join(known), help=f"some of {','.join(known)}")
    parser.add_argument("--out", type=Path, default=FOLDER)
    options = parser.parse_args()
    if options.run:
        model, source, *rest = options.run
        one_run(Path(model), Path(source), *rest)
        return
    asked = (options.songs, options.methods, options.repairs, options.backends)
    report = _all(options.size, product(*(words.split(",") for words in asked)), options.out)
    for line in too_large(report):
        print("too large:", line)
    raise SystemExit(bool(too_large(report)))


if __name__ == "__main__":
    main()
