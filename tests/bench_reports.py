"""Reports that nobody measured: small, complete and reproducible, for tests of what is made from them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from trt_svc.audio import write_audio
from trt_svc.bench.report import (
    AUDIO,
    Cell,
    Latency,
    LeftOut,
    Listening,
    Network,
    Opening,
    Peaks,
    Provenance,
    Ratio,
    Report,
    Row,
    Rules,
    Waveform,
)

ROUNDS = 15
RATE, HOP = 16_000, 160
PEAK_GFLOPS = 120.0
UPSTREAM = "torch fp32"
SHAPES: Mapping[str, tuple[tuple[int, int], ...]] = {
    "made_up_nsf": ((64, 1), (256, 1), (1024, 1), (256, 4), (256, 8)),
    "made_up_gan": ((64, 1), (256, 1), (64, 4)),
}
GFLOP_PER_FRAME: Mapping[str, float] = {"made_up_nsf": 0.4, "made_up_gan": 0.9}
EAR = "no trained weights: an ear has nothing to judge in noise"

# (contender, precision, forms, seconds per GFLOP, overhead in seconds, SNR)
CONTENDERS: tuple[tuple[str, str, tuple[str, ...] | None, float, float, float], ...] = (
    ("torch", "fp32", None, 1 / 55, 0.004, math.inf),
    ("torch-compile", "fp32", None, 1 / 62, 0.002, 118.0),
    ("onnxruntime", "fp32", (), 1 / 70, 0.001, 113.0),
    ("onnxruntime", "fp32", ("folded", "subpixel"), 1 / 88, 0.001, 112.0),
    ("openvino", "fp32", (), 1 / 74, 0.0008, 114.0),
    ("openvino", "bf16", (), 1 / 79, 0.0008, 47.0),
)


def small_report(**changes: Any) -> Report:
    """Two networks, several shapes, measured and refused rows; `changes` replace fields of the report."""
    fields: dict[str, Any] = {
        "recipe": "made-up",
        "about": "Synthetic figures for tests; no machine took these times.",
        "provenance": provenance(),
        "rules": Rules(gate_db={"fp32": 90.0, "fp16": 40.0, "bf16": 30.0}, max_spread=0.05, peak_slack=0.1),
        "peaks": peaks(),
        "took_s": 321.0,
        "networks": (network("made_up_nsf", trained=True), network("made_up_gan", trained=False)),
        "cells": tuple(cell(name, *shape) for name, shapes in SHAPES.items() for shape in shapes),
        "left_out": (
            LeftOut(contender="tensorrt", reason="there is no NVIDIA GPU on this machine"),
            LeftOut(contender="torch-compile", precision="bf16", network="made_up_gan", reason="it ran out of memory"),
        ),
    }
    return Report(**{**fields, **changes})


def provenance(**changes: Any) -> Provenance:
    fields: dict[str, Any] = {
        "created": "2031-02-03T04:05:06Z",
        "command": "trt-svc bench made-up --out somewhere",
        "trt_svc": "9.9.9",
        "commit": "0123456789abcdef0123456789abcdef01234567",
        "dirty": False,
        "python": "3.11.0",
        "system": "Made-up OS 1",
        "cpu": "Imaginary Processor @ 3 GHz",
        "cores": 2,
        "affinity": (0, 1),
        "threads": 2,
        "memory_bytes": 8_000_000_000,
        "load": (0.5, 0.4, 0.3),
        "packages": {"torch": "2.99", "onnxruntime": "1.99", "openvino": "2031.0"},
    }
    return Provenance(**{**fields, **changes})


def peaks(**changes: Any) -> Peaks:
    fields: dict[str, Any] = {
        "device": "cpu",
        "gflops": {"fp32": PEAK_GFLOPS},
        "conv_gflops": 95.0,
        "copy_gb_per_s": 11.0,
        "gflops_seen": (118.0, PEAK_GFLOPS, 117.0),
    }
    return Peaks(**{**fields, **changes})


def network(name: str, /, trained: bool, **changes: Any) -> Network:
    """With the audio of every contender named, but not written: see `write_sounds`."""
    fields: dict[str, Any] = {
        "name": name,
        "family": "hifigan",
        "variant": "v1",
        "origin": f"somewhere/{name}.safetensors" if trained else f"{name} as published, weights drawn at random",
        "trained": trained,
        "weights_sha256": "ab" * 32,
        "parameters": 13_900_000,
        "sample_rate": RATE,
        "hop": HOP,
        "gflop_per_audio_s": GFLOP_PER_FRAME.get(name, 1.0) * RATE / HOP,
        "listened_to": "a tone" if trained else "a seeded latent",
        "recording": f"{AUDIO}/{name}/recording.flac" if trained else None,
        "reference": f"{AUDIO}/{name}/reference.flac",
        "listening": tuple(
            listening(name, Row(contender=c, precision=p, forms=f, status="measured").label, snr, trained)
            for c, p, f, _, _, snr in CONTENDERS
        ),
    }
    return Network(**{**fields, **changes})


def listening(name: str, label: str, snr_db: float, trained: bool) -> Listening:
    same = math.isinf(snr_db)
    file = f"{AUDIO}/{name}/{label.replace(' ', '-').replace(',', '')}"
    return Listening(
        contender=label,
        metrics={
            "mr_stft": 0.0 if same else 10 ** (-snr_db / 30),
            "mel_l1": 0.0 if same else 10 ** (-snr_db / 40),
            "pesq_wb": (4.64 if same else 4.64 - 20 / snr_db**1.5) if trained else None,
        },
        notes={} if trained else {"pesq_wb": EAR},
        audio=f"{file}.flac",
        difference=None if same else f"{file}-difference.flac",
        difference_gain_db=None if same else round(snr_db) - 6.0,
    )


def cell(name: str, frames: int, batch: int, **changes: Any) -> Cell:
    """All contenders on one shape; the one with bfloat16 is refused on the second network."""
    gflop = GFLOP_PER_FRAME.get(name, 1.0) * frames * batch
    audio_s = frames * batch * HOP / RATE
    medians = {
        number: gflop * slope * (1 + 0.03 * math.sin(frames + number)) + overhead
        for number, (_, precision, _, slope, overhead, _) in enumerate(CONTENDERS)
        if not (name == "made_up_gan" and precision == "bf16")
    }
    rows = tuple(_row(number, medians, gflop, audio_s, batch) for number in range(len(CONTENDERS)))
    traffic = gflop * 2e7
    fields: dict[str, Any] = {"network": name, "frames": frames, "batch": batch, "audio_s": audio_s, "gflop": gflop}
    return Cell(
        **{**fields, "traffic_bytes": traffic, "source_s": 0.0007 * frames * batch / 64, "rows": rows, **changes}
    )


def _row(number: int, medians: Mapping[int, float], gflop: float, audio_s: float, batch: int) -> Row:
    contender, precision, forms, _, _, snr = CONTENDERS[number]
    known = {"contender": contender, "precision": precision, "forms": forms, "threads": 2}
    if number not in medians:
        return refused(**known)
    median = medians[number]
    others = {label_of(other): s for other, s in medians.items() if CONTENDERS[other][0] != contender}
    fastest = min(others, key=others.__getitem__)
    return Row(
        **known,
        status="measured",
        latency=latency(median, seed=number),
        over_upstream=None if number == 0 else ratio(medians[0] / median, UPSTREAM),
        over_fastest_other=ratio(others[fastest] / median, fastest),
        inferences_per_s=batch / median,
        audio_s_per_s=audio_s / median,
        rtf=median / audio_s,
        gflops=gflop / median,
        percent_of_peak=100 * gflop / median / PEAK_GFLOPS,
        percent_of_roofline=80 * gflop / median / PEAK_GFLOPS,
        waveform=waveform(snr),
        opening=opening(contender),
    )


def label_of(number: int) -> str:
    contender, precision, forms, *_ = CONTENDERS[number]
    return Row(contender=contender, precision=precision, forms=forms, status="measured").label


def refused(**changes: Any) -> Row:
    """Quality is told, speed is not."""
    fields: dict[str, Any] = {
        "contender": "openvino",
        "precision": "bf16",
        "status": "refused",
        "reason": "SNR 12 dB is below the 30 dB that bf16 has to reach",
        "waveform": waveform(12.0),
    }
    return Row(**{**fields, **changes})


def ratio(value: float, against: str) -> Ratio:
    return Ratio(value=value, low=0.97 * value, high=1.03 * value, against=against)


def latency(median_s: float, seed: int = 0, rounds: int = ROUNDS) -> Latency:
    rng = np.random.default_rng(seed)
    seconds = median_s * (1 + 0.02 * np.abs(rng.normal(size=rounds)))
    seconds *= median_s / np.median(seconds)
    return Latency(
        rounds=rounds,
        median_s=median_s,
        p95_s=float(np.percentile(seconds, 95)),
        p99_s=float(np.percentile(seconds, 99)),
        mean_s=float(seconds.mean()),
        min_s=float(seconds.min()),
        spread=0.01,
        drift=0.003,
        outliers=1,
        seconds=tuple(seconds.tolist()),
    )


def waveform(snr_db: float) -> Waveform:
    if math.isinf(snr_db):
        return Waveform(mse=0.0, mae=0.0, max=0.0, snr_db=math.inf)
    mse = 0.01 * 10 ** (-snr_db / 10)
    return Waveform(mse=mse, mae=0.8 * math.sqrt(mse), max=5 * math.sqrt(mse), snr_db=snr_db)


def opening(contender: str) -> Opening:
    if contender.startswith("torch"):
        return Opening(load_s=0.3, first_call_s=26.0 if "compile" in contender else 0.6, rss_added_bytes=250_000_000)
    return Opening(
        from_cache=contender == "openvino",
        build_s=14.0,
        load_s=0.4,
        first_call_s=0.5,
        rss_added_bytes=180_000_000,
        engine_key="c0ffee" * 10 + "0000",
        engine_bytes=56_000_000,
    )


def write_sounds(report: Report, folder: Path, seconds: float = 0.3) -> None:
    """Writes every audio file that the report names: a gliding tone, and noise as far below it as the metrics say."""
    for net in report.networks:
        time = np.arange(int(seconds * net.sample_rate)) / net.sample_rate
        tone = (0.3 * np.sin(2 * np.pi * (220 * time + 60 * time**2))).astype(np.float32)
        for file in (net.recording, net.reference):
            if file is not None:
                write_audio(folder / file, tone, net.sample_rate)
        for heard in net.listening:
            gain_db = heard.difference_gain_db
            noise = np.random.default_rng(0).normal(scale=0.1, size=time.shape).astype(np.float32)
            quiet = np.zeros_like(noise) if gain_db is None else noise * np.float32(10 ** (-gain_db / 20))
            if heard.audio is not None:
                write_audio(folder / heard.audio, tone + quiet, net.sample_rate)
            if heard.difference is not None:
                write_audio(folder / heard.difference, noise, net.sample_rate)
