"""Resampling, slicing, assembly, and what is measured along the way."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from tests import golden_svc as golden
from tests.parity_svc.base import EXACT, Comparison, Subject, Tolerance
from trt_svc.svc.assembly import converted_recording
from trt_svc.svc.loudness import following_loudness
from trt_svc.svc.pieces import PieceSettings, pieces_of
from trt_svc.svc.sinc import sinc_resample
from trt_svc.svc.slicer import SlicerSettings, all_slices, cut_at_silences, upstream_chunks
from trt_svc.svc.sound import as_mono
from trt_svc.svc.units import repeated_units
from trt_svc.svc.volume import frame_volume

SLICER = golden.meta("slicer")
UTILITIES = golden.arrays("retrieval_utils")
RESAMPLED, SUM = Tolerance(0, 2e-6), Tolerance(1e-6, 0)


def resampling(_: Path) -> Iterator[Comparison]:
    data = golden.arrays("resample")
    for case in sorted(key[:-2] for key in data if key.endswith(".x")):
        rate_in, rate_out, width = map(int, case.split("_"))
        made = sinc_resample(data[f"{case}.x"], rate_in, rate_out, width)
        assert made.dtype == np.float32
        words = f"{rate_in} to {rate_out} Hz, width {width}"
        yield Comparison(words, f"{case}.y", made, data[f"{case}.y"], RESAMPLED)


# Slicing


def slicer_recording() -> tuple[np.ndarray, int]:
    audio, rate = soundfile.read(golden.FOLDER / "slicer.flac", dtype="float32")
    return audio, rate


def as_rows(chunks: dict[str, Any]) -> np.ndarray:
    """Upstream's chunks as numbers: silent, first sample, end."""
    rows = [(chunk["slice"], *chunk["split_time"].split(",")) for chunk in chunks.values()]
    return np.array([[int(number) for number in row] for row in rows])


def slices(_: Path) -> Iterator[Comparison]:
    audio, rate = slicer_recording()
    left = audio[: 7 * rate]
    recordings = {name: (audio, float(name), case) for name, case in SLICER["cases"].items()}
    name = "stereo_first7s_roll100"
    recordings[name] = np.stack([left, np.roll(left, 100)]), -40, SLICER[name]
    for name, (given, threshold, case) in recordings.items():
        settings, words = SlicerSettings(threshold), f"{threshold:.0f} dB" + (", stereo" if given.ndim == 2 else "")
        chunks = upstream_chunks(all_slices([given], rate, settings))
        yield Comparison(words, f"{name}.chunks", as_rows(chunks), as_rows(case["chunks"]), EXACT)
        lengths = [[cut.silent, cut.samples] for cut in cut_at_silences(given, rate, settings)]
        yield Comparison(words, f"{name}.audio", np.array(lengths), np.array(case["audio"]), EXACT)
    voiced = [cut for cut in cut_at_silences(recordings[name][0], rate) if not cut.silent]
    mono = as_mono(recordings[name][0], "slicing")
    total = sum(float(np.abs(mono[cut.start : cut.stop]).sum(dtype=np.float64)) for cut in voiced)
    key = f"{name}.first_nonsil_sum"
    yield Comparison("mean of both channels", key, np.array(total), np.array(SLICER[name]["first_nonsil_sum"]), SUM)
    chunks = upstream_chunks(all_slices([audio[:3000]], rate))
    yield Comparison("3000 samples", "short3000", as_rows(chunks), as_rows(SLICER["short3000"]), EXACT)


def settings_of(arguments: dict[str, Any], compat: bool) -> PieceSettings:
    names = {"clip_seconds": "clip_s", "lg_num": "overlap_s", "lgr_num": "fade_share", "pad_seconds": "padding_s"}
    given = {"pad_seconds": 0.1, **arguments}
    return PieceSettings(compat=compat, **{names[key]: value for key, value in given.items() if key in names})


def slicer_of(arguments: dict[str, Any]) -> SlicerSettings:
    return SlicerSettings(arguments.get("slice_db", -40))


def louder_every_time(rate_in: int, rate_out: int) -> Callable[[np.ndarray, int], np.ndarray]:
    """The trivial model of the golden assemblies."""
    calls = [0]

    def infer(piece: np.ndarray, rate: int) -> np.ndarray:
        calls[0] += 1
        assert rate == rate_in
        return sinc_resample(piece, rate_in, rate_out) * np.float32(1 + 0.1 * calls[0])

    return infer


def assembly(_: Path) -> Iterator[Comparison]:
    """Slicing, padding and cross-fades, with upstream's rules and with ours."""
    expected, (audio, rate) = golden.arrays("e2e/outputs"), slicer_recording()
    for name, about in golden.meta("e2e/e2e")["cases"].items():
        if not name.startswith("assembly."):
            continue
        arguments = about["args"]
        for compat in (True, False):
            case = f"{name}, {'upstream' if compat else 'our'} rules"
            settings, slicing = settings_of(arguments, compat), slicer_of(arguments)
            pieces = pieces_of(cut_at_silences(audio, rate, slicing), rate, settings)
            infer = louder_every_time(rate, rate)
            made = converted_recording(audio, rate, rate, infer, settings, slicing)
            counts = np.array([sum(not piece.silent for piece in pieces), len(made)])
            yield Comparison(case, f"{name}.n", counts, np.array([about["n_infer"], about["n"]]), EXACT)
            yield Comparison(case, name, made[::25], expected[name], Tolerance(0, 1e-6))
            total = np.abs(made).sum(dtype=np.float64)
            yield Comparison(case, f"{name}.sum_abs", total, np.array(about["sum_abs"]), SUM)


# Measures


def measures(_: Path) -> Iterator[Comparison]:
    for key, expected in UTILITIES.items():
        if found := re.fullmatch(r"rep\.(\w+)\.(\d+)", key):
            made = repeated_units(UTILITIES["rep.in"], int(found[2]), found[1])
            yield Comparison(f"units stretched, {found[1]}", key, made, expected, EXACT)
        elif found := re.fullmatch(r"volume\.(\d+)", key):
            made = frame_volume(UTILITIES["volume.in"][0], int(found[1]))
            yield Comparison("volume", key, made, expected)
        elif found := re.fullmatch(r"rms\.([0-9.]+)", key):
            made = following_loudness(UTILITIES["rms.out_in"], 8000, UTILITIES["rms.src"], 8000, float(found[1]))
            yield Comparison("loudness envelope", key, made, expected)


GIVEN = {"rep.in": "units", "volume.in": "audio", "rms.src": "audio", "rms.out_in": "audio"}
SUBJECTS = [
    Subject("resampling", "resample", resampling, {"*.x": "audio"}),
    Subject("slices", "slicer", slices),
    Subject("assembly", "e2e/outputs", assembly),
    Subject("units, volume, loudness", "retrieval_utils", measures, GIVEN),
]
