"""Chunks, batches and streams give what one call on everything gives: every family, every backend of CPUs."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import trt_svc
from benchmarks.stream_cost import stream_cost
from tests.golden import SUBSET, GoldenNet, upstream_checkpoint
from tests.nets import SMALL, checkpoint_of, utterance, vocoder_of
from trt_svc.backends.base import backends
from trt_svc.build_config import BuildConfig, Precision, ShapeRange, default_frames
from trt_svc.checkpoints.presets import presets
from trt_svc.errors import BackendUnavailable, ConfigError, InputError
from trt_svc.gptsovits_chunks import chunks_of
from trt_svc.rungs import least_frames
from trt_svc.vocoders.base import families
from trt_svc.vocoders.healthy import healthy_net

BACKENDS = ("torch", "onnxruntime", "openvino", *(["native"] if backends.get("native")().probe().runs else []))
NSF = ("nsf_hifigan", "sovits_dec", "sovits_snake")
FRAMES = 170
QUICK = settings(
    max_examples=3, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def tolerance(name: str, backend: str) -> float:
    """float32 rounding through a phase-sensitive network, or a plain one; fewer products round more."""
    return 5e-6 if name in NSF or backend == "native" else 1e-6


def options_for(backend: str) -> dict[str, Any]:
    if backend == "torch":
        return {"backend": "torch"}
    shapes: dict[str, Any] = {"frames": (ShapeRange(1, 32, 200),), "batch": ShapeRange(1, 1, 4)}
    # The anti-aliased snake as upstream writes it is refused by the native kernels.
    return {"build": BuildConfig(backend, **shapes, rewrites=None if backend == "native" else ())}


@pytest.fixture(scope="module", params=[f"{name} on {backend}" for backend in BACKENDS for name in SMALL])
def session(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    name, _, backend = request.param.partition(" on ")
    folder = tmp_path_factory.mktemp(name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRT_SVC_ENGINE_DIR", str(folder / "engines"))
        yield name, vocoder_of(name, folder, **options_for(backend))


def piece(given: dict[str, Any], start: int, stop: int) -> dict[str, Any]:
    cut = {"mel": given["mel"][:, :, start:stop]}
    return cut | ({"f0": given["f0"][:, start:stop]} if "f0" in given else {})


def streamed(vocoder: trt_svc.Vocoder, given: dict[str, Any], sizes: list[int], seed: int) -> np.ndarray:
    frames, at, made = given["mel"].shape[2], 0, []
    with vocoder.stream(speaker=given.get("speaker"), seed=seed) as stream:
        for size in [*sizes, frames]:
            made.append(stream.push(**piece(given, at, min(frames, at + size))))
            at = min(frames, at + size)
        made.append(stream.flush())
    return np.concatenate(made, axis=1)


@QUICK
@given(data=st.data())
def test_chunks_and_streams_equal_the_whole(session: Any, data: st.DataObject) -> None:
    name, vocoder = session
    # Every new shape costs torch's WaveGlow a second on the CPU.
    most = 30 if (name, vocoder.backend) == ("waveglow", "torch") else FRAMES
    batch, frames = data.draw(st.integers(1, 2)), data.draw(st.integers(1, most))
    given, seed = utterance(vocoder, batch, frames, seed=frames), data.draw(st.integers(0, 9))
    whole = vocoder(**given, seed=seed)
    assert whole.shape == (batch, vocoder.voice.samples_out(frames))
    least = sum(vocoder.receptive_field) + vocoder.voice.frame_step
    limits = vocoder._ladder.limits
    before, limits.frames = limits.frames, data.draw(st.integers(least, least + 60))
    try:
        chunked = vocoder(**given, seed=seed)
        sizes = data.draw(st.lists(st.integers(1, 50), max_size=8))
        pieces = streamed(vocoder, given, sizes, seed)
    finally:
        limits.frames = before
    assert np.abs(chunked - whole).max() <= tolerance(name, vocoder.backend)
    assert pieces.shape == whole.shape
    assert np.abs(pieces - whole).max() <= tolerance(name, vocoder.backend)
    assert np.abs(streamed(vocoder, given, sizes, seed) - whole).max() <= tolerance(name, vocoder.backend)


def test_pushes_of_one_frame(session: Any) -> None:
    name, vocoder = session
    given = utterance(vocoder, 1, 40)
    whole = vocoder(**given, seed=1)
    assert np.abs(streamed(vocoder, given, [1] * 40, 1) - whole).max() <= tolerance(name, vocoder.backend)


@QUICK
@given(lengths=st.lists(st.sampled_from([1, 7, 7, 20, 33, 64]), min_size=1, max_size=6))
def test_ragged_batches_keep_order_and_sound(session: Any, lengths: list[int]) -> None:
    name, vocoder = session
    clips = [utterance(vocoder, 1, frames, seed=i) for i, frames in enumerate(lengths)]
    more = {key: [clip[key] for clip in clips] for key in ("f0", "speaker") if key in clips[0]}
    seeds = list(range(len(clips)))
    together = vocoder.batch([clip["mel"] for clip in clips], **more, seed=seeds)
    assert len(together) == len(clips)
    for clip, seed, made in zip(clips, seeds, together, strict=True):
        alone = vocoder(**clip, seed=seed)[0]
        assert made.shape == alone.shape
        assert np.abs(made - alone).max() <= tolerance(name, vocoder.backend)


# One session on torch is enough for what follows.


@pytest.fixture(scope="module")
def nsf(tmp_path_factory: pytest.TempPathFactory) -> trt_svc.Vocoder:
    return vocoder_of("nsf_hifigan", tmp_path_factory.mktemp("nsf"))


def test_a_stream_takes_and_gives_tensors(nsf: trt_svc.Vocoder) -> None:
    given = utterance(nsf, 2, 60)
    with nsf.stream(seed=[1, 2]) as stream:
        first = stream.push(torch.from_numpy(given["mel"]), torch.from_numpy(given["f0"]))
        rest = stream.flush()
    assert isinstance(first, torch.Tensor) and isinstance(rest, torch.Tensor)
    whole = nsf(**given, seed=[1, 2])
    assert np.abs(torch.cat([first, rest], 1).numpy() - whole).max() <= 5e-6


def test_less_lookahead_is_earlier_and_only_near(nsf: trt_svc.Vocoder) -> None:
    given = utterance(nsf, 1, 120)
    whole = nsf(**given)
    waits, errors = [], []
    for lookahead in (0, 8, "exact"):
        with nsf.stream(lookahead) as stream:
            made = [stream.push(**piece(given, at, at + 10)) for at in range(0, 120, 10)]
            waits.append(stream.latency_frames)
            assert made[4].shape == made[5].shape == (1, 10 * nsf.spec.hop)
            errors.append(float(np.abs(np.concatenate([*made, stream.flush()], 1) - whole).max()))
    assert waits == [0, 8, nsf.receptive_field[1]]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] <= 5e-6


def test_a_gliding_source_waits_for_one_more_frame(tmp_path: Path) -> None:
    mini = vocoder_of("mini", tmp_path)
    assert mini.stream(0).latency_frames == 1


def test_a_chain_computes_little_more_than_once(tmp_path: Path) -> None:
    vocoder = vocoder_of("bigvgan", tmp_path)
    with vocoder.stream() as stream:
        for _ in range(20):
            stream.push(np.full((1, vocoder.spec.n_mels, 94), -4, np.float32))
        per_stage = stream.redundancy
    expected = [1 + (span.left + span.right) / (94 * span.per_frame) for span in vocoder._ladder.rung.stages]
    assert per_stage == pytest.approx([float(value) for value in expected], rel=0.06)


TWINS = ("22khz", "v2pro", "sovits_40", "hifigan_v2", "pc_nsf")
"""Published networks whose layers reach as far as another's."""


