"""DiffSinger: run_vocoder of its acoustic inference, and spec2wav as its validation script calls it.

Three kinds of weights exist: the plain source, mini-NSF ("pc" vocoders, the default of its configs), and noise behind
the first layer.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.hosts.openvpi import (
    BINS,
    HOP,
    RATE_HZ,
    do_without_packages,
    frames_of,
    glide_hz,
    sung,
    vocoder_file,
    work_folder,
)
from benchmarks.hosts.scene import Audio, Scene, on_path
from trt_svc.config import MelSpec
from trt_svc.features.mel import log_mel

REPOSITORY = "DiffSinger"
PACKAGES = ("einops",)
LOG10_OF_E = 0.434294


def scenes(root: Path, full_size: bool) -> Iterator[Scene]:
    on_path(root)
    do_without_packages()
    folder, frames = work_folder(), frames_of(full_size)
    kinds: dict[str, dict[str, Any]] = {
        "mini-NSF": {"preset": "pc_nsf_hifigan_44k"},
        "nine harmonics": {},
        "mini-NSF with noise": {"preset": "pc_nsf_hifigan_44k", "noise_sigma": 0.3},
    }
    for kind, config in list(kinds.items())[: 2 if full_size else None]:
        weights = vocoder_file(folder / kind, full_size, name="model.ckpt", **config)
        yield _acoustic(kind, weights, frames)
    if not full_size:
        yield _validation(folder / "nine harmonics" / "model.ckpt", frames)


def _mel(frames: int) -> Audio:
    """(frames, bins), natural logarithm."""
    spec = MelSpec(RATE_HZ, 2048, 2048, HOP, BINS, 40.0, 16000.0, "nvstft")
    return log_mel(sung(glide_hz(frames))[None], spec)[0, :, :frames].T


def _settings(weights: Path, mel_base: str) -> None:
    from utils.hparams import hparams  # type: ignore[import-not-found]

    sizes = {"hop_size": HOP, "fft_size": 2048, "win_size": 2048, "fmin": 40, "fmax": 16000}
    vocoder = {"vocoder": "NsfHifiGAN", "vocoder_ckpt": str(weights), "mel_base": mel_base}
    hparams.update(audio_sample_rate=RATE_HZ, audio_num_mel_bins=BINS, **sizes, **vocoder)


def _acoustic(kind: str, weights: Path, frames: int) -> Scene:
    """A voice bank without its acoustic model: the mel is given."""
    _settings(weights, "e")
    from inference.ds_acoustic import DiffSingerAcousticInfer  # type: ignore[import-not-found]

    host = DiffSingerAcousticInfer(device="cpu", load_model=False)
    mel, f0 = torch.from_numpy(_mel(frames))[None], torch.from_numpy(glide_hz(frames))[None]

    def sing() -> Audio:
        _settings(weights, "e")
        torch.manual_seed(0)
        return host.run_vocoder(mel, f0=f0)[0].cpu().numpy()

    return Scene(f"DiffSingerAcousticInfer.run_vocoder, {kind}", host, sing, vocoder=host.vocoder.model)


def _validation(weights: Path, frames: int) -> Scene:
    """NumPy in and out, log10 mels."""
    _settings(weights, "10")
    from modules.vocoders.registry import VOCODERS  # type: ignore[import-not-found]

    vocoder = VOCODERS["nsfhifigan"]()
    vocoder.to_device("cpu")
    mel, f0 = LOG10_OF_E * _mel(frames), glide_hz(frames)

    def sing() -> Audio:
        _settings(weights, "10")
        torch.manual_seed(0)
        return vocoder.spec2wav(mel, f0=f0)

    return Scene("NsfHifiGAN.spec2wav, log10 mels", vocoder, sing, vocoder=vocoder.model)
