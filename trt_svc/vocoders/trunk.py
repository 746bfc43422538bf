"""The trunk of the HiFi-GAN family: conv_pre, stages of activation, upsampler and residual blocks, conv_post."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from math import prod
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trt_svc.vocoders.base import CoreInput, Shapes, Stage, VocoderNet
from trt_svc.vocoders.generator_config import TrunkConfig
from trt_svc.vocoders.layers import (
    FINAL_LEAKY_SLOPE,
    LEAKY_SLOPE,
    Activation,
    Leaky,
    ResBlock1,
    ResBlock2,
    activation_reach,
    conv_reach,
    same_conv,
)
from trt_svc.vocoders.reach import Reach

EDGE_KERNEL = 7


def uses_resblock1(config: TrunkConfig, shapes: Shapes) -> bool:
    """Upstream compares with the string "1" (so the integer 1 means type 2); the weights cannot lie."""
    if any(".convs1." in name for name in shapes):
        return True
    if any(name.startswith("resblocks.") and ".convs." in name for name in shapes):
        return False
    return config.resblock == "1"


def dilations_used(resblock1: bool) -> int:
    """HiFi-GAN, NSF-HiFiGAN and GPT-SoVITS read exactly this many dilations of a block."""
    return 3 if resblock1 else 2


class UpsamplingTrunk(VocoderNet):
    """Base of all families but WaveGlow; subclasses fill in what differs."""

    float32_layers = ("*activation*", "snakes.*", "snake_post")
    float32_tails = ("conv_post",)
    sums_blocks = False
    """Set by the rewrite that moves the division of the mean into the weights that follow."""

    def __init__(
        self,
        config: TrunkConfig,
        in_channels: int,
        *,
        resblock1: bool,
        dilations_per_block: int | None = None,
        activation: Activation = lambda channels: Leaky(),
        upsample_padding: Callable[[int, int], int] = lambda kernel, stride: (kernel - stride) // 2,
        post_bias: bool = True,
    ) -> None:
        super().__init__()
        self.config = config
        channels = config.channels
        self.conv_pre = same_conv(in_channels, channels[0], EDGE_KERNEL)
        self.ups = nn.ModuleList(
            self.make_upsampler(
                nn.ConvTranspose1d(channels[i], channels[i + 1], k, stride=u, padding=upsample_padding(k, u))
            )
            for i, (u, k) in enumerate(zip(config.upsample_rates, config.upsample_kernel_sizes, strict=False))
        )
        block = ResBlock1 if resblock1 else ResBlock2
        self.resblocks = nn.ModuleList(
            block(width, kernel, dilations[:dilations_per_block], activation)
            for width in channels[1:]
            for kernel, dilations in zip(config.resblock_kernel_sizes, config.resblock_dilation_sizes, strict=False)
        )
        self.conv_post = same_conv(channels[-1], 1, EDGE_KERNEL, bias=post_bias)

    def make_upsampler(self, conv: nn.ConvTranspose1d) -> nn.Module:
        return conv

    def upsampler(self, stage: int) -> nn.ConvTranspose1d:
        return cast(nn.ConvTranspose1d, self.ups[stage])

    # What differs between the families.

    def core_inputs(self) -> tuple[CoreInput, ...]:
        return (CoreInput("mel", self.spec.n_mels),)

    def condition(self, x: Tensor, inputs: dict[str, Tensor]) -> Tensor:
        """Behind conv_pre: speaker, noise."""
        return x

    def before_stage(self, stage: int, x: Tensor) -> Tensor:
        return F.leaky_relu(x, LEAKY_SLOPE)

    def inject(self, stage: int, x: Tensor, inputs: dict[str, Tensor]) -> Tensor:
        """Behind the upsampler of a stage: the harmonic source."""
        return x

    def before_post(self, x: Tensor) -> Tensor:
        return F.leaky_relu(x, FINAL_LEAKY_SLOPE)

    def bound(self, x: Tensor) -> Tensor:
        return torch.tanh(x)

    def stage_activation(self, stage: int) -> nn.Module | None:
        """The module of `before_stage`, where it reaches neighbouring samples."""
        return None

    def post_activation(self) -> nn.Module | None:
        return None

    # What is common.

    def forward(self, *tensors: Tensor) -> Tensor:
        inputs = {spec.name: tensor for spec, tensor in zip(self.core_inputs(), tensors, strict=True)}
        x = inputs["mel"]
        for stage in range(len(self.ups)):
            x = self.run_stage(stage, x, inputs)
        return x

    def run_stage(self, stage: int, x: Tensor, inputs: dict[str, Tensor]) -> Tensor:
        """One stage; the first begins with conv_pre, the last ends with the audio."""
        if stage == 0:
            x = self.condition(self.conv_pre(x), inputs)
        x = self.inject(stage, self.upsampler(stage)(self.before_stage(stage, x)), inputs)
        x = self.join([block(x) for block in self.blocks_of(stage)])
        if stage + 1 == len(self.ups):
            x = self.bound(self.conv_post(self.before_post(x))).squeeze(1)
        return x

    def join(self, branches: Sequence[Tensor]) -> Tensor:
        """The mean, in upstream's order of operations: sum, then divide."""
        total = branches[0]
        for branch in branches[1:]:
            total = total + branch
        return total if self.sums_blocks else total / len(branches)

    def blocks_of(self, stage: int) -> Sequence[nn.Module]:
        n = len(self.config.resblock_kernel_sizes)
        return list(self.resblocks)[stage * n : (stage + 1) * n]

    def reach(self) -> Reach:
        reach = Reach()
        for stage in range(len(self.ups)):
            reach = self.stage_reach(stage, reach)
        return reach

    def stage_reach(self, stage: int, reach: Reach) -> Reach:
        """How far a stage carries what had this reach at its input."""
        if stage == 0:
            reach = conv_reach(self.conv_pre, reach)
        before = self.stage_activation(stage)
        reach = activation_reach(before, reach) if before else reach
        up = self.upsampler(stage)
        reach = reach.upsample(up.kernel_size[0], up.stride[0], cast(int, up.padding[0]))
        if self.injects(stage):
            reach = reach.union(Reach(-1, up.stride[0]))  # the source's convolutions look one sample to each side
        for other in [cast(ResBlock1, block).reach(reach) for block in self.blocks_of(stage)]:
            reach = reach.union(other)
        if stage + 1 < len(self.ups):
            return reach
        last = self.post_activation()
        return conv_reach(self.conv_post, activation_reach(last, reach) if last else reach)

    def injects(self, stage: int) -> bool:
        """Does a source join behind the upsampler of this stage?"""
        return False

    def stages(self) -> list[Stage]:
        keeps_lengths = self.samples_out(8) == 8 * self.spec.hop
        return [TrunkStage(self, stage) for stage in range(len(self.ups))] if keeps_lengths else []

    def samples_out(self, frames: int) -> int:
        for stage in range(len(self.ups)):
            up = self.upsampler(stage)
            frames = (frames - 1) * up.stride[0] - 2 * cast(int, up.padding[0]) + up.kernel_size[0]
        return frames


class TrunkStage(Stage):
    """Stage `number` of a trunk."""

    def __init__(self, net: UpsamplingTrunk, number: int) -> None:
        super().__init__()
        self.net = net
        self.number = number
        rates = [up.stride[0] for up in map(net.upsampler, range(len(net.ups)))]
        ticks = prod(rates[:number])
        channels = net.spec.n_mels if number == 0 else net.config.channels[number]
        first = CoreInput("mel" if number == 0 else "x", channels)
        joining = [
            CoreInput(spec.name, spec.channels, Fraction(spec.per_frame, ticks))
            for spec in net.core_inputs()
            if (spec.name == "source" and net.injects(number)) or (spec.name not in ("mel", "source") and number == 0)
        ]
        self.inputs = (first, *joining)
        self.ticks_per_frame = Fraction(ticks)
        self.out_per_tick = Fraction(rates[number])
        self.context = net.stage_reach(number, Reach()).frames(rates[number])

    def forward(self, *tensors: Tensor) -> Tensor:
        inputs = {spec.name: tensor for spec, tensor in zip(self.inputs, tensors, strict=True)}
        return cast(UpsamplingTrunk, self.net).run_stage(self.number, tensors[0], inputs)
