"""so-vits-svc-fork: the decoder of the voice inside `Svc`."""

from __future__ import annotations

from typing import Any

from trt_svc.dropin.host import Host, Place, class_path, hosts

SVC = "so_vits_svc_fork.inference.core.Svc"
VOICE = "so_vits_svc_fork.modules.synthesizers.SynthesizerTrn"
GENERATORS, GENERATOR = "so_vits_svc_fork.modules.decoders.hifigan._models", "NSFHifiGANGenerator"


@hosts.register("so-vits-svc-fork")
class SoVitsSvcFork(Host):
    title = "so-vits-svc-fork"
    classes = {GENERATORS: (GENERATOR,)}
    loaders = ("load_model",)

    def claims(self, obj: Any) -> bool:
        return class_path(obj) in (SVC, VOICE, f"{GENERATORS}.{GENERATOR}")

    def places(self, obj: Any) -> list[Place]:
        path = class_path(obj)
        return [_dec(obj, {SVC: "net_g.dec", VOICE: "dec"}[path]) if path in (SVC, VOICE) else Place(GENERATOR, obj)]


def _dec(obj: Any, path: str) -> Place:
    from trt_svc.dropin.attributes import place_at

    found = place_at(obj, path, {})
    kind = type(found.module).__name__
    if found.module is None or kind == GENERATOR:
        return found
    return Place(path, None, f"a {kind} ends in an inverse Fourier transform; engines are made for type_ hifi-gan")
