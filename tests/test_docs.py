"""docs/conversion.md does what it says: its snippets run, its commands are understood, its table has every option."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import soundfile
import typer

from tests.golden_svc import FOLDER
from tests.test_svc_encoders import fairseq_file
from trt_svc.cli.convert_run import read_mix
from trt_svc.cli.main import app
from trt_svc.features.f0.base import f0_estimators
from trt_svc.files import DIRECTORY_VARIABLE
from trt_svc.svc.conversion import Conversion
from trt_svc.svc.encoders.base import encoders
from trt_svc.svc.samplers.base import samplers
from trt_svc.svc.speaker_mix import speaker_mix

PAGE = (Path(__file__).parents[1] / "docs" / "conversion.md").read_text("utf-8")
BLOCKS = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
SONG = "君の知らない物語.wav"


def blocks(kind: str) -> list[str]:
    return [found[2] for found in BLOCKS.finditer(PAGE) if found[1] == kind]


def section(title: str) -> str:
    return PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def commands() -> Iterator[list[str]]:
    """The words behind every `trt-svc convert`."""
    for block in blocks("console"):
        for line in block.splitlines():
            words = shlex.split(line.removeprefix("$ "), comments=True)
            if words[:2] == ["trt-svc", "convert"]:
                yield words[2:]


def convert_command() -> Any:
    group: Any = typer.main.get_command(app)
    return group.get_command(None, "convert")


@pytest.fixture
def so_vits_svc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the page, with the golden voice; the process is in it."""
    root = tmp_path / "so-vits-svc"
    shutil.copytree(FOLDER / "e2e", root, copy_function=shutil.copyfile)
    fairseq_file(root / "pretrain/checkpoint_best_legacy_500.pt", layers=9, units=256)
    (root / "raw").mkdir()
    audio, rate = soundfile.read(root / "in32.wav")
    soundfile.write(root / "raw" / SONG, audio, rate)
    monkeypatch.setenv(DIRECTORY_VARIABLE, str(tmp_path / "engines"))
    monkeypatch.chdir(root)
    return root


def test_the_snippets_run(so_vits_svc: Path) -> None:
    names: dict[str, Any] = {}
    for number, block in enumerate(blocks("python")):
        here = block.replace('from_pretrained("so-vits-svc")', 'from_pretrained(".")')
        exec(compile(here, f"snippet {number}", "exec"), names)
    assert len(blocks("python")) >= 3
    assert names["audio"].ndim == 1
    assert names["even"].shape == (names["frames"] * 512,)


@pytest.mark.parametrize("words", list(commands()), ids=" ".join)
def test_the_commands_are_understood(words: list[str]) -> None:
    context = convert_command().make_context("convert", list(words))
    assert context.params["clean_names"] or context.params["batch_dir"]


def test_the_table_has_every_option_with_its_letter() -> None:
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section("Options").splitlines()]
    told = {name: row[0].strip("`") for row in rows if len(row) == 4 for name in re.findall(r"`(--[\w-]+)`", row[1])}
    there = {}
    for option in convert_command().params:
        letters = [word for word in option.opts if not word.startswith("--")]
        there |= {word: "".join(letters) for word in option.opts if word.startswith("--")}
    there.pop("--help", None)
    assert told == {name: letter if letter.startswith("-") else "" for name, letter in there.items()}


def test_every_keyword_is_named() -> None:
    words = set(re.findall(r"\w+", section("Options")))
    assert {spec.name for spec in fields(Conversion)} <= words


@pytest.mark.parametrize(
    ("title", "known"), [("Pitch", f0_estimators), ("Content encoders", encoders), ("Diffusion", samplers)]
)
def test_every_part_is_named(title: str, known: Any) -> None:
    text = section(title)
    for name, kind in known:
        assert f"`{name}`" in text
        for file in getattr(kind, "usual_files", ()):
            assert f"`{file}`" in text
        trained = getattr(kind, "trained", None)
        assert trained is None or all(file in text for file in trained.file_names)


def test_the_map_of_speakers_is_one(tmp_path: Path) -> None:
    (block,) = blocks("json")
    (tmp_path / "mix.json").write_text(block)
    mix = speaker_mix(read_mix(tmp_path / "mix.json"), 3, {"alice": 0, "bob": 1, "carol": 2})
    assert mix.frame_weights(4).any(axis=1).tolist() == [True, True, False]
