"""Frames in, samples out, as they come: the same samples as one call on everything."""

from __future__ import annotations

from dataclasses import replace
from types import TracebackType
from typing import Any, Literal, Self, TypeAlias

import numpy as np

from trt_svc.arrays import joined, like
from trt_svc.errors import InputError, shown
from trt_svc.excitation import Excitation, ExcitationRun
from trt_svc.inputs import check_piece, check_speaker
from trt_svc.ladder import Ladder
from trt_svc.noise import Noise, check_seeds
from trt_svc.stages import Chain
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
        self._ladder = ladder
        self._excitation = excitation
        self._speaker = speaker
        self._seed = seed
        self._keep_tensors = keep_tensors
        self._run: ExcitationRun | None = None
        self._embedding: Any = None
        self._batch: int | None = None
        self._frames = 0
        self._kind: Any = np.empty(0, np.float32)
        self._warned: set[str] = set()
        self._closed = False
        self.lookahead_frames = checked_lookahead(lookahead, ladder.span.right)
        """Frames behind a frame that are waited for before its samples come."""
        exact = self.lookahead_frames == ladder.span.right
        self._windows: Windows | Chain
        if exact and ladder.rung.stages:
            self._windows = Chain(ladder.rung.stages, ladder.run_stage, self._most_frames)
        else:
            self._windows = Windows(replace(ladder.span, right=self.lookahead_frames), ladder.start, ladder.bounds)

    @property
    def latency_frames(self) -> int:
        """Frames that have to follow a frame before its samples come: the look-ahead, and the source's own."""
        return self.lookahead_frames + self._excitation.lookahead_frames

    @property
    def redundancy(self) -> tuple[float, ...]:
        """Computed frames per frame put out so far, for every stage of the chain."""
        links = self._windows.links if isinstance(self._windows, Chain) else [self._windows]
        return tuple(link.redundancy for link in links)

    def push(self, mel: Any, f0: Any = None) -> Any:
        """Samples (B, n) that are ready after these frames: mel (B, n_mels, t), f0 (B, t) in Hz; n may be 0."""
        self._check_open()
        piece = check_piece(
            self._ladder.voice.spec, mel, f0, self._batch, keep_tensors=self._keep_tensors, seen=self._warned
        )
        self._kind = mel
        if self._run is None:
            self._begin(piece.batch)
        self._frames += piece.frames
        return self._advance({"mel": piece.mel}, piece.f0, piece.frames, last=False)

    def flush(self) -> Any:
        """The samples that were held back for want of what follows; the stream is over then."""
        self._check_open()
        self._closed = True
        if self._run is None or not self._frames:
            return like(self._kind, np.zeros((self._batch or 1, 0), np.float32))
        nothing = np.zeros((self._batch or 1, 0), np.float32)
        return self._advance({}, nothing, 0, last=True)

    def close(self) -> None:
        """Drops what is held back."""
        self._closed = True
        for link in self._windows.links if isinstance(self._windows, Chain) else [self._windows]:
            link.forget()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check_open(self) -> None:
        if self._closed:
            raise InputError("a push to a stream", "the stream has ended.", "Open another one: v.stream().")

    def _begin(self, batch: int) -> None:
        voice = self._ladder.voice
        self._batch = batch
        embedding = check_speaker(voice.spec, self._speaker, batch, None)
        self._embedding = None if embedding is None else np.asarray(embedding)
        noise = Noise(self._excitation.fields, check_seeds(self._seed, batch))
        self._run = self._excitation.begin(noise)

    def _advance(self, pieces: dict[str, Any], f0: Array | None, frames: int, last: bool) -> Any:
        assert self._run is not None
        pieces |= self._run.push(f0, frames, last)
        if self._embedding is not None:
            pieces["speaker"] = np.repeat(self._embedding, frames, axis=2)
        made = self._windows.push(pieces, last)
        return like(self._kind, joined(made) if made else np.zeros((self._batch or 1, 0), np.float32))

    def _most_frames(self) -> int | None:
        limits = [self._ladder.bounds().most, self._ladder.rung.stage_frames]
        return min((limit for limit in limits if limit is not None), default=None)


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
