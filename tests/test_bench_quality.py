"""Metrics against independent references.

Where each comparison comes from:

- PESQ: figures of the ITU-T reference program (P.862.2, October 2005, `pesq +16000 +wb`) on these very samples.
- ViSQOL: figures of Google's C++ program (v3.3.3, audio mode) on these very samples.
- MR-STFT and log-spectral distance: the published formulas once more, in NumPy and SciPy.
- Pitch: tones whose pitch and voicing are known, and Praat.

The clips are excerpts of the demo voice's recordings, 16 bit; what is done to them is integer arithmetic, so both
programs and these tests hear the same samples.
"""

from __future__ import annotations

import subprocess
import sys
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.signal
import soundfile

from trt_svc.bench.quality import Pair, SaysNothing, judged, metrics
from trt_svc.bench.quality.base import asking
from trt_svc.config import MelSpec
from trt_svc.errors import InputError

DATA = Path(__file__).parent / "data" / "bench"
RATE = 44100
SPEC = MelSpec(RATE, 2048, 2048, 512, 128, 40, 16000, padding="nvstft")
PESQ_BY_ITU = {"same": 4.644, "dull": 4.579, "coarse": 2.971, "noisy": 2.264, "buried": 1.062}
VISQOL_BY_CPP = {"same": 4.732101253042, "coarse": 3.148218587054, "gap": 3.256722608615}


