"""Writes tests/data/fused_kernels.json: run it when a change of the graphs lowers the counts.

python -m tests.write_fused_kernels
"""

from __future__ import annotations

import json

from tests.nets import SMALL, healthy_small
from tests.test_rtx import CEILINGS, build

if __name__ == "__main__":
    counts = {name: build(healthy_small(name)).notes["fused_kernels"] for name in SMALL}
    CEILINGS.write_text(json.dumps(counts, indent=1) + "\n")
    print(counts)
