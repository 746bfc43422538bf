"""What to race: networks, shapes, contenders, patience. Read from YAML; options of the command line win over it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from trt_svc.bench.goals import Goal
from trt_svc.bench.race import Pace
from trt_svc.bench.report import Rules
from trt_svc.build_config import MAX_POSITIONS
from trt_svc.errors import ConfigError, shown
from trt_svc.files import config_folder
from trt_svc.registry import did_you_mean

EXAMPLES = "See configs/bench/ for examples."
SUFFIXES = (".yaml", ".yml")
DEFAULT_SECONDS = (1.0, 5.0)
Budget = Annotated[float, Field(gt=0, le=86_400)]
PrecisionName = Literal["auto", "fp32", "tf32", "fp16", "bf16", "mixed"]
BUSY_SPREAD = 0.3
"""Least limit of the spread beside busy cores."""
GATES_DB = {"fp32": 90.0, "tf32": 45.0, "fp16": 45.0, "bf16": 35.0, "mixed": 45.0}


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class NetworkCase(_Strict):
    """A network and the shapes it is raced at."""

    network: str
    """A checkpoint (path, folder, alias), or a published config: then weights are drawn at random."""
    config: str | None = None
    family: str | None = None
    source: str | None = None
    frames: tuple[Annotated[int, Field(ge=1, le=MAX_POSITIONS)], ...] = ()
    seconds: tuple[Annotated[float, Field(gt=0, le=3600)], ...] = ()
    """Of audio per clip, in place of frames."""
    batch: tuple[Annotated[int, Field(ge=1, le=256)], ...] = (1,)
    contenders: tuple[str, ...] | None = None
    """Only these, in place of the recipe's."""
    precisions: tuple[PrecisionName, ...] | None = None
    budget_s: Budget | None = None
    goals: tuple[Goal, ...] = ()

    @model_validator(mode="after")
    def _one_kind_of_length(self) -> NetworkCase:
        if self.frames and self.seconds:
            raise ValueError("give frames or seconds, not both")
        return self

    @property
    def batches(self) -> list[int]:
        """Each once."""
        return list(dict.fromkeys(self.batch))

    def lengths(self, frames_per_second: float) -> list[int]:
        """In mel frames, rising."""
        seconds = self.seconds or (() if self.frames else DEFAULT_SECONDS)
        return sorted({*self.frames, *(max(1, round(s * frames_per_second)) for s in seconds)})


