"""A so-vits-svc 4.1 model of full size with random weights, as files in upstream's layout.

Weights keep every layer's variance moderate, units as small as real ones, mels in a vocoder's range and audio loud but
unclipped, so that errors mean what they would mean in a trained model.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor, nn

from benchmarks.song_audio import song
from benchmarks.song_crepe import fitted_crepe
from benchmarks.song_weights import (
    QUIET,
    centre_features,
    contentvec_weights,
    healthy_unit2mel,
    healthy_voice,
    set_level,
)
from trt_svc.checkpoints.presets import presets
from trt_svc.svc.encoders.base import encoders
from trt_svc.vocoders.healthy import example_inputs, healthy_net

INVENTORY = Path(__file__).parents[1] / "tests" / "data" / "golden-svc" / "state_dict_inventory.json.gz"
"""Names of the weights in real files."""
SPEAKER = "nen"
HEARD_S, HEARD_FRAMES = 6.0, 60
"""Audio that the content encoder's features are centred on, and frames that the vocoder is scaled on."""
RATE_HZ, HOP_SAMPLES, N_MELS = 44100, 512, 128


@dataclass(frozen=True)
class Sizes:
    """How large the networks are."""

    units: int = 768
    encoder_conv: int = 512
    encoder_inner: int = 3072
    hidden: int = 192
    filter_channels: int = 768
    gin: int = 768
    speakers: int = 200
    upsample_initial: int = 512
    diffusion: tuple[int, int, int] = (20, 512, 256)
    """Layers, channels, channels of the condition."""
    centres: int = 10_000
    crepe: tuple[int, ...] = (1024, 128, 128, 128, 256, 512)
    crepe_windows: int = 600
    """What the last layer is fitted on."""


FULL = Sizes()
SMALL = Sizes(32, 16, 48, 16, 32, 16, 3, 32, (2, 144, 12), 50, (32, 8, 8, 8, 16, 32), 100)
"""For tests."""


def write_models(root: Path, sizes: Sizes = FULL, seed: int = 0) -> None:
    """Everything a conversion with crepe, k-means and shallow diffusion needs, as it lies in upstream's folder."""
    logs, pretrain = root / "logs" / "44k", root / "pretrain"
    for folder in (logs / "diffusion", pretrain / "nsf_hifigan"):
        folder.mkdir(parents=True)
    config = voice_config(sizes)
    voice = healthy_voice(config["model"], seed)
    _save(
        {"model": _as_trained(voice, "so-vits-svc-4.1 template vec768l12"), "iteration": 1, "optimizer": {}},
        logs / "G_0.pth",
    )
    _write_json(config, logs / "config.json")
    centres = np.random.default_rng(seed).normal(0, 0.3, (sizes.centres, sizes.units)).astype(np.float32)
    known = {"n_features_in_": sizes.units, "_n_threads": 1, "cluster_centers_": centres}
    _save({SPEAKER: known}, logs / "kmeans_10000.pt")
    unit2mel = healthy_unit2mel(sizes.units, N_MELS, *sizes.diffusion, seed)
    _save({"global_step": 1, "model": unit2mel.state_dict()}, logs / "diffusion" / "model_0.pt")
    (logs / "diffusion" / "config.yaml").write_text(yaml.safe_dump(diffusion_config(sizes)), "utf-8")
    write_vocoder(pretrain / "nsf_hifigan", sizes, seed)
    write_encoder(pretrain / "checkpoint_best_legacy_500.pt", sizes, seed)
    crepe = fitted_crepe(sizes.crepe, sizes.crepe_windows, seed)
    _save(crepe.state_dict(), pretrain / "crepe_full.pth")


