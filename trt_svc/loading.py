"""`load_vocoder`: from the words of a call to an open session."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np

from trt_svc.backends.base import backends
from trt_svc.build_config import BuildConfig, Precision, default_frames, parse_bytes
from trt_svc.errors import BackendUnavailable, ConfigError, InputError, shown
from trt_svc.gptsovits_chunks import chunks_of
from trt_svc.health import Record
from trt_svc.inputs import check_amount
from trt_svc.ladder import Ladder
from trt_svc.opening import InMemory, Places, Source, Stored, same_network, steps_of, torch_step
from trt_svc.rungs import REFERENCE, Limits, Policy, least_frames
from trt_svc.session import Vocoder
from trt_svc.voice import Voice
from trt_svc.windows import Span

if TYPE_CHECKING:
    from trt_svc.vocoders.base import VocoderNet

GPU_CONTEXTS, MAX_CONTEXTS = 2, 64
CPU_RUN_FRAMES, CPU_RUN_CONTEXTS = 1000, 20
"""Longest run of an engine on a CPU, in frames and in contexts: longer ones take more memory and are no faster per
frame, shorter ones compute more twice."""
TORCH_RUN_BYTES, TORCH_RUN_CONTEXTS = 480 << 20, 8
"""The same for torch, whose activations come from the system page by page once they are larger than 32 MiB: a run of
1100 frames of a full-size NSF-HiFiGAN took 1.7 times as long per frame as one of 520."""
TORCH_ROWS = 4
"""Rows of the longest run that torch makes at once."""


def load_vocoder(
    path: str | Path | VocoderNet | Source,
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
    streaming: bool = False,
) -> Vocoder:
    """The vocoder stored at a path, in a folder or under an alias ("demo" is the voice that ships with the package).

    A network that is in memory already may stand in the place of the path, or whatever gives one when asked.

    config: a path, a dictionary in upstream's keys or the name of a preset; by default the config.json
    beside the weights, or the published config that fits. family: hifigan, nsf_hifigan, sovits_dec,
    rvc_dec, bigvgan, gptsovits_generator or waveglow; by default recognised. source (nsf_hifigan): sovits-interp,
    openvpi (the default), openvpi-legacy or mini; the weights do not tell the first three apart. source (rvc_dec):
    sovits-interp (the default) or openvpi.
    backend: torch, auto (the fastest here), or one that `trt-svc doctor` lists; engines are built once and
    then come from the cache. build: all settings of the engine at once, in place of backend and precision.

    devices: several GPUs that share the work, in place of device. contexts: runs at the same time per device
    (2 on GPUs, 1 on the CPU). chunk_frames: longest single run (some 1000 frames on CPUs);
    longer input is cut without a trace.
    memory_limit: bytes, or "2GiB", that runs may take. on_failure: "fallback" goes on with a slower, safer
    backend and one warning, "raise" stops. timeout_s: longest single run before it counts as hung.
    streaming: build an engine's stages too, so that exact streams compute little twice (torch always does so).
    """
    origin, record = _origin(path, config, family, source), Record()
    run = _RunOptions(device, devices, contexts, chunk_frames, memory_limit, _policy(on_failure, timeout_s))
    if backend == REFERENCE and build is None:
        return _on_torch(origin, run, record, precision)
    wanted = Precision(precision)
    kind = _device_kind(device)
    settings = build or BuildConfig(backend, "cpu" if kind == "cpu" else "auto", wanted, streaming=streaming)
    if settings.backend != "auto":
        check_usable(settings.backend)
    engine = origin.engine(settings)
    voice = Voice.from_dict(engine.entry.metadata)
    places = run.places(record, needs_gpu=backends.get(engine.backend).needs_gpu, backend=engine.backend)
    asked_for = settings.frames or places.devices != ("cpu",)
    chunk_frames = run.chunk_frames or (None if asked_for else _engine_run_frames(voice))
    places, limits = _limits(voice, chunk_frames, run.memory_limit, engine.bytes, places)
    weights = engine.entry.metadata["weights_sha256"]
    ladder = Ladder(voice, steps_of(engine, settings, voice, origin, places), run.policy, limits, record)
    return Vocoder(ladder, lambda: same_network(origin.open(), weights))


def _origin(where: str | Path | VocoderNet | Source, config: Any, family: str | None, source: str | None) -> Source:
    if isinstance(where, (str, Path)):
        return Stored(where, config, family, source)
    if config is not None or family is not None or source is not None:
        asked = "a vocoder in memory with a config, family or source"
        raise ConfigError(asked, "the network has them settled.", "Leave them out.")
    return where if isinstance(where, Source) else InMemory(where)


@dataclass(frozen=True)
class _RunOptions:
    """How a session runs what it opened."""

    device: str
    devices: Sequence[str] | None
    contexts: int | None
    chunk_frames: int | None
    memory_limit: int | str | None
    policy: Policy

    def __post_init__(self) -> None:
        if self.devices is not None and (isinstance(self.devices, str) or not self.devices):
            raise InputError(f"devices {shown(self.devices)}", "it is no list of devices.", "Use ['cuda:0', 'cuda:1'].")
        for device in (self.device, *(self.devices or ())):
            _device_kind(device)
        for name, value in (("contexts", self.contexts), ("chunk_frames", self.chunk_frames)):
            whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
            if value is not None and not (whole and value >= 1):
                raise InputError(name, f"{shown(value)} is not usable.", "Use a whole number, 1 or more.")
        if self.contexts is not None and self.contexts > MAX_CONTEXTS:
            raise InputError("contexts", f"{self.contexts} is not usable.", f"Use 1 to {MAX_CONTEXTS}.")

    def places(self, record: Record, needs_gpu: bool, backend: str) -> Places:
        """Where an engine is opened."""
        asked = tuple(self.devices or (self.device,))
        kinds = {_device_kind(device) for device in asked}
        if not needs_gpu and "cuda" in kinds:
            raise BackendUnavailable(
                f"device {', '.join(asked)} with the {backend} backend", "it runs on the CPU only.",
                "Leave device out, or use a GPU backend; see `trt-svc doctor`.",
            )  # fmt: skip
        if needs_gpu and "cpu" in kinds:
            raise BackendUnavailable(
                f"device cpu with the {backend} backend", "it runs on GPUs only.", "Use backend='onnxruntime' there."
            )
        usual = "cuda" if needs_gpu else "cpu"
        devices = tuple(usual if device == "auto" else device for device in asked)
        return Places(devices, self.contexts or (GPU_CONTEXTS if needs_gpu else 1), record)


def _on_torch(origin: Source, run: _RunOptions, record: Record, precision: str) -> Vocoder:
    devices = tuple(chosen_device(name) for name in run.devices or (run.device,))
    if Precision(precision).name not in ("fp32", "auto"):
        raise InputError(
            f"precision {precision!r}", "the torch backend runs in fp32.", "Use precision='fp32', or an engine backend."
        )
    checkpoint = origin.open()
    voice = checkpoint.net.voice()
    places = Places(devices, run.contexts or (1 if devices[0] == "cpu" else GPU_CONTEXTS), record)
    longest = default_frames(voice.family)[-1].max
    frames = run.chunk_frames or (min(_torch_run_frames(voice), longest) if devices == ("cpu",) else longest)
    places, limits = _limits(voice, frames, run.memory_limit, 4 * checkpoint.parameters, places)
    if limits.cells is None:
        limits.cells = TORCH_ROWS * frames
    ladder = Ladder(voice, [torch_step(lambda: checkpoint.net, places)], run.policy, limits, record)
    return Vocoder(ladder, lambda: checkpoint)


def _policy(on_failure: str, timeout_s: Any) -> Policy:
    if on_failure not in ("fallback", "raise"):
        raise InputError(f"on_failure {shown(on_failure)}", "there is no such choice.", "Use 'fallback' or 'raise'.")
    if timeout_s is not None and not (check_amount("timeout_s", timeout_s, "Give seconds, more than 0.") > 0):
        raise InputError("timeout_s", f"{timeout_s} is not usable.", "Give seconds, more than 0.")
    return Policy(cast(Any, on_failure), timeout_s)


def _limits(
    voice: Voice, chunk_frames: int | None, memory_limit: int | str | None, weights_bytes: int, places: Places
) -> tuple[Places, Limits]:
    """Longest run, and the most frames times batch that memory allows; fewer contexts where it asks for that."""
    left, right = voice.receptive_field
    least = least_frames(Span({}, Fraction(voice.spec.hop), left, right, voice.frame_step))
    if chunk_frames is not None and chunk_frames < least:
        raise ConfigError(
            f"chunk_frames {chunk_frames}",
            f"this {voice.family} needs {least} frames around each.",
            f"Use {least} or more.",
        )
    if memory_limit is None:
        return places, Limits(chunk_frames)
    allowed = parse_bytes(memory_limit) if isinstance(memory_limit, str) else int(memory_limit)
    cells = (allowed - weights_bytes) // voice.bytes_per_frame
    if cells < least:
        need = weights_bytes + least * voice.bytes_per_frame
        raise ConfigError(
            f"memory_limit {memory_limit}",
            f"the weights and a run of {least} frames take about {need / 2**20:.0f} MiB.",
            "Raise it, or use a smaller vocoder.",
        )
    contexts = min(places.contexts, cells // least)
    return replace(places, contexts=contexts), Limits(chunk_frames, cells // contexts)


def _engine_run_frames(voice: Voice) -> int:
    """Longest run on a CPU where nobody asks for another."""
    return max(CPU_RUN_FRAMES, CPU_RUN_CONTEXTS * sum(voice.receptive_field))


def _torch_run_frames(voice: Voice) -> int:
    """The same for torch; GPT-SoVITS's chunks stay whole."""
    whole = chunks_of(voice.spec)
    least = max(TORCH_RUN_CONTEXTS * sum(voice.receptive_field), whole.chunk_frames if whole else 1)
    return max(least, TORCH_RUN_BYTES // voice.bytes_per_frame)


def check_usable(backend: str) -> None:
    """The backend is here, or a BackendUnavailable with the reason."""
    probe = backends.get(backend)().probe()
    if not probe.builds:
        raise BackendUnavailable(f"backend {backend}", f"{probe.found}.", probe.advice)


def _device_kind(asked: Any) -> str:
    """auto, cpu or cuda."""
    kind = asked.partition(":")[0] if isinstance(asked, str) else ""
    if kind not in ("auto", "cpu", "cuda") or (asked != kind and not re.fullmatch(r"cuda:\d{1,3}", asked)):
        raise InputError(f"device {shown(asked)!r}", "there is no such device.", "Use auto, cpu, cuda or cuda:N.")
    return kind


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
