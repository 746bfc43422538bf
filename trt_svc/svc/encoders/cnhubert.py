"""Chinese HuBERT large (TencentGameMate): norms in every convolution and in front of every part, last layer.

The network was trained on audio of zero mean and unit variance, but so-vits hands it the audio as it is, and voice
models were trained on what comes out then: no normalisation here either.
"""

from __future__ import annotations

from trt_svc.svc.encoders.base import encoders
from trt_svc.svc.encoders.hubert_files import HubertEncoder, Plan


@encoders.register("cnhubertlarge")
class ChineseHubertLarge(HubertEncoder):
    name = "cnhubertlarge"
    channels = 1024
    usual_files = ("chinese-hubert-large-fairseq-ckpt.pt",)
    plan = Plan("layer")
