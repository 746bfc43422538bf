"""Every contender on the same few seconds: written as audio for the ear, and judged against torch float32."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trt_svc.audio import write_audio
from trt_svc.bench.cost import cost_of
from trt_svc.bench.entries import REFERENCE, Entry
from trt_svc.bench.quality.base import Pair, judged
from trt_svc.bench.race import failure
from trt_svc.bench.report import AUDIO, Listening, Network
from trt_svc.bench.subjects import Subject
from trt_svc.checkpoints.describe import FRAMES_COUNTED
from trt_svc.clips import Clip
from trt_svc.errors import OutputError
from trt_svc.graph.check import reference_audio
from trt_svc.progress import Progress
from trt_svc.request import sha256
from trt_svc.types import Array

log = logging.getLogger(__name__)

MOST_BYTES = 90
DIFFERENCE_PEAK = 0.5
"""A difference is scaled up to this: it could not be heard otherwise."""


@dataclass(frozen=True)
class _Shelf:
    """Where a network's audio files go."""

    folder: Path
    prefix: str
    sample_rate: int

    def put(self, name: str, audio: Array) -> str | None:
        """Its path inside the report's folder; None where it cannot be written: the figures matter more."""
        inside = f"{AUDIO}/{self.prefix}-{slug(name)}.flac"
        try:
            write_audio(self.folder / inside, audio, self.sample_rate)
        except OutputError as err:
            log.warning("%s", err)
            return None
        return inside


def described(subject: Subject, recording: Path) -> Network:
    """The network before anything was heard of it."""
    net, spec = subject.net, subject.net.spec
    return Network(
        name=subject.name,
        family=net.family,
        variant=net.variant,
        origin=subject.origin,
        trained=subject.trained,
        weights_sha256=subject.weights_sha256,
        parameters=sum(p.numel() for p in net.parameters()),
        sample_rate=spec.sample_rate,
        hop=spec.hop,
        gflop_per_audio_s=cost_of(net, 1, FRAMES_COUNTED).gflop / (FRAMES_COUNTED / spec.frames_per_second),
        listened_to=recording.name if spec.mel is not None else "a seeded random latent",
    )


def listened(
    network: Network,
    subject: Subject,
    clip: Clip,
    entries: Sequence[Entry],
    judge: bool,
    folder: Path,
    progress: Progress,
) -> Network:
    """The network with everything that was heard of it."""
    net, spec = subject.net, subject.net.spec
    shelf = _Shelf(folder, slug(subject.name), spec.sample_rate)
    reference = reference_audio(net, clip.inputs)[0]
    pair = Pair(reference, reference, spec.sample_rate, spec.mel, subject.trained, clip.recording)
    found = []
    rivals = [entry for entry in entries if entry.label != REFERENCE]
    for done, entry in enumerate(rivals, start=1):
        heard = _heard(entry, clip, pair, judge, shelf)
        if heard is not None:
            found.append(heard)
        progress.step(done, len(rivals))
    return network.model_copy(
        update={
            "recording": None if clip.recording is None else shelf.put("recording", clip.recording),
            "reference": shelf.put("reference", reference),
            "listening": tuple(found),
        }
    )


def _heard(entry: Entry, clip: Clip, pair: Pair, judge: bool, shelf: _Shelf) -> Listening | None:
    """What one contender makes of the clip; None where it cannot run at all."""
    if entry.entrant is None:
        return None
    try:
        placed = entry.entrant.placed({name: value.numpy() for name, value in clip.inputs.items()})
        made = entry.entrant.audio(entry.entrant.run(placed))[0]
    except Exception as err:  # whatever a runtime throws is its own row's business
        return Listening(contender=entry.label, metrics={}, notes={"audio": failure(err)})
    if made.shape != pair.reference.shape or not np.isfinite(made).all():
        return Listening(contender=entry.label, metrics={}, notes={"audio": "wrong length, or not finite"})
    metrics, notes = judged(pair.with_made(made)) if judge else ({}, {})
    return Listening(
        contender=entry.label,
        metrics=metrics,
        notes=notes,
        audio=shelf.put(entry.label, made),
        **_difference(entry.label, made - pair.reference, shelf),
    )


def _difference(label: str, gap: Array, shelf: _Shelf) -> dict[str, str | float | None]:
    """The difference as audio, scaled up; nothing where there is none."""
    peak = float(np.abs(gap).max())
    if peak == 0:
        return {}
    gain = DIFFERENCE_PEAK / peak
    return {
        "difference": shelf.put(f"{label} difference", (gap * gain).astype(np.float32)),
        "difference_gain_db": round(20 * float(np.log10(gain)), 1),
    }


def slug(name: str) -> str:
    """A file name for a label or a network, whatever is in it; letters of any script stay."""
    plain = re.sub(r"[^\w.]+", "-", name).strip("-.")
    if len(plain.encode()) > MOST_BYTES:
        # File systems count bytes; what is cut off still tells two names apart.
        plain = plain.encode()[:MOST_BYTES].decode(errors="ignore") + "-" + sha256(name.encode())[:8]
    return plain or "network"
