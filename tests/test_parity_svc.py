"""The parts of the SVC pipeline give upstream's numbers, and docs/parity.md lists every array there is."""

from __future__ import annotations

import json
import re
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import pytest

from tests.golden_svc import FOLDER
from tests.parity_svc.base import EXACT, NETWORK, Comparison, Tolerance
from tests.parity_svc.table import SUBJECTS, cases_of, compared, files, rows_of

DOCUMENT = (Path(__file__).parents[1] / "docs" / "parity.md").read_text("utf-8")


@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda subject: subject.name)
def test_gives_upstreams_numbers(subject) -> None:
    comparisons = compared(subject)
    assert comparisons
    beyond = [f"{one.case}: {one.key}, error {one.error:.1e}" for one in comparisons if not one.of_the_bound <= 1]
    assert not beyond
    missing = {one.key for one in comparisons} - named_in(subject.file)
    assert not missing, f"docs/parity.md lacks {sorted(missing)}: make parity"


def named_in(file: str) -> set[str]:
    """The arrays and patterns in the document's section of a golden file."""
    (section,) = re.findall(rf"\n### {re.escape(file)}\n(.*?)(?=\n##|$)", DOCUMENT, re.DOTALL)
    return set(re.findall(r"`([^`]+)`", section))


@pytest.mark.parametrize("file", files())
def test_every_array_is_in_the_document(file: str) -> None:
    named = named_in(file)
    left = [
        key for key in cases_of(file) if not any(fnmatchcase(key, name) or name.startswith(f"{key}.") for name in named)
    ]
    assert not left, "make parity"


def test_every_golden_file_is_in_the_document() -> None:
    sections = " ".join(files())
    for path in FOLDER.iterdir():
        described = path.suffix in (".json", ".npz") and path.stem in sections
        assert described or path.is_dir() or path.name == "README.md" or f"`{path.name}`" in DOCUMENT, path.name
    cases = json.loads((FOLDER / "e2e" / "e2e.json").read_text("utf-8"))["cases"]
    assert not {case for case in cases if f"`{case}`" not in DOCUMENT}


def test_a_comparison_can_fail() -> None:
    expected = np.array([[1.0, -200.0, np.nan, 0.0]])

    def compare(made: np.ndarray, tolerance: Tolerance = NETWORK) -> Comparison:
        return Comparison("case", "key", made, expected, tolerance)

    assert compare(expected, EXACT).of_the_bound == compare(expected, EXACT).error == 0
    near = expected + 0.003
    assert compare(near).error == pytest.approx(1.5e-5)
    assert compare(near).of_the_bound == pytest.approx(0.75)
    assert compare(expected + 0.005).of_the_bound > 1
    assert compare(near, EXACT).of_the_bound == np.inf
    assert compare(expected + 0.005, Tolerance(1e-4, 0)).of_the_bound == np.inf
    for wrong in (expected[0], expected * np.nan, np.nan_to_num(expected), np.where(expected == 0, np.inf, expected)):
        assert compare(wrong).of_the_bound == compare(wrong).error == np.inf


def test_a_row_shows_its_worst_array() -> None:
    one = np.ones(3)
    ones = [
        Comparison("case", "a", one * 1.00001, one),
        Comparison("case", "b", one, one),
        Comparison("case", "n", one, one, EXACT),
    ]
    assert list(rows_of(ones)) == [
        "| case | `a` `b` | 1.0e-05 | 1e-04 x + 2e-05 max | 8.3 % |",
        "| case | `n` | 0 | exact | - |",
    ]
