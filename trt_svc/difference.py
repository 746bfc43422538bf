"""How far one signal is from another."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass

import numpy as np

from trt_svc.types import Array


@dataclass(frozen=True)
class Difference:
    """How far one signal is from another."""

    mse: float
    mae: float
    max: float
    snr_db: float

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


def difference(made: Array, reference: Array) -> Difference:
    """Signal-to-noise ratio and plain distances, in float64. NaN makes every figure NaN."""
    gap = made.astype(np.float64) - reference.astype(np.float64)
    mse, power = float(np.mean(gap**2)), float(np.mean(reference.astype(np.float64) ** 2))
    snr = float("inf") if mse == 0 else 10 * float(np.log10(max(power, 1e-30) / mse))
    return Difference(mse, float(np.mean(np.abs(gap))), float(np.max(np.abs(gap))), snr)


def worst(differences: Iterable[Difference]) -> Difference:
    """The lowest quality of several."""
    found = list(differences)
    return Difference(
        mse=float(np.max([d.mse for d in found])),
        mae=float(np.max([d.mae for d in found])),
        max=float(np.max([d.max for d in found])),
        snr_db=float(np.min([d.snr_db for d in found])),
    )
