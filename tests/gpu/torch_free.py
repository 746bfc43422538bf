"""Run by itself in a process where torch must not be imported: `python -m tests.gpu.torch_free memory|engine DRIVER ...`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from trt_svc.backends import device_memory


def memory(driver: str) -> dict[str, float]:
    """Arrays to the device and back through a driver's pools."""
    rng = np.random.default_rng(0)
    here = device_memory.open_memory(0, driver)
    sizes = [1, 3, 1000, 4097, 1_000_000, 3_000_001]
    with here.current():
        for size in [*sizes, *sizes]:
            array = rng.normal(size=size).astype(np.float32)
            buffer = here.upload(array)
            back = here.download(buffer, array.shape, np.float32)
            here.release(buffer)
            assert np.array_equal(back, array), f"{size} values came back changed"
        here.close()
    return {"round trips": 2 * len(sizes)}


def engine(driver: str, backend: str, folder: str) -> dict[str, float]:
    """A built engine of the demo voice, opened from the cache by one driver."""
    import trt_svc
    from trt_svc.build_config import BuildConfig, Precision, ShapeRange

    device_memory.available_drivers = lambda: [driver]  # type: ignore[assignment]
    settings = json.loads((Path(folder) / "settings.json").read_text())
    build = BuildConfig(
        backend,
        precision=Precision(settings["precision"]),
        frames=(ShapeRange.parse(settings["frames"]),),
        batch=ShapeRange.parse(settings["batch"]),
        targets=tuple(settings["targets"]),
    )
    vocoder = trt_svc.load_vocoder("demo", build=build, device="cuda", on_failure="raise")
    given = dict(np.load(Path(folder) / "given.npz"))
    expected = given.pop("expected")
    gaps = [float(np.abs(np.asarray(vocoder(**given)) - expected).max()) for _ in range(4)]
    assert max(gaps) <= 2e-3, f"{max(gaps):.3g} away from the CPU"
    assert vocoder.backend == backend and vocoder.health.ok, f"{vocoder.health}"
    return {"max difference": max(gaps)}


def main(what: str, driver: str, *more: str) -> None:
    """Prints the figures as JSON."""
    figures = {"memory": memory, "engine": engine}[what](driver, *more)
    assert driver == "torch" or "torch" not in sys.modules, "torch was imported"
    print(json.dumps(figures))


if __name__ == "__main__":
    main(*sys.argv[1:])
