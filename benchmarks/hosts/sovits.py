"""so-vits-svc 4.1: `inference.infer_tool.Svc` on a folder of files with random weights, and its generators alone.

The packages of its training and of features that these scenes leave off are empty; the few functions of librosa and
torchaudio on the way of a song are written again here. The speech encoder is a random projection of the recording.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import chdir
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
import yaml
from torch import Tensor, nn

from benchmarks.hosts.openvpi import frames_of, glide_hz, sung
from benchmarks.hosts.scene import Audio, Scene, level, on_path, stub
from trt_svc.config import MelSpec
from trt_svc.features.mel import mel_filters
from trt_svc.svc.sinc import sinc_resample

REPOSITORY = "so-vits-svc"

RATE, HOP, ENCODER_RATE, UNITS = 44100, 512, 16000, 256
SPEAKERS = {"alice": 0, "bob": 1, "carol": 2}
MIX = {0: [[0.0, 0.5, 1, 0.5], [0.5, 1, 0.5, 1]], 1: [[0.0, 1.0, 0.2, 0.8]], 2: [[0.0, 1.0, 0.0, 0.0]]}
VOICE, DIFFUSION = Path("logs/44k/G_0.pth"), Path("logs/44k/diffusion/model_0.pt")
VOICE_CONFIG, DIFFUSION_CONFIG = Path("logs/44k/config.json"), Path("logs/44k/diffusion/config.yaml")
VOCODER = Path("pretrain/nsf_hifigan/model")
WAYS: dict[str, dict[str, Any]] = {
    "whole": {},
    "in clips": {"clip_seconds": 0.4, "lg_num": 0.1, "lgr_num": 0.75},
    "a mix of speakers": {"spk": MIX, "use_spk_mix": True, "clip_seconds": 0.4},
}
"""One piece, pieces that are cross-faded, and another speaker in every frame."""
SONG = Path("song.wav")
SEED = 11

TRUNK = {
    "resblock": "1",
    "resblock_kernel_sizes": [3, 7, 11],
    "resblock_dilation_sizes": [[1, 3, 5]] * 3,
    "upsample_rates": [8, 8, 2, 2, 2],
    "upsample_kernel_sizes": [16, 16, 4, 4, 4],
}
PUBLISHED = {
    "inter_channels": 192,
    "hidden_channels": 192,
    "filter_channels": 768,
    "n_layers": 6,
    "gin_channels": 256,
    "upsample_initial_channel": 512,
}
NARROW = {
    "inter_channels": 16,
    "hidden_channels": 16,
    "filter_channels": 32,
    "n_layers": 2,
    "gin_channels": 16,
    "upsample_initial_channel": 32,
}
VOICE_KEYS = {
    "n_heads": 2,
    "kernel_size": 3,
    "p_dropout": 0.1,
    "ssl_dim": UNITS,
    "n_speakers": len(SPEAKERS),
    "speech_encoder": "vec256l9",
    "vocoder_name": "nsf-hifigan",
    "use_automatic_f0_prediction": True,
}
MEL_KEYS = {
    "num_mels": 128,
    "sampling_rate": RATE,
    "hop_size": HOP,
    "n_fft": 2048,
    "win_size": 2048,
    "fmin": 40,
    "fmax": 16000,
}


def scenes(root: Path, full_size: bool) -> Iterator[Scene]:
    stand_ins()
    on_path(root)
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        vars(import_module("utils"))["get_speech_encoder"] = lambda *_, **__: Encoder()
        write_model(full_size)
        soundfile.write(SONG, song(frames_of(full_size)), RATE)
        yield from songs({"whole": {}} if full_size else WAYS)
        if not full_size:
            yield from alone()
        write_voice(voice_keys(full_size) | {"vocoder_name": "nsf-snake-hifigan"})
        svc = opened()
        yield Scene("Svc: net_g_ms.dec, snake", svc, sings(svc), vocoder=svc.net_g_ms.dec)


def songs(ways: dict[str, dict[str, Any]]) -> Iterator[Scene]:
    """Whole conversions, as inference_main.py asks for them."""
    plain = opened(spk_mix_enable=True)
    yield Scene("Svc: net_g_ms.dec", plain, sings(plain, ways), lambda: reload(plain), plain.net_g_ms.dec)
    shallow = opened(shallow_diffusion=True)
    vocoder = loaded(shallow.vocoder).vocoder.model
    yield Scene("Svc: vocoder", shallow, sings(shallow, {"shallow diffusion": {"k_step": 20}}), vocoder=vocoder)
    enhanced = opened(nsf_hifigan_enhance=True)
    sing = sings(enhanced, {"enhanced": {}, "enhanced, adaptive key": {"enhancer_adaptive_key": 2}})
    yield Scene("Svc: enhancer", enhanced, sing, vocoder=enhanced.enhancer.enhancer.model)


def alone() -> Iterator[Scene]:
    """The generators without Svc, for people who write their own scripts."""
    dec, f0 = opened().net_g_ms.dec, melody(60)

    def from_latent() -> Audio:
        torch.manual_seed(SEED)
        z, g = torch.randn(1, dec.conv_pre.in_channels, 60), torch.randn(1, dec.cond.in_channels, 1)
        with torch.no_grad():
            return dec(z, g=g, f0=f0)[0, 0].numpy()

    yield Scene("vdecoder.hifigan.models.Generator", dec, from_latent, vocoder=dec)
    vocoder = loaded(vocoder_wrapper())

    def from_mel() -> Audio:
        torch.manual_seed(SEED)
        with torch.no_grad():
            mel = vocoder.extract(torch.from_numpy(song(60))[None], RATE)
            return vocoder.infer(mel, f0[..., None])[0, 0].numpy()

    yield Scene("diffusion.vocoder.Vocoder", vocoder, from_mel, vocoder=vocoder.vocoder.model)


def opened(**options: Any) -> Any:
    """The host's own class on the files of this folder."""
    svc = import_module("inference.infer_tool").Svc
    files = {"diffusion_model_path": str(DIFFUSION), "diffusion_config_path": str(DIFFUSION_CONFIG)}
    return svc(str(VOICE), str(VOICE_CONFIG), "cpu", cluster_model_path="", **files, **options)


