from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from typer.core import TyperGroup

from trt_svc.cli import bench_compare, bench_history
from trt_svc.cli.console import (
    INTERRUPTED,
    ConfigOption,
    FamilyOption,
    JsonFlag,
    SourceOption,
    escape,
    out,
    print_json,
    reported,
)
from trt_svc.cli.stages import shown_stages

if TYPE_CHECKING:
    from trt_svc.bench.recipe import Recipe
    from trt_svc.bench.report import Cell, Ratio, Report

RUN = "run"


class _RunByDefault(TyperGroup):
    """`bench demo` is short for `bench run demo`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = [RUN, *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    name="bench",
    cls=_RunByDefault,
    no_args_is_help=True,
    help="Speed with quality in the same row. `bench demo` is short for `bench run demo`.",
)


@app.command(RUN)
def command(
    what: Annotated[
        list[str] | None,
        typer.Argument(
            help="Checkpoints, published configs (random weights), or recipes: a .yaml file, or one that ships "
            "(quick, full, gpu, reference-hifigan, …).",
            show_default=False,
        ),
    ] = None,
    recipe: Annotated[
        list[str] | None,
        typer.Option("--recipe", "-r", help="Recipe by name or file (repeatable).", show_default=False),
    ] = None,
    config: ConfigOption = None,
    family: FamilyOption = None,
    source: SourceOption = None,
    frames: Annotated[str | None, typer.Option(help="Mel frames, with commas. \\[default: 1 s and 5 s]")] = None,
    seconds: Annotated[str | None, typer.Option(help="Seconds of audio, with commas, in place of frames.")] = None,
    batch: Annotated[str | None, typer.Option(help="Batch sizes, with commas. \\[default: 1]")] = None,
    precision: Annotated[
        str | None, typer.Option(help="fp32, tf32, fp16, bf16, with commas. \\[default: what the device is good at]")
    ] = None,
    backend: Annotated[
        str | None, typer.Option(help="Race only these (auto too), with commas. \\[default: all]", show_default=False)
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            help="Contenders beside --backend, with commas, or all; torch fp32 always races.", show_default=False
        ),
    ] = None,
    forms: Annotated[
        str | None, typer.Option(help="Graphs of engines: plain, usual, all. \\[default: plain,usual]")
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda.", show_default=False)] = None,
    rounds: Annotated[int | None, typer.Option(min=2, help="So many rounds, however long they take.")] = None,
    budget: Annotated[float | None, typer.Option(min=0.1, help="Seconds of racing per cell. \\[default: 30]")] = None,
    busy: Annotated[
        int | None,
        typer.Option(
            "--busy-cores",
            min=0,
            help="Keep so many cores busy while contenders race; no speeds come of it. \\[default: 0]",
        ),
    ] = None,
    listen: Annotated[
        str | None,
        typer.Option(help="Recording for the ear-like metrics: sung, spoken, or a file.", show_default=False),
    ] = None,
    judge: Annotated[
        bool, typer.Option("--judge/--no-judge", help="Ask the ear-like metrics (some seconds each).")
    ] = True,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Folder of the report. \\[default: bench-reports/RECIPE]", show_default=False
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be raced, and how long it would take.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Race contenders on the same weights and inputs, interleaved, and write report.json, report.md and report.html."""
    with reported(as_json):
        from trt_svc.bench.recipe import recipe_from

        options = {
            "frames": _numbers(frames, int, "--frames"),
            "seconds": _numbers(seconds, float, "--seconds"),
            "batch": _numbers(batch, int, "--batch"),
            "config": config,
            "family": family,
            "source": source,
        }
        settings = {
            "precisions": _words(precision),
            "contenders": _field(backend, against),
            "forms": _words(forms),
            "device": device,
            "min_rounds": rounds,
            "max_rounds": rounds,
            "budget_s": budget,
            "busy_cores": busy,
            "listen": listen,
            "judge": None if judge else False,
        }
        chosen = recipe_from(_settled(what or [], recipe or [], _given(options), _given(settings)), "options")
        if dry_run:
            _dry(chosen, output, as_json)
        else:
            _race(chosen, output or Path("bench-reports") / _file_name(chosen.name), as_json)


app.command("compare")(bench_compare.command)
app.command("history")(bench_history.command)


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _words(text: str | None) -> list[str] | None:
    return None if text is None else [word.strip() for word in text.split(",") if word.strip()]


def _numbers(text: str | None, kind: type[int] | type[float], option: str) -> list[float] | None:
    from trt_svc.errors import InputError, shown

    try:
        return None if text is None else [kind(word) for word in text.split(",")]
    except ValueError:
        raise InputError(f"{option} {shown(text)}", "it is no list of numbers.", f"Write {option} 86,430.") from None


def _field(backend: str | None, against: str | None) -> list[str] | None:
    if backend is None and against is None:
        return None
    return [*(_words(backend) or []), *(_words(against) or [])]


