"""Something to load by path, as users do: a published config's random weights, written as a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.torch import save_file

from benchmarks.full_size import full_size
from trt_svc.checkpoints.presets import presets


def checkpoint_for(network: str, folder: Path) -> str:
    """What `load_vocoder` takes: a published config's name becomes a folder of files, anything else stays as it is."""
    if network not in presets():
        return network
    here = folder / network
    here.mkdir(parents=True)
    weights = {name: value.contiguous() for name, value in full_size(network).state_dict().items()}
    save_file(weights, here / "model.safetensors")
    (here / "config.json").write_text(json.dumps(dict(presets()[network].config)), "utf-8")
    return str(here)