def voice_config(sizes: Sizes) -> dict[str, Any]:
    """The template's config.json."""
    model = {
        "inter_channels": sizes.hidden,
        "hidden_channels": sizes.hidden,
        "filter_channels": sizes.filter_channels,
        "n_heads": 2,
        "n_layers": 6,
        "kernel_size": 3,
        "p_dropout": 0.1,
        "resblock": "1",
        "resblock_kernel_sizes": [3, 7, 11],
        "resblock_dilation_sizes": [[1, 3, 5], [1, 3, 5], [1, 3, 5]],
        "upsample_rates": [8, 8, 2, 2, 2],
        "upsample_initial_channel": sizes.upsample_initial,
        "upsample_kernel_sizes": [16, 16, 4, 4, 4],
        "n_layers_q": 3,
        "n_layers_trans_flow": 3,
        "n_flow_layer": 4,
        "use_spectral_norm": False,
        "gin_channels": sizes.gin,
        "ssl_dim": sizes.units,
        "n_speakers": sizes.speakers,
        "vocoder_name": "nsf-hifigan",
        "speech_encoder": "vec768l12",
        "vol_embedding": False,
        "use_depthwise_conv": False,
        "flow_share_parameter": False,
        "use_automatic_f0_prediction": True,
        "use_transformer_flow": False,
    }
    data = {
        "sampling_rate": RATE_HZ,
        "hop_length": HOP_SAMPLES,
        "filter_length": 2048,
        "unit_interpolate_mode": "nearest",
    }
    return {"train": {"segment_size": 10240}, "data": data, "model": model, "spk": {SPEAKER: 0}}


def diffusion_config(sizes: Sizes) -> dict[str, Any]:
    """The template's config.yaml."""
    layers, channels, hidden = sizes.diffusion
    return {
        "data": {
            "encoder": "vec768l12",
            "encoder_out_channels": sizes.units,
            "sampling_rate": RATE_HZ,
            "block_size": HOP_SAMPLES,
            "unit_interpolate_mode": "nearest",
        },
        "model": {
            "type": "Diffusion",
            "n_layers": layers,
            "n_chans": channels,
            "n_hidden": hidden,
            "n_spk": 1,
            "use_pitch_aug": True,
            "timesteps": 1000,
            "k_step_max": 0,
        },
        "vocoder": {"type": "nsf-hifigan", "ckpt": "pretrain/nsf_hifigan/model"},
        "infer": {"speedup": 10, "method": "dpm-solver++"},
        "spk": {SPEAKER: 0},
    }


def write_vocoder(folder: Path, sizes: Sizes, seed: int) -> None:
    """The community's NSF-HiFiGAN: {generator} and config.json."""
    config = {**presets()["nsf_hifigan_44k"].config, "upsample_initial_channel": sizes.upsample_initial}
    net = healthy_net("nsf_hifigan", config, "sovits-interp", seed)
    inputs = example_inputs(net, 1, HEARD_FRAMES, seed)
    set_level(net, {"conv_post": QUIET}, lambda: net(*[inputs[spec.name] for spec in net.core_inputs()]))
    _save(
        {"generator": _as_trained(net, 'nsf_hifigan 44.1k hop512 128bin (checkpoint key "generator")')},
        folder / "model",
    )
    _write_json(config, folder / "config.json")


def write_encoder(path: Path, sizes: Sizes, seed: int) -> None:
    """ContentVec: {model, cfg}, as fairseq saves it."""
    weights = contentvec_weights(sizes.units, sizes.encoder_conv, sizes.encoder_inner, seed)
    tree = {"model": weights, "cfg": {"model": {"encoder_attention_heads": 12 if sizes.units % 12 == 0 else 4}}}
    _save(tree, path)
    encoder = encoders.get("vec768l12").from_file(path, sizes.units)
    centre_features(weights, encoder.module(), song(HEARD_S))
    _save(tree, path)


def _as_trained(net: nn.Module, kind: str) -> dict[str, Tensor]:
    """The weights under upstream's names, weight norm where upstream has it."""
    named = json.loads(gzip.decompress(INVENTORY.read_bytes()))[kind]
    normed = {name.removesuffix("_g") for name in named if name.endswith("weight_g")}
    made: dict[str, Tensor] = {}
    for name, value in net.state_dict().items():
        if name in normed:
            made[f"{name}_g"] = torch.linalg.vector_norm(value, dim=(1, 2), keepdim=True)
            made[f"{name}_v"] = value
        else:
            made[name] = value
    return made


def _save(tree: Mapping[str, Any], path: Path) -> None:
    torch.save(dict(tree), path)


def _write_json(config: Mapping[str, Any], path: Path) -> None:
    path.write_text(json.dumps(config, indent=2), "utf-8")
