"""so-vits-svc-fork: `inference.core.Svc` on a config and a G file with random weights, and SynthesizerTrn alone.

Packages that these scenes leave off are empty; HuBERT is a random projection of the recording.
"""

from __future__ import annotations

import json
import logging
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.hosts.openvpi import frames_of
from benchmarks.hosts.scene import Audio, Scene, level, on_path, stub
from benchmarks.hosts.sovits import HOP, NARROW, PUBLISHED, RATE, SEED, TRUNK, Resample, melody, song

REPOSITORY = "so-vits-svc-fork"

UNITS = 768
VOICE = {"n_heads": 2, "kernel_size": 3, "p_dropout": 0.1, "ssl_dim": UNITS, "n_speakers": 3}


def scenes(root: Path, full_size: bool) -> Iterator[Scene]:
    stand_ins()
    on_path(root / "src")
    logging.getLogger("so_vits_svc_fork").setLevel(logging.ERROR)
    keys = {**TRUNK, **VOICE, **(PUBLISHED if full_size else NARROW)}
    recording = song(frames_of(full_size))
    with tempfile.TemporaryDirectory() as folder:
        svc = opened(Path(folder), keys)
        sing = partial(sung_by, svc, recording)
        yield Scene("inference.core.Svc", svc, sing, lambda: svc.load_model(), svc.net_g.dec)
    if full_size:
        return
    net = voice(keys)
    yield Scene("SynthesizerTrn, hifi-gan", net, sings(net), vocoder=net.dec)


def voice(keys: dict[str, Any]) -> Any:
    """The host's network with random weights."""
    torch.manual_seed(SEED)
    net = import_module("so_vits_svc_fork.modules.synthesizers").SynthesizerTrn(1025, 20, **keys).eval()
    level(net.dec, sings(net))
    return net


def opened(folder: Path, keys: dict[str, Any]) -> Any:
    """The host's own class on files of its own kinds."""
    data = {"sampling_rate": RATE, "hop_length": HOP, "filter_length": 2048, "contentvec_final_proj": False}
    config = {"train": {"segment_size": 10240}, "data": data, "model": keys, "spk": {"alice": 0, "bob": 1, "carol": 2}}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    saved = {"model": voice(keys).state_dict(), "iteration": 0, "optimizer": None, "learning_rate": 1e-4}
    torch.save(saved, folder / "G_0.pth")
    core = import_module("so_vits_svc_fork.inference.core")
    core.utils.get_hubert_model = lambda *_: Hubert()
    return core.Svc(net_g_path=folder / "G_0.pth", config_path=folder / "config.json", device="cpu")


def sung_by(svc: Any, recording: Audio) -> dict[str, Audio]:
    """As `svc infer` does: voiced chunks one after the other."""
    heard = {}
    for name, longest_s in (("whole", 40.0), ("in chunks", 0.4)):
        torch.manual_seed(SEED)
        heard[name] = svc.infer_silence(recording, speaker="bob", pad_seconds=0.1, max_chunk_seconds=longest_s)
    return heard


def sings(net: Any) -> Callable[[], Audio]:
    """The network on random units, without Svc."""

    def sing() -> Audio:
        torch.manual_seed(SEED)
        units, f0 = torch.randn(1, UNITS, 60), melody(60)
        with torch.no_grad():
            made: Tensor = net.infer(units, f0, (f0 > 0).float(), g=torch.zeros(1, 1, dtype=torch.long))
        return made[0, 0].numpy()

    return sing


class Hubert(nn.Module):
    """In the place of the content encoder: a random projection of every 400 samples at 16 kHz."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = torch.randn(400, UNITS, generator=torch.Generator().manual_seed(SEED)) * 0.1

    def forward(self, audio: Tensor) -> dict[str, Tensor]:
        return {"last_hidden_state": audio.unfold(1, 400, 320) @ self.weights}


# In the place of packages.


class Timer(AbstractContextManager["Timer"]):
    """cm_time's."""

    def __enter__(self) -> Self:
        self.started = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.elapsed = time.perf_counter() - self.started


def stand_ins() -> None:
    stub("cm_time", timer=Timer)
    stub("torchcrepe")
    stub("transformers", HubertModel=nn.Module)
    stub("joblib", Parallel=object, delayed=object)
    stub("tqdm", tqdm=object)
    stub("attrs", frozen=lambda **options: dataclass(frozen=True, **options))
    stub("librosa.util", pad_center=None, tiny=None)
    stub("librosa.effects", split=one_piece)
    stub("torchaudio.transforms", Resample=Resample)
    stub("sklearn.cluster", KMeans=object)


def one_piece(audio: Audio, **_: Any) -> Audio:
    """A song without silences."""
    return np.array([[0, len(audio)]])
