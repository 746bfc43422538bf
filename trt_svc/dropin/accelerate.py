"""`accelerate`: a live object of somebody's program, and its vocoders run by engines."""

from __future__ import annotations

import functools
import inspect
import logging
import weakref
from collections.abc import Callable, Generator, Iterator
from typing import Any

from torch import nn

from trt_svc.build_config import BuildConfig
from trt_svc.dropin.handle import Handle
from trt_svc.dropin.host import Host, Place, class_path, hosts
from trt_svc.dropin.live import looks_like_a_generator
from trt_svc.dropin.settings import USUAL_BACKEND, USUAL_PRECISION, Settings
from trt_svc.dropin.swap import Swap
from trt_svc.dropin.trial import said
from trt_svc.errors import InputError, shown
from trt_svc.progress import Progress

log = logging.getLogger(__name__)


def accelerate(
    obj: Any,
    backend: str = USUAL_BACKEND,
    precision: str = USUAL_PRECISION,
    *,
    build: BuildConfig | None = None,
    chunk_frames: int | None = None,
    min_snr_db: float | None = None,
    progress: Progress | None = None,
) -> Handle:
    """Runs the vocoders inside a live object by engines made from the weights that it holds.

    obj: so-vits-svc's Svc, GPT-SoVITS's TTS, a Vocoder wrapper, a generator itself ...; see docs/hosts.
    backend: auto (the fastest here), or one that `trt-svc doctor` lists. precision: fp16 runs as fp32 where the
    module is on a CPU, which is slower in half precision; mixed is faster there, above 53 dB. build: all settings of
    the engine at once. min_snr_db: lowest SNR against the host's own sound on its first call. progress: hears of
    the stages of a build, which the log gets otherwise (level INFO).

    The host's objects stay what they are; only the generators' forward is replaced. Whatever does not fit is left to
    the host, with one line why. Also a context manager; calling it twice changes nothing.
    """
    settings = Settings(backend, precision, build, min_snr_db, chunk_frames)
    host = host_of(obj)
    handle = Handle(host.title if host else class_path(obj))
    look_at(handle, obj, host, settings, progress)
    return handle


def host_of(obj: Any) -> Host | None:
    """The host that knows this object."""
    for _, kind in hosts:
        host = kind()
        if host.claims(obj):
            return host
    return None


def look_at(handle: Handle, obj: Any, host: Host | None, settings: Settings, progress: Progress | None) -> None:
    """Swaps every vocoder of an object, and again whenever the host loads others."""
    if host is not None:
        wishes = host.settings(obj)
        if wishes.get("off"):
            handle.refused["all of it"] = str(wishes["off"])
            return
        settings = settings.with_wishes(wishes)
    _swap_places(handle, obj, host, settings, progress)
    for name in host.loaders if host else ():
        if callable(getattr(obj, name, None)):
            _follow(handle, obj, name, lambda here: _swap_places(handle, here, host, settings, progress))


def _follow(handle: Handle, obj: Any, name: str, look: Callable[[Any], None]) -> None:
    """Looks at an object again after its loader; instead of an earlier handle, if one did so."""
    before = vars(obj).get(name)
    if isinstance(before, _Following):
        before = before.before
        delattr(obj, name)
    following = _Following(obj, before or getattr(obj, name), before, look)
    setattr(obj, name, following)
    handle.on_restore(functools.partial(_put_back, weakref.ref(obj), name, weakref.ref(following)))


def _swap_places(handle: Handle, obj: Any, host: Host | None, settings: Settings, progress: Progress | None) -> None:
    places = host.places(obj) if host else list(everywhere(obj))
    if not places:
        raise InputError(
            f"accelerating a {shown(type(obj).__name__)}",
            "no vocoder was found in it.",
            f"Hand over the object that holds one. Known hosts: {', '.join(hosts.names())}.",
        )
    said_before, handle.refused = handle.refused, {}
    for place in places:
        if place.module is None:
            handle.refused[place.label] = place.missing or "it is not there"
        elif not any(swap.alive and swap.module is place.module for swap in handle.swaps):
            _swap(handle, place, host, settings, progress)
    handle.swaps = [swap for swap in handle.swaps if swap.alive]
    for label, reason in handle.refused.items():
        if said_before.get(label) != reason:
            log.warning("%s: %s is left to the host: %s", handle.host, label, reason)


