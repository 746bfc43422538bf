"""Measures the demo voice on clips it never heard, beside an untrained network and WORLD, and ships a training run.

python -m demo.evaluate                          # the shipped voice
python -m demo.evaluate --take training.pt       # ship a training run: weights, clips, loss curve, figures, model card
"""

from __future__ import annotations

import argparse
import json
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soxr
import torch

import trt_svc
from demo.corpus import SAMPLE_RATE, clip
from trt_svc.audio import write_audio
from trt_svc.checkpoints.convert import convert_checkpoint
from trt_svc.checkpoints.locate import DEMO_FOLDER
from trt_svc.copysynthesis import vocode
from trt_svc.loading import load_vocoder
from trt_svc.session import Vocoder

HELD_OUT = [(kind, 9000 + i) for kind in ("sing", "sung-speech", "speech") for i in range(4)]
DEMO_CLIPS = {"sung": ("sing", 9101), "spoken": ("speech", 9102)}
METRICS = {"mel L1": "lower", "MR-STFT": "lower", "PESQ-wb": "higher", "ViSQOL": "higher"}

Synthesis = Callable[[np.ndarray], np.ndarray]


def measure(real: np.ndarray, made: np.ndarray, vocoder: Vocoder) -> dict[str, float]:
    """Distance between two recordings at 44.1 kHz."""
    import auraloss
    import pesq
    import visqol

    n = min(len(real), len(made))
    real, made = real[:n], made[:n]
    mel = float(np.abs(vocoder.mel(real, SAMPLE_RATE) - vocoder.mel(made, SAMPLE_RATE)).mean())
    stft = auraloss.freq.MultiResolutionSTFTLoss(sample_rate=SAMPLE_RATE)
    both = [torch.from_numpy(x)[None, None] for x in (made, real)]
    at_16k = [soxr.resample(x, SAMPLE_RATE, 16000) for x in (real, made)]
    at_48k = [soxr.resample(x, SAMPLE_RATE, 48000).astype(np.float64) for x in (real, made)]
    judge = visqol.VisqolApi()
    judge.create(mode="audio")
    return {
        "mel L1": mel,
        "MR-STFT": float(stft(*both)),
        "PESQ-wb": float(pesq.pesq(16000, *at_16k, "wb")),
        "ViSQOL": float(judge.measure_from_arrays(*at_48k, sample_rate=48000).moslqo),
    }


def world(audio: np.ndarray) -> np.ndarray:
    """Analysis and resynthesis by WORLD at its own 5 ms resolution (its spectra are far larger than a mel)."""
    import pyworld

    double = audio.astype(np.float64)
    f0, times = pyworld.harvest(double, SAMPLE_RATE, f0_floor=50, f0_ceil=1100)
    f0 = pyworld.stonemask(double, f0, times, SAMPLE_RATE)
    envelope, noise = pyworld.cheaptrick(double, f0, times, SAMPLE_RATE), pyworld.d4c(double, f0, times, SAMPLE_RATE)
    return pyworld.synthesize(f0, envelope, noise, SAMPLE_RATE).astype(np.float32)


def untrained() -> Vocoder:
    """The same network with the random weights that training starts from."""
    from demo.train import upstream_state
    from trt_svc.vocoders.nsf_hifigan import NSFHiFiGAN

    torch.manual_seed(1)
    net = NSFHiFiGAN.from_config(json.loads((DEMO_FOLDER / "config.json").read_text()), {})
    with tempfile.TemporaryDirectory() as folder:
        torch.save({"generator": upstream_state(net)}, Path(folder) / "model.pt")
        return load_vocoder(Path(folder) / "model.pt", config=DEMO_FOLDER / "config.json")


def copied_by(vocoder: Vocoder) -> Synthesis:
    return lambda audio: vocode(vocoder, audio[None], SAMPLE_RATE)[0]


def evaluate() -> dict[str, dict[str, dict[str, float]]]:
    """system -> kind of clip -> metric -> mean over the held-out clips."""
    voice = load_vocoder("demo")
    systems: dict[str, Synthesis] = {
        "demo voice": copied_by(voice),
        "untrained network": copied_by(untrained()),
        "WORLD": world,
    }
    rows: dict[str, dict[str, list[dict[str, float]]]] = {name: {} for name in systems}
    for kind, seed in HELD_OUT:
        audio, _ = clip(kind, seed)
        for name, synthesis in systems.items():
            rows[name].setdefault(kind, []).append(measure(audio, synthesis(audio), voice))
    return {
        name: {kind: {m: float(np.mean([f[m] for f in found])) for m in METRICS} for kind, found in kinds.items()}
        for name, kinds in rows.items()
    }


def table(figures: dict[str, dict[str, dict[str, float]]]) -> str:
    """A Markdown table."""
    lines = ["| clips | system | " + " | ".join(f"{m} ({d} is better)" for m, d in METRICS.items()) + " |"]
    lines.append("|---" * (2 + len(METRICS)) + "|")
    for kind in dict.fromkeys(kind for kind, _ in HELD_OUT):
        for name, kinds in figures.items():
            values = " | ".join(f"{kinds[kind][m]:.3f}" for m in METRICS)
            lines.append(f"| {kind} | {name} | {values} |")
    return "\n".join(lines)


