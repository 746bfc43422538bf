"""What exact streaming computes twice, for every published network: `make stream-cost` writes the table."""

from __future__ import annotations

import torch
from torch.utils.flop_counter import FlopCounterMode

from trt_svc.checkpoints.presets import presets
from trt_svc.vocoders.base import Stage, VocoderNet, families

FRAMES = 64
BLOCKS_S = (0.1, 0.25, 1.0, 4.0)


def flops_per_frame(net: VocoderNet | Stage, ticks_per_frame: int = 1) -> float:
    """Multiplications and additions per mel frame."""
    ticks = FRAMES * ticks_per_frame
    inputs = [torch.empty(1, i.channels, int(ticks * i.per_frame), device="meta") for i in net.core_inputs()]
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        net.to("meta")(*inputs)
    return float(counter.get_total_flops()) / FRAMES


def stream_cost(net: VocoderNet, block_s: float) -> tuple[float, float]:
    """Operations per operation needed, in blocks of so many seconds: as one window, and stage by stage."""
    frames = block_s * net.spec.frames_per_second
    whole = 1 + sum(net.receptive_field) / frames
    stages = net.stages()
    cost = [flops_per_frame(stage, int(stage.ticks_per_frame)) for stage in stages]
    factors = [1 + sum(stage.context) / float(frames * stage.ticks_per_frame) for stage in stages]
    chain = sum(c * f for c, f in zip(cost, factors, strict=True)) / flops_per_frame(net)
    return whole, chain


HEAD = """# What a stream computes twice

Operations per operation needed when a stream is pushed in blocks of so many seconds, from the networks' own layers
(`make stream-cost`): as one window with its context, and stage by stage, each with the context that it needs alone.
"""


def main() -> None:
    print(HEAD)
    heads = " | ".join(f"{seconds:g} s" for seconds in BLOCKS_S)
    print(f"| network | context, frames | window: {heads} | stages: {heads} |")
    print("|---|---|" + "---|" * 2 * len(BLOCKS_S))
    for name, preset in sorted(presets().items()):
        with torch.device("meta"):
            net = families.get(preset.family).from_config(preset.config, {}, preset.source)
        costs = [stream_cost(net, seconds) for seconds in BLOCKS_S]
        left, right = net.receptive_field
        cells = " | ".join(f"{cost[kind]:.2f}" for kind in (0, 1) for cost in costs)
        print(f"| {name} | {left} / {right} | {cells} |")


if __name__ == "__main__":
    main()
