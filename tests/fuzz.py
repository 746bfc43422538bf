"""Odd calls, many of them: `make fuzz`. Nothing may crash, be of the wrong length, or stay in memory.

A case is a call of a session or a push of a stream with arguments that are right, nearly right or absurd. It ends in
audio of exactly the right shape, finite, or in a typed error.
"""

from __future__ import annotations

import argparse
import gc
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import track

from tests.nets import utterance, vocoder_of
from trt_svc.build_config import BuildConfig, ShapeRange
from trt_svc.errors import InputError, RunError
from trt_svc.session import Vocoder

NAMES = ("hifigan", "nsf_hifigan", "mini", "sovits_dec", "bigvgan", "gptsovits_dec", "waveglow")
DTYPES = (np.float32, np.float64, np.float16, np.int32, np.int8, np.uint16, np.bool_, np.complex64, object)
VALUES = (0.0, 1.0, -1.0, np.nan, np.inf, -np.inf, 1e30, 1e-30, -11.5, 5.0, 440.0, 1e5)
MAX_FRAMES = 12


def odd_array(rng: np.random.Generator, shape: tuple[int, ...]) -> Any:
    """Something array-like, rarely what was wanted."""
    shape = tuple(max(0, n + int(rng.integers(-1, 2))) if rng.random() < 0.2 else n for n in shape)
    if rng.random() < 0.1:
        shape = shape[1:] if rng.random() < 0.5 else (*shape, 1)
    array = np.full(shape, rng.choice(VALUES)) if rng.random() < 0.3 else rng.normal(-3, 2, shape)
    if array.size and rng.random() < 0.2:
        array.reshape(-1)[rng.integers(array.size)] = rng.choice(VALUES)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        array = array.astype(DTYPES[rng.integers(len(DTYPES))] if rng.random() < 0.3 else np.float32)
    kind = rng.random()
    if kind < 0.1 and array.ndim > 1:
        return np.asfortranarray(array)
    if kind < 0.3 and array.dtype.kind in "fib":
        tensor = torch.from_numpy(np.array(array, copy=True))
        return tensor.requires_grad_() if tensor.is_floating_point() and rng.random() < 0.3 else tensor
    if kind < 0.33:
        return array.tolist()
    return "audio.wav" if kind < 0.34 else array


def maybe(rng: np.random.Generator, right: Any, share: float = 0.75) -> Any:
    """The right argument, or an odd one."""
    if rng.random() < share:
        return right
    return None if rng.random() < 0.1 else odd_array(rng, np.shape(right))


def odd_seed(rng: np.random.Generator, batch: int) -> Any:
    usual: list[Any] = [0, int(rng.integers(2**63)), list(range(batch))]
    odd: list[Any] = [-1, 2**64, 1.5, "7", None, [1], [], [1] * (batch + 1), True, np.int64(3)]
    return usual[rng.integers(len(usual))] if rng.random() < 0.9 else odd[rng.integers(len(odd))]


def one_call(vocoder: Vocoder, rng: np.random.Generator) -> str:
    """A call: "audio", or the name of the error."""
    batch, frames = int(rng.integers(1, 3)), int(rng.integers(1, MAX_FRAMES))
    given = {
        name: maybe(rng, value) for name, value in utterance(vocoder, batch, frames, int(rng.integers(99))).items()
    }
    if rng.random() < 0.05:
        given["sigma"] = float(rng.choice(VALUES))
    if rng.random() < 0.05:
        given["noise"] = {"sine_noise": odd_array(rng, (batch, frames, 9))}
    try:
        made = vocoder(**given, seed=odd_seed(rng, batch))
    except (InputError, RunError) as err:
        # RunError: numbers so large that the network itself makes NaN of them.
        assert err.asked and err.found and err.advice
        return type(err).__name__
    mel = np.shape(given["mel"])
    assert tuple(made.shape) == (mel[0], vocoder.voice.samples_out(mel[2])), (mel, made.shape)
    assert bool(torch.as_tensor(made).isfinite().all())
    return "audio"


def one_stream(vocoder: Vocoder, rng: np.random.Generator) -> str:
    """A stream with some wrong pushes between the right ones: its audio is as if they had not been there."""
    batch, frames = int(rng.integers(1, 3)), int(rng.integers(1, MAX_FRAMES))
    given = utterance(vocoder, batch, frames, int(rng.integers(99)))
    whole = np.asarray(vocoder(**given, seed=3))
    made, at = [], 0
    with vocoder.stream(speaker=given.get("speaker"), seed=3) as stream:
        while at < frames:
            size = int(rng.integers(0, 5))
            cut = {"mel": given["mel"][:, :, at : at + size]}
            if "f0" in given:
                cut["f0"] = given["f0"][:, at : at + size]
            if at and rng.random() < 0.3:
                bad = {name: odd_array(rng, (batch + 1, *np.shape(value)[1:])) for name, value in cut.items()}
                try:
                    stream.push(**{**bad, "mel": np.full((batch + 1, vocoder.spec.n_mels, 3), rng.choice(VALUES))})
                except InputError:
                    pass
                else:
                    raise AssertionError("a bad push went through")
            made.append(stream.push(**cut))
            at += size
        made.append(stream.flush())
    joined = np.concatenate(made, axis=1)
    assert joined.shape == whole.shape, (joined.shape, whole.shape)
    assert np.abs(joined - whole).max() <= 5e-6
    return "stream"


def sessions(folder: Path, names: tuple[str, ...] = NAMES) -> list[Vocoder]:
    """On torch, and one on an engine with stages."""
    ranges = {"frames": (ShapeRange(1, 8, 64),), "batch": ShapeRange(1, 1, 2)}
    build = BuildConfig("onnxruntime", rewrites=(), streaming=True, **ranges)
    engine = vocoder_of("nsf_hifigan", folder / "engine", build=build)
    return [*(vocoder_of(name, folder / name) for name in names), engine]


def fuzz(vocoders: list[Vocoder], cases: int, seed: int = 0, shown: bool = False) -> Counter[str]:
    """So many cases; how they ended."""
    rng = np.random.default_rng(seed)
    ended: Counter[str] = Counter()
    before = [vocoder.backend for vocoder in vocoders]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        for case in track(range(cases), "cases", disable=not shown):
            vocoder = vocoders[case % len(vocoders)]
            ended[(one_stream if case % 25 == 24 else one_call)(vocoder, rng)] += 1
    assert all(vocoder.backend == backend for vocoder, backend in zip(vocoders, before, strict=True))
    return ended


def resident_bytes() -> int:
    """Memory of this process, as the system counts it."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def growth(vocoder: Vocoder, calls: int, shown: bool = False) -> int:
    """Bytes that so many small calls leave behind; a tenth as many before them fill every pool."""
    given = utterance(vocoder, 1, 2)
    for _ in range(calls // 10):
        vocoder(**given)
    gc.collect()
    before = resident_bytes()
    for _ in track(range(calls), "small calls", disable=not shown):
        vocoder(**given)
    gc.collect()
    return resident_bytes() - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--calls", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        vocoders = sessions(Path(folder))
        started = time.perf_counter()
        ended = fuzz(vocoders, options.cases, options.seed, shown=True)
        print(
            f"{options.cases} cases in {time.perf_counter() - started:.0f} s: {dict(ended)}; no crash, no wrong length"
        )
        grown = growth(vocoders[0], options.calls, shown=True)
        print(f"{options.calls} small calls: memory grew by {grown / 2**20:.2f} MiB")
        raise SystemExit(grown >= 1 << 20)


if __name__ == "__main__":
    main()
