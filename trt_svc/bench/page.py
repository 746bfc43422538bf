"""A report as one web page that holds everything it shows: plots, sounds and spectrograms; it fetches nothing."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from trt_svc.audio import mono, read_audio
from trt_svc.bench import drawing, facts, figures, spectrograms, steadiness, tables, words
from trt_svc.bench.drawing import Plot, Style
from trt_svc.bench.report import PAGE, Listening, Network, Report
from trt_svc.bench.spectrograms import Spectrum
from trt_svc.bench.tables import BlockTable, Table
from trt_svc.bench.words import Headline
from trt_svc.errors import AudioFileError
from trt_svc.files import replacing
from trt_svc.optional import require
from trt_svc.types import Array

_TEMPLATE = "page.html.j2"
_PURPOSE = "writing the page"
_TYPES: Mapping[str, str] = {".flac": "audio/flac", ".wav": "audio/wav", ".ogg": "audio/ogg", ".mp3": "audio/mpeg"}


def write_page(report: Report, folder: Path) -> Path:
    """Writes report.html beside the audio it takes in; gives its path."""
    page = _environment().get_template(_TEMPLATE).render(_context(report, folder))
    with replacing(folder / PAGE) as part:
        part.write_text(page, "utf-8")
    return folder / PAGE


def _environment() -> Any:
    """Everything that goes in is escaped, and strings are on one line without control characters."""
    jinja2 = require("jinja2", _PURPOSE)
    markup = require("markupsafe", _PURPOSE).Markup

    def harmless(value: object) -> object:
        return words.clean(value) if isinstance(value, str) and not isinstance(value, markup) else value

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        finalize=harmless,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _context(report: Report, folder: Path) -> dict[str, Any]:
    styles = drawing.styles_of(report)
    sections = [
        _section(report, network, number, folder, styles) for number, network in enumerate(report.networks, start=1)
    ]
    return {
        "report": report,
        "sections": sections,
        "words": words,
        "facts": facts,
        "palette": drawing.PALETTE,
        "floor_db": spectrograms.FLOOR_DB,
        "scale": spectrograms.scale_picture(),
        "goals": tables.goals_table(report),
    }


# A network.


@dataclass(frozen=True)
class _Section:
    """What the page shows of a network."""

    network: Network
    anchor: str
    facts: tuple[tuple[str, str], ...]
    headline: Headline | None
    speed: BlockTable
    groups: tuple[tuple[str, int], ...]
    """(name, headings below it) of the table of speed."""
    speeds: int
    """Headings of speed; those of quality follow."""
    steadiness: BlockTable
    steadiness_words: str
    opening: Table
    listening: Table
    plots: tuple[Plot, ...]
    sounds: _Sounds
    colours: Mapping[str, int]
    """Number in the palette by label, and by name where that says more."""


def _section(report: Report, network: Network, number: int, folder: Path, styles: Mapping[str, Style]) -> _Section:
    speed = tables.speed_table(report, network)
    return _Section(
        network=network,
        anchor=f"network-{number}",
        facts=facts.facts_of_network(network),
        headline=words.headline(report, network),
        speed=speed,
        groups=tuple(_groups([heading.group for heading in speed.headings])),
        speeds=sum(not heading.of_quality for heading in speed.headings),
        steadiness=steadiness.steadiness_table(report, network),
        steadiness_words=steadiness.steadiness_words(report, network),
        opening=tables.opening_table(report, network),
        listening=tables.listening_table(network),
        plots=tuple(_markup_of(plot) for plot in figures.plots_of(report, network, f"n{number}")),
        sounds=_sounds(network, folder),
        colours=_colours(report, styles),
    )


def _colours(report: Report, styles: Mapping[str, Style]) -> dict[str, int]:
    rows = [row for cell in report.cells for row in cell.rows]
    return {words.clean(name): styles[row.label].number for row in rows for name in (row.label, words.name_of(row))}


def _groups(names: Sequence[str]) -> Iterator[tuple[str, int]]:
    for name, same in groupby(names):
        yield name, len(list(same))


def _markup_of(plot: Plot) -> Plot:
    """Its SVG goes into the page as it is: matplotlib escaped what is in it."""
    return Plot(plot.name, plot.title, plot.caption, require("markupsafe", _PURPOSE).Markup(plot.svg))


# Sounds.


@dataclass(frozen=True)
class _Sound:
    """A recording of the report's folder, or why it cannot be played."""

    file: str
    uri: str = ""
    note: str = ""
    audio: Array = field(default_factory=lambda: np.zeros(0, np.float32))
    sample_rate: int = 1


