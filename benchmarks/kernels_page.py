"""What the fused kernels do and what their compiler says of them, from the shipped manifest: `make kernels`."""

from __future__ import annotations

from trt_svc.kernels import archive, nsf_source
from trt_svc.kernels.antialiased_snake import SAMPLES
from trt_svc.kernels.archive import Kernel

HALF_BYTES = 2

Passes = dict[str, tuple[int, int]]
"""Operation -> samples read and samples written, per sample of the activation."""

SNAKE: Passes = {"a x": (1, 1), "sine": (1, 1), "square": (1, 1), "over b": (1, 1), "plus x": (2, 1)}
AT_TWICE_THE_RATE: Passes = {name: (2 * read, 2 * written) for name, (read, written) in SNAKE.items()}
CHAINS: dict[str, tuple[Passes, tuple[int, int]]] = {
    "antialiased_snake": (
        {
            "pad": (1, 1),
            "transposed convolution": (1, 2),
            "gain": (2, 2),
            **AT_TWICE_THE_RATE,
            "pad at twice the rate": (2, 2),
            "convolution": (2, 1),
        },
        (1, 1),
    ),
    "snake": (SNAKE, (1, 1)),
    "add_leaky": ({"sum": (2, 1), "leaky": (1, 1)}, (2, 2)),
    "mean_leaky, 3 branches": ({"sum": (2, 1), "sum again": (2, 1), "mean": (1, 1), "leaky": (1, 1)}, (3, 1)),
}
"""Upstream's operations one by one, and what the kernel reads and writes."""

PUBLISHED: dict[str, tuple[str, float, float]] = {
    "H200": ("sm90", 67.0, 4.8),
    "A100": ("sm80", 19.5, 2.0),
    "RTX 4090": ("sm89", 82.6, 1.008),
    "T4": ("sm75", 8.1, 0.32),
}
"""GPU -> target, TFLOP/s in float32 and TB/s, as its maker says."""

HEAD = """# Fused kernels

What sits between the convolutions, each in one pass over memory, written in Triton (`trt_svc.kernels`). Machine code
for sm_75, 80, 86, 89, 90 and 120 is shipped with the package, with PTX for GPUs of other kinds from sm_80 on, so users
need no compiler; where triton is installed and works, it compiles them itself. Parity is proven in Triton's interpreter
on the CPU (`tests/test_kernels.py`): float32 to 1e-5, float16 to 60 dB against float32.

How fast they are on a GPU: **not measured**.

| kernel | one pass instead of |
|---|---|
| `antialiased_snake` | BigVGAN's activation: up by two, snake, down by two, with upstream's edges |
| `snake` | x + sin(a x)^2 / b |
| `add_leaky` | the residual's sum (and a bias), and the leaky ReLU that the next convolution reads |
| `mean_leaky` | the mean of a stage's branches and the leaky ReLU behind it |
| `step_source`, `ramp_source` | the NSF source: phase, sines, counter-based noise, merging layer, tanh |
| `glide_source` | mini-NSF's gliding sine |

Arithmetic is float32 whatever is read and written. Sines have no slow path: half precision takes the hardware's sine
(5e-7 beside the rounding of its argument), float32 a polynomial (1.5e-7). A lane, that is a thread, makes some
neighbouring samples of a row in its registers; the anti-aliased snake makes %(doubled)d samples of the doubled rate for
%(samples)d of its own, each once, where one lane per sample would make 12 for one. Forms with `GROUP` above 1 or
`WHOLE1` load 16 bytes at once; the others are for rows that end anywhere and tensors that begin anywhere.

The phase of the source at the start of every frame comes from the host (`trt_svc.phase`, a few numbers per frame), and
its noise from the same random words by position (`trt_svc.noise`), so it is the host's source to 1e-5. Noise that the
caller brings, and frames of odd lengths, stay with the host. No session calls these kernels yet: all sources are made
on the host, as before.
"""


def main() -> None:
    kernels = archive.shipped().kernels
    print(HEAD % {"samples": SAMPLES, "doubled": 2 * (SAMPLES + 6)})
    print("## Bytes per sample\n\nCounted, in float16: every operation reads its inputs and writes its output once.\n")
    print("| kernel | passes | bytes | fused | less by |")
    print("|---|---|---|---|---|")
    for name, (chain, fused) in CHAINS.items():
        apart = HALF_BYTES * sum(map(sum, chain.values()))
        together = HALF_BYTES * sum(fused)
        print(f"| {name} | {len(chain)} | {apart} | {together} | {apart / together:.1f}x |")
    print_bounds(kernels)
    print_table(kernels)


def print_bounds(kernels: dict[str, Kernel]) -> None:
    """What the anti-aliased snake could reach at most."""
    kernel = kernels["antialiased_snake-fp16-WHOLE1-GROUP8"]
    print("\n## What bounds the anti-aliased snake\n")
    print("Predicted from the instructions of its machine code (one per lane and clock of the float32 units), its 4")
    print("bytes per sample in float16, and the published peaks. GSample/s; the smaller one holds.\n")
    print("| GPU | instructions per sample | by instructions | by memory |")
    print("|---|---|---|---|")
    for gpu, (target, tflops, tbytes) in PUBLISHED.items():
        per_sample = kernel["images"][target]["instructions"] / SAMPLES
        print(f"| {gpu} | {per_sample:.0f} | {1e3 * tflops / 2 / per_sample:.0f} | {1e3 * tbytes / 4:.0f} |")


def print_table(kernels: dict[str, Kernel]) -> None:
    """Every form on every target."""
    targets = [f"sm{sm}" for sm in archive.TARGETS]
    version = archive.shipped().manifest["triton"]
    print(f"\n## Every form, compiled by triton {version}\n")
    print(
        "Registers / bytes spilled / bytes of shared memory; 128 threads each. `bf16` on sm_75 converts in software.\n"
    )
    print("| kernel | " + " | ".join(targets) + " | instructions per lane, sm90 |")
    print("|---|" + "---|" * (len(targets) + 1))
    for name, kernel in kernels.items():
        images = [kernel["images"][target] for target in targets]
        cells = [f"{i['registers']} / {i['spilled_bytes']} / {i['shared_bytes']}" for i in images]
        print(f"| {name} | {' | '.join(cells)} | {kernel['images']['sm90']['instructions']} |")
    print(f"\nLanes of the harmonic sources make {nsf_source.SAMPLES} samples.")


if __name__ == "__main__":
    main()