@pytest.mark.parametrize("name", sorted(name for name in presets() if not any(twin in name for twin in TWINS)))
def test_published_networks_stream_a_second_at_little_extra_cost(name: str) -> None:
    """Operations of every stage on a block of one second with its context, against the block alone."""
    preset = presets()[name]
    with torch.device("meta"):
        net = families.get(preset.family).from_config(preset.config, {}, preset.source)
    whole, chain = stream_cost(net, 1.0)
    assert chain <= 1.3
    assert chain < whole


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize(("name", "precision"), [("nsf_hifigan", "fp32"), ("bigvgan", "fp16"), ("waveglow", "fp32")])
def test_engines_with_stages_stream_through_them(
    name: str, precision: str, backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRT_SVC_ENGINE_DIR", str(tmp_path / "engines"))
    build = BuildConfig(
        backend,
        frames=(ShapeRange(1, 32, 200),),
        batch=ShapeRange(1, 1, 2),
        rewrites=(),
        precision=Precision(precision),
        streaming=True,
    )
    vocoder = vocoder_of(name, tmp_path, build=build)
    given = utterance(vocoder, 1, 90)
    with vocoder.stream(speaker=given.get("speaker")) as stream:
        made = [stream.push(**piece(given, at, at + 15)) for at in range(0, 90, 15)]
        made.append(stream.flush())
        assert len(stream.redundancy) == len(vocoder.checkpoint.net.stages())
    # fp16 rounds in every window anew.
    assert np.abs(np.concatenate(made, 1) - vocoder(**given)).max() <= (2e-4 if precision == "fp16" else 5e-6)
    assert vocoder.health.ok


def test_streams_end_once(nsf: trt_svc.Vocoder) -> None:
    with nsf.stream() as stream:
        assert stream.flush().shape == (1, 0)
    for call in (stream.flush, lambda: stream.push(**utterance(nsf, 1, 3))):
        with pytest.raises(InputError, match="has ended"):
            call()
    with nsf.stream() as stream:
        stream.push(**utterance(nsf, 2, 5))
        with pytest.raises(InputError, match="batch"):
            stream.push(**utterance(nsf, 1, 5))


@pytest.mark.parametrize("lookahead", [-1, 1.5, "all", True, None])
def test_odd_lookaheads(nsf: trt_svc.Vocoder, lookahead: Any) -> None:
    with pytest.raises(InputError, match="lookahead"):
        nsf.stream(lookahead)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"f0": [np.zeros(5)]}, "One per clip|one per clip"),
        ({"mels": [np.zeros((2, 128, 5))]}, "clip 0"),
        ({"mels": [np.zeros(5)]}, "clip 0"),
        ({"seed": [1]}, "seed"),
    ],
)
def test_odd_batches(nsf: trt_svc.Vocoder, change: dict[str, Any], message: str) -> None:
    call = {"mels": [np.zeros((128, 5), np.float32)] * 2, "f0": [np.zeros(5, np.float32)] * 2, **change}
    with pytest.raises(InputError, match=message):
        nsf.batch(**call)


