"""A report as Markdown and as a page: whole tables, honest rows, nothing from outside, the same figures in both."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import readme_tables
from tests.bench_reports import (
    cell,
    latency,
    listening,
    network,
    opening,
    peaks,
    provenance,
    ratio,
    refused,
    small_report,
    waveform,
    write_sounds,
)
from trt_svc.audio import write_audio
from trt_svc.bench import drawing, facts, figures, spectrograms, words
from trt_svc.bench.markdown import escaped, markdown_of
from trt_svc.bench.page import write_page
from trt_svc.bench.quality import metrics
from trt_svc.bench.report import PAGE, LeftOut, Network, Report, Row
from trt_svc.bench.steadiness import ALARM, steadiness_words

EVIL = (
    "<script>alert(1)</script> | `x` \n\n| --- |\r\\| 模型 \x00\u202e @user #1 $x$ **b** [l](http://e.x) ]]> & \ud800"
)
CSP = "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
REFERRING = ("src", "href", "xlink:href", "srcset", "action", "poster", "data", "formaction", "background")
VOID = ("meta", "link", "img", "br", "hr", "input")


class Page(HTMLParser):
    """What a browser would find."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.rows: list[list[str]] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self._open.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
        elif tag in ("span", "small") and self.rows and self.rows[-1]:
            self.rows[-1][-1] += " "

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)
        if self._open and {"td", "th"} & set(self._open):
            self.rows[-1][-1] += data

    @property
    def ids(self) -> list[str]:
        return [attributes["id"] for _, attributes in self.tags if "id" in attributes]

    def found(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]


