"""Applio: the decoder of a voice in `VoiceConverter`, in `RealtimeVoiceConverter`, or in a `Synthesizer`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trt_svc.dropin.host import Host, Place, hosts
from trt_svc.integrations.rvc import NO_VOICE, facts_of, is_a

if TYPE_CHECKING:
    from torch import nn

FOLDER = "rvc.lib.algorithm.generators"
FITTING = {(f"{FOLDER}.hifigan_nsf", "HiFiGANNSFGenerator"), (f"{FOLDER}.hifigan", "HiFiGANGenerator")}
OTHERS = {
    (f"{FOLDER}.hifigan_mrf", "HiFiGANMRFGenerator"): "MRF HiFi-GAN names its layers otherwise",
    (f"{FOLDER}.refinegan", "RefineGANGenerator"): "RefineGAN is another network, with resampling between its layers",
}
"""Generators that are left alone, with the reason."""
HOLDERS = {("rvc.infer.infer", "VoiceConverter"), ("rvc.realtime.pipeline", "RealtimeVoiceConverter")}
"""Keep the synthesizer of the present voice as `net_g`."""
SYNTHESIZER = ("rvc.lib.algorithm.synthesizers", "Synthesizer")
NO_DEC = {**NO_VOICE, "dec": "this kind of vocoder needs a voice with pitch"}


@hosts.register("applio")
class Applio(Host):
    title = "Applio"
    classes = {module: (name,) for module, name in (*FITTING, *OTHERS)}
    loaders = ("setup_network",)

    def claims(self, obj: Any) -> bool:
        return is_a(obj, {*HOLDERS, SYNTHESIZER, *FITTING, *OTHERS})

    def places(self, obj: Any) -> list[Place]:
        from trt_svc.dropin.attributes import place_at

        if is_a(obj, FITTING | OTHERS.keys()):
            return [_fitting(Place(type(obj).__name__, obj))]
        if is_a(obj, {SYNTHESIZER}):
            return [_fitting(place_at(obj, "dec", NO_DEC))]
        if not hasattr(obj, "net_g"):  # it deletes the attribute when a voice is put away
            return [Place("net_g.dec", None, NO_VOICE["net_g"])]
        return [_fitting(place_at(obj, "net_g.dec", NO_DEC))]

    def facts(self, module: nn.Module) -> dict[str, Any]:
        return facts_of(module)

    def settings(self, obj: Any) -> dict[str, Any]:
        reason = _reason(obj)
        return {"off": reason} if reason else {}


def _fitting(place: Place) -> Place:
    reason = _reason(place.module)
    return Place(place.label, None, reason) if reason else place


def _reason(module: Any) -> str:
    """Why a generator is left alone."""
    return next((reason for kind, reason in OTHERS.items() if is_a(module, {kind})), "")
