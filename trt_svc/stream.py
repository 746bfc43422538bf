"""Frames in, samples out, as they come: the same samples as one call on everything."""

from __future__ import annotations

from dataclasses import replace
from types import TracebackType
from typing import Any, Literal, Self, TypeAlias

import numpy as np

from trt_svc.arrays import joined, like
from trt_svc.errors import InputError, RunError, shown
from trt_svc.excitation import Excitation, ExcitationRun
from trt_svc.inputs import check_piece, check_speaker
from trt_svc.ladder import Ladder
from trt_svc.noise import Noise, check_seeds
from trt_svc.staged import Staged
from trt_svc.types import Array
from trt_svc.windows import Windows

Lookahead: TypeAlias = "Literal['exact'] | int"


class Stream:
    """A vocoder fed piece by piece; see `Vocoder.stream`. It belongs to one thread."""

    def __init__(
        self,
        ladder: Ladder,
        excitation: Excitation,
        lookahead: Lookahead,
        speaker: Any,
        seed: int | list[int],
        keep_tensors: bool,
    ) -> None:
        self._voice = ladder.voice
        self._excitation = excitation
        self._embedding = _own_embedding(self._voice.spec.needs_speaker, speaker)
        self._seed = seed if np.ndim(seed) == 0 else list(seed)  # type: ignore[arg-type]
        check_seeds(self._seed, 1 if np.ndim(seed) == 0 else len(self._seed))  # type: ignore[arg-type]
        self._keep_tensors = keep_tensors
        self._run: ExcitationRun | None = None
        self._batch: int | None = None
        self._frames = 0
        self._samples = 0
        self._kind: Any = np.empty(0, np.float32)
        self._warned: set[str] = set()
        self._over = ""
        self.lookahead_frames = checked_lookahead(lookahead, ladder.span.right)
        """Frames behind a frame that are waited for before its samples come."""
        self._windows: Windows | Staged
        if self.lookahead_frames == ladder.span.right and ladder.rung.stages:
            self._windows = Staged(ladder)
        else:
            self._windows = Windows(replace(ladder.span, right=self.lookahead_frames), ladder.start, ladder.bounds)

    @property
    def latency_frames(self) -> int:
        """Frames that have to follow a frame before its samples come: the look-ahead, and the source's own."""
        return self.lookahead_frames + self._excitation.lookahead_frames

    @property
    def redundancy(self) -> tuple[float, ...]:
        """Computed frames per frame put out so far, for every stage of the chain."""
        windows = self._windows
        return windows.redundancy if isinstance(windows, Staged) else (windows.redundancy,)

    def push(self, mel: Any, f0: Any = None) -> Any:
        """Samples (B, n) that are ready after these frames: mel (B, n_mels, t), f0 (B, t) in Hz; n may be 0."""
        self._check_open()
        piece = check_piece(self._voice.spec, mel, f0, self._batch, keep_tensors=self._keep_tensors, seen=self._warned)
        if self._run is None:
            self._begin(piece.batch)
        self._kind = mel
        self._frames += piece.frames
        return self._advance({"mel": piece.mel}, piece.f0, piece.frames, last=False)

    def flush(self) -> Any:
        """The samples that were held back for want of what follows; the stream is over then."""
        self._check_open()
        nothing = np.zeros((self._batch or 1, 0), np.float32)
        if self._run is None or not self._frames:
            self._over = "it has been flushed"
            return like(self._kind, nothing)
        made = self._advance({}, nothing, 0, last=True)
        self._over = "it has been flushed"
        whole = self._voice.samples_out(self._frames)
        if self._samples != whole:
            raise RunError(
                f"a stream of {self._frames} frames",
                f"{self._samples} samples came out instead of {whole}.",
                "This is a bug of trt_svc: please report it with the vocoder's config.",
            )
        return made

    def close(self) -> None:
        """Drops what is held back."""
        self._over = self._over or "it has been closed"
        self._windows.forget()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check_open(self) -> None:
        if self._over:
            raise InputError("a push to a stream", f"the stream has ended: {self._over}.", "Open another: v.stream().")

    def _begin(self, batch: int) -> None:
        self._embedding = check_speaker(self._voice.spec, self._embedding, batch, None)
        noise = Noise(self._excitation.fields, check_seeds(self._seed, batch))
        self._batch, self._run = batch, self._excitation.begin(noise)

    def _advance(self, pieces: dict[str, Any], f0: Array | None, frames: int, last: bool) -> Any:
        assert self._run is not None
        over, self._over = self._over, "an earlier push failed, so there is a gap behind it"
        pieces |= self._run.push(f0, frames, last)
        if self._embedding is not None:
            pieces["speaker"] = np.repeat(self._embedding, frames, axis=2)
        made = self._windows.push(pieces, last)
        self._over = over
        audio = joined(made) if made else np.zeros((self._batch or 1, 0), np.float32)
        self._samples += int(audio.shape[1])
        return like(self._kind, audio)


def _own_embedding(needed: bool, speaker: Any) -> Any:
    """A copy: the caller's may change while the stream lasts."""
    if speaker is None or not needed:
        return speaker
    return speaker.detach().clone() if hasattr(speaker, "detach") else np.array(speaker)


def checked_lookahead(lookahead: Lookahead, exact: int) -> int:
    """Frames of look-ahead: what exactness needs, or fewer."""
    if lookahead == "exact":
        return exact
    whole = isinstance(lookahead, (int, np.integer)) and not isinstance(lookahead, bool)
    if not whole or lookahead < 0:
        raise InputError(
            f"lookahead {shown(lookahead)}", "it is neither 'exact' nor a number of frames.", f"Use 0 to {exact}."
        )
    return min(int(lookahead), exact)