def test_an_empty_batch(nsf: trt_svc.Vocoder) -> None:
    assert nsf.batch([], f0=[]) == []


def test_memory_limit_makes_runs_smaller_not_different(tmp_path: Path) -> None:
    free = vocoder_of("bigvgan", tmp_path)
    tight = vocoder_of(
        "bigvgan", tmp_path, memory_limit=free.voice.bytes_per_frame * 120 + 4 * free.checkpoint.parameters
    )
    given = utterance(free, 3, 400)
    runs: list[int] = []
    runner = tight._ladder.rung
    submit = runner.lanes.submit

    def noted(job: Any, timeout_s: float) -> Any:
        runs.append(1)
        return submit(job, timeout_s)

    runner.lanes.submit = noted  # type: ignore[method-assign]
    assert np.abs(tight(**given) - free(**given)).max() <= 1e-6
    assert len(runs) >= 3 * 400 // 120
    with pytest.raises(ConfigError, match="memory_limit"):
        vocoder_of("bigvgan", tmp_path, memory_limit="100KiB")
    with pytest.raises(ConfigError, match="chunk_frames"):
        vocoder_of("bigvgan", tmp_path, chunk_frames=20)


def test_two_devices_share_the_work(tmp_path: Path) -> None:
    one = vocoder_of("nsf_hifigan", tmp_path, chunk_frames=100)
    two = vocoder_of("nsf_hifigan", tmp_path, chunk_frames=100, devices=["cpu", "cpu"])
    given = utterance(one, 1, 900)
    assert np.abs(one(**given) - two(**given)).max() <= 5e-6
    assert two.device == "cpu, cpu"