def _swap(handle: Handle, place: Place, host: Host | None, settings: Settings, progress: Progress | None) -> None:
    assert place.module is not None
    already = place.module.__dict__.get("forward")
    if isinstance(already, Swap):
        if already.settings == settings and not already.aside and already.vocoder is not None:
            handle.swaps.append(already)
            return
        already.restore()
    if place.module not in handle.unfit:
        try:
            handle.swaps.append(swapped(place.module, place.label, settings, host, progress=progress))
            return
        except Exception as err:  # whatever does not fit is left alone
            handle.unfit[place.module] = said(err)
    handle.refused[place.label] = handle.unfit[place.module]


def swapped(
    module: nn.Module,
    label: str,
    settings: Settings,
    host: Host | None,
    progress: Progress | None = None,
) -> Swap:
    """A generator with an engine in its forward."""
    facts = host.facts(module) if host else {}
    return Swap(module, label, settings, facts, progress)


def everywhere(obj: Any) -> Iterator[Place]:
    """Generators anywhere inside an object of no known host: in a module, or some attributes, lists and tables deep."""
    seen: set[int] = set()
    todo: list[tuple[str, Any, int]] = [("", obj, 0)]
    while todo:
        label, here, depth = todo.pop(0)
        if id(here) in seen:
            continue
        seen.add(id(here))
        if isinstance(here, nn.Module):
            for name, module in here.named_modules():
                if looks_like_a_generator(module):
                    yield Place(".".join(part for part in (label, name) if part) or type(module).__name__, module)
        elif depth < 3:
            todo += [(f"{label}{name}".lstrip("."), value, depth + 1) for name, value in _inside(here)]


def _inside(here: Any) -> Iterator[tuple[str, Any]]:
    """What an object, a list or a table holds, and how it is reached."""
    if isinstance(here, dict):
        yield from ((f"[{shown(key)!r}]", value) for key, value in here.items())
    elif isinstance(here, (list, tuple)):
        yield from ((f"[{number}]", value) for number, value in enumerate(here))
    elif hasattr(here, "__dict__"):
        yield from ((f".{name}", value) for name, value in vars(here).items())


class _Following:
    """A host's loader, after which its vocoders are looked for again."""

    def __init__(self, obj: Any, loader: Callable[..., Any], before: Any, look: Callable[[Any], None]) -> None:
        functools.update_wrapper(self, loader)
        del vars(self)["__wrapped__"]
        self._owner = weakref.ref(obj)  # no cycle: `del` in the host frees everything at once
        self._loader = _unbound(loader, obj)
        self.before = before
        """What was in the object's own dictionary."""
        self._look_at = look

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        made = self._loader(*args, **kwargs)
        if inspect.isgenerator(made):
            return self._stepped(made)
        self._look()
        return made

    def _stepped(self, steps: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
        """A loader that is a generator has loaded when it ends."""
        try:
            return (yield from steps)
        finally:
            self._look()

    def _look(self) -> None:
        try:
            obj = self._owner()
            if obj is not None:
                self._look_at(obj)
        except Exception as err:  # the host has loaded; that we could not follow is not its trouble
            log.warning("what the host loaded is left to it: %s", said(err))


def _unbound(loader: Callable[..., Any], obj: Any) -> Callable[..., Any]:
    """A method of an object that does not keep it alive."""
    if not (inspect.ismethod(loader) and loader.__self__ is obj):
        return loader
    method = weakref.WeakMethod(loader)

    def call(*args: Any, **kwargs: Any) -> Any:
        bound = method()
        if bound is None:
            raise InputError(f"calling {loader_name}", "its object is gone.", "Call the host's new one.")
        return bound(*args, **kwargs)

    loader_name = loader.__name__
    return call


def _put_back(owner: weakref.ref[Any], name: str, following: weakref.ref[_Following]) -> None:
    obj, ours = owner(), following()
    if obj is None or ours is None or vars(obj).get(name) is not ours:
        return
    if ours.before is None:
        delattr(obj, name)
    else:
        setattr(obj, name, ours.before)
