"""Diffusion-SVC: `DiffusionSVC` and the `Vocoder` in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trt_svc.dropin.attributes import place_at
from trt_svc.dropin.host import Host, Place, class_path, hosts
from trt_svc.integrations.ddsp_svc import EMPTY, VOCODER, rate_may_be_left_out

if TYPE_CHECKING:
    from torch import nn

CONFIGS = "nsf_hifigan."
"""Package of its vocoders' configs: so-vits-svc has a wrapper of the same name around others."""


@hosts.register("diffusion-svc")
class DiffusionSVC(Host):
    title = "Diffusion-SVC"
    classes = {"nsf_hifigan.models": ("Generator",)}
    loaders = ("load_model", "mel2wav")

    def claims(self, obj: Any) -> bool:
        known = class_path(obj)
        if known == "diffusion.vocoder.Vocoder":
            config = getattr(getattr(obj, "vocoder", None), "h", None)
            return not rate_may_be_left_out(obj) and class_path(config).startswith(CONFIGS)
        return known == "tools.infer_tools.DiffusionSVC"

    def places(self, obj: Any) -> list[Place]:
        whole = type(obj).__name__ == "DiffusionSVC"
        return [place_at(obj, f"vocoder.{VOCODER}" if whole else VOCODER, EMPTY)]

    def facts(self, module: nn.Module) -> dict[str, Any]:
        """Its generators never read this key of their config."""
        return {"noise_sigma": 0.0}
