"""A recipe raced from its first network to its report."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch

from trt_svc.bench.busy import busy_cores, check_busy_cores
from trt_svc.bench.contenders.base import Track, contenders
from trt_svc.bench.cost import cost_of
from trt_svc.bench.energy import joules_per_call
from trt_svc.bench.entries import REFERENCE, Entry, bare, close, entries_of, open_entry, starters_of, track_for
from trt_svc.bench.goals import Goal, judged
from trt_svc.bench.listen import described, listened
from trt_svc.bench.peaks import TYPES, Probes, finish
from trt_svc.bench.provenance import provenance
from trt_svc.bench.race import Entrant, Inputs, race
from trt_svc.bench.recipe import NetworkCase, Recipe
from trt_svc.bench.report import REPORT, Cell, GoalResult, LeftOut, Network, Provenance, Report, write_report
from trt_svc.bench.rows import RacedCell, cell_of
from trt_svc.bench.subjects import Subject, name_of, opened_subject, place_of, recording_named
from trt_svc.errors import BackendUnavailable, InputError, OutputError, TrtSvcError
from trt_svc.files import writable_folder
from trt_svc.progress import Progress, Quiet
from trt_svc.timing import seconds_of

SOURCE_RUNS = 3


def run_recipe(recipe: Recipe, folder: Path, command: str = "", progress: Progress | None = None) -> Report:
    """Races everything and writes report.json and the audio into the folder, anew after every cell.

    Ctrl-C ends the race; what was finished by then is reported. So is the rest where one network cannot be opened.
    """
    check(recipe)
    device = device_for(recipe)
    writable_folder(folder)
    origin = provenance(command).model_copy(update={"busy_cores": recipe.busy_cores})
    run = _Run(recipe, folder, device, origin, progress or Quiet())
    failed: TrtSvcError | None = None
    try:
        for case in recipe.networks:
            try:
                run.add(case)
            except OutputError:
                raise  # there is nowhere to write to
            except TrtSvcError as err:
                failed = failed or err
                run.left_out.append(LeftOut(contender="all", network=case.network, reason=err.found))
    except KeyboardInterrupt:
        run.stopped = True
        if not run.cells:
            raise
    if failed is not None and not run.cells:
        raise failed
    return run.report()


def check(recipe: Recipe) -> None:
    """Refuses at once what would end the race an hour later."""
    recording_named(recipe.listen)
    check_busy_cores(recipe.busy_cores)
    for name in (*recipe.ours, *recipe.precisions_of):
        contenders.get(name)
    seen: set[str] = set()
    for case in recipe.networks:
        place = place_of(case.network)
        if place in seen:
            raise InputError(f"network {case.network}", "it is listed twice.", "List it once, with all its shapes.")
        seen.add(place)
        starters_of(recipe, case, "cpu")


def device_for(recipe: Recipe) -> str:
    """Where a recipe is raced, as torch names it."""
    if recipe.device == "cpu" or (recipe.device == "auto" and not torch.cuda.is_available()):
        return "cpu"
    if not torch.cuda.is_available():
        found = "this torch sees none."
        raise BackendUnavailable("a race on a GPU", found, "Use --device cpu, or --dry-run to see what would be raced.")
    return f"cuda:{torch.cuda.current_device()}"


@dataclass
class _Run:
    recipe: Recipe
    folder: Path
    device: str
    provenance: Provenance
    progress: Progress
    networks: list[Network] = field(default_factory=list)
    cells: list[RacedCell] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    goals: list[tuple[str, tuple[Goal, ...]]] = field(default_factory=list)
    """By network."""
    stopped: bool = False

    def __post_init__(self) -> None:
        self._started = time.perf_counter()
        wanted = {p for case in self.recipe.networks for p in self.recipe.precisions_on(self.device, case)}
        self.probes = Probes(
            self.device, tuple(p for p in TYPES if p == "fp32" or (p in wanted and self.device != "cpu"))
        )

    def add(self, case: NetworkCase) -> None:
        """One network: opened, raced in all its cells, listened to."""
        recording = recording_named(self.recipe.listen)
        self.progress.stage(f"{case.network}: opening")
        name = name_of(case.network, [network.name for network in self.networks])
        with opened_subject(case.network, case.config, case.family, case.source, name) as subject:
            frames = case.lengths(subject.net.spec.frames_per_second)
            clip = subject.clip(recording, self.recipe.listen_s)
            heard = int(clip.inputs["mel"].shape[-1])
            track = track_for(subject, [*frames, heard], [1, *case.batches], self.device)
            entries = self._opened(case, subject, track, min(frames))
            self.networks.append(described(subject, recording))
            self.goals.append((subject.name, case.goals))
            try:
                for batch in case.batches:
                    for length in frames:
                        self.cells.append(self._raced(case, subject, entries, batch, length))
                        write_report(self.report(), self.folder / REPORT)
                self.progress.stage(f"{case.network}: listening")
                self.networks[-1] = listened(
                    self.networks[-1], subject, clip, entries, self.recipe.judge, self.folder, self.progress
                )
            finally:
                for entry in entries:
                    close(entry)
        write_report(self.report(), self.folder / REPORT)

    def report(self) -> Report:
        """Everything so far."""
        raced = {cell.network for cell in self.cells}
        cells = tuple(cell_of(cell, self.probes, self.recipe.rules) for cell in self.cells)
        return Report(
            recipe=self.recipe.name,
            about=self.recipe.about,
            provenance=self.provenance,
            rules=self.recipe.rules,
            peaks=self.probes.as_peaks(),
            took_s=time.perf_counter() - self._started,
            stopped=self.stopped,
            networks=tuple(network for network in self.networks if network.name in raced),
            cells=cells,
            left_out=tuple(dict.fromkeys(self.left_out)),
            goals=()
            if self.recipe.busy_cores
            else tuple(result for name, goals in self.goals for result in self._judged(name, goals, cells)),
        )

    def _judged(self, name: str, goals: tuple[Goal, ...], cells: tuple[Cell, ...]) -> tuple[GoalResult, ...]:
        own = [cell for cell in cells if cell.network == name]
        return judged(goals, name, own, self.recipe.ours, self.provenance.gpus)

    def _opened(self, case: NetworkCase, subject: Subject, track: Track, frames: int) -> list[Entry]:
        starters = starters_of(self.recipe, case, self.device)
        self.left_out += starters.left_out
        entries = entries_of(starters, subject, self.recipe)
        self.probes.look()  # the first time while the memory is still free
        for entry in entries:
            self.progress.stage(f"{case.network}: opening {entry.label}")
            open_entry(entry, subject, track, case.batches[0], frames)
        return entries

    def _raced(self, case: NetworkCase, subject: Subject, entries: list[Entry], batch: int, frames: int) -> RacedCell:
        net = subject.net
        self.progress.stage(f"{case.network}: {frames} frames, batch {batch}")
        self.probes.look()
        inputs = subject.inputs(batch, frames)
        entrants = dict(_running(entries))
        with busy_cores(self.recipe.busy_cores):
            laps = race(entrants, REFERENCE, inputs, self.recipe.pace(case), seen=self.progress.step)
        cost = cost_of(net, batch, frames)
        return RacedCell(
            network=subject.name,
            frames=frames,
            batch=batch,
            audio_s=batch * net.samples_out(frames) / net.spec.sample_rate,
            cost=cost,
            source_s=statistics.median(seconds_of(subject.source_run(batch, frames)) for _ in range(SOURCE_RUNS)),
            entries=tuple(bare(entry) for entry in entries),
            laps=laps,
            declared_gflop={label: entrant.gflop(cost.gflop) for label, entrant in entrants.items()},
            energy_j={
                label: _joules(entrant, inputs) for label, entrant in entrants.items() if not laps[label].failure
            },
        )


def _running(entries: list[Entry]) -> Iterator[tuple[str, Entrant]]:
    for entry in entries:
        if entry.entrant is not None:
            yield entry.label, entry.entrant


def _joules(entrant: Entrant, inputs: Inputs) -> float | None:
    if entrant.device == "cpu":
        return None
    placed = entrant.placed(inputs.draw())

    def call() -> None:
        entrant.run(placed)
        finish(entrant.device)

    return joules_per_call(call, entrant.device)
