"""What an engine is built for: backend, precision, shapes, targets. Also read from YAML recipes."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from trt_svc.errors import ConfigError, shown
from trt_svc.registry import did_you_mean

DEFAULT_GATE_DB = {"fp32": 100.0, "mixed": 53.0, "fp16": 45.0, "bf16": 35.0}
"""Lowest signal-to-noise ratio against torch float32 at which an engine is kept."""
SM_TARGETS = ("sm75", "sm80", "sm86", "sm89", "sm90", "sm100", "sm120", "sm121")
_UNITS = {"": 1, "B": 1, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30, "KB": 1000, "MB": 10**6, "GB": 10**9}


OPTION_FIELDS = (
    "workspace_bytes",
    "optimization_level",
    "hardware_compatible",
    "version_compatible",
    "strip_weights",
    "targets",
    "streaming",
)
"""Fields of BuildConfig that are told to a compiler."""
COMMON_OPTIONS = frozenset({"streaming"})
"""Those that every backend knows."""
STREAM_MAX_FRAMES = 400
"""Longest window of an engine's stages: blocks of some seconds and their context."""
MAX_POSITIONS = 1 << 21
"""Longest axis: frames of a mel (hours), or samples of a stage that hears audio (two minutes at 16 kHz)."""
PRECISIONS = ("auto", "fp32", "fp16", "bf16", "mixed")
BF16_REASON = "bfloat16 keeps 8 bits: networks of this depth come out near 40 dB, audibly rough"


@dataclass(frozen=True)
class Precision:
    """The type of the network's body and the layers that stay float32."""

    name: str = "fp32"
    """auto: fp16 on GPUs, fp32 on CPUs, where half precision is slower. mixed: float32 with
    products in bfloat16 or, on the native backend, fewer of them."""
    protected: tuple[str, ...] = ()
    """Module names (shell patterns) kept in float32 beside the family's own. mixed: none means those measured."""
    allow_bf16: bool = False

    def __post_init__(self) -> None:
        if self.name not in PRECISIONS:
            raise ConfigError(
                f"precision {self.name!r}", "there is none of that name.", did_you_mean(self.name, list(PRECISIONS))
            )
        if self.name == "bf16" and not self.allow_bf16:
            raise ConfigError(
                "precision 'bf16'", f"{BF16_REASON}.", "Use fp16, or allow_bf16=True (--allow-bf16) if you accept that."
            )

    def as_dict(self) -> dict[str, object]:
        return {key: value for key, value in asdict(self).items() if key != "allow_bf16"}


@dataclass(frozen=True)
class ShapeRange:
    """Smallest, usual and largest length of an axis."""

    min: int
    opt: int
    max: int

    def __post_init__(self) -> None:
        if self.max > MAX_POSITIONS:
            raise ConfigError(f"range {self}", f"{self.max} is beyond {MAX_POSITIONS}.", "Chunk longer input.")
        if not 1 <= self.min <= self.opt <= self.max:
            raise ConfigError(
                f"range {self}", "it must rise from 1 on: minimum <= usual <= maximum.", "Write it as 32:512:2048."
            )

    def __str__(self) -> str:
        return f"{self.min}:{self.opt}:{self.max}"

    def __contains__(self, value: int) -> bool:
        return self.min <= value <= self.max

    @classmethod
    def parse(cls, text: str) -> Self:
        """From "32:512:2048", or "512" for a fixed length."""
        parts = text.strip().split(":")
        if len(parts) not in (1, 3) or not all(re.fullmatch(r"\d{1,9}", part) for part in parts):
            raise ConfigError(
                f"range {shown(text)!r}", "it is not MIN:OPT:MAX.", "Write it as 32:512:2048, or one number."
            )
        numbers = [int(part) for part in parts]
        return cls(*(numbers * 3 if len(numbers) == 1 else numbers))


