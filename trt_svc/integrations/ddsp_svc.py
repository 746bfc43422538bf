"""DDSP-SVC: the enhancer, and the `Vocoder` of its diffusion and reflow packages."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from trt_svc.dropin.attributes import place_at
from trt_svc.dropin.host import Host, Place, class_path, hosts

if TYPE_CHECKING:
    from torch import nn

VOCODER = "vocoder.model"
PATHS = {
    "enhancer.Enhancer": "enhancer.model",
    "enhancer.NsfHifiGAN": "model",
    "reflow.vocoder.Vocoder": VOCODER,
    "reflow.vocoder.NsfHifiGAN": "model",
    "reflow.vocoder.NsfHifiGANLog10": "model",
    "diffusion.vocoder.Vocoder": VOCODER,
    "diffusion.infer_gt_mel.DiffGtMel": f"vocoder.{VOCODER}",
}
"""Where its objects keep the generator."""
HOLDERS = {
    "enhancer": "enhancer.enhancer.model",
    "diff_model": f"diff_model.vocoder.{VOCODER}",
    "vocoder": f"vocoder.{VOCODER}",
}
"""The same in the `SvcDDSP` of its programs, by the attribute that tells them apart."""
EMPTY = {
    "model": "its weights are not loaded: the host tries at its first call",
    "vocoder": "no model is loaded yet",
    "enhancer": "no model is loaded yet",
}


@hosts.register("ddsp-svc")
class DDSPSVC(Host):
    title = "DDSP-SVC"
    classes = {"nsf_hifigan.models": ("Generator",)}
    loaders = ("update_model", "flush_model", "infer")

    def claims(self, obj: Any) -> bool:
        known = class_path(obj)
        if known == "diffusion.vocoder.Vocoder":
            return rate_may_be_left_out(obj)
        return known in PATHS or type(obj).__name__ == "SvcDDSP"

    def places(self, obj: Any) -> list[Place]:
        path = PATHS.get(class_path(obj))
        if path is None:
            held = [name for name in HOLDERS if hasattr(obj, name)]
            if not held:
                return [Place("vocoder", None, "no model is loaded yet, or it sings without a vocoder")]
            path = HOLDERS[held[0]]
        return [place_at(obj, path, EMPTY)]

    def facts(self, module: nn.Module) -> dict[str, Any]:
        """Its generators never read this key of their config."""
        return {"noise_sigma": 0.0}


def rate_may_be_left_out(vocoder: Any) -> bool:
    """`extract(audio)` alone is DDSP-SVC's; other projects have a class of the same name that wants the rate too."""
    extract = getattr(vocoder, "extract", None)
    if not callable(extract):
        return False
    rate = inspect.signature(extract).parameters.get("sample_rate")
    return rate is not None and rate.default is not inspect.Parameter.empty
