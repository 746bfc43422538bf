"""All checks, in the order in which they are run: quick and telling ones first, engines last."""

from __future__ import annotations

import torch

from tests.gpu import (
    checks_devices,
    checks_engines,
    checks_graphs,
    checks_hosts,
    checks_kernels,
    checks_memory,
    checks_parity,
    checks_streams,
    checks_tensors,
    checks_threads,
    checks_torch_free,
)
from tests.gpu.common import suite
from tests.gpu.suite import Suite

MODULES = (
    checks_parity,
    checks_tensors,
    checks_streams,
    checks_graphs,
    checks_memory,
    checks_devices,
    checks_threads,
    checks_hosts,
    checks_kernels,
    checks_engines,
    checks_torch_free,
)


def all_checks() -> Suite:
    """The suite, in a process that computes in full float32."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    return _ordered(suite)


def _ordered(found: Suite) -> Suite:
    """By module, and inside of one as written, whatever imported what first."""
    places = [module.__name__ for module in MODULES]
    checks = sorted(found.checks.values(), key=lambda check: places.index(check.module))
    made = Suite(found.after_each)
    made.checks = {check.name: check for check in checks}
    return made
