"""Songs through a whole model: the same by position, odd recordings and options, what is missing, files, engines."""

from __future__ import annotations

import pickle
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from tests.bad_checkpoints import Calls
from tests.golden_svc import FOLDER
from tests.parity_svc.songs import stand_in_encoder
from tests.test_svc_clusters import dumped, index_bytes, random_index
from tests.test_svc_encoders import fairseq_file
from trt_svc.audio import resample
from trt_svc.backends.base import backends
from trt_svc.difference import difference
from trt_svc.errors import (
    AudioFileError,
    BuildCancelled,
    CheckpointNotFound,
    ConfigError,
    InputError,
    TrtSvcError,
    UnsafeCheckpoint,
    WeightsMismatch,
)
from trt_svc.files import DIRECTORY_VARIABLE
from trt_svc.progress import Quiet
from trt_svc.svc import running
from trt_svc.svc.conversion import COMPAT, Conversion
from trt_svc.svc.pipeline import SVCPipeline
from trt_svc.svc.samplers.base import samplers
from trt_svc.svc.singer import Chance, Sung
from trt_svc.svc.take import mix_for

RATE, HOP = 44100, 512
MIX = {"alice": [[0, 1, 1, 0]], "bob": [[0, 0.5, 0, 1], [0.5, 1, 1, 0.2]]}
SHALLOW = {"k_step": 20}
BASE: dict[str, Any] = {"speaker": "bob", "f0": "dio", "padding_s": 0.1}


def copied(root: Path) -> Path:
    """The golden model with clusters and a feature index, none of its files read-only."""
    shutil.copytree(FOLDER / "e2e", root, copy_function=shutil.copyfile)
    logs = root / "logs/44k"
    index = index_bytes(random_index(1, 40, 4, channels=256))
    (logs / "feature_and_index.pkl").write_bytes(dumped({0: index, 1: index, 2: index}))
    return root


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copied(tmp_path_factory.mktemp("model") / "so-vits-svc")


@pytest.fixture(scope="module")
def pipe(model: Path) -> SVCPipeline:
    return opened(model)


@pytest.fixture(autouse=True)
def _engines_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DIRECTORY_VARIABLE, str(tmp_path / "engines"))


def opened(where: Path, **options: Any) -> SVCPipeline:
    return SVCPipeline.from_pretrained(where, **{"encoder": stand_in_encoder, **options})


def song(seconds: float = 0.5, rate: int = RATE, hz: float = 220.0) -> np.ndarray:
    """A steady tone with a gentle vibrato."""
    t = np.arange(round(seconds * rate)) / rate
    phase = 2 * np.pi * hz * t + 2 * np.sin(2 * np.pi * 5 * t)
    return sum(0.15 * np.sin(h * phase) / h for h in range(1, min(12, int(rate / 2 / hz / 1.1)))).astype(np.float32)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# The same sound wherever it stands.


def test_a_song_is_the_same_every_time_and_another_by_seed(pipe: SVCPipeline) -> None:
    first, again, other = (pipe((song(), RATE), **BASE, seed=seed) for seed in (3, 3, 4))
    assert np.array_equal(first, again)
    assert first.dtype == np.float32
    assert first.shape == other.shape
    assert difference(other, first).snr_db < 30


def test_noise_belongs_to_a_place_in_the_song(pipe: SVCPipeline) -> None:
    """Clips of whole frames draw what the whole song draws there."""
    frame_s, seen = HOP / RATE, {}

    def noted(**options: Any) -> np.ndarray:
        """The noise of every frame of the song, told by where pieces begin."""
        from trt_svc.svc.take import Take, first_frame

        take = Take.of(pipe.model, _source(), Conversion.of(**BASE | options), None)
        for piece in take.pieces:
            first = first_frame(piece, take.rules, HOP)
            frames = (piece.samples + 2 * int(take.rules.settings.padding_s * RATE)) // HOP
            for frame in range(first, first + frames):
                at = round((piece.start - int(take.rules.settings.padding_s * RATE)) / HOP) + frame - first
                seen.setdefault(at, set()).add(frame)
        return seen

    def _source() -> Any:
        from trt_svc.svc.source_reader import SourceAudio

        return SourceAudio(song(1.5), RATE)

    padding = 9 * frame_s
    noted(padding_s=padding)
    noted(padding_s=padding, clip_s=40 * frame_s, overlap_s=8 * frame_s)
    assert len(seen) > 130
    assert all(len(frames) == 1 for frames in seen.values())
    assert sorted(frame for frames in seen.values() for frame in frames) == list(range(1, len(seen) + 1))


