"""What half precision costs: the very graphs that are compiled, run on the CPU, against torch float32.

python -m benchmarks.precision_table > docs/precision.md
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from rich.console import Console

from benchmarks.full_size import CONFIGS, full_size
from trt_svc.build_config import Precision
from trt_svc.checkpoints.load import open_checkpoint
from trt_svc.clips import clip_of
from trt_svc.difference import Difference, difference, worst
from trt_svc.graph.check import opened_on_cpu, reference_audio
from trt_svc.graph.rewrites.base import applicable
from trt_svc.graph.vocoder import graph_from_vocoder
from trt_svc.noise import Noise
from trt_svc.sensitivity import RECORDINGS
from trt_svc.vocoders.base import VocoderNet

FRAMES = 96
FORMS = {"fold-mean", "fold-snake", "two-phase-conv"}
LEVELS, PITCHES_HZ = (-12.0, -4.0, 4.0), (20.0, 2000.0)

HEAD = Path(__file__).with_name("precision_head.md")
MIXED = Path(__file__).with_name("precision_mixed.md")
"""Written by benchmarks/mixed_table.py."""


def measured(net: VocoderNet, precision: Precision, forms: set[str] = FORMS) -> Difference:
    """Worst of the two demo clips."""
    graph = graph_from_vocoder(net, precision, sorted(forms & set(applicable(net))))
    run, found = opened_on_cpu(graph), []
    for path in RECORDINGS:
        inputs = clip_of(net, path, FRAMES).inputs
        made = run({spec.name: inputs[spec.name].numpy() for spec in graph.inputs})
        found.append(difference(made, reference_audio(net, inputs)))
    return worst(found)


def extremes(net: VocoderNet) -> str:
    """Is the fp16 graph finite for very quiet and very loud mels and for very low and high pitches?"""
    graph = graph_from_vocoder(net, Precision("fp16"), sorted(FORMS & set(applicable(net))))
    run, frames, excitation = opened_on_cpu(graph), 16, net.excitation()
    for level in LEVELS:
        for pitch in PITCHES_HZ if net.spec.needs_f0 else PITCHES_HZ[:1]:
            f0 = np.full((1, frames), min(pitch, 0.99 * net.spec.max_f0_hz), np.float32)
            arrays = {"mel": np.full((1, net.spec.n_mels, frames), level, np.float32)}
            arrays |= excitation.begin(Noise(excitation.fields, (0,))).push(f0, frames)
            for spec in net.core_inputs():
                arrays.setdefault(spec.name, np.ones((1, spec.channels, frames), np.float32))
            if not np.isfinite(run({spec.name: arrays[spec.name] for spec in graph.inputs})).all():
                return f"NOT finite at mel {level:g}, f0 {pitch:g} Hz"
    return "finite"


def main() -> None:
    progress = Console(stderr=True)
    print(HEAD.read_text("utf-8").rstrip())
    print("\n| network | weights | fp32 SNR dB | fp16 SNR dB | fp16 MAE | fp16 max | bf16 SNR dB | extremes in fp16 |")
    print("|---|---|---|---|---|---|---|---|")
    for name in ("demo", *CONFIGS):
        progress.print(f"{name} ...")
        net = open_checkpoint("demo").net if name == "demo" else full_size(name)
        full, half = measured(net, Precision("fp32")), measured(net, Precision("fp16"))
        rough = measured(net, Precision("bf16", allow_bf16=True))
        weights = "trained" if name == "demo" else "random, calibrated"
        numbers = f"{full.snr_db:.1f} | {half.snr_db:.1f} | {half.mae:.1e} | {half.max:.1e} | {rough.snr_db:.1f}"
        print(f"| {name} | {weights} | {numbers} | {extremes(net)} |", flush=True)
    print("\n" + MIXED.read_text("utf-8").rstrip())


if __name__ == "__main__":
    main()
