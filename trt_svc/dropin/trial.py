"""The host's own forward and the engine on the same call with the same random numbers: same sound? how fast?"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trt_svc.arrays import on_host
from trt_svc.difference import difference
from trt_svc.dropin.draws import Draws
from trt_svc.errors import InputError, TrtSvcError, shown

SILENT_PEAK = 1e-4
ROUNDS, BUDGET_S = 3, 2.0
"""Both are timed in turns so often, as long as that takes no longer than this."""

Call = Callable[[], Any]


@dataclass(frozen=True)
class Heard:
    """What a trial found."""

    snr_db: float
    """Of the engine's sound against the host's own."""
    host_s: float
    engine_s: float
    """The quickest round of each."""
    rounds: int
    samples: int

    @property
    def speedup(self) -> float:
        return self.host_s / self.engine_s


@dataclass(frozen=True)
class Trial:
    """The host's answer, and what the engine made of the same call."""

    answer: Any
    heard: Heard | None = None
    reason: str = ""
    """Why the engine's answer cannot stand for the host's; empty with nothing heard: the sound was silence."""
    of_input: bool = False
    """Is the reason this call alone?"""


def tried(
    own: Call,
    engine: Call,
    device: torch.device,
    once_more: Call | None = None,
    rounds: int = ROUNDS,
    budget_s: float = BUDGET_S,
) -> Trial:
    """Both on one call. What the host's own forward raises is the host's affair.

    once_more: the host's own again, for timing, where it writes into what the first run was given.
    """
    before = Draws.now(device)
    answer, host_s = _timed(own, device)
    after = Draws.now(device)
    try:
        before.again()
        made, engine_s = _timed(engine, device)
        reason = _unlike(answer, made)
        if reason or _is_silence(answer, made):
            return Trial(answer, reason=reason)
        found = difference(on_host(made), on_host(answer)).snr_db
        host_times, engine_times = [host_s], [engine_s]
        while len(host_times) < rounds and sum(host_times + engine_times) < budget_s:
            before.again()
            host_times.append(_timed(once_more or own, device)[1])
            before.again()
            engine_times.append(_timed(engine, device)[1])
    except InputError as err:
        return Trial(answer, reason=said(err), of_input=True)
    except Exception as err:  # the engine's trouble; the host has its answer
        return Trial(answer, reason=said(err))
    finally:
        after.again()
    times = min(host_times), min(engine_times), len(host_times)
    return Trial(answer, Heard(found, *times, answer.shape[-1]))


def said(err: BaseException) -> str:
    """An error in a few words."""
    if isinstance(err, TrtSvcError):
        return f"{err.asked}: {err.found.rstrip('.')}"
    return f"{type(err).__name__}: {shown(str(err))}"


def _unlike(answer: Any, made: Tensor) -> str:
    if not isinstance(answer, Tensor):
        return f"its forward gives a {type(answer).__name__}, not one tensor"
    if answer.shape != made.shape:
        return f"its forward gives {tuple(answer.shape)}, the engine {tuple(made.shape)}"
    if answer.dtype != made.dtype:
        return f"its forward gives {answer.dtype}, the engine {made.dtype}"
    return ""


def _is_silence(*sounds: Tensor) -> bool:
    return all(float(abs(on_host(sound)).max()) < SILENT_PEAK for sound in sounds)


def _timed(call: Call, device: torch.device) -> tuple[Any, float]:
    _wait(device)
    started = time.perf_counter()
    made = call()
    _wait(device)
    return made, time.perf_counter() - started


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
