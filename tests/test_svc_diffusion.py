"""Shallow diffusion: the network, its loader, the schedule and every sampler, against upstream's arrays."""

from __future__ import annotations

import gzip
import json
import math
import shutil
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.golden_svc import FOLDER
from tests.parity_svc.diffusion import CASES, DATA, META, Recorded, condition, engine_like, golden_net, sampled
from trt_svc.checkpoints.containers import opened_container
from trt_svc.errors import CheckpointError, ConfigError, InputError, WeightsMismatch
from trt_svc.graph.check import cpu_session
from trt_svc.graph.export import export
from trt_svc.graph.model import GraphInput
from trt_svc.svc.diffusion import Diffusion, Sampling, denormalised, normalised, seeded_draws
from trt_svc.svc.networks.denoiser import ConditionedDenoiser, SliceDenoiser, WaveNet
from trt_svc.svc.networks.unit2mel import DiffusionConfig, Unit2Mel, open_unit2mel, unit2mel_from
from trt_svc.svc.samplers.base import Course, samplers
from trt_svc.svc.samplers.schedule import Schedule, uniform_instants

MODEL = FOLDER / "e2e" / "logs" / "44k" / "diffusion"
EVEN_STEPS = ("dpm-solver", "dpm-solver++", "unipc")


def close(made: np.ndarray, expected: np.ndarray) -> None:
    assert made.shape == expected.shape
    np.testing.assert_allclose(made, expected, rtol=1e-4, atol=2e-5 * float(np.abs(expected).max()))


@pytest.fixture(scope="module")
def net() -> Unit2Mel:
    return golden_net()


@pytest.fixture(scope="module")
def diffusion(net: Unit2Mel) -> Diffusion:
    return Diffusion(net, META["cfg"]["timesteps"], META["cfg"]["k_step_max"])


# The network.


def test_forms_of_the_denoiser_agree(net: Unit2Mel) -> None:
    x, cond = torch.from_numpy(DATA["denoise.x"][:, 0]), torch.from_numpy(DATA["denoise.cond"])
    wavenet = net.denoiser
    steps = wavenet.step_biases(torch.from_numpy(DATA["denoise.t"]))
    conditioned = ConditionedDenoiser(wavenet)(x, steps, cond)
    prepared = wavenet.prepared(x, steps, wavenet.projections(cond))
    close(conditioned.numpy(), DATA["denoise.y"][:, 0])
    close(prepared.numpy(), DATA["denoise.y"][:, 0])


def test_denoiser_exports(net: Unit2Mel) -> None:
    wavenet = net.denoiser
    steps = GraphInput("steps", wavenet.channels * wavenet.layers, per_frame=Fraction(0))
    inputs = (GraphInput("x", wavenet.n_mels), steps, GraphInput("cond", wavenet.cond_channels))
    graph = export(ConditionedDenoiser(wavenet), inputs, "noise", ("batch", "channels", "frames"), {})
    biases = wavenet.step_biases(torch.from_numpy(DATA["denoise.t"])).numpy()
    given = {"x": DATA["denoise.x"][:, 0], "steps": biases, "cond": DATA["denoise.cond"]}
    (made,) = cpu_session(graph, threads=1).run(None, given)
    close(made, DATA["denoise.y"][:, 0])


@pytest.mark.parametrize("frames", [1, 2, 15, 16, 17, 40])
def test_windows_are_exact(frames: int) -> None:
    torch.manual_seed(frames)
    wavenet = WaveNet(n_mels=6, layers=3, channels=8, cond_channels=5).eval().requires_grad_(False)
    x, cond = torch.randn(2, 6, frames), torch.randn(2, 5, frames)
    whole = SliceDenoiser(wavenet, cond)(x, 12.5)
    cut = SliceDenoiser(wavenet, cond, window_frames=5)(x, 12.5)
    close(cut.numpy(), whole.numpy())
    close(whole.numpy(), wavenet(x, torch.full((2,), 12.5), cond).numpy())


