"""What else differs between two reports, and what their figures therefore cannot say."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from trt_svc.bench.changes import By, ListeningChange, QualityChange, RowChange
from trt_svc.bench.history import machine_of
from trt_svc.bench.report import Network, Provenance, Report
from trt_svc.errors import shown

UPSTREAM = "torch fp32"
"""Label of the row that is upstream's own, where no other row names it."""
LEAST_DRIFT = 0.05
"""By how much upstream's own rows have to move to be worth a note."""


@dataclass(frozen=True)
class Setting:
    """How the rows were compared."""

    threshold: float
    by: By
    replaced: tuple[str, ...]
    """Networks with other weights: left out."""
    judged: frozenset[str]
    """Listening metrics whose tolerance is known."""


def networks_of(before: Report, after: Report) -> Iterator[tuple[Network, Network]]:
    """Those of one name in both."""
    then = {network.name: network for network in before.networks}
    return ((then[network.name], network) for network in after.networks if network.name in then)


def same_weights(before: Network, after: Network) -> bool:
    """By their hash; of two drawn at random by their number, as the last bits depend on machine and threads."""
    drawn = not before.trained and not after.trained and before.parameters == after.parameters
    return drawn or before.weights_sha256 == after.weights_sha256


def notes_of(
    before: Report, after: Report, rows: Sequence[RowChange], heard: Sequence[ListeningChange], setting: Setting
) -> tuple[str, ...]:
    """A line each."""
    return (
        *_setting_notes(before, after),
        *(f"{shown(name)} has other weights now: its rows are not compared" for name in setting.replaced),
        *_drawn_notes(before, after),
        *_listening_notes(before, after, heard, setting.judged),
        *_choice_notes(before, after),
        *_row_notes(rows, (before, after), setting),
    )


def _setting_notes(before: Report, after: Report) -> Iterator[str]:
    """What else than the code differs."""
    old, new = before.provenance, after.provenance
    if machine_of(old) != machine_of(new):
        yield f"another machine: {shown(str(machine_of(old)))} → {shown(str(machine_of(new)))}; --by speedup is fairer"
    elif len(old.affinity) != len(new.affinity):
        yield f"the process may use {len(new.affinity)} cores, before {len(old.affinity)}"
    versions = ", ".join(_version_changes(old, new))
    if versions:
        yield f"other versions: {versions}"
    if before.recipe != after.recipe:
        yield f"another recipe: {shown(before.recipe)} → {shown(after.recipe)}"
    if before.rules != after.rules:
        yield "other rules: what is refused in one may have been measured in the other"
    if new.created < old.created:
        yield "the first report is the newer one"
    for when, report in (("first", old), ("second", new)):
        if report.load and report.load[0] > 0.5 * report.cores:
            yield f"the machine was busy when the {when} run began (load {report.load[0]:.1f})"
    if before.stopped or after.stopped:
        yield f"the {'first' if before.stopped else 'second'} run was stopped before its end"
    yield from _peak_note(before.peaks.gflops.get("fp32"), after.peaks.gflops.get("fp32"))


def _version_changes(old: Provenance, new: Provenance) -> Iterator[str]:
    then = {"python": old.python, "trt-svc": old.trt_svc, **old.packages}
    now = {"python": new.python, "trt-svc": new.trt_svc, **new.packages}
    for name in {**then, **now}:
        if then.get(name) != now.get(name):
            yield shown(f"{name} {then.get(name, 'none')} → {now.get(name, 'none')}")


def _peak_note(before: float | None, after: float | None) -> Iterator[str]:
    if before and after and not 1 / 1.1 < after / before < 1.1:
        yield f"float32 matrix products reached {after:.0f} GFLOP/s, before {before:.0f}"


def _drawn_notes(before: Report, after: Report) -> Iterator[str]:
    pairs = [pair for pair in networks_of(before, after) if same_weights(*pair)]
    drawn = [new.name for old, new in pairs if old.weights_sha256 != new.weights_sha256]
    if drawn:
        names = ", ".join(shown(name) for name in drawn)
        yield f"{names}: weights drawn at random in both, not the same to the last bit; matched by name and parameters"


