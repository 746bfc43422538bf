"""so-vits-svc 4.1: the decoder of the voice, the diffusion's vocoder and the enhancer inside `Svc`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from trt_svc.dropin.host import Host, Place, class_path, hosts

if TYPE_CHECKING:
    from torch import nn

SVC = "inference.infer_tool.Svc"
GENERATORS = "vdecoder."
"""Package of this project's generators and their configs: related projects have classes of the same names around
others."""
DIFFUSION = "vdecoder.nsf_hifigan.models"
PARTS = {
    "models.SynthesizerTrn": ("dec", "dec"),
    "diffusion.vocoder.Vocoder": ("vocoder.model", "vocoder.h"),
    "modules.enhancer.Enhancer": ("enhancer.model", "enhancer.h"),
}
"""Where parts of it keep their generator, and what in them shows that they are this project's."""
EMPTY = {"model": "its weights are not loaded: the host tries at its first call"}


@hosts.register("so-vits-svc")
class SoVitsSvc(Host):
    title = "so-vits-svc"
    classes = {
        "vdecoder.hifigan.models": ("Generator",),
        "vdecoder.hifiganwithsnake.models": ("Generator",),
        DIFFUSION: ("Generator",),
    }
    loaders = ("load_model",)

    def claims(self, obj: Any) -> bool:
        path = class_path(obj)
        if path not in PARTS:
            return path == SVC or path in [f"{module}.{name}" for module, (name,) in self.classes.items()]
        for name in PARTS[path][1].split("."):
            obj = getattr(obj, name, None)
        return class_path(obj).startswith(GENERATORS)

    def places(self, obj: Any) -> list[Place]:
        from trt_svc.dropin.attributes import place_at

        path = class_path(obj)
        if path == SVC:
            return [place_at(obj, place, EMPTY) for place in _used_by(obj)]
        return [place_at(obj, PARTS[path][0], EMPTY) if path in PARTS else Place("Generator", obj)]

    def facts(self, module: nn.Module) -> dict[str, Any]:
        """The vocoder never reads this key of its config."""
        return {"noise_sigma": 0.0} if type(module).__module__ == DIFFUSION else {}


def _used_by(svc: Any) -> Iterator[str]:
    """What the options of this Svc need; what they do not need it does not have."""
    only_diffusion, shallow_diffusion, enhance = (
        getattr(svc, name, False) for name in ("only_diffusion", "shallow_diffusion", "nsf_hifigan_enhance")
    )
    if not only_diffusion:
        yield "net_g_ms.dec"
    if only_diffusion or shallow_diffusion:
        yield "vocoder.vocoder.model"
    if enhance:
        yield "enhancer.enhancer.model"
