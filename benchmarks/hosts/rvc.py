"""RVC 2026: `VC` and `Pipeline` of its web page, `RVC` of its realtime window, the synthesizers and generators alone.

The packages of its files, features and pitch trackers are empty. The speech encoder is a random projection of the
recording and the pitch a fixed glide; everything from there to the audio is the host's own.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import chdir
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.hosts.scene import Audio, Scene, level, on_path, stub

REPOSITORY = "Retrieval-based-Voice-Conversion-WebUI"

ENCODER_RATE, FRAME = 16000, 160
UNITS = {"v1": 256, "v2": 768}
SEED = 5
BLOCK, HEAD, LENGTH = 4000, 40, 30
"""Realtime: samples of a block at 16 kHz, frames that lie in front of it, frames that are asked for."""

BLOCKS = ["1", [3, 7, 11], [[1, 3, 5]] * 3]
UPSAMPLERS = {32000: ([10, 8, 2, 2], [20, 16, 4, 4]), 40000: ([10, 10, 2, 2], [16, 16, 4, 4]),
              48000: ([12, 10, 2, 2], [24, 20, 4, 4])}  # fmt: skip
SPEAKERS = 3
VOICES = ("one.pth", 48000, "v2", 1), ("other.pth", 40000, "v1", 1), ("third.pth", 32000, "v2", 0)


def scenes(root: Path, full_size: bool) -> Iterator[Scene]:
    stand_ins()
    on_path(root)
    seconds = 2.0 if full_size else 0.8
    with tempfile.TemporaryDirectory() as folder, chdir(root):  # its translations are read from there
        os.environ["weight_root"] = folder  # noqa: SIM112 - the host spells it so
        for name, rate, version, pitch in VOICES[: 1 if full_size else None]:
            write_voice(Path(folder) / name, rate, version, pitch, full_size)
        page = opened("one.pth")
        yield Scene(
            "VC: Pipeline.vc", page, converts(page, seconds), lambda: page.get_vc("other.pth"), page.net_g.dec
        )  # fmt: skip
        window = realtime(Path(folder) / "one.pth")
        yield Scene("RVC: infer", window, streams(window), vocoder=window.net_g.dec)
        if full_size:
            return
        flat = opened("third.pth")
        yield Scene("VC: Pipeline.vc, no pitch", flat, converts(flat, seconds), vocoder=flat.net_g.dec)
        net = opened("other.pth").net_g
        yield Scene("SynthesizerTrnMs256NSFsid.infer", net, infers(net), vocoder=net.dec)
        dec = opened("one.pth").net_g.dec
        yield Scene("GeneratorNSF", dec, generates(dec), vocoder=dec)


def opened(name: str) -> Any:
    """The web page's own class with a voice loaded."""
    config = SimpleNamespace(device="cpu", is_half=False, x_pad=1, x_query=6, x_center=38, x_max=41)
    page = import_module("infer.vc.modules").VC(config)
    page.get_vc(name)
    page.hubert_model = Encoder()
    return page