def test_clips_sound_like_the_whole(model: Path) -> None:
    """Breath has no phase to lose: clip by clip it is the same noise, in the same place, at the same level."""

    def still(wave: np.ndarray) -> np.ndarray:
        return np.zeros((1, 256, max(1, (len(wave) - 400) // 320 + 1)), np.float32)

    pipe, frame_s = opened(model, encoder=still), HOP / RATE
    breath = (0.05 * rng().standard_normal(2 * RATE)).astype(np.float32)
    options = BASE | {"padding_s": 16 * frame_s, "f0": "swift-f0", "noise_scale": 0.5}
    whole = pipe((breath, RATE), **options)
    assert pipe.last is not None and pipe.last.slices == 1
    clips = pipe((breath, RATE), **options, clip_s=64 * frame_s, overlap_s=16 * frame_s)
    assert pipe.last.slices == 3
    other = pipe((breath, RATE), **options, seed=1, clip_s=64 * frame_s, overlap_s=16 * frame_s)
    assert difference(clips, whole).snr_db > difference(other, whole).snr_db + 20


@pytest.mark.parametrize(("rate", "channels"), [(8000, 1), (16000, 2), (32000, 1), (44100, 2), (48000, 1), (96000, 2)])
def test_the_length_follows_the_recording(rate: int, channels: int, pipe: SVCPipeline) -> None:
    for samples in (round(0.31 * rate) + 1, 300):
        audio = np.stack([song(0.4, rate)[:samples]] * channels)
        made = pipe((audio, rate), **BASE)
        assert len(made) == -(-samples * RATE // rate)
        assert np.isfinite(made).all()
        assert np.abs(made).max() > 0
    assert np.array_equal(made, pipe((audio[0], rate), **BASE))


def test_pauses_stay_silent_and_in_place(pipe: SVCPipeline) -> None:
    """The middle of a long pause is left out of the networks, whatever the rates."""
    rate = 32000
    audio = np.concatenate([song(1.0, rate), np.zeros(12 * rate, np.float32), song(0.7, rate, 330)])
    made = pipe((audio, rate), **BASE)
    assert len(made) == -(-len(audio) * RATE // rate)
    assert pipe.last is not None and pipe.last.slices == 2
    loud = np.abs(made) > 0
    assert not made[2 * RATE : 7 * RATE].any()
    assert loud[: RATE // 2].mean() > 0.9 and loud[-RATE // 3 :].mean() > 0.9
    # The second phrase is what it would be alone, but for the noise of its place.
    assert np.abs(made[-RATE // 3 :]).mean() == pytest.approx(np.abs(made[: RATE // 3]).mean(), rel=0.5)


def test_a_second_song_at_another_rate(model: Path, pipe: SVCPipeline) -> None:
    """so-vits-svc keeps the resampler of the song before."""
    fresh = opened(model)
    expected = fresh((song(0.4, 44100), 44100), **BASE)
    for rate in (32000, 44100, 8000, 44100):
        made = pipe((song(0.4, rate), rate), **BASE)
    assert np.array_equal(made, expected)


# Odd recordings.


def test_the_shortest_recordings(pipe: SVCPipeline) -> None:
    for samples in (1, 2, 300):
        for options in ({}, {"padding_s": 0}, {"diffusion": SHALLOW}, {"enhance": True, "enhancer_key": -3}):
            made = pipe((song()[:samples] + 0.1, RATE), **BASE | options)
            assert made.shape == (samples,), options
            assert np.isfinite(made).all()


def test_without_padding(pipe: SVCPipeline) -> None:
    """so-vits-svc makes nothing but zeros of it."""
    made = pipe((song(), RATE), **BASE | {"padding_s": 0})
    usual = pipe((song(), RATE), **BASE)
    assert len(made) == len(usual)
    assert np.sqrt((made**2).mean()) == pytest.approx(np.sqrt((usual**2).mean()), rel=0.2)


UNVOICED = {
    "silence": np.zeros(RATE // 2, np.float32),
    "a little noise": (1e-4 * rng(2).standard_normal(RATE // 2)).astype(np.float32),
    "noise": (0.1 * rng(1).standard_normal(RATE // 2)).astype(np.float32),
    "a constant": np.full(RATE // 2, 0.5, np.float32),
    "clicks": np.where(np.arange(RATE // 2) % 7000 == 100, 1, 0).astype(np.float32),
    "full scale": np.sign(song() + 1e-9).astype(np.float32),
}


@pytest.mark.parametrize("method", ["pm", "dio", "harvest", "swift-f0"])
@pytest.mark.parametrize("kind", UNVOICED)
def test_recordings_without_pitch(method: str, kind: str, pipe: SVCPipeline) -> None:
    made = pipe((UNVOICED[kind], RATE), **BASE | {"f0": method})
    assert made.shape == (RATE // 2,)
    assert np.isfinite(made).all()


@pytest.mark.parametrize("options", [{"auto_f0": True}, {"diffusion": SHALLOW}, {"diffusion": "only", "speedup": 100},
                                     {"enhance": True, "enhancer_key": 5}, {"loudness_share": 0.0}])  # fmt: skip
@pytest.mark.parametrize("kind", ["silence", "noise"])
def test_recordings_without_pitch_through_everything(kind: str, options: dict[str, Any], pipe: SVCPipeline) -> None:
    made = pipe((UNVOICED[kind], RATE), **BASE | options)
    assert made.shape == (RATE // 2,)
    assert np.isfinite(made).all()
    if kind == "silence" and options == {"loudness_share": 0.0}:
        assert np.abs(made).max() < 1e-3  # as loud as the source


BAD_RECORDINGS = {
    "empty": ((np.zeros(0, np.float32), RATE), "no samples"),
    "NaN": ((np.array([0, np.nan], np.float32), RATE), "NaN"),
    "16-bit numbers": ((np.full(1000, 3e4, np.float32), RATE), "full scale"),
    "no rate": ((song(), 0), "sample_rate"),
    "a rate of NaN": ((song(), float("nan")), "sample_rate"),
    "an array alone": (song(), "a ndarray came"),
    "three things": ((song(), RATE, 1), "a tuple came"),
    "nothing": (None, "NoneType"),
    "text instead of audio": (("song", RATE), "converting a recording"),
}


@pytest.mark.parametrize("kind", BAD_RECORDINGS)
def test_bad_recordings(kind: str, pipe: SVCPipeline) -> None:
    recording, words = BAD_RECORDINGS[kind]
    with pytest.raises(InputError, match=words):
        pipe(recording, **BASE)


@pytest.mark.parametrize("options", [{}, {"diffusion": SHALLOW}, {"diffusion": "only", "speedup": 100},
                                     {"enhance": True, "enhancer_key": -30}])  # fmt: skip
def test_pitch_beyond_what_a_source_can_make(options: dict[str, Any], pipe: SVCPipeline, model: Path) -> None:
    for transpose in (60.0, -36.0):
        made = pipe((song(0.2, hz=900), RATE), **BASE | options, transpose=transpose)
        assert np.isfinite(made).all()


@pytest.mark.parametrize("compat", [None, COMPAT])
@pytest.mark.parametrize("options", [{}, {"diffusion": SHALLOW}, {"enhance": True}])
def test_a_voice_whose_own_pitch_is_none(options: dict[str, Any], compat: str | None, model: Path) -> None:
    pipe = opened(model, compat=compat)
    last = pipe.model.voice.net.f0_decoder.proj
    for hz_like in (-0.5, 3.0):
        last.weight.zero_()
        last.bias.fill_(hz_like)  # of the log pitch: below 0 Hz, and far above any
        made = pipe((song(0.2), RATE), **BASE | options, auto_f0=True)
        assert np.isfinite(made).all()


# Who sings.


def test_speakers_by_name_and_number(pipe: SVCPipeline) -> None:
    by_name = pipe((song(0.2), RATE), **BASE | {"speaker": "carol"})
    for asked in (2, "2"):
        assert np.array_equal(pipe((song(0.2), RATE), **BASE | {"speaker": asked}), by_name)
    assert not np.array_equal(pipe((song(0.2), RATE), **BASE | {"speaker": 0}), by_name)


@pytest.mark.parametrize(
    ("speaker", "words"),
    [("bbo", "Did you mean 'bob'"), (7, "none of that name or number"), ("-1", "none of that"), (True, "bool is none"),
     (None, "has several.*alice, bob, carol"), (1.5, "float is none"), (["bob"], "list is none")],
)  # fmt: skip
@pytest.mark.parametrize("diffusion", [None, "only"])
def test_unknown_speakers(speaker: Any, words: str, diffusion: str | None, pipe: SVCPipeline) -> None:
    with pytest.raises(InputError, match=words):
        pipe((song(0.2), RATE), **BASE | {"speaker": speaker, "diffusion": diffusion})


@pytest.mark.parametrize("rate", [32000, 44100, 48000])
@pytest.mark.parametrize("diffusion", [None, SHALLOW, {"kind": "only", "speedup": 100}])
def test_a_mix_at_any_rate(rate: int, diffusion: Any, pipe: SVCPipeline) -> None:
    """so-vits-svc fails below the model's rate, and with diffusion at all."""
    options = {**BASE, "speaker": MIX, "diffusion": diffusion}
    made = pipe((song(0.5, rate), rate), **options)
    assert len(made) == RATE // 2
    alone = {**options, "speaker": {1: [[0, 1, 1, 1]]}}
    single = {**options, "speaker": 1}
    mixed, one = (pipe((song(0.5, rate), rate), **asked) for asked in (alone, single))
    assert difference(mixed, one).snr_db > 100
    assert difference(made, one).snr_db < 70


def test_a_mix_for_a_diffusion_model_of_fewer_speakers() -> None:
    weights = np.zeros((2, 3, 200), np.float32)
    weights[..., :2] = 0.5
    np.testing.assert_array_equal(mix_for(3, weights), weights[..., :3])
    np.testing.assert_array_equal(mix_for(4, weights[..., :3]), weights[..., :4])
    assert mix_for(1, weights) == 0
    weights[1, 2, 7] = 0.5
    with pytest.raises(InputError, match="has 3 speakers"):
        mix_for(3, weights)


def test_a_mix_in_compat_runs_out_of_frames(model: Path) -> None:
    upstream = opened(model, compat=COMPAT)
    audio = (song(0.5, 32000), 32000)
    with pytest.raises(InputError, match="runs out of frames"):
        upstream(audio, **BASE | {"speaker": MIX, "padding_s": 0.5, "clip_s": 0.2})


def test_a_mix_with_clusters_is_refused(pipe: SVCPipeline) -> None:
    with pytest.raises(InputError, match="clusters belong to one speaker"):
        pipe((song(0.2), RATE), **BASE | {"speaker": MIX, "cluster_ratio": 0.5})


def test_a_voice_of_one_speaker_needs_none(tmp_path: Path, model: Path) -> None:
    import json

    shutil.copytree(model, tmp_path / "m")
    path = tmp_path / "m/logs/44k/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"spk": {"carol": 2}}))
    made = opened(tmp_path / "m")((song(0.2), RATE), f0="dio")
    assert np.array_equal(made, opened(model)((song(0.2), RATE), f0="dio", speaker="carol"))


# What is missing is said before any work.


class NeverHeard:
    """An encoder that notes whether anybody worked."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, wave: np.ndarray) -> np.ndarray:
        self.calls += 1
        return stand_in_encoder(wave)


MISSING = {
    "clusters": ("logs/44k/kmeans_10000.pt", {"cluster_ratio": 0.5}, "kmeans_10000.pt"),
    "feature index": ("logs/44k/feature_and_index.pkl", {"cluster_ratio": 0.5, "retrieval": True}, "feature_and_index"),
    "diffusion": ("logs/44k/diffusion/model_0.pt", {"diffusion": "shallow"}, r"model_\*.pt"),
    "diffusion alone": ("logs/44k/diffusion/model_0.pt", {"diffusion": "only"}, r"model_\*.pt"),
    "its config": ("logs/44k/diffusion/config.yaml", {"diffusion": "shallow"}, "config.yaml"),
    "vocoder": ("pretrain/nsf_hifigan/model", {"diffusion": "shallow"}, "nsf_hifigan"),
    "vocoder of the enhancer": ("pretrain/nsf_hifigan/model", {"enhance": True}, "nsf_hifigan"),
    "voice": ("logs/44k/G_0.pth", {}, r"G_\*.pth"),
    "config": ("logs/44k/config.json", {}, "config.json"),
    "rmvpe": (None, {"f0": "rmvpe"}, "rmvpe.pt"),
    "fcpe": (None, {"f0": "fcpe"}, "fcpe.pt"),
}


@pytest.mark.parametrize("part", MISSING)
def test_missing_files(part: str, tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, options, words = MISSING[part]
    monkeypatch.chdir(tmp_path)
    shutil.copytree(model, tmp_path / "m")
    if file:
        (tmp_path / "m" / file).unlink()
    heard = NeverHeard()
    pipe, output = opened(tmp_path / "m", encoder=heard), tmp_path / "out" / "made.wav"
    with pytest.raises(CheckpointNotFound, match=words):
        pipe.convert_file(FOLDER / "e2e/in32.wav", output, Conversion.of(**BASE | options))
    assert heard.calls == 0
    assert not output.parent.exists() or not list(output.parent.iterdir())


def test_a_missing_encoder(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointNotFound, match=r"checkpoint_best_legacy_500\.pt"):
        SVCPipeline.from_pretrained(model)((song(0.2), RATE), **BASE)
    # Diffusion alone hears with its own, and needs no voice.
    shutil.copytree(model, tmp_path / "m")
    (tmp_path / "m/logs/44k/G_0.pth").unlink()
    made = opened(tmp_path / "m")((song(0.2), RATE), **BASE | {"diffusion": "only", "speedup": 100})
    assert np.isfinite(made).all()


# Options.


def test_options_misspelt(pipe: SVCPipeline) -> None:
    for options, words in (
        ({"speeker": "bob"}, "Did you mean 'speaker'"),
        ({"tranpose": 1}, "Did you mean 'transpose'"),
        ({"tran": 1, "transpose": 1}, "given as well"),
        ({"diffusion": {"ksteps": 3}}, "Did you mean 'k_step'"),
        ({"diffusion": "deep"}, "'shallow' or 'only'"),
        ({"diffusion": {"kind": "deep"}}, "'shallow' or 'only'"),
        ({"f0": "rmpve"}, "Did you mean 'rmvpe'"),
        ({"f0": 5}, "f0 method 5"),
        ({"f0": ["dio"]}, "list is none"),
        ({"diffusion": {"sampler": 3}}, "int is none"),
        ({"diffusion": {"sampler": "unipcc"}}, "Did you mean 'unipc'"),
        ({"transpose": float("nan")}, "Use -60 to 60"),
        ({"transpose": "2"}, "Use -60 to 60"),
        ({"cluster_ratio": 1.1}, "Use 0 to 1"),
        ({"seed": -1}, "seed -1"),
        ({"seed": 1.5}, "seed 1.5"),
        ({"k_step": 0, "diffusion": True}, "k step 0"),
        ({"k_step": 2000, "diffusion": True}, "least noisy steps"),
        ({"diffusion": {"speedup": 0}}, "speedup"),
        ({"diffusion": {"speedup": 10**9}}, "speedup"),
        ({"diffusion": {"speedup": "fast"}}, "speedup"),
        ({"diffusion": 5}, "'shallow' or 'only'"),
        ({"diffusion": {"k_step": 20, "speedup": 50}}, "no step to take"),
        ({"clip_s": -1}, "Use 0 to 86400"),
        ({"padding_s": 1e9}, "Use 0 to 60"),
        ({"padding_s": float("inf")}, "Use 0 to 60"),
        ({"clip_s": 0.5, "overlap_s": 0.5}, "shorter overlap"),
        ({"clip_s": "long"}, "clip"),
        ({"padding_s": None}, "padding"),
        ({"fade_share": 0}, "0.75"),
        ({"slice_db": 3}, "slice db"),
        ({"enhancer_key": 99, "enhance": True}, "enhancer key"),
        ({"diffusion": "only", "auto_f0": True}, "Leave one out"),
    ):
        with pytest.raises(InputError, match=words):
            pipe((song(0.1), RATE), **BASE | options)


def test_upstreams_keywords(pipe: SVCPipeline) -> None:
    given = pipe(
        (song(0.3), RATE), spk="bob", tran=3, f0_predictor="dio", cluster_infer_ratio=0.5, noice_scale=0.2,
        slice_db=-30, pad_seconds=0.1, clip_seconds=0.2, lg_num=0.05, lgr_num=0.5, loudness_envelope_adjustment=0.5,
        cr_threshold=0.1, auto_predict_f0=False, shallow_diffusion=True, k_step=20, second_encoding=True,
    )  # fmt: skip
    own = pipe(
        (song(0.3), RATE), speaker="bob", transpose=3, f0="dio", cluster_ratio=0.5, noise_scale=0.2, slice_db=-30,
        padding_s=0.1, clip_s=0.2, overlap_s=0.05, fade_share=0.5, loudness_share=0.5, f0_threshold=0.1,
        diffusion={"k_step": 20, "second_encoding": True},
    )  # fmt: skip
    assert np.array_equal(given, own)


CHANGING = {
    "transpose": {"transpose": 3},
    "auto f0": {"auto_f0": True},
    "clusters": {"cluster_ratio": 0.7},
    "retrieval": {"cluster_ratio": 0.7, "retrieval": True},
    "noise": {"noise_scale": 1.0},
    "loudness": {"loudness_share": 0.2},
    "shallow": {"diffusion": "shallow", "k_step": 20},
    "shallow as a flag": {"diffusion": True},
    "second encoding": {"diffusion": {"k_step": 20, "second_encoding": True}},
    "only": {"diffusion": {"kind": "only", "speedup": 100}},
    "both kinds": {"shallow_diffusion": True, "only_diffusion": True, "speedup": 100},
    "enhancer": {"enhance": True},
    "enhancer, lower": {"enhance": True, "enhancer_key": 4},
}


def test_every_option_changes_the_sound(pipe: SVCPipeline) -> None:
    made = {"plain": pipe((song(0.3), RATE), **BASE)}
    for name, options in CHANGING.items():
        made[name] = pipe((song(0.3), RATE), **BASE | options)
        assert made[name].shape == made["plain"].shape
        assert np.isfinite(made[name]).all()
    same = [(a, b) for a in made for b in made if a < b and np.array_equal(made[a], made[b])]
    assert same == [("both kinds", "only")]


def test_the_enhancer_yields_to_diffusion(pipe: SVCPipeline) -> None:
    both, alone = (
        pipe((song(0.2), RATE), **BASE, diffusion=SHALLOW, enhance=on, enhancer_key=4) for on in (True, False)
    )
    assert np.array_equal(both, alone)
    assert pipe.last is not None and "enhancer" not in {stage.name for stage in pipe.last.stages}


def test_the_enhancer_keeps_the_rate_of_the_voice(pipe: SVCPipeline) -> None:
    """A vocoder of 44.1 kHz does not slow down a voice of 32 kHz."""
    sung = Sung(song(1.0, 32000)[None], np.full((1, 62), 220, np.float32))
    made = pipe.model.enhancer.enhanced(sung, 32000, HOP, Conversion(), Chance(0, (0,)))
    assert abs(made.shape[1] - 32000) <= HOP


@pytest.mark.parametrize("sampler", [name for name, _ in samplers])
def test_samplers(sampler: str, pipe: SVCPipeline) -> None:
    asked = {"sampler": sampler, "k_step": 20, "speedup": 5}
    made, again = (pipe((song(0.2), RATE), **BASE, diffusion=asked) for _ in range(2))
    assert np.isfinite(made).all() and np.abs(made).max() > 0
    assert np.array_equal(made, again)


def test_a_voice_without_a_pitch_of_its_own(tmp_path: Path) -> None:
    from tests.test_svc_synthesizer import config_of, stored, write_voice
    from trt_svc.svc.voice_model import load_voice

    name = "noauto_resblock2"
    write_voice(tmp_path, stored(name), config_of(name))
    channels = load_voice(tmp_path).unit_channels
    heard = NeverHeard()
    pipe = opened(tmp_path, encoder=lambda wave: heard(wave)[:, :channels])
    with pytest.raises(InputError, match=r"(?i)f0"):
        pipe((song(0.2), RATE), f0="dio", speaker=0, auto_f0=True)
    assert heard.calls == 0
    assert np.isfinite(pipe((song(0.2), RATE), f0="dio", speaker=0)).all()


@pytest.mark.parametrize(
    ("made", "error"),
    [
        (np.zeros((1, 255, 20), np.float32), WeightsMismatch),
        (np.zeros((1, 256, 0), np.float32), WeightsMismatch),
        (np.zeros((2, 256, 20), np.float32), WeightsMismatch),
        (np.full((1, 256, 20), np.nan, np.float32), TrtSvcError),
        ("units", TrtSvcError),
        (None, TrtSvcError),
    ],
)
def test_an_encoder_that_gives_something_else(made: Any, error: type[Exception], model: Path) -> None:
    with pytest.raises(error):
        opened(model, encoder=lambda wave: made)((song(0.2), RATE), **BASE)


# Files.


@pytest.mark.parametrize("name", ["made.wav", "made.flac", "made.ogg", "made.mp3", "我的 歌 🎤.FLAC", "a b/c 'd'.wav"])
def test_files_of_every_kind(name: str, tmp_path: Path, pipe: SVCPipeline) -> None:
    source, output = tmp_path / "源 🎵.flac", tmp_path / name
    soundfile.write(source, song(0.3, 48000), 48000)
    told = pipe.convert_file(source, output, Conversion.of(**BASE))
    assert told.output == output and told.sample_rate == RATE
    assert told.audio_s == pytest.approx(0.3)
    made, rate = soundfile.read(output)
    expected = pipe(source, **BASE)
    assert rate == RATE
    if output.suffix.lower() in (".wav", ".flac"):
        np.testing.assert_allclose(made, expected, atol=2**-22)
    else:
        # What is high falls away, and untrained weights make little else.
        assert len(made) == len(expected)
        assert difference(*(resample(x.astype(np.float32), RATE, 8000) for x in (made, expected))).snr_db > 10


def test_the_recording_itself_is_never_overwritten(tmp_path: Path, pipe: SVCPipeline) -> None:
    source = tmp_path / "song.wav"
    soundfile.write(source, song(0.2), RATE)
    kept = source.read_bytes()
    (tmp_path / "link.wav").symlink_to(source)
    (tmp_path / "hard.wav").hardlink_to(source)
    for output in (source, tmp_path / "x/../song.wav", tmp_path / "link.wav", tmp_path / "hard.wav"):
        (tmp_path / "x").mkdir(exist_ok=True)
        with pytest.raises(InputError, match="the recording itself"):
            pipe.convert_file(source, output, Conversion.of(**BASE))
    assert source.read_bytes() == kept
    with pytest.raises(AudioFileError, match="no known format"):
        pipe.convert_file(source, tmp_path / "song.aiff", Conversion.of(**BASE))


class FailsAt:
    """An encoder that fails at a call."""

    def __init__(self, call: int, error: BaseException) -> None:
        self._left, self._error = call, error

    def __call__(self, wave: np.ndarray) -> np.ndarray:
        self._left -= 1
        if self._left == -1:
            raise self._error
        return stand_in_encoder(wave)


@pytest.mark.parametrize("error", [RuntimeError("no"), MemoryError(), InputError("a", "b.", "C."), KeyboardInterrupt()])
@pytest.mark.parametrize("call", [0, 2])
def test_a_failure_half_way_leaves_nothing(error: BaseException, call: int, tmp_path: Path, model: Path) -> None:
    pipe, output = opened(model, encoder=FailsAt(call, error)), tmp_path / "out" / "made.flac"
    output.parent.mkdir()
    output.write_bytes(b"an older one")
    source = tmp_path / "song.wav"
    soundfile.write(source, song(1.0), RATE)
    before = set(threading.enumerate())
    with pytest.raises(type(error)):
        pipe.convert_file(source, output, Conversion.of(**BASE, clip_s=0.2))
    assert {path.name: path.read_bytes() for path in output.parent.iterdir()} == {"made.flac": b"an older one"}
    assert not [new for new in set(threading.enumerate()) - before if new.name.startswith("ThreadPool")]
    # Nor is the pipeline spoilt.
    assert np.array_equal(pipe((song(0.2), RATE), **BASE), opened(model)((song(0.2), RATE), **BASE))


class StopsAt(Quiet):
    """Notes what it is told, and stops."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self.told: list[tuple[int, int]] = []
        self.stages: list[str] = []
        self._at = step

    def stage(self, name: str) -> None:
        self.stages.append(name)

    def step(self, done: int, total: int) -> None:
        self.told.append((done, total))
        if done == self._at:
            self.cancel()


def test_progress_and_stopping(tmp_path: Path, pipe: SVCPipeline) -> None:
    source, output = tmp_path / "song.wav", tmp_path / "out" / "made.flac"
    soundfile.write(source, song(1.0), RATE)
    options = Conversion.of(**BASE, clip_s=0.2)
    progress = StopsAt(-1)
    pipe.convert_file(source, output, options, progress)
    assert progress.told == [(n, 5) for n in range(6)]
    assert progress.stages
    whole = output.read_bytes()
    for step in (0, 3):
        with pytest.raises(BuildCancelled):
            pipe.convert_file(source, output, options, StopsAt(step))
        assert {path.name: path.read_bytes() for path in output.parent.iterdir()} == {"made.flac": whole}
    pipe.convert_file(source, output, options)
    assert output.read_bytes() == whole


def test_songs_from_several_threads(pipe: SVCPipeline) -> None:
    expected = {seed: pipe((song(0.2), RATE), **BASE, seed=seed) for seed in range(3)}
    made: dict[int, np.ndarray] = {}
    threads = [
        threading.Thread(target=lambda seed=seed: made.update({seed: pipe((song(0.2), RATE), **BASE, seed=seed)}))
        for seed in expected
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(made[seed], expected[seed]) for seed in expected)


def test_what_is_told_of_a_song(pipe: SVCPipeline) -> None:
    pipe((song(0.5), RATE), **BASE, clip_s=0.25, diffusion=SHALLOW, cluster_ratio=0.5)
    told = pipe.last
    assert told is not None and told.output is None
    assert told.slices == 2 and told.audio_s == pytest.approx(0.5)
    calls = {stage.name: stage.calls for stage in told.stages}
    assert calls["voice encoder"] == calls["flow"] == calls["decoder"] == calls["content encoder"] == 2
    assert calls["slicing"] == 1
    assert all(stage.seconds >= 0 for stage in told.stages)
    assert told.as_dict()["rtf"] == pytest.approx(told.seconds / 0.5)
    backend = {stage.name: stage.backend for stage in told.stages}
    assert backend["decoder"] == backend["flow"] == backend["diffusion"] == "torch fp32"
    assert backend["slicing"] == ""


def test_torch_takes_every_network_to_its_device(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(model, tmp_path / "m")
    fairseq_file(tmp_path / "m/pretrain/checkpoint_best_legacy_500.pt", layers=9, units=256)
    options = BASE | {"speaker": MIX, "auto_f0": True, "diffusion": SHALLOW}
    expected = SVCPipeline.from_pretrained(tmp_path / "m")((song(0.3), RATE), **options)
    placed: list[str] = []
    place = running._on_device
    monkeypatch.setattr(running, "chosen_device", lambda asked: "cpu:0")  # in the place of a GPU
    monkeypatch.setattr(running, "_on_device", lambda stage, on: placed.append(stage.name) or place(stage, on))
    there = SVCPipeline.from_pretrained(tmp_path / "m")
    made = there((song(0.3), RATE), **options)
    assert set(placed) == {"content encoder", "voice encoder", "voice pitch of a mix", "flow of a mix"}
    assert difference(made, expected).snr_db > 100
    monkeypatch.setattr(running, "chosen_device", lambda asked: "meta")
    diffusion = SVCPipeline.from_pretrained(tmp_path / "m").model.diffusion
    assert {weights.device.type for weights in diffusion.model.net.parameters()} == {"meta"}


# Models and files that do not fit.


def test_shallow_diffusion_of_another_voice(tmp_path: Path, model: Path) -> None:
    shutil.copytree(model, tmp_path / "m")
    path = tmp_path / "m/logs/44k/diffusion/config.yaml"
    plain = path.read_text()
    for old, new, words in (
        ("encoder: vec256l9", "encoder: vec768l12", "content encoder"),
        ("sampling_rate: 44100", "sampling_rate: 48000", "sample rate"),
        ("block_size: 512", "block_size: 256", "hop"),
    ):
        path.write_text(plain.replace(old, new))
        heard = NeverHeard()
        with pytest.raises(ConfigError, match=words):
            opened(tmp_path / "m", encoder=heard)((song(0.2), RATE), **BASE, diffusion="shallow")
        assert heard.calls == 0


def test_a_recording_that_is_cut_short_between_its_two_readings(tmp_path: Path, pipe: SVCPipeline) -> None:
    source = tmp_path / "song.wav"
    soundfile.write(source, song(1.0), RATE)

    class Shortens(Quiet):
        def stage(self, name: str) -> None:
            soundfile.write(source, song(0.3), RATE)

    with pytest.raises(AudioFileError, match="fewer now"):
        pipe.convert_file(source, tmp_path / "made.wav", Conversion.of(**BASE), Shortens())
    assert {path.name for path in tmp_path.iterdir() if path.is_file()} == {"song.wav"}


# Engines.


Engines = Callable[..., np.ndarray]


@pytest.fixture(scope="module", params=["onnxruntime", "openvino"])
def engines(request: pytest.FixtureRequest, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A pipeline whose engines are built once for all tests."""
    if not backends.get(request.param)().probe().runs:
        pytest.skip(f"{request.param} is not here")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(DIRECTORY_VARIABLE, str(tmp_path_factory.mktemp("engines")))
        yield request.param, opened(model, backend=request.param, device="cpu")


THROUGH = {
    "plain": {},
    "a mix": {"speaker": MIX},
    "in clips": {"clip_s": 0.2, "overlap_s": 0.05},
    "auto f0": {"auto_f0": True},
    "auto f0 of a mix": {"speaker": MIX, "auto_f0": True},
    "clusters": {"cluster_ratio": 0.4},
    "retrieval": {"cluster_ratio": 0.4, "retrieval": True},
    "shallow": {"diffusion": {"k_step": 20}},
    "second encoding": {"diffusion": {"k_step": 20, "second_encoding": True}, "loudness_share": 0.3},
    "only": {"diffusion": {"kind": "only", "speedup": 200}},
    "enhancer": {"enhance": True, "enhancer_key": 2},
}


@pytest.mark.parametrize("case", THROUGH)
def test_engines_sound_like_torch(case: str, engines: Any, pipe: SVCPipeline) -> None:
    _, engine = engines
    options = BASE | THROUGH[case]
    made, expected = (one((song(0.4), RATE), **options) for one in (engine, pipe))
    assert difference(made, expected).snr_db >= 80
    assert not any(stage.note for stage in engine.last.stages)


def test_engines_are_told_with_their_quality(engines: Any) -> None:
    backend, engine = engines
    engine((song(0.2), RATE), **BASE, cluster_ratio=0.4, auto_f0=True, diffusion=SHALLOW)
    told = {stage.name: stage for stage in engine.last.stages}
    neural = {"voice encoder", "voice pitch", "flow", "decoder", "cluster mixing", "diffusion", "vocoder"}
    assert neural <= set(told)
    for name in neural:
        assert told[name].backend == f"{backend} fp32", name
        assert told[name].quality_db is not None and told[name].quality_db > 80, name
    assert told["resampling"].backend == "" and told["resampling"].quality_db is None
    engine((song(0.2), RATE), **BASE | {"speaker": MIX, "auto_f0": True})
    told = {stage.name: stage for stage in engine.last.stages}
    for name in ("voice pitch of a mix", "flow of a mix"):
        assert told[name].backend == f"{backend} fp32", name


# Files that want to run code.


def attack(file: Path, kind: str, mark: Path) -> None:
    """A file in the usual wrapping of its kind that creates `mark` when it is unpickled."""
    call = Calls(open, str(mark), "w")
    if kind == "torch":
        torch.save({"model": {"x": call}, "generator": {"x": call}, "config": call, "alice": call}, file)
    elif kind == "torch before 1.6":
        torch.save({"model": call, "generator": call}, file, _use_new_zipfile_serialization=False)
    else:
        file.write_bytes(pickle.dumps({1: call, 0: call}))


HOSTILE = {
    "voice": ("logs/44k/G_0.pth", {}),
    "clusters": ("logs/44k/kmeans_10000.pt", {"cluster_ratio": 0.5}),
    "feature index": ("logs/44k/feature_and_index.pkl", {"cluster_ratio": 0.5, "retrieval": True}),
    "diffusion": ("logs/44k/diffusion/model_0.pt", {"diffusion": "shallow"}),
    "diffusion alone": ("logs/44k/diffusion/model_0.pt", {"diffusion": "only"}),
    "vocoder": ("pretrain/nsf_hifigan/model", {"diffusion": "shallow"}),
    "vocoder of the enhancer": ("pretrain/nsf_hifigan/model", {"enhance": True}),
    "encoder": ("pretrain/checkpoint_best_legacy_500.pt", {}),
    "rmvpe": ("pretrain/rmvpe.pt", {"f0": "rmvpe"}),
    "fcpe": ("pretrain/fcpe.pt", {"f0": "fcpe"}),
    "crepe": ("pretrain/crepe_full.pth", {"f0": "crepe"}),
}


WRAPPINGS = ("torch", "torch before 1.6", "pickle")


@pytest.mark.parametrize(
    ("part", "kind"),
    [(part, kind) for part in HOSTILE for kind in (("pickle",) if part == "feature index" else WRAPPINGS)],
)
def test_files_that_want_to_run_code(part: str, kind: str, tmp_path: Path, model: Path) -> None:
    file, options = HOSTILE[part]
    shutil.copytree(model, tmp_path / "m")
    mark, output = tmp_path / "executed", tmp_path / "out" / "made.wav"
    attack(tmp_path / "m" / file, kind, mark)
    heard = NeverHeard()
    encoder = {} if part == "encoder" else {"encoder": heard}
    with pytest.raises(UnsafeCheckpoint, match="open"):
        SVCPipeline.from_pretrained(tmp_path / "m", **encoder).convert_file(
            FOLDER / "e2e/in32.wav", output, Conversion.of(**BASE | options)
        )
    assert not mark.exists()
    assert heard.calls == 0
    assert not output.exists()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
@pytest.mark.parametrize("kind", WRAPPINGS)
def test_the_attack_works_on_who_trusts_it(kind: str, tmp_path: Path) -> None:
    attack(tmp_path / "file", kind, tmp_path / "executed")
    if kind == "pickle":
        pickle.loads((tmp_path / "file").read_bytes())
    else:
        torch.load(tmp_path / "file", weights_only=False)
    assert (tmp_path / "executed").exists()


@pytest.mark.parametrize("tag", ["os.system", "subprocess.getoutput"])
def test_configs_that_want_to_run_code(tag: str, tmp_path: Path, model: Path) -> None:
    mark = tmp_path / "executed"
    call = f"!!python/object/apply:{tag} ['touch {mark}']"
    for file, options in (("logs/44k/diffusion/config.yaml", {"diffusion": "shallow"}), ("logs/44k/config.json", {})):
        shutil.copytree(model, tmp_path / "m", dirs_exist_ok=True)
        (tmp_path / "m" / file).write_text(f"model: {call}\ndata: {call}\n")
        with pytest.raises(TrtSvcError) as caught:
            opened(tmp_path / "m")((song(0.2), RATE), **BASE | options)
        assert not mark.exists()
        assert Path(file).name in str(caught.value)
