"""One song on its way through a model: cut at its pauses, heard, sung piece by piece, joined.

The next piece is heard while this one is sung.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Self, TypeVar

import numpy as np
import torch

from trt_svc.errors import BuildCancelled, InputError
from trt_svc.progress import Progress
from trt_svc.svc.assembly import Joiner
from trt_svc.svc.conversion import ONLY, SHALLOW, Conversion
from trt_svc.svc.draws import GivenDraws, numbered, upstream_draws
from trt_svc.svc.listening import Heard, Listener, Mixing
from trt_svc.svc.loudness import following_loudness
from trt_svc.svc.model import Model
from trt_svc.svc.piece_rules import Joint, PieceRules, piece_rules
from trt_svc.svc.pieces import Piece, pieces_of
from trt_svc.svc.singer import Chance
from trt_svc.svc.slicer import cut_blocks_at_silences
from trt_svc.svc.source_reader import PieceReader, Source
from trt_svc.svc.speaker_mix import SpeakerMix, frame_places, speaker_mix, upstream_frames
from trt_svc.types import Array

Listened = tuple[Piece, Heard | None]
"""A piece with what was heard in it; nothing in a pause."""
PAUSE_BLOCK_S = 10
Item = TypeVar("Item")
Made = TypeVar("Made")


@dataclass
class Take:
    """A song and how it is to be converted."""

    model: Model
    options: Conversion
    source: Source
    rules: PieceRules
    pieces: tuple[Piece, ...]
    listener: Listener
    mixing: Mixing | None
    voices: Voices
    draws: GivenDraws | None
    sung: int = field(default=0, init=False)

    @classmethod
    def of(cls, model: Model, source: Source, options: Conversion, draws: GivenDraws | None) -> Self:
        """Looks for the pauses, and for everything that the options need: what is missing is said before the work."""
        without_voice = options.diffusion == ONLY
        with model.watch.running("opening"):
            ears, speakers = model.ears(without_voice), model.speakers(without_voice)
            speaker = None if options.speaker_mix is not None else speakers.number(options.speaker)
            mixing = None if speaker is None else model.mixing(options, speakers.name(speaker), speaker)
            listener = model.listener(options)
            model.require(options)
        with model.watch.running("slicing"):
            slices = cut_blocks_at_silences(source.mono_blocks(), source.sample_rate, options.slicing())
        rules = piece_rules(options.pieces(model.compat), source.sample_rate, ears.sample_rate_hz)
        pieces = tuple(pieces_of(slices, source.sample_rate, rules.settings))
        mix = None
        if options.speaker_mix is not None:
            mix = speaker_mix(options.speaker_mix, speakers.count, speakers.names)
        frames = upstream_frames(pieces, len(slices), ears.hop_samples, rules) if model.compat else 0
        voices = Voices(speaker, mix, rules, ears.hop_samples, pieces[-1].stop if pieces else 0, frames)
        return cls(model, options, source, rules, pieces, listener, mixing, voices, draws)

    @property
    def sample_rate(self) -> int:
        return self.rules.rate_out

    @property
    def samples(self) -> int:
        """No fewer than will come out."""
        return sum(self.rules.length(piece) for piece in self.pieces)

    def blocks(self, progress: Progress) -> Iterator[Array]:
        """The converted song in blocks (samples,)."""
        joiner, done = Joiner(self.rules.overlap_samples), 0
        progress.stage("converting")
        for group in in_batches(one_ahead(self._hear(), self.pieces), self.model.batch):
            if progress.cancelled:
                raise BuildCancelled("converting a song", "it was stopped.", "Nothing was stored.")
            progress.step(done, len(self.pieces))
            for piece, made in zip([piece for piece, _ in group], self._made(group), strict=True):
                joint = self.rules.joint(piece)
                for part in made:
                    yield joiner.add(part, joint)
                    joint = Joint()
            done += len(group)
        progress.step(len(self.pieces), len(self.pieces))
        yield joiner.rest()

    def _hear(self) -> Callable[[Piece], Listened]:
        read = PieceReader(self.source)

        def hear(piece: Piece) -> Listened:
            if piece.silent:
                return piece, None
            fed = self.rules.fed(read(piece.start, piece.stop))
            return piece, self.listener.heard(fed, self.rules.rate_in, self.options, self.mixing)

        return hear

    def _made(self, group: Sequence[Listened]) -> Iterator[Iterable[Array]]:
        """The output of every piece of a group, whose sounds are of one length, in parts."""
        pieces = [piece for piece, heard in group if heard is not None]
        sounds = [heard for _, heard in group if heard is not None]
        voiced = iter(self._voiced(Heard.together(sounds), pieces)) if pieces else iter(())
        self.sung += len(pieces)
        for piece, heard in group:
            if heard is None:
                yield silence(self.rules.length(piece), PAUSE_BLOCK_S * self.sample_rate)
            else:
                yield (self.rules.fitted(self._levelled(next(voiced), heard), piece),)

    def _levelled(self, audio: Array, heard: Heard) -> Array:
        share = self.options.loudness_share
        if share == 1:
            return audio
        with self.model.watch.running("loudness"):
            return following_loudness(audio, self.sample_rate, heard.audio[0], self.sample_rate, share)

    def _voiced(self, heard: Heard, pieces: Sequence[Piece]) -> Array:
        """Pieces in the new voice (pieces, samples), padding included."""
        options, model, chance = self.options, self.model, self._chance(pieces)
        speakers = [self.voices.of(piece, heard.frames) for piece in pieces]
        if options.diffusion == ONLY:
            return model.diffusion.generated(heard, self._for_diffusion(speakers), options, chance)
        singer = model.singer
        sung = singer.sing(heard, np.concatenate([singer.speaker(one) for one in speakers]), options, chance)
        if options.diffusion == SHALLOW:
            chosen = self._for_diffusion(speakers)
            return model.diffusion.refined(heard, sung, chosen, options, chance, self.listener)
        if options.enhance:
            voice = model.voice
            return model.enhancer.enhanced(sung, voice.sample_rate_hz, voice.hop_samples, options, chance)
        return sung.audio

    def _for_diffusion(self, speakers: Sequence[int | torch.Tensor]) -> int | Array:
        """One number for all pieces, or weights (pieces, frames, speakers)."""
        first = speakers[0]
        if isinstance(first, int):
            return first
        mixes = np.stack([one.numpy() for one in speakers if isinstance(one, torch.Tensor)])
        return mix_for(self.model.diffusion.model.net.speakers, mixes)

    def _chance(self, pieces: Sequence[Piece]) -> Chance:
        places = tuple(first_frame(piece, self.rules, self.voices.hop_samples) for piece in pieces)
        if self.draws is not None:
            return Chance(self.options.seed, places, numbered(self.draws))
        return Chance(self.options.seed, places, upstream_draws() if self.model.compat else None)


@dataclass
class Voices:
    """Who sings, over the song: one speaker, or a mix."""

    speaker: int | None
    mix: SpeakerMix | None
    rules: PieceRules
    hop_samples: int
    source_samples: int
    upstream_frames: int
    """As many as so-vits-svc tabulates, in compat."""
    _used: int = field(default=0, init=False)

    def of(self, piece: Piece, frames: int) -> int | torch.Tensor:
        """A number, or weights (frames, speakers)."""
        if self.mix is None:
            assert self.speaker is not None
            return self.speaker
        if not self.rules.settings.compat:
            places = frame_places(piece, frames, self.hop_samples, self.rules, self.source_samples)
            return torch.from_numpy(np.ascontiguousarray(self.mix.weights(places).T))
        weights = self.mix.frame_weights(self.upstream_frames)[:, self._used : self._used + frames]
        self._used += frames
        if weights.shape[1] < frames:
            found = "so-vits-svc counts the padding at the rate of the recording and runs out of frames."
            raise InputError("a mix of speakers in compat", found, "Leave compat off, or resample the recording.")
        return torch.from_numpy(np.ascontiguousarray(weights.T))


def first_frame(piece: Piece, rules: PieceRules, hop_samples: int) -> int:
    """Where in the song a piece begins, its padding included, in the model's frames; never below 0."""
    padding_s = rules.settings.padding_s
    lead = int(padding_s * rules.rate_out / hop_samples) + 1
    return lead + round((piece.start / rules.rate_in - padding_s) * rules.rate_out / hop_samples)


