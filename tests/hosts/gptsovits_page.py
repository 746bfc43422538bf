"""A stand-in for GPT-SoVITS's inference_webui.py: vocoders and voice are variables of the module."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from tests.hosts.gptsovits_double import (
    CONFIGS,
    VOICES,
    BigVGAN,
    Generator,
    SynthesizerTrn,
    SynthesizerTrnV3,
    from_disk,
)

bigvgan_model: Any = None
hifigan_model: Any = None
vq_model: Any = None
model_version = "v2"


def clean_hifigan_model() -> None:
    global hifigan_model
    if hifigan_model:
        hifigan_model = hifigan_model.cpu()
        hifigan_model = None


def clean_bigvgan_model() -> None:
    global bigvgan_model
    if bigvgan_model:
        bigvgan_model = bigvgan_model.cpu()
        bigvgan_model = None


def init_bigvgan() -> None:
    global bigvgan_model
    bigvgan_model = BigVGAN.from_pretrained("vocoder.v3")
    bigvgan_model.remove_weight_norm()
    bigvgan_model = bigvgan_model.eval()
    clean_hifigan_model()
    bigvgan_model = bigvgan_model.to("cpu")


def init_hifigan() -> None:
    global hifigan_model
    hifigan_model = Generator(**CONFIGS["v4"][1])
    hifigan_model.eval()
    hifigan_model.remove_weight_norm()
    hifigan_model.load_state_dict(from_disk("vocoder.v4"))
    clean_bigvgan_model()
    hifigan_model = hifigan_model.to("cpu")


def change_sovits_weights(sovits_path: str) -> Iterator[dict[str, Any]]:
    """The page shows what it yields."""
    global vq_model, model_version
    yield {"interactive": False}
    model_version = VOICES[sovits_path]
    vq_model = SynthesizerTrnV3() if model_version in ("v3", "v4") else SynthesizerTrn()
    if model_version == "v2":
        vq_model.dec.load_state_dict(from_disk(sovits_path))
    vq_model.eval()
    yield {"interactive": True}


def get_tts_wav(tokens: int) -> Tensor:
    if model_version == "v2":
        codes = torch.zeros(1, 1, tokens, dtype=torch.long)
        return vq_model.decode(codes, torch.zeros(1, 4), [torch.ones(1, 8, 5)], speed=1)[0][0]
    mel = torch.randn(1, 100, 4 * tokens)
    if model_version == "v3":
        if bigvgan_model == None:  # noqa: E711 - as the host asks
            init_bigvgan()
    elif hifigan_model == None:  # noqa: E711
        init_hifigan()
    vocoder_model = bigvgan_model if model_version == "v3" else hifigan_model
    with torch.inference_mode():
        return vocoder_model(mel)[0][0]
