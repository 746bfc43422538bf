"""Recordings in and out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from trt_svc.audio import mono, read_audio, resample, write_audio
from trt_svc.errors import AudioFileError, InputError, OutputError
from trt_svc.files import replacing


def tone(rate: int, seconds: float = 0.5, hz: float = 440.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hz * np.arange(int(rate * seconds)) / rate)).astype(np.float32)


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("rate", [16000, 44100, 48000])
def test_round_trip(tmp_path: Path, suffix: str, channels: int, rate: int) -> None:
    wave = np.stack([tone(rate, hz=440 * (c + 1)) for c in range(channels)])
    path = write_audio(tmp_path / f"歌声 🎤.{suffix}", wave, rate)
    back, back_rate = read_audio(path)
    assert back_rate == rate
    assert back.shape[0] == channels
    if suffix in ("wav", "flac"):
        assert np.abs(back - wave).max() < 1e-6
    else:
        assert np.abs(np.abs(back).max() - 0.5) < 0.1


@pytest.mark.parametrize(
    ("from_rate", "to_rate"), [(48000, 44100), (16000, 44100), (44100, 16000), (22050, 44100), (96000, 44100)]
)
def test_resample_keeps_pitch_and_length(from_rate: int, to_rate: int) -> None:
    made = resample(tone(from_rate, 1.0), from_rate, to_rate)
    assert made.shape == (to_rate,)
    middle = slice(to_rate // 4, -to_rate // 4)
    assert np.abs(made[middle] - tone(to_rate, 1.0)[middle]).max() < 2e-3
    both = resample(np.stack([tone(from_rate), tone(from_rate)]), from_rate, to_rate)
    assert np.array_equal(both[0], both[1])


def test_mono() -> None:
    assert np.allclose(mono(np.array([[1.0, 0.0], [0.0, 1.0]], np.float32)), 0.5)


def test_24_bit_and_8_bit_and_float_files(tmp_path: Path) -> None:
    for subtype, error in (("PCM_24", 1e-6), ("PCM_U8", 1e-2), ("FLOAT", 1e-7), ("PCM_16", 1e-4)):
        soundfile.write(tmp_path / "x.wav", tone(44100), 44100, subtype=subtype)
        assert np.abs(read_audio(tmp_path / "x.wav")[0][0] - tone(44100)).max() < error


def _text(path: Path) -> None:
    path.write_text("not a wav")


def _nothing(path: Path) -> None:
    soundfile.write(path, np.zeros((0, 1)), 44100)


def _nan(path: Path) -> None:
    soundfile.write(path, np.array([0.0, np.nan]), 44100, subtype="FLOAT")


def _header_without_data(path: Path) -> None:
    soundfile.write(path, tone(44100), 44100)
    path.write_bytes(path.read_bytes()[:20])


@pytest.mark.parametrize("make", [_text, _nothing, _nan, _header_without_data, Path.mkdir, lambda path: None])
def test_bad_recordings_are_refused(tmp_path: Path, make: object) -> None:
    make(tmp_path / "x.wav")  # type: ignore[operator]
    with pytest.raises(AudioFileError) as caught:
        read_audio(tmp_path / "x.wav")
    assert "\n" not in str(caught.value)


def test_writing_is_all_or_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x.wav"
    path.write_bytes(b"precious")
    with pytest.raises(InputError, match="NaN"):
        write_audio(path, np.array([np.nan], np.float32), 44100)
    with pytest.raises(AudioFileError, match="no known format"):
        write_audio(tmp_path / "x.xyz", tone(44100), 44100)
    with pytest.raises(AudioFileError, match="failed"):
        write_audio(path, tone(44100), 0)
    with pytest.raises(RuntimeError), replacing(path) as part:
        part.write_bytes(b"half")
        raise RuntimeError
    assert path.read_bytes() == b"precious"
    assert [p.name for p in tmp_path.iterdir()] == ["x.wav"]


def test_full_scale_is_clipped_not_wrapped(tmp_path: Path) -> None:
    write_audio(tmp_path / "x.wav", np.array([2.0, -2.0, 0.5], np.float32), 44100)
    assert np.allclose(read_audio(tmp_path / "x.wav")[0][0], [1, -1, 0.5], atol=1e-6)


def test_minutes_of_ogg_are_written(tmp_path: Path) -> None:
    """In one piece this overruns the stack of libsndfile's Vorbis encoder."""
    rng = np.random.default_rng(0)
    minutes = rng.normal(0, 0.1, (2, 44100 * 120)).astype(np.float32)
    write_audio(tmp_path / "long.ogg", minutes, 44100)
    assert soundfile.info(tmp_path / "long.ogg").frames == minutes.shape[1]


def test_mp3_takes_the_nearest_rate_it_has(tmp_path: Path) -> None:
    write_audio(tmp_path / "x.mp3", tone(40000), 40000)
    assert soundfile.info(tmp_path / "x.mp3").samplerate == 44100


def test_absurd_amplitudes_are_the_recordings_fault(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "x.wav", np.array([0.0, 1e30]), 44100, subtype="FLOAT")
    with pytest.raises(AudioFileError, match="absurdly large"):
        read_audio(tmp_path / "x.wav")


@pytest.mark.parametrize("place", ["file.txt/x.wav", "x" * 300 + ".wav"])
def test_places_that_cannot_be_written(tmp_path: Path, place: str) -> None:
    (tmp_path / "file.txt").write_text("in the way")
    with pytest.raises(OutputError, match="cannot be created"):
        write_audio(tmp_path / place, tone(44100), 44100)
