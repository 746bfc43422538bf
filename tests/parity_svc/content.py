"""Content encoders, from files as they are published."""

from __future__ import annotations

import gzip
import json
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests import golden_svc
from tests.golden_svc import FOLDER, fill
from tests.parity_svc.base import EXACT, Comparison, Subject
from trt_svc.svc.encoders.base import encoders
from trt_svc.svc.encoders.whisper_mel import whisper_mel

Shapes = dict[str, tuple[int, ...]]


class FairseqObjects:
    """Objects of packages that are not installed, as a pickle holds them."""

    classes: dict[tuple[str, str], type] = {}

    @classmethod
    def made(cls, module: str, name: str, **state: Any) -> Any:
        kind = cls.classes.setdefault((module, name), type(name, (), {"__module__": module}))
        thing = kind()
        thing.__dict__.update(state)
        return thing

    @classmethod
    def config(cls, content: Any, parent: Any = None) -> Any:
        """omegaconf's tree: nodes that know their parents."""
        if not isinstance(content, dict):
            return cls.made("omegaconf.nodes", "AnyNode", _val=content, _parent=parent, _metadata=None)
        node = cls.made("omegaconf.dictconfig", "DictConfig", _parent=parent)
        node.__dict__["_content"] = {name: cls.config(value, node) for name, value in content.items()}
        return node

    @classmethod
    def save(cls, tree: Any, path: Path) -> None:
        modules: dict[str, types.ModuleType] = {}
        for (module, name), kind in cls.classes.items():
            for part in [module[:i] for i in range(len(module) + 1) if module[i : i + 1] in (".", "")]:
                modules.setdefault(part, types.ModuleType(part))
            setattr(modules[module], name, kind)
        sys.modules.update(modules)
        try:
            torch.save(tree, path)
        finally:
            for module in modules:
                del sys.modules[module]


def contentvec_file(weights: dict[str, torch.Tensor], path: Path) -> Path:
    """The published layout: weights in the middle of fairseq's and omegaconf's objects."""
    tree = {
        "args": None,
        "cfg": FairseqObjects.config({"model": {"encoder_attention_heads": 12, "layer_norm_first": False}}),
        "model": weights,
        "task_state": {"dictionaries": [FairseqObjects.made("fairseq.data.dictionary", "Dictionary", symbols=["a"])]},
    }
    FairseqObjects.save(tree, path)
    return path


def whisper_state(dims: list[int]) -> Shapes:
    """Names and shapes of Whisper's encoder with (mels, positions, width, heads, layers)."""
    mels, positions, width, _, layers = dims
    shapes: Shapes = {"positional_embedding": (positions, width)}
    shapes |= {"conv1.weight": (width, mels, 3), "conv1.bias": (width,)}
    shapes |= {"conv2.weight": (width, width, 3), "conv2.bias": (width,)}
    for n in range(layers):
        at = f"blocks.{n}."
        for part in ("query", "key", "value", "out"):
            shapes[f"{at}attn.{part}.weight"] = (width, width)
            if part != "key":
                shapes[f"{at}attn.{part}.bias"] = (width,)
        for part in ("attn_ln", "mlp_ln"):
            shapes |= {f"{at}{part}.weight": (width,), f"{at}{part}.bias": (width,)}
        shapes |= {f"{at}mlp.0.weight": (4 * width, width), f"{at}mlp.0.bias": (4 * width,)}
        shapes |= {f"{at}mlp.2.weight": (width, 4 * width), f"{at}mlp.2.bias": (width,)}
    return shapes | {"ln_post.weight": (width,), "ln_post.bias": (width,)}


def whisper_file(path: Path, dims: list[int], seed: int, **changed: int) -> Path:
    names = ("n_mels", "n_audio_ctx", "n_audio_state", "n_audio_head", "n_audio_layer")
    weights = {f"encoder.{name}": value for name, value in fill(whisper_state(dims), seed).items()}
    weights["decoder.positional_embedding"] = torch.full((4, 4), torch.nan)  # never read
    said = dict(zip(names, dims, strict=True)) | {"n_text_ctx": 448} | changed
    torch.save({"dims": said, "model_state_dict": weights}, path)
    return path


def contentvec(folder: Path) -> Iterator[Comparison]:
    """Both depths of the same file."""
    golden, given = golden_svc.arrays("encoders"), golden_svc.meta("encoders")["contentvec"]
    weights = fill({name: tuple(shape) for name, shape in given["fairseq_keys"].items()}, given["seed"])
    path = contentvec_file(weights, folder / "checkpoint_best_legacy_500.pt")
    encoder = encoders.get("vec768l12").from_file(path)
    assert encoder.channels == 768
    made, key = encoder(golden["wav16k"]), "contentvec.vec768l12"
    yield Comparison("vec768l12", key, made.transpose(0, 2, 1), golden[key])
    encoder = encoders.get("vec256l9").from_file(folder)
    path.unlink()
    assert len(encoder.module().layers) == 9
    ninth: list[torch.Tensor] = []
    encoder.module().layers[8].register_forward_hook(lambda _module, _inputs, out: ninth.append(out))
    made, key = encoder(golden["wav16k"]), "contentvec.vec256l9"
    yield Comparison("vec256l9", key, made.transpose(0, 2, 1), golden[key])
    yield Comparison("vec256l9", "contentvec.hidden9", ninth[0].numpy(), golden["contentvec.hidden9"])


def hubertsoft(folder: Path) -> Iterator[Comparison]:
    golden, seed = golden_svc.arrays("encoders"), golden_svc.meta("encoders")["hubertsoft_seed"]
    inventory = json.loads(gzip.decompress((FOLDER / "state_dict_inventory.json.gz").read_bytes()))["hubert-soft"]
    weights = fill({name: tuple(shape) for name, (shape, _) in inventory.items()}, seed)
    path = folder / "hubert-soft-0d54a1f4.pt"
    torch.save({f"module.{name}": value for name, value in weights.items()}, path)
    made = encoders.get("hubertsoft").from_file(path)(golden["wav16k"])
    path.unlink()
    key = "hubertsoft.units"
    yield Comparison("hubertsoft", key, made.transpose(0, 2, 1), golden[key])


def whisper(folder: Path) -> Iterator[Comparison]:
    golden, meta = golden_svc.arrays("encoders"), golden_svc.meta("encoders")
    dims = meta["whisper"]["dims"]
    path = whisper_file(folder / "medium.pt", dims, meta["whisper_seed"])
    made = encoders.get("whisper-ppg").from_file(path, channels=dims[2])(golden["wav16k"])
    yield Comparison("whisper-ppg", "whisper.ppg", made[0].T, golden["whisper.ppg"])
    mel, case = whisper_mel(torch.tensor(golden["wav16k"])[None])[0].numpy(), "whisper-ppg, mel"
    yield Comparison(case, "whisper.mel60", mel[:, :60], golden["whisper.mel60"])
    yield Comparison(case, "whisper.mel_max", mel.max(), golden["whisper.mel_max"])
    shape = np.array(meta["whisper"]["mel_shape"])
    yield Comparison(case, "whisper.mel_shape", np.array(mel.shape), shape, EXACT)


SUBJECTS = [
    Subject("contentvec", "encoders", contentvec, {"wav16k": "audio"}),
    Subject("hubertsoft", "encoders", hubertsoft),
    Subject("whisper", "encoders", whisper),
]
