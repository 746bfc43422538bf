"""Writes tests/data/rvc_dec: what the decoders of RVC and Applio, unmodified, make of random weights and known draws.

The files were made with RVC at 4338f12c and Applio at b9c0ccb1: python -m tests.record_rvc_dec FOLDER_OF_THE_CHECKOUTS
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.hosts.scene import level, stub

FOLDER = Path(__file__).parent / "data" / "rvc_dec"
INTER, CHANNELS, GIN, FRAMES, RATE_HZ, SEED = 8, 16, 6, 24, 16000, 3
BLOCKS = [3, 7], [[1, 3, 5], [1, 3, 5]]
EVEN, ODD = ([10, 4, 2, 2], [16, 16, 4, 4]), ([7, 5, 3], [14, 10, 6])


def main(root: Path) -> None:
    stub("torchaudio")
    sys.path[:0] = [str(root / "Retrieval-based-Voice-Conversion-WebUI"), str(root / "Applio")]
    rvc, applio = import_module("infer.module.models"), import_module("rvc.lib.algorithm.generators.hifigan_nsf")
    trunk = [*BLOCKS, EVEN[0], CHANNELS, EVEN[1], GIN]
    record("rvc", EVEN, lambda: rvc.GeneratorNSF(INTER, "1", *trunk, sr=RATE_HZ), (1, 1))
    record("rvc-no-pitch", EVEN, lambda: rvc.Generator(INTER, "1", *trunk), None)
    for name, (rates, kernels) in (("applio", EVEN), ("applio-odd", ODD)):
        made = lambda r=rates, k=kernels: applio.HiFiGANNSFGenerator(INTER, *BLOCKS, r, CHANNELS, k, GIN, RATE_HZ)  # noqa: E731
        record(name, (rates, kernels), made, (1, 1, 1))


@torch.no_grad()
def record(name: str, upsamplers: tuple[list[int], list[int]], make: Any, phase: tuple[int, ...] | None) -> None:
    """One network; phase: the shape of the first random numbers that it draws, if it draws any."""
    torch.manual_seed(SEED)
    dec: nn.Module = make().eval()
    f0 = 220 * 2 ** (0.5 * torch.sin(torch.arange(FRAMES) / 5))[None]
    f0[:, 9:13] = 0
    z, g = torch.randn(1, INTER, FRAMES), torch.randn(1, GIN, 1)
    given = (z, f0) if phase else (z,)
    level(dec, lambda: dec(*given, g=g))
    arrays = {f"weight/{key}": value for key, value in dec.state_dict().items()}
    arrays |= {"z": z, "f0": f0, "g": g}
    if phase:
        torch.manual_seed(SEED)
        arrays |= {"initial_phase": torch.rand(phase), "sine_noise": torch.randn(1, FRAMES * dec.upp, 1)}
        dec.m_source.register_forward_hook(lambda module, args, out: arrays.update(source=out[0].transpose(1, 2)))
    torch.manual_seed(SEED)
    arrays["audio"] = dec(*given, g=g)[:, 0]
    rates, kernels = (np.array(values) for values in upsamplers)
    np.savez_compressed(FOLDER / f"{name}.npz", rates=rates, kernels=kernels, **arrays)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