@pytest.fixture(scope="module")
def choir() -> Diffusion:
    """A model of three voices."""
    torch.manual_seed(0)
    net = Unit2Mel(7, 6, 2, 8, 5, speakers=3, pitch_shift=False).eval().requires_grad_(False)
    net.load_state_dict({**net.state_dict(), "spk_embed.weight": torch.randn(3, 5)})
    return Diffusion(net)


def test_speaker_mix(choir: Diffusion) -> None:
    given = np.random.default_rng(0).uniform(0, 1, (1, 9, 7)), np.full((1, 9), 220.0), np.full((1, 9), 0.1)
    alone = [choir.condition(*given, speaker) for speaker in range(3)]
    assert np.abs(alone[0] - alone[1]).max() > 0.1
    weights = np.zeros((9, 3), np.float32)
    weights[:, 0] = np.linspace(0, 1, 9)
    weights[:, 2] = 1 - weights[:, 0]
    mixed = choir.condition(*given, weights)
    close(mixed, alone[0] * weights[:, 0] + alone[2] * weights[:, 2])
    close(choir.condition(*given, weights[None]), mixed)
    close(choir.condition(*given, np.eye(3)[1][None]), alone[1])


@pytest.mark.parametrize(
    "speaker", [3, -1, "alice", None, True, 0.5, np.ones((10, 3)), np.ones((9, 2)), np.full((9, 3), np.nan)]
)
def test_unusable_speaker(choir: Diffusion, speaker: Any) -> None:
    with pytest.raises(InputError, match="speaker"):
        choir.condition(np.zeros((1, 9, 7)), np.full((1, 9), 220.0), np.full((1, 9), 0.1), speaker)


@pytest.mark.parametrize(
    ("change", "value"),
    [
        ("units", DATA["units"][0]),
        ("units", DATA["units"][:, :0]),
        ("units", DATA["units"][:, :, :-1]),
        ("units", np.full_like(DATA["units"], np.nan)),
        ("f0", DATA["f0"][:, :-1]),
        ("f0", -DATA["f0"] - 1),
        ("f0", np.full_like(DATA["f0"], np.inf)),
        ("volume", DATA["volume"][:, 1:]),
        ("volume", "loud"),
    ],
)
def test_unusable_condition(diffusion: Diffusion, change: str, value: Any) -> None:
    given = {"units": DATA["units"], "f0": DATA["f0"], "volume": DATA["volume"], change: value}
    with pytest.raises(InputError, match=change):
        diffusion.condition(given["units"], given["f0"], given["volume"])


# Schedule and samplers.