class Recipe(_Strict):
    """A whole run."""

    name: str = "bench"
    about: str = ""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    networks: Annotated[tuple[NetworkCase, ...], Field(min_length=1)]
    contenders: Annotated[tuple[str, ...], Field(min_length=1)] = ("all",)
    precisions: tuple[PrecisionName, ...] = ("auto",)
    """auto: fp32 on CPUs; fp32, tf32 and fp16 on GPUs."""
    precisions_of: dict[str, tuple[PrecisionName, ...]] = {}
    """Contenders that race in these precisions only: some take minutes to start in each."""
    ours: tuple[str, ...] = ()
    """The contenders whose rows count towards the goals."""
    forms: Annotated[tuple[Literal["plain", "usual", "all"], ...], Field(min_length=1)] = ("plain", "usual")
    """Engines of the graph as exported, of each backend's usual rewrites, of all that compete."""
    min_rounds: Annotated[int, Field(ge=2, le=10_000)] = 7
    max_rounds: Annotated[int, Field(ge=2, le=10_000)] = 40
    busy_cores: Annotated[int, Field(ge=0, le=1024)] = 0
    """Processes that turn beside every race, each on some core: how do contenders bear a machine with other work?"""
    budget_s: Budget = 30.0
    """Seconds of racing per cell; the least number of rounds is run even so, and more while a median is unsteady."""
    listen: str = "sung"
    """The recording that trained networks are listened to with: sung, spoken, or a file."""
    listen_s: Annotated[float, Field(gt=0, le=60)] = 3.0
    judge: bool = True
    """Ask the slow ear-like metrics too."""
    gate_db: dict[Literal["fp32", "tf32", "fp16", "bf16", "mixed"], float] = {}
    max_spread: Annotated[float, Field(gt=0)] = 0.15
    peak_slack: Annotated[float, Field(ge=0)] = 0.1

    @model_validator(mode="after")
    def _rounds_rise(self) -> Recipe:
        if self.max_rounds < self.min_rounds:
            raise ValueError(f"max_rounds {self.max_rounds} is less than min_rounds {self.min_rounds}")
        return self

    @property
    def rules(self) -> Rules:
        return Rules(gate_db={**GATES_DB, **self.gate_db}, max_spread=self.spread, peak_slack=self.peak_slack)

    @property
    def spread(self) -> float:
        """How far a median may be unknown: beside busy cores no time is steady."""
        return max(self.max_spread, BUSY_SPREAD) if self.busy_cores else self.max_spread

    def pace(self, case: NetworkCase) -> Pace:
        return Pace(self.min_rounds, self.max_rounds, case.budget_s or self.budget_s, max_spread=self.spread)

    def precisions_on(self, device: str, case: NetworkCase, contender: str = "") -> list[str]:
        """Those asked for, in a network's race; or of one contender in it."""
        asked = case.precisions or self.precisions_of.get(contender) or self.precisions
        usual = ("fp32",) if device == "cpu" else ("fp32", "tf32", "fp16")
        return list(dict.fromkeys(p for name in asked for p in (usual if name == "auto" else (name,))))


def recipe_from(data: Mapping[str, Any], what: str) -> Recipe:
    """The recipe that a mapping states, or a ConfigError that names the key."""
    try:
        return Recipe.model_validate(data)
    except ValidationError as err:
        first = err.errors()[0]
        place = ".".join(map(str, first["loc"])) or "recipe"
        key = str(first["loc"][-1]) if first["loc"] else ""
        known = [*Recipe.model_fields, *NetworkCase.model_fields]
        advice = did_you_mean(key, known) if first["type"] == "extra_forbidden" else EXAMPLES
        raise ConfigError(what, f"{place}: {shown(first['msg'])} (found {shown(first['input'])}).", advice) from err


def read_recipe(where: str | Path) -> Recipe:
    """A recipe by file, or by the name of one that ships with the package."""
    path = _path_of(str(where))
    what = f"recipe {shown(path.name)}"
    try:
        data = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as err:
        raise ConfigError(what, f"it cannot be read ({shown(str(err))}).", EXAMPLES) from err
    if not isinstance(data, dict):
        raise ConfigError(what, f"it holds a {type(data).__name__}.", EXAMPLES)
    return recipe_from({"name": path.stem, **data}, what)


def shipped_recipes() -> dict[str, Path]:
    """Those of configs/bench/, by name."""
    return {path.stem: path for path in sorted((config_folder() / "bench").glob("*.yaml"))}


def is_recipe(word: str) -> bool:
    """Is it a recipe, not a checkpoint?"""
    return word.endswith(SUFFIXES) or (word in shipped_recipes() and not Path(word).exists())


def _path_of(word: str) -> Path:
    shipped = shipped_recipes()
    if word in shipped and not Path(word).is_file():
        return shipped[word]
    path = Path(word)
    if not path.is_file():
        found = "there is no such file, and none of that name ships with the package."
        raise ConfigError(f"recipe {shown(word)}", found, did_you_mean(word, list(shipped)))
    return path


def joined(recipes: Sequence[Recipe]) -> Recipe:
    """Several as one: all their networks, with the first one's settings."""
    first, *rest = recipes
    if not rest:
        return first
    networks = [case for recipe in recipes for case in recipe.networks]
    return first.model_copy(update={"name": "+".join(r.name for r in recipes), "networks": tuple(networks)})
