"""Recordings of any length: what is made block by block equals what is made in one go, and memory stays bounded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import trt_svc
from tests.golden import SUBSET, GoldenNet, upstream_checkpoint
from trt_svc import audio_blocks, copysynthesis
from trt_svc.audio import read_audio, resample, write_audio
from trt_svc.audio_blocks import Recording, Resampler, recording_written
from trt_svc.checkpoints.locate import DEMO_FOLDER
from trt_svc.cli.main import app
from trt_svc.config import MelSpec
from trt_svc.copysynthesis import in_equal_blocks, vocode, vocode_file
from trt_svc.errors import AudioFileError, InputError
from trt_svc.features.f0 import blocks as pitch_blocks
from trt_svc.features.f0.base import PitchTrack, f0_estimators
from trt_svc.features.f0.blocks import PitchBlocks
from trt_svc.features.mel import log_mel
from trt_svc.features.mel_blocks import MelBlocks
from trt_svc.progress import Quiet

cuts = st.lists(st.integers(0, 700), min_size=1, max_size=8)


def pieces(audio: np.ndarray, sizes: list[int]) -> Iterator[np.ndarray]:
    """Blocks of these sizes, over and over; empty ones too."""
    start = 0
    while start < audio.shape[1]:
        for size in [*sizes, 97]:
            yield audio[:, start : start + size]
            start += size


def noise(channels: int, samples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.1, (channels, samples)).astype(np.float32)


def nothing(channels: int) -> np.ndarray:
    return np.zeros((channels, 0), np.float32)


# Mel.


@settings(max_examples=150, deadline=None)
@given(
    padding=st.sampled_from(["hifigan", "nvstft", "centered"]),
    sizes=st.sampled_from([(64, 64, 16), (64, 48, 16), (63, 50, 17), (40, 24, 40), (16, 16, 24), (128, 100, 10)]),
    key=st.sampled_from([0.0, -36.0, -12.5, -3.0, 5.0, 12.0, 36.0]),
    samples=st.one_of(st.integers(1, 300), st.integers(300, 6000)),
    cut=cuts,
)
def test_mel_in_blocks_is_the_mel_of_the_whole(
    padding: Any, sizes: tuple[int, int, int], key: float, samples: int, cut: list[int]
) -> None:
    spec = MelSpec(16000, *sizes, 8, 40, 8000, padding=padding)
    audio = noise(2, samples)
    whole = log_mel(audio, spec, key)
    mels = MelBlocks(spec, key)
    parts = [mels.push(piece) for piece in pieces(audio, cut)]
    made = np.concatenate([*parts, mels.push(nothing(2), last=True)], axis=2)
    assert made.shape == whole.shape
    assert np.abs(made - whole).max() <= 1e-5


def test_mel_holds_little_back_and_little_in_memory() -> None:
    spec = MelSpec(44100, 2048, 2048, 512, 128, 40, 16000)
    mels = MelBlocks(spec)
    given_frames = 0
    for second in range(1, 6):
        given_frames += mels.push(noise(1, 44100)).shape[2]
        assert given_frames >= (second * 44100 - 2048) // 512
        assert mels._held is not None
        assert mels._held.shape[1] < 4 * 2048


@pytest.mark.parametrize("lengths", [[], [0, 0], [3, 0, 9, 1], [40], [7, 7, 7]])
def test_mels_are_regrouped(lengths: list[int]) -> None:
    mels = [noise(2, 3 * t, t).reshape(2, 3, t) for t in lengths]
    made = list(in_equal_blocks(iter(mels), 7))
    assert [mel.shape[2] for mel in made[:-1]] == [7] * (len(made) - 1)
    assert all(mel.shape[2] < 7 for mel in made[-1:])
    if lengths:
        assert np.array_equal(np.concatenate(made, axis=2), np.concatenate(mels, axis=2))


def test_mel_of_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="at least one sample"):
        MelBlocks(MelSpec(16000, 64, 64, 16, 8, 40, 8000)).push(nothing(1), last=True)


# Resampling.


@settings(max_examples=60, deadline=None)
@given(
    rates=st.sampled_from(
        [(48000, 44100), (44100, 16000), (16000, 44100), (44100, 44101), (8000, 8000), (96000, 22050)]
    ),
    samples=st.integers(1, 20000),
    cut=cuts,
)
def test_resampling_in_blocks_is_resampling_the_whole(rates: tuple[int, int], samples: int, cut: list[int]) -> None:
    audio = noise(2, samples)
    stream = Resampler(*rates, 2)
    parts = [stream.push(piece) for piece in pieces(audio, cut)]
    made = np.concatenate([*parts, stream.push(nothing(2), last=True)], axis=1)
    whole = resample(audio, *rates)
    assert made.shape == whole.shape == (2, -(-samples * rates[1] // rates[0]))
    assert np.abs(made - whole).max() <= 1e-6


# Files.


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
@pytest.mark.parametrize("channels", [1, 2])
def test_reading_and_writing_in_blocks(tmp_path: Path, suffix: str, channels: int) -> None:
    audio = noise(channels, 100_000)
    whole, parts = tmp_path / f"whole.{suffix}", tmp_path / f"parts.{suffix}"
    write_audio(whole, audio, 44100)
    with recording_written(parts, 44100, channels, audio.shape[1]) as writer:
        for piece in pieces(audio, [0, 1, 30_000, 441]):
            writer.write(piece)
    expected, rate = read_audio(whole)
    for path, size in ((parts, 1 << 20), (whole, 4097), (whole, 30_001)):
        recording = Recording(path)
        assert (recording.sample_rate, recording.channels) == (rate, channels)
        made = list(recording.blocks(size))
        assert max(block.shape[1] for block in made) <= size
        made_whole = np.concatenate(made, axis=1)
        assert made_whole.shape == expected.shape
        assert np.abs(made_whole - expected).max() <= 1e-6


def test_mp3_at_a_rate_that_it_does_not_have(tmp_path: Path) -> None:
    with recording_written(tmp_path / "x.mp3", 40000, 1, 40000) as writer:
        for piece in pieces(noise(1, 40000), [3001]):
            writer.write(piece)
    info = soundfile.info(tmp_path / "x.mp3")
    assert (info.samplerate, info.frames) == (44100, 44100)


def test_a_long_wav_gets_64_bit_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audio_blocks, "WAV_BYTES", 3 * 2 * 1000)
    audio = noise(2, 1001)
    for samples, form in ((1000, "WAV"), (1001, "RF64")):
        write_audio(tmp_path / "x.wav", audio[:, :samples], 44100)
        assert soundfile.info(tmp_path / "x.wav").format == form
        assert np.abs(read_audio(tmp_path / "x.wav")[0] - audio[:, :samples]).max() < 1e-6
    write_audio(tmp_path / "x.flac", audio, 44100)
    assert soundfile.info(tmp_path / "x.flac").format == "FLAC"


def test_a_fault_far_inside_a_recording_is_found(tmp_path: Path) -> None:
    audio = noise(1, 50_000)[0]
    audio[40_000] = np.nan
    soundfile.write(tmp_path / "x.wav", audio, 44100, subtype="FLOAT")
    blocks = Recording(tmp_path / "x.wav").blocks(10_000)
    with pytest.raises(AudioFileError, match="NaN"):
        list(blocks)
    with pytest.raises(AudioFileError, match="NaN"):
        read_audio(tmp_path / "x.wav")


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, suffix: str) -> None:
    resource = pytest.importorskip("resource")
    path = tmp_path / f"x.{suffix}"
    path.write_bytes(b"precious")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(AudioFileError, match="it failed"):
            write_audio(path, noise(2, 44100 * 10), 44100)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == b"precious"
    assert list(tmp_path.iterdir()) == [path]


# Pitch.

RATE = 1000


class LevelAsPitch:
    """A stand-in whose pitch is the level around each frame, unvoiced where it is low; notes what it is given."""

    def __init__(self, spacing_s: float = 0.01) -> None:
        self.spacing_s = spacing_s
        self.lengths: list[int] = []

    def __call__(self, audio: np.ndarray, sample_rate: int) -> PitchTrack:
        self.lengths.append(len(audio))
        level = np.convolve(np.abs(audio), np.ones(101) / 101, mode="same")
        times = np.arange(int(len(audio) / sample_rate / self.spacing_s)) * self.spacing_s
        f0 = 100 + 1000 * level[np.round(times * sample_rate).astype(int)]
        return PitchTrack(times, np.where(f0 < 175, 0.0, f0))


def joined(estimate: Any, audio: np.ndarray, rate: int, sizes: list[int]) -> list[PitchTrack]:
    pitch = PitchBlocks(estimate, rate)
    for piece in pieces(audio, sizes):
        pitch.push(piece)
    return pitch.finish()


@settings(max_examples=25, deadline=None)
@given(
    seconds=st.sampled_from([0.05, 89.99, 90.0, 90.001, 150.0, 150.001, 217.3]),
    sizes=st.lists(st.integers(0, 100_000), min_size=1, max_size=4),
)
def test_pitch_in_blocks_does_not_depend_on_the_cuts(seconds: float, sizes: list[int]) -> None:
    audio = noise(2, round(seconds * RATE))
    audio *= 1 + np.sin(np.arange(audio.shape[1]) / 5000, dtype=np.float32)
    estimate = LevelAsPitch()
    made = joined(estimate, audio, RATE, sizes)
    assert max(estimate.lengths) <= (pitch_blocks.WHOLE_S + pitch_blocks.OVERLAP_S) * RATE
    for channel, track in zip(audio, made, strict=True):
        whole = LevelAsPitch()(channel, RATE)
        assert np.allclose(track.times_s, whole.times_s, atol=1e-6)
        assert np.allclose(track.f0_hz, whole.f0_hz, rtol=1e-6)


def test_short_recordings_are_estimated_in_one_go() -> None:
    estimate = LevelAsPitch()
    joined(estimate, noise(1, 90 * RATE), RATE, [777])
    assert estimate.lengths == [90 * RATE]


@pytest.mark.parametrize("spacing_s", [0.0113, 512 / 44100, 0.016])
def test_tracks_of_any_spacing_are_joined_evenly(spacing_s: float) -> None:
    audio = noise(1, 400 * RATE)
    audio *= 1 + np.sin(np.arange(audio.shape[1]) / 5000, dtype=np.float32)
    (track,) = joined(LevelAsPitch(spacing_s), audio, RATE, [10_000])
    whole = LevelAsPitch(spacing_s)(audio[0], RATE)
    assert abs(len(track.times_s) - len(whole.times_s)) <= 1
    assert np.allclose(np.diff(track.times_s), spacing_s, rtol=1e-6)
    frames = (400 * RATE - RATE) // 10
    made, expected = (t.at_frames(frames, 10, RATE) for t in (track, whole))
    voiced = (made > 0) & (expected > 0)
    assert np.mean((made > 0) == (expected > 0)) > 0.98
    assert np.abs(made[voiced] / expected[voiced] - 1).max() < 0.1


@pytest.mark.parametrize("method", ["swift-f0", "dio"])
def test_pitch_of_a_long_song_is_that_of_the_whole(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("WHOLE_S", 24.0), ("BLOCK_S", 16.0)):
        monkeypatch.setattr(pitch_blocks, name, seconds)
    clip = resample(read_audio(DEMO_FOLDER / "sung.flac")[0], 44100, 16000)
    music = np.tile(clip, (1, 8)) + noise(1, clip.shape[1] * 8) * 1e-3
    estimate = f0_estimators.get(method)()
    (track,) = joined(estimate, music, 16000, [160_000])
    whole = estimate(music[0], 16000)
    assert np.allclose(track.times_s, whole.times_s, atol=1e-6)
    assert np.mean(np.abs(track.f0_hz - whole.f0_hz) > 1e-3 * whole.f0_hz) < 0.001


# From file to file.


@pytest.fixture(scope="module")
def voices(tmp_path_factory: pytest.TempPathFactory) -> dict[str, trt_svc.Vocoder]:
    """With a source, with a gliding source, without any."""
    found = {}
    for name in ("nsf-openvpi-rb2", "nsf-mini-noise", "hifigan-v3"):
        net = GoldenNet(name, SUBSET)
        path = upstream_checkpoint(net, tmp_path_factory.mktemp(name))
        found[name] = trt_svc.load_vocoder(path, source=net.source)
    return found


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of a second, and of two for the pitch."""
    monkeypatch.setattr(copysynthesis, "SECONDS_PER_BLOCK", 1)
    for name, seconds in (("WHOLE_S", 3.0), ("BLOCK_S", 2.0), ("OVERLAP_S", 0.4)):
        monkeypatch.setattr(pitch_blocks, name, seconds)