def _choice_notes(before: Report, after: Report) -> Iterator[str]:
    """Where `auto` chose something else, its rows compare two contenders."""
    then, now = _choices(before), _choices(after)
    changes = dict.fromkeys((then[key], now[key]) for key in then if key in now and then[key] != now[key])
    if changes:
        yield f"auto chose otherwise: {', '.join(shown(f'{old} → {new}') for old, new in changes)}"


def _choices(report: Report) -> dict[tuple[str, int, int, str], str]:
    rows = ((cell, row) for cell in report.cells for row in cell.rows)
    return {(cell.network, cell.frames, cell.batch, row.label): row.chosen for cell, row in rows if row.chosen}


def _listening_notes(
    before: Report, after: Report, heard: Sequence[ListeningChange], judged: Collection[str]
) -> Iterator[str]:
    """What listening metrics cannot say."""
    for old, new in networks_of(before, after):
        if old.listened_to != new.listened_to:
            yield f"{shown(new.name)} was listened to with another input: its listening metrics are not compared"
    lost = {metric.metric for change in heard for metric in change.metrics if _lost(metric)}
    if lost:
        yield f"without a value now: {', '.join(sorted(shown(name) for name in lost))}"
    unjudged = {metric.metric for change in heard for metric in change.metrics if metric.metric not in judged}
    if unjudged:
        yield f"no tolerance is known for {', '.join(sorted(shown(name) for name in unjudged))}: shown, not judged"
    then, now = _metric_names(before), _metric_names(after)
    if then != now:
        yield f"listening metrics in one report only: {', '.join(sorted(shown(name) for name in then ^ now))}"


def _metric_names(report: Report) -> set[str]:
    return {name for network in report.networks for heard in network.listening for name in heard.metrics}


def _lost(metric: QualityChange) -> bool:
    return metric.before is not None and metric.after is None


def _row_notes(rows: Sequence[RowChange], reports: Iterable[Report], setting: Setting) -> Iterator[str]:
    unsure = sum(row.speed is not None and row.speed.unsure for row in rows)
    if unsure:
        yield f"{_count(unsure, 'row')} moved by more than the threshold, but the rounds scatter too much to be sure"
    upstream = _upstream(reports)
    silent = sum(row.state == "compared" and row.speed is None and row.key.label not in upstream for row in rows)
    if silent:
        missing = "time" if setting.by == "latency" else "ratio to upstream"
        yield f"{_count(silent, 'row')} without a {missing} in one of the reports: speed not compared"
    if setting.by == "latency":
        yield from _drift_note(rows, upstream, setting.threshold)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _upstream(reports: Iterable[Report]) -> set[str]:
    """Labels of upstream's own rows."""
    rows = (row for report in reports for cell in report.cells for row in cell.rows)
    return {row.over_upstream.against for row in rows if row.over_upstream is not None} or {UPSTREAM}


def _drift_note(rows: Iterable[RowChange], upstream: set[str], threshold: float) -> Iterator[str]:
    """Where upstream's own rows moved, the machine did: they do not run this code."""
    ratios = {row.key: row.speed.ratio for row in rows if row.speed is not None}
    theirs = [ratio for key, ratio in ratios.items() if key.label in upstream]
    if not theirs or len(theirs) == len(ratios):
        return
    drift = median(theirs)
    if abs(drift - 1) < LEAST_DRIFT:
        return
    word = f"{100 * abs(drift - 1):.0f} % {'slower' if drift > 1 else 'faster'}"
    near = 1 + max(threshold, LEAST_DRIFT)
    if all(1 / near < ratio / drift < near for ratio in ratios.values()):
        yield f"every row, upstream's too, is {word}: the machine, not the code; use --by speedup"
    else:
        yield f"upstream's own rows are {word}: that much is the machine, not the code; --by speedup takes it out"
