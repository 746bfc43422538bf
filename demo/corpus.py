"""The audio that the demo voice is trained on: made here, by formula and by espeak-ng, so it belongs to nobody else.

Two sources. `sing` is a source-filter singer: a glottal pulse train with vibrato and portamento through
five random formants, breath noise, fricatives and plosives, at any pitch from a bass to a soprano.
`speak` lets espeak-ng read sentences in many voices, and can re-pitch them with WORLD to a sung melody.

    python -m demo.corpus OUT_DIR
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.signal
import soundfile
import soxr

SAMPLE_RATE = 44100
CONTROL_RATE = 200
Array = np.ndarray

# Formant frequencies (Hz) of an average adult; singers scale them.
VOWELS = {
    "a": (800, 1200, 2700, 3500, 4600),
    "e": (450, 1950, 2650, 3500, 4500),
    "i": (300, 2250, 3000, 3600, 4700),
    "o": (450, 800, 2700, 3400, 4500),
    "u": (330, 750, 2550, 3350, 4400),
    "@": (550, 1450, 2600, 3500, 4500),
    "y": (300, 1750, 2350, 3400, 4400),
    "m": (270, 1000, 2200, 3300, 4300),
}
FRICATIVES = {"s": (5200, 11000), "sh": (2300, 7000), "f": (1200, 14000), "h": (700, 5000), "x": (1100, 4200)}


@dataclass(frozen=True)
class Singer:
    """What stays the same through a clip."""

    lowest_hz: float
    highest_hz: float
    formant_scale: float
    tilt_db_per_octave: float
    breath_db: float
    vibrato_hz: float
    vibrato_cents: float
    bandwidth: float
    brightness_db: float


def draw_singer(rng: np.random.Generator) -> Singer:
    lowest = float(np.exp(rng.uniform(np.log(75), np.log(330))))
    formant_scale = 0.8 + 0.4 * np.log2(lowest / 75) / 2.2 + rng.normal(0, 0.06)
    return Singer(
        lowest,
        lowest * rng.uniform(2.2, 3.4),
        float(np.clip(formant_scale, 0.75, 1.35)),
        rng.uniform(-15, -8),
        rng.uniform(-48, -22),
        rng.uniform(4.5, 6.8),
        rng.choice([0, rng.uniform(10, 110)]),
        rng.uniform(0.8, 1.8),
        rng.uniform(-6, 12),
    )


@dataclass
class Score:
    """Control curves at CONTROL_RATE: f0 (Hz), loudness of the voice, formants (T, 5), loudness and band of hiss."""

    f0: Array
    voice: Array
    formants: Array
    hiss: Array
    hiss_band: Array


def _smooth(x: Array, seconds: float) -> Array:
    n = max(1, int(seconds * CONTROL_RATE)) | 1
    kernel = np.hanning(n + 2)[1:-1]
    pad = [(n // 2, n // 2)] + [(0, 0)] * (x.ndim - 1)
    padded = np.pad(x, pad, mode="edge")
    columns = padded.reshape(len(padded), -1).T
    return np.stack([np.convolve(c, kernel / kernel.sum(), "valid") for c in columns], -1).reshape(x.shape)


def compose(rng: np.random.Generator, singer: Singer, seconds: float) -> Score:
    total = int(seconds * CONTROL_RATE)
    midi, voice, vowels, hiss, band = [], [], [], [], []
    note = rng.uniform(np.log2(singer.lowest_hz), np.log2(singer.highest_hz))
    names = list(VOWELS)
    while len(midi) < total:
        length = int(
            rng.choice([0.09, 0.16, 0.3, 0.6, 1.1, 2.0], p=[0.1, 0.25, 0.25, 0.2, 0.12, 0.08])
            * rng.uniform(0.8, 1.25)
            * CONTROL_RATE
        )
        note = np.clip(
            note + rng.choice([-12, -7, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 7, 12]) / 12,
            np.log2(singer.lowest_hz),
            np.log2(singer.highest_hz),
        )
        onset = rng.choice(["none", "fricative", "plosive", "pause"], p=[0.42, 0.28, 0.18, 0.12])
        gap = 0
        if onset == "fricative":
            gap = int(rng.uniform(0.05, 0.18) * CONTROL_RATE)
            hiss += [rng.uniform(0.2, 1.0)] * gap
            band += [FRICATIVES[str(rng.choice(list(FRICATIVES)))]] * gap
        elif onset == "plosive":
            gap, burst = int(rng.uniform(0.05, 0.1) * CONTROL_RATE), 2
            hiss += [0.0] * (gap - burst) + [rng.uniform(0.6, 1.5)] * burst
            band += [(rng.uniform(400, 3000), rng.uniform(5000, 12000))] * gap
        elif onset == "pause":
            gap = int(rng.uniform(0.1, 0.5) * CONTROL_RATE)
            hiss += [0.0] * gap
            band += [(1000.0, 8000.0)] * gap
        first, second = (VOWELS[str(v)] for v in rng.choice(names, 2))
        diphthong = rng.random() < 0.3
        loud = rng.uniform(0.25, 1.0)
        midi += [note] * (gap + length)
        voice += [0.0] * gap + list(loud * (1 - 0.3 * rng.random() * np.linspace(0, 1, length)))
        path = np.linspace(first, second, length) if diphthong else np.repeat(np.array([first], float), length, 0)
        vowels += [np.array(first, float)] * gap + list(path)
        hiss += [0.0] * length
        band += [band[-1] if band else (1000.0, 8000.0)] * length
    t = np.arange(total) / CONTROL_RATE
    pitch = _smooth(np.array(midi[:total]), rng.uniform(0.03, 0.12))
    depth = _smooth((rng.random(total) < 0.5).astype(float), 0.6)
    rate = singer.vibrato_hz * (1 + 0.05 * _smooth(rng.normal(size=total), 0.5))
    pitch = pitch + singer.vibrato_cents / 1200 * depth * np.sin(2 * np.pi * np.cumsum(rate) / CONTROL_RATE)
    pitch = (
        pitch + 0.012 * _smooth(rng.normal(size=total), 0.06) + 0.01 * np.sin(2 * np.pi * 0.3 * t + rng.uniform(0, 6))
    )
    return Score(
        2.0**pitch,
        _smooth(np.array(voice[:total]), 0.025),
        _smooth(np.array(vowels[:total]), 0.06) * singer.formant_scale,
        _smooth(np.array(hiss[:total]), 0.012),
        np.array(band[:total]),
    )


def _resonance(freq: Array, formants: Array, bandwidth: float) -> Array:
    """Complex gain of the formants at `freq` (T, ...), each a two-pole resonator with unit gain at 0 Hz.

    Above the five that make the vowel stand evenly spaced ones, as in a tube: without them nothing is left above 5 kHz.
    """
    gain = np.ones(freq.shape, np.complex64)
    spacing = formants[:, 4:] / 4.5
    formants = np.concatenate([formants, spacing * (5.5 + np.arange(16))], axis=1)
    s = (1j * freq).astype(np.complex64)
    for k in range(formants.shape[1]):
        centre = formants[:, k].reshape(-1, *[1] * (freq.ndim - 1)).astype(np.float32)
        width = np.float32((50 + 0.045 * float(formants[:, k].mean())) * bandwidth)
        pole = -width / 2 + 1j * centre
        gain = gain * (np.abs(pole) ** 2 / ((s - pole) * (s - np.conj(pole)))).astype(np.complex64)
    return gain


def _to_samples(curve: Array, samples: int) -> Array:
    return np.interp(np.arange(samples) / SAMPLE_RATE, np.arange(len(curve)) / CONTROL_RATE, curve)


def _voiced(score: Score, singer: Singer, samples: int) -> Array:
    """Sum of harmonics below 20 kHz, each with the tilt of the glottis and the gain and phase of the formants."""
    cycles = np.cumsum(_to_samples(score.f0, samples)) / SAMPLE_RATE
    out = np.zeros(samples, np.float32)
    count = int(20000 / score.f0.min())
    level = _smooth(score.voice, 0.01)
    for h in range(1, count + 1):
        freq = h * score.f0
        octaves_above_1k = np.clip(np.log2(freq / 1000), 0, 3)
        tilt_db = singer.tilt_db_per_octave * np.log2(h) + singer.brightness_db * octaves_above_1k / 3
        tilt = 10 ** (tilt_db / 20)
        gain = _resonance(freq, score.formants, singer.bandwidth) * tilt * level * (freq < 20000)
        if np.abs(gain).max() < 1e-6:
            continue
        phase = 2 * np.pi * ((h * cycles) % 1.0)
        real, imag = _to_samples(gain.real, samples), _to_samples(gain.imag, samples)
        out += (real * np.cos(phase) - imag * np.sin(phase)).astype(np.float32)
    return out


def _filtered_noise(rng: np.random.Generator, samples: int, gain_at: Callable[[Array, Array], Array]) -> Array:
    """White noise with a time-varying spectrum: gain_at(control index (F,), frequencies (bins,)) -> (F, bins)."""
    win, hop = 1024, 256
    noise = rng.normal(size=samples + win).astype(np.float32)
    window = np.hanning(win + 1)[:-1].astype(np.float32)
    frames = np.lib.stride_tricks.sliding_window_view(noise, win)[::hop] * window
    centre = ((np.arange(len(frames)) * hop) / SAMPLE_RATE * CONTROL_RATE).astype(int)
    spectra = np.fft.rfft(frames) * gain_at(centre, np.fft.rfftfreq(win, 1 / SAMPLE_RATE))
    blocks = np.fft.irfft(spectra, win).astype(np.float32) * window
    out = np.zeros(samples + 2 * win, np.float32)
    for i, block in enumerate(blocks):
        out[i * hop : i * hop + win] += block
    return out[win // 2 : win // 2 + samples] / 1.5


def sing(rng: np.random.Generator, seconds: float, singer: Singer | None = None) -> tuple[Array, Array]:
    """(audio, f0 at CONTROL_RATE with 0 where nothing is sung) of one random phrase."""
    singer = singer or draw_singer(rng)
    score = compose(rng, singer, seconds)
    samples = int(seconds * SAMPLE_RATE)
    voice = _voiced(score, singer, samples)
    last = len(score.f0) - 1

    def breath(at: Array, freq: Array) -> Array:
        at = np.minimum(at, last)
        shape = np.abs(
            _resonance(np.broadcast_to(freq, (len(at), len(freq))), score.formants[at], singer.bandwidth * 2)
        )
        return shape * score.voice[at][:, None] * np.clip(freq / 2000, 0.1, 1.5)

    def fricative(at: Array, freq: Array) -> Array:
        at = np.minimum(at, last)
        low, high = score.hiss_band[at, 0][:, None], score.hiss_band[at, 1][:, None]
        edge = np.maximum(freq, 1.0)
        return score.hiss[at][:, None] / np.sqrt((1 + (low / edge) ** 6) * (1 + (edge / high) ** 4))

    rms = max(float(np.sqrt(np.mean(voice**2))), 1e-6)
    pulse = 1 + 0.6 * np.cos(2 * np.pi * np.cumsum(_to_samples(score.f0, samples)) / SAMPLE_RATE)
    air = _filtered_noise(rng, samples, breath) * pulse
    air *= rms * 10 ** (singer.breath_db / 20) / max(float(np.sqrt(np.mean(air**2))), 1e-6)
    noise = _filtered_noise(rng, samples, fricative) * rms * rng.uniform(0.15, 0.7)
    audio = voice + air + noise
    return _normalised(rng, audio), np.where(score.voice > 0.02, score.f0, 0.0).astype(np.float32)


def _normalised(rng: np.random.Generator, audio: Array) -> Array:
    """A random loudness; some clips get the hiss of a room."""
    if rng.random() < 0.3:
        audio = audio + rng.normal(size=len(audio)) * np.abs(audio).max() * 10 ** (rng.uniform(-75, -48) / 20)
    return (audio / max(float(np.abs(audio).max()), 1e-6) * 10 ** (rng.uniform(-16, -0.5) / 20)).astype(np.float32)


SENTENCES = """
The morning light came slowly over the hills and touched the windows of the quiet town.
She sells sea shells by the shore, and the shells she sells are surely seashells.
How much wood would a woodchuck chuck if a woodchuck could chuck wood?
A quick brown fox jumps over the lazy dog while five boxing wizards watch.
Please call Stella and ask her to bring these things from the store on Thursday.
We sang together until the stars grew pale, and nobody wanted to go home.
Every voice has a colour of its own: some are dark like honey, others bright like brass.
The ship was seventeen hours late because of fog, frost and a broken shaft.
Whisper softly, shout loudly, hum a simple tune, and then be silent for a while.
Peter's green parrot perched patiently upon the porch of the purple cottage.
Zebras zigzagged across the dusty plain as the azure evening fell.
I thought that the theory was thorough, though the truth was tougher than that.
Ring the bells on Sunday, play the drums on Monday, and rest your ears on Tuesday.
Measure the treasure with pleasure, but leave the beige garage alone.
Nine hundred and ninety-nine nightingales nested near the northern lighthouse.
You and I are younger than the yellow yew trees in the yard.
Choose a cheap chair, change the channel, and chat about the charming village.
Great grey geese graze in the green grass beside the gurgling brook.
Water and fire, wind and stone: the old song names them one by one.
Do not forget to take the key, the map, the lamp and a good deal of hope.
""".strip().splitlines()
GERMAN = [
    "Am Abend singen die Vögel leise in den alten Bäumen hinter dem Haus.",
    "Zwanzig Zwerge zeigen Handstand, zehn im Wandschrank, zehn am Sandstrand.",
]
FRENCH = [
    "Le soleil se couche derrière les collines et la mer devient toute bleue.",
    "Un chasseur sachant chasser doit savoir chasser sans son chien.",
]
SPANISH = [
    "La luna llena ilumina la llanura mientras los niños cantan canciones.",
    "El perro de San Roque no tiene rabo porque Ramón Ramírez se lo ha cortado.",
]
MANDARIN = ["早上的阳光慢慢照进安静的小镇。", "我们一起唱歌，一直唱到星星都睡着了。"]
TEXTS = [("en-us", s) for s in SENTENCES] + [("en-gb", s) for s in SENTENCES[::2]]
TEXTS += (
    [("de", s) for s in GERMAN]
    + [("fr", s) for s in FRENCH]
    + [("es", s) for s in SPANISH]
    + [("cmn", s) for s in MANDARIN]
)
HELD_OUT_TEXTS = [
    ("en-us", "Under a copper moon the fishermen mended their nets and told each other lies."),
    ("en-gb", "Thirteen hungry foxes quietly crossed the frozen orchard just before dawn."),
    ("de", "Frische Fische fischt der Fischer Fritz, und abends kocht er Suppe."),
    ("fr", "Trois gros rats gris grimpent dans trois gros trous ronds."),
]
"""Never in the training data, nor are their voices."""
VARIANTS = [
    "",
    "m1",
    "m3",
    "m5",
    "m7",
    "f1",
    "f2",
    "f3",
    "f4",
    "f5",
    "klatt2",
    "klatt4",
    "Annie",
    "Linda",
    "Alicia",
    "Andrea",
    "John",
    "Mike",
    "Max",
    "Lee",
    "Steph",
    "Gene",
    "Michael",
    "Hugo",
]


HELD_OUT_VARIANTS = ["anika", "Diogo", "Pablo", "Nguyen", "Marcelo", "Henrique"]
AIR_BAND = scipy.signal.butter(6, 14500, fs=SAMPLE_RATE, output="sos")


def espeak(rng: np.random.Generator, text: str, language: str, variants: list[str]) -> Array:
    """A sentence at 44.1 kHz; espeak-ng's own band ends at 11 kHz, above it the consonants are mirrored up."""
    variant = str(rng.choice(variants))
    voice = f"{language}+{variant}" if variant else language
    with tempfile.NamedTemporaryFile(suffix=".wav") as file:
        command = [
            "espeak-ng",
            "-v",
            voice,
            "-s",
            str(int(rng.uniform(120, 190))),
            "-p",
            str(int(rng.uniform(15, 85))),
            "-w",
            file.name,
            text,
        ]
        subprocess.run(command, check=True, capture_output=True)
        audio, rate = soundfile.read(file.name, dtype="float32")
    clean = soxr.resample(audio, rate, SAMPLE_RATE)
    mirrored = np.zeros(2 * len(audio), np.float32)
    mirrored[::2] = 2 * audio
    mirrored = soxr.resample(mirrored, 2 * rate, SAMPLE_RATE)
    n = min(len(clean), len(mirrored))
    # The far end of the mirror image is the voice's fundamental: keep what lies near the seam.
    top = scipy.signal.sosfilt(AIR_BAND, mirrored[:n] - clean[:n]).astype(np.float32)
    return clean[:n] + top * np.float32(10 ** (rng.uniform(-18, -4) / 20))