@dataclass(frozen=True)
class Profile:
    """The shapes one optimisation profile covers."""

    frames: ShapeRange
    batch: ShapeRange

    def __str__(self) -> str:
        return f"frames {self.frames}, batch {self.batch}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """From what `str` gives."""
        frames, _, batch = text.removeprefix("frames ").partition(", batch ")
        return cls(ShapeRange.parse(frames), ShapeRange.parse(batch))


def parse_ranges(text: str) -> tuple[ShapeRange, ...]:
    """One or several ranges, from "32:512:2048,2049:3000:4000"."""
    return tuple(ShapeRange.parse(part) for part in text.split(","))


_FRAMES = {
    "bigvgan": ("1:468:700", "701:934:2048"),
    "gptsovits_generator": ("1:500:750", "751:1000:2048"),
    "waveglow": ("1:500:1000",),
    "hifigan": ("1:250:500", "501:750:2000"),
}
_BATCH = {"waveglow": "1:1:16", "hifigan": "1:1:8"}


def default_frames(family: str) -> tuple[ShapeRange, ...]:
    """The lengths users of a family have: chunks of GPT-SoVITS, slices of so-vits, the mel lengths of guides."""
    return tuple(ShapeRange.parse(text) for text in _FRAMES.get(family, ("1:500:2000",)))


def default_batch(family: str) -> ShapeRange:
    """The batch sizes of a family."""
    return ShapeRange.parse(_BATCH.get(family, "1:1:4"))


@dataclass(frozen=True)
class BuildConfig:
    """Everything that decides what an engine is; `engine_key` says which of it makes another engine."""

    backend: str = "auto"
    device: str = "auto"
    """For backend auto: "cpu" leaves out what needs a GPU."""
    precision: Precision = field(default_factory=lambda: Precision("auto"))
    frames: tuple[ShapeRange, ...] = ()
    """One optimisation profile each; empty: the family's defaults."""
    batch: ShapeRange | None = None
    """None: the family's default."""
    rewrites: tuple[str, ...] | None = None
    """None: with backend auto the fastest measured, else the backend's usual ones."""
    targets: tuple[str, ...] = ()
    """Compute capabilities to compile for ahead of time (tensorrt-rtx); empty: the backend's portable set."""
    workspace_bytes: int | None = None
    optimization_level: int | None = None
    hardware_compatible: bool = False
    version_compatible: bool = False
    strip_weights: bool = False
    """Leave the weights out of the plan; they are put back (refit) when the engine is opened."""
    streaming: bool = False
    """Build the network's stages too, so that streams compute little more than once what they put out."""
    gate_db: float | None = None
    """Lowest acceptable SNR; None: by precision."""

    def __post_init__(self) -> None:
        unknown = [t for t in self.targets if t not in SM_TARGETS]
        if unknown:
            raise ConfigError(
                f"target {shown(unknown[0])!r}",
                "there is no such GPU generation here.",
                did_you_mean(unknown[0], list(SM_TARGETS)),
            )
        if len(set(self.frames)) < len(self.frames):
            raise ConfigError("frames", "a range is listed twice.", "List each range once.")
        if self.workspace_bytes is not None and self.workspace_bytes < 1 << 20:
            raise ConfigError(
                "workspace", f"{self.workspace_bytes} bytes is too little for any network.", "Use 256MiB or more."
            )
        if self.gate_db is not None and not math.isfinite(self.gate_db):
            raise ConfigError("quality gate", f"{self.gate_db} is no number of dB.", "Use 45, for example.")
        if self.optimization_level is not None and not 0 <= self.optimization_level <= 5:
            raise ConfigError("optimization level", f"{self.optimization_level} does not exist.", "Use 0 to 5.")

    @property
    def min_snr_db(self) -> float:
        return DEFAULT_GATE_DB[self.precision.name] if self.gate_db is None else self.gate_db

    @property
    def profiles(self) -> tuple[Profile, ...]:
        """The shapes to build for."""
        assert self.batch is not None, "ask for_family first"
        return tuple(Profile(frames, self.batch) for frames in self.frames)

    def for_family(self, family: str) -> BuildConfig:
        """With the family's ranges where none were asked for."""
        return replace(self, frames=self.frames or default_frames(family), batch=self.batch or default_batch(family))

    def with_precision(self, usual: str) -> BuildConfig:
        """With a backend's usual precision where none was asked for."""
        if self.precision.name != "auto":
            return self
        return replace(self, precision=replace(self.precision, name=usual))

    def as_dict(self) -> dict[str, Any]:
        ranges = {"frames": [str(r) for r in self.frames], "batch": str(self.batch)}
        return {**asdict(self), "precision": self.precision.as_dict(), **ranges}