def song(rate: int, seconds: float, channels: int = 1) -> np.ndarray:
    """Harmonics of a wavering 200 Hz, a silence now and then; the channels differ."""
    t = np.arange(round(rate * seconds)) / rate
    phase = 2 * np.pi * np.cumsum(200 + 20 * np.sin(3 * t)) / rate
    tone = sum(np.sin(h * phase) / h for h in range(1, 8)) * 0.1 * (np.sin(4 * t) > -0.8)
    return np.stack([tone * (1 - 0.3 * c) for c in range(channels)]).astype(np.float32)


@pytest.mark.parametrize("name", ["nsf-openvpi-rb2", "nsf-mini-noise", "hifigan-v3"])
@pytest.mark.parametrize(("rate", "channels", "key", "f0"), [(44100, 2, 3.0, "230"), (8000, 1, -5.0, "file")])
@pytest.mark.usefixtures("small_blocks")
def test_a_file_in_blocks_is_the_recording_in_one_go(
    voices: dict[str, trt_svc.Vocoder], tmp_path: Path, name: str, rate: int, channels: int, key: float, f0: str
) -> None:
    vocoder = voices[name]
    if f0 == "file":
        f0 = str(tmp_path / "f0.npy")
        np.save(f0, np.where(np.arange(700) % 50 < 40, 150 + np.arange(700) / 10, 0))
    soundfile.write(tmp_path / "in.wav", song(rate, 3.21, channels).T, rate, subtype="FLOAT")
    audio, _ = read_audio(tmp_path / "in.wav")
    expected = vocode(vocoder, audio, rate, key, f0, seed=5)
    report = vocode_file(vocoder, tmp_path / "in.wav", tmp_path / "out.wav", key, f0, seed=5)
    made, made_rate = read_audio(tmp_path / "out.wav")
    assert made_rate == report.sample_rate == vocoder.spec.sample_rate
    assert made.shape == expected.shape == (channels, round(audio.shape[1] * made_rate / rate))
    assert np.abs(made - expected.clip(-1, 1)).max() <= 1e-5
    assert report.audio_s == pytest.approx(3.21, abs=1e-3)
    assert report.vocoder_s > 0
    assert report.analysis_s > 0


