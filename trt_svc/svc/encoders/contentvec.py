"""ContentVec: layer 12 (vec768l12, so-vits 4.1) and layer 9 with its projection (vec256l9, so-vits 4.0).

The file is `checkpoint_best_legacy_500.pt` (RVC's `hubert_base.pt` is the same one), or its conversion for Hugging Face
(`content-vec-best`: a folder with `pytorch_model.bin` or `model.safetensors`).

Facebook's `hubert_base_ls960` has exactly the same names and shapes. In its fairseq form it cannot be told apart, for
either encoder, and makes wrong voices. In its Hugging Face form it has no `final_proj`: vec256l9 refuses it,
vec768l12, which uses no projection, cannot.
"""

from __future__ import annotations

from trt_svc.svc.encoders.base import encoders
from trt_svc.svc.encoders.hubert_files import HubertEncoder, Plan

FILES = ("checkpoint_best_legacy_500.pt", "hubert_base.pt")


@encoders.register("vec768l12")
class Vec768Layer12(HubertEncoder):
    name = "vec768l12"
    channels = 768
    usual_files = FILES
    plan = Plan("group", layer=12)


@encoders.register("vec256l9")
class Vec256Layer9(HubertEncoder):
    name = "vec256l9"
    channels = 256
    usual_files = FILES
    plan = Plan("group", layer=9, projected=True)