def parse_bytes(text: str) -> int:
    """A number of bytes from "1GiB", "512MiB" or "1000000"."""
    match = re.fullmatch(r"\s*(\d{1,15}(?:\.\d{1,6})?)\s*([KMG]i?B|B)?\s*", text, re.IGNORECASE)
    if match is None:
        raise ConfigError(f"size {shown(text)!r}", "it is not a number of bytes.", "Write it as 1GiB or 512MiB.")
    return int(float(match[1]) * _UNITS[(match[2] or "").upper()])


class _Recipe(BaseModel):
    """The keys of a recipe file, as on the command line."""

    model_config = ConfigDict(extra="forbid")

    backend: str = "auto"
    device: Literal["auto", "cpu"] = "auto"
    precision: str = "auto"
    protected: list[str] = []
    allow_bf16: bool = False
    frames: str | list[str] | None = None
    batch: str | int | None = None
    rewrites: list[str] | None = None
    gpu: str | list[str] | None = None
    workspace: str | None = None
    optimization_level: Annotated[int, Field(ge=0, le=5)] | None = None
    hardware_compatible: bool = False
    version_compatible: bool = False
    strip_weights: bool = False
    streaming: bool = False
    min_snr_db: float | None = None


def _joined(value: str | int | list[str] | None) -> str | None:
    if value is None:
        return None
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def read_recipe(path: str | Path) -> dict[str, Any]:
    """The keys of a YAML recipe."""
    what = f"recipe {shown(Path(path).name)}"
    try:
        # Texts only: YAML would read an unquoted 1:1:4 as a number to the base of 60.
        data = yaml.load(Path(path).expanduser().read_text("utf-8"), yaml.BaseLoader)
    except (OSError, RuntimeError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as err:
        raise ConfigError(
            what, f"it cannot be read ({shown(str(err))}).", "See configs/recipes/ for examples."
        ) from err
    if not isinstance(data, dict):
        raise ConfigError(what, f"it holds a {type(data).__name__}.", "See configs/recipes/ for examples.")
    return data


def config_from_recipe(data: Mapping[str, Any], what: str = "recipe") -> BuildConfig:
    """The build settings that the keys of a recipe state."""
    try:
        keys = _Recipe.model_validate({k: v for k, v in data.items() if v not in ("", "~", "null", None)})
    except ValidationError as err:
        first = err.errors()[0]
        key = ".".join(map(str, first["loc"])) or "recipe"
        advice = (
            did_you_mean(key, list(_Recipe.model_fields))
            if first["type"] == "extra_forbidden"
            else "See configs/recipes/ for examples."
        )
        raise ConfigError(what, f"{key}: {shown(first['msg'])} (found {shown(first['input'])}).", advice) from err
    gpu, frames, batch = _joined(keys.gpu), _joined(keys.frames), _joined(keys.batch)
    return BuildConfig(
        backend=keys.backend,
        device=keys.device,
        precision=Precision(keys.precision, tuple(keys.protected), keys.allow_bf16),
        frames=parse_ranges(frames) if frames else (),
        batch=ShapeRange.parse(batch) if batch else None,
        rewrites=None if keys.rewrites is None else tuple(sorted(keys.rewrites)),
        targets=tuple(part.strip() for part in gpu.split(",")) if gpu else (),
        workspace_bytes=parse_bytes(keys.workspace) if keys.workspace else None,
        optimization_level=keys.optimization_level,
        hardware_compatible=keys.hardware_compatible,
        version_compatible=keys.version_compatible,
        strip_weights=keys.strip_weights,
        streaming=keys.streaming,
        gate_db=keys.min_snr_db,
    )