def speak(rng: np.random.Generator, sung: bool, held_out: bool = False) -> tuple[Array, Array]:
    """(audio, f0 at CONTROL_RATE) of a sentence, spoken or re-pitched to a melody with other formants."""
    import pyworld

    texts = HELD_OUT_TEXTS if held_out else TEXTS
    language, text = texts[int(rng.integers(len(texts)))]
    audio = espeak(rng, text, language, HELD_OUT_VARIANTS if held_out else VARIANTS)
    double = audio.astype(np.float64)
    period = 1000 / CONTROL_RATE
    f0, times = pyworld.harvest(double, SAMPLE_RATE, f0_floor=60, f0_ceil=700, frame_period=period)
    f0 = pyworld.stonemask(double, f0, times, SAMPLE_RATE)
    if sung:
        envelope = pyworld.cheaptrick(double, f0, times, SAMPLE_RATE)
        noise = pyworld.d4c(double, f0, times, SAMPLE_RATE)
        stretch = rng.uniform(1.0, 2.0)
        frames = np.minimum((np.arange(int(len(f0) * stretch)) / stretch).astype(int), len(f0) - 1)
        singer = draw_singer(rng)
        melody = compose(rng, singer, len(frames) / CONTROL_RATE + 0.1).f0[: len(frames)]
        warp = rng.uniform(0.85, 1.18)
        bins = np.arange(envelope.shape[1])
        envelope = np.stack([np.interp(bins / warp, bins, row) for row in envelope[frames]])
        f0 = np.where(f0[frames] > 0, melody, 0.0)
        audio = pyworld.synthesize(f0, np.ascontiguousarray(envelope), noise[frames], SAMPLE_RATE, period)
    return _normalised(rng, audio.astype(np.float32)), f0.astype(np.float32)


