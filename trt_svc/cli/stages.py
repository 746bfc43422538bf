"""Stages of long work on standard error: a live bar on a terminal, one line per stage elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from trt_svc.cli.console import err, escape
from trt_svc.progress import Quiet


class Stages(Quiet):
    """Shows each stage with its time; takes the place of `Quiet`."""

    def __init__(self, bar: Progress | None) -> None:
        super().__init__()
        self._bar = bar
        self._task: TaskID | None = None
        self._name = ""
        self._since = time.perf_counter()

    def stage(self, name: str) -> None:
        self.finish()
        self._name, self._since = name, time.perf_counter()
        if self._bar is not None:
            self._task = self._bar.add_task(escape(name), total=None)

    def step(self, done: int, total: int) -> None:
        if self._bar is not None and self._task is not None and total:
            self._bar.update(self._task, completed=done, total=total)

    def finish(self) -> None:
        """Closes the running stage with a line that stays."""
        if self._bar is not None and self._task is not None:
            self._bar.remove_task(self._task)
            self._task = None
        if self._name:
            seconds = time.perf_counter() - self._since
            err.print(f"  {escape(self._name)} [dim]{seconds:.1f} s[/]", highlight=False)
            self._name = ""


@contextmanager
def shown_stages(quiet: bool) -> Iterator[Quiet]:
    """A progress that people see, or one that says nothing."""
    if quiet:
        yield Quiet()
        return
    if not err.is_terminal:
        stages = Stages(None)
        try:
            yield stages
        finally:
            stages.finish()
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True) as bar:
        stages = Stages(bar)
        try:
            yield stages
        finally:
            stages.finish()
