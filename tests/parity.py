"""Every comparison with upstream as data: file, what is compared, the error, the bound. Also writes docs/parity.md.

python -m tests.parity > docs/parity.md
"""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

import trt_svc
from tests import golden, rvc_dec_voices
from tests.golden import FOLDER
from tests.parity_svc import table
from trt_svc.config import MelSpec
from trt_svc.denoiser import Denoiser, _spectrum
from trt_svc.excitation import GlideExcitation, HarmonicExcitation, SineSource
from trt_svc.features import mel as mel_module
from trt_svc.features.mel import log_mel
from trt_svc.noise import Noise
from trt_svc.vocoders.antialias import AntiAliasedSnake, kaiser_lowpass

NVSTFT = MelSpec(44100, 2048, 2048, 512, 128, 40, 16000, "nvstft")
TRAINING = replace(NVSTFT, epsilon=0.0, clip=1e-9)
LINEAR_BOUND, LOG_BOUND = 3e-6, 5e-5


@dataclass(frozen=True)
class Check:
    """One comparison with arrays that upstream made."""

    file: str
    what: str
    error: Callable[[], float]
    bound: float


def _gap(made: np.ndarray | torch.Tensor, expected: np.ndarray) -> float:
    made = np.asarray(made)
    assert made.shape == expected.shape, f"{made.shape} instead of {expected.shape}"
    return float(np.abs(made.astype(np.float64) - expected).max())


def _load(name: str) -> dict[str, np.ndarray]:
    with np.load(FOLDER / f"{name}.npz") as data:
        return {key: data[key] for key in data.files}


# Sources without a network.

VARIANTS: dict[str, SineSource] = {
    "sovits_dec": "sovits-dec",
    "sovits_nsf_interp": "sovits-interp",
    "openvpi_legacy": "openvpi-legacy",
    "openvpi_fast": "openvpi",
}


