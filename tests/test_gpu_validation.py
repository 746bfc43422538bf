"""`make gpu-validation`: what it reports on a machine without a GPU, and that nothing stops it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.gpu.suite import NO_GPU, NO_TIME, Figures, Outcome, Settings, Skip, Suite, run_all

toy = Suite()


def toys() -> Suite:
    """Made anew in every worker, which imports this module."""
    return toy


@toy.check
def passes(note: Figures, device: str) -> None:
    """It passes.

    More about it.
    """
    note.update({"number": 1.5, "count": 3, "word": device, "endless": float("inf")})


@toy.check
def does_not_apply(note: Figures, device: str) -> None:
    raise Skip("nothing here")


@toy.check
def fails(note: Figures, device: str) -> None:
    note["seen"] = 2
    raise ValueError("two\nlines | and more")


@toy.check
def hangs(note: Figures, device: str) -> None:
    time.sleep(600)


@toy.check
def dies(note: Figures, device: str) -> None:
    os._exit(7)


@toy.check_each("one", ("two", "words"))
def cases(note: Figures, device: str, *case: str) -> None:
    note["pid"] = os.getpid()
    note["case"] = " ".join(case)


broken = Suite()
broken_state = {"broken": False}


def tidied() -> None:
    if broken_state["broken"]:
        raise RuntimeError("CUDA error: an illegal memory access")


def breakable() -> Suite:
    broken.after_each = tidied
    return broken


@broken.check
def breaks_the_device(note: Figures, device: str) -> None:
    broken_state["broken"] = True


@broken.check
def comes_behind_it(note: Figures, device: str) -> None:
    """Runs in a fresh process."""


@pytest.fixture(scope="module", autouse=True)
def command(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """The command at work beside the first tests."""
    out = tmp_path_factory.mktemp("reports")
    with subprocess.Popen(
        [sys.executable, "-m", "tests.gpu.validate", "--out", str(out)],
        cwd=Path(__file__).parents[1],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        yield process, out
        process.kill()


@pytest.fixture(scope="module")
def outcomes() -> dict[str, Outcome]:
    said: list[str] = []
    made = run_all(toys, list(toy.checks), Settings("cpu", limit_s=1.5), lambda outcome: said.append(outcome.check))
    assert said == [outcome.check for outcome in made] == list(toy.checks)
    return {outcome.check: outcome for outcome in made}


def test_what_a_check_says(outcomes: dict[str, Outcome]) -> None:
    assert outcomes["passes"].result == "passed"
    assert outcomes["passes"].about == "It passes."
    assert outcomes["passes"].figures == {"number": 1.5, "count": 3, "word": "cpu", "endless": "inf"}
    assert outcomes["does not apply"].result == "skipped: nothing here"
    assert outcomes["fails"].result == "failed: ValueError: two lines | and more"
    assert outcomes["fails"].figures == {"seen": 2}
    assert "raise ValueError" in outcomes["fails"].details


def test_a_check_that_hangs_or_dies_does_not_stop_the_rest(outcomes: dict[str, Outcome]) -> None:
    assert outcomes["hangs"].result == "failed: hung"
    assert 1.4 <= outcomes["hangs"].seconds < 5
    assert "in hangs" in outcomes["hangs"].details
    assert outcomes["dies"].result == "failed: the process died (7)"
    assert outcomes["cases: one"].figures["case"] == "one"
    assert outcomes["cases: two words"].figures["case"] == "two words"
    assert outcomes["cases: one"].figures["pid"] == outcomes["cases: two words"].figures["pid"] != os.getpid()


def test_a_device_left_broken_costs_the_process() -> None:
    first, second = run_all(breakable, list(broken.checks), Settings("cpu"))
    assert first.result == "failed: it left the GPU broken: RuntimeError: CUDA error: an illegal memory access"
    assert second.result == "passed"


def test_the_budget_ends_the_run_not_the_report() -> None:
    made = run_all(toys, ["passes", "hangs", "passes", "cases: one"], Settings("cpu", limit_s=60, budget_s=2.5))
    assert made[0].result == "passed"
    assert made[1].result.startswith(f"{NO_TIME} after ")
    assert [outcome.result for outcome in made[2:]] == [NO_TIME] * 2
    assert not any(outcome.failed for outcome in made)


@pytest.fixture(scope="module")
def without_gpu(command: tuple[subprocess.Popen[str], Path]) -> tuple[str, dict[str, Any], str]:
    """What the command prints, and both reports, where no GPU can be seen."""
    process, out = command
    printed, complaints = process.communicate(timeout=120)
    assert process.returncode == 0, complaints
    report = json.loads((out / "gpu-validation-no-gpu.json").read_text("utf-8"))
    return printed, report, (out / "gpu-validation-no-gpu.md").read_text("utf-8")


def test_without_a_gpu_every_check_says_so(without_gpu: tuple[str, dict[str, Any], str]) -> None:
    from tests.gpu.checks import all_checks

    printed, report, text = without_gpu
    names = [check["check"] for check in report["checks"]]
    assert names == list(all_checks().checks)
    assert len(names) >= 70
    assert {check["result"] for check in report["checks"]} == {NO_GPU}
    assert all(check["about"] for check in report["checks"])
    assert report["summary"] == {"passed": 0, "failed": 0, "skipped": len(names)}
    for name in names:
        assert f"{name}: {NO_GPU}" in printed
        assert f"| {name} | {NO_GPU} |" in text


def test_the_report_names_hardware_and_versions(without_gpu: tuple[str, dict[str, Any], str]) -> None:
    _, report, text = without_gpu
    assert report["hardware"]["gpus"] == []
    assert report["hardware"]["cpu"] and report["hardware"]["cpu_threads"] >= 1
    packages = (
        "python",
        "torch",
        "cuda",
        "driver",
        "cudnn",
        "tensorrt",
        "torch-tensorrt",
        "onnxruntime",
        "onnxruntime-gpu",
    )
    assert {*packages, "tensorrt-rtx-cu13", "triton", "cuda-core", "pycuda", "numpy"} <= set(report["versions"])
    assert {"tensorrt", "tensorrt-rtx", "torch-tensorrt", "onnxruntime-cuda"} <= set(report["backends"])
    assert set(report["project"]) == {"commit", "dirty"}
    assert report["settings"]["tf32"] is False
    assert text.startswith("# GPU validation\n\nNo GPU.")


def test_names_of_reports() -> None:
    from tests.gpu.machine import slug

    assert slug([]) == "no-gpu"
    assert slug([{"name": "NVIDIA H200"}]) == "nvidia-h200"
    assert slug([{"name": "NVIDIA GeForce RTX 4090"}] * 2) == "2x-nvidia-geforce-rtx-4090"


def test_every_gpu_backend_is_checked() -> None:
    from tests.gpu.checks import all_checks
    from trt_svc.backends.base import backends

    names = list(all_checks().checks)
    for name, kind in backends:
        if kind.needs_gpu:
            assert {f"engines near torch: {name} {precision}" for precision in ("fp32", "fp16")} <= set(names)
            assert f"engines as sessions: {name}" in names


def test_copies_are_found_in_a_profile(tmp_path: Path) -> None:
    from tests.gpu.checks_tensors import transfers

    events = [
        {"cat": "gpu_memcpy", "name": "Memcpy DtoH (Device -> Pageable)", "args": {"bytes": 8}},
        {"cat": "kernel", "name": "conv", "args": {"stream": 7}},
        {"cat": "cpu_op", "name": "aten::copy_"},
        {"name": "process_name"},
    ]
    (tmp_path / "trace.json").write_text(json.dumps({"traceEvents": events}))
    assert transfers(tmp_path / "trace.json") == [("Memcpy DtoH (Device -> Pageable)", 8), ("conv", 0)]
