"""What `trt-svc convert` has to make: every recording in every voice, and what the files are called."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

from trt_svc.audio_blocks import SUBTYPES
from trt_svc.errors import AudioFileError, InputError, OutputError, shown
from trt_svc.svc.conversion import ONLY, Conversion

RAW = Path("raw")
RECORDINGS = (".wav", ".flac", ".ogg", ".mp3", ".opus", ".aif", ".aiff", ".au", ".w64", ".caf")
MAX_NAME_BYTES = 255
MIXED = "spk_mix"
KINDS = {None: "sovits", "shallow": "sovdiff", ONLY: "diff"}


@dataclass(frozen=True)
class Given:
    """A recording, and what results made of it are called after."""

    name: str
    path: Path


@dataclass(frozen=True)
class Job:
    """One recording by one speaker."""

    source: Path
    output: Path
    options: Conversion

    @property
    def singer(self) -> str:
        """The speaker as a word."""
        return MIXED if self.options.speaker_mix is not None else str(self.options.speaker)

    def check(self) -> None:
        """Refuses what cannot come to a good end, before any work."""
        if not self.source.exists():
            found = f"there is no such file, nor one of that name in {RAW}/."
            raise AudioFileError(f"recording {shown(str(self.source))}", found, "Check the name.")
        if len(os.fsencode(self.output.name)) > MAX_NAME_BYTES:
            found = f"the name is longer than {MAX_NAME_BYTES} bytes."
            raise OutputError(f"writing {shown(self.output.name)}", found, "Rename the recording.")


def audio_format(asked: str) -> str:
    """The suffix of a format, checked."""
    kind = asked.lower().lstrip(".")
    if kind not in SUBTYPES:
        advice = f"Use one of: {', '.join(SUBTYPES)}."
        raise InputError(f"audio format {shown(asked)!r}", "there is no such format.", advice)
    return kind


def named_recordings(names: Sequence[str], root: Path) -> list[Given]:
    """Recordings by so-vits-svc's names, which are those of files in raw/; any path is good as well."""
    return [Given(PurePath(name).name, _recording(name, root)) for name in names]


def _recording(name: str, root: Path) -> Path:
    usual = name if "." in name else f"{name}.wav"
    given = [_at_home(name), _at_home(usual)]
    in_raw = [RAW / usual, root / RAW / usual]
    bare = PurePath(name).name == name
    places = [*in_raw, *given] if bare else [*given, *in_raw]
    return next((path for path in places if _is_file(path)), given[1])


def _at_home(name: str) -> Path:
    try:
        return Path(name).expanduser()
    except RuntimeError:  # an unknown ~user
        return Path(name)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def recordings_below(folder: Path, outputs: Path, made: Collection[str] = ()) -> list[Given]:
    """Every recording in a folder and the folders in it, but for what lies where the results go.

    Where they go into that folder itself, files that were made before (names in `outputs`) are left out.
    """
    if not folder.is_dir():
        raise InputError(f"folder {shown(str(folder))}", "there is no such folder.", "Check the name (--batch-dir).")
    done = outputs.resolve()
    found = [
        Given(path.name, path)
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in RECORDINGS
        and not path.name.startswith(".")
        and path.is_file()
        and (done == folder.resolve() or not path.resolve().is_relative_to(done))
        and not (path.name in made and path.resolve().parent == done)
    ]
    if not found:
        advice = f"Known are: {', '.join(RECORDINGS)}."
        raise InputError(f"folder {shown(str(folder))}", "there are no recordings in it.", advice)
    return found


def jobs(
    recordings: Sequence[Given],
    transpositions: Sequence[float],
    speakers: Mapping[str, str | int | None],
    options: Conversion,
    folder: Path,
    kind: str,
    f0_name: str,
) -> list[Job]:
    """Every recording, at its transposition, by every speaker (label -> name or number), under upstream's names."""
    keys = [*transpositions, *[transpositions[0]] * (len(recordings) - len(transpositions))]
    made: dict[Path, Job] = {}
    for recording, key in zip(distinct_names(recordings), keys, strict=False):
        for label, speaker in speakers.items():
            asked = replace(options, transpose=key, speaker=speaker)
            output = folder / output_name(recording.name, label, asked, kind, f0_name)
            job = Job(recording.path, output, asked)
            while made.get(job.output, job) != job:
                job = replace(job, output=_numbered(output, len(made) + 1))
            made[job.output] = job
    return list(made.values())


def _numbered(output: Path, number: int) -> Path:
    """Another name, for what two speakers would both be called once their names fit into a file's."""
    return output.with_name(f"{output.stem}_{number}{output.suffix}")


def output_name(clean_name: str, speaker: str, options: Conversion, kind: str, f0_name: str) -> str:
    """`{recording}_{key}_{speaker}{cluster ratio}_{what made it}_{pitch}.{format}`"""
    key = "auto" if options.auto_f0 else f"{options.transpose:g}key"
    cluster = f"_{options.cluster_ratio}" if options.cluster_ratio else ""
    name = f"{clean_name}_{key}_{speaker}{cluster}_{KINDS[options.diffusion]}_{f0_name}.{kind}"
    return "".join(letter if letter.isprintable() and letter not in '/\\:*?"<>|' else "_" for letter in name)


def distinct_names(recordings: Sequence[Given]) -> Iterator[Given]:
    """The same; another file of a name that was there before gets a number in its name."""
    names: dict[tuple[str, Path], str] = {}
    given = {recording.name.casefold() for recording in recordings}
    taken: set[str] = set()
    for recording in recordings:
        key = recording.name, recording.path.absolute()
        if key not in names:
            names[key] = _free_name(recording.name, taken, given)
            taken.add(names[key].casefold())
        yield Given(names[key], recording.path)


def _free_name(name: str, taken: set[str], given: set[str]) -> str:
    free, number = name, 1
    while free.casefold() in taken or (number > 1 and free.casefold() in given):
        number += 1
        free = f"{PurePath(name).stem}_{number}{PurePath(name).suffix}"
    return free