def converts(page: Any, seconds: float) -> Callable[[], dict[str, Audio]]:
    """Pieces of two lengths through `Pipeline.vc`, which its `pipeline` calls for every piece."""

    def sing() -> dict[str, Audio]:
        torch.manual_seed(SEED)
        heard = {}
        for length in (seconds, 0.6 * seconds):
            audio = recording(length)
            coarse, f0 = melody(len(audio) // FRAME) if page.if_f0 else (None, None)
            rest = ([0, 0, 0], None, None, 0.0, page.version, 0.33)
            sid = torch.tensor([1])
            heard[f"{length:.1f} s"] = page.pipeline.vc(
                page.hubert_model, page.net_g, sid, audio, coarse, f0, *rest
            )  # fmt: skip
        return heard

    return sing


def realtime(path: Path) -> Any:
    """The realtime window's own class."""
    earlier = SimpleNamespace(model=Encoder(), pth_path=None)
    config = SimpleNamespace(device="cpu", is_half=False)
    window = import_module("infer.rtrvc").RVC(0, 0, str(path), "", 0.0, config, last_rvc=earlier)
    window.model_rmvpe = SimpleNamespace(infer_from_audio=lambda x, thred: glide_hz(len(x) // FRAME + 1))
    return window


def streams(window: Any) -> Callable[[], dict[str, Audio]]:
    """Three blocks, with and without a shift of the formants (which resizes the decoder's inputs)."""

    def sing() -> dict[str, Audio]:
        torch.manual_seed(SEED)
        heard = {}
        for formant in (0.0, 2.5):
            window.change_formant(formant)
            window.cache_pitch.zero_()
            window.cache_pitchf.zero_()
            audio = torch.from_numpy(recording(1.0 + 3 * BLOCK / ENCODER_RATE)).float()
            blocks = [
                window.infer(audio[first : first + ENCODER_RATE], BLOCK, HEAD, LENGTH, "rmvpe")
                for first in range(0, 3 * BLOCK, BLOCK)
            ]
            heard[f"formant {formant:g}"] = torch.cat(blocks).numpy()
        return heard

    return sing


def infers(net: Any) -> Callable[[], dict[str, Audio]]:
    """`infer` as scripts call it: whole, and the tail of it in another number of frames."""

    @torch.no_grad()
    def sing() -> dict[str, Audio]:
        torch.manual_seed(SEED)
        units, lengths, speaker = torch.randn(1, 80, UNITS["v1"]), torch.tensor([80]), torch.tensor([0])
        given = (units, lengths, *melody(80), speaker)
        return {
            "whole": net.infer(*given)[0][0, 0].numpy(),
            "tail": net.infer(*given, 30, 45)[0][0, 0].numpy(),
            "longer tail": net.infer(*given, torch.tensor(30), torch.tensor(45), torch.tensor(52))[0][0, 0].numpy(),
        }

    return sing


def generates(dec: Any) -> Callable[[], Audio]:
    @torch.no_grad()
    def sing() -> Audio:
        torch.manual_seed(SEED)
        z, g = torch.randn(1, dec.conv_pre.in_channels, 70), torch.randn(1, dec.cond.in_channels, 1)
        return dec(z, melody(70)[1], g=g)[0, 0].numpy()

    return sing


# The files.


def voice_config(rate: int, full_size: bool) -> list[Any]:
    """The list that the host keeps in its voices."""
    inter, hidden, width, layers, channels, gin = (192, 192, 768, 6, 512, 256) if full_size else (16, 16, 32, 2, 64, 16)
    rates, kernels = UPSAMPLERS[rate]
    trunk = [rates, channels, kernels, SPEAKERS, gin, rate]
    return [1025, 32, inter, hidden, width, 2, layers, 3, 0, *BLOCKS, *trunk]


def write_voice(path: Path, rate: int, version: str, pitch: int, full_size: bool) -> None:
    """A voice with random weights, as the host's training leaves it: half precision, without its posterior encoder."""
    torch.manual_seed(SEED)
    kind = f"SynthesizerTrnMs{UNITS[version]}NSFsid" + ("" if pitch else "_nono")
    config = voice_config(rate, full_size)
    net = getattr(import_module("infer.module.models"), kind)(*config, is_half=False).eval()
    units, lengths, speaker = torch.randn(1, 40, UNITS[version]), torch.tensor([40]), torch.tensor([1])
    level(net.dec, lambda: net.infer(units, lengths, *(melody(40) if pitch else ()), speaker))
    weights = {name: value.half() for name, value in net.state_dict().items() if not name.startswith("enc_q.")}
    torch.save({"weight": weights, "config": config, "info": "1epoch", "sr": f"{rate // 1000}k", "f0": pitch,
                "version": version}, path)  # fmt: skip


# What comes from other packages in the host.


class Encoder(nn.Module):
    """In place of HuBERT: a random projection of 25 ms every 20 ms."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(SEED)
        self.project = torch.randn(400, UNITS["v2"], generator=generator) / 20
        self.final_proj = nn.Linear(UNITS["v2"], UNITS["v1"])

    def forward(self, input_values: Tensor, **_: Any) -> Any:
        units = torch.tanh(8 * input_values.float().unfold(1, 400, 320) @ self.project)
        return SimpleNamespace(last_hidden_state=units, hidden_states=[units] * 13)


class Resample(nn.Module):
    """In place of torchaudio's."""

    def __init__(self, orig_freq: int, new_freq: int, dtype: Any = None) -> None:
        super().__init__()
        self.ratio = new_freq / orig_freq

    def forward(self, audio: Tensor) -> Tensor:
        return F.interpolate(audio[:, None], size=round(audio.shape[-1] * self.ratio), mode="linear")[:, 0]


def stand_ins() -> None:
    for name in ("faiss", "librosa", "parselmouth", "ffmpeg", "av"):
        stub(name)
    stub("transformers", AutoFeatureExtractor=object, HubertModel=nn.Module)
    stub("torchaudio")
    stub("torchaudio.transforms", Resample=Resample)


def recording(seconds: float) -> Audio:
    """Harmonics of the glide at the encoder's rate."""
    samples = int(seconds * ENCODER_RATE)
    pitch = np.interp(np.arange(samples) / FRAME, np.arange(samples // FRAME + 1), glide_hz(samples // FRAME + 1))
    phase = 2 * np.pi * np.cumsum(pitch) / ENCODER_RATE
    return sum(0.2 / n * np.sin(n * phase) for n in range(1, 9))


def glide_hz(frames: int) -> Audio:
    return 220 * 2 ** (0.3 * np.sin(np.arange(frames) / 15))


def melody(frames: int) -> tuple[Tensor, Tensor]:
    """The coarse pitch for the host's encoder and f0 for its decoder."""
    f0 = glide_hz(frames)
    coarse = np.clip(np.rint(12 * np.log2(f0 / 50) * 4 + 1), 1, 255)
    return torch.from_numpy(coarse).long()[None], torch.from_numpy(f0).float()[None]
