"""Receptive fields by propagation: which samples does one input frame influence?"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Reach:
    """Positions [left, right] that an impulse at position 0 influences, at the current rate."""

    left: int = 0
    right: int = 0

    def conv(self, kernel: int, dilation: int = 1) -> Reach:
        side = dilation * (kernel - 1) // 2
        return Reach(self.left - side, self.right + side)

    def widen(self, samples: int) -> Reach:
        return Reach(self.left - samples, self.right + samples)

    def upsample(self, kernel: int, stride: int, padding: int) -> Reach:
        return Reach(self.left * stride - padding, self.right * stride - padding + kernel - 1)

    def union(self, other: Reach) -> Reach:
        return Reach(min(self.left, other.left), max(self.right, other.right))

    def frames(self, hop: int) -> tuple[int, int]:
        """(left, right): output frame n depends on input frames n - left .. n + right."""
        return self.right // hop, (hop - 1 - self.left) // hop
