"""What a recipe would race on this machine, without racing it."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch

from trt_svc.bench.cost import cost_of
from trt_svc.bench.entries import Starters, starters_of
from trt_svc.bench.peaks import Probes
from trt_svc.bench.race import WARM_UPS, Pace
from trt_svc.bench.recipe import NetworkCase, Recipe
from trt_svc.bench.report import LeftOut
from trt_svc.bench.run import device_for
from trt_svc.bench.subjects import is_checkpoint
from trt_svc.checkpoints.load import examine
from trt_svc.checkpoints.presets import preset
from trt_svc.errors import BackendUnavailable
from trt_svc.vocoders.base import VocoderNet, families

USUAL_SHARE_OF_PEAK = 0.5
"""What vocoders reach as a rule, for the estimate only."""


@dataclass(frozen=True)
class PlannedNetwork:
    """A network, its shapes, and who would race in them."""

    network: str
    frames: tuple[int, ...]
    batch: tuple[int, ...]
    gflop: tuple[float, ...]
    """Per call, of the smallest and of the largest shape."""
    contenders: dict[str, tuple[str, ...]]
    """Name -> precisions."""
    seconds: float | None
    """Of racing, estimated; opening and compiling come on top. None where the device is not here."""
    goals: tuple[tuple[str, str], ...] = ()
    """(shape, what is asked for)."""


@dataclass(frozen=True)
class Plan:
    """A dry run."""

    recipe: str
    about: str
    device: str
    here: bool
    """Is such a device on this machine?"""
    networks: tuple[PlannedNetwork, ...]
    left_out: tuple[LeftOut, ...]

    @property
    def minutes(self) -> float | None:
        seconds = [network.seconds for network in self.networks]
        return sum(s for s in seconds if s is not None) / 60 if self.here else None

    def as_dict(self) -> dict[str, object]:
        left_out = [left.model_dump(mode="json") for left in self.left_out]
        return {**asdict(self), "left_out": left_out, "minutes": self.minutes}

    def sentence(self) -> str:
        """How long it would take."""
        if self.minutes is None:
            return "How long it takes is not measured: there is no GPU here."
        return f"Racing alone takes about {self.minutes:.0f} min here; opening and compiling come on top."


HEADINGS = ("network", "frames", "batch", "GFLOP per call", "contenders")


def table_of(plan: Plan) -> list[tuple[str, ...]]:
    """A line per network, in the order of HEADINGS."""
    return [
        (
            network.network,
            ", ".join(map(str, network.frames)),
            ", ".join(map(str, network.batch)),
            " to ".join(f"{value:.0f}" for value in dict.fromkeys(network.gflop)),
            "; ".join(f"{name} {', '.join(how)}" for name, how in network.contenders.items()),
        )
        for network in plan.networks
    ]


def left_out_lines(plan: Plan) -> list[str]:
    """A line per contender that cannot run, with the reason."""
    return [f"{out.contender}{f' {out.precision}' if out.precision else ''}: {out.reason}" for out in plan.left_out]


def markdown_of_plan(plan: Plan) -> str:
    """For a file beside the reports."""
    rows = [HEADINGS, ("---",) * len(HEADINGS), *table_of(plan)]
    lines = [f"# Dry run of the recipe `{plan.recipe}` on {plan.device}", "", plan.about, ""]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    lines += ["", plan.sentence(), "", *_goals(plan)]
    lines += ["Left out:", "", *(f"- {line}" for line in left_out_lines(plan))]
    return "\n".join(lines) + "\n"


def _goals(plan: Plan) -> list[str]:
    """What the race is asked to reach; a dry run reaches nothing."""
    asked = [(network.network, *goal, "not measured") for network in plan.networks for goal in network.goals]
    if not asked:
        return []
    rows = [("network", "shape", "floor / stretch / moonshot", "reached"), ("---",) * 4, *asked]
    return ["Goals:", "", *("| " + " | ".join(row) + " |" for row in rows), ""]


def plan_of(recipe: Recipe) -> Plan:
    """Networks, starters and a rough time from a quick probe of the machine."""
    try:
        device, here = device_for(recipe), True
    except BackendUnavailable:
        device, here = "cuda", False
    probes = Probes(device)
    if here:
        probes.look()
    left_out: list[LeftOut] = []
    networks = []
    for case in recipe.networks:
        asked = starters_of(recipe, case, device)
        left_out += asked.left_out
        networks.append(_planned(recipe, case, asked, probes.gflops.get("fp32")))
    return Plan(recipe.name, recipe.about, device, here, tuple(networks), tuple(dict.fromkeys(left_out)))


def _planned(recipe: Recipe, case: NetworkCase, asked: Starters, peak_gflops: float | None) -> PlannedNetwork:
    net = _network(case)
    frames = case.lengths(net.spec.frames_per_second)
    gflop = [cost_of(net, batch, length).gflop for batch in case.batches for length in frames]
    named: dict[str, tuple[str, ...]] = {}
    for contender, precision in asked.rows:
        named[contender.name] = (*named.get(contender.name, ()), precision)
    seconds = (
        None
        if peak_gflops is None
        else sum(_racing_s(recipe.pace(case), len(asked.rows), g, peak_gflops) for g in gflop)
    )
    goals = tuple((goal.shape, goal.asked) for goal in case.goals)
    return PlannedNetwork(
        case.network, tuple(frames), tuple(case.batches), (min(gflop), max(gflop)), named, seconds, goals
    )


def _racing_s(pace: Pace, starters: int, gflop: float, peak_gflops: float) -> float:
    one_round = starters * gflop / (USUAL_SHARE_OF_PEAK * peak_gflops)
    rounds = max(pace.min_rounds * one_round, min(pace.max_rounds * one_round, pace.budget_s))
    return rounds + WARM_UPS * one_round


def _network(case: NetworkCase) -> VocoderNet:
    """Its topology; nothing of it is computed."""
    if is_checkpoint(case.network):
        return examine(case.network, case.config, case.family, case.source).net
    published = preset(case.network)
    with torch.device("meta"):
        return families.get(published.family).from_config(published.config, {}, published.source)
