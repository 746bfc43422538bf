"""DiffSinger: the NSF-HiFiGAN of its registry of vocoders, alone or in the object that sings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trt_svc.dropin.attributes import place_at
from trt_svc.dropin.host import Host, Place, class_path, hosts

if TYPE_CHECKING:
    from torch import nn

GENERATOR = "modules.nsf_hifigan.models"
WRAPPER = "modules.vocoders.nsf_hifigan.NsfHifiGAN"
SINGER = "inference.ds_acoustic.DiffSingerAcousticInfer"
OTHER = "modules.vocoders."
"""Its other vocoder is a TorchScript program."""


@hosts.register("diffsinger")
class DiffSinger(Host):
    title = "DiffSinger"
    classes = {GENERATOR: ("Generator",)}

    def claims(self, obj: Any) -> bool:
        known = class_path(obj)
        return known in (SINGER, f"{GENERATOR}.Generator") or known.startswith(OTHER)

    def places(self, obj: Any) -> list[Place]:
        known = class_path(obj)
        if known == f"{GENERATOR}.Generator":
            return [Place("Generator", obj)]
        path = "model" if known != SINGER else "vocoder.model"
        if known == SINGER and not hasattr(obj, "vocoder"):
            return [Place(path, None, "it was made with load_vocoder=False")]
        return [place_at(obj, path, {})]

    def facts(self, module: nn.Module) -> dict[str, Any]:
        """None is as good as no noise to its generators."""
        return {"noise_sigma": getattr(module, "noise_sigma", None) or 0.0}
