"""Every scene of a host, sung twice: `python -m benchmarks.hosts.play bigvgan --root HOSTS/BigVGAN -o out.npz`.

It knows nothing of `accelerate`: plain, it is the host as it is; under `trt-svc run` it is the host run faster. The
second audio is what is kept, for a network's first call is answered by the host itself.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.hosts.scene import Audio, NotThere, Scene, as_dict

SKIPPED = 77
"""Exit status where the host or something it needs is not there."""


def scenes_of(driver: str, root: Path, full_size: bool = False) -> Iterator[Scene]:
    """The scenes of a driver; NotThere where the folder or a package of the host is missing."""
    if not root.is_dir():
        raise NotThere(f"no folder {root.name}")
    module: Any = import_module(f"benchmarks.hosts.{driver}")
    missing = [name for name in getattr(module, "PACKAGES", ()) if find_spec(name) is None]
    if missing:
        raise NotThere(f"python package {', '.join(missing)} not installed")
    yield from module.scenes(root, full_size)


def played(scenes: Iterator[Scene]) -> dict[str, Audio]:
    """The second audio of every scene."""
    heard: dict[str, Audio] = {}
    for scene in scenes:
        scene.sing()
        heard |= {f"{scene.name}: {name}": audio for name, audio in as_dict(scene.sing()).items()}
    return heard


def arguments(about: str) -> argparse.ArgumentParser:
    """What one process per host is told."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("driver")
    parser.add_argument("--root", type=Path, required=True, help="the host's own folder")
    parser.add_argument("--full-size", action="store_true", help="the published config in place of a narrow one")
    return parser


def main() -> int:
    parser = arguments("every scene of a host, sung twice")
    parser.add_argument("-o", "--output", type=Path, required=True)
    given = parser.parse_args()
    output = given.output.resolve()
    try:
        heard = played(scenes_of(given.driver, given.root.resolve(), given.full_size))
    except NotThere as reason:
        print(f"not there: {reason}")
        return SKIPPED
    np.savez(output, **heard)
    print(f"{len(heard)} kept in {output.name}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