def sings(svc: Any, ways: dict[str, dict[str, Any]] | None = None) -> Callable[[], dict[str, Audio]]:
    """The song through `slice_inference`, in every one of these ways."""
    usual = {"raw_audio_path": str(SONG), "spk": "bob", "tran": 0, "slice_db": -40, "cluster_infer_ratio": 0}
    usual |= {"auto_predict_f0": False, "noice_scale": 0.4, "pad_seconds": 0.1, "f0_predictor": "dio"}

    def sing() -> dict[str, Audio]:
        heard = {}
        for name, way in (ways or {"whole": {}}).items():
            torch.manual_seed(SEED)
            heard[name] = svc.slice_inference(**usual | way)
            svc.clear_empty()
        return heard

    return sing


def reload(svc: Any) -> None:
    """What the web page does for another model."""
    svc.unload_model()
    svc.load_model(spk_mix_enable=True)


def loaded(vocoder: Any) -> Any:
    """With its weights, which come with its first call and would draw random numbers in the middle of a song."""
    vocoder.infer(torch.zeros(1, 4, vocoder.dimension), torch.zeros(1, 4, 1))
    return vocoder


def vocoder_wrapper() -> Any:
    return import_module("diffusion.vocoder").Vocoder("nsf-hifigan", str(VOCODER), "cpu")


# The files.


def write_model(full_size: bool) -> None:
    torch.manual_seed(SEED)
    for file in (VOICE, DIFFUSION, VOCODER):
        file.parent.mkdir(parents=True, exist_ok=True)
    write_voice(voice_keys(full_size))
    write_vocoder({**TRUNK, **MEL_KEYS, "upsample_initial_channel": 512 if full_size else 32})
    write_diffusion(*((20, 512, 256) if full_size else (2, 16, 12)))


def voice_keys(full_size: bool) -> dict[str, Any]:
    return {**TRUNK, **VOICE_KEYS, **(PUBLISHED if full_size else NARROW)}


def write_voice(keys: dict[str, Any]) -> None:
    data = {"sampling_rate": RATE, "hop_length": HOP, "filter_length": 2048, "unit_interpolate_mode": "nearest"}
    config = {"train": {"segment_size": 10240}, "data": data, "model": keys, "spk": SPEAKERS}
    VOICE_CONFIG.write_text(json.dumps(config), encoding="utf-8")
    net = import_module("models").SynthesizerTrn(1025, 20, **keys).eval()
    units, speaker = torch.randn(1, UNITS, 40), torch.zeros(1, 1, dtype=torch.long)
    level(net.dec, lambda: net.infer(units, melody(40), torch.ones(1, 40), speaker))
    torch.save({"model": net.state_dict(), "iteration": 0, "optimizer": None, "learning_rate": 1e-4}, VOICE)


def write_vocoder(keys: dict[str, Any]) -> None:
    VOCODER.with_name("config.json").write_text(json.dumps(keys), encoding="utf-8")
    models = import_module("vdecoder.nsf_hifigan.models")
    net = models.Generator(models.AttrDict(keys)).eval()
    torch.save({"generator": net.state_dict()}, VOCODER)
    mel = vocoder_wrapper().extract(torch.from_numpy(song(40))[None], RATE).transpose(1, 2)
    level(net, lambda: net(mel, melody(mel.shape[2])))
    torch.save({"generator": net.state_dict()}, VOCODER)


