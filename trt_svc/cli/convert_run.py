"""The work of `trt-svc convert`: every job in turn; what is wrong with one recording does not stop the others."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from trt_svc.checkpoints.locate import read_config
from trt_svc.cli.console import DEBUG_VARIABLE
from trt_svc.cli.convert_jobs import MIXED, Given, Job, audio_format, jobs, named_recordings, recordings_below
from trt_svc.cli.convert_journal import Journal, files_behind, origin_of
from trt_svc.errors import (
    AudioFileError,
    BackendUnavailable,
    BuildError,
    CheckpointError,
    ConfigError,
    InputError,
    MissingExtra,
    TrtSvcError,
    shown,
)
from trt_svc.files import writable_folder
from trt_svc.progress import Progress
from trt_svc.svc.conversion import ONLY, Conversion, Converted
from trt_svc.svc.model_folder import ModelFiles

if TYPE_CHECKING:
    from trt_svc.svc.pipeline import SVCPipeline

FAULTS_OF_THE_MODEL = (CheckpointError, ConfigError, BuildError, BackendUnavailable, MissingExtra)
"""Where no recording has come through before one of these, none will."""
MAX_MIX_BYTES = 1 << 20
_MIX_FORM = '{"speaker": [[start, stop, from, to], ...], ...}, start and stop from 0 to 1.'


@dataclass(frozen=True)
class Wanted:
    """What to convert, into what, and where to."""

    names: Sequence[str]
    batch_dir: Path | None
    transpositions: Sequence[float]
    speakers: Sequence[str]
    options: Conversion
    output_dir: Path
    kind: str
    resume: bool
    how: Mapping[str, str | None]
    """What else the sound depends on: backend, precision, compat."""

    def recordings(self, files: ModelFiles) -> list[Given]:
        """All of them, by name and from the folder."""
        given = named_recordings(self.names, files.root)
        if self.batch_dir:
            given += recordings_below(self.batch_dir, self.output_dir, Journal(self.output_dir).names())
        if not given:
            advice = "Name recordings (-n song.wav, looked up in raw/ too), or give a folder (--batch-dir)."
            raise InputError("converting", "no recording is given.", advice)
        return given

    def voices(self, files: ModelFiles) -> dict[str, str | int | None]:
        """Label -> speaker."""
        if self.options.speaker_mix is not None:
            return {MIXED: None}
        if self.speakers:
            return {name: name for name in self.speakers}
        known = _speakers(files, self.options.diffusion == ONLY)
        if len(known) > 1:
            found = f"the model has {len(known)}: {', '.join(shown(name) for name in known[:20])}."
            raise InputError("which speaker", found, "Choose with -s.")
        return {known[0]: known[0]} if known else {"0": 0}


def _speakers(files: ModelFiles, without_voice: bool) -> list[str]:
    """The names in the config, for which no network has to be read."""
    config = read_config(files.need_diffusion_config() if without_voice else files.need_voice_config())
    named = config.get("spk")
    return [str(name) for name in named] if isinstance(named, Mapping) else []


@dataclass(frozen=True)
class Outcome:
    """What became of a job."""

    job: Job
    status: Literal["converted", "kept", "failed"]
    converted: Converted | None = None
    error: Mapping[str, str] | None = None

    def as_dict(self) -> dict[str, Any]:
        options = self.job.options
        told = {
            "source": str(self.job.source),
            "output": str(self.job.output),
            "speaker": self.job.singer,
            "transpose": options.transpose,
            "status": self.status,
        }
        if self.converted is not None:
            told |= {name: value for name, value in self.converted.as_dict().items() if name != "output"}
        return told if self.error is None else {**told, "error": dict(self.error)}


def outcomes(pipe: SVCPipeline, wanted: Wanted, progress: Progress) -> Iterator[Outcome]:
    """Every job done, one after the other."""
    files = pipe.model.files
    made = jobs(
        wanted.recordings(files),
        wanted.transpositions,
        wanted.voices(files),
        wanted.options,
        wanted.output_dir,
        audio_format(wanted.kind),
        pipe.model.f0_method(wanted.options.f0),
    )
    known = pipe.model.speakers(wanted.options.diffusion == ONLY)
    for speaker in wanted.speakers if wanted.options.speaker_mix is None else ():
        known.number(speaker)  # before the work, and once
    writable_folder(wanted.output_dir)
    journal = Journal(wanted.output_dir)
    worked = checked = False
    for number, job in enumerate(made, 1):
        try:
            job.check()
            origin = origin_of(job, files_behind(job, files), wanted.how)
        except (TrtSvcError, OSError) as error:
            yield Outcome(job, "failed", error=_told(error, job))
            continue
        if wanted.resume and journal.holds(job, origin):
            yield Outcome(job, "kept")
            continue
        if not checked:
            pipe.model.require(wanted.options)  # what no recording can be converted with is said once
            checked = True
        titled = _Titled(progress, f"{number}/{len(made)} {shown(job.source.name)}, {shown(job.singer)}")
        outcome = _outcome(pipe, job, titled, model_works=worked)
        worked = worked or outcome.status == "converted"
        if outcome.status == "converted":
            _record(journal, job, origin)
        yield outcome


class _Titled:
    """Progress of one job among many."""

    def __init__(self, progress: Progress, title: str) -> None:
        self._progress, self._title = progress, title

    def stage(self, name: str) -> None:
        self._progress.stage(f"{self._title}: {name}")

    def step(self, done: int, total: int) -> None:
        self._progress.step(done, total)

    @property
    def cancelled(self) -> bool:
        return self._progress.cancelled


def _outcome(pipe: SVCPipeline, job: Job, progress: Progress, model_works: bool) -> Outcome:
    try:
        return Outcome(job, "converted", pipe.convert_file(job.source, job.output, job.options, progress))
    except TrtSvcError as error:
        if isinstance(error, FAULTS_OF_THE_MODEL) and not model_works:
            raise
        return Outcome(job, "failed", error=error.as_dict())
    except Exception as error:
        if os.environ.get(DEBUG_VARIABLE):
            raise
        return Outcome(job, "failed", error=_bug(error))


def _record(journal: Journal, job: Job, origin: str) -> None:
    try:
        journal.record(job, origin)
    except OSError as error:
        told = f"{error} Without it, --resume converts {shown(job.source.name)} again."
        warnings.warn(told, UserWarning, stacklevel=2)


def _told(error: Exception, job: Job) -> dict[str, str]:
    if isinstance(error, TrtSvcError):
        return error.as_dict()
    asked, found = f"recording {shown(str(job.source))}", f"it cannot be looked up ({shown(str(error))})."
    return AudioFileError(asked, found, "Check the name and the folder's rights.").as_dict()


def _bug(error: Exception) -> dict[str, str]:
    return {
        "error": "InternalError",
        "asked": "converting",
        "found": f"{type(error).__name__}: {shown(str(error))}.",
        "advice": f"This is a bug of trt-svc. Run it again with {DEBUG_VARIABLE}=1 and report what it prints.",
    }


def one_model(argument: str | None, option: str | None) -> str:
    """Where the model is: named one way or the other, else here."""
    if argument and option and argument != option:
        asked = f"model {shown(argument)} and -m {shown(option)}"
        raise InputError(asked, "two models are named.", "Leave one out; recordings are named with -n.")
    return argument or option or "."


def mix_of(asked: bool, path: Path | None) -> dict[str | int, Any] | None:
    """The map of speakers over time, where one is asked for."""
    if asked and path is None:
        found = "so-vits-svc's spkmix.py is a program, which is not run here."
        raise InputError("mixing speakers (-usm)", found, f"Give its map as a JSON file (--mix): {_MIX_FORM}")
    return None if path is None else read_mix(path)


def read_mix(path: Path) -> dict[str | int, Any]:
    """A map of speakers over time out of a JSON file; its segments are checked by who uses them."""
    what = f"speaker mix {shown(path.name)}"
    advice = f"Write {_MIX_FORM}"
    try:
        if path.stat().st_size > MAX_MIX_BYTES:
            raise InputError(what, "it is larger than 1 MB.", advice)
        made = json.loads(path.read_text("utf-8-sig"))
    except (OSError, ValueError, RecursionError) as err:
        if isinstance(err, InputError):
            raise
        raise InputError(what, f"it cannot be read ({shown(str(err))}).", advice) from err
    if not isinstance(made, dict):
        raise InputError(what, f"it holds a {type(made).__name__}.", advice)
    return dict(made)
