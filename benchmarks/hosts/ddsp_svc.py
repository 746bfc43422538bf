"""DDSP-SVC: the enhancer of main.py and gui.py, and the vocoders of main_reflow.py and main_diff.py."""

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

REPOSITORY = "DDSP-SVC"
PACKAGES = ("pyworld",)
UNITS = 32


class NoUnits:
    """In place of the content encoder: noise that is always the same."""

    def __init__(self, *args: Any, **settings: Any) -> None: ...

    def encode(self, audio: Tensor, rate_hz: int, hop: float) -> Tensor:
        frames = int(audio.shape[-1] // hop) + 1
        return torch.randn(1, frames, UNITS, generator=torch.Generator().manual_seed(0)).to(audio.device)


def scenes(root: Path, full_size: bool) -> Iterator[Scene]:
    on_path(root)
    do_without_packages()
    folder, frames = work_folder(), frames_of(full_size)
    weights = vocoder_file(folder / "nsf_hifigan", full_size)
    if full_size:  # one vocoder, called in two ways
        yield next(_enhancer(weights, frames))
        yield next(_reflow(folder, weights, frames))
        return
    yield from _enhancer(weights, frames)
    yield from _reflow(folder, weights, frames)
    yield _diffusion(weights, frames)


def _enhancer(weights: Path, frames: int) -> Iterator[Scene]:
    """As gui.py calls it in real time (silence in front), and as main.py does for a high voice."""
    from enhancer import Enhancer  # type: ignore[import-not-found]

    enhancer = Enhancer("nsf-hifigan", str(weights), device="cpu")
    audio = torch.from_numpy(sung(glide_hz(frames)))[None]

    def sing(key: float | str, silence_front_s: float) -> Callable[[], Audio]:
        def enhanced() -> Audio:
            torch.manual_seed(0)
            f0 = torch.from_numpy(glide_hz(frames))[None, :, None]  # new each time: a shifted key changes it in place
            with torch.no_grad():
                made, rate_hz = enhancer.enhance(
                    audio, RATE_HZ, f0, HOP, adaptive_key=key, silence_front=silence_front_s
                )
            assert rate_hz == RATE_HZ
            return made.squeeze().cpu().numpy()

        return enhanced

    yield Scene("enhancer.Enhancer.enhance", enhancer, sing(0, 0.1), vocoder=enhancer.enhancer.model)
    yield Scene("enhancer.Enhancer.enhance, key 4", enhancer, sing(4, 0.0))


def _reflow(folder: Path, weights: Path, frames: int) -> Iterator[Scene]:
    """As main_reflow.py sings a slice, and gui_reflow.py a block with silence in front."""
    import reflow.vocoder  # type: ignore[import-not-found]

    path = _reflow_model(folder, weights)
    model, vocoder, _ = reflow.vocoder.load_model_vocoder(path, device="cpu")
    f0 = torch.from_numpy(glide_hz(frames))[None, :, None].clamp_min(65)
    units = torch.randn(1, frames, UNITS)
    volume = torch.full((1, frames, 1), 0.1)
    course = {"infer_step": 2, "method": "euler", "t_start": 0.9, "use_tqdm": False}

    def sing() -> Audio:
        torch.manual_seed(0)
        with torch.no_grad():
            speaker, shift = torch.tensor([[1]]), torch.zeros(1, 1)
            audio = model(
                units, f0, volume, spk_id=speaker, aug_shift=shift, vocoder=vocoder, return_wav=True, **course
            )
        return audio.squeeze().cpu().numpy()

    sing()  # the first call loads the weights, and making the layers draws random numbers
    yield Scene("main_reflow.py: Unit2Wav and reflow.vocoder.Vocoder", vocoder, sing, vocoder=vocoder.vocoder.model)
    yield _live(path, frames)


def _live(path: str, frames: int) -> Scene:
    import gui_reflow  # type: ignore[import-not-found]

    gui_reflow.Units_Encoder = NoUnits
    svc = gui_reflow.SvcDDSP()
    audio = sung(glide_hz(frames))
    choices = {"pitch_extractor_type": "dio", "infer_step": 2, "safe_prefix_pad_length": 0.2}

    def sing() -> Audio:
        torch.manual_seed(0)
        made, rate_hz = svc.infer(audio, RATE_HZ, **choices)
        assert rate_hz == RATE_HZ
        return made.cpu().numpy()

    def load() -> None:
        svc.update_model(path)
        sing()

    load()
    return Scene("gui_reflow.py: SvcDDSP.infer", svc, sing, after_reload=load)


def _reflow_model(folder: Path, weights: Path) -> str:
    """A small model of the newest kind, as its own training would store it."""
    from reflow.vocoder import Unit2Wav  # type: ignore[import-not-found]

    sizes = {"win_length": 2048, "n_layers": 1, "n_chans": 64, "use_pitch_aug": True, "n_spk": 1}
    args = {
        "data": {"sampling_rate": RATE_HZ, "block_size": HOP, "encoder": "none", "encoder_out_channels": UNITS},
        "model": {"type": "RectifiedFlow", **sizes},
        "vocoder": {"type": "nsf-hifigan", "ckpt": str(weights)},
    }
    torch.manual_seed(1)
    model = Unit2Wav(RATE_HZ, HOP, n_unit=UNITS, out_dims=BINS, **sizes)
    torch.save({"model": model.state_dict()}, folder / "model.pt")
    (folder / "config.yaml").write_text(yaml.safe_dump(args))
    return str(folder / "model.pt")


def _diffusion(weights: Path, frames: int) -> Scene:
    """As main_diff.py: the mel of the source with its formants shifted, log10, then the vocoder."""
    from diffusion.vocoder import Vocoder  # type: ignore[import-not-found]

    vocoder: Any = Vocoder("nsf-hifigan-log10", str(weights), device="cpu")
    audio = torch.from_numpy(sung(glide_hz(frames)))[None]
    f0 = torch.from_numpy(glide_hz(frames))[None, :, None]

    def sing() -> Audio:
        torch.manual_seed(0)
        with torch.no_grad():
            mel = vocoder.extract(audio, RATE_HZ, keyshift=2.0)
            return vocoder.infer(mel / 0.434294, f0).squeeze().cpu().numpy()

    sing()  # loads it
    return Scene("main_diff.py, diffusion.vocoder.Vocoder log10", vocoder, sing, vocoder=vocoder.vocoder.model)
