"""What runs an estimator's network: an array in, an array out, so that something else can take torch's place."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from trt_svc.types import Array

NetworkRun: TypeAlias = Callable[[Array], Array]
"""What the network hears (batch, channels, positions) -> salience (batch, bins, positions), both float32."""
