"""One call from mel to audio, of any length and batch, whatever the vocoder and whatever runs it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np

from trt_svc.arrays import is_tensor, joined, like, on_host, repeated, stacked
from trt_svc.audio import resample
from trt_svc.config import AudioSpec
from trt_svc.denoiser import BIAS_FRAMES, Denoiser
from trt_svc.errors import InputError, RunError
from trt_svc.excitation import Excitation, LatentNoise
from trt_svc.features.mel import log_mel
from trt_svc.gptsovits_chunks import ChunkConstants, chunks_of
from trt_svc.health import Health
from trt_svc.inputs import (
    Utterance,
    as_wave,
    check_amount,
    check_network_inputs,
    check_rate,
    check_utterance,
)
from trt_svc.ladder import Ladder
from trt_svc.noise import Noise, check_given, check_seeds
from trt_svc.stream import Lookahead, Stream
from trt_svc.types import Array
from trt_svc.voice import Voice
from trt_svc.windows import Bounds, Windows, in_equal_parts

if TYPE_CHECKING:
    import torch

    from trt_svc.checkpoints.load import Checkpoint

Waves: TypeAlias = "Array | torch.Tensor"


class Vocoder:
    """A loaded vocoder. Call it with a mel (B, n_mels, T); see `load_vocoder`. Threads may share it."""

    def __init__(
        self, ladder: Ladder, open_checkpoint: Callable[[], Checkpoint], excitation: Excitation | None = None
    ) -> None:
        self._ladder = ladder
        self._open_checkpoint = open_checkpoint
        self._excitation = excitation
        self.last_run_s = 0.0
        """Seconds that the network took in the last call."""

    def __repr__(self) -> str:
        what = f"{self.family} ({self.voice.variant}) {self.spec.sample_rate} Hz"
        return f"<Vocoder {what} on {self.backend}, {self.device}>"

    # What it is.

    @property
    def voice(self) -> Voice:
        """Everything that is known of it but its weights."""
        return self._ladder.voice

    @property
    def spec(self) -> AudioSpec:
        """Rates, sizes and needs."""
        return self.voice.spec

    @property
    def family(self) -> str:
        return self.voice.family

    @property
    def receptive_field(self) -> tuple[int, int]:
        """Mel frames each side (left, right) that an output frame depends on."""
        return self.voice.receptive_field

    @property
    def excitation(self) -> Excitation:
        """The stage in front of the network: source and noise."""
        return self._excitation or self.voice.excitation

    def excited_by(self, excitation: Excitation) -> Vocoder:
        """The same session with another stage in front of the network."""
        return Vocoder(self._ladder, self._open_checkpoint, excitation)

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """The file it came from; opened only when asked for where an engine does the work."""
        return self._open_checkpoint()

    @property
    def backend(self) -> str:
        """What runs the network now."""
        return self._ladder.rung.backend

    @property
    def precision(self) -> str:
        return self._ladder.rung.precision

    @property
    def quality_db(self) -> float | None:
        """SNR of the engine that runs now against torch float32, measured when it was built; None for torch itself."""
        return self._ladder.rung.quality_db

    @property
    def device(self) -> str:
        return ", ".join(lane.name for lane in self._ladder.rung.lanes.live)

    @property
    def chunk_frames(self) -> int | None:
        """Longest single run now; longer input is cut without a trace. None: nothing is cut."""
        return self._ladder.bounds().most

    @property
    def health(self) -> Health:
        """What has gone wrong so far, and what was done about it."""
        return self._ladder.record.now()

    @property
    def chunks(self) -> ChunkConstants | None:
        """GPT-SoVITS's chunk lengths, for its vocoders; pieces of these lengths are run whole."""
        return chunks_of(self.spec)

    def noise_spec(self, batch: int, frames: int) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the random inputs, in the order upstream draws them."""
        return {field.name: field.shape(batch, frames) for field in self.excitation.fields}

    # What it does.

    def mel(self, audio: Waves, sample_rate: int, key_shift: float = 0.0) -> Waves:
        """The family's own log-mel (B, n_mels, T) of audio (N,) or (B, N) at any rate."""
        spec = self.spec.mel
        if spec is None:
            raise InputError(
                f"mel for {self.family}",
                "this vocoder takes the latent of a voice model, not a mel.",
                "Call it with the latent (B, channels, T).",
            )
        wave = resample(as_wave(audio), check_rate(sample_rate), spec.sample_rate)
        return cast(Waves, like(audio, log_mel(wave, spec, key_shift)))

    def __call__(
        self,
        mel: Waves,
        f0: Waves | None = None,
        speaker: Waves | None = None,
        noise: Mapping[str, Any] | None = None,
        seed: int | list[int] = 0,
        *,
        sigma: float | None = None,
        denoiser_strength: float = 0.0,
        first_frame: int | Sequence[int] = 0,
    ) -> Waves:
        """Audio (B, samples) for a mel (B, n_mels, T) of any length.

        f0: (B, T) in Hz, 0 where unvoiced, for vocoders with a source. speaker: (B, channels) or
        (B, channels, T). noise: random inputs as upstream draws them (`noise_spec`); what is not given
        comes from `seed`. sigma and denoiser_strength belong to WaveGlow. first_frame: where in a longer recording
        this lies (for all rows, or each), whose noise it then gets. Torch in, torch out.
        """
        utterance = check_utterance(self.spec, mel, f0, speaker, keep_tensors=self._keeps(mel))
        excitation = self._with_sigma(sigma)
        denoiser_strength = check_amount("denoiser_strength", denoiser_strength, "Use 0 or more; 0.1 is usual.")
        denoiser = self._denoiser if denoiser_strength else None
        wave = self._render(excitation, utterance, noise or {}, seed, first_frame)
        if denoiser is not None:
            wave = denoiser(on_host(wave), denoiser_strength)
        return cast(Waves, like(mel, wave))

    def run_network(self, inputs: Mapping[str, Waves]) -> Waves:
        """Audio (B, samples) from the network's own inputs, for callers that make source and noise themselves.

        Every input of `voice.inputs`, each (B, channels, frames * per_frame). Torch in, torch out.
        """
        mel = inputs["mel"]
        checked = check_network_inputs(self.voice, inputs, self._keeps(mel))
        windows = Windows(self._ladder.span, self._ladder.start, self._ladder.bounds, ahead=self._ladder.workers)
        started = time.perf_counter()
        wave = joined(windows.push(checked, last=True))
        self.last_run_s = time.perf_counter() - started
        return cast(Waves, like(mel, self._whole(wave, int(checked["mel"].shape[2]))))

    def batch(
        self,
        mels: Sequence[Waves],
        f0: Sequence[Waves] | None = None,
        speaker: Sequence[Waves] | None = None,
        seed: int | Sequence[int] = 0,
        *,
        sigma: float | None = None,
    ) -> list[Waves]:
        """Audio (samples,) of clips (n_mels, T) or (1, n_mels, T) of any lengths, in their order.

        f0 and speaker: one per clip; seed: one for all, or one per clip. Clips of equal length share runs; each
        result is what the clip alone would give.
        """
        clips = [_one_clip(number, mel) for number, mel in enumerate(mels)]
        curves, voices = _per_clip("f0", f0, len(clips)), _per_clip("speaker", speaker, len(clips))
        seeds = check_seeds(cast(Any, seed if np.ndim(seed) == 0 else list(cast(Any, seed))), len(clips))
        checked = [
            check_utterance(self.spec, *given, keep_tensors=self._keeps(given[0]))
            for given in zip(clips, curves, voices, strict=True)
        ]
        excitation = self._with_sigma(sigma)
        made: list[Any] = [None] * len(clips)

        def run(together: list[int]) -> None:
            rows = _stacked_rows([checked[i] for i in together])
            wave = self._render(excitation, rows, {}, [seeds[i] for i in together])
            for row, i in enumerate(together):
                made[i] = like(mels[i], wave[row])

        # As many at a time as there are devices.
        with ThreadPoolExecutor(self._ladder.workers) as pool:
            list(pool.map(run, _buckets(checked)))
        return made

    def stream(
        self,
        lookahead: Lookahead = "exact",
        speaker: Waves | None = None,
        seed: int | list[int] = 0,
        *,
        sigma: float | None = None,
    ) -> Stream:
        """A stream: `with v.stream() as s: s.push(mel, f0) -> samples; s.flush()`.

        lookahead: "exact" gives the samples of one call on everything; fewer frames give them earlier and a little
        differently (`trt-svc lookahead-curve`). speaker: (B, channels), the same for all frames.
        """
        return Stream(self._ladder, self._with_sigma(sigma), lookahead, speaker, seed, self._on_gpu)

    # How.

    @property
    def _on_gpu(self) -> bool:
        return any(lane.name.startswith("cuda") for lane in self._ladder.rung.lanes.live)

    def _keeps(self, mel: object) -> bool:
        """Does a mel stay where it is? On GPUs; the CPU's runtimes take NumPy, which shares a tensor's memory."""
        return self._on_gpu and is_tensor(mel)

    def _render(
        self,
        excitation: Excitation,
        utterance: Utterance,
        noise: Mapping[str, Any],
        seed: int | list[int],
        first_frame: int | Sequence[int] = 0,
    ) -> Any:
        batch, frames = utterance.batch, utterance.frames
        if not isinstance(noise, Mapping):
            raise InputError("noise", f"a {type(noise).__name__} is no table.", "Give {name: array}; see noise_spec().")
        arrays = {name: on_host(value) if is_tensor(value) else value for name, value in noise.items()}
        given = check_given(excitation.fields, arrays, batch, frames)
        run = excitation.begin(Noise(excitation.fields, check_seeds(seed, batch), given, first_frame))
        ladder = self._ladder

        def bounds() -> Bounds:
            return in_equal_parts(ladder.bounds(), ladder.span, frames)

        windows = Windows(ladder.span, ladder.start, bounds, ahead=ladder.workers)
        made, network_s = [], 0.0
        for first, stop in self._pieces(frames):
            f0 = None if utterance.f0 is None else utterance.f0[:, first:stop]
            pieces = {"mel": utterance.mel[:, :, first:stop], **run.push(f0, stop - first, stop == frames)}
            if utterance.speaker is not None:
                # Once per frame: engines have one time axis.
                pieces["speaker"] = _per_frame(utterance.speaker, first, stop)
            started = time.perf_counter()
            made += windows.push(pieces, last=stop == frames)
            network_s += time.perf_counter() - started
        self.last_run_s = network_s
        return self._whole(joined(made), frames)

    def _whole(self, wave: Any, frames: int) -> Any:
        if wave.shape[1] != self.voice.samples_out(frames):
            raise RunError(
                f"a call of {frames} frames",
                f"{wave.shape[1]} samples came out instead of {self.voice.samples_out(frames)}.",
                "This is a bug of trt_svc: please report it with the vocoder's config.",
            )
        return wave

    def _pieces(self, frames: int) -> list[tuple[int, int]]:
        """The frames to feed at once: all where they fit in one run, else as many as keep every device busy."""
        span = self._ladder.span
        most = in_equal_parts(self._ladder.bounds(), span, frames).most
        if most is None or frames <= most:
            return [(0, frames)]
        context = span.left + span.right
        size = max(1, most - context) * self._ladder.workers
        edges = [0, *range(min(frames, size + context), frames, size), frames]
        return list(pairwise(edges))

    def _with_sigma(self, sigma: float | None) -> Excitation:
        if sigma is None:
            return self.excitation
        if not isinstance(self.excitation, LatentNoise):
            raise InputError("sigma", f"{self.family} has no noise to scale.", "It belongs to WaveGlow: leave it out.")
        return replace(self.excitation, sigma=check_amount("sigma", sigma, "Use 0 or more; 0.6 suits speech."))

    @cached_property
    def _denoiser(self) -> Denoiser:
        if not isinstance(self.excitation, LatentNoise):
            raise InputError(
                "denoiser_strength", f"{self.family} has no denoiser.", "It belongs to WaveGlow: leave it at 0."
            )
        silent = Utterance(np.zeros((1, self.spec.n_mels, BIAS_FRAMES), np.float32), None, None)
        return Denoiser.from_bias_audio(on_host(self._render(replace(self.excitation, sigma=0.0), silent, {}, 0)))