def test_estimated_pitch_of_a_short_file_is_that_of_one_go(voices: dict[str, trt_svc.Vocoder], tmp_path: Path) -> None:
    vocoder = voices["nsf-openvpi-rb2"]
    soundfile.write(tmp_path / "in.flac", song(16000, 2.5, 2).T, 16000, subtype="PCM_24")
    audio, rate = read_audio(tmp_path / "in.flac")
    vocode_file(vocoder, tmp_path / "in.flac", tmp_path / "out.wav")
    made, _ = read_audio(tmp_path / "out.wav")
    assert np.abs(made - vocode(vocoder, audio, rate).clip(-1, 1)).max() <= 1e-5


@pytest.mark.usefixtures("small_blocks")
def test_the_pitch_of_a_long_file_is_estimated_in_blocks(
    voices: dict[str, trt_svc.Vocoder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    estimate = LevelAsPitch()
    monkeypatch.setattr(copysynthesis.f0_estimators, "get", lambda name: lambda: estimate)
    soundfile.write(tmp_path / "in.wav", song(16000, 9.0, 2).T, 16000, subtype="FLOAT")
    vocode_file(voices["nsf-openvpi-rb2"], tmp_path / "in.wav", tmp_path / "out.wav")
    assert len(estimate.lengths) == 2 * 4
    assert max(estimate.lengths) <= 3.4 * 16000
    blocks, _ = read_audio(tmp_path / "out.wav")
    whole = vocode(voices["nsf-openvpi-rb2"], read_audio(tmp_path / "in.wav")[0], 16000)
    assert np.abs(blocks - whole.clip(-1, 1)).max() <= 1e-5


@pytest.mark.usefixtures("small_blocks")
def test_more_than_two_channels_become_one(voices: dict[str, trt_svc.Vocoder], tmp_path: Path) -> None:
    soundfile.write(tmp_path / "in.wav", song(16000, 2.0, 3).T, 16000, subtype="FLOAT")
    report = vocode_file(voices["hifigan-v3"], tmp_path / "in.wav", tmp_path / "out.wav")
    assert report.channels == 1
    mixed = read_audio(tmp_path / "in.wav")[0].mean(axis=0)[None]
    expected = vocode(voices["hifigan-v3"], mixed, 16000)
    assert np.abs(read_audio(tmp_path / "out.wav")[0] - expected.clip(-1, 1)).max() <= 1e-5


class Watcher(Quiet):
    """Notes what it is told; does something when a stage begins."""

    def __init__(self, on_stage: Any = lambda name: None) -> None:
        super().__init__()
        self.stages: list[str] = []
        self.steps: list[tuple[str, int, int]] = []
        self._on_stage = on_stage

    def stage(self, name: str) -> None:
        self.stages.append(name)
        self._on_stage(name)

    def step(self, done: int, total: int) -> None:
        self.steps.append((self.stages[-1], done, total))


@pytest.mark.usefixtures("small_blocks")
def test_progress_is_told_in_seconds_of_audio(voices: dict[str, trt_svc.Vocoder], tmp_path: Path) -> None:
    soundfile.write(tmp_path / "in.wav", song(16000, 4.0).T, 16000)
    watcher = Watcher()
    vocode_file(voices["nsf-openvpi-rb2"], tmp_path / "in.wav", tmp_path / "out.wav", f0="220", progress=watcher)
    assert watcher.stages == ["reading", "vocoder"]
    for stage in watcher.stages:
        done = [d for name, d, total in watcher.steps if name == stage and total == 4]
        assert done == sorted(done)
        assert len(done) >= 4
        assert done[-1] == 4


def test_the_command_shows_what_it_is_doing(tmp_path: Path) -> None:
    model = upstream_checkpoint(GoldenNet("nsf-openvpi-rb2", SUBSET), tmp_path / "model")
    soundfile.write(tmp_path / "in.wav", song(16000, 1.0).T, 16000)
    words = ["vocode", str(tmp_path / "in.wav"), "-o", str(tmp_path / "out.wav"), "-m", str(model), "--f0", "220"]
    shown, as_json = (CliRunner().invoke(app, [*words, *more]) for more in ([], ["--json"]))
    assert shown.exit_code == as_json.exit_code == 0
    for stage in ("loading the vocoder", "reading", "vocoder"):
        assert stage in shown.stderr
    assert as_json.stderr == ""


@pytest.mark.usefixtures("small_blocks")
def test_nothing_grows_with_the_recording(
    voices: dict[str, trt_svc.Vocoder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []
    original = audio_blocks.RecordingWriter.write

    def spy(self: Any, audio: np.ndarray) -> None:
        written.append(audio.shape[1])
        original(self, audio)

    monkeypatch.setattr(audio_blocks.RecordingWriter, "write", spy)
    soundfile.write(tmp_path / "in.wav", song(16000, 12.0).T, 16000)
    vocode_file(voices["nsf-openvpi-rb2"], tmp_path / "in.wav", tmp_path / "out.wav", f0="220")
    assert sum(written) == 12 * 16000
    assert max(written) < 1.5 * 16000


@pytest.mark.parametrize("fault", [RuntimeError, KeyboardInterrupt, ValueError])
@pytest.mark.parametrize("suffix", ["wav", "ogg"])
@pytest.mark.usefixtures("small_blocks")
def test_a_run_that_stops_half_way_leaves_nothing_behind(
    voices: dict[str, trt_svc.Vocoder],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fault: type[BaseException],
    suffix: str,
) -> None:
    soundfile.write(tmp_path / "in.wav", song(16000, 4.0).T, 16000)
    output = tmp_path / f"out.{suffix}"
    output.write_bytes(b"precious")
    seen: list[int] = []
    original = audio_blocks.RecordingWriter.write

    def failing(self: Any, audio: np.ndarray) -> None:
        seen.append(audio.shape[1])
        assert output.read_bytes() == b"precious"
        if len(seen) == 3:
            raise fault("stop")
        original(self, audio)

    monkeypatch.setattr(audio_blocks.RecordingWriter, "write", failing)
    with pytest.raises(fault, match="stop"):
        vocode_file(voices["nsf-openvpi-rb2"], tmp_path / "in.wav", output, f0="220")
    assert len(seen) == 3
    assert output.read_bytes() == b"precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.wav", output.name]


@pytest.mark.parametrize("change", ["longer", "shorter", "another rate"])
@pytest.mark.usefixtures("small_blocks")
def test_a_recording_that_changes_in_between_is_refused(
    voices: dict[str, trt_svc.Vocoder], tmp_path: Path, change: str
) -> None:
    source = tmp_path / "in.wav"
    soundfile.write(source, song(16000, 3.0).T, 16000)

    def rewrite(stage: str) -> None:
        if stage == "vocoder":
            seconds = {"longer": 5.0, "shorter": 1.5, "another rate": 3.0}[change]
            soundfile.write(source, song(16000, seconds).T, 8000 if change == "another rate" else 16000)

    with pytest.raises(AudioFileError, match="changed while it was being read"):
        vocode_file(voices["nsf-openvpi-rb2"], source, tmp_path / "out.wav", f0="220", progress=Watcher(rewrite))
    assert not (tmp_path / "out.wav").exists()


def _cut_short(path: Path) -> None:
    write_audio(path, song(16000, 2.0), 16000)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _words(path: Path) -> None:
    path.write_text("not a recording")


def _empty(path: Path) -> None:
    soundfile.write(path, np.zeros((0, 1)), 44100)


@pytest.mark.parametrize("make", [_words, _empty, Path.mkdir, lambda path: None])
def test_bad_recordings_are_refused_in_the_same_words(
    voices: dict[str, trt_svc.Vocoder], tmp_path: Path, make: Any
) -> None:
    make(tmp_path / "x.wav")
    with pytest.raises(AudioFileError) as in_one_go:
        read_audio(tmp_path / "x.wav")
    with pytest.raises(AudioFileError) as in_blocks:
        vocode_file(voices["hifigan-v3"], tmp_path / "x.wav", tmp_path / "folder" / "y.wav")
    assert str(in_blocks.value) == str(in_one_go.value)
    assert not (tmp_path / "folder" / "y.wav").exists()


@pytest.mark.parametrize("suffix", ["wav", "mp3"])
def test_what_is_left_of_a_damaged_recording_is_used(
    voices: dict[str, trt_svc.Vocoder], tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"x.{suffix}"
    _cut_short(path)
    left = read_audio(path)[0].shape[1]
    report = vocode_file(voices["nsf-openvpi-rb2"], path, tmp_path / "y.wav", f0="220")
    assert 0 < left < 2 * 16000
    assert report.audio_s == pytest.approx(left / 16000, abs=1e-3)
    assert soundfile.info(tmp_path / "y.wav").frames == left
