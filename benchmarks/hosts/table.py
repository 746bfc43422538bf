"""What was found with real hosts, as tables: the page of the checks, and those of docs/hosts/index.md."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.hosts.report import CHECKS, SPEED, HostResult, HostsReport, SceneCheck, read
from trt_svc.bench import words
from trt_svc.bench.markdown import escaped
from trt_svc.bench.report import Provenance

FOLDER = Path(__file__).parents[1] / "reports" / "hosts"
CHECK_HEADS = ("host", "commit", "scene", "accelerated", "after a reload", "under trt-svc run", "restored")
SPEED_HEADS = ("host", "scene", "vocoder", "its own forward", "engine", "ratio", "SNR", "which engine")
IDENTICAL, NEAR, NO = "identical", ">= 90 dB, the host does not repeat itself", "no"


def checks() -> str:
    """For the docs: what ran against the real hosts."""
    return _table(FOLDER / CHECKS, CHECK_HEADS, check_rows)


def speed() -> str:
    """For the docs: the vocoder stage before and after."""
    return _table(FOLDER / SPEED, SPEED_HEADS, speed_rows)


def checks_page(report: HostsReport) -> str:
    """The whole page, with what `accelerate` said about every place."""
    parts = ["# Real hosts, before and after", "", markdown(CHECK_HEADS, check_rows(report)), origin(report.provenance)]
    for host in report.hosts:
        parts += ["", f"## {host.repository}", "", f"{_status(host)}; {host.seconds:.0f} s."]
        for scene in host.scenes:
            lines = [*scene.places, *(f"problem: {problem}" for problem in scene.problems)]
            parts += ["", f"{escaped(scene.scene)}:", "", *(f"- {escaped(line)}" for line in lines)]
        if host.left:
            left = [f"- {escaped(f'{one.place}: {one.reason}')}" for one in host.left]
            parts += ["", "Left to the host under trt-svc run:", "", *left]
    return "\n".join(parts) + "\n"


def check_rows(report: HostsReport) -> list[list[str]]:
    """One row per scene; one for a host that has none."""
    rows = []
    for host in report.hosts:
        rows += [[host.repository, host.commit[:10], *_scene(scene)] for scene in host.scenes]
        if not host.scenes:
            rows.append([host.repository, host.commit[:10], _status(host), *[words.MISSING] * 4])
    return rows


def speed_rows(report: HostsReport) -> list[list[str]]:
    """One row per vocoder of a scene."""
    rows = []
    for host in report.hosts:
        for lap in host.laps:
            times = f"{words.milliseconds(lap.host_s)} ms", f"{words.milliseconds(lap.engine_s)} ms"
            ratio = f"{lap.ratio:.2f}x"
            rows.append([host.repository, lap.scene, lap.place, *times, ratio, words.with_unit(lap.snr_db), lap.engine])
        for left in host.left:
            row = [host.repository, left.scene, left.place, *[words.MISSING] * 4, f"left to the host: {left.reason}"]
            rows.append(row)
        if not host.laps and not host.left:
            rows.append([host.repository, _status(host), *[words.MISSING] * 6])
    return rows


def markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    lines += ["| " + " | ".join(escaped(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def origin(made: Provenance) -> str:
    """Where and when."""
    packages = ", ".join(f"{name} {made.packages[name]}" for name in ("torch", "onnxruntime") if name in made.packages)
    commit = f"commit {made.commit[:12]}{' with changes' if made.dirty else ''}" if made.commit else "no commit"
    return f"{words.moment(made.created)}, {made.cpu}, {made.threads} threads, {packages}, {commit}."


def _table(path: Path, heads: Sequence[str], rows: Callable[[HostsReport], list[list[str]]]) -> str:
    if not path.is_file():
        return "Not measured yet.\n"
    report = read(path)
    return f"{markdown(heads, rows(report))}\n{origin(report.provenance)}\n"


def _scene(scene: SceneCheck) -> list[str]:
    restored = (IDENTICAL if scene.repeatable else NEAR) if scene.restored else NO
    figures = (scene.engine_db, scene.reload_db, scene.run_db)
    shown = [words.MISSING if snr_db is None else words.with_unit(snr_db) for snr_db in figures]
    return [scene.scene, *shown, restored]


def _status(host: HostResult) -> str:
    return f"{host.status}: {host.reason}" if host.reason else host.status
