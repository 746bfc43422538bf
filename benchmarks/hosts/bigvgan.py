"""BigVGAN itself: `bigvgan.BigVGAN`, made by `from_pretrained` from a local folder and by its constructor."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.hosts.scene import Audio, Scene, level, log_mel_like, on_path, stub

REPOSITORY = "BigVGAN"
PACKAGES = ("huggingface_hub",)
HUB: dict[str, Any] = dict.fromkeys(
    ("revision", "cache_dir", "force_download", "proxies", "resume_download", "local_files_only", "token")
)
"""What from_pretrained of huggingface_hub hands over before 1.0; later versions leave out two that the host needs."""
LAST_CHANNELS = 4
"""Of the narrow networks."""


def scenes(root: Path, full_size: bool) -> Iterator[Scene]:
    on_path(root)
    _without_librosa()
    yield _pretrained(root, "bigvgan_v2_24khz_100band_256x", full_size)
    yield _constructed(root, "bigvgan_base_24khz_100band", full_size, {"activation": "snake"})
    if not full_size:
        yield _constructed(root, "bigvgan_base_22khz_80band", full_size, {"resblock": "2"})


def _without_librosa() -> None:
    """Its utils import its data set, which imports librosa for mels; these scenes bring their own."""
    stub("librosa")
    stub("librosa.filters", mel=None)


def _config(root: Path, name: str, full_size: bool, changes: dict[str, Any]) -> Any:
    from bigvgan import load_hparams_from_json

    config = load_hparams_from_json(root / "configs" / f"{name}.json")
    if not full_size:
        config.update(changes, upsample_initial_channel=LAST_CHANNELS * 2 ** len(config.upsample_rates))
    return config


def _levelled(config: Any) -> Any:
    """The host's own class with seeded weights."""
    from bigvgan import BigVGAN

    torch.manual_seed(0)
    generator = BigVGAN(config, use_cuda_kernel=False)
    mel = log_mel_like(config.num_mels, 32)
    level(generator, lambda: generator(mel))
    return generator


def _pretrained(root: Path, name: str, full_size: bool) -> Scene:
    """As its README does it: from_pretrained, remove_weight_norm, eval, inference mode."""
    from bigvgan import BigVGAN

    config = _config(root, name, full_size, {})
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "config.json").write_text(json.dumps(config), "utf-8")
        torch.save({"generator": _levelled(config).state_dict()}, Path(folder, "bigvgan_generator.pt"))
        model = BigVGAN._from_pretrained(model_id=folder, use_cuda_kernel=False, **HUB)
    model.remove_weight_norm()
    model = model.eval().to("cpu")
    mel = log_mel_like(config.num_mels, _frames(config, full_size))

    @torch.inference_mode()
    def sing() -> Audio:
        return model(mel).squeeze(0).cpu().numpy()

    return Scene(f"BigVGAN.from_pretrained, {name}", model, sing, vocoder=model)


def _constructed(root: Path, name: str, full_size: bool, changes: dict[str, Any]) -> Scene:
    """Weight norm still in place, two spectrograms at once."""
    config = _config(root, name, full_size, changes)
    model = _levelled(config).eval()
    mel = log_mel_like(config.num_mels, _frames(config, full_size), rows=2)

    @torch.no_grad()
    def sing() -> Audio:
        return model(mel).squeeze().cpu().numpy()

    notes = "".join(f", {key} {value}" for key, value in changes.items() if not full_size)
    return Scene(f"BigVGAN(h), {name}{notes}", model, sing, vocoder=model)


def _frames(config: Any, full_size: bool) -> int:
    return round((2.0 if full_size else 1.0) * config.sampling_rate / config.hop_size)
