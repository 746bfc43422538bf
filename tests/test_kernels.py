"""The fused kernels in Triton's interpreter, and the shipped machine code as far as it can be checked without a GPU."""

from __future__ import annotations

import ctypes
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TRITON_INTERPRET", "1")  # before triton is imported

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from benchmarks import kernels_page
from trt_svc.errors import BackendUnavailable, InputError
from trt_svc.excitation import Excitation, GlideExcitation, HarmonicExcitation, PlainExcitation, SineSource
from trt_svc.graph.rewrites.two_phase import SlicePhases
from trt_svc.kernels import (
    ahead,
    antialiased_snake,
    archive,
    available,
    driver,
    launch,
    nsf_source,
    residual_tail,
    snake,
)
from trt_svc.kernels.ahead import all_variants
from trt_svc.kernels.variants import BITS
from trt_svc.noise import Noise
from trt_svc.vocoders.antialias import AntiAliasedSnake, kaiser_lowpass

pytest.importorskip("triton")

LENGTHS = st.integers(1, 70)
MOST_ERROR = 1e-5
LEAST_SNR_DB = {torch.float16: 60.0, torch.bfloat16: 42.0}
"""bfloat16 holds 8 bits, and the interpreter cuts the others off."""


def drawn(length: int, channels: int = 3, batch: int = 2, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """(x, a, inverse) of about the sizes that trained networks have."""
    generator = torch.Generator().manual_seed(1000 * seed + length)
    x = 2 * torch.randn(batch, channels, length, generator=generator)
    a, inverse = torch.randn(2, channels, generator=generator).exp()
    return x, a, inverse


def snr_db(made: Tensor, expected: Tensor) -> float:
    noise = (made.double() - expected.double()).pow(2).mean()
    return float(10 * torch.log10(expected.double().pow(2).mean() / noise))


def off(made: Tensor, expected: Tensor) -> float:
    assert made.shape == expected.shape
    return float((made - expected).abs().max())


def test_on_the_cpu_they_run_in_the_interpreter_only(monkeypatch: pytest.MonkeyPatch) -> None:
    assert available("cpu")
    monkeypatch.delenv("TRITON_INTERPRET")
    monkeypatch.setattr(launch, "_STARTERS", {})
    assert not available("cpu")
    assert not available("meta")
    for _ in range(2):
        with pytest.raises(BackendUnavailable, match="the CPU has none"):
            snake.run(*drawn(4))


# Float32 against the operations one by one.


@settings(max_examples=12, deadline=None)
@given(length=LENGTHS)
def test_antialiased_snake(length: int) -> None:
    x, a, inverse = drawn(length)
    assert off(antialiased_snake.run(x, a, inverse), antialiased_snake.reference(x, a, inverse)) < MOST_ERROR


def test_the_filter_is_symmetric() -> None:
    """The program holds half of it."""
    assert torch.equal(kaiser_lowpass(), kaiser_lowpass().flip(0))


@pytest.mark.parametrize("length", [1, 2, 15, 16, 17, 48])
def test_antialiased_snake_is_the_networks(length: int) -> None:
    x, a, inverse = drawn(length, channels=4)
    module = AntiAliasedSnake(4, logscale=True, has_beta=True).requires_grad_(False)
    module.act.alpha.copy_(a.log())
    assert module.act.beta is not None
    module.act.beta.copy_((1 / inverse).log())
    made = antialiased_snake.run(x, a, inverse)
    assert off(made, module(x)) < MOST_ERROR
    assert off(made, SlicePhases(module)(x)) < MOST_ERROR


@settings(max_examples=10, deadline=None)
@given(length=LENGTHS)
def test_snake(length: int) -> None:
    x, a, inverse = drawn(length)
    assert off(snake.run(x, a, inverse), snake.reference(x, a, inverse)) < MOST_ERROR


@settings(max_examples=10, deadline=None)
@given(length=LENGTHS, biased=st.booleans())
def test_add_leaky(length: int, biased: bool) -> None:
    x, bias, _ = drawn(length)
    y, _, _ = drawn(length, seed=1)
    made = residual_tail.add_leaky(x, y, 0.1, bias if biased else None)
    expected = residual_tail.reference_add_leaky(x, y, 0.1, bias if biased else None)
    assert max(map(off, made, expected)) < MOST_ERROR


@settings(max_examples=10, deadline=None)
@given(length=LENGTHS, branches=st.integers(1, 5))
def test_mean_leaky(length: int, branches: int) -> None:
    tensors = [drawn(length, seed=i)[0] for i in range(branches)]
    made = residual_tail.mean_leaky(tensors, 1 / branches, 0.1, keep_sum=True)
    expected = residual_tail.reference_mean_leaky(tensors, 1 / branches, 0.1)
    assert max(map(off, made, expected)) < MOST_ERROR
    assert off(residual_tail.mean_leaky(tensors, 1 / branches, 0.1), expected[1]) < MOST_ERROR


def test_large_angles() -> None:
    x = torch.linspace(-60, 60, 64).reshape(1, 1, 64)
    a, inverse = torch.tensor([13.0]), torch.tensor([1.0])
    exact = x.double() + torch.sin((x * a).double()) ** 2
    assert off(snake.run(x, a, inverse), exact) < MOST_ERROR


# Half precision against float32.

CALLS: dict[str, Callable[..., Tensor]] = {
    "antialiased_snake": antialiased_snake.run,
    "snake": snake.run,
    "add_leaky": lambda x, a, inverse: torch.cat(residual_tail.add_leaky(x, x.flip(2), 0.1, a.to(x))),
    "mean_leaky": lambda x, a, inverse: residual_tail.mean_leaky([x, x.flip(2), x.flip(1)], 1 / 3, 0.1),
}
REFERENCES: dict[str, Callable[..., Tensor]] = {
    "antialiased_snake": antialiased_snake.reference,
    "snake": snake.reference,
    "add_leaky": lambda x, a, inverse: torch.cat(residual_tail.reference_add_leaky(x, x.flip(2), 0.1, a)),
    "mean_leaky": lambda x, a, inverse: residual_tail.reference_mean_leaky([x, x.flip(2), x.flip(1)], 1 / 3, 0.1)[1],
}


@pytest.mark.parametrize("dtype", LEAST_SNR_DB)
@pytest.mark.parametrize("kernel", CALLS)
@pytest.mark.parametrize("length", [1, 13, 32])
def test_half_precision(kernel: str, dtype: torch.dtype, length: int) -> None:
    x, a, inverse = drawn(length, channels=8)
    x = x.to(dtype)
    made = CALLS[kernel](x, a, inverse)
    assert made.dtype == dtype
    assert snr_db(made, REFERENCES[kernel](x.float(), a, inverse)) >= LEAST_SNR_DB[dtype]


# Memory in any order.


@pytest.mark.parametrize("kernel", CALLS)
@pytest.mark.parametrize("length", [9, 32])
def test_tensors_that_are_not_contiguous(kernel: str, length: int) -> None:
    x, a, inverse = drawn(2 * length, channels=4)
    views = [
        x[..., ::2],
        x[:, :, 1 : length + 1],
        x[..., :length].transpose(1, 2).contiguous().transpose(1, 2),
        x[:1, :, :length].expand(3, -1, -1),
    ]
    for view in views:
        expected = REFERENCES[kernel](view.contiguous(), a, inverse)
        assert off(CALLS[kernel](view, a, inverse), expected) < MOST_ERROR


def test_memory_that_begins_anywhere() -> None:
    """Rows of whole groups, but no pointer that a wide load could take."""
    x, a, inverse = drawn(32, batch=1, channels=1)
    shifted = torch.empty(33)[1:].view(1, 1, 32)
    shifted.copy_(x)
    for kernel, call in CALLS.items():
        assert off(call(shifted, a, inverse), REFERENCES[kernel](x, a, inverse)) < MOST_ERROR


def test_nothing_in_nothing_out() -> None:
    x, a, inverse = drawn(4, batch=1)
    for empty in (x[:0], x[..., :0]):
        assert antialiased_snake.run(empty, a, inverse).shape == empty.shape
        assert residual_tail.add_leaky(empty, empty, 0.1)[1].shape == empty.shape


def test_what_does_not_fit_is_refused() -> None:
    x, a, inverse = drawn(4)
    with pytest.raises(InputError, match="float64"):
        snake.run(x.double(), a, inverse)
    with pytest.raises(InputError, match="differ"):
        residual_tail.add_leaky(x, x[..., :2], 0.1)
    with pytest.raises(InputError, match="none were given"):
        residual_tail.mean_leaky([], 1.0, 0.1)


# The source.

SOURCES: tuple[SineSource, ...] = ("openvpi", "openvpi-legacy", "sovits-interp", "sovits-dec")
F0 = np.array([[0, 110, 440, 441, 900, 0], [0, 70, 80, 80, 300, 1200]], np.float32)


def harmonic(source: SineSource, harmonics: int, samples: int = 32) -> HarmonicExcitation:
    weight = np.random.default_rng(harmonics).standard_normal(harmonics).astype(np.float32)
    return HarmonicExcitation(44100, samples, source, weight, 0.05)


def noise_of(excitation: Excitation) -> Noise:
    return Noise(excitation.fields, (5, 2**63 + 7), first_frame=[3, 100_000])


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("harmonics", nsf_source.SHIPPED_HARMONICS)
def test_source(source: SineSource, harmonics: int) -> None:
    excitation = harmonic(source, harmonics)
    made = nsf_source.run(excitation, F0, noise_of(excitation), "cpu")
    assert off(made, nsf_source.reference(excitation, F0, noise_of(excitation))) < MOST_ERROR


@pytest.mark.parametrize("source", ["openvpi", "sovits-dec"])
def test_source_in_pieces_is_the_source(source: SineSource) -> None:
    excitation = harmonic(source, 1)
    run = nsf_source.HarmonicSource(excitation, noise_of(excitation), "cpu")
    pieces = [run.next(F0[:, first:last]) for first, last in ((0, 1), (1, 1), (1, 4), (4, 6))]
    assert torch.equal(torch.cat(pieces, dim=2), nsf_source.run(excitation, F0, noise_of(excitation), "cpu"))


def test_gliding_source() -> None:
    excitation = GlideExcitation(44100 / 8, 10)
    made = nsf_source.run(excitation, F0, noise_of(excitation), "cpu")
    assert off(made, nsf_source.reference(excitation, F0, noise_of(excitation))) < MOST_ERROR


def test_sources_that_only_the_host_makes() -> None:
    excitation = harmonic("openvpi", 9)
    brought = {"sine_noise": np.zeros((2, F0.size * 16, 9), np.float32)}
    cases: list[tuple[Excitation, Noise]] = [
        (excitation, Noise(excitation.fields, (0, 0), brought)),
        (harmonic("openvpi", 9, samples=441), noise_of(excitation)),
        (harmonic("openvpi", 4), noise_of(excitation)),
        (PlainExcitation(), noise_of(excitation)),
    ]
    for given_excitation, noise in cases:
        assert not nsf_source.supports(given_excitation, noise)
        with pytest.raises(InputError, match="the host makes every source"):
            nsf_source.run(given_excitation, F0, noise, "cpu")


# What is shipped.


def test_shipped_kernels_are_those_of_the_sources() -> None:
    assert archive.shipped().manifest["sources"] == ahead.sources(), "run `make kernels`"
    assert set(archive.shipped().kernels) == {variant.name for variant in all_variants()}


def test_every_kernel_is_shipped_for_every_target() -> None:
    for variant in all_variants():
        for target in [f"sm{sm}" for sm in archive.TARGETS]:
            code = archive.shipped().code(variant.name, target)
            assert code is not None
            assert code.function == variant.program
            assert code.types == variant.types
            assert code.image.startswith(b"\x7fELF")
            assert not code.is_text
        text = archive.shipped().code(variant.name, archive.PTX)
        assert text is not None
        assert text.is_text
        assert f".entry {variant.program}(".encode() in text.image
        assert text.image.count(b".param .") == len(variant.types)


def test_no_kernel_spills() -> None:
    for name, kernel in archive.shipped().kernels.items():
        for target, image in kernel["images"].items():
            assert image["spilled_bytes"] == 0, (name, target)
            assert image["shared_bytes"] <= 48 * 1024, (name, target)


@pytest.mark.parametrize(
    ("capability", "target"),
    [
        ((7, 0), None),
        ((7, 5), "sm75"),
        ((8, 0), "sm80"),
        ((8, 6), "sm86"),
        ((8, 7), "ptx"),
        ((8, 8), "sm86"),
        ((8, 9), "sm89"),
        ((9, 0), "sm90"),
        ((10, 0), "ptx"),
        ((12, 0), "sm120"),
        ((12, 1), "sm120"),
        ((13, 0), "ptx"),
    ],
)
def test_target_of_a_gpu(capability: tuple[int, int], target: str | None) -> None:
    assert archive.target_for(capability) == target


def test_a_damaged_archive_is_noticed() -> None:
    shipped = archive.shipped()
    images = {f"{name}.{target}": b"?" for name, kernel in shipped.kernels.items() for target in kernel["images"]}
    with pytest.raises(archive.EngineError, match="damaged"):
        archive.Archive(shipped.manifest, images).code(next(iter(shipped.kernels)), "sm80")


def test_archives_of_equal_images_are_equal() -> None:
    images = {"b": b"2" * 1000, "a": b"1"}
    assert archive.packed(images) == archive.packed(dict(reversed(images.items())))
    assert archive.unpacked(archive.packed(images)) == images


# Starting machine code.


class Driver:
    """Stands in for libcuda: reads the arguments where a GPU would."""

    def __init__(self, types: tuple[tuple[str, str], ...]) -> None:
        self.types = types
        self.arguments: list[object] = []
        self.sizes: tuple[int, ...] = ()

    def cuLaunchKernel(self, function: object, *rest: object) -> int:
        *sizes, _stream, addresses, _extra = rest
        self.sizes = tuple(size.value for size in sizes)  # type: ignore[attr-defined]
        kinds = [ctypes.c_uint64 if kind[0] == "*" else launch._C_TYPES[kind] for _, kind in self.types]
        self.arguments = [
            ctypes.cast(address, ctypes.POINTER(kind)).contents.value
            for address, kind in zip(addresses, kinds, strict=True)  # type: ignore[call-overload]
        ]
        return 0

    def cuModuleLoadData(self, *_: object) -> int:
        return 300

    def cuGetErrorString(self, _status: object, text: object) -> int:
        ctypes.cast(text, ctypes.POINTER(ctypes.c_char_p)).contents.value = b"invalid kernel image"  # type: ignore[arg-type]
        return 0


def test_arguments_reach_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    variant = residual_tail.variants()[0]
    code = launch.shipped_code(variant, (8, 9))
    assert code is not None
    stand_in = Driver(code.types)
    monkeypatch.setattr(driver, "library", lambda: stand_in)
    x = torch.zeros(8)
    values = [x, x, x, 2, 4, 3, 0.25, x, x]
    driver.launch(ctypes.c_void_p(1), 7, code.threads, code.shared_bytes, 0, launch.packed(code, values))
    assert stand_in.arguments == [v.data_ptr() if isinstance(v, Tensor) else v for v in values]
    assert stand_in.sizes == (7, 1, 1, 128, 1, 1, code.shared_bytes)
    with pytest.raises(BackendUnavailable, match="300: invalid kernel image"):
        driver.loaded(code.image, code.function)


def test_wrong_arguments_do_not_reach_it() -> None:
    code = launch.shipped_code(residual_tail.variants()[0], (8, 9))
    assert code is not None
    x = torch.zeros(8)
    with pytest.raises(InputError, match="slope"):
        launch.packed(code, [x, x, x, 2, 4, 3, x, x, x])
    with pytest.raises(InputError, match="bias"):
        launch.packed(code, [x, x, 1, 2, 4, 3, 0.25, x, x])
    with pytest.raises(ValueError, match="shorter"):
        launch.packed(code, [x, x])


def test_without_a_gpu_the_reason_is_told() -> None:
    assert launch.shipped_code(residual_tail.variants()[0], (7, 0)) is None
    x, a, inverse = drawn(4)
    with launch.only("shipped"), pytest.raises(BackendUnavailable, match="machine code of GPUs"):
        snake.run(x, a, inverse)
    if not available("cuda"):
        try:
            driver.library()
        except BackendUnavailable as err:
            assert "driver" in err.advice


# Compiling.

FRESH = """
import json
from trt_svc.kernels import ahead, antialiased_snake, nsf_source, residual_tail, snake
variants = {v.program: v for m in (antialiased_snake, snake, residual_tail, nsf_source) for v in m.variants()
            if v.dtype != "bf16" and dict(v.constants).get("WHOLE", 1)}
kernels, _ = ahead.built(variants.values())
print(json.dumps(kernels))
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the assembler that was used is another program here")
def test_every_program_compiles_afresh_for_every_target() -> None:
    """In a process of its own, where triton does not interpret; to the bytes that are shipped."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", FRESH], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    kernels = json.loads(done.stdout)
    assert {kernel["program"] for kernel in kernels.values()} == {variant.program for variant in all_variants()}
    import triton

    for name, kernel in kernels.items():
        assert {*kernel["images"]} == {*(f"sm{sm}" for sm in archive.TARGETS), archive.PTX}
        if triton.__version__ == archive.shipped().manifest["triton"]:
            assert kernel == archive.shipped().kernels[name]


def test_dtypes_are_those_of_the_halves() -> None:
    assert {variant.dtype for variant in all_variants()} == set(BITS)


def test_the_page_is_that_of_the_manifest(capsys: pytest.CaptureFixture[str]) -> None:
    kernels_page.main()
    page = Path(__file__).parents[1] / "docs" / "kernels.md"
    assert page.read_text("utf-8") == capsys.readouterr().out, "run `make kernels`"