@dataclass(frozen=True)
class _Take:
    """A contender's audio, what it differs in, and pictures of both."""

    label: str
    sound: _Sound | None
    note: str
    """Why there is no sound, or that it is the reference's."""
    difference: _Sound | None
    gain: str
    """How far the difference is scaled up for the player."""
    picture: str
    difference_picture: str


@dataclass(frozen=True)
class _Sounds:
    recording: _Sound | None
    reference: _Sound | None
    reference_picture: str
    seconds: float
    ticks: Sequence[tuple[str, float]]
    takes: tuple[_Take, ...]


def _sounds(network: Network, folder: Path) -> _Sounds:
    reference = _sound(folder, network.reference)
    found = _spectrum(reference)
    full = 0.0 if found is None else float(found.power.max())
    return _Sounds(
        recording=_sound(folder, network.recording),
        reference=reference,
        reference_picture=_picture(found, full),
        seconds=0.0 if found is None else found.seconds,
        ticks=() if found is None else spectrograms.frequency_ticks(found.top_hz),
        takes=tuple(_take(heard, reference, full, folder) for heard in network.listening),
    )


def _take(heard: Listening, reference: _Sound | None, full: float, folder: Path) -> _Take:
    sound, scaled = _sound(folder, heard.audio), _sound(folder, heard.difference)
    gain_db = heard.difference_gain_db or 0.0
    gain = (
        "not scaled" if gain_db == 0 else f"scaled {'up' if gain_db > 0 else 'down'} by {words.short(abs(gain_db))} dB"
    )
    gap = _subtracted(sound, reference) if scaled is None else _unscaled(scaled, gain_db)
    same = "No difference to the reference." if scaled is None and gap is not None and not gap.audio.any() else ""
    return _Take(
        label=heard.contender,
        sound=sound,
        note=heard.notes.get(tables.NO_AUDIO, same),
        difference=scaled,
        gain=gain,
        picture=_picture(_spectrum(sound), full),
        difference_picture=_picture(_spectrum(gap), full),
    )


def _sound(folder: Path, name: str | None) -> _Sound | None:
    """A file of the folder as a player wants it, or the reason why there is none."""
    if name is None:
        return None
    path = _inside(folder, name)
    if path is None:
        return _Sound(name, note="This file is not beside the report.")
    kind = _TYPES.get(path.suffix.lower())
    if kind is None:
        return _Sound(name, note="Browsers do not play this kind of file.")
    try:
        audio, rate = read_audio(path)
        data = base64.b64encode(path.read_bytes()).decode("ascii")
    except AudioFileError as err:
        return _Sound(name, note=f"It cannot be read: {err.found}")
    except OSError as err:
        return _Sound(name, note=f"It cannot be read: {err.strerror}.")
    return _Sound(name, require("markupsafe", _PURPOSE).Markup(f"data:{kind};base64,{data}"), "", mono(audio), rate)


def _inside(folder: Path, name: str) -> Path | None:
    """Never a file outside of the folder: the report may come from anywhere."""
    try:
        path = (folder / name).resolve()
        return path if path.is_relative_to(folder.resolve()) and path.is_file() else None
    except (ValueError, OSError):  # a name that no file can have
        return None


def _unscaled(sound: _Sound | None, gain_db: float) -> _Sound | None:
    if sound is None or sound.note:
        return None
    return _Sound(sound.file, audio=sound.audio * np.float32(10 ** (-gain_db / 20)), sample_rate=sound.sample_rate)


def _subtracted(sound: _Sound | None, reference: _Sound | None) -> _Sound | None:
    """For a difference that has no file; what is a sample longer is cut."""
    if sound is None or reference is None or sound.note or reference.note:
        return None
    if sound.sample_rate != reference.sample_rate:
        return None
    samples = min(len(sound.audio), len(reference.audio))
    return _Sound("", audio=sound.audio[:samples] - reference.audio[:samples], sample_rate=sound.sample_rate)


def _spectrum(sound: _Sound | None) -> Spectrum | None:
    return None if sound is None or sound.note else spectrograms.spectrum(sound.audio, sound.sample_rate)


def _picture(found: Spectrum | None, full: float) -> str:
    """Nothing where there is no reference that could be 0 dB."""
    if found is None or full <= 0:
        return ""
    picture: str = require("markupsafe", _PURPOSE).Markup(spectrograms.spectrogram(found, full))
    return picture
