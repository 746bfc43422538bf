"""WavLM Base+ (Microsoft): a HuBERT base whose attention also hears how far apart frames are; last layer."""

from __future__ import annotations

from trt_svc.svc.encoders.base import encoders
from trt_svc.svc.encoders.hubert_files import HubertEncoder, Plan


@encoders.register("wavlmbase+")
class WavLMBasePlus(HubertEncoder):
    name = "wavlmbase+"
    channels = 768
    usual_files = ("WavLM-Base+.pt",)
    plan = Plan("group", relative=True, normalised_as_stored=True)