def take(training: Path) -> None:
    """Puts a training run's averaged weights, its curve and the demo clips into the package."""
    state = torch.load(training, weights_only=True)
    with tempfile.TemporaryDirectory() as folder:
        torch.save({"generator": state["generator"]}, Path(folder) / "model.pt")
        convert_checkpoint(
            Path(folder) / "model.pt", DEMO_FOLDER, DEMO_FOLDER / "config.json", source="openvpi", overwrite=True
        )
    (DEMO_FOLDER / "curve.json").write_text(json.dumps(state["curve"], indent=0) + "\n")
    for name, (kind, seed) in DEMO_CLIPS.items():
        audio, _ = clip(kind, seed)
        write_audio(DEMO_FOLDER / f"{name}.flac", audio[: 6 * SAMPLE_RATE], SAMPLE_RATE)


CARD = """# Model card: the demo voice

A small NSF-HiFiGAN ({parameters:.2f} M parameters, 44.1 kHz, hop 512, 128 mels from 40 to 16000 Hz, ResBlock type
{resblock}, {channels} channels), in upstream's config format with the `openvpi` source. It exists so that everything
in this repository can be tried, tested and measured without downloading weights.

- **Licence**: MIT, like the repository. Weights and clips are made by it alone.
- **Use**: demonstrations, tests, benchmarks. Not for records: see the limits.

## Data

All of it is synthesised by `demo/corpus.py` ({clips} clips; nothing is recorded, nothing is downloaded):

- *sing*: a source-filter singer: glottal pulses with vibrato and portamento through random formants, with breath,
  fricatives and plosives, from bass to soprano;
- *speech*: espeak-ng reading sentences in many voices;
- *sung-speech*: the same re-pitched to melodies with WORLD.

The held-out clips use sentences, voices and seeds that training never sees.

## Training

`demo/train.py`, {steps} steps in {minutes:.0f} minutes on two CPU cores (time spent waiting for other work included):
multi-resolution STFT and mel losses, and from about step {adversary} on a small multi-resolution adversary. The weights
are a running average. The run was resumed several times, the last time with `--steps {steps} --adversary-from 0.81`
to end its schedule earlier; the kinks in the curve are resumptions. Held-out log-mel L1 along the way (`curve.json`):

![losses over the steps](curve.png)

{curve}

## Held-out quality

Copy synthesis of {held_out} clips per kind: the clip's own mel and its pitch by swift-f0 go in. Beside it an untrained
network of the same shape and WORLD (harvest, CheapTrick, D4C). Log-mel L1 in nepers, multi-resolution STFT by auraloss,
PESQ wide-band, ViSQOL in audio mode. Written by `python -m demo.evaluate --take`, checked by `make evaluate`.

{table}

## Limits

- Synthetic singing and espeak speech are narrow: real recordings come out duller and rougher than these figures say.
- Small and trained for hours, not weeks: fricatives and dense consonants lose detail, PESQ on speech is low.
- One channel at a time, 44.1 kHz only; f0 outside 60 to 1000 Hz was hardly seen.
"""


def curve_rows(curve: list[dict[str, float]], rows: int = 12) -> str:
    """A Markdown table of some points of the curve."""
    picked = sorted({round(i * (len(curve) - 1) / (rows - 1)) for i in range(rows)})
    names = [name for name in curve[-1] if name.startswith("held_out")]
    lines = ["| step | training | " + " | ".join(n.removeprefix("held_out_") for n in names) + " |"]
    lines.append("|---" * (2 + len(names)) + "|")
    for i in picked:
        values = " | ".join(f"{curve[i][name]:.3f}" for name in names)
        lines.append(f"| {curve[i]['step']:.0f} | {curve[i]['mel']:.3f} | {values} |")
    return "\n".join(lines)


def draw_curve(curve: list[dict[str, float]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(8, 3.5), layout="constrained")
    steps = [point["step"] for point in curve]
    for name in ("mel", *(n for n in curve[-1] if n.startswith("held_out"))):
        label = "training batches" if name == "mel" else name.replace("held_out_", "held out: ")
        axis.plot(steps, [point[name] for point in curve], label=label)
    axis.set(xlabel="step", ylabel="log-mel L1", ylim=(0.2, 1.2))
    axis.legend()
    axis.grid(alpha=0.3)
    figure.savefig(path, dpi=80)
    plt.close(figure)


def write_card(training: Path, clips: int, figures: dict[str, dict[str, dict[str, float]]]) -> None:
    """The model card, from the run and the figures."""
    state = torch.load(training, weights_only=True)
    curve = state["curve"]
    config = json.loads((DEMO_FOLDER / "config.json").read_text())
    draw_curve(curve, DEMO_FOLDER / "curve.png")
    text = CARD.format(
        parameters=load_vocoder("demo").checkpoint.parameters / 1e6,
        resblock=config["resblock"],
        channels=config["upsample_initial_channel"],
        clips=clips,
        steps=state["step"],
        minutes=state["seconds"] / 60,
        adversary=next((point["step"] for point in curve if "critic" in point), "none"),
        curve=curve_rows(curve),
        held_out=sum(1 for kind, _ in HELD_OUT if kind == "sing"),
        table=table(figures),
    )
    (DEMO_FOLDER / "MODEL_CARD.md").write_text(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--take", type=Path, metavar="TRAINING_PT", help="put a run's weights into the package")
    parser.add_argument("--clips", type=int, default=0, help="clips of the corpus, for the card")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    if options.take:
        take(options.take)
    figures = evaluate()
    if options.take:
        (DEMO_FOLDER / "quality.json").write_text(
            json.dumps({"trt_svc": trt_svc.__version__, "held_out": figures}, indent=1) + "\n"
        )
        write_card(options.take, options.clips, figures)
    print(table(figures))


if __name__ == "__main__":
    main()
