"""Batch normalisation as it is after training."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

EPSILON = 1e-5
Net = TypeVar("Net", bound=nn.Module)


def folded(net: Net) -> Net:
    """A copy in which norms directly behind a convolution are part of it."""
    net = copy.deepcopy(net)
    for chain in [module for module in net.modules() if isinstance(module, nn.Sequential)]:
        for i in range(len(chain) - 1):
            conv, norm = chain[i], chain[i + 1]
            if isinstance(conv, (nn.Conv2d, nn.ConvTranspose2d)) and isinstance(norm, StoredNorm):
                _fold(conv, norm)
                chain[i + 1] = nn.Identity()
    return net


def _fold(conv: nn.Conv2d | nn.ConvTranspose2d, norm: StoredNorm) -> None:
    scale, shift = norm.as_scale_and_shift()
    along = (-1, 1, 1, 1) if isinstance(conv, nn.Conv2d) else (1, -1, 1, 1)
    before = 0 if conv.bias is None else conv.bias.double()
    conv.weight = nn.Parameter((conv.weight.double() * scale.reshape(along)).float(), requires_grad=False)
    conv.bias = nn.Parameter((before * scale + shift).float(), requires_grad=False)


class StoredNorm(nn.Module):
    """Scales channels by stored statistics; unlike torch's own module, it has nothing that only training needs."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, epsilon: float = EPSILON) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.epsilon = epsilon

    def as_scale_and_shift(self) -> tuple[Tensor, Tensor]:
        """What it does to each channel, in double precision."""
        scale = self.weight.double() / (self.running_var.double() + self.epsilon).sqrt()
        return scale, self.bias.double() - self.running_mean.double() * scale

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.epsilon)
