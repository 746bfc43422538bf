"""One host before and after `accelerate`, in this process: `python -m benchmarks.hosts.check bigvgan --root DIR`.

With --full-size the vocoders are raced as well, the host's own forward and the engine in turns.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import time
import traceback
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import numpy as np

import trt_svc
from benchmarks.hosts.play import SKIPPED, arguments, scenes_of
from benchmarks.hosts.report import MIN_SNR_DB, HostResult, Lap, Left, SceneCheck, write
from benchmarks.hosts.scene import Audio, NotThere, Scene, as_dict
from trt_svc.difference import difference
from trt_svc.dropin.handle import Handle

LEVELS = 0.02, 0.999
"""Peaks of audio that is worth comparing: neither silence nor clipped throughout."""
MAX_CLIPPED = 0.05


def main() -> int:
    given = _given()
    started = time.perf_counter()
    try:
        result = _result(given)
    except NotThere as reason:
        result = HostResult(driver=given.driver, repository=given.root.name, status="not there", reason=str(reason))
    except Exception as err:  # the page lists it; the run fails
        traceback.print_exc()
        reason = f"{type(err).__name__}: {err}"
        result = HostResult(driver=given.driver, repository=given.root.name, status="failed", reason=reason)
    result = result.model_copy(update={"commit": commit_of(given.root), "seconds": time.perf_counter() - started})
    if given.json:
        write(given.json, result)
    print(f"{result.repository}: {result.status} {result.reason}")
    return {"passed": 0, "failed": 1, "not there": SKIPPED}[result.status]


def _given() -> argparse.Namespace:
    parser = arguments("a host before and after accelerate")
    parser.add_argument("--json", type=Path, help="where the result is written")
    parser.add_argument("--backend", default="onnxruntime")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--rounds", type=int, default=5, help="of the race, with --full-size")
    given = parser.parse_args()
    given.root, given.json = given.root.resolve(), given.json and given.json.resolve()
    return given


def _result(given: argparse.Namespace) -> HostResult:
    checks: list[SceneCheck] = []
    laps: list[Lap] = []
    left: list[Left] = []
    for scene in scenes_of(given.driver, given.root, given.full_size):
        if given.full_size:
            for found in raced(scene, given.backend, given.precision, given.rounds):
                print(f"  {found}")
                (laps if isinstance(found, Lap) else left).append(found)  # type: ignore[arg-type]
        else:
            checks.append(checked(scene, given.backend, given.precision))
            print("\n    ".join([f"  {scene.name}", *checks[-1].places, *checks[-1].problems]))
    failed = [f"{check.scene}: {check.problems[0]}" for check in checks if check.problems]
    failed += [f"{lap.scene}: {lap.snr_db:.1f} dB" for lap in laps if not lap.snr_db >= MIN_SNR_DB]
    if not checks and not laps and not left:
        failed = ["its driver has no scenes"]
    repository = getattr(import_module(f"benchmarks.hosts.{given.driver}"), "REPOSITORY", given.root.name)
    return HostResult(
        driver=given.driver, repository=repository, status="failed" if failed else "passed", reason="; ".join(failed),
        scenes=tuple(checks), laps=tuple(laps), left=tuple(left),
    )  # fmt: skip


def checked(scene: Scene, backend: str, precision: str) -> SceneCheck:
    """Before, during and after; what is not as it should be is among the problems."""
    before, again = as_dict(scene.sing()), as_dict(scene.sing())
    repeatable = _same(before, again)
    problems = list(_unfit(before))
    with trt_svc.accelerate(scene.obj, backend=backend, precision=precision) as handle:
        first = as_dict(scene.sing())
        second, calls = _by_engine(scene, handle, problems)
        if _swaps(trt_svc.accelerate(scene.obj, backend=backend, precision=precision)) != _swaps(handle):
            problems.append("accelerating it twice swapped it twice")
        places = tuple(str(place) for place in handle.report().places)
    after = as_dict(scene.sing())
    restored = _same(before, after) if repeatable else decibels(after, before) >= MIN_SNR_DB
    figures = {"first_db": decibels(first, before), "engine_db": decibels(second, before)}
    if scene.after_reload is not None:
        figures["reload_db"] = _reloaded(scene, backend, precision, problems)
    problems += [f"{name}: {snr_db:.1f} dB" for name, snr_db in figures.items() if not snr_db >= MIN_SNR_DB]
    if not restored:
        problems.append("restore did not bring back the host's own audio")
    return SceneCheck(
        scene=scene.name, repeatable=repeatable, engine_calls=calls, restored=restored, places=places,
        problems=tuple(problems), **figures,
    )  # fmt: skip


def _by_engine(scene: Scene, handle: Handle, problems: list[str]) -> tuple[dict[str, Audio], int]:
    """Sings; every call of a vocoder in it has to be the engine's."""
    before = {id(swap): (swap.by_engine, swap.by_host.total()) for swap in handle.swaps}
    heard = as_dict(scene.sing())
    calls = 0
    for swap in handle.swaps:
        engine, host = before.get(id(swap), (0, 0))
        calls += swap.by_engine - engine
        if swap.by_host.total() > host:
            problems.append(f"{swap.label}: the host answered itself: {swap.aside or list(swap.by_host)[-1]}")
    if not calls:
        reasons = "; ".join(str(place) for place in handle.report().places) or "nothing was swapped"
        problems.append(f"no engine ran ({reasons})")
    return heard, calls