def noisy_sines(source: SineSource, f0: np.ndarray, initial: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Upstream's sines plus noise, one harmonic at a time through a one-hot merge with its tanh undone."""
    given = {"initial_phase": initial, "sine_noise": noise}
    columns = []
    for h in range(9):
        one = HarmonicExcitation(44100, 64, source, np.eye(9, dtype=np.float32)[h], 0.0)
        run = one.begin(Noise(one.fields, (0,) * len(f0), given))
        columns.append(np.arctanh(run.push(f0, f0.shape[1])["source"][:, 0].astype(np.float64)))
    return np.stack(columns, axis=-1)


def source_checks() -> Iterator[Check]:
    data = _load("source-variants")

    def short(variant: str, silent: bool) -> float:
        noise = data[f"{variant}/rng/1_randn_sine_noise"] * (0 if silent else 1)
        made = noisy_sines(VARIANTS[variant], data["in/f0"], data[f"{variant}/rng/0_rand_phase_ini"], noise)
        return _gap(made, data[f"{variant}/out_no_noise" if silent else f"{variant}/out"])

    def long(variant: str) -> float:
        f0 = data["long/in/f0"]
        noise = np.zeros((1, f0.shape[1] * 64, 9), np.float32)
        made = noisy_sines(VARIANTS[variant], f0, data[f"long/{variant}/rand_phase_ini"], noise)
        return _gap(made[:, -1024:], data[f"long/{variant}/out_tail"])

    def glide(f0: np.ndarray, expected: np.ndarray) -> float:
        made = GlideExcitation(11025.0, 16).begin(Noise((), (0,) * len(f0))).push(f0, f0.shape[1])["source"]
        return _gap(made[..., -expected.shape[-1] :], expected)

    for variant in VARIANTS:
        yield Check("source-variants", f"{variant}, sines and noise", lambda v=variant: short(v, False), 1e-5)
        yield Check("source-variants", f"{variant}, sines alone", lambda v=variant: short(v, True), 1e-5)
        yield Check("source-variants", f"{variant}, end of 1500 frames", lambda v=variant: long(v), 5e-5)
    yield Check("source-variants", "mini", lambda: glide(data["mini/in/f0"], data["mini/out"]), 5e-5)
    yield Check(
        "source-variants",
        "mini, end of 1500 frames",
        lambda: glide(data["long/in/f0"], data["long/mini/out_tail"]),
        5e-5,
    )


# The anti-aliased activation.


def activation_checks() -> Iterator[Check]:
    data = _load("activation-antialias")

    def worst(kind: str, part: str, run: Callable[[AntiAliasedSnake, torch.Tensor], torch.Tensor]) -> float:
        module = AntiAliasedSnake(6, logscale=kind.endswith("log"), has_beta=kind.startswith("snakebeta"))
        weights = {
            f"act.{n}": torch.from_numpy(data[f"{kind}/{n}"]) for n in ("alpha", "beta") if f"{kind}/{n}" in data
        }
        module.load_state_dict(weights)
        with torch.inference_mode():
            made = [run(module, torch.from_numpy(data[f"in/{i}"])) for i in range(4)]
        return max(_gap(m, data[f"{part}/{i}"]) for i, m in enumerate(made))

    for kind in ("snake_log", "snake_lin", "snakebeta_log", "snakebeta_lin"):
        yield Check(
            "activation-antialias", f"{kind}, plain", lambda k=kind: worst(k, f"{k}/plain", lambda m, x: m.act(x)), 5e-6
        )
        yield Check(
            "activation-antialias",
            f"{kind}, anti-aliased",
            lambda k=kind: worst(k, f"{k}/out", lambda m, x: m(x)),
            5e-6,
        )
    yield Check("activation-antialias", "upsampled", lambda: worst("snake_lin", "up", lambda m, x: m.upsample(x)), 5e-6)
    yield Check(
        "activation-antialias",
        "up and down",
        lambda: worst("snake_lin", "down_of_up", lambda m, x: m.downsample(m.upsample(x))),
        5e-6,
    )
    for name in ("filter_up", "filter_down"):
        yield Check("activation-antialias", name, lambda n=name: _gap(kaiser_lowpass(), data[n].ravel()), 1e-9)


# Mel front ends: linear everywhere, logarithmic where the value is far enough above the floor to mean something.


def _mel_pair(file: str, what: str, make: Callable[[], np.ndarray], expected: np.ndarray) -> Iterator[Check]:
    def log_gap() -> float:
        above = expected > -6
        return float(np.abs(make() - expected)[above].max())

    yield Check(file, f"{what}, linear", lambda: _gap(np.exp(make()), np.exp(expected)), LINEAR_BOUND)
    yield Check(file, f"{what}, log", log_gap, LOG_BOUND)


MELS = {
    ("mel-hifigan", "wav", "log_mel_1024_80_hop256_fmax8000"): MelSpec(22050, 1024, 1024, 256, 80, 0, 8000),
    ("mel-bigvgan", "wav", "log_mel_24k_100"): MelSpec(24000, 1024, 1024, 256, 100, 0, 12000),
    ("mel-waveglow", "wav", "log_mel"): MelSpec(22050, 1024, 1024, 256, 80, 0, 8000, "centered", 0.0),
    ("mel-gptsovits", "wav_v3_24k", "log_mel_v3"): MelSpec(24000, 1024, 1024, 256, 100, 0, 12000, epsilon=1e-8),
    ("mel-gptsovits", "wav_v4_32k", "log_mel_v4"): MelSpec(32000, 1280, 1280, 320, 100, 0, 16000, epsilon=1e-8),
}


def mel_checks() -> Iterator[Check]:
    for (file, wav, key), spec in MELS.items():
        data = _load(file)
        yield from _mel_pair(file, key, lambda d=data, w=wav, s=spec: log_mel(d[f"in/{w}"], s), data[f"out/{key}"])
    data = _load("mel-nsf")
    for name, spec in (("nvstft_ln", NVSTFT), ("openvpi_ln_clip1e-9", TRAINING)):
        for shift in ("0_speed1", "3_speed1", "-4_speed1", "0_speed1.25", "-2.5_speed0.8"):
            key, speed = (float(part) for part in shift.split("_speed"))
            what = f"{name}/keyshift{shift}"
            make = lambda s=spec, k=key, v=speed: log_mel(data["in/wav"], s, k, v)  # noqa: E731
            yield from _mel_pair("mel-nsf", what, make, data[f"out/{what}"])
    short = lambda: log_mel(data["in/wav"][2000:2600], NVSTFT)  # noqa: E731
    yield from _mel_pair("mel-nsf", "too short to mirror", short, data["out/nvstft_short600/keyshift0_speed1"])
    ln, log10 = data["out/nvstft_ln/keyshift0_speed1"], data["out/nvstft_log10_times_0.434294/keyshift0_speed1"]
    yield Check("mel-nsf", "log10 from ln", lambda: _gap(mel_module.log10_from_ln(ln), log10), 1e-6)
    gpt = _load("mel-gptsovits")
    for version in ("v3", "v4"):
        ln_mel, scaled = gpt[f"out/log_mel_{version}"], gpt[f"out/norm_mel_{version}"]
        forth = lambda m=ln_mel, s=scaled: _gap(mel_module.gpt_sovits_normalised(m), s)  # noqa: E731
        back = lambda m=ln_mel, s=scaled: _gap(mel_module.gpt_sovits_denormalised(s), m)  # noqa: E731
        yield Check("mel-gptsovits", f"normalised {version}", forth, 1e-6)
        yield Check("mel-gptsovits", f"denormalised {version}", back, 5e-6)


# WaveGlow's denoiser.


def denoiser_checks() -> Iterator[Check]:
    data = _load("waveglow-denoiser")
    denoiser = Denoiser.from_bias_audio(data["in/bias_audio"])
    magnitude = np.abs(_spectrum(data["in/audio"])).transpose(0, 2, 1)
    yield Check("waveglow-denoiser", "bias spectrum", lambda: _gap(denoiser.bias, data["mid/bias_spec"].ravel()), 5e-5)
    yield Check("waveglow-denoiser", "magnitude", lambda: _gap(magnitude, data["mid/audio_magnitude"]), 5e-5)
    for strength in (0.0, 0.1, 1.0):
        make = lambda s=strength: _gap(denoiser(data["in/audio"], s), data[f"out/strength{s}"][:, 0])  # noqa: E731
        yield Check("waveglow-denoiser", f"strength {strength}", make, 1e-5)


def parts() -> list[Check]:
    """Everything but the networks."""
    return [*source_checks(), *activation_checks(), *mel_checks(), *denoiser_checks()]


def network_error(net: golden.GoldenNet, writer: golden.Writer, backend: str = "torch") -> float:
    """Through a checkpoint file and the public call."""
    with tempfile.TemporaryDirectory() as folder:
        path = golden.write_checkpoint(net, writer, Path(folder))
        return golden.error_of(net, trt_svc.load_vocoder(path, source=net.source, backend=backend))


def _voices() -> list[str]:
    """A table of the decoders that this project recorded itself."""
    lines = [
        "",
        "### Decoders of RVC and Applio",
        "",
        "Recorded by this project from the hosts' own classes, unmodified (`tests/record_rvc_dec.py`); inside a voice's",
        "file, with the recorded draws.",
        "",
        "| recording | source | max error | bound |",
        "|---|---|---|---|",
    ]
    for name in (*rvc_dec_voices.SOURCES, rvc_dec_voices.WITHOUT_PITCH):
        with tempfile.TemporaryDirectory() as folder:
            error = rvc_dec_voices.error_of(name, Path(folder))
        source = rvc_dec_voices.SOURCES.get(name, "none")
        lines.append(f"| {name} | {source} | {error:.1e} | {rvc_dec_voices.BOUND:.0e} |")
    return lines


def report() -> str:
    """docs/parity.md."""
    lines = [
        "# Parity with upstream",
        "",
        "<!-- generated by `make parity`; do not edit -->",
        "",
        f"trt_svc {trt_svc.__version__}, torch {torch.__version__}, NumPy {np.__version__}, "
        f"Python {platform.python_version()}, {platform.machine()}.",
        "",
        "## Vocoders",
        "",
        "Max absolute difference between our output and the output of the unmodified upstream code, full scale 1.0,",
        "float32 on the CPU. The reference arrays were made by running each project's own generator with random",
        "weights and recorded noise. Networks go through checkpoint files in every layout seen in the wild and the",
        "public `load_vocoder`; the worst layout is shown.",
        "",
        "### Networks",
        "",
        "| golden file | family | upstream | layouts | max error | bound |",
        "|---|---|---|---|---|---|",
    ]
    for net in golden.networks():
        errors = [network_error(net, writer) for _, writer in golden.layouts(net)]
        family = net.family + (f" ({net.source})" if net.source else "")
        lines.append(
            f"| {net.name} | {family} | {net.meta['upstream']} | {len(errors)} | {max(errors):.1e} | {net.tolerance:.0e} |"
        )
    lines += _voices()
    lines += ["", "### Parts", "", "| golden file | what | max error | bound |", "|---|---|---|---|"]
    lines += [f"| {check.file} | {check.what} | {check.error():.1e} | {check.bound:.0e} |" for check in parts()]
    return "\n".join([*lines, "", *table.report()])


if __name__ == "__main__":
    print(report())
