"""k-means mixing and feature retrieval as networks: plain tensor operations, so that they become engines too.

Their NumPy forms (`trt_svc.svc.clusters`, `trt_svc.svc.retrieval`) settle near ties in float64; here float32 decides.
Keep them in float32: distances between long vectors need all of its digits. Scores of every frame and row are held at
once (4 bytes each), so long takes are cut into windows of frames, which changes nothing: every frame is on its own.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trt_svc.svc.clusters import Clusters
from trt_svc.svc.retrieval import NEIGHBOURS, Retrieval

FAR = 1e30
"""Added to the scores of vectors outside the opened cell."""
SOFTENING = 1e-12
"""Added to a distance²: a vector found exactly takes all the weight, and 1 / it squared is within float32."""


class _Rows(nn.Module):
    """Scores points against rows: half the squared distance, less what is the same for all rows."""

    weight: Tensor
    bias: Tensor

    def __init__(self, rows: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", -rows.unsqueeze(2))
        self.register_buffer("bias", 0.5 * rows.double().square().sum(1).float())

    def forward(self, units: Tensor) -> Tensor:
        """(B, channels, T) -> (B, rows, T). A convolution of width 1 is the matrix product."""
        return F.conv1d(units, self.weight, self.bias)


class NearestCentre(nn.Module):
    """units (B, channels, T) and ratio (B, 1, T) -> units, each frame that far on the way to its nearest centre."""

    centres: Tensor

    def __init__(self, clusters: Clusters) -> None:
        super().__init__()
        self.register_buffer("centres", torch.from_numpy(clusters.centres.copy()))
        self.score = _Rows(self.centres)

    def nearest(self, units: Tensor) -> Tensor:
        """(B, T) the nearest centre of every frame."""
        return torch.argmin(self.score(units), dim=1)

    def forward(self, units: Tensor, ratio: Tensor) -> Tensor:
        centre = F.embedding(self.nearest(units), self.centres).transpose(1, 2)
        return units + ratio * (centre - units)


class FeatureRetrieval(nn.Module):
    """units (B, channels, T) and ratio (B, 1, T) -> units, each frame that far on the way to what was retrieved for it.

    All vectors are scored and those outside the opened cell put far away: cells of unequal sizes cannot be gathered
    by one plain operation without padding every cell to the largest.
    """

    vectors: Tensor
    cell_of_vector: Tensor

    def __init__(self, retrieval: Retrieval, neighbours: int = NEIGHBOURS) -> None:
        super().__init__()
        index = retrieval.index
        held, cell_of_vector = np.unique(index.cell_of_vector(), return_inverse=True)
        self.neighbours = min(neighbours, index.count)
        self.register_buffer("vectors", torch.from_numpy(index.vectors.copy()))
        self.register_buffer("cell_of_vector", torch.from_numpy(cell_of_vector.astype(np.int64)).reshape(1, -1, 1))
        self.find_cell = _Rows(torch.from_numpy(index.centroids[held]))
        self.score = _Rows(self.vectors)

    def forward(self, units: Tensor, ratio: Tensor) -> Tensor:
        cell = torch.argmin(self.find_cell(units), dim=1).unsqueeze(1)
        inside = torch.eq(self.cell_of_vector, cell).to(torch.float32)
        scores, places = torch.topk(self.score(units) + FAR * (1 - inside), self.neighbours, dim=1, largest=False)
        near = F.embedding(places, self.vectors)  # (B, k, T, channels)
        gaps = near - units.transpose(1, 2).unsqueeze(1)
        closeness = 1 / (torch.sum(gaps * gaps, dim=3) + SOFTENING)
        # A cell with fewer vectors: those of other cells get no weight.
        weights = torch.lt(scores, FAR / 2).to(torch.float32) * closeness * closeness
        mean = torch.sum(near * weights.unsqueeze(3), dim=1) / torch.sum(weights, dim=1).unsqueeze(2)
        return units + ratio * (mean.transpose(1, 2) - units)