def silence(samples: int, most: int) -> Iterator[Array]:
    """So many zeros, at most so many at a time: pauses may be longer than anything that is sung."""
    for start in range(0, samples, most):
        yield np.zeros(min(most, samples - start), np.float32)


def one_ahead(work: Callable[[Item], Made], items: Iterable[Item]) -> Iterator[Made]:
    """The results in order; the next one is being made while this one is used."""
    with ThreadPoolExecutor(1) as pool:
        waiting: Future[Made] | None = None
        for item in items:
            coming = pool.submit(work, item)
            if waiting is not None:
                yield waiting.result()
            waiting = coming
        if waiting is not None:
            yield waiting.result()


def in_batches(heard: Iterable[Listened], most: int) -> Iterator[list[Listened]]:
    """Neighbours whose sounds are of one length together, `most` of them at a time; pauses between them come along."""
    group: list[Listened] = []
    frames: set[int] = set()
    count = 0
    for piece, sound in heard:
        if sound is not None and (count == most or not frames <= {sound.frames}):
            yield group
            group, frames, count = [], set(), 0
        group.append((piece, sound))
        if sound is not None:
            frames.add(sound.frames)
            count += 1
            if count == most == 1:  # nothing to wait for
                yield group
                group, frames, count = [], set(), 0
    if group:
        yield group


def mix_for(count: int, weights: Array) -> int | Array:
    """Weights (pieces, frames, speakers of the voice) for a model of `count`: voices often have room for more."""
    if count == 1:
        return 0
    if weights[..., count:].any():
        found = f"the diffusion model has {count} speakers, and the mix has others."
        raise InputError("a mix of speakers with diffusion", found, "Mix those that both models have.")
    known = weights[..., :count]
    return np.pad(known, ((0, 0), (0, 0), (0, count - known.shape[-1])))
