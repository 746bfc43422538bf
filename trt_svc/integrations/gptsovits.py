"""GPT-SoVITS: the vocoders of versions 3 and 4 and the decoder of the others, in `TTS` and in its web pages."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any

from trt_svc.dropin.host import Host, Place, class_path, hosts

if TYPE_CHECKING:
    from torch import nn

TTS = "TTS_infer_pack.TTS"
"""Module of the class of the same name."""
CODE = "GPT_SoVITS."
"""Its folder of code lies on the path of modules; inference_webui.py also imports it as a package of its parent."""
MODELS = "module.models"
VOICES = ("SynthesizerTrn", "SynthesizerTrnV3")
GLOBALS = ("hifigan_model", "bigvgan_model")
"""Vocoders that inference_webui.py and api.py keep as variables of their module."""
FAMILY = "gptsovits_generator"
MEL_FRAMES_PER_SECOND, LATENT_FRAMES_PER_SECOND = 100, 50
EMPTY = {
    "vocoder": "there is none yet; versions 1 and 2 have none",
    "hifigan_model": "there is none; version 4 has one",
    "bigvgan_model": "there is none; version 3 has one",
    "vits_model": "no voice is loaded yet",
    "vq_model": "no voice is loaded yet",
}


@hosts.register("gpt-sovits")
class GPTSoVITS(Host):
    title = "GPT-SoVITS"
    classes = {MODELS: ("Generator",), f"{CODE}{MODELS}": ("Generator",), "BigVGAN.bigvgan": ("BigVGAN",)}
    modules = (TTS,)
    loaders = (
        "init_vits_weights", "init_vocoder",
        "init_hifigan", "init_bigvgan", "change_sovits_weights", "change_gpt_sovits_weights",
    )  # fmt: skip

    def __init__(self) -> None:
        self._config: Any = None
        """The latest TTS_Config of a program under `trt-svc run`, where only generators are met."""

    def claims(self, obj: Any) -> bool:
        return _is_tts(obj) or _is_page(obj) or _own_path(obj).startswith((f"{MODELS}.", "BigVGAN.bigvgan."))

    def places(self, obj: Any) -> list[Place]:
        from trt_svc.dropin.attributes import place_at

        if _is_tts(obj):
            found = [place_at(obj, path, EMPTY) for path in ("vocoder", "vits_model.dec")]
        elif _is_page(obj):
            found = [place_at(obj, name, EMPTY) for name in GLOBALS]
            found += _voices_of(obj)
        elif type(obj).__name__ in VOICES:
            found = [place_at(obj, "dec", {})]
        else:
            return [Place(type(obj).__name__, obj)]
        return [place for place in found if place.module is not None] or found

    def facts(self, module: nn.Module) -> dict[str, Any]:
        if type(module).__name__ != "Generator":
            return {}  # BigVGAN carries its config
        from trt_svc.checkpoints.load import HINT_KEY

        parts: Any = module
        hop = 1
        for up in parts.ups:
            hop *= up.stride[0]
        frame_rate_hz = LATENT_FRAMES_PER_SECOND if hasattr(module, "cond") else MEL_FRAMES_PER_SECOND
        return {
            "initial_channel": parts.conv_pre.in_channels,
            "sampling_rate": frame_rate_hz * hop,
            HINT_KEY: {"family": FAMILY},
        }

    def settings(self, obj: Any) -> dict[str, Any]:
        from trt_svc.integrations.gptsovits_settings import stated, wishes

        config = getattr(obj, "configs", None) if _is_tts(obj) else self._config
        keys = stated(config)
        return wishes(keys, "cuda" in str(getattr(config, "device", ""))) if keys else {}

    def imported(self, module: ModuleType) -> None:
        """Remembers the settings that the host reads from now on."""
        kind: Any = getattr(module, "TTS_Config", None)
        if kind is None:
            return
        own = kind.__init__

        @functools.wraps(own)
        def read(config: Any, *args: Any, **kwargs: Any) -> None:
            own(config, *args, **kwargs)
            self._config = config

        kind.__init__ = read


def _own_path(obj: Any) -> str:
    return class_path(obj).removeprefix(CODE)


def _is_tts(obj: Any) -> bool:
    return any(f"{kind.__module__}.{kind.__name__}".removeprefix(CODE) == f"{TTS}.TTS" for kind in type(obj).__mro__)


def _is_page(obj: Any) -> bool:
    """inference_webui.py or api.py, as a module."""
    return isinstance(obj, ModuleType) and all(name in vars(obj) for name in GLOBALS)


def _voices_of(page: ModuleType) -> list[Place]:
    """One voice (inference_webui.py), or one per speaker (api.py)."""
    from trt_svc.dropin.attributes import place_at

    speakers = vars(page).get("speaker_list")
    if not isinstance(speakers, Mapping):
        return [place_at(page, "vq_model.dec", EMPTY)]
    found = []
    for name, speaker in speakers.items():
        place = place_at(speaker, "sovits.vq_model.dec", EMPTY)
        found.append(Place(f"speaker_list[{name!r}].{place.label}", place.module, place.missing))
    return found