HELD_OUT_FROM = 9000
"""Clips from this seed on use sentences and voices that training never hears."""


def clip(kind: str, seed: int) -> tuple[Array, Array]:
    """One clip of the corpus by kind and seed: (audio at 44.1 kHz, f0 at CONTROL_RATE)."""
    rng = np.random.default_rng([seed, {"sing": 1, "speech": 2, "sung-speech": 3}[kind]])
    if kind == "sing":
        return sing(rng, rng.uniform(6, 10))
    return speak(rng, sung=kind == "sung-speech", held_out=seed >= HELD_OUT_FROM)


def _write(job: tuple[str, int, str]) -> float:
    kind, seed, folder = job
    audio, f0 = clip(kind, seed)
    soundfile.write(Path(folder) / f"{kind}-{seed:05d}.flac", audio, SAMPLE_RATE, subtype="PCM_16")
    np.save(Path(folder) / f"{kind}-{seed:05d}.f0.npy", f0)
    return len(audio) / SAMPLE_RATE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--clips", type=int, nargs=3, default=[180, 110, 140], metavar=("SUNG", "SPEECH", "SUNG_SPEECH")
    )
    parser.add_argument("--first-seed", type=int, default=0)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    kinds = zip(("sing", "speech", "sung-speech"), options.clips, strict=True)
    jobs = [(kind, options.first_seed + i, str(options.folder)) for kind, count in kinds for i in range(count)]
    with ProcessPoolExecutor() as pool:
        seconds = list(pool.map(_write, jobs, chunksize=4))
    print(f"{len(jobs)} clips, {sum(seconds) / 60:.1f} minutes in {options.folder}")


if __name__ == "__main__":
    main()