def test_engines_shorter_than_their_least_and_between_profiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRT_SVC_ENGINE_DIR", str(tmp_path / "engines"))
    reference = vocoder_of("hifigan", tmp_path)
    ranges = (ShapeRange(70, 80, 90), ShapeRange(120, 130, 140))
    build = BuildConfig("onnxruntime", frames=ranges, batch=ShapeRange(2, 2, 4), rewrites=())
    engine = vocoder_of("hifigan", tmp_path, build=build)
    for batch, frames in ((1, 5), (1, 80), (3, 100), (5, 300), (1, 139)):
        given = utterance(engine, batch, frames)
        assert np.abs(engine(**given) - reference(**given)).max() <= 1e-6
    assert engine.health.ok


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        ("bigvgan_v2_24khz_100band_256x", (468, 934, 12, 12 * 256)),
        ("gptsovits_v4", (500, 1000, 12, 12 * 480)),
        ("hifigan_v1", None),
        ("bigvgan_24khz_100band", (468, 934, 12, 12 * 256)),
    ],
)
def test_gpt_sovits_chunk_constants(preset: str, expected: tuple[int, ...] | None) -> None:
    with torch.device("meta"):
        net = families.get(presets()[preset].family).from_config(presets()[preset].config, {}, None)
    chunks = chunks_of(net.spec)
    if expected is None:
        assert chunks is None
        return
    assert chunks is not None
    assert (chunks.ref_frames, chunks.chunk_frames, chunks.overlap_frames, chunks.overlap_samples) == expected
    # Engines are tuned for exactly these lengths, and torch never cuts one.
    ranges = default_frames(net.family)
    assert [r.opt for r in ranges] == [chunks.ref_frames, chunks.chunk_frames]
    assert ranges[-1].max >= 2 * chunks.chunk_frames


@pytest.mark.parametrize("name", ["hifigan", "mini", "sovits_dec"])
def test_callers_may_fill_one_buffer_again_and_again(name: str, tmp_path: Path) -> None:
    vocoder = vocoder_of(name, tmp_path)
    given = utterance(vocoder, 1, 60)
    whole = vocoder(**given)
    mel, f0 = np.empty((1, vocoder.spec.n_mels, 10), np.float32), np.empty((1, 10), np.float32)
    voice = None if "speaker" not in given else given["speaker"].copy()
    made = []
    with vocoder.stream(speaker=voice) as stream:
        for at in range(0, 60, 10):
            mel[:] = given["mel"][:, :, at : at + 10]
            if "f0" in given:
                f0[:] = given["f0"][:, at : at + 10]
            made.append(stream.push(mel, f0 if "f0" in given else None))
            if voice is not None:
                voice[:] = 9
        made.append(stream.flush())
    assert np.abs(np.concatenate(made, 1) - whole).max() <= 5e-6


