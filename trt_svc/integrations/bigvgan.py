"""BigVGAN (NVIDIA): `bigvgan.BigVGAN`, also where another project carries a copy of it."""

from __future__ import annotations

from typing import Any

from trt_svc.dropin.host import Host, Place, hosts

GPT_SOVITS = "BigVGAN.bigvgan"
"""Its copy comes with settings of its own."""


@hosts.register("bigvgan")
class BigVGAN(Host):
    """Its config lies in the object as `h`, so its layers and `h` tell everything."""

    title = "BigVGAN"
    classes = {"bigvgan": ("BigVGAN",)}

    def claims(self, obj: Any) -> bool:
        modules = [kind.__module__ for kind in type(obj).__mro__ if kind.__name__ == "BigVGAN"]
        return bool(modules) and GPT_SOVITS not in modules and hasattr(obj, "resblocks")

    def places(self, obj: Any) -> list[Place]:
        return [Place("BigVGAN", obj)]
