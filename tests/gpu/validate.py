"""Every check that needs a GPU, in one run: `make gpu-validation`. Writes one JSON and one Markdown report.

Where there is no GPU the run goes to its end and every check says so.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

import trt_svc
from tests import golden
from trt_svc.backends.base import backends
from trt_svc.build_config import Precision
from trt_svc.cache import EngineCache
from trt_svc.checkpoints.load import open_checkpoint
from trt_svc.difference import difference
from trt_svc.doctor import examine_machine
from trt_svc.files import replacing
from trt_svc.graph.check import reference_audio
from trt_svc.precision import typed
from trt_svc.sensitivity import RECORDINGS, clip_inputs

NO_GPU = "no GPU: skipped"


@dataclass(frozen=True)
class Outcome:
    check: str
    result: str
    """passed, failed, or why it was skipped."""
    figures: dict[str, float]
    seconds: float


CHECKS: dict[str, Callable[[], dict[str, float]]] = {}


def check(run: Callable[[], dict[str, float]]) -> Callable[[], dict[str, float]]:
    CHECKS[run.__name__] = run
    return run


def _on_gpu(net: golden.GoldenNet) -> float:
    with tempfile.TemporaryDirectory() as folder:
        path = golden.upstream_checkpoint(net, Path(folder))
        return golden.error_of(net, trt_svc.load_vocoder(path, source=net.source, device="cuda"))


@check
def parity_with_upstream_in_float32() -> dict[str, float]:
    """Golden networks on the GPU with TF32 off; a GPU sums in another order, so the bound is four times the CPU's."""
    errors = {}
    for net in golden.networks():
        errors[net.name] = _on_gpu(net)
        assert errors[net.name] <= 4 * net.tolerance, f"{net.name}: {errors[net.name]:.1e}"
    return errors


@check
def the_same_seed_sounds_the_same_as_on_the_cpu() -> dict[str, float]:
    on_gpu, on_cpu = (trt_svc.load_vocoder("demo", device=device) for device in ("cuda", "cpu"))
    rng = np.random.default_rng(0)
    mel = rng.normal(-5, 2, (2, 128, 100)).astype(np.float32)
    f0 = np.full((2, 100), 220, np.float32)
    gap = float(np.abs(np.asarray(on_gpu(mel, f0, seed=[1, 2])) - np.asarray(on_cpu(mel, f0, seed=[1, 2]))).max())
    assert gap <= 5e-5
    return {"max difference": gap}


@check
def torch_tensors_stay_on_their_device() -> dict[str, float]:
    vocoder = trt_svc.load_vocoder("demo", device="cuda")
    mel = torch.full((1, 128, 20), -4.0, device="cuda")
    made = vocoder(mel, torch.full((1, 20), 220.0, device="cuda"))
    assert isinstance(made, torch.Tensor)
    assert made.device.type == "cuda"
    return {"samples": float(made.shape[1])}


@check
def half_precision_on_the_gpu() -> dict[str, float]:
    """The typed network in torch on the GPU: what a CPU cannot tell about fp16 is its accumulation."""
    net = open_checkpoint("demo").net
    body = typed(net, Precision("fp16")).to("cuda")
    figures = {}
    for path in RECORDINGS:
        inputs = clip_inputs(net, path, 256)
        with torch.inference_mode():
            made = body(*[inputs[spec.name].to("cuda") for spec in net.core_inputs()]).float().cpu().numpy()
        figures[f"{path.stem} SNR dB"] = difference(made, reference_audio(net, inputs)).snr_db
    assert min(figures.values()) >= 60, figures
    return figures


@check
def engines_on_every_gpu_backend() -> dict[str, float]:
    """Built, opened and compared with torch by the quality gate; says which backends are not installed here."""
    figures = {}
    for name, kind in backends:
        backend = kind()
        probe = backend.probe()
        if not backend.needs_gpu:
            continue
        if not (probe.builds and probe.runs):
            figures[f"{name} not here"] = 0.0
            continue
        with tempfile.TemporaryDirectory() as folder:
            engine = trt_svc.build_engine("demo", trt_svc.BuildConfig(backend=name), cache=EngineCache(Path(folder)))
        figures[f"{name} SNR dB"] = engine.quality["snr_db"]
    return figures


def run_all() -> list[Outcome]:
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    outcomes = []
    for name, run in CHECKS.items():
        started = time.perf_counter()
        figures: dict[str, float] = {}
        if not torch.cuda.is_available():
            result = NO_GPU
        else:
            try:
                figures, result = run(), "passed"
            except Exception as err:
                result = f"failed: {type(err).__name__}: {err}"
        outcomes.append(Outcome(name.replace("_", " "), result, figures, round(time.perf_counter() - started, 2)))
    return outcomes


def markdown(report: dict[str, object], outcomes: list[Outcome]) -> str:
    lines = ["# GPU validation", "", f"{report['gpus'] or 'no GPU'}; {report['system']}; torch {report['torch']}.", ""]
    lines += ["| check | result | figures | seconds |", "|---|---|---|---|"]
    for outcome in outcomes:
        figures = ", ".join(f"{name} {value:.2g}" for name, value in outcome.figures.items())
        lines.append(f"| {outcome.check} | {outcome.result} | {figures} | {outcome.seconds} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/reports"))
    options = parser.parse_args()
    machine = examine_machine()
    outcomes = run_all()
    report = {
        "trt_svc": trt_svc.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": machine.system,
        "gpus": "; ".join(machine.gpus),
        "packages": machine.packages,
        "checks": [asdict(outcome) for outcome in outcomes],
    }
    text = markdown(report, outcomes)
    if torch.cuda.is_available():
        for suffix, content in ((".json", json.dumps(report, indent=1) + "\n"), (".md", text)):
            with replacing(options.out / f"gpu-validation{suffix}") as part:
                part.write_text(content, "utf-8")
    print(text)
    raise SystemExit(any(outcome.result.startswith("failed") for outcome in outcomes))


if __name__ == "__main__":
    main()
