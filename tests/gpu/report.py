"""A run as JSON and as Markdown."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.gpu.suite import Outcome
from trt_svc.files import replacing


def as_report(facts: dict[str, Any], outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Everything about a run; `facts` are its hardware, versions and settings."""
    return {**facts, "summary": summary(outcomes), "checks": [asdict(outcome) for outcome in outcomes]}


def summary(outcomes: Sequence[Outcome]) -> dict[str, int]:
    """How many passed, failed and were skipped."""
    counts = Counter(_kind(outcome) for outcome in outcomes)
    return {kind: counts[kind] for kind in ("passed", "failed", "skipped")}


def _kind(outcome: Outcome) -> str:
    return "failed" if outcome.failed else "passed" if outcome.result == "passed" else "skipped"


def as_markdown(report: dict[str, Any]) -> str:
    """Tables for people."""
    hardware, counts = report["hardware"], report["summary"]
    gpus = [f"{g['name']}, {g['memory_gib']} GiB, compute capability {g['capability']}" for g in hardware["gpus"]]
    lines = ["# GPU validation", ""]
    lines += [
        f"{'; '.join(gpus) or 'No GPU'}. {hardware['cpu']}, {hardware['cpu_threads']} threads, {hardware['system']}.",
        "",
    ]
    commit = f"{report['project']['commit']}{' with changes' if report['project']['dirty'] is True else ''}"
    lines += [f"{report['started']}, {report['seconds']:.0f} s, commit {commit}.", ""]
    lines += [f"**{counts['passed']} passed, {counts['failed']} failed, {counts['skipped']} skipped.**", ""]
    lines += ["| check | result | figures | seconds |", "|---|---|---|---|"]
    for check in report["checks"]:
        figures = ", ".join(f"{name} {_shown(value)}" for name, value in check["figures"].items())
        lines.append(f"| {check['check']} | {_cell(check['result'])} | {_cell(figures)} | {check['seconds']} |")
    lines += ["", "| package | version |", "|---|---|"]
    lines += [f"| {name} | {_cell(version)} |" for name, version in report["versions"].items()]
    lines += ["", "| backend | here |", "|---|---|"]
    lines += [f"| {name} | {_cell(found)} |" for name, found in report["backends"].items()]
    return "\n".join(lines) + "\n"


def _shown(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _cell(text: Any) -> str:
    return " ".join(str(text).split()).replace("|", "\\|")


def write(report: dict[str, Any], folder: Path, name: str) -> list[Path]:
    """Both files."""
    texts = {".json": json.dumps(report, indent=1, allow_nan=False) + "\n", ".md": as_markdown(report)}
    paths = []
    for suffix, text in texts.items():
        paths.append(folder / f"{name}{suffix}")
        with replacing(paths[-1]) as part:
            part.write_text(text, "utf-8")
    return paths
