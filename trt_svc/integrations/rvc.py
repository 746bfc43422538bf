"""RVC: the decoder of a voice in its web page's `VC`, in its realtime window's `RVC`, or in its synthesizers."""

from __future__ import annotations

import logging
import os
from math import prod
from typing import TYPE_CHECKING, Any

from trt_svc.dropin.host import Host, Place, hosts

if TYPE_CHECKING:
    from torch import nn

log = logging.getLogger(__name__)

MODELS = ("infer.module.models", "infer.lib.infer_pack.models", "lib.infer_pack.models")
"""2026's layout, and those before."""
GENERATORS = ("GeneratorNSF", "Generator")
HOLDERS = {
    *(("infer.vc.modules", "VC"), ("infer.rtrvc", "RVC")),
    *(("infer.modules.vc.modules", "VC"), ("infer.lib.rtrvc", "RVC")),
}
"""Keep the synthesizer of the present voice as `net_g`."""
NO_VOICE = {"net_g": "no voice is loaded yet"}
FRAMES_PER_SECOND = 100
GRAPHS = "RVC_CUDA_GRAPH"
"""1 where the host captures its synthesizer in graphs; its web page sets 0 itself."""


@hosts.register("rvc")
class RVC(Host):
    title = "RVC"
    classes = dict.fromkeys(MODELS, GENERATORS)
    loaders = ("get_vc",)

    def claims(self, obj: Any) -> bool:
        return is_a(obj, HOLDERS) or is_synthesizer(obj) or is_generator(obj)

    def places(self, obj: Any) -> list[Place]:
        from trt_svc.dropin.attributes import place_at

        if is_generator(obj):
            return [Place(type(obj).__name__, obj)]
        if is_synthesizer(obj):
            return [place_at(obj, "dec", {})]
        if not hasattr(obj, "net_g"):  # it deletes the attribute when a voice is put away
            return [Place("net_g.dec", None, NO_VOICE["net_g"])]
        return [place_at(obj, "net_g.dec", NO_VOICE)]

    def facts(self, module: nn.Module) -> dict[str, Any]:
        return facts_of(module)

    def settings(self, obj: Any) -> dict[str, Any]:
        if os.environ.get(GRAPHS) == "1":
            log.warning("RVC replays CUDA graphs, in which no engine is asked: start it with %s=0.", GRAPHS)
        return {}


def facts_of(module: Any) -> dict[str, Any]:
    """The rate lies in the source stage; where there is none, all of these voices have 100 frames a second."""
    if hasattr(module, "m_source"):
        return {}
    hop = prod(up.stride[0] for up in module.ups)
    return {"initial_channel": module.conv_pre.in_channels, "sampling_rate": FRAMES_PER_SECOND * hop}


def is_a(obj: Any, kinds: set[tuple[str, str]]) -> bool:
    """Is it an object of one of these classes (module, name), or of one made from them?"""
    return any((kind.__module__, kind.__name__) in kinds for kind in type(obj).__mro__)


def is_synthesizer(obj: Any) -> bool:
    names = [kind.__name__ for kind in type(obj).__mro__ if kind.__module__ in MODELS]
    return any(name.startswith("SynthesizerTrnMs") for name in names)


def is_generator(obj: Any) -> bool:
    return is_a(obj, {(module, name) for module in MODELS for name in GENERATORS})