@cache
def clip(name: str, done: str = "same") -> np.ndarray:
    """(N,) float32: `spoken_16k` or `sung_48k`, spoilt in a way that has the same bits everywhere."""
    samples = soundfile.read(DATA / f"{name}.flac", dtype="int16")[0].astype(np.int64)
    noise = np.random.RandomState(7).randint(-300, 301, len(samples))
    spoilt = {
        "same": samples,
        "dull": (np.roll(samples, 1) + 2 * samples + np.roll(samples, -1)) // 4,
        "coarse": (samples >> 8) * 256,
        "noisy": samples + noise,
        "buried": samples + 8 * noise,
        "gap": np.where(np.arange(len(samples)) * 4 // len(samples) == 2, 0, samples),
    }[done]
    return (np.clip(spoilt, -32768, 32767) / 32768).astype(np.float32)


def pair(made: np.ndarray, reference: np.ndarray, rate: int = RATE, **more: Any) -> Pair:
    return Pair(made, reference, rate, **{"mel": SPEC if rate == RATE else None, "trained": True, **more})


def value(name: str, about: Pair) -> float:
    values, notes = judged(about, [name])
    assert notes == {}
    assert isinstance(values[name], float)
    return values[name]


def noise(seconds: float, seed: int = 0, level: float = 0.1) -> np.ndarray:
    return (level * np.random.default_rng(seed).standard_normal(int(seconds * RATE))).astype(np.float32)


def band(audio: np.ndarray, low_hz: float, high_hz: float) -> np.ndarray:
    """What lies between two frequencies, by setting the rest of its spectrum to zero."""
    spectrum = np.fft.rfft(audio.astype(np.float64))
    hz = np.fft.rfftfreq(len(audio), 1 / RATE)
    return np.fft.irfft(np.where((hz >= low_hz) & (hz < high_hz), spectrum, 0), len(audio)).astype(np.float32)


def tone(seconds: float = 2.0, cents: float = 0.0) -> np.ndarray:
    """Harmonics that glide from 220 Hz up a fifth, `cents` higher."""
    t = np.arange(int(seconds * RATE)) / RATE
    f0 = 220 * 1.5 ** (t / seconds) * 2 ** (cents / 1200)
    phase = 2 * np.pi * np.cumsum(f0) / RATE
    return (0.2 * sum(np.sin(h * phase) / h for h in range(1, 12))).astype(np.float32)


NAMES = {
    "mel_l1": "lower",
    "mr_stft": "lower",
    "lsd_above_8k_db": "lower",
    "pesq_wb": "higher",
    "pesq_wb_delta": "zero",
    "visqol": "higher",
    "visqol_delta": "zero",
    "f0_rmse_cents": "lower",
    "vuv_f1": "higher",
    "periodicity_rmse": "lower",
}


def test_every_metric_says_what_it_is() -> None:
    assert {name: metric.better for name, metric in metrics} == NAMES
    assert all(metric.title and metric.measure.__doc__ for _, metric in metrics)


def test_the_same_signal_gets_the_ideal_value_everywhere() -> None:
    """4.644 and 4.732 are the highest that PESQ and ViSQOL give."""
    sung = scipy.signal.resample_poly(clip("sung_48k"), 147, 160).astype(np.float32)[: RATE + RATE // 5]
    values, notes = judged(pair(sung.copy(), sung, recording=sung.copy()))
    best = {"vuv_f1": 1.0, "pesq_wb": pytest.approx(4.644, abs=1e-3), "visqol": pytest.approx(4.7321, abs=1e-3)}
    assert notes == {}
    assert values == {name: best.get(name, 0.0) for name in NAMES}


@pytest.mark.parametrize("gain", [0.5, 2.0, 3.0])
def test_mel_distance_of_a_gain_is_its_logarithm(gain: float) -> None:
    loud = noise(0.5)
    assert value("mel_l1", pair(loud * np.float32(gain), loud)) == pytest.approx(abs(np.log(gain)), rel=1e-4)


def magnitudes(audio: np.ndarray, n_fft: int, hop: int, win: int) -> np.ndarray:
    """(frames, bins) by NumPy's transform, in float64, mirrored at both ends."""
    window = np.zeros(n_fft)
    window[(n_fft - win) // 2 :][:win] = scipy.signal.get_window("hann", win)
    padded = np.pad(audio.astype(np.float64), n_fft // 2, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, n_fft)[::hop]
    return np.sqrt(np.maximum(np.abs(np.fft.rfft(frames * window)) ** 2, 1e-8))


def mr_stft_once_more(made: np.ndarray, reference: np.ndarray) -> float:
    """Spectral convergence and log-magnitude distance as published (Yamamoto et al., arXiv:1910.11480)."""
    losses = []
    for sizes in ((512, 50, 240), (1024, 120, 600), (2048, 240, 1200)):
        y, x = magnitudes(made, *sizes), magnitudes(reference, *sizes)
        losses.append(np.linalg.norm(x - y) / np.linalg.norm(x) + np.mean(np.abs(np.log(x) - np.log(y))))
    return float(np.mean(losses))


@pytest.mark.parametrize("done", ["dull", "coarse", "noisy", "buried"])
def test_mr_stft_equals_its_formulas_in_numpy(done: str) -> None:
    made, reference = clip("spoken_16k", done), clip("spoken_16k")
    assert value("mr_stft", pair(made, reference, 16000)) == pytest.approx(mr_stft_once_more(made, reference), rel=1e-4)


def test_mr_stft_takes_the_reference_as_the_truth() -> None:
    """Spectral convergence of half the level is 0.5, of twice the level 1; the logarithms differ by ln 2 both ways."""
    loud = noise(0.5)
    assert value("mr_stft", pair(loud / 2, loud)) == pytest.approx(0.5 + np.log(2), abs=1e-3)
    assert value("mr_stft", pair(loud, loud / 2)) == pytest.approx(1.0 + np.log(2), abs=1e-3)


@pytest.mark.parametrize(("gain", "expected_db"), [(2.0, 6.0206), (0.5, 6.0206), (10**0.05, 1.0)])
def test_spectral_distance_of_a_gain_above_8_khz(gain: float, expected_db: float) -> None:
    low, high = band(noise(1.0), 0, 6000), band(noise(1.0), 7000, RATE)
    assert value("lsd_above_8k_db", pair(low + high * np.float32(gain), low + high)) == pytest.approx(
        expected_db, abs=0.01
    )


def test_spectral_distance_ignores_what_is_below_8_khz() -> None:
    low, high = band(noise(1.0), 0, 6000), band(noise(1.0), 7000, RATE)
    assert value("lsd_above_8k_db", pair(2 * low + high, low + high)) < 0.05


@pytest.mark.parametrize(("level_db", "says"), [(-118, True), (-123, False)])
def test_spectral_distance_of_next_to_nothing(level_db: float, says: bool) -> None:
    """A whistle at 10 kHz, beside -120 dB of a full-scale sine."""
    whistle = (10 ** (level_db / 20) * np.sin(2 * np.pi * 10000 / RATE * np.arange(RATE))).astype(np.float32)
    values, _ = judged(pair(2 * whistle, whistle), ["lsd_above_8k_db"])
    assert (values["lsd_above_8k_db"] is not None) == says


def lsd_by_scipy(made: np.ndarray, reference: np.ndarray) -> float:
    """Without floors, from SciPy's transform."""
    transform = scipy.signal.ShortTimeFFT(scipy.signal.get_window("hann", 2048), 512, RATE)
    inside = slice(transform.lower_border_end[1], transform.upper_border_begin(len(made))[1])
    levels = [
        20 * np.log10(np.abs(transform.stft(x.astype(np.float64))[transform.f > 8000])) for x in (made, reference)
    ]
    return float(np.mean(np.sqrt(np.mean((levels[0] - levels[1]) ** 2, axis=0))[inside]))


def test_spectral_distance_equals_scipys_where_nothing_is_quiet() -> None:
    made, reference = noise(1.0, seed=1), noise(1.0, seed=2)
    assert value("lsd_above_8k_db", pair(made, reference)) == pytest.approx(lsd_by_scipy(made, reference), rel=0.01)


def test_quiet_frames_do_not_dominate_the_spectral_distance() -> None:
    """Half of the reference is 100 dB down; the contender hisses there at -80 dB, and is 1 dB off where it is loud."""
    loud = noise(2.0)
    first = np.arange(len(loud)) < len(loud) // 2
    reference = np.where(first, loud, 1e-5 * loud).astype(np.float32)
    made = np.where(first, loud * 10**0.05, noise(2.0, seed=3, level=1e-5)).astype(np.float32)
    assert value("lsd_above_8k_db", pair(made, reference)) == pytest.approx(1.0, abs=0.1)
    assert lsd_by_scipy(made, reference) > 4


@pytest.mark.parametrize("done", PESQ_BY_ITU)
def test_pesq_equals_the_itu_reference_program(done: str) -> None:
    found = value("pesq_wb", pair(clip("spoken_16k", done), clip("spoken_16k"), 16000))
    assert found == pytest.approx(PESQ_BY_ITU[done], abs=2e-3)


def test_pesq_at_another_rate_stays_near_the_itu_reference_program() -> None:
    """At 48 kHz, brought there by SciPy: the way back must not change the verdict."""
    made, reference = (
        scipy.signal.resample_poly(clip("spoken_16k", done), 3, 1).astype(np.float32) for done in ("noisy", "same")
    )
    assert value("pesq_wb", pair(made, reference, 48000)) == pytest.approx(PESQ_BY_ITU["noisy"], abs=0.05)


@pytest.mark.parametrize("done", VISQOL_BY_CPP)
def test_visqol_equals_the_cpp_program(done: str) -> None:
    """For the same signal the figure is also the published one (conformance.h, castanets against themselves).

    The gap makes 4.173 if the two change places.
    """
    found = value("visqol", pair(clip("sung_48k", done), clip("sung_48k"), 48000))
    assert found == pytest.approx(VISQOL_BY_CPP[done], abs=1e-4)


def test_changes_are_differences_of_scores_against_the_recording() -> None:
    recording, reference, made = (clip("spoken_16k", done) for done in ("same", "noisy", "buried"))
    about = pair(made, reference, 16000, recording=recording)
    expected = PESQ_BY_ITU["buried"] - PESQ_BY_ITU["noisy"]
    assert value("pesq_wb_delta", about) == pytest.approx(expected, abs=4e-3)
    assert value("pesq_wb_delta", about.with_made(recording)) > 0
    recording, reference, made = (clip("sung_48k", done) for done in ("same", "gap", "coarse"))
    expected = VISQOL_BY_CPP["coarse"] - VISQOL_BY_CPP["gap"]
    about = pair(made, reference, 48000, recording=recording)
    assert value("visqol_delta", about) == pytest.approx(expected, abs=2e-4)


@pytest.mark.parametrize("cents", [0.0, 25.0, -100.0])
def test_f0_error_of_a_tone_that_is_out_of_tune_by_so_much(cents: float) -> None:
    assert value("f0_rmse_cents", pair(tone(cents=cents), tone())) == pytest.approx(abs(cents), abs=1.0)


def test_f0_error_agrees_with_praat() -> None:
    """Vibrato that the reference lacks, tracked by Praat's autocorrelation method instead."""
    parselmouth = pytest.importorskip("parselmouth")
    t = np.arange(2 * RATE) / RATE
    f0 = 220 * 2 ** (40 * np.sin(2 * np.pi * 5 * t) / 1200)
    phases = (2 * np.pi * np.cumsum(f0) / RATE, 2 * np.pi * 220 * t)
    made, reference = ((0.2 * sum(np.sin(h * phase) / h for h in range(1, 12))).astype(np.float32) for phase in phases)
    praat = [
        parselmouth.Sound(x.astype(np.float64), RATE).to_pitch_ac(time_step=0.016).selected_array["frequency"]
        for x in (made, reference)
    ]
    both = (praat[0] > 0) & (praat[1] > 0)
    expected = 1200 * np.sqrt(np.mean(np.log2(praat[0][both] / praat[1][both]) ** 2))
    assert expected == pytest.approx(40 / np.sqrt(2), rel=0.1)
    assert value("f0_rmse_cents", pair(made, reference)) == pytest.approx(expected, abs=2.0)


@pytest.mark.parametrize("kept", [0.25, 0.5, 0.75])
def test_voicing_of_a_tone_that_gives_way_to_noise(kept: float) -> None:
    """With a share p still voiced, precision is 1 and recall p, so F1 is 2p / (1 + p); confidence differs in 1 - p."""
    voiced = np.arange(2 * RATE) < kept * 2 * RATE
    about = pair(np.where(voiced, tone(), noise(2.0)).astype(np.float32), tone())
    assert value("vuv_f1", about) == pytest.approx(2 * kept / (1 + kept), abs=0.03)
    assert value("periodicity_rmse", about) == pytest.approx(np.sqrt(1 - kept), abs=0.06)
    assert value("f0_rmse_cents", about) < 10


@pytest.mark.parametrize(
    "name", ["mr_stft", "mel_l1", "lsd_above_8k_db", "pesq_wb", "f0_rmse_cents", "periodicity_rmse"]
)
def test_more_noise_on_a_voice_is_worse(name: str) -> None:
    sung = scipy.signal.resample_poly(clip("sung_48k"), 147, 160).astype(np.float32)
    hiss = noise(len(sung) / RATE, level=1.0)[: len(sung)]
    found = [value(name, pair(sung + np.float32(level) * hiss, sung)) for level in (0.001, 0.01, 0.1)]
    assert found == sorted(found, reverse=metrics.get(name).better == "higher")
    assert len(set(found)) == 3


class Spy:
    """Counts the calls of the real function."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> None:
        self.calls = 0
        real = getattr(owner, name)

        def counted(*args: Any, **options: Any) -> Any:
            self.calls += 1
            return real(*args, **options)

        monkeypatch.setattr(owner, name, counted)


def test_nothing_is_computed_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    import pesq
    import swift_f0

    tracker = Spy(monkeypatch, swift_f0.SwiftF0, "detect")
    opinion = Spy(monkeypatch, pesq, "pesq")
    first = pair(clip("spoken_16k", "noisy"), clip("spoken_16k", "dull"), 16000, recording=clip("spoken_16k"))
    names = ["f0_rmse_cents", "vuv_f1", "periodicity_rmse", "pesq_wb", "pesq_wb_delta"]
    found = [judged(each, names) for each in (first, first.with_made(clip("spoken_16k", "coarse")))]
    assert tracker.calls == 3  # the reference and two contenders
    assert opinion.calls == 5  # the reference against the recording, and each contender against both
    assert found[0] != found[1]
    assert (
        judged(
            pair(clip("spoken_16k", "coarse"), clip("spoken_16k", "dull"), 16000, recording=clip("spoken_16k")), names
        )
        == found[1]
    )


def notes_of(about: Pair) -> dict[str, str]:
    """Checks that every metric either answers with a number or says why not."""
    values, notes = judged(about)
    assert list(values) == metrics.names()
    assert notes.keys() == {name for name, found in values.items() if found is None}
    assert all(isinstance(found, float) and np.isfinite(found) for found in values.values() if found is not None)
    assert all(len(note) < 200 for note in notes.values())
    return notes


def test_random_weights_are_not_asked_how_they_sound() -> None:
    notes = notes_of(pair(noise(0.2), noise(0.2, seed=1), trained=False))
    assert notes.keys() == {name for name, metric in metrics if metric.for_trained_only}
    assert all("random" in note for note in notes.values())


def test_without_mel_recording_or_treble() -> None:
    spoken = clip("spoken_16k")[:8000]
    notes = notes_of(pair(clip("spoken_16k", "dull")[:8000], spoken, 16000))
    assert "latent" in notes["mel_l1"]
    assert "nothing above 8 kHz" in notes["lsd_above_8k_db"]
    assert notes["pesq_wb_delta"] == notes["visqol_delta"] == "there is no recording"
    assert "44100 Hz" in judged(pair(spoken, spoken, 16000, mel=SPEC), ["mel_l1"])[1]["mel_l1"]
    constant = np.full(RATE, 0.2, np.float32)
    assert "nothing above 8 kHz" in judged(pair(noise(1.0), constant), ["lsd_above_8k_db"])[1]["lsd_above_8k_db"]
    whistle = (0.5 * np.sin(2 * np.pi * 15000 / RATE * np.arange(RATE)) * np.hanning(RATE)).astype(np.float32)
    assert judged(pair(noise(1.0), whistle), ["pesq_wb"])[1]["pesq_wb"] == "the reference is silent below 8 kHz"


@pytest.mark.parametrize(
    ("made", "reference"),
    [
        (np.zeros(RATE, np.float32), np.zeros(RATE, np.float32)),
        (np.zeros(RATE, np.float32), tone(1.0)),
        (tone(1.0), np.zeros(RATE, np.float32)),
        (np.full(RATE, np.nan, np.float32), tone(1.0)),
        (np.where(np.arange(RATE) == 99, np.inf, tone(1.0)), tone(1.0)),
        (np.full(9000, 3e38, np.float32), tone(1.0)[:9000]),
        (np.full(9000, 0.5, np.float32), tone(1.0)[:9000]),
        (tone(1.0)[:9000][::-1], np.broadcast_to(np.float32(0.5), 9000)),
        *((tone(1.0)[:n], tone(1.0)[:n]) for n in (0, 1, 100, 2047, 12000)),
    ],
    ids=[
        "silent",
        "made-silent",
        "reference-silent",
        "nan",
        "inf",
        "huge",
        "dc",
        "views",
        "0",
        "1",
        "100",
        "2047",
        "12000",
    ],
)
def test_odd_signals_get_reasons_and_never_crash(made: np.ndarray, reference: np.ndarray) -> None:
    notes = notes_of(pair(made, reference, recording=reference))
    assert {"visqol", "visqol_delta"} <= notes.keys()
    if not np.isfinite(made).all():
        assert notes.keys() == set(NAMES)
        assert "NaN or infinite" in notes["mel_l1"]


def test_pesq_refuses_what_its_tables_cannot_hold() -> None:
    """More than 50 utterances make the C code write beyond them."""
    bursts = np.tile(np.concatenate([clip("spoken_16k")[8000:12000], np.zeros(4000, np.float32)]), 60)
    _, notes = judged(pair(bursts, bursts, 16000), ["pesq_wb"])
    assert notes == {"pesq_wb": "PESQ takes 0.25 to 20 s, this has 30.00 s"}


def test_signals_that_do_not_match_are_refused() -> None:
    with pytest.raises(InputError, match="shapes"):
        pair(noise(0.1), noise(0.2))
    with pytest.raises(InputError, match="shapes"):
        pair(noise(0.1)[None], noise(0.1)[None])
    with pytest.raises(InputError, match="shapes"):
        pair(noise(0.1), noise(0.1), recording=noise(0.2))
    with pytest.raises(InputError, match="Did you mean 'pesq_wb'"):
        judged(pair(noise(0.1), noise(0.1)), ["pesq_bw"])


@pytest.mark.parametrize(
    ("module", "extra"), [("auraloss", "bench"), ("pesq", "bench"), ("visqol", "bench"), ("swift_f0", "f0")]
)
def test_a_missing_package_is_named(module: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)  # what makes an import of it fail
    asked = [name for name, metric in metrics if module in metric.needs]
    assert asked
    values, notes = judged(pair(noise(0.1), noise(0.1)), [*asked, "mel_l1"])
    assert values == {**dict.fromkeys(asked), "mel_l1": 0.0}
    line = f'the package {module} is not installed. Run: pip install "trt-svc[{extra}]"'
    assert notes == dict.fromkeys(asked, line)


def test_errors_of_libraries_become_reasons() -> None:
    def fails() -> None:
        with asking("PESQ"):
            warnings.warn("never seen", stacklevel=1)
            raise ZeroDivisionError("of " + "very " * 100 + "little")

    with pytest.raises(SaysNothing, match=r"PESQ gave up: ZeroDivisionError: of very") as caught:
        fails()
    assert len(str(caught.value)) < 150


def test_looking_metrics_up_imports_no_optional_package() -> None:
    code = (
        "import sys; from trt_svc.bench.quality import metrics; metrics.names(); "
        "print(sorted({'torch', 'auraloss', 'pesq', 'visqol', 'swift_f0', 'scipy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
