"""Several GPUs share the work; where there is one only, it plays both."""

from __future__ import annotations

import torch

from tests.gpu.common import check, demo, healthy, moved, near, speech, stream_of, truth
from tests.gpu.suite import Figures, Skip


def pair(device: str) -> list[str]:
    """Two devices, or the same one twice."""
    if not device.startswith("cuda"):
        return [device] * 2
    return ["cuda:0", "cuda:1"] if torch.cuda.device_count() > 1 else ["cuda:0", "cuda:0"]


@check
def two_devices_share_the_work(note: Figures, device: str) -> None:
    """A long call cut into windows for both: NumPy, tensors, and tensors on a stream of the caller's."""
    devices = pair(device)
    vocoder = demo(device, devices=devices, chunk_frames=150)
    given = speech(2, 1500 if device.startswith("cuda") else 400)
    expected = truth(given)
    note["devices"] = " ".join(devices)
    for _ in range(3):
        near(note, "numpy", vocoder(**given), expected)
        near(note, "torch", vocoder(**moved(given, devices[0])), expected)
    side = stream_of(devices[0])
    with torch.cuda.stream(side):
        for _ in range(3):
            made = vocoder(**moved(given, devices[0]))
            near(note, "torch on a stream", made * 1.0, expected)
    assert vocoder.health.devices == tuple(devices), f"{vocoder.health.devices}"
    healthy(vocoder)


@check
def a_mel_on_another_device(note: Figures, device: str) -> None:
    """The audio comes where the mel is, wherever the network runs."""
    if not device.startswith("cuda") or torch.cuda.device_count() < 2:
        raise Skip("there is no second GPU")
    given = speech(1, 200)
    for there, here in (("cuda:0", "cuda:1"), ("cuda:1", "cuda:0")):
        made = demo(there)(**moved(given, here))
        assert isinstance(made, torch.Tensor) and str(made.device) == here, f"{made.device} instead of {here}"
        near(note, f"network on {there}, mel on {here}", made, truth(given))
