"""One call from mel to audio, of any length and batch, whatever the vocoder and whatever runs it."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

import numpy as np

from trt_svc.arrays import is_tensor, joined, like, on_host
from trt_svc.audio import resample
from trt_svc.backends.base import backends
from trt_svc.build_config import BuildConfig, Precision, default_frames, parse_bytes
from trt_svc.config import AudioSpec
from trt_svc.denoiser import BIAS_FRAMES, Denoiser
from trt_svc.errors import BackendUnavailable, ConfigError, InputError
from trt_svc.excitation import Excitation, LatentNoise
from trt_svc.features.mel import log_mel
from trt_svc.gptsovits_chunks import ChunkConstants, chunks_of
from trt_svc.health import Health, Record
from trt_svc.inputs import Utterance, as_wave, check_rate, check_utterance
from trt_svc.ladder import REFERENCE, Ladder, Limits, Policy
from trt_svc.noise import Noise, check_given, check_seeds
from trt_svc.opening import Places, Source, engine_step, lower_steps, same_network, torch_step
from trt_svc.stream import Lookahead, Stream
from trt_svc.types import Array
from trt_svc.voice import Voice
from trt_svc.windows import Windows

if TYPE_CHECKING:
    import torch

    from trt_svc.checkpoints.load import Checkpoint

Waves: TypeAlias = "Array | torch.Tensor"
GPU_CONTEXTS = 2


class Vocoder:
    """A loaded vocoder. Call it with a mel (B, n_mels, T); see `load_vocoder`. Threads may share it."""

    def __init__(self, ladder: Ladder, open_checkpoint: Callable[[], Checkpoint]) -> None:
        self._ladder = ladder
        self._open_checkpoint = open_checkpoint
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
        return self.voice.excitation

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
    def device(self) -> str:
        return ", ".join(lane.name for lane in self._ladder.rung.lanes.live)

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
    ) -> Waves:
        """Audio (B, samples) for a mel (B, n_mels, T) of any length.

        f0: (B, T) in Hz, 0 where unvoiced, for vocoders with a source. speaker: (B, channels) or
        (B, channels, T). noise: random inputs as upstream draws them (`noise_spec`); what is not given
        comes from `seed`. sigma and denoiser_strength belong to WaveGlow. Torch in, torch out.
        """
        utterance = check_utterance(self.spec, mel, f0, speaker, keep_tensors=self._keeps(mel))
        excitation = self._with_sigma(sigma)
        if not (np.isfinite(denoiser_strength) and denoiser_strength >= 0):
            raise InputError("denoiser_strength", f"{denoiser_strength} is not usable.", "Use 0 or more; 0.1 is usual.")
        denoiser = self._denoiser if denoiser_strength else None
        wave = self._render(excitation, utterance, noise or {}, seed)
        if denoiser is not None:
            wave = denoiser(on_host(wave), denoiser_strength)
        return cast(Waves, like(mel, wave))

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
        curves = _per_clip("f0", f0, len(clips))
        voices = _per_clip("speaker", speaker, len(clips))
        seeds = check_seeds(seed if isinstance(seed, int) else list(seed), len(clips))
        made: list[Waves | None] = [None] * len(clips)
        for together in _buckets(clips):
            stack = [
                _rows([items[i] for i in together]) if items is not None else None for items in (clips, curves, voices)
            ]
            waves = self(cast(Waves, stack[0]), stack[1], stack[2], seed=[seeds[i] for i in together], sigma=sigma)
            for row, i in enumerate(together):
                made[i] = waves[row]
        return cast("list[Waves]", made)

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
        self, excitation: Excitation, utterance: Utterance, noise: Mapping[str, Any], seed: int | list[int]
    ) -> Any:
        batch, frames = utterance.batch, utterance.frames
        arrays = {name: on_host(value) if is_tensor(value) else value for name, value in noise.items()}
        given = check_given(excitation.fields, arrays, batch, frames)
        run = excitation.begin(Noise(excitation.fields, check_seeds(seed, batch), given))
        ladder = self._ladder
        windows = Windows(ladder.span, ladder.start, ladder.bounds, ahead=ladder.workers)
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
        return joined(made)

    def _pieces(self, frames: int) -> list[tuple[int, int]]:
        """The frames to feed at once: all where they fit in one run, else as many as keep every device busy."""
        most = self._ladder.bounds().most
        if most is None or frames <= most:
            return [(0, frames)]
        size = max(1, most - sum(self.receptive_field)) * self._ladder.workers
        return [(first, min(frames, first + size)) for first in range(0, frames, size)]

    def _with_sigma(self, sigma: float | None) -> Excitation:
        if sigma is None:
            return self.excitation
        if not isinstance(self.excitation, LatentNoise):
            raise InputError("sigma", f"{self.family} has no noise to scale.", "It belongs to WaveGlow: leave it out.")
        if not (np.isfinite(sigma) and sigma >= 0):
            raise InputError("sigma", f"{sigma} is not usable.", "Use 0 or more; 0.6 suits speech.")
        return replace(self.excitation, sigma=float(sigma))

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
    if speaker.shape[2] > 1:
        return speaker[:, :, first:stop]
    if is_tensor(speaker):
        return speaker.expand(-1, -1, stop - first).contiguous()
    return np.repeat(speaker, stop - first, axis=2)


def _one_clip(number: int, mel: Waves) -> Waves:
    """(1, n_mels, T)."""
    shape = tuple(getattr(mel, "shape", ()))
    if len(shape) == 2:
        return mel[None]
    if len(shape) == 3 and shape[0] == 1:
        return mel
    raise InputError(
        f"clip {number} of a batch",
        f"its shape is {shape}.",
        "Give each clip as (n_mels, frames) or (1, n_mels, frames).",
    )


def _per_clip(name: str, items: Sequence[Waves] | None, clips: int) -> list[Any] | None:
    if items is None:
        return None
    if len(items) != clips:
        raise InputError(f"{name} of a batch of {clips} clips", f"{len(items)} were given.", "Give one per clip.")
    rows = [item if is_tensor(item) else np.asarray(item) for item in items]
    return [row if row.ndim > 1 else row[None] for row in rows]


def _buckets(clips: Sequence[Waves]) -> list[list[int]]:
    """Clips of equal length together, the longest first, so that the memory is known at once."""
    lengths: dict[tuple[int, ...], list[int]] = {}
    for i, clip in enumerate(clips):
        lengths.setdefault(tuple(clip.shape), []).append(i)
    return [lengths[shape] for shape in sorted(lengths, key=lambda shape: shape[-1], reverse=True)]


def _rows(items: list[Any]) -> Any:
    if is_tensor(items[0]):
        import torch

        return torch.cat([torch.as_tensor(item) for item in items])
    return np.concatenate([np.asarray(item) for item in items])


def load_vocoder(
    path: str | Path,
    config: str | Path | Mapping[str, Any] | None = None,
    family: str | None = None,
    source: str | None = None,
    backend: str = "torch",
    device: str = "auto",
    precision: str = "fp32",
    *,
    build: BuildConfig | None = None,
    devices: Sequence[str] | None = None,
    contexts: int | None = None,
    chunk_frames: int | None = None,
    memory_limit: int | str | None = None,
    on_failure: Literal["fallback", "raise"] = "fallback",
    timeout_s: float | None = None,
) -> Vocoder:
    """The vocoder stored at a path, in a folder or under an alias ("demo" is the voice that ships with the package).

    config: a path, a dictionary in upstream's keys or the name of a preset; by default the config.json
    beside the weights, or the published config that fits. family: hifigan, nsf_hifigan, sovits_dec,
    bigvgan, gptsovits_generator or waveglow; by default recognised. source (nsf_hifigan): sovits-interp,
    openvpi (the default), openvpi-legacy or mini; the weights do not tell the first three apart.
    backend: torch, auto (the fastest here), or one that `trt-svc doctor` lists; engines are built once and
    then come from the cache. build: all settings of the engine at once, in place of backend and precision.

    devices: several GPUs that share the work, in place of device. contexts: runs at the same time per device
    (2 on GPUs, 1 on the CPU). chunk_frames: longest single run; longer input is cut without a trace.
    memory_limit: bytes, or "2GiB", that runs may take. on_failure: "fallback" goes on with a slower, safer
    backend and one warning, "raise" stops. timeout_s: longest single run before it counts as hung.
    """
    origin = Source(path, config, family, source)
    policy = _policy(on_failure, timeout_s)
    record = Record()
    if backend == REFERENCE and build is None:
        return _on_torch(origin, policy, record, device, precision, devices, contexts, chunk_frames, memory_limit)
    wanted = Precision(precision)
    settings = build or BuildConfig(backend=backend, device="cpu" if device == "cpu" else "auto", precision=wanted)
    if settings.backend != "auto":
        _check_usable(settings.backend)
    kind = _device_kind(device)
    engine = origin.engine(settings)
    voice = Voice.from_dict(engine.entry.metadata)
    needs_gpu = backends.get(engine.backend).needs_gpu
    here = tuple(devices or (("cuda" if kind == "auto" else device) if needs_gpu else "cpu",))
    places = Places(_checked_devices(here), _checked_contexts(contexts, needs_gpu), record)
    sha256 = engine.entry.metadata["weights_sha256"]

    def network() -> Checkpoint:
        return same_network(origin.open(), sha256)

    torch_places = replace(places, devices=(_torch_device(places.devices[0]),), contexts=1)
    steps = [
        engine_step(lambda: engine, voice, places, engine.backend),
        *lower_steps(settings, engine, voice, origin, places),
        torch_step(lambda: network().net, torch_places),
    ]
    limits = _limits(voice, chunk_frames, memory_limit, engine.bytes, places)
    return Vocoder(Ladder(voice, steps, policy, limits, record), network)


def _on_torch(
    origin: Source,
    policy: Policy,
    record: Record,
    device: str,
    precision: str,
    devices: Sequence[str] | None,
    contexts: int | None,
    chunk_frames: int | None,
    memory_limit: int | str | None,
) -> Vocoder:
    where = chosen_device(device)
    if Precision(precision).name not in ("fp32", "auto"):
        raise InputError(
            f"precision {precision!r}", "the torch backend runs in fp32.", "Use precision='fp32', or an engine backend."
        )
    checkpoint = origin.open()
    voice = checkpoint.net.voice()
    here = tuple(chosen_device(name) for name in devices) if devices else (where,)
    places = Places(here, _checked_contexts(contexts, here[0] != "cpu"), record)
    frames = chunk_frames or default_frames(voice.family)[-1].max
    limits = _limits(voice, frames, memory_limit, 4 * checkpoint.parameters, places)
    ladder = Ladder(voice, [torch_step(lambda: checkpoint.net, places)], policy, limits, record)
    return Vocoder(ladder, lambda: checkpoint)


def _policy(on_failure: str, timeout_s: float | None) -> Policy:
    if on_failure not in ("fallback", "raise"):
        raise InputError(f"on_failure {on_failure!r}", "there is no such choice.", "Use 'fallback' or 'raise'.")
    if timeout_s is not None and not timeout_s > 0:
        raise InputError("timeout_s", f"{timeout_s} is not usable.", "Give seconds, more than 0.")
    return Policy(cast(Any, on_failure), timeout_s)


def _limits(
    voice: Voice, chunk_frames: int | None, memory_limit: int | str | None, weights_bytes: int, places: Places
) -> Limits:
    """Longest run, and the most frames times batch that memory allows."""
    least = sum(voice.receptive_field) + voice.frame_step
    if chunk_frames is not None and chunk_frames < least:
        raise ConfigError(
            f"chunk_frames {chunk_frames}",
            f"this {voice.family} needs {least} frames around each.",
            f"Use {least} or more.",
        )
    if memory_limit is None:
        return Limits(chunk_frames)
    allowed = parse_bytes(memory_limit) if isinstance(memory_limit, str) else int(memory_limit)
    cells = (allowed - weights_bytes) // (voice.bytes_per_frame * places.contexts)
    if cells < least:
        need = weights_bytes + least * voice.bytes_per_frame * places.contexts
        raise ConfigError(
            f"memory_limit {memory_limit}",
            f"{places.contexts} run(s) of {least} frames at a time take about {need / 2**20:.0f} MiB.",
            "Raise it, or use contexts=1.",
        )
    return Limits(chunk_frames, cells)


def _checked_contexts(contexts: int | None, on_gpu: bool) -> int:
    if contexts is None:
        return GPU_CONTEXTS if on_gpu else 1
    if not 1 <= contexts <= 64:
        raise InputError("contexts", f"{contexts} is not usable.", "Use 1 to 64.")
    return contexts


def _check_usable(backend: str) -> None:
    """The backend is here, or a BackendUnavailable with the reason."""
    probe = backends.get(backend)().probe()
    if not probe.builds:
        raise BackendUnavailable(f"backend {backend}", f"{probe.found}.", probe.advice)


def _device_kind(asked: str) -> str:
    """auto, cpu or cuda."""
    kind = asked.partition(":")[0]
    if kind not in ("auto", "cpu", "cuda") or (asked != kind and not re.fullmatch(r"cuda:\d{1,3}", asked)):
        raise InputError(f"device {asked!r}", "there is no such device.", "Use auto, cpu, cuda or cuda:N.")
    return kind


def _checked_devices(devices: tuple[str, ...]) -> tuple[str, ...]:
    for device in devices:
        _device_kind(device)
    return devices


def _torch_device(device: str) -> str:
    """Where the reference runs: on the engine's GPU if torch can use it."""
    if device == "cpu":
        return "cpu"
    import torch

    return device if torch.cuda.is_available() else "cpu"


def chosen_device(asked: str) -> str:
    """ "auto" is the first GPU where there is one, else the CPU."""
    import torch

    kind = _device_kind(asked)
    if kind == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if kind == "cuda" and not torch.cuda.is_available():
        raise BackendUnavailable(
            f"device {asked}", "torch sees no CUDA GPU here.", "Use device='cpu' or 'auto', or see `trt-svc doctor`."
        )
    return asked