def write_diffusion(layers: int, channels: int, hidden: int) -> None:
    settings = {
        "data": {
            "encoder": "vec256l9",
            "encoder_out_channels": UNITS,
            "encoder_sample_rate": ENCODER_RATE,
            "encoder_hop_size": 320,
            "sampling_rate": RATE,
            "block_size": HOP,
            "unit_interpolate_mode": "nearest",
        },
        "model": {
            "type": "Diffusion",
            "n_layers": layers,
            "n_chans": channels,
            "n_hidden": hidden,
            "use_pitch_aug": True,
            "timesteps": 1000,
            "k_step_max": 0,
            "n_spk": len(SPEAKERS),
        },
        "vocoder": {"type": "nsf-hifigan", "ckpt": str(VOCODER)},
        "infer": {"method": "dpm-solver++", "speedup": 10},
        "device": "cpu",
        "spk": SPEAKERS,
    }
    DIFFUSION_CONFIG.write_text(yaml.safe_dump(settings), encoding="utf-8")
    net = import_module("diffusion.unit2mel").Unit2Mel(UNITS, len(SPEAKERS), True, 128, layers, channels, hidden)
    torch.save({"global_step": 0, "model": net.state_dict()}, DIFFUSION)


# What is sung.


def song(frames: int) -> Audio:
    """A sung glide with a breath."""
    return 0.7 * sung(glide_hz(frames))


def melody(frames: int) -> Tensor:
    """Its pitch in Hz (1, frames)."""
    return torch.from_numpy(glide_hz(frames))[None]


class Encoder:
    """In the place of a speech encoder: a random projection of every 400 samples at 16 kHz."""

    hidden_dim = UNITS

    def __init__(self) -> None:
        self.weights = torch.randn(400, UNITS, generator=torch.Generator().manual_seed(SEED)) * 0.1

    def encoder(self, audio: Tensor) -> Tensor:
        return (audio.reshape(-1).unfold(0, 400, 320) @ self.weights).T[None]


# In the place of packages.


class Resample(nn.Module):
    """torchaudio's, in its usual settings."""

    def __init__(self, orig_freq: int, new_freq: int, lowpass_filter_width: int = 6) -> None:
        super().__init__()
        self.orig_freq, self.new_freq, self.width = int(orig_freq), int(new_freq), lowpass_filter_width

    def forward(self, audio: Tensor) -> Tensor:
        return torch.from_numpy(sinc_resample(audio.numpy(), self.orig_freq, self.new_freq, self.width))


class NoBar:
    """tqdm without its bar."""

    def __init__(self, steps: Iterable[Any] = (), *_: Any, **__: Any) -> None:
        self.steps = steps

    def __iter__(self) -> Iterator[Any]:
        return iter(self.steps)

    def __enter__(self) -> NoBar:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def update(self, *_: Any) -> None:
        pass

    def close(self) -> None:
        pass


def stand_ins() -> None:
    stub("librosa", load=load)
    stub("librosa.filters", mel=mel)
    stub("librosa.feature", rms=rms)
    stub("torchaudio", load=load_tensor, set_audio_backend=print)
    stub("torchaudio.transforms", Resample=Resample)
    stub("sklearn.cluster", KMeans=object, MiniBatchKMeans=object)
    stub("faiss")
    stub("tqdm", tqdm=NoBar)
    torch.stft = real_stft  # type: ignore[assignment]


def load(path: Any, sr: int | None = None, **_: Any) -> tuple[Audio, int]:
    audio, rate = soundfile.read(path, dtype="float32", always_2d=True)
    return audio.mean(1), rate


def load_tensor(path: Any) -> tuple[Tensor, int]:
    audio, rate = soundfile.read(path, dtype="float32", always_2d=True)
    return torch.from_numpy(audio.T.copy()), rate


def mel(sr: int, n_fft: int, n_mels: int, fmin: float, fmax: float) -> Audio:
    return mel_filters(MelSpec(sample_rate=sr, n_fft=n_fft, hop=HOP, win=n_fft, n_mels=n_mels, fmin=fmin, fmax=fmax))


def rms(y: Audio, frame_length: int = 2048, hop_length: int = 512) -> Audio:
    framed = np.lib.stride_tricks.sliding_window_view(np.pad(y, frame_length // 2), frame_length)[::hop_length]
    return np.sqrt(np.mean(framed**2, axis=-1))[None]


_STFT = torch.stft


def real_stft(audio: Tensor, *args: Any, return_complex: bool = True, **options: Any) -> Tensor:
    """torch no longer gives real numbers itself."""
    made = _STFT(audio, *args, return_complex=True, **options)
    return made if return_complex else torch.view_as_real(made)
