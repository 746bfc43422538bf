"""Applio: `VoiceConverter` and its `Pipeline`, the realtime `RealtimeVoiceConverter`, the synthesizers and generators.

The packages of its files, effects and pitch trackers are empty. The speech encoder is a random projection of the
recording and the pitch a fixed glide; everything from there to the audio is the host's own.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import chdir
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.hosts.rvc import BLOCKS, FRAME, SEED, SPEAKERS, UNITS, Encoder, melody, recording
from benchmarks.hosts.scene import Audio, Scene, level, on_path, stub

REPOSITORY = "Applio"

UPSAMPLERS = {24000: ([10, 6, 2, 2], [20, 12, 4, 4]), 32000: ([10, 8, 2, 2], [20, 16, 4, 4]),
              40000: ([10, 10, 2, 2], [16, 16, 4, 4]), 48000: ([12, 10, 2, 2], [24, 20, 4, 4])}  # fmt: skip
ODD = [7, 7, 3, 3], [14, 14, 6, 6]
"""Its generators take odd rates too: 441 samples a frame."""
EFFECTS = ("Pedalboard", "Chorus", "Distortion", "Reverb", "PitchShift", "Limiter", "Gain", "Bitcrush", "Clipping",
           "Compressor", "Delay")  # fmt: skip


def scenes(root: Path, full_size: bool) -> Iterator[Scene]:
    stand_ins()
    on_path(root)
    seconds = 2.0 if full_size else 0.8
    with tempfile.TemporaryDirectory() as folder, chdir(root):  # its configs are read from there
        one = write_voice(Path(folder) / "one.pth", 48000, "v2", True, full_size)
        other = one if full_size else write_voice(Path(folder) / "other.pth", 24000, "v1", True, full_size)
        page = opened(one)
        yield Scene(
            "VoiceConverter: Pipeline.voice_conversion", page, converts(page, seconds),
            lambda: page.get_vc(other, 0), page.net_g.dec,
        )  # fmt: skip
        stream = import_module("rvc.realtime.pipeline").RealtimeVoiceConverter(one)
        yield Scene("RealtimeVoiceConverter: inference", stream, streams(stream), vocoder=stream.net_g.dec)
        if full_size:
            return
        flat = opened(write_voice(Path(folder) / "flat.pth", 32000, "v2", False, full_size))
        yield Scene("VoiceConverter, no pitch", flat, converts(flat, seconds), vocoder=flat.net_g.dec)
        net = opened(other).net_g
        yield Scene("Synthesizer.infer", net, infers(net), vocoder=net.dec)
        dec = odd_generator()
        yield Scene("HiFiGANNSFGenerator, odd rates", dec, generates(dec), vocoder=dec)


def opened(voice: str) -> Any:
    """The host's own class with a voice loaded."""
    page = import_module("rvc.infer.infer").VoiceConverter()
    page.get_vc(voice, 0)
    page.hubert_model = Units()
    return page


def converts(page: Any, seconds: float) -> Callable[[], dict[str, Audio]]:
    """Pieces of two lengths through `voice_conversion`, which its `pipeline` calls for every piece."""

    def sing() -> dict[str, Audio]:
        torch.manual_seed(SEED)
        heard = {}
        for length in (seconds, 0.6 * seconds):
            audio = recording(length)
            coarse, f0 = melody(len(audio) // FRAME) if page.use_f0 else (None, None)
            sid = torch.tensor([1])
            heard[f"{length:.1f} s"] = page.vc.voice_conversion(
                page.hubert_model, page.net_g, sid, audio, coarse, f0, None, None, 0.0, page.version, 0.33
            )
        return heard

    return sing


def streams(stream: Any) -> Callable[[], Audio]:
    """Three blocks; `rate` says how much of the end of each is wanted."""

    @torch.no_grad()
    def sing() -> Audio:
        torch.manual_seed(SEED)
        units, lengths, speaker = torch.randn(3, 1, 90, UNITS["v2"]), torch.tensor([90]), torch.tensor([0])
        coarse, f0 = melody(90)
        return torch.cat(
            [stream.inference(block, lengths, speaker, coarse, f0, torch.tensor(0.4)) for block in units]
        ).numpy()

    return sing


def infers(net: Any) -> Callable[[], Audio]:
    @torch.no_grad()
    def sing() -> Audio:
        torch.manual_seed(SEED)
        units, lengths, speaker = torch.randn(1, 80, UNITS["v1"]), torch.tensor([80]), torch.tensor([0])
        return net.infer(units, lengths, *melody(80), speaker)[0][0, 0].numpy()

    return sing


def odd_generator() -> nn.Module:
    torch.manual_seed(SEED)
    kind = import_module("rvc.lib.algorithm.generators.hifigan_nsf").HiFiGANNSFGenerator
    dec = kind(16, *BLOCKS[1:], ODD[0], 64, ODD[1], gin_channels=8, sr=44100).eval()
    level(dec, generates(dec))
    return dec


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
    return [513, 32, inter, hidden, width, 2, layers, 3, 0, *BLOCKS, *trunk]


def write_voice(path: Path, rate: int, version: str, pitch: bool, full_size: bool) -> str:
    """A voice with random weights, as the host's training leaves it: half precision, without its posterior encoder."""
    torch.manual_seed(SEED)
    config, words = voice_config(rate, full_size), {"vocoder": "HiFi-GAN", "text_enc_hidden_dim": UNITS[version]}
    kind = import_module("rvc.lib.algorithm.synthesizers").Synthesizer
    net = kind(*config, use_f0=pitch, **words).eval()
    units, lengths, speaker = torch.randn(1, 40, UNITS[version]), torch.tensor([40]), torch.tensor([1])
    level(net.dec, torch.no_grad(lambda: net.infer(units, lengths, *(melody(40) if pitch else (None, None)), speaker)))
    weights = {name: value.half() for name, value in net.state_dict().items() if not name.startswith("enc_q.")}
    torch.save({"weight": weights, "config": config, "info": "1epoch", "sr": rate, "f0": int(pitch),
                "version": version, "vocoder": "HiFi-GAN"}, path)  # fmt: skip
    return str(path)


# What comes from other packages in the host.


class Units(Encoder):
    """Read by key, and without a projection for every layer."""

    def forward(self, audio: Any, **_: Any) -> Any:
        return vars(super().forward(audio))


def stand_ins() -> None:
    for name in ("faiss", "librosa", "soxr", "noisereduce", "torchcrepe", "resampy", "wget", "torchaudio"):
        stub(name)
    stub("librosa.filters", mel=None)
    stub("pedalboard", **dict.fromkeys(EFFECTS))
    stub("torchfcpe", spawn_infer_model_from_pt=None)
    stub("transformers", HubertModel=nn.Module)
