"""What GPT-SoVITS finds on its disk: tiny acoustic models, vocoders of random weights, and its own settings file."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from benchmarks.hosts.scene import level

MODELS = Path("GPT_SoVITS/pretrained_models")
VITS_FILES = {"v2": "s2G2333k.pth", "v3": "s2Gv3.pth", "v4": "gsv-v4-pretrained/s2Gv4.pth"}
LORA_MARK = {"v3": b"03", "v4": b"04"}
"""The first two bytes of a voice trained for these versions, in place of "PK"."""
T2S_FILE = MODELS / "s1v3.ckpt"
BIGVGAN_FOLDER = MODELS / "models--nvidia--bigvgan_v2_24khz_100band_256x"
V4_VOCODER_FILE = MODELS / "gsv-v4-pretrained/vocoder.pth"
SETTINGS_FILE = Path("tts_infer.yaml")
BANDS = 100
CALIBRATION_FRAMES = 40
DATA = {"filter_length": 2048, "sampling_rate": 32000, "hop_length": 640, "win_length": 2048, "n_speakers": 300}
DILATIONS = [[1, 3, 5], [1, 3, 5], [1, 3, 5]]
DEC_RATES, DEC_KERNELS = [10, 8, 2, 2, 2], [16, 16, 8, 2, 2]
BIGVGAN_RATES, BIGVGAN_KERNELS = [4, 4, 2, 2, 2, 2], [8, 8, 4, 4, 4, 4]


def log_mel(frames: int) -> Tensor:
    """A mel on the scale of these vocoders, each frame much like the one before it."""
    drawn = torch.randn(1, BANDS, frames + 4)
    smooth = nn.functional.avg_pool1d(drawn, 5, stride=1) * 2.5
    return (smooth - torch.linspace(3, 9, BANDS)[None, :, None]).clamp(-12, 2)


def save_v2(models: Any, channels: int) -> None:
    """A voice of version 2: the host's own SynthesizerTrn with a small encoder."""
    model = {
        "inter_channels": 192,
        "hidden_channels": 192,
        "filter_channels": 256,
        "n_heads": 2,
        "n_layers": 2,
        "kernel_size": 3,
        "p_dropout": 0.1,
        "resblock": "1",
        "resblock_kernel_sizes": [3, 7, 11],
        "resblock_dilation_sizes": DILATIONS,
        "upsample_rates": DEC_RATES,
        "upsample_initial_channel": channels,
        "upsample_kernel_sizes": DEC_KERNELS,
        "gin_channels": 512,
        "semantic_frame_rate": "25hz",
        "version": "v2",
    }
    torch.manual_seed(2)
    net = models.SynthesizerTrn(1025, 32, n_speakers=300, **model).eval()
    level(net.dec, lambda: net.dec(torch.randn(1, 192, CALIBRATION_FRAMES), g=torch.randn(1, 512, 1)))
    config = {"data": DATA, "train": {"segment_size": 20480}, "model": model}
    _save(MODELS / VITS_FILES["v2"], {"weight": net.state_dict(), "config": config})


def save_v3_v4(version: str, acoustic_model: nn.Module) -> Path:
    """The base model of version 3 or 4, and a voice trained on it, which is what is returned."""
    weight = acoustic_model.state_dict()
    content = {"weight": weight, "config": {"data": DATA, "train": {"segment_size": 20480}, "model": {}}}
    _save(MODELS / VITS_FILES[version], content)
    packed = io.BytesIO()
    torch.save({**content, "lora_rank": 4}, packed)
    voice = Path(f"voice_{version}.pth")
    voice.write_bytes(LORA_MARK[version] + packed.getvalue()[2:])
    return voice


def save_v4_vocoder(generator: Callable[..., Any]) -> None:
    torch.manual_seed(4)
    net = generator().eval()
    net.remove_weight_norm()
    mel = log_mel(CALIBRATION_FRAMES)
    nn.init.constant_(net.conv_post.bias, 0.01)  # a drawn one is louder than the sound
    level(net, lambda: net(mel))
    _save(V4_VOCODER_FILE, net.state_dict())


def save_v3_vocoder(bigvgan: Any, channels: int) -> None:
    config = {
        "resblock": "1",
        "num_mels": BANDS,
        "upsample_rates": BIGVGAN_RATES,
        "upsample_kernel_sizes": BIGVGAN_KERNELS,
        "upsample_initial_channel": channels,
        "resblock_kernel_sizes": [3, 7, 11],
        "resblock_dilation_sizes": DILATIONS,
        "use_tanh_at_final": False,
        "use_bias_at_final": False,
        "activation": "snakebeta",
        "snake_logscale": True,
        "n_fft": 1024,
        "hop_size": 256,
        "win_size": 1024,
        "sampling_rate": 24000,
        "fmin": 0,
        "fmax": None,
    }
    BIGVGAN_FOLDER.mkdir(parents=True, exist_ok=True)
    (BIGVGAN_FOLDER / "config.json").write_text(json.dumps(config))
    torch.manual_seed(3)
    net = bigvgan.BigVGAN(bigvgan.AttrDict(config)).eval()
    mel = log_mel(CALIBRATION_FRAMES)
    level(net, lambda: net(mel))
    _save(BIGVGAN_FOLDER / "bigvgan_generator.pt", {"generator": net.state_dict()})


def save_t2s(net: nn.Module) -> None:
    _save(T2S_FILE, {"config": {"data": {"max_sec": 54}}, "weight": net.state_dict()})


def save_settings(**more: Any) -> Path:
    """configs/tts_infer.yaml for the CPU."""
    custom = {
        "device": "cpu",
        "is_half": False,
        "version": "v2",
        "t2s_weights_path": str(T2S_FILE),
        "vits_weights_path": str(MODELS / VITS_FILES["v2"]),
        "bert_base_path": str(MODELS),
        "cnhuhbert_base_path": str(MODELS),
        **more,
    }
    SETTINGS_FILE.write_text(yaml.safe_dump({"custom": custom}))
    return SETTINGS_FILE


def _save(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)