def test_mel_scale() -> None:
    mel = np.array([-12.0, -5.0, 2.0, 4.0], np.float32)
    np.testing.assert_allclose(normalised(mel), [-1, 0, 1, 9 / 7], rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(denormalised(normalised(mel)), mel, rtol=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_sampler_in_torch(diffusion: Diffusion, case: str) -> None:
    close(sampled(diffusion, CASES[case], Recorded(case)), DATA[f"{case}.out"])


@pytest.mark.parametrize("method", samplers.names())
@pytest.mark.parametrize(("start", "speedup"), [(1, 1), (2, 2), (40, 40), (41, 7), (60, 5), (200, 10), (1000, 50)])
def test_right_noise_leads_to_the_mel(method: str, start: int, speedup: int) -> None:
    """A denoiser that knows the mel: whatever the steps, it comes out, up to the noise of step 0."""
    if method == "naive" and start > 100:
        pytest.skip("takes every step")
    schedule = Schedule()
    generator = np.random.default_rng(3)
    mel, noise = generator.uniform(-0.9, 0.9, (2, 1, 4, 3)).astype(np.float32)

    def denoise(x: np.ndarray, time: float) -> np.ndarray:
        log_signal = float(np.interp(time, np.arange(1000), np.log(schedule.kept) / 2))
        return (x - math.exp(log_signal) * mel) / math.sqrt(-math.expm1(2 * log_signal))

    x = schedule.signal(start - 1) * mel + schedule.noise(start - 1) * noise
    made = samplers.get(method)(denoise, x, Course(schedule, start, speedup), seeded_draws(0))
    assert made.dtype == np.float32
    # ddim and pndm begin on a multiple of the speedup, which is a little less noisy than what they are given.
    slack = 0.05 if method in EVEN_STEPS or method == "naive" else 0.15
    assert np.abs(made - mel).max() < slack


@pytest.mark.parametrize("method", EVEN_STEPS)
def test_long_schedules_stay_finite(method: str) -> None:
    """With 2000 steps the last ones are all noise; times beyond the useful ones are left out or survived."""
    schedule = Schedule(2000)
    calls: list[float] = []

    def denoise(x: np.ndarray, time: float) -> np.ndarray:
        calls.append(time)
        return x * np.float32(0.9)

    x = np.ones((1, 2, 3), np.float32)
    made = samplers.get(method)(denoise, x, Course(schedule, 2000, 100), seeded_draws(0))
    assert np.isfinite(made).all()
    assert len(calls) == 20
    assert (calls[0] < 1990) == (method != "unipc")


def test_times_fall_evenly() -> None:
    instants = uniform_instants(Schedule(), 100, 7, clips=True)
    assert [round(i.model_time, 3) for i in instants] == [round(99 * (1 - n / 7), 3) for n in range(8)]
    ratios = [i.log_ratio for i in instants]
    assert ratios == sorted(ratios)
    assert all(i.signal**2 + i.noise**2 == pytest.approx(1) for i in instants)


def test_rows_of_a_batch_are_independent(diffusion: Diffusion) -> None:
    frames, sampling = DATA["units"].shape[1], Sampling("unipc", 10)
    units = np.concatenate([DATA["units"], DATA["units"][:, ::-1]])
    f0, volume = np.repeat(DATA["f0"], 2, 0), np.repeat(DATA["volume"], 2, 0)
    mel = np.concatenate([DATA["gt_spec"], DATA["gt_spec"][:, ::-1]])
    noise = np.random.default_rng(0).standard_normal((2, 1, mel.shape[2], frames)).astype(np.float32)
    both = diffusion.refined(mel, diffusion.condition(units, f0, volume), 50, sampling, lambda *_: noise)
    for row in range(2):
        one = slice(row, row + 1)
        cond = diffusion.condition(units[one], f0[one], volume[one])
        close(both[one], diffusion.refined(mel[one], cond, 50, sampling, lambda *_: noise[one]))  # noqa: B023


@pytest.mark.parametrize("frames", [1, 2])
def test_fewest_frames(diffusion: Diffusion, frames: int) -> None:
    cond = diffusion.condition(DATA["units"][:, :frames], DATA["f0"][:, :frames], DATA["volume"][:, :frames])
    for sampling in (Sampling("dpm-solver++", 10), Sampling(None), Sampling("pndm", 20)):
        made = diffusion.refined(DATA["gt_spec"][:, :frames], cond, 20, sampling, seeded_draws(1))
        assert made.shape == (1, frames, diffusion.net.n_mels)
        assert np.isfinite(made).all()


def test_speedup_of_one_takes_every_step(net: Unit2Mel) -> None:
    calls: list[float] = []
    diffusion = Diffusion(net, denoiser_for=engine_like(net, calls))
    cond = condition(diffusion, {})
    diffusion.refined(DATA["gt_spec"], cond, 3, Sampling("unipc", 1), seeded_draws(0))
    assert calls == [2.0, 1.0, 0.0]


def test_draws_by_position() -> None:
    whole = seeded_draws(5)("diffusion_start", "normal", (1, 1, 4, 30))
    part = seeded_draws(5, 11)("diffusion_start", "normal", (1, 1, 4, 6))
    np.testing.assert_array_equal(part, whole[..., 11:17])
    assert (seeded_draws(6)("diffusion_start", "normal", (1, 1, 4, 30)) != whole).any()
    assert (seeded_draws(5)("diffusion_step_0", "normal", (1, 1, 4, 30)) != whole).any()


# What is refused.


def test_too_noisy_for_a_shallow_model(net: Unit2Mel) -> None:
    shallow = Diffusion(net, 1000, 100)
    cond = condition(shallow, {})
    with pytest.raises(InputError, match="100 least noisy"):
        shallow.refined(DATA["gt_spec"], cond, 101, Sampling(), seeded_draws(0))
    with pytest.raises(InputError, match="shallow diffusion"):
        shallow.generated(cond, Sampling(), seeded_draws(0))
    assert shallow.refined(DATA["gt_spec"], cond, 100, Sampling(), seeded_draws(0)).shape == DATA["gt_spec"].shape


@pytest.mark.parametrize("k_step", [0, -1, 1001, 10.5, None, "100", True])
def test_unusable_k_step(diffusion: Diffusion, k_step: Any) -> None:
    with pytest.raises(InputError):
        diffusion.refined(DATA["gt_spec"], condition(diffusion, {}), k_step, Sampling(speedup=1), seeded_draws(0))


@pytest.mark.parametrize("speedup", [51, 2.5])
def test_unusable_speedup(diffusion: Diffusion, speedup: Any) -> None:
    with pytest.raises(InputError, match="speedup"):
        diffusion.refined(DATA["gt_spec"], condition(diffusion, {}), 50, Sampling(speedup=speedup), seeded_draws(0))


def test_unknown_method() -> None:
    with pytest.raises(InputError, match="Did you mean 'dpm-solver"):
        Sampling("dpm-solverpp")


def test_unusable_mel_and_noise(diffusion: Diffusion) -> None:
    cond, mel = condition(diffusion, {}), DATA["gt_spec"]
    for wrong in (mel[:, :-1], mel[:, :, :-1], mel[0], np.full_like(mel, np.nan)):
        with pytest.raises(InputError, match="mel"):
            diffusion.refined(wrong, cond, 50, Sampling(), seeded_draws(0))
    with pytest.raises(InputError, match="diffusion_start"):
        diffusion.refined(mel, cond, 50, Sampling(), lambda *_: np.zeros(3))


# Files.


def inventory() -> Iterator[tuple[str, dict[str, tuple[int, ...]]]]:
    with gzip.open(FOLDER / "state_dict_inventory.json.gz", "rt", encoding="utf-8") as file:
        for name, entries in json.load(file).items():
            if name.startswith("diffusion"):
                yield name, {key: tuple(shape) for key, (shape, _) in entries.items()}


@pytest.mark.parametrize(("name", "shapes"), list(inventory()))
def test_full_size_names(name: str, shapes: dict[str, tuple[int, ...]]) -> None:
    weights = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    speakers = shapes.get("spk_embed.weight", (1,))[0]
    model = {"n_layers": 20, "n_chans": 512, "n_hidden": 256, "n_spk": speakers, "use_pitch_aug": True}
    config = DiffusionConfig(data={"encoder_out_channels": shapes["unit_embed.weight"][1]}, model=model)
    net = unit2mel_from(weights, config)
    assert (net.n_mels, net.denoiser.layers, net.speakers) == (128, 20, speakers)
    del weights["unit_embed.bias"]
    with pytest.raises(WeightsMismatch, match=r"are missing \(unit_embed.bias\)"):
        unit2mel_from(weights, config)


def test_model_folder() -> None:
    opened = open_unit2mel(MODEL)
    assert opened.path.suffix == ".pt"
    assert not any(value.is_meta for value in opened.net.state_dict().values())
    diffusion = Diffusion.open(MODEL)
    assert diffusion.k_step_max == opened.config.k_step_max
    assert Sampling.from_config(opened.config).method == opened.config.infer.method
    units = np.zeros((1, 4, opened.config.data.encoder_out_channels), np.float32)
    cond = diffusion.condition(units, np.full((1, 4), 220.0), np.full((1, 4), 0.1), speaker=1)
    mel = np.full((1, 4, diffusion.net.n_mels), -5.0, np.float32)
    assert np.isfinite(diffusion.refined(mel, cond, 30, Sampling(), seeded_draws(0))).all()


def copied(folder: Path) -> Path:
    for file in MODEL.iterdir():
        shutil.copyfile(file, folder / file.name)
    return folder


def rewritten(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> Path:
    """The folder with `change` made to its weights."""
    (path,) = copied(folder).glob("*.pt")
    with opened_container(path) as tree:
        weights = {name: value.load() for name, value in tree["model"].items()}
    change(weights)
    torch.save({"global_step": 3, "model": weights}, path)
    return folder


def test_half_precision_and_no_buffers(tmp_path: Path) -> None:
    def halve(weights: dict[str, torch.Tensor]) -> None:
        for name in list(weights):
            if name.startswith("decoder.") and "denoise_fn" not in name:
                del weights[name]
            else:
                weights[name] = weights[name].half()

    opened = open_unit2mel(rewritten(tmp_path, halve))
    assert all(value.dtype == torch.float32 for value in opened.net.state_dict().values())


def test_other_schedule_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    open_unit2mel(rewritten(tmp_path, lambda weights: weights["decoder.betas"].mul_(2)))
    assert "another noise schedule" in caplog.text


def edited_config(folder: Path, old: str, new: str) -> Path:
    path = copied(folder) / "config.yaml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    return folder


@pytest.mark.parametrize(
    "change",
    [
        lambda weights: weights.pop("unit_embed.weight"),
        lambda weights: weights.pop("decoder.denoise_fn.residual_layers.0.dilated_conv.bias"),
        lambda weights: weights.update({"something.else": torch.zeros(2)}),
        lambda weights: weights.update({"f0_embed.bias": torch.zeros(3)}),
        lambda weights: weights.update({"decoder.denoise_fn.input_projection.weight": torch.zeros(3)}),
        lambda weights: weights["unit_embed.bias"].fill_(float("nan")),
        lambda weights: weights.clear(),
    ],
)
def test_damaged_weights(tmp_path: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    with pytest.raises(CheckpointError):
        open_unit2mel(rewritten(tmp_path, change))


def test_weights_of_another_config(tmp_path: Path) -> None:
    layers = open_unit2mel(MODEL).config.model.n_layers
    with pytest.raises(WeightsMismatch, match="belong together"):
        open_unit2mel(edited_config(tmp_path, f"n_layers: {layers}", f"n_layers: {layers + 1}"))


@pytest.mark.parametrize(("old", "new"), [("model:", "models:"), ("n_chans: ", "n_chans: -"), ("data:", "data")])
def test_unusable_config(tmp_path: Path, old: str, new: str) -> None:
    with pytest.raises(ConfigError):
        open_unit2mel(edited_config(tmp_path, old, new))


def test_missing_parts(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        open_unit2mel(tmp_path / "model_7.pt")
    (copied(tmp_path) / "config.yaml").unlink()
    with pytest.raises(ConfigError, match="beside"):
        open_unit2mel(tmp_path)
    assert open_unit2mel(tmp_path, MODEL / "config.yaml").net.n_mels > 0


def test_truncated_file(tmp_path: Path) -> None:
    (path,) = copied(tmp_path).glob("*.pt")
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError):
        open_unit2mel(tmp_path)


@pytest.mark.parametrize(
    ("model", "timesteps", "k_step_max"),
    [
        ({}, 1000, 1000),
        ({"timesteps": None, "k_step_max": 0}, 1000, 1000),
        ({"timesteps": 500, "k_step_max": 200}, 500, 200),
        ({"timesteps": 500, "k_step_max": 900}, 500, 500),
    ],
)
def test_config_rules(model: dict[str, Any], timesteps: int, k_step_max: int) -> None:
    config = DiffusionConfig(data={"encoder_out_channels": 256}, model=model, spk={2333: 0})
    assert (config.timesteps, config.k_step_max, config.speakers) == (timesteps, k_step_max, 1)
    assert config.spk == {"2333": 0}
    assert Sampling.from_config(config).takes_every_step
