"""One live generator whose forward is run by an engine. The module object itself stays the host's."""

from __future__ import annotations

import functools
import inspect
import logging
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import CodeType
from typing import Any, NoReturn, cast

import torch
from torch import Tensor, nn

from trt_svc.dropin.draws import Draws
from trt_svc.dropin.live import LiveSource
from trt_svc.dropin.manner import Manner, SharedAxes, is_plain, manner_of, named
from trt_svc.dropin.report import EngineFacts
from trt_svc.dropin.settings import Settings
from trt_svc.dropin.surroundings import usual_torch, without_autocast
from trt_svc.dropin.tap import Tap, refuse
from trt_svc.dropin.trial import Heard, said, tried
from trt_svc.dropin.weights import Seen, device_of, voice_of
from trt_svc.errors import InputError
from trt_svc.loading import load_vocoder
from trt_svc.progress import Announced, Logged, Progress
from trt_svc.session import Vocoder

log = logging.getLogger(__name__)

MAX_FAILURES = 3
"""Calls in a row that the engine could not answer, after which it is not asked any more."""
SLOWER = 0.95
"""Of the host's own speed: an engine that `auto` chose and that stays below it is left."""
ENGINE_DEVICES = ("cpu", "cuda")
KEPT_REASONS = 20
"""They may name shapes and values, and so never end."""
KEPT_ELEMENTS = 1 << 22
"""Size of the largest call that is kept for `race`."""

MAX_WAYS = 8
"""Ways of calling that are heard, each by itself."""
MAX_CHANGES = 4
"""Changes in a row without a call that an engine could answer in between, after which it is left."""

Forward = Callable[..., Any]


@dataclass(frozen=True)
class _Way:
    """A way of calling that was heard."""

    axes: SharedAxes | None = None
    unfit: str = ""
    """Why the host answers calls of this kind itself."""


