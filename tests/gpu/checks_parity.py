"""The network on the GPU in torch, against upstream's own audio and against the CPU."""

from __future__ import annotations

import numpy as np
import torch

import trt_svc
from tests import golden
from tests.gpu.common import NEAR, check, demo, folder, near, speech, truth
from tests.gpu.suite import Figures

HALF_DB = 55.0
"""A CPU gives 61 dB (sung) and 59 dB (spoken)."""


@check
def parity_with_upstream_in_float32(note: Figures, device: str) -> None:
    """Golden networks with TF32 off; a GPU sums in another order, so the bound is four times the CPU's."""
    worse = []
    for net in golden.networks():
        with folder() as there:
            path = golden.upstream_checkpoint(net, there)
            error = golden.error_of(net, trt_svc.load_vocoder(path, source=net.source, device=device))
        note[net.name] = error
        if not error <= 4 * net.tolerance:
            worse.append(f"{net.name}: {error:.1e}")
    assert not worse, "; ".join(worse)


@check
def the_same_seed_sounds_the_same_as_on_the_cpu(note: Figures, device: str) -> None:
    """A batch with its own seeds, on both."""
    mel = np.random.default_rng(0).normal(-5, 2, (2, 128, 100)).astype(np.float32)
    given = {"mel": mel, "f0": np.full((2, 100), 220, np.float32)}
    near(note, "max difference", demo(device)(**given, seed=[1, 2]), truth(given, [1, 2]), 5e-5)


@check
def float32_is_float32_where_the_process_allows_tf32(note: Figures, device: str) -> None:
    """torch's defaults let cuDNN round to 10 bits: a session must not."""
    given = speech(1, 200)
    expected = truth(given)
    conv, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    conv.allow_tf32 = matmul.allow_tf32 = True
    try:
        vocoder = demo(device)
        for _ in range(4):  # plain, recorded, replayed
            near(note, "max difference", vocoder(**given), expected)
        assert conv.allow_tf32 and matmul.allow_tf32, "the settings of the process were changed"
    finally:
        conv.allow_tf32 = matmul.allow_tf32 = False


@check
def half_precision_in_torch(note: Figures, device: str) -> None:
    """The typed network: what a CPU cannot tell about fp16 is its accumulation."""
    from trt_svc.build_config import Precision
    from trt_svc.checkpoints.load import open_checkpoint
    from trt_svc.clips import clip_of
    from trt_svc.difference import difference
    from trt_svc.graph.check import reference_audio
    from trt_svc.precision import typed
    from trt_svc.sensitivity import RECORDINGS

    net = open_checkpoint("demo").net
    body = typed(net, Precision("fp16")).to(device)
    for path in RECORDINGS:
        inputs = clip_of(net, path, 256).inputs
        with torch.inference_mode():
            made = body(*[inputs[spec.name].to(device) for spec in net.core_inputs()]).float().cpu().numpy()
        note[f"{path.stem} SNR dB"] = difference(made, reference_audio(net, inputs)).snr_db
    assert min(note.values()) >= HALF_DB, f"below {HALF_DB} dB: {note}"


@check
def batches_equal_clips_alone(note: Figures, device: str) -> None:
    """Ragged clips through `batch`, NumPy and tensors, against each clip by itself."""
    vocoder = demo(device)
    clips = [speech(1, frames, seed=i) for i, frames in enumerate((40, 7, 40, 90, 7))]
    seeds = list(range(len(clips)))
    for kind in ("numpy", "torch"):
        made = vocoder.batch(
            [torch.from_numpy(c["mel"]).to(device) if kind == "torch" else c["mel"] for c in clips],
            f0=[c["f0"] for c in clips],
            seed=seeds,
        )
        for clip, seed, wave in zip(clips, seeds, made, strict=True):
            assert isinstance(wave, torch.Tensor if kind == "torch" else np.ndarray), f"{type(wave)} for {kind}"
            near(note, f"{kind} max difference", wave, truth(clip, seed)[0], NEAR)