def _settled(what: list[str], recipes: list[str], case: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """The recipes, or one made of the named networks, with the options on top."""
    from trt_svc.bench.recipe import is_recipe, joined, read_recipe
    from trt_svc.errors import InputError

    named = [*recipes, *(word for word in what if is_recipe(word))]
    networks: list[dict[str, Any]] = [{"network": word} for word in what if not is_recipe(word)]
    base: dict[str, Any] = {"name": "bench"}
    if named:
        read = joined([read_recipe(name) for name in named]).model_dump(exclude_unset=True)
        base = {**read, "networks": [*read["networks"], *networks]}
    elif networks:
        base = {"name": _file_name("+".join(Path(word).name for word in what)), "networks": networks}
    else:
        raise InputError("a race", "nothing was named.", "Give a checkpoint, or --recipe quick.")
    # What an option says holds for all networks, whatever the recipe says of one.
    said = {*case, *settings} | ({"frames", "seconds"} if {"frames", "seconds"} & set(case) else set())
    plain = [{key: value for key, value in network.items() if key not in said} for network in base["networks"]]
    return {**base, **settings, "networks": [{**network, **case} for network in plain]}


def _file_name(text: str) -> str:
    from trt_svc.bench.listen import slug

    return slug(text)


def _race(recipe: Recipe, folder: Path, as_json: bool) -> None:
    report, note = _raced(recipe, folder, as_json)
    if as_json:
        print_json({**report.as_dict(), "output": str(folder)})
    else:
        _print(report, folder, note)
    if report.stopped:
        raise typer.Exit(INTERRUPTED)


def _raced(recipe: Recipe, folder: Path, quiet: bool) -> tuple[Report, str]:
    from trt_svc.bench.publish import publish
    from trt_svc.bench.run import run_recipe

    command_line = shlex.join(["trt-svc", *sys.argv[1:]])
    with shown_stages(quiet) as progress:
        report = run_recipe(recipe, folder, command_line, progress)
        progress.stage("writing the report")
        note = publish(report, folder)
    return report, note


def _dry(recipe: Recipe, folder: Path | None, as_json: bool) -> None:
    from trt_svc.bench.plan import HEADINGS, left_out_lines, markdown_of_plan, plan_of, table_of
    from trt_svc.files import replacing

    plan = plan_of(recipe)
    if folder is not None:
        with replacing(folder / "plan.md") as part:
            part.write_text(markdown_of_plan(plan), "utf-8")
    if as_json:
        print_json(plan.as_dict())
        return
    grid = Table(*HEADINGS, title=f"{escape(plan.recipe)} on {plan.device}")
    for line in table_of(plan):
        grid.add_row(*map(escape, line))
    out.print(grid)
    for left in left_out_lines(plan):
        out.print(f"left out: {escape(left)}", highlight=False, soft_wrap=True)
    out.print(escape(plan.sentence()), highlight=False, soft_wrap=True)


def _print(report: Report, folder: Path, note: str) -> None:
    for cell in report.cells:
        out.print(_grid(cell))
        for row in cell.rows:
            if row.status == "refused":
                out.print(f"[red]refused[/] {escape(row.label)}: {escape(row.reason)}", highlight=False)
    if report.left_out:
        names = ", ".join(f"{left.contender} {left.precision or ''}".strip() for left in report.left_out)
        out.print(f"left out (the report says why): {escape(names)}", highlight=False)
    if note:
        out.print(f"[yellow]note:[/] {escape(note)}", highlight=False, soft_wrap=True)
    names = "report.md, report.json" if note else "report.html, report.md, report.json"
    out.print(f"wrote {escape(folder)}: {names}", highlight=False, soft_wrap=True)


WIDE = 110
"""Columns of a terminal from which on intervals fit in."""


def _grid(cell: Cell) -> Table:
    from trt_svc.bench import words

    title = f"{escape(cell.network)}, {cell.frames} frames, batch {cell.batch} ({cell.audio_s:.2f} s of audio)"
    grid = Table("contender", "median", "x upstream", "x fastest other", "RTF", "% of peak", "SNR", title=title)
    grid.columns[0].overflow = "fold"
    for row in cell.rows:
        if row.latency is None:
            grid.add_row(escape(row.label), "[red]refused[/]")
            continue
        grid.add_row(
            escape(row.label),
            f"{words.milliseconds(row.latency.median_s)} ms",
            _ratio(row.over_upstream),
            _ratio(row.over_fastest_other),
            words.three(row.rtf),
            words.three(row.percent_of_peak),
            words.MISSING if row.waveform is None else words.with_unit(row.waveform.snr_db),
        )
    return grid


def _ratio(ratio: Ratio | None) -> str:
    from trt_svc.bench import words

    if ratio is None:
        return words.MISSING
    return f"{words.times(ratio)} {escape(words.interval(ratio))}" if out.width >= WIDE else words.times(ratio)
