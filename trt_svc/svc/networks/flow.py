"""The normalising flow of a voice, run backwards: from the prior's latent to the decoder's, for one speaker."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from trt_svc.svc.networks.attention import CausalTransformer
from trt_svc.vocoders.base import CoreInput
from trt_svc.vocoders.layers import same_conv

KERNEL = 5
WAVENET_COUPLINGS = 4


@dataclass(frozen=True)
class FlowShape:
    """Sizes and kind of a flow."""

    inter: int
    hidden: int
    gin: int
    filter_channels: int
    heads: int
    n_flow_layer: int
    """Upstream's word for two things: layers of each WaveNet, or the number of couplings around transformers."""
    n_layers_trans_flow: int
    transformer: bool
    shares: bool
    """One WaveNet (or transformer) for all couplings."""
    depthwise: bool

    @property
    def couplings(self) -> int:
        return self.n_flow_layer if self.transformer else WAVENET_COUPLINGS


def gated(x: Tensor, g: Tensor) -> Tensor:
    """tanh of the first half of the channels of x + g times sigmoid of the second."""
    both = x + g
    half = both.shape[1] // 2
    return torch.tanh(both[:, :half]) * torch.sigmoid(both[:, half:])


class DepthwiseConv(nn.Module):
    """A convolution per channel, then a mix of the channels."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int) -> None:
        super().__init__()
        self.depth_conv = nn.Conv1d(channels_in, channels_in, kernel, padding=kernel // 2, groups=channels_in)
        self.point_conv = nn.Conv1d(channels_in, channels_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.point_conv(self.depth_conv(x)))


class WaveNet(nn.Module):
    """Gated convolutions with residual and skip connections. h (B, hidden, T), g (B, gin, 1 or T) -> (B, hidden, T)."""

    def __init__(self, shape: FlowShape) -> None:
        super().__init__()
        hidden, layers = shape.hidden, shape.n_flow_layer
        convolution = DepthwiseConv if shape.depthwise else same_conv
        self.hidden = hidden
        self.in_layers = nn.ModuleList(convolution(hidden, 2 * hidden, KERNEL) for _ in range(layers))
        self.res_skip_layers = nn.ModuleList(
            nn.Conv1d(hidden, 2 * hidden if layer + 1 < layers else hidden, 1) for layer in range(layers)
        )
        self.cond_layer = nn.Conv1d(shape.gin, 2 * hidden * layers, 1)

    def forward(self, h: Tensor, g: Tensor) -> Tensor:
        width, last = 2 * self.hidden, len(self.in_layers) - 1
        conditions = self.cond_layer(g)
        skipped: Tensor | None = None
        for layer, (conv, res_skip) in enumerate(zip(self.in_layers, self.res_skip_layers, strict=True)):
            made = res_skip(gated(conv(h), conditions[:, layer * width : (layer + 1) * width]))
            skip = made if layer == last else made[:, self.hidden :]
            if layer < last:
                h = h + made[:, : self.hidden]
            skipped = skip if skipped is None else skipped + skip
        return cast(Tensor, skipped)


class GatedTransformer(CausalTransformer):
    """A causal transformer in which the speaker gates the input of every layer. Inputs and output as of `WaveNet`."""

    def __init__(self, shape: FlowShape) -> None:
        hidden, layers = shape.hidden, shape.n_layers_trans_flow
        super().__init__(hidden, shape.filter_channels, shape.heads, layers, KERNEL)
        self.hidden = hidden
        self.cond_pre = nn.Conv1d(hidden, 2 * hidden, 1)
        self.cond_layer = nn.Conv1d(shape.gin, 2 * hidden * layers, 1)

    def forward(self, h: Tensor, g: Tensor) -> Tensor:  # type: ignore[override]
        width = 2 * self.hidden
        conditions = self.cond_layer(g)
        for layer, (attention, norm_0, feed_forward, norm_1) in enumerate(self.layers()):
            h = gated(self.cond_pre(h), conditions[:, layer * width : (layer + 1) * width])
            h = norm_0(h + attention(h))
            h = norm_1(h + feed_forward(h))
        return h


class Coupling(nn.Module):
    """One half of the channels decides what is taken off the other."""

    def __init__(self, shape: FlowShape, enc: nn.Module) -> None:
        super().__init__()
        self.kept = shape.inter // 2
        self.pre = nn.Conv1d(self.kept, shape.hidden, 1)
        self.enc = enc
        self.post = nn.Conv1d(shape.hidden, self.kept, 1)

    def forward(self, z: Tensor, g: Tensor) -> Tensor:
        first, second = z[:, : self.kept], z[:, self.kept :]
        return torch.cat([first, second - self.post(self.enc(self.pre(first), g))], dim=1)


class Flow(nn.Module):
    """z_p (B, inter, T), g (B, gin, 1 or T) -> z (B, inter, T)."""

    def __init__(self, shape: FlowShape) -> None:
        super().__init__()
        self.shape = shape
        kind = GatedTransformer if shape.transformer else WaveNet
        if shape.shares:
            self.wn = kind(shape)
        # Upstream keeps flips, which have no weights, at the odd numbers.
        self.flows = nn.ModuleDict(
            {str(2 * i): Coupling(shape, self.wn if shape.shares else kind(shape)) for i in range(shape.couplings)}
        )

    def core_inputs(self) -> tuple[CoreInput, ...]:
        """The tensors that `forward` takes, in order."""
        return (
            CoreInput("z_p", self.shape.inter),
            CoreInput("speaker", self.shape.gin, may_be_constant=True),
        )

    def forward(self, z_p: Tensor, g: Tensor) -> Tensor:
        z = z_p
        for coupling in reversed(list(self.flows.values())):
            z = coupling(torch.flip(z, [1]), g)
        return z
