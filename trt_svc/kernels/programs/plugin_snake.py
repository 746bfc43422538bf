"""The anti-aliased snake in one kernel for every length, for TensorRT: see `trt_svc.backends.plugin_kernels`.

TensorRT learns a length when it runs, so the choice between the two forms is made on the GPU, the same in all threads
of a launch.
"""

from __future__ import annotations

import triton
import triton.language as tl

from trt_svc.kernels.programs.antialiased_snake import antialiased_snake


@triton.jit(do_not_specialize=["lanes", "length", "segments", "channels"])
def antialiased_snake_plugin(
    x, a, inverse, lanes, length, segments, channels, out,
    QUICK: tl.constexpr, SAMPLES: tl.constexpr, GROUP: tl.constexpr, LANES: tl.constexpr, ALIGNMENT: tl.constexpr,
):  # fmt: skip
    # The compiler is told that everything is aligned; only the first form uses it.
    places = (x.to(tl.int64) | out.to(tl.int64)) % ALIGNMENT
    if (length % SAMPLES == 0) & (places == 0):
        antialiased_snake(x, a, inverse, lanes, length, segments, channels, out, True, QUICK, SAMPLES, GROUP, LANES)
    else:
        antialiased_snake(x, a, inverse, lanes, length, segments, channels, out, False, QUICK, SAMPLES, GROUP, LANES)
