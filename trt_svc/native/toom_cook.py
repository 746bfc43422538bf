"""Fewer multiplications: the Toom-Cook forms of short convolutions, in exact fractions.

m outputs of an r-tap convolution need m * r products directly, and m + r - 1 as y = AT[(G g) * (BT d)]: the taps and
the input are evaluated as polynomials at m + r - 1 points, multiplied point by point, and the product's coefficients
are read off. More points mean fewer products and more rounding; points near 1 keep the rounding small.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import gcd, lcm

import numpy as np

from trt_svc.types import Array

Matrix = list[list[Fraction]]

# Found by trying: the sets of small fractions with the least rounding, in single precision, for so many points.
# The last point of every form is infinity. Pairs of opposite numbers share half of their arithmetic.
_MAGNITUDES = {
    5: ("1",),
    6: ("1", "2"),
    7: ("1", "2"),
    8: ("1", "2", "1/2"),
    10: ("1", "4/3", "1/3", "3"),
    11: ("1", "3/2", "5/2", "3/5"),
    12: ("1", "3/2", "2/3", "1/3", "3"),
    14: ("1", "2", "3", "4/5", "1/4", "3/5"),
    16: ("1", "1/4", "1/2", "5/4", "2", "3/4", "4"),
}
_SINGLE = {5: "2", 7: "1/2", 11: "1/3"}
"""Where zero and pairs leave one out."""


def finite_points(count: int) -> tuple[Fraction, ...]:
    """All points of a form of so many but infinity: zero, pairs, perhaps one more."""
    pairs = [sign * Fraction(m) for m in _MAGNITUDES[count] for sign in (1, -1)]
    single = [Fraction(_SINGLE[count])] if count in _SINGLE else []
    return (Fraction(0), *pairs, *single)


@dataclass(frozen=True)
class Form:
    """Outputs per tile and taps per piece. Longer kernels are cut into pieces, which works where both are equal."""

    outputs: int
    taps: int

    @property
    def points(self) -> int:
        return self.outputs + self.taps - 1

    @property
    def name(self) -> str:
        return f"toom-cook {self.outputs}x{self.taps}"

    def share(self, kernel: int) -> float:
        """Its products as a share of those of the direct way."""
        return self.pieces(kernel) * self.points / (self.outputs * kernel)

    def pieces(self, kernel: int) -> int:
        """Pieces of a kernel of so many taps; 0 where the form does not fit."""
        if kernel <= self.taps:
            return 1
        return -(-kernel // self.taps) if self.outputs == self.taps else 0


FORMS = tuple(
    Form(m, r)
    for m, r in ((4, 2), (4, 3), (6, 3), (8, 3), (4, 4), (4, 5), (6, 5), (4, 7), (6, 7), (8, 7), (6, 6), (6, 11))
)


def matrices(form: Form) -> tuple[Matrix, Matrix, Matrix]:
    """AT, G and BT; BT in the smallest whole numbers, so that the input is not rounded more than needed."""
    n, finite = form.points, finite_points(form.points)
    evaluated = {length: _vandermonde(finite, length) for length in {form.taps, form.outputs}}
    taps_at, outputs_at = evaluated[form.taps], evaluated[form.outputs]
    input_at = _interpolation(finite)
    for point in range(n):
        row = input_at[point]
        shared = Fraction(lcm(*(v.denominator for v in row)), 1)
        shared /= gcd(*(int(v * shared) for v in row))
        input_at[point] = [v * shared for v in row]
        taps_at = [[v / shared for v in r] if i == point else r for i, r in enumerate(taps_at)]
    return [list(column) for column in zip(*outputs_at, strict=True)], taps_at, input_at


def _vandermonde(finite: tuple[Fraction, ...], length: int) -> Matrix:
    """A polynomial of `length` coefficients at every point."""
    return [[p**i for i in range(length)] for p in finite] + [[Fraction(i == length - 1) for i in range(length)]]


def _interpolation(finite: tuple[Fraction, ...]) -> Matrix:
    """Row j: the coefficients of the polynomial that is 1 at point j and 0 at all others."""
    everything = _product(finite)
    rows = []
    for j, p in enumerate(finite):
        others = finite[:j] + finite[j + 1 :]
        scale = Fraction(1)
        for q in others:
            scale *= p - q
        rows.append([*(c / scale for c in _product(others)), Fraction(0)])
    return [*rows, everything]


def _product(roots: tuple[Fraction, ...]) -> list[Fraction]:
    """The coefficients of the polynomial with these roots, lowest first."""
    made = [Fraction(1)]
    for root in roots:
        shifted, scaled = [Fraction(0), *made], [*(-root * c for c in made), Fraction(0)]
        made = [a + b for a, b in zip(shifted, scaled, strict=True)]
    return made


def as_array(matrix: Matrix) -> Array:
    return np.array([[float(v) for v in row] for row in matrix])


def header() -> str:
    """The forms as a C++ header."""
    lines = [
        "// Written by trt_svc.native.toom_cook; do not edit.",
        "#pragma once",
        "",
        "template <int outputs, int taps> struct Form;",
    ]
    for form in FORMS:
        outputs, taps, inputs = matrices(form)
        lines += [
            "",
            f"template <> struct Form<{form.outputs}, {form.taps}> {{",
            f"    static constexpr int points = {form.points}, pairs = {len(_MAGNITUDES[form.points])};",
        ]
        for name, matrix, kind in (("AT", outputs, "float"), ("BT", inputs, "float"), ("G", taps, "double")):
            rows = ["{" + ", ".join(_literal(v, kind) for v in row) + "}" for row in matrix]
            lines.append(f"    static constexpr {kind} {name}[{len(matrix)}][{len(matrix[0])}] = {{")
            lines += [f"        {row}," for row in rows]
            lines.append("    };")
        lines.append("};")
    lines += ["", "#define FOR_EACH_FORM(DO) " + " ".join(f"DO({f.outputs}, {f.taps})" for f in FORMS)]
    return "\n".join(lines) + "\n"


def _literal(value: Fraction, kind: str) -> str:
    return repr(float(value)) + ("f" if kind == "float" else "")
