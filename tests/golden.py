"""Access to the golden data: outputs of the unmodified upstream code on CPU, with the weights and noise that made them."""

from __future__ import annotations

import json
import re
import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

SUBSET = Path(__file__).parent / "data" / "golden"
COMPLETE = Path(__file__).parents[2] / "shared" / "golden"
FOLDER = COMPLETE if COMPLETE.is_dir() else SUBSET
"""The whole set where it lies beside the checkout, else the subset that ships with the tests."""

FAMILIES = ("hifigan", "nsf_hifigan", "sovits_dec", "bigvgan", "gptsovits_generator", "waveglow")
NOISE_NAMES = {
    "rand_phase_ini": "initial_phase",
    "randn_sine_noise": "sine_noise",
    "randn_conv_pre_noise": "conv_pre_noise",
    "randn_z_initial": "z_initial",
}


@dataclass(frozen=True)
class GoldenNet:
    """One network: config, weights, inputs and what upstream made of them."""

    name: str
    folder: Path = FOLDER

    @cached_property
    def meta(self) -> dict[str, Any]:
        return json.loads((self.folder / f"{self.name}.json").read_text())

    @cached_property
    def arrays(self) -> dict[str, np.ndarray]:
        with np.load(self.folder / f"{self.name}.npz") as data:
            return {key: data[key] for key in data.files}

    @property
    def family(self) -> str:
        return self.meta["family"]

    @property
    def source(self) -> str | None:
        return self.meta["variant"] if self.family == "nsf_hifigan" else None

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        return {key[3:]: torch.from_numpy(value.copy()) for key, value in self.arrays.items() if key.startswith("sd/")}

    @property
    def noise(self) -> dict[str, np.ndarray]:
        found = {}
        for key, value in self.arrays.items():
            if key.startswith("rng/"):
                what = key.split("/")[1].split("_", 1)[1]
                early = re.fullmatch(r"randn_z_early_flow(\d+)", what)
                name = f"z_early_{early[1]}" if early else NOISE_NAMES.get(what)
                if name:
                    found[name] = value
        return found

    @property
    def inputs(self) -> dict[str, np.ndarray]:
        names = {"in/mel": "mel", "in/f0": "f0", "in/g": "speaker"}
        return {ours: self.arrays[theirs] for theirs, ours in names.items() if theirs in self.arrays}

    @property
    def audio(self) -> np.ndarray:
        audio = self.arrays["out/audio"]
        return audio.reshape(audio.shape[0], -1)

    @property
    def tolerance(self) -> float:
        """The README's bound: nets with a nine-harmonic source are phase sensitive."""
        nine_harmonics = self.family in ("nsf_hifigan", "sovits_dec") and self.source != "mini"
        return 5e-5 if nine_harmonics else 5e-6


def networks(folder: Path = FOLDER) -> list[GoldenNet]:
    found = []
    for path in sorted(folder.glob("*.json")):
        net = GoldenNet(path.stem, folder)
        with np.load(path.with_suffix(".npz")) as data:
            if net.family in FAMILIES and "out/audio" in data.files:
                found.append(net)
    return found


# Checkpoint files as they are found in the wild.

Writer = Callable[[GoldenNet, Path], None]


def _save(tree: Any, path: Path, **options: Any) -> None:
    torch.save(tree, path, **options)


def upstream_tree(net: GoldenNet) -> dict[str, Any]:
    """What upstream's own file of this family holds."""
    weights = net.weights
    if net.family == "sovits_dec":
        other = {"emb_g.weight": torch.zeros(4, 16), "enc_p.proj.weight": torch.zeros(2, 2, 1)}
        dec = {f"dec.{name}": value for name, value in weights.items()}
        return {
            "model": {**other, **dec},
            "iteration": 7,
            "optimizer": {"state": {}, "param_groups": []},
            "learning_rate": 1e-4,
        }
    if net.family == "gptsovits_generator":
        if "flat" in net.meta["ckpt_key"]:
            return dict(weights)
        return {"weight": {f"dec.{name}": value for name, value in weights.items()}, "info": "2epoch", "config": None}
    if net.family == "waveglow":
        return {"model": dict(weights)}
    return {"generator": dict(weights)}