class Swap:
    """Stands in a module's `forward`. Whatever does not fit is answered by the host's own forward.

    The first call is answered by both, and the host's answer counts; the engine takes over if it sounds the same.
    """

    def __init__(
        self,
        module: nn.Module,
        label: str,
        settings: Settings,
        facts: Mapping[str, Any],
        progress: Progress | None = None,
    ) -> None:
        if isinstance(module, torch.jit.ScriptModule):
            found = "it is a TorchScript program, not layers."
            raise InputError(f"an engine for {label}", found, "Hand over the module that it was made from.")
        self.label = label
        self.settings = settings
        self.aside = ""
        """Why the engine is not asked any more."""
        self.heard: Heard | None = None
        self.by_engine = 0
        self.by_host: Counter[str] = Counter()
        """Calls that the host answered itself, by reason."""
        self._module = weakref.ref(module)  # no cycle: `del` in the host frees everything at once
        self._before = module.__dict__.get("forward")
        self._own_forward: Forward = type(module).forward
        self.__signature__ = _signature(self._before or functools.partial(self._own_forward, module))
        self._source = LiveSource(self._module, facts, Announced(progress or Logged(log), label))
        self._lock = threading.RLock()
        self._failures = 0
        self._closed = False
        self._kept: tuple[Any, Any] | None = None
        self._ways: dict[Manner, _Way] = {}
        self._restless = 0
        self._device = device_of(module)
        self._voice = voice_of(module)
        self._vocoder: Vocoder | None = self._opened(module)
        self._tap = self._tapped(module, self._vocoder)
        self._seen = Seen(module)
        module.forward = self
        self._gone = weakref.finalize(module, self.close)  # hosts may load many voices one after the other
        self._gone.atexit = False

    def restore(self) -> None:
        """The module as it was. Where others have wrapped its forward since, they reach the host's own again."""
        self._tap.remove()
        self._gone.detach()
        self.close()
        module = self.module
        if module is not None and module.__dict__.get("forward") is self:
            del module.__dict__["forward"]
            if self._before is not None:
                module.forward = self._before

    def close(self) -> None:
        """Lets go of the engine; what was seen of it stays."""
        self._vocoder, self._kept, self._closed = None, None, True

    @property
    def module(self) -> nn.Module | None:
        """Whose forward it is; None once the host has let go of it."""
        return self._module()

    @property
    def alive(self) -> bool:
        """Is it still in use?"""
        return self.module is not None and not self._closed

    @property
    def __code__(self) -> CodeType:
        """torch.export looks at it; what is exported is the host's own forward."""
        code: CodeType = cast(Any, self._before or self._own_forward).__code__
        return code

    @property
    def vocoder(self) -> Vocoder | None:
        """The engine's session; None once it stands aside."""
        return self._vocoder

    def __deepcopy__(self, memo: object) -> NoReturn:
        refuse("copying", f"the accelerated {self.label}")

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        refuse("pickling", f"the accelerated {self.label}")

    # A call.

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        module = self._module()
        if module is None:
            raise InputError(f"a call of {self.label}", "its module is gone.", "Call the host's new one.")
        closed = "its engine is closed" if self._closed else ""
        reason = closed or self._left(module) or not_for_engines(module, args, kwargs) or self._unready(module)
        if reason:
            return self._by_host(module, args, kwargs, reason)
        manner = manner_of(named(args, kwargs, self.__signature__))
        way = self._ways.get(manner)
        if way is None:
            return self._first(module, args, kwargs, manner)
        if way.axes is None:
            return self._by_host(module, args, kwargs, way.unfit)
        draws = Draws.now(device_of(module))
        try:
            made = self._engine(module, args, kwargs, way.axes)
        except Exception as err:  # whatever goes wrong here must not stop the host
            draws.again()
            answer = self._own(module, args, kwargs)  # what the host raises itself is its own affair
            self._note(self._failed(err))
            return answer
        self._failures = self._restless = 0
        self.by_engine += 1
        return made

    def _by_host(self, module: nn.Module, args: Any, kwargs: Any, reason: str) -> Any:
        self._note(reason)
        return self._own(module, args, kwargs)

    def _note(self, reason: str) -> None:
        known = reason in self.by_host or len(self.by_host) < KEPT_REASONS
        self.by_host[reason if known else "for other reasons"] += 1

    def _own(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        return self._before(*args, **kwargs) if self._before else self._own_forward(module, *args, **kwargs)

    def _engine(self, module: nn.Module, args: Any, kwargs: Any, heard: SharedAxes | list[SharedAxes]) -> Tensor:
        """heard: what the arguments shared with the network's input when this way was heard; a list learns it."""
        vocoder = self._vocoder
        if vocoder is None:
            raise InputError(self.label, f"its engine is closed ({self.aside}).", "The host runs it.")
        inputs = self._tap.inputs(lambda: self._own(module, args, kwargs))
        mel = inputs["mel"]
        shared = SharedAxes.of(named(args, kwargs, self.__signature__), mel)
        heard.append(shared) if isinstance(heard, list) else heard.check(shared)
        with without_autocast():
            made = torch.as_tensor(vocoder.run_network(inputs))
        return made[:, None].to(mel.device, output_type(mel))

    def _failed(self, err: Exception) -> str:
        """Why the engine could not answer; after some in a row it is left alone."""
        reason = said(err)
        if not isinstance(err, InputError):  # this input's fault, not the engine's
            self._count_failure(reason)
        return reason

    def _count_failure(self, reason: str) -> None:
        self._failures += 1
        if self._failures >= MAX_FAILURES:
            self.step_aside(reason)
        else:
            log.warning("%s: the host answered a call itself: %s", self.label, reason)

    def step_aside(self, reason: str) -> None:
        """From now on the host runs it; one line says why."""
        if not self.aside:
            self.aside, self._vocoder = reason, None
            log.warning("%s is left to the host: %s", self.label, reason)

    # The first call.

    def _first(self, module: nn.Module, args: Any, kwargs: Any, manner: Manner) -> Any:
        with self._lock:
            if self.aside or self._vocoder is None:
                return self._by_host(module, args, kwargs, self.aside or "its engine is being made")
            if manner in self._ways:  # another thread was first
                return self(*args, **kwargs)
            if len(self._ways) >= MAX_WAYS:
                return self._by_host(module, args, kwargs, "it is called in ever new ways")
            axes: list[SharedAxes] = []
            again = _cloned(args), _cloned(kwargs)  # a forward may write into what it is given
            trial = tried(
                lambda: self._own(module, args, kwargs),
                lambda: self._engine(module, _cloned(again[0]), _cloned(again[1]), axes),
                device_of(module),
                once_more=lambda: self._own(module, _cloned(again[0]), _cloned(again[1])),
            )
            self._note(trial.reason if trial.of_input else "heard beside the engine")
            if self._closed or (trial.heard is None and not trial.reason):  # meanwhile; silence
                return trial.answer
            if trial.of_input:
                if not self._ways:
                    self._count_failure(trial.reason)
                return trial.answer
            reason = trial.reason or self._judged(module, trial.heard)
            if not (reason and self._ways):
                self.heard = trial.heard
            if not reason:
                self._ways[manner] = _Way(axes[0])
                self._keep(*again)
            elif self._ways:  # other ways go on
                self._ways[manner] = _Way(unfit=reason)
                log.warning("%s: the host answers calls of this kind itself: %s", self.label, reason)
            else:
                self.step_aside(reason)
            return trial.answer

    def _judged(self, module: nn.Module, heard: Heard | None) -> str:
        """Why the engine is not to stand for the host."""
        assert heard is not None
        least_db = self.settings.least_db(self.engine.precision, computes_in_half(module))
        if not heard.snr_db >= least_db:
            return f"it sounds {heard.snr_db:.0f} dB from the host's own, {least_db:g} dB are asked for"
        if self.settings.backend == "auto" and heard.speedup < SLOWER:
            return f"the host's own is faster here ({heard.host_s:.2f} s against {heard.engine_s:.2f} s)"
        return ""

    def _keep(self, args: Any, kwargs: Any) -> None:
        given = (*args, *kwargs.values())
        size = sum(value.numel() for value in given if isinstance(value, Tensor))
        if size <= KEPT_ELEMENTS and all(is_plain(value) for value in given):
            self._kept = args, kwargs

    def race(self, rounds: int = 3, budget_s: float = 20.0) -> Heard | None:
        """The first call again, host and engine in turns; None where it was not kept or nobody may run it."""
        module, kept = self._module(), self._kept
        if module is None or kept is None or self._vocoder is None:
            return None
        args, kwargs = kept
        device = device_of(module)
        before = Draws.now(device)
        with torch.inference_mode():
            trial = tried(
                lambda: self._own(module, _cloned(args), _cloned(kwargs)),
                lambda: self._engine(module, _cloned(args), _cloned(kwargs), []),
                device, rounds=rounds, budget_s=budget_s,
            )  # fmt: skip
        before.again()
        return trial.heard

    # The engine follows the module.

    def _left(self, module: nn.Module) -> str:
        """Why the engine is not asked any more; another voice gets another chance."""
        if self.aside and self._restless < MAX_CHANGES and self._seen.changed():
            with self._lock:
                try:
                    if voice_of(module) != self._voice:
                        self.aside, self._failures = "", 0
                    else:
                        self._seen = Seen(module)
                except Exception as err:  # weights that cannot be read, on the meta device for instance
                    return said(err)
        return self.aside

    def _unready(self, module: nn.Module) -> str:
        """Follows a module that has changed; why its engine cannot be asked."""
        where = device_of(module).type
        if where not in ENGINE_DEVICES:
            return f"it is on the device {where}"
        if self._vocoder is not None and not self._seen.changed():
            return ""
        if not self._lock.acquire(blocking=False):
            return "its engine is being made"
        try:
            if self._vocoder is None or self._seen.changed():
                self._follow(module)
        except Exception as err:
            self._seen = Seen(module)  # as it is now it is not tried again
            self.step_aside(said(err))
        finally:
            self._lock.release()
        return self.aside

    def _follow(self, module: nn.Module) -> None:
        """An engine for other weights or another device; layers that do something else are heard anew."""
        self._restless += 1
        if self._restless >= MAX_CHANGES:
            self.step_aside("its weights or layers change between all calls, as in training")
            return
        device, voice, seen = device_of(module), voice_of(module), Seen(module)
        if self._vocoder is None or (device, voice) != (self._device, self._voice):
            self._vocoder, self.heard, self._kept = None, None, None
            self._vocoder = self._opened(module)
            self._tap.remove()
            self._tap = self._tapped(module, self._vocoder)  # layers may have been replaced too
            self._device, self._voice, seen = device, voice, Seen(module)
            self._ways.clear()
        elif seen.layers != self._seen.layers:
            self._ways.clear()
        self._seen = seen

    def _tapped(self, module: nn.Module, vocoder: Vocoder) -> Tap:
        return Tap(module, [spec.name for spec in vocoder.voice.inputs])

    def _opened(self, module: nn.Module) -> Vocoder:
        where = device_of(module)
        if where.type not in ENGINE_DEVICES:
            found = f"it is on {where}."
            raise InputError(f"an engine for {self.label}", found, "Engines are made for CPUs and NVIDIA's GPUs.")
        settings = self.settings.on(where.type)
        with usual_torch():
            vocoder = load_vocoder(
                self._source, device=str(where), backend=settings.backend, precision=settings.precision.name,
                build=None if settings.backend == "torch" else settings, chunk_frames=self.settings.chunk_frames,
                on_failure="raise",
            )  # fmt: skip
        self.engine = EngineFacts(
            vocoder.family, vocoder.backend, vocoder.precision, vocoder.device, vocoder.quality_db
        )
        return vocoder


def _signature(forward: Forward) -> inspect.Signature | None:
    try:
        return inspect.signature(forward)
    except (TypeError, ValueError):  # some callables do not tell
        return None


def not_for_engines(module: nn.Module, args: Any, kwargs: Any) -> str:
    """Why a call has to run in torch itself."""
    if torch.compiler.is_compiling() or cast(Any, torch.jit).is_tracing():
        return "it is being traced"
    if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
        return "a CUDA graph is being captured"
    if torch.is_grad_enabled():
        learns = any(isinstance(value, Tensor) and value.requires_grad for value in (*args, *kwargs.values()))
        if module.training or learns:
            return "gradients are asked for"
    return ""


def computes_in_half(module: nn.Module) -> bool:
    """Is the host's own sound made in half precision?"""
    first = next(module.parameters(), None)
    is_half = first is not None and first.dtype in (torch.float16, torch.bfloat16)
    return is_half or torch.is_autocast_enabled(device_of(module).type)


def output_type(mel: Tensor) -> torch.dtype:
    """What torch's own layers would put out for this input."""
    kind = mel.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else mel.dtype


def _cloned(values: Any) -> Any:
    if isinstance(values, dict):
        return {name: _cloned(value) for name, value in values.items()}
    if isinstance(values, tuple):
        return tuple(_cloned(value) for value in values)
    return values.detach().clone() if isinstance(values, Tensor) else values