def page_of(report: Report, folder: Path) -> Page:
    return Page(write_page(report, folder).read_text("utf-8"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a report with all its sounds."""
    made = tmp_path_factory.mktemp("report")
    write_sounds(small_report(), made)
    return made


@pytest.fixture(scope="module")
def page(folder: Path) -> Page:
    return page_of(small_report(), folder)


def tiny_report(row: Row | None = None, net: Network | None = None, **changes: Any) -> Report:
    """One network, one cell, two rows."""
    one = cell("made_up_nsf", 64, 1)
    net = net or network("made_up_nsf", trained=True)
    rows = (one.rows[0], row or one.rows[3])
    fields = {"networks": (net,), "cells": (one.model_copy(update={"network": net.name, "rows": rows}),)}
    return small_report(**{**fields, **changes})


def tables_of(markdown: str) -> Iterator[list[list[str]]]:
    """Tables as GitHub splits them: at every pipe without a backslash."""
    table: list[list[str]] = []
    for line in [*markdown.split("\n"), ""]:
        if line.startswith("|"):
            cells = re.findall(r"((?:\\.|[^|\\])*)\|", line)
            table.append([text.strip() for text in cells[1:]])
        elif table:
            yield table
            table = []


def speed_tables(markdown: str) -> list[list[list[str]]]:
    return [table for table in tables_of(markdown) if table[0][3:4] == ["median ms"]]


def steadiness_tables(markdown: str) -> list[list[list[str]]]:
    return [table for table in tables_of(markdown) if table[0][3:4] == ["rounds"]]


def shown(cell: str) -> str:
    """A cell of Markdown as one reads it."""
    plain = re.sub(r"(?<!\\)\*\*", "", cell).replace("\N{WORD JOINER}", "")
    return re.sub(r"\\(.)", r"\1", plain)


# Numbers.


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.00012345, "0.000123"),
        (0.0123456, "0.0123"),
        (0.9999, "1.00"),
        (1.5, "1.50"),
        (12.345, "12.3"),
        (99.96, "100"),
        (1234.4, "1234"),
        (12345.6, "12\N{NARROW NO-BREAK SPACE}346"),
        (1.234e-7, "1.23e-7"),
        (-3.0, "−3.00"),
        (math.nan, "–"),
        (None, "–"),
    ],
)
def test_three_significant_figures(value: float | None, text: str) -> None:
    assert words.three(value) == text


def test_words_of_quality() -> None:
    assert words.decibels(112.04) == "112"
    assert words.with_unit(math.inf) == "identical"
    assert words.similarity(waveform(math.inf)) == "1"
    assert words.similarity(waveform(112.0)) == "0.99999980"
    assert words.times(ratio(1.523, "x")) + words.interval(ratio(1.523, "x")) == "1.52x[1.48, 1.57]"


def test_other_words() -> None:
    assert [words.duration(s) for s in (4.2, 321, 11_400)] == ["4.20 s", "5 min 21 s", "3 h 10 min"]
    assert [words.lasting(s) for s in (0.284, 0.9999, 1.2)] == ["284 ms", "1.00 s", "1.20 s"]
    assert [words.short(value) for value in (40.0, 0.5, 100.0)] == ["40", "0.5", "100"]
    assert words.moment("2031-02-03T04:05:06Z") == "2031-02-03 04:05 UTC"
    assert words.moment("2031-02-03T04:05:06+02:00") == "2031-02-03 02:05 UTC"
    assert words.moment("yesterday") == "yesterday"


def test_the_headline_is_of_the_middle_shape() -> None:
    report = small_report()
    found = words.headline(report, report.networks[0])
    assert found is not None
    assert (found.cell.frames, found.cell.batch) == (256, 1)
    assert found.row.label == "onnxruntime fp32 + folded, subpixel"
    assert "1.51x [1.46, 1.55] upstream (1.51x to 1.70x over 5 shapes)" in words.headline_words(found)


# Markdown.


@given(st.lists(st.sampled_from([*EVIL]) | st.text(max_size=12), min_size=9, max_size=9).map(tuple))
@settings(max_examples=40, deadline=None)
def test_tables_stay_whole_whatever_strings_hold(texts: tuple[str, ...]) -> None:
    name, origin, contender, reason, metric, why, package, form, who = texts
    row = refused(contender=contender, precision=form, forms=(form,), reason=reason)
    heard = listening("x", "torch fp32", 40.0, True).model_copy(
        update={"contender": contender, "metrics": {metric: None}, "notes": {metric: why}}
    )
    net = network("x", True, name=name, origin=origin, listening=(heard,))
    left_out = (LeftOut(contender=who, reason=reason),)
    markdown = markdown_of(
        tiny_report(row, net, left_out=left_out, about=name, provenance=provenance(packages={package: origin}))
    )
    tables = list(tables_of(markdown))
    assert len(tables) == 5
    for table in tables:
        assert {len(row) for row in table} == {len(table[0])}
        assert all(cell for row in table[1:] for cell in row)
    assert len(markdown.splitlines()) == markdown.count("\n")


def test_evil_strings_show_as_written() -> None:
    assert "<" not in re.sub(r"\\<", "", escaped(EVIL))
    assert "@user" not in escaped(EVIL)
    assert shown(escaped("a|b`c`*d*\\e_f_ <g>")) == "a|b`c`*d*\\e_f_ <g>"
    assert escaped("made_up") == "made_up"
    assert escaped("") == "–"


def test_the_command_is_fenced_whatever_it_holds() -> None:
    lines = markdown_of(tiny_report(provenance=provenance(command="run `a` ```` b"))).splitlines()
    assert "run `a` ```` b" in lines
    assert lines[lines.index("run `a` ```` b") + 1] == "`````"


def test_markdown_names_everything() -> None:
    text = markdown_of(small_report())
    for part in ("Imaginary Processor", "torch 2.99", "0123456789ab", "trt-svc bench made-up", "2031-02-03"):
        assert part in text
    for part in ("15 rounds", "95 %", "below 90 dB (fp32)", "there is no NVIDIA GPU", "openvino bf16\\]"[:8]):
        assert part in text
    assert "with changes beyond it" in markdown_of(small_report(provenance=provenance(dirty=True)))


def test_the_fastest_names_its_rival() -> None:
    (table,) = speed_tables(markdown_of(tiny_report()))
    upstream, fastest = table[2:]
    column = [shown(name) for name in table[0]].index("x fastest other [95 %]")
    assert fastest[2] == "**onnxruntime fp32 + folded, subpixel**"
    assert "vs openvino bf16" in fastest[column]
    assert "vs onnxruntime fp32 + folded, subpixel" in upstream[column]


def test_the_fastest_other_is_told_as_the_rows_have_it() -> None:
    """Reports of earlier versions compare with other forms of the same contender."""
    report = small_report()
    assert "is the fastest row of another contender in its shape" in facts.how_measured(report)
    one = report.cells[0]
    own = one.rows[3].model_copy(update={"over_fastest_other": ratio(1.2, one.rows[2].label)})
    older = tiny_report(own)
    older = older.model_copy(update={"cells": (one.model_copy(update={"rows": (*one.rows[:3], own)}),)})
    assert "the fastest other of a row is the one that the row names;" in facts.how_measured(older)
    plain = one.rows[2].model_copy(update={"over_fastest_other": ratio(0.8, own.label)})
    alone = older.model_copy(update={"cells": (one.model_copy(update={"rows": (plain, own)}),)})
    assert "or of its own where there is no other" in facts.how_measured(alone)


@pytest.mark.parametrize(("rounds", "marked"), [(99, True), (100, False)])
def test_a_hundredth_of_few_rounds_is_their_longest(rounds: int, marked: bool) -> None:
    row = small_report().cells[0].rows[3].model_copy(update={"latency": latency(0.1, rounds=rounds)})
    assert row.latency is not None
    text = markdown_of(tiny_report(row))
    (table,) = speed_tables(text)
    longest = words.milliseconds(max(row.latency.seconds))
    assert table[0][5] == "p99 ms"
    assert table[-1][5] == (f"{longest}¹" if marked else words.milliseconds(row.latency.p99_s))
    assert "¹ With fewer than 100 rounds, their longest." in text, "upstream has 15"


def test_what_auto_chose_is_behind_its_label(tmp_path: Path) -> None:
    row = (
        small_report().cells[0].rows[3].model_copy(update={"contender": "auto", "forms": None, "chosen": "onnxruntime"})
    )
    report = tiny_report(row)
    text, page = markdown_of(report), page_of(report, tmp_path)
    assert words.headline_words(words.headline(report, report.networks[0])).startswith("auto fp32 (onnxruntime): ")
    told = [line[0] for table in (*speed_tables(text), *steadiness_tables(text)) for line in [table[-1][2:]]]
    assert told == ["**auto fp32 (onnxruntime)**"] * 2
    assert [line[0].strip() for line in page.rows].count("auto fp32 (onnxruntime)") == 3, "speed, steadiness, opening"
    assert " ".join(page.texts).count("auto fp32 (onnxruntime)") > 6, "plots too"
    dots = [one.get("style") for one in page.found("span") if one.get("class") == "dot"]
    assert dots.count("--dot: var(--c1)") == 4, "as its plots: card, speed, steadiness, opening"


def upstream_refused() -> Report:
    """Nothing to compare the other rows with."""
    one = cell("made_up_nsf", 64, 1)
    upstream = refused(contender="torch", precision="fp32", reason="half of its interval is 40 % of the median")
    rows = (*(row.model_copy(update={"over_upstream": None}) for row in one.rows[1:5]), upstream)
    return tiny_report(cells=(one.model_copy(update={"rows": rows}),))


def test_without_a_time_of_upstream_no_ratio_to_it_is_made_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = upstream_refused()
    text = markdown_of(report)
    (table,) = speed_tables(text)
    column = [shown(name) for name in table[0]].index("x upstream [95 %]")
    assert {line[column] for line in table[2:6]} == {"–²"}
    assert table[6][3].startswith("**refused**")
    assert "² No valid time of upstream." in text
    assert "no valid time of upstream" in words.headline_words(words.headline(report, report.networks[0]))
    page = page_of(report, tmp_path)
    assert "no valid time of upstream" in " ".join(page.texts)
    for texts in (text, " ".join(page.texts)):
        assert "upstream itself" not in texts
    names = [plot.name for plot in figures.plots_of(report, report.networks[0], "n")]
    assert names == ["opening", "call", "rounds"], "no point of quality against speed"
    monkeypatch.setattr(readme_tables, "reports", lambda: [report])
    assert [line.split(" | ")[3:6] for line in readme_tables.all_cells().splitlines() if "made_up_nsf" in line] == [
        [
            "–",
            "onnxruntime fp32 + folded, subpixel, "
            + f"{words.milliseconds(words.median_s(report.cells[0].rows[2]))} ms",
            "no valid time of upstream",
        ]
    ]
    assert readme_tables.all_rows().splitlines()[-1] == "| made_up_nsf | 64 frames | – | – | – | refused |"


def test_where_upstream_was_refused_another_shape_stands_for_the_network(tmp_path: Path) -> None:
    (without,) = upstream_refused().cells
    report = tiny_report(cells=(cell("made_up_nsf", 32, 1), without))
    assert words.representative(report, report.networks[0]) is without
    page = page_of(report, tmp_path)
    assert "Large: 32 frames; small: the other shapes." in " ".join(page.texts)


def test_missing_figures_have_footnotes() -> None:
    row = small_report().cells[0].rows[3].model_copy(update={"percent_of_peak": None, "over_fastest_other": None})
    text = markdown_of(tiny_report(row))
    assert "–²" in text
    assert "² No other valid row to compare with." in text
    assert "³ No peak was measured for this type." in text


def test_metrics_have_titles_units_and_directions() -> None:
    listened = [t for t in tables_of(markdown_of(small_report())) if t[0][-1].startswith("PESQ")]
    assert [shown(name) for name in listened[0][0]] == [
        "contender",
        "multi-resolution STFT ↓",
        "log-mel L1 Np ↓",
        "PESQ wide-band MOS-LQO ↑",
    ]
    assert listened[1][-1][-1] == "–¹"


def test_a_metric_of_another_version_keeps_its_name() -> None:
    heard = listening("x", "torch fp32", 40.0, True).model_copy(update={"metrics": {"no_such_metric": 0.5}})
    assert "| no_such_metric |" in markdown_of(tiny_report(net=network("x", True, listening=(heard,))))


def test_levels_above_8_khz_claim_no_ear() -> None:
    heard = listening("x", "torch fp32", 40.0, True).model_copy(update={"metrics": {"lsd_above_8k_db": 0.5}})
    text = markdown_of(tiny_report(net=network("x", True, listening=(heard,))))
    assert "| log-spectral distance above 8 kHz dB ↓¹ |" in text
    assert "¹ A difference of levels; whether it can be heard is not claimed." in text


def test_reports_of_tests_use_metrics_that_exist() -> None:
    used = {name for net in small_report().networks for heard in net.listening for name in heard.metrics}
    assert used <= set(metrics.names())


def test_engines_are_named() -> None:
    (table,) = [t for t in tables_of(markdown_of(tiny_report())) if t[0][-1] == "engine key"]
    assert [row[-1] for row in table[2:]] == ["–", "c0ffeec0ffee"]


def test_an_engine_key_is_no_markup() -> None:
    row = small_report().cells[0].rows[3]
    row = row.model_copy(update={"opening": row.opening.model_copy(update={"engine_key": "|<b>|@a\n"})})
    (table,) = [t for t in tables_of(markdown_of(tiny_report(row))) if t[0][-1] == "engine key"]
    assert shown(table[-1][-1]) == "|<b>|@a"


def test_a_stopped_run_says_so_first(tmp_path: Path) -> None:
    sentence = "The run was stopped: what is missing was not reached."
    report = tiny_report(stopped=True)
    assert markdown_of(report).split("\n\n")[1] == f"**{sentence}**"
    texts = " ".join(page_of(report, tmp_path).texts)
    assert texts.index(sentence) < texts.index("Imaginary Processor")
    assert sentence not in markdown_of(tiny_report())


def test_the_drift_of_the_machine_is_told(page: Page) -> None:
    for text in (markdown_of(small_report()), " ".join(page.texts)):
        assert "probes between the cells: 118, 120, 117 GFLOP/s" in text
    assert "probes" not in markdown_of(tiny_report(peaks=peaks(gflops_seen=())))


# Steadiness.


def steady_or_not(drift: float, outliers: int) -> Report:
    """Of 15 rounds."""
    row = small_report().cells[0].rows[3]
    return tiny_report(
        row.model_copy(update={"latency": latency(0.1).model_copy(update={"drift": drift, "outliers": outliers})})
    )


@pytest.mark.parametrize(
    ("drift", "outliers", "shown_drift", "shown_outliers"),
    [
        (0.049, 1, "+4.90", "1"),
        (0.051, 1, f"**+5.10 {ALARM}**", "1"),
        (-0.2, 0, f"**−20.0 {ALARM}**", "0"),
        (0.0, 2, "0", f"**2 {ALARM}**"),
    ],
)
def test_drift_and_outliers_stand_out(
    drift: float, outliers: int, shown_drift: str, shown_outliers: str, tmp_path: Path
) -> None:
    report = steady_or_not(drift, outliers)
    (table,) = steadiness_tables(markdown_of(report))
    assert table[0] == ["frames", "batch", "contender", "rounds", "spread ± %", "drift %", "outliers", "threads"]
    assert table[-1][3:] == ["15", "1.00", shown_drift, shown_outliers, "2"]
    alarms = sum("**" in cell for cell in table[-1][3:])
    page = page_of(report, tmp_path)
    assert sum(cell.get("class") == "alarm" for cell in page.found("td")) == alarms
    assert [shown(cell) for cell in table[-1][3:]] in [row[1:] for row in page.rows]
    start = "1 of 2 rows drifted" if alarms else "No row drifted"
    assert steadiness_words(report, report.networks[0]).startswith(start)


def test_steadiness_of_every_measured_row_and_of_no_other(page: Page) -> None:
    report = small_report()
    told = [row for table in steadiness_tables(markdown_of(report)) for row in table[2:]]
    rows = [row for cell in report.cells for row in cell.rows if row.status == "measured"]
    assert len(told) == len(rows) == 45
    assert sum(len(row) == 6 and row[1] == "15" for row in page.rows) == len(rows)


def drifting() -> drawing.Plot:
    """A fifth slower from the first round to the last."""
    row = small_report().cells[0].rows[3]
    seconds = tuple(np.linspace(0.9, 1.1, 15) * 0.1)
    slower = latency(0.1).model_copy(update={"seconds": seconds})
    report = tiny_report(row.model_copy(update={"latency": slower}))
    return figures.plots_of(report, report.networks[0], "n")[-1]


def test_a_straggler_does_not_flatten_the_other_rounds() -> None:
    row = small_report().cells[0].rows[3]
    slow = latency(0.1)
    slow = slow.model_copy(update={"seconds": (*slow.seconds[:-1], 5.0)})
    report = tiny_report(row.model_copy(update={"latency": slow}))
    plot = figures.plots_of(report, report.networks[0], "n")[-1]
    assert plot.name == "rounds"
    assert "reaches 5 % to either side" in plot.caption
    assert "reaches 16 % to either side" in drifting().caption


# Refused rows.


def speedy_but_refused() -> Row:
    """With figures of speed, which no writer of reports should leave there."""
    return refused(
        latency=latency(0.987654),
        over_upstream=ratio(7.77, "torch fp32"),
        over_fastest_other=ratio(6.66, "torch fp32"),
        inferences_per_s=55.5,
        audio_s_per_s=44.4,
        rtf=0.0333,
        gflops=2222.0,
        percent_of_peak=1111.0,
        energy_j=88.8,
        opening=opening("onnxruntime").model_copy(update={"build_s": 99.9, "first_call_s": 31.4}),
    )


def test_refused_rows_hold_no_figure_of_speed(tmp_path: Path) -> None:
    report = tiny_report(speedy_but_refused())
    markdown = markdown_of(report)
    (table,) = speed_tables(markdown)
    assert table[-1][3] == "**refused**: SNR 12 dB is below the 30 dB that bf16 has to reach"
    assert set(table[-1][4:13]) == {"–"}
    page = write_page(report, tmp_path).read_text("utf-8")
    plain = " ".join(Page(page).texts)
    for figure in ("988", "7.77", "6.66", "55.5", "44.4", "0.0333", "2222", "1111", "88.8", "99.9", "31.4"):
        assert figure not in markdown
        assert figure not in plain
    assert "<s>" in page


def test_nothing_valid_at_all(tmp_path: Path) -> None:
    one = cell("made_up_nsf", 64, 1, rows=(refused(),))
    report = tiny_report(cells=(one,))
    assert "no valid row" in markdown_of(report)
    assert "No valid row." in " ".join(page_of(report, tmp_path).texts)


def test_an_empty_report(tmp_path: Path) -> None:
    report = small_report(networks=(), cells=(), left_out=())
    assert "no rounds" in facts.how_measured(report)
    assert markdown_of(report).startswith("# Benchmark made-up")
    assert page_of(report, tmp_path).found("h1")


# The page.


def test_nothing_comes_from_outside(page: Page, folder: Path) -> None:
    for _, attributes in page.tags:
        for name in REFERRING:
            assert attributes.get(name, "#").startswith(("data:", "#")), attributes
        for value in attributes.values():
            assert all(url.startswith("#") for url in re.findall(r"url\(([^)]*)\)", value))
    assert "@import" not in (folder / PAGE).read_text("utf-8")
    assert not page.found("iframe") and not page.found("object") and not page.found("base")


def test_the_browser_is_told_to_fetch_nothing(page: Page) -> None:
    (policy,) = (meta for meta in page.found("meta") if meta.get("http-equiv") == "Content-Security-Policy")
    assert policy["content"].startswith(CSP)
    assert page.found("html") == [{"lang": "en"}]


def test_ids_are_unique_and_all_references_lead_somewhere(page: Page) -> None:
    assert len(page.ids) == len(set(page.ids))
    values = [value for _, attributes in page.tags for value in attributes.values()]
    urls = [url for value in values for url in re.findall(r"url\(#([^)]*)\)", value)]
    links = [attributes["href"][1:] for _, attributes in page.tags if attributes.get("href", "").startswith("#")]
    assert urls and links
    assert {*urls, *links} <= set(page.ids)


def test_players_and_pictures(page: Page) -> None:
    players = page.found("audio")
    assert len(players) == sum(2 * len(net.listening) + 1 for net in small_report().networks) - 2 + 1
    assert all(player["src"].startswith("data:audio/flac;base64,") for player in players)
    assert all(player["aria-label"] for player in players)
    pictures = page.found("img")
    assert len(pictures) == sum(2 * len(net.listening) + 2 for net in small_report().networks)
    assert all(picture["src"].startswith("data:image/png;base64,") and picture["alt"] for picture in pictures)
    assert "Difference, scaled up by 106 dB" in " ".join(page.texts)
    assert page.texts.count("No difference to the reference.") == 2
    assert len(page.found("svg")) == 12


def test_evil_strings_stay_text(tmp_path: Path) -> None:
    row = small_report().cells[0].rows[3].model_copy(update={"contender": EVIL, "forms": (EVIL,)})
    heard = listening("x", EVIL, 40.0, True).model_copy(
        update={"notes": {"pesq_wb": EVIL}, "metrics": {EVIL: 1.0, "pesq_wb": None}}
    )
    net = network(
        "x", True, name=EVIL, origin=EVIL, listened_to=EVIL, reference=EVIL, recording=None, listening=(heard,)
    )
    report = tiny_report(row, net, about=EVIL, recipe=EVIL, provenance=provenance(command=EVIL, cpu=EVIL))
    page = page_of(report, tmp_path)
    assert len(page.found("script")) == 1
    assert not page.found("b")[3:]
    assert " ".join(page.texts).count("<script>alert(1)</script>") > 8
    assert "\x00" not in " ".join(page.texts)


@pytest.mark.parametrize(
    ("file", "note"),
    [
        ("audio/nowhere.flac", "not beside the report"),
        ("../outside.flac", "not beside the report"),
        ("/etc/passwd", "not beside the report"),
        (".", "not beside the report"),
        ("torn.flac", "cannot be read"),
        ("song.txt", "do not play"),
    ],
)
def test_a_sound_that_cannot_be_had_leaves_a_note(file: str, note: str, tmp_path: Path) -> None:
    folder = tmp_path / "report"
    folder.mkdir()
    write_audio(tmp_path / "outside.flac", np.zeros(800, np.float32), 16_000)
    (folder / "torn.flac").write_bytes(b"fLaC and no more")
    (folder / "song.txt").write_text("la la")
    page = page_of(tiny_report(net=network("x", True, reference=file)), folder)
    assert note in " ".join(page.texts)
    assert not page.found("audio")


def test_a_contender_that_made_no_sound_says_why(tmp_path: Path) -> None:
    heard = listening("x", "torch fp32", 40.0, True).model_copy(
        update={"metrics": {}, "notes": {"audio": "it ran out of breath"}, "audio": None, "difference": None}
    )
    others = network("x", True).listening
    report = tiny_report(net=network("x", True, listening=(*others, heard)))
    assert "it ran out of breath" in " ".join(page_of(report, tmp_path).texts)
    assert "it ran out of breath" in markdown_of(report)


def test_silence_and_sounds_of_some_samples(tmp_path: Path) -> None:
    net = network("x", True, listening=network("x", True).listening[:1])
    for samples, level in ((1, 0.0), (1, 0.5), (3000, 0.0)):
        for file in (net.recording, net.reference, net.listening[0].audio):
            write_audio(tmp_path / str(file), np.full(samples, level, np.float32), 16_000)
        assert len(page_of(tiny_report(net=net), tmp_path).found("audio")) == 3


def test_both_say_the_same_of_every_row(page: Page) -> None:
    markdown = speed_tables(markdown_of(small_report()))
    told = [[" ".join(shown(cell).split()) for cell in row[2:]] for table in markdown for row in table[2:]]
    labels = {row[0] for row in told}
    columns = len(markdown[0][0]) - 2
    of_page = [[" ".join(cell.split()) for cell in row] for row in page.rows]
    speed = [row for row in of_page if row[0] in labels and (len(row) == columns or row[1].startswith("refused"))]
    assert len(speed) == len(told) == 48
    for in_page, in_markdown in zip(speed, told, strict=True):
        if len(in_page) == columns:
            assert in_page == in_markdown
        else:
            assert in_page == [cell for cell in in_markdown if cell != "–"]


# Pictures.


def test_a_contender_has_one_colour_everywhere() -> None:
    styles = drawing.styles_of(small_report())
    assert styles["torch fp32"].number == 0
    assert styles["onnxruntime fp32"].colour == styles["onnxruntime fp32 + folded, subpixel"].colour
    assert styles["onnxruntime fp32"].marker != styles["onnxruntime fp32 + folded, subpixel"].marker
    assert len({style.number for style in styles.values()}) == 4


def test_plots_are_the_same_from_many_threads() -> None:
    report = small_report()
    drawn: Callable[[Network], tuple[drawing.Plot, ...]] = lambda net: figures.plots_of(report, net, "n")  # noqa: E731
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(drawn, report.networks))
    assert together == [drawn(net) for net in report.networks]


def test_plots_without_enough_rows_are_left_out() -> None:
    report = tiny_report()
    names = [plot.name for plot in figures.plots_of(report, report.networks[0], "n")]
    assert names == ["quality", "opening", "call", "rounds"]


def test_dollars_are_no_formulas() -> None:
    row = small_report().cells[0].rows[3].model_copy(update={"contender": r"$\frac{模型$ <b>"})
    plots = figures.plots_of(tiny_report(row), tiny_report().networks[0], "n")
    assert all(r"$\frac{模型$ &lt;b&gt;" in plot.svg for plot in plots)


def test_one_scale_for_all_spectrograms() -> None:
    time = np.arange(16_000) / 16_000
    tone = np.sin(2 * np.pi * 1000 * time).astype(np.float32)
    loud, quiet = spectrograms.spectrum(tone, 16_000), spectrograms.spectrum(tone * np.float32(1e-6), 16_000)
    full = loud.power.max()
    black = spectrograms.spectrogram(spectrograms.spectrum(0 * tone, 16_000), full)
    assert spectrograms.spectrogram(quiet, full) == black
    assert spectrograms.spectrogram(loud, full) != black
    row = int(np.argmax(loud.power.mean(axis=1)))
    height = 100 * (1 - (row + 0.5) / len(loud.power))
    assert height == pytest.approx(dict(spectrograms.frequency_ticks(8000))["1"], abs=2)
