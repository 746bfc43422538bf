"""A report as Markdown that goes unbroken into an issue on GitHub or GitLab, whatever names and reasons hold."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from trt_svc.bench.facts import STOPPED, facts_of, facts_of_network, how_measured, left_out_of, rules_of
from trt_svc.bench.report import Network, Report
from trt_svc.bench.steadiness import steadiness_table, steadiness_words
from trt_svc.bench.tables import (
    Block,
    BlockTable,
    Entry,
    Heading,
    Line,
    Table,
    goals_table,
    listening_table,
    opening_table,
    speed_table,
)
from trt_svc.bench.words import MISSING, REFUSED, clean, headline, headline_words

_SPECIAL = re.compile(r"[\\`*{}\[\]<>|~$#&^]|(?<![^\W_])_|_(?![^\W_])")
"""An underscore between letters marks nothing."""
_CALLS = re.compile(r"([@!%]|\\[#&~$])(?=\w)")
"""Before a word these mention people, issues and labels."""
_WORD_JOINER = "\N{WORD JOINER}"


def markdown_of(report: Report) -> str:
    """Headlines, then the tables of every network, then rules and whatever was left out."""
    networks = [_network(report, network) for network in report.networks]
    parts = [_head(report), *_goals(report), *networks, *_end(report)]
    return "\n\n".join(parts) + "\n"


def escaped(text: str) -> str:
    """Shows as it is written: one line, no markup, no new cell, nobody called."""
    shown = _SPECIAL.sub(r"\\\g<0>", clean(text))
    return _CALLS.sub(rf"\1{_WORD_JOINER}", shown) or MISSING


def _head(report: Report) -> str:
    stopped = [f"**{STOPPED}**"] if report.stopped else []
    about = [escaped(report.about)] if report.about else []
    headlines = [
        f"- **{escaped(network.name)}** – {escaped(headline_words(headline(report, network)))}"
        for network in report.networks
    ]
    facts = _grid(("", ""), ((f"**{name}**", escaped(words)) for name, words in facts_of(report)))
    parts = [f"# Benchmark {escaped(report.recipe)}", *stopped, *about, "\n".join(headlines), facts, _command(report)]
    return "\n\n".join(part for part in parts if part)


def _goals(report: Report) -> list[str]:
    return ["## Goals\n\n" + _table(goals_table(report), "network")] if report.goals else []


def _command(report: Report) -> str:
    command = clean(report.provenance.command)
    longest = max((len(run) for run in re.findall("`+", command)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{command}\n{fence}"


def _network(report: Report, network: Network) -> str:
    facts = "\n".join(f"- {name}: {escaped(words)}" for name, words in facts_of_network(network))
    parts = [f"## {escaped(network.name)}", facts, *_speed(report, network), *_steadiness(report, network)]
    for title, table in (("Listening", listening_table(network)), ("Opening", opening_table(report, network))):
        if table.lines and table.headings:
            parts += [f"### {title}", _table(table), _notes(table.notes)]
    return "\n\n".join(part for part in parts if part)


def _speed(report: Report, network: Network) -> list[str]:
    table = speed_table(report, network)
    below = f"*{escaped(how_measured(report))}*"
    return ["### Speed and quality", _blocks(table), below, _notes(table.notes)]


def _steadiness(report: Report, network: Network) -> list[str]:
    table = steadiness_table(report, network)
    below = f"*{escaped(steadiness_words(report, network))}*"
    return ["### Steadiness", _blocks(table), below] if table.blocks else []


def _blocks(table: BlockTable) -> str:
    lines = (cells for block in table.blocks for cells in _lines(block))
    return _grid(("frames", "batch", "contender", *map(_heading, table.headings)), lines, left=3)


def _lines(block: Block) -> Iterator[tuple[str, ...]]:
    for line in block.lines:
        label = escaped(line.label)
        yield (
            str(block.cell.frames),
            str(block.cell.batch),
            f"**{label}**" if line.fastest else label,
            *_entries(line),
        )


def _entries(line: Line) -> list[str]:
    cells = [_entry(entry) for entry in line.entries]
    if line.refused:
        cells[0] = f"**{REFUSED}**: {escaped(line.refused)}"
    return cells


def _entry(entry: Entry) -> str:
    detail = f" {escaped(entry.detail)}" if entry.detail else ""
    against = f" vs {escaped(entry.against)}" if entry.against else ""
    text = f"{escaped(entry.text)}{entry.mark}{detail}{against}"
    return f"**{text}**" if entry.alarm else text


def _heading(heading: Heading) -> str:
    return escaped(f"{heading.name}{'' if heading.unit.startswith('/') else ' '}{heading.unit.strip()}") + heading.mark


def _table(table: Table, first: str = "contender") -> str:
    lines = ((escaped(line.label), *_entries(line)) for line in table.lines)
    return _grid((first, *map(_heading, table.headings)), lines, left=1)


def _grid(headings: Sequence[str], lines: Iterable[Sequence[str]], left: int = 2) -> str:
    """Cells that are escaped already; numbers stand right."""
    rule = ["---" if number < left else "---:" for number in range(len(headings))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (headings, rule, *lines))


def _notes(notes: Sequence[tuple[str, str]]) -> str:
    return "  \n".join(f"{mark} {escaped(text)}" for mark, text in notes)


def _end(report: Report) -> list[str]:
    rules = "\n".join(f"- {escaped(rule)}" for rule in rules_of(report))
    parts = [f"## Rules\n\nA row is refused when\n\n{rules}"]
    left_out = [f"- **{escaped(who)}** ({escaped(which)}): {escaped(why)}" for who, which, why in left_out_of(report)]
    return [*parts, "## Left out\n\n" + "\n".join(left_out)] if left_out else parts