def _new_style_norm(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    names = {"weight_g": "parametrizations.weight.original0", "weight_v": "parametrizations.weight.original1"}
    out = {}
    for name, value in weights.items():
        stem, _, leaf = name.rpartition(".")
        out[f"{stem}.{names.get(leaf, leaf)}"] = value
    return out


def _flat_safetensors(net: GoldenNet, path: Path) -> None:
    save_file({name: value.contiguous() for name, value in net.weights.items()}, path.with_suffix(".safetensors"))


def _marked_gpt_sovits(net: GoldenNet, path: Path) -> None:
    _save(upstream_tree(net), path)
    path.write_bytes(b"06" + path.read_bytes()[2:])


def _module_tree(
    weights: dict[str, torch.Tensor], classes: dict[str, type[nn.Module]], root: type[nn.Module]
) -> nn.Module:
    """A module with these parameters, weight-normed leaves also carrying the stale `weight` of upstream's pickles."""
    top = root()
    for name, value in weights.items():
        *path, leaf = name.split(".")
        node = top
        for part in path:
            if part not in node._modules:
                node.add_module(part, classes.get(part, nn.Module)())
            node = node._modules[part]
        node.register_parameter(leaf, nn.Parameter(value.clone()))
        if leaf == "weight_v":
            node.__dict__["weight"] = torch.full_like(value, 123.0)
    return top


def _pickled_waveglow(net: GoldenNet, path: Path) -> None:
    glow = types.ModuleType("glow")
    for name in ("WaveGlow", "WN", "Invertible1x1Conv"):
        setattr(glow, name, type(name, (nn.Module,), {"__module__": "glow"}))
    sys.modules["glow"] = glow
    try:
        _save({"model": _module_tree(net.weights, {}, glow.WaveGlow), "iteration": 3}, path)
    finally:
        del sys.modules["glow"]


def _separate_layers(net: GoldenNet, path: Path) -> None:
    """The oldest WaveGlow files: residual, skip and conditioning layers apart."""
    from trt_svc.checkpoints.layouts import fold_weight_norm

    folded = fold_weight_norm(net.weights, "golden")
    out = {}
    for name, value in folded.items():
        parts = name.split(".")
        if "res_skip_layers" in name:
            width = net.meta["config"]["waveglow_config"]["WN_config"]["n_channels"]
            flow, layer, kind = parts[1], parts[3], parts[4]
            if value.shape[0] == 2 * width:
                out[f"WN.{flow}.res_layers.{layer}.{kind}"] = value[:width]
            out[f"WN.{flow}.skip_layers.{layer}.{kind}"] = value[-width:]
        elif "cond_layer" in name:
            layers = net.meta["config"]["waveglow_config"]["WN_config"]["n_layers"]
            for i, piece in enumerate(value.chunk(layers)):
                out[f"WN.{parts[1]}.cond_layers.{i}.{parts[3]}"] = piece
        else:
            out[name] = value
    _save({"model": out}, path)


def layouts(net: GoldenNet) -> Iterator[tuple[str, Writer]]:
    """Every layout in which this network's weights are found in the wild."""
    yield "upstream", lambda n, p: _save(upstream_tree(n), p)
    yield "before torch 1.6", lambda n, p: _save(upstream_tree(n), p, _use_new_zipfile_serialization=False)
    yield "flat", lambda n, p: _save(n.weights, p)
    yield "model_state_dict", lambda n, p: _save({"model_state_dict": n.weights, "epoch": 1}, p)
    yield "data parallel", lambda n, p: _save({"state_dict": {f"module.{k}": v for k, v in n.weights.items()}}, p)
    yield "new-style weight norm", lambda n, p: _save({"generator": _new_style_norm(n.weights)}, p)
    yield "safetensors", _flat_safetensors
    if net.family == "gptsovits_generator":
        yield "version mark", _marked_gpt_sovits
    if net.family == "waveglow":
        yield "pickled module", _pickled_waveglow
        yield "separate layers", _separate_layers


def write_checkpoint(net: GoldenNet, writer: Writer, folder: Path) -> Path:
    """The checkpoint with its config.json in `folder`; returns the weights file."""
    folder.mkdir(parents=True, exist_ok=True)
    writer(net, folder / "model.pt")
    (folder / "config.json").write_text(json.dumps(net.meta["config"]))
    return next(path for path in folder.iterdir() if path.stem == "model")


def upstream_checkpoint(net: GoldenNet, folder: Path) -> Path:
    return write_checkpoint(net, dict(layouts(net))["upstream"], folder)


def error_of(net: GoldenNet, vocoder: Any) -> float:
    """Max absolute difference from upstream's audio."""
    made = vocoder(noise=net.noise or None, **net.inputs)
    assert made.shape == net.audio.shape, f"{made.shape} instead of {net.audio.shape}"
    return float(np.abs(made - net.audio).max())
