"""Diffusion-SVC: a whole model as main.py sings it, in real time as the GUI does, and its vocoder alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

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

REPOSITORY = "Diffusion-SVC"
PACKAGES = ("einops",)
UNITS = 32


class NoUnits:
    """In place of the content encoder: noise that is always the same."""

    def __init__(self, *args: Any, **settings: Any) -> None: ...

    def encode(self, audio: Tensor, rate_hz: int, hop: float, **settings: Any) -> Tensor:
        frames = int(audio.shape[-1] // hop) + 1
        return torch.randn(1, frames, UNITS, generator=torch.Generator().manual_seed(0)).to(audio.device)


class NoPitch:
    """In place of the pitch extractor: the glide that was sung."""

    def __init__(self, *args: Any, **settings: Any) -> None: ...

    def extract(self, audio: Audio, **settings: Any) -> Audio:
        return glide_hz(len(audio) // HOP + 1).clip(65)


def scenes(root: Path, full_size: bool) -> Iterator[Scene]:
    on_path(root)
    do_without_packages()
    from tools import infer_tools  # type: ignore[import-not-found]

    infer_tools.Units_Encoder, infer_tools.F0_Extractor = NoUnits, NoPitch
    folder = work_folder()
    seeds = (0,) if full_size else (0, 1)
    weights = [vocoder_file(folder / f"vocoder{seed}", full_size, seed=seed) for seed in seeds]
    models = [_model(folder / f"model{i}", "Diffusion", path) for i, path in enumerate(weights)]
    naive = _model(folder / "naive", "Naive", weights[0])
    whole = _whole(infer_tools.DiffusionSVC, models, naive, frames_of(full_size))
    if full_size:
        yield next(whole)
        return
    yield from whole
    yield _alone(weights[0], frames_of(full_size))


def _whole(kind: Callable[..., Any], models: list[str], naive: str, frames: int) -> Iterator[Scene]:
    svc = kind(device="cpu")
    audio = sung(glide_hz(frames))
    course = {"k_step": 20, "infer_speedup": 10, "method": "dpm-solver", "use_tqdm": False}

    def load(model: str) -> None:
        svc.flush(model_path=model, f0_model="none", f0_min=65, f0_max=800, naive_model_path=naive)
        sing()

    def sing() -> Audio:
        torch.manual_seed(0)
        return svc.infer_from_audio(audio, RATE_HZ, **course)[0]

    def sing_live() -> Audio:
        torch.manual_seed(0)
        with torch.no_grad():
            made, _ = svc.infer_from_audio_for_realtime(audio, RATE_HZ, key=0, silence_front=0.2, **course)
        return made.cpu().numpy()

    def there_and_back() -> None:
        load(models[-1])
        load(models[0])

    load(models[0])
    yield Scene("DiffusionSVC.infer_from_audio", svc, sing, there_and_back, svc.vocoder.vocoder.model)
    yield Scene("DiffusionSVC.infer_from_audio_for_realtime", svc, sing_live)


def _alone(weights: Path, frames: int) -> Scene:
    from diffusion.vocoder import Vocoder  # type: ignore[import-not-found]

    vocoder = Vocoder("nsf-hifigan", str(weights), device="cpu")
    audio = torch.from_numpy(sung(glide_hz(frames)))[None]
    f0 = torch.from_numpy(glide_hz(frames))[None, :, None]

    def sing() -> Audio:
        torch.manual_seed(0)
        with torch.no_grad():
            return vocoder.infer(vocoder.extract(audio, RATE_HZ), f0).squeeze().cpu().numpy()

    sing()  # the first call loads the weights, and making the layers draws random numbers
    return Scene("diffusion.vocoder.Vocoder.infer", vocoder, sing, vocoder=vocoder.vocoder.model)


def _model(folder: Path, kind: str, weights: Path) -> str:
    """A small model of random weights, as its own training would store it."""
    from diffusion.unit2mel import DotDict, load_svc_model  # type: ignore[import-not-found]

    args = {
        "data": {"sampling_rate": RATE_HZ, "block_size": HOP, "encoder": "none", "encoder_out_channels": UNITS},
        "model": {"type": kind, "n_spk": 1, "use_pitch_aug": True, "n_layers": 1, "n_chans": 64, "n_hidden": 64},
        "vocoder": {"type": "nsf-hifigan", "ckpt": str(weights)},
    }
    folder.mkdir()
    torch.manual_seed(1)
    torch.save({"model": load_svc_model(DotDict(args), BINS).state_dict()}, folder / "model.pt")
    (folder / "config.yaml").write_text(yaml.safe_dump(args))
    return str(folder / "model.pt")
