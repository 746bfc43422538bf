"""Spectrograms as PNG data: URIs, one scale for all sounds of a network."""

from __future__ import annotations

import base64
import io
import math
from dataclasses import dataclass

import numpy as np

from trt_svc.optional import require
from trt_svc.types import Array, Doubles

_PURPOSE = "drawing the report"

FLOOR_DB = -100
"""Black; the brightest point of the reference is 0 dB."""
_STEP_DB = 2
_COLUMNS, _ROWS = 420, 160
_LEAST_WINDOW = 2048


@dataclass(frozen=True)
class Spectrum:
    """Power (rows, columns) of a sound, low frequencies last."""

    power: Doubles
    seconds: float
    top_hz: float


def spectrum(audio: Array, sample_rate: int) -> Spectrum:
    """Of audio (samples,); the window is at least as long as a column of the picture, so that nothing falls between."""
    hop = max(_LEAST_WINDOW // 4, math.ceil(len(audio) / _COLUMNS))
    window = max(_LEAST_WINDOW, 2 ** math.ceil(math.log2(hop)))
    padded = np.pad(audio, (window // 2, window // 2))
    pieces = np.lib.stride_tricks.sliding_window_view(padded, window)[::hop] * np.hanning(window)
    power = np.abs(np.fft.rfft(pieces, axis=1)[:, : window // 2]) ** 2 / window**2
    top_hz = sample_rate / 2
    edges = (_hertz(np.linspace(0, _mel(top_hz), _ROWS + 1)) / top_hz * power.shape[1]).astype(int)
    rows = np.add.reduceat(power, edges[:-1], axis=1) / np.maximum(np.diff(edges), 1)
    return Spectrum(rows.T[::-1], len(audio) / sample_rate, top_hz)


def _mel(hertz: float) -> float:
    """O'Shaughnessy's scale: where voices have their harmonics there is most room."""
    return 2595 * math.log10(1 + hertz / 700)


def _hertz(mel: Doubles) -> Doubles:
    return 700 * (10 ** (mel / 2595) - 1)


def frequency_ticks(top_hz: float) -> list[tuple[str, float]]:
    """(kHz, percent of the height of a spectrogram)."""
    known = [hertz for hertz in (0, 500, 1000, 2000, 4000, 8000, 16_000) if hertz < 0.9 * top_hz]
    return [(f"{hertz / 1000:g}", round(100 * _mel(hertz) / _mel(top_hz), 1)) for hertz in known]


def spectrogram(found: Spectrum, full_power: float) -> str:
    """A PNG as data: URI; `full_power`, the loudest of the reference, is 0 dB in all pictures of a network."""
    decibels = 10 * np.log10(np.maximum(found.power / max(full_power, 1e-30), 1e-30))
    return _png(decibels)


def scale_picture() -> str:
    """The colours from the floor to 0 dB, left to right."""
    return _png(np.arange(FLOOR_DB, 1, _STEP_DB, dtype=np.float64)[None])


def _png(decibels: Doubles) -> str:
    """One byte per point and a palette: a third of full colour."""
    steps = -FLOOR_DB // _STEP_DB
    levels = np.clip(np.round((decibels - FLOOR_DB) / _STEP_DB), 0, steps).astype(np.uint8)
    image = require("PIL.Image", _PURPOSE).fromarray(levels, mode="L")  # comes with matplotlib
    image.putpalette(_palette(steps + 1))
    written = io.BytesIO()
    image.save(written, format="png", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(written.getvalue()).decode('ascii')}"


def _palette(colours: int) -> bytes:
    found = require("matplotlib", _PURPOSE).colormaps["inferno"](np.linspace(0, 1, colours), bytes=True)[:, :3]
    found[0] = 0
    return bytes(np.ascontiguousarray(found))
