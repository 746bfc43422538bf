"""Soft HuBERT (bshall): a HuBERT base whose last layer is projected to 256 soft units."""

from __future__ import annotations

from trt_svc.svc.encoders.base import CONV_REACH_SAMPLES, HOP_SAMPLES, encoders
from trt_svc.svc.encoders.hubert_files import HubertEncoder, Plan

PADDING_SAMPLES = (CONV_REACH_SAMPLES - HOP_SAMPLES) // 2


@encoders.register("hubertsoft")
class SoftHubert(HubertEncoder):
    name = "hubertsoft"
    channels = 256
    usual_files = ("hubert-soft-0d54a1f4.pt",)
    min_samples = CONV_REACH_SAMPLES - 2 * PADDING_SAMPLES
    plan = Plan("group", projected=True, padding_samples=PADDING_SAMPLES)
