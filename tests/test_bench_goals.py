"""Goals of a recipe, judged from a run; and NVIDIA's BigVGAN as a contender, from a checkout."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from tests.bench_reports import cell, small_report
from tests.nets import healthy_short
from trt_svc.bench.contenders.base import contenders
from trt_svc.bench.contenders.bigvgan_upstream import CHECKOUT_VARIABLE, KERNEL, upstream_net
from trt_svc.bench.entries import starters_of
from trt_svc.bench.goals import Goal, judged
from trt_svc.bench.markdown import markdown_of
from trt_svc.bench.plan import markdown_of_plan, plan_of
from trt_svc.bench.publish import publish
from trt_svc.bench.recipe import NetworkCase, Recipe, read_recipe
from trt_svc.bench.report import PAGE, Cell, read_report
from trt_svc.bench.run import run_recipe
from trt_svc.bench.subjects import Subject
from trt_svc.cache import EngineCache
from trt_svc.errors import ConfigError, EngineError, InputError
from trt_svc.vocoders.bigvgan import BigVGAN
from trt_svc.vocoders.healthy import example_inputs

OURS = ("onnxruntime", "openvino")
EASY, HARD = (0.001, 0.002, 1e6), (1e6, 2e6, 3e6)


def one(goal: Goal, cells: tuple[Cell, ...] | None = None, gpus: tuple[str, ...] = ()) -> tuple[str, str, float | None]:
    """(reached, reason, value)."""
    cells = (cell("made_up_nsf", 64, 1), cell("made_up_nsf", 256, 1)) if cells is None else cells
    (result,) = judged([goal], "made_up_nsf", cells, OURS, gpus)
    return result.reached, result.reason, result.value


def test_levels_are_those_that_the_best_valid_row_reaches() -> None:
    assert one(Goal(frames=64, over="torch fp32", times=HARD))[0] == "missed"
    assert one(Goal(frames=64, over="torch fp32", times=EASY))[0] == "stretch"
    (shape,) = (cell("made_up_nsf", 64, 1),)
    medians = {row.label: row.latency.median_s for row in shape.rows if row.latency}
    quickest = min(seconds for label, seconds in medians.items() if label.startswith(OURS) and "bf16" not in label)
    reached, _, value = one(Goal(frames=64, over="torch fp32", times=(1.0, 1.2, 1.3)))
    assert value == pytest.approx(medians["torch fp32"] / quickest)
    assert reached == "moonshot"
    others = min(medians["torch fp32"], medians["torch-compile fp32"])
    assert one(Goal(frames=64, over="others", times=HARD))[2] == pytest.approx(others / quickest)
    assert one(Goal(frames=64, over="torch-compile", times=HARD))[2] == pytest.approx(
        medians["torch-compile fp32"] / quickest
    )


def test_figures_are_times_of_a_reference() -> None:
    shapes = (cell("made_up_nsf", 64, 1), cell("made_up_nsf", 256, 1))
    best = max(row.audio_s_per_s or 0 for c in shapes for row in c.rows if row.contender in OURS)
    goal = Goal(measure="audio_s_per_s", reference=best, times=(0.9, 1.0, 1.1), min_snr_db=40)
    assert one(goal, shapes)[0] == "stretch"
    assert goal.shape == "best length, batch 1"
    assert "s of audio per s" in goal.asked


def test_a_row_of_less_quality_does_not_count_but_is_told() -> None:
    base = cell("made_up_nsf", 64, 1)
    quick = max((row for row in base.rows if row.latency), key=lambda row: row.audio_s_per_s or 0)
    assert quick.waveform is not None
    rough = quick.waveform.model_copy(update={"snr_db": 55.0})
    rows = tuple(row.model_copy(update={"waveform": rough}) if row is quick else row for row in base.rows)
    reached, reason, value = one(Goal(measure="audio_s_per_s", times=EASY), (base.model_copy(update={"rows": rows}),))
    assert value is not None and quick.audio_s_per_s is not None and value < quick.audio_s_per_s
    assert reached == "stretch" and quick.label in reason and "55.0 dB of 60.0 dB" in reason
    _, reason, value = one(Goal(measure="audio_s_per_s", times=EASY, min_snr_db=1e3), (base,))
    assert value is None and "dB" in reason


@pytest.mark.parametrize(
    ("goal", "reason"),
    [
        (Goal(frames=65, over="torch fp32", times=EASY), "not raced"),
        (Goal(frames=64, over="bigvgan-cuda-kernel", times=EASY), "no valid row of bigvgan-cuda-kernel"),
        (Goal(measure="inferences_per_s", times=EASY, gpu="H200"), "meant for H200"),
    ],
)
def test_what_cannot_be_judged_says_why(goal: Goal, reason: str) -> None:
    reached, why, value = one(goal)
    assert (reached, value) == ("not measured", None)
    assert reason in why


def test_the_gpu_a_goal_is_meant_for() -> None:
    goal = Goal(measure="inferences_per_s", times=EASY, gpu="H200")
    assert one(goal, gpus=("NVIDIA H200, sm90",))[0] == "stretch"


@pytest.mark.parametrize("wrong", [{"times": (3, 2, 1)}, {"over": ""}, {"measure": "inferences_per_s"}])
def test_goals_that_say_nothing_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        Goal(**{"over": "torch fp32", "times": (1, 2, 3), **wrong})  # type: ignore[arg-type]


GOALS = (Goal(frames=24, over="torch fp32", times=(0.5, 1e5, 1e6)), Goal(frames=25, over="torch fp32", times=EASY))


def goal_recipe() -> Recipe:
    case = NetworkCase(network="demo", frames=(24,), goals=GOALS)
    pace = {"min_rounds": 2, "max_rounds": 2, "max_spread": 100.0, "peak_slack": 100.0, "judge": False, "listen_s": 0.2}
    return Recipe(networks=(case,), device="cpu", contenders=("torch",), ours=("torch",), **pace)  # type: ignore[arg-type]


def test_a_run_is_judged_and_its_report_says_so(tmp_path: Path) -> None:
    report = run_recipe(goal_recipe(), tmp_path)
    assert read_report(tmp_path).goals == report.goals
    assert [(goal.reached, goal.value) for goal in report.goals] == [("floor", 1.0), ("not measured", None)]
    assert report.goals[0].row == "torch fp32 at 24 frames"
    text = markdown_of(report)
    assert "## Goals" in text and "x torch fp32 | 1.00 | torch fp32 at 24 frames | identical | floor |" in text
    assert "## Goals" not in markdown_of(small_report())
    publish(report, tmp_path)
    assert '<section class="network" id="goals">' in (tmp_path / PAGE).read_text("utf-8")


def test_a_dry_run_tells_the_goals() -> None:
    text = markdown_of_plan(plan_of(goal_recipe()))
    assert "| demo | 24 frames, batch 1 | 0.500 / 100 000 / 1 000 000 x torch fp32 | not measured |" in text.replace(
        "\N{NARROW NO-BREAK SPACE}", " "
    )


def test_contenders_that_do_not_exist_are_refused_before_the_race(tmp_path: Path) -> None:
    for wrong in ({"ours": ("tensort",)}, {"precisions_of": {"torch-cude": ("fp16",)}}):
        recipe = Recipe(networks=(NetworkCase(network="demo"),), **wrong)  # type: ignore[arg-type]
        with pytest.raises(InputError, match="Did you mean"):
            run_recipe(recipe, tmp_path)


def test_a_contender_may_race_in_fewer_precisions() -> None:
    case = NetworkCase(network="demo")
    recipe = Recipe(networks=(case,), contenders=("torch", "torch-compile"), precisions_of={"torch-compile": ("fp16",)})
    raced = [(contender.name, precision) for contender, precision in starters_of(recipe, case, "cuda:0").rows]
    assert raced == [("torch", "fp32"), ("torch", "tf32"), ("torch", "fp16"), ("torch-compile", "fp16")]


def test_the_gpu_recipe_states_the_goals() -> None:
    recipe = read_recipe("gpu")
    assert {"torch-cuda", "tensorrt"} <= set(recipe.ours)
    cases = {case.network: case for case in recipe.networks}
    for case in cases.values():
        lengths, asked = set(case.frames), {goal.frames for goal in case.goals}
        assert asked - {None} <= lengths, "every goal's shape is raced"
        assert {goal.batch for goal in case.goals} <= set(case.batch)
    assert "bigvgan-cuda-kernel" in (cases["bigvgan_v2_24khz_100band_256x"].contenders or ())
    assert len(cases["hifigan_v1"].goals) == 8


# BigVGAN's authors' own.


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with the modules of a checkout that count, the network being the stand-in that hosts are tested with."""
    (tmp_path / "env.py").write_text("from tests.hosts.hifigan_double import AttrDict\n")
    (tmp_path / "bigvgan.py").write_text(
        "from huggingface_hub import PyTorchModelHubMixin\n"
        "from tests.hosts.bigvgan_double import BigVGAN as Double\n"
        "from utils import get_padding, init_weights\n\n\n"
        "class BigVGAN(Double, PyTorchModelHubMixin, library_name='bigvgan'):\n"
        "    assert (get_padding(7, 3), init_weights(None)) == (9, None)\n"
    )
    return tmp_path


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("name", ["bigvgan", "bigvgan2"])
def test_upstreams_network_gets_our_weights(name: str, checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trt_svc.bench.contenders.bigvgan_upstream.is_installed", lambda name: False)
    net = healthy_short(name)
    assert isinstance(net, BigVGAN)
    mine = {name: sys.modules.get(name) for name in ("env", "utils", "bigvgan", "huggingface_hub")}
    upstream = upstream_net(net, checkout, use_kernel=False)
    mel = example_inputs(net, 2, 9)["mel"]
    with torch.no_grad():
        torch.testing.assert_close(upstream(mel).squeeze(1), net(mel), rtol=1e-5, atol=1e-6)
    assert {name: sys.modules.get(name) for name in mine} == mine, "its modules are forgotten again"
    assert str(checkout) not in sys.path


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_a_checkout_of_another_network_is_refused(checkout: Path) -> None:
    net = healthy_short("bigvgan")
    assert isinstance(net, BigVGAN)
    with (checkout / "bigvgan.py").open("a") as file:
        file.write(
            "    def __init__(self, h, use_cuda_kernel=False):\n"
            "        super().__init__(h, use_cuda_kernel)\n"
            "        self.more = self.conv_pre.__class__(1, 1, 1)\n"
        )
    with pytest.raises(EngineError, match="more"):
        upstream_net(net, checkout, use_kernel=False)


def test_it_starts_only_where_it_can(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contender = contenders.get("bigvgan-cuda-kernel")
    monkeypatch.delenv(CHECKOUT_VARIABLE, raising=False)
    assert "GPU" in contender.why_not("cpu", "fp32")
    assert CHECKOUT_VARIABLE in contender.why_not("cuda:0", "fp32")
    monkeypatch.setenv(CHECKOUT_VARIABLE, str(checkout))
    assert "activation1d" in contender.why_not("cuda:0", "fp32")
    (checkout / KERNEL).parent.mkdir(parents=True)
    (checkout / KERNEL).write_text("")
    monkeypatch.setenv("PATH", str(checkout))
    assert "nvcc and ninja" in contender.why_not("cuda:0", "fp32")
    for tool in ("nvcc", "ninja"):
        (checkout / tool).write_text("#!/bin/sh\n")
        (checkout / tool).chmod(0o755)
    assert contender.why_not("cuda:0", "fp32") == ""


def test_it_races_bigvgan_only(tmp_path: Path) -> None:
    contender = contenders.get("bigvgan-cuda-kernel")
    for name, forms in (("bigvgan2", [None]), ("hifigan", [])):
        subject = Subject(name, healthy_short(name), None, "random weights", EngineCache(tmp_path), "0" * 64)
        assert contender.forms(subject, ["plain", "usual"]) == forms


def test_a_recipes_goal_is_checked_as_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text("networks: [{network: demo, goals: [{over: torch fp32, times: [2, 1, 3]}]}]\n")
    with pytest.raises(ConfigError, match="rise"):
        read_recipe(path)