def test_a_failed_push_ends_the_stream(nsf: trt_svc.Vocoder, monkeypatch: pytest.MonkeyPatch) -> None:
    given = utterance(nsf, 1, 60)
    with nsf.stream() as stream:
        stream.push(**piece(given, 0, 30))
        with pytest.raises(InputError):
            stream.push(given["mel"][:, :5])  # refused before anything has moved: the stream goes on
        with monkeypatch.context() as patch:
            patch.setattr(type(stream._windows), "push", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                stream.push(**piece(given, 30, 60))
        for call in (stream.flush, lambda: stream.push(**piece(given, 30, 60))):
            with pytest.raises(InputError, match="gap"):
                call()


def test_an_empty_first_push(tmp_path: Path) -> None:
    """With a gliding source and noise behind conv_pre, whose positions must not go below zero."""
    net = GoldenNet("nsf-mini-noise", SUBSET)
    vocoder = trt_svc.load_vocoder(upstream_checkpoint(net, tmp_path))
    given = utterance(vocoder, 1, 20)
    with vocoder.stream() as stream:
        made = [stream.push(**piece(given, 0, 0)), stream.push(**piece(given, 0, 20)), stream.flush()]
    assert np.abs(np.concatenate(made, 1) - vocoder(**given)).max() <= 5e-6


@pytest.mark.parametrize("frames", [1, 2, 7, 31])
def test_groups_that_do_not_divide_the_hop(frames: int) -> None:
    """WaveGlow with 12 samples per group: windows begin where groups do, and the odd end is the network's own."""
    flow = {"n_mel_channels": 8, "n_flows": 2, "n_group": 12, "n_early_every": 1, "n_early_size": 2}
    config = {"waveglow_config": {**flow, "WN_config": {"n_layers": 2, "n_channels": 4}}}
    net = healthy_net("waveglow", config)
    with tempfile.TemporaryDirectory() as folder:
        files = checkpoint_of(net, Path(folder))
        whole = trt_svc.load_vocoder(**files, config=config)
        least = least_frames(whole._ladder.span)
        cut = trt_svc.load_vocoder(**files, config=config, chunk_frames=least)
    given = utterance(whole, 1, frames)
    made = whole(**given)
    assert made.shape == (1, net.samples_out(frames))
    assert np.abs(cut(**given) - made).max() <= 1e-6
    assert np.abs(streamed(cut, given, [3, 1, 4], 0) - made).max() <= 1e-6


def test_odd_clips_of_a_batch_are_named(tmp_path: Path) -> None:
    dec = vocoder_of("sovits_dec", tmp_path)
    clips = [utterance(dec, 1, 9, seed=i) for i in range(3)]
    mels, curves = [clip["mel"] for clip in clips], [clip["f0"] for clip in clips]
    voices = [clips[0]["speaker"], clips[1]["speaker"][:, :, None], np.repeat(clips[2]["speaker"][:, :, None], 9, 2)]
    made = dec.batch(mels, curves, voices, seed=np.int64(5))
    for i, clip in enumerate(clips):
        assert np.abs(made[i] - dec(**clip, seed=5)[0]).max() <= 5e-6
    mixed = dec.batch([torch.from_numpy(mels[0]).requires_grad_(), mels[1]], curves[:2], voices[:2])
    assert isinstance(mixed[0], torch.Tensor) and isinstance(mixed[1], np.ndarray)
    for change in (
        {"seed": 1.5},
        {"seed": None},
        {"f0": [curves[0], None, curves[2]]},
        {"speaker": [voices[0]] * 2 + [np.zeros((1, 2))]},
    ):
        with pytest.raises(InputError):
            dec.batch(**{"mels": mels, "f0": curves, "speaker": voices, **change})


@pytest.mark.parametrize(
    "options",
    [{"devices": "cuda:0"}, {"devices": []}, {"contexts": 1.5}, {"contexts": 0}, {"chunk_frames": 0}, {"chunk_frames": "x"},
     {"timeout_s": "x"}, {"timeout_s": 0}, {"on_failure": "ignore"}, {"memory_limit": "much"}, {"device": 3}],
)  # fmt: skip
def test_odd_options(options: dict[str, Any]) -> None:
    with pytest.raises((InputError, ConfigError)):
        trt_svc.load_vocoder("demo", **options)


@pytest.mark.parametrize("options", [{"device": "cuda:7"}, {"devices": ["cuda:0"]}])
def test_a_cpu_backend_is_not_opened_on_a_gpu(options: dict[str, Any]) -> None:
    with pytest.raises(BackendUnavailable, match="CPU only"):
        trt_svc.load_vocoder("demo", backend="onnxruntime", **options)


@pytest.mark.parametrize("change", [{"sigma": "a"}, {"denoiser_strength": None}, {"noise": 5}])
def test_odd_arguments(tmp_path: Path, change: dict[str, Any]) -> None:
    waveglow = vocoder_of("waveglow", tmp_path)
    with pytest.raises(InputError):
        waveglow(**utterance(waveglow, 1, 2), **change)
