"""HiFi-GAN (jik876): `models.Generator` in all three versions."""

from __future__ import annotations

from typing import Any

from trt_svc.dropin.host import Host, Place, hosts

OWN = ("h", "resblocks")
OTHERS = ("m_source", "source_conv", "cond")
"""What generators of other projects have under the same class name."""


@hosts.register("hifi-gan")
class HiFiGAN(Host):
    """Its config lies in the object as `h`, so its layers and `h` tell everything."""

    title = "HiFi-GAN"
    classes = {"models": ("Generator",)}

    def claims(self, obj: Any) -> bool:
        named = any(kind.__name__ == "Generator" for kind in type(obj).__mro__)
        mine = all(hasattr(obj, name) for name in OWN) and not any(hasattr(obj, name) for name in OTHERS)
        return named and mine

    def places(self, obj: Any) -> list[Place]:
        return [Place("Generator", obj)]