def _per_frame(speaker: Any, first: int, stop: int) -> Any:
    """A speaker's frames [first, stop); a constant one is repeated."""
    return speaker[:, :, first:stop] if speaker.shape[2] > 1 else repeated(speaker, stop - first)


def _one_clip(number: int, mel: Any) -> Any:
    """(1, n_mels, T)."""
    array = mel if is_tensor(mel) else np.asarray(mel)
    if array.ndim == 2:
        return array[None]
    if array.ndim == 3 and array.shape[0] == 1:
        return array
    raise InputError(
        f"clip {number} of a batch",
        f"its shape is {tuple(array.shape)}.",
        "Give each clip as (n_mels, frames) or (1, n_mels, frames).",
    )


def _per_clip(name: str, items: Sequence[Any] | None, clips: int) -> list[Any]:
    """One item per clip with a batch axis, or None for each."""
    if items is None:
        return [None] * clips
    if len(items) != clips:
        raise InputError(f"{name} of a batch of {clips} clips", f"{len(items)} were given.", "Give one per clip.")
    rows = [item if item is None or is_tensor(item) else np.asarray(item) for item in items]
    flat = 1 if name == "f0" else 2
    return [row[None] if row is not None and row.ndim <= flat and row.shape[:1] != (1,) else row for row in rows]


def _buckets(clips: Sequence[Utterance]) -> list[list[int]]:
    """Clips of equal length together, the longest first, so that the memory is known at once."""
    alike: dict[tuple[int, Any], list[int]] = {}
    for i, clip in enumerate(clips):
        alike.setdefault((clip.frames, is_tensor(clip.mel)), []).append(i)
    return [alike[kind] for kind in sorted(alike, key=lambda kind: kind[0], reverse=True)]


def _stacked_rows(clips: Sequence[Utterance]) -> Utterance:
    """Checked clips of equal length as one batch."""
    frames = clips[0].frames
    return Utterance(
        stacked([clip.mel for clip in clips]),
        None if clips[0].f0 is None else stacked([clip.f0 for clip in clips]),
        None if clips[0].speaker is None else stacked([_per_frame(clip.speaker, 0, frames) for clip in clips]),
    )