def _reloaded(scene: Scene, backend: str, precision: str, problems: list[str]) -> float:
    """The host loads again while accelerated; its own audio of that state comes after `restore`."""
    assert scene.after_reload is not None
    with trt_svc.accelerate(scene.obj, backend=backend, precision=precision) as handle:
        scene.sing()
        scene.after_reload()
        scene.sing()
        heard, _ = _by_engine(scene, handle, problems)
    return decibels(heard, as_dict(scene.sing()))


def raced(scene: Scene, backend: str, precision: str, rounds: int) -> Iterator[Lap | Left]:
    """The vocoders of a scene in turns with the host's own forward; with backend auto the slower engine is left."""
    with trt_svc.accelerate(scene.obj, backend=backend, precision=precision) as handle:
        scene.sing()
        wanted = [s for s in handle.swaps if scene.vocoder is None or scene.vocoder.__dict__.get("forward") is s]
        for swap in wanted:
            if swap.aside:
                yield Left(scene=scene.name, place=swap.label, reason=swap.aside)
                continue
            heard = swap.race(rounds, budget_s=120.0)
            if heard is None or swap.vocoder is None:
                yield Left(scene=scene.name, place=swap.label, reason="its call was not kept for a race")
                continue
            yield Lap(
                scene=scene.name, place=swap.label, audio_samples=heard.samples, host_s=heard.host_s,
                engine_s=heard.engine_s, rounds=heard.rounds, snr_db=heard.snr_db,
                engine=f"{swap.vocoder.backend} {swap.vocoder.precision}",
            )  # fmt: skip
        if not wanted:
            for label, reason in handle.refused.items():
                yield Left(scene=scene.name, place=label, reason=reason)


def commit_of(root: Path) -> str:
    """Of the host's checkout, with a word if it is not as committed; a folder without git may name it in `.commit`."""
    git = shutil.which("git")
    if git and (root / ".git").exists():
        said = [
            subprocess.run([git, *words], cwd=root, capture_output=True, text=True, check=False).stdout.strip()
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        ]
        return said[0] + (", changed" if said[1] else "")
    noted = root / ".commit"
    return noted.read_text("utf-8").strip() if noted.is_file() else "unknown"


def _swaps(handle: Handle) -> set[int]:
    return {id(swap) for swap in handle.swaps}


def _unfit(heard: dict[str, Audio]) -> Iterator[str]:
    for name, audio in heard.items():
        peak = float(np.abs(audio).max(initial=0.0))
        if not LEVELS[0] <= peak or float(np.mean(np.abs(audio) >= LEVELS[1])) > MAX_CLIPPED:
            yield f"the host's own {name} is no audio to compare: peak {peak:.3g}"


def _same(one: dict[str, Audio], other: dict[str, Audio]) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def decibels(made: dict[str, Audio], reference: dict[str, Audio]) -> float:
    """The worst of all; minus infinity where shapes or names differ."""
    if made.keys() != reference.keys() or any(made[name].shape != reference[name].shape for name in made):
        return float("-inf")
    return min(difference(made[name], reference[name]).snr_db for name in made)


if __name__ == "__main__":
    raise SystemExit(main())
