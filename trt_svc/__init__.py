"""trt_svc: neural vocoders and singing voice conversion, compiled.

    vocoder = trt_svc.load_vocoder("checkpoints/nsf_hifigan")
    audio = vocoder(vocoder.mel(recording, 44100), f0=f0)

    pipe = trt_svc.SVCPipeline.from_pretrained("so-vits-svc")
    audio = pipe("song.wav", speaker="nen", f0="rmvpe", diffusion="shallow")

    with trt_svc.accelerate(svc):  # so-vits-svc's Svc, GPT-SoVITS's TTS, a BigVGAN ...
        svc.slice_inference(...)

Nothing heavy is imported until one of these names is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trt_svc.build import build_engine
    from trt_svc.build_config import BuildConfig
    from trt_svc.config import AudioSpec
    from trt_svc.dropin.accelerate import accelerate
    from trt_svc.errors import TrtSvcError
    from trt_svc.loading import load_vocoder
    from trt_svc.session import Vocoder
    from trt_svc.svc.pipeline import SVCPipeline

__version__ = "0.1.0"
__all__ = [
    "AudioSpec",
    "BuildConfig",
    "SVCPipeline",
    "TrtSvcError",
    "Vocoder",
    "accelerate",
    "build_engine",
    "load_vocoder",
]

_HOMES = {
    "AudioSpec": "trt_svc.config",
    "BuildConfig": "trt_svc.build_config",
    "SVCPipeline": "trt_svc.svc.pipeline",
    "TrtSvcError": "trt_svc.errors",
    "Vocoder": "trt_svc.session",
    "accelerate": "trt_svc.dropin.accelerate",
    "build_engine": "trt_svc.build",
    "load_vocoder": "trt_svc.loading",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'trt_svc' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
