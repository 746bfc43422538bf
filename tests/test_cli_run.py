"""`trt-svc run`: another project's script as it is, in a process of its own, as users start it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from trt_svc.dropin.script import Script, exit_code
from trt_svc.errors import InputError

ROOT = Path(__file__).parents[1]

MODELS = """
from tests.hosts.generators import HiFiGANDouble

class Generator(HiFiGANDouble):
    def forward(self, x):
        return super().forward(x)
"""
SCRIPT = """
import sys
torch_came_first = "torch" in sys.modules
import os
import numpy as np
import torch
from models import Generator
from tests.hosts.generators import config

torch.manual_seed(0)
generator = Generator(config()).eval()
mel = torch.randn(1, 80, 40) - 4
with torch.inference_mode():
    heard = [generator(mel) for _ in range(3)]
np.savez(sys.argv[1], *[audio.numpy() for audio in heard])
print(__name__, sys.argv[2:], os.getcwd(), torch_came_first)
sys.exit(int(sys.argv[2]))
"""


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """A host's folder with a Chinese name: a script beside the module that defines its generator."""
    folder = tmp_path / "歌声 转换"
    folder.mkdir()
    (folder / "models.py").write_text(MODELS, "utf-8")
    (folder / "infer.py").write_text(SCRIPT, "utf-8")
    return folder


def _run(host: Path, *words: str, options: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    fast = ("--backend", "onnxruntime", "--precision", "fp32")
    dashes = () if words[0] == "-m" else ("--",)
    command = [sys.executable, "-m", "trt_svc", "run", *fast, *options, *dashes, *words]
    surroundings = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "TRT_SVC_ENGINE_DIR": str(host / "engines"),
        "COLUMNS": "200",
    }
    return subprocess.run(command, capture_output=True, text=True, cwd=host, env=surroundings, check=False)


def test_a_script_runs_as_python_runs_it_and_its_generator_on_an_engine(host: Path) -> None:
    plain = subprocess.run(
        [sys.executable, "infer.py", "plain.npz", "0", "--speaker", "爱丽丝"],
        capture_output=True, text=True, cwd=host, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True,
    )  # fmt: skip
    done = _run(
        host, "python", "infer.py", "run.npz", "3", "--speaker", "爱丽丝", options=("--report", "报告/run.json")
    )
    assert done.returncode == 3, done.stderr
    assert done.stdout == plain.stdout.replace("['0'", "['3'")  # name, arguments, folder; torch not imported before it

    import numpy as np

    with np.load(host / "plain.npz") as before, np.load(host / "run.npz") as after:
        assert np.array_equal(before["arr_0"], after["arr_0"])  # the first call is answered by the host itself
        difference = before["arr_2"] - after["arr_2"]
        assert 0 < np.abs(difference).max() < 1e-5  # the later ones are not

    (place,) = json.loads((host / "报告" / "run.json").read_text("utf-8"))["places"]
    assert (place["family"], place["backend"], place["by_engine"]) == ("hifigan", "onnxruntime", 2)
    assert place["heard_db"] > 90
    assert place["host_s"] > 0 < place["engine_s"]
    assert "onnxruntime fp32" in done.stderr
    assert "2 of 3" in done.stderr


LIKE_PYTHON = """
import json, os, pickle, sys, threading, time
import torch
from models import Generator
from tests.hosts.generators import config, HiFiGANDouble

class Loud(Generator):
    def forward(self, x):
        return super().forward(x) * 0.5

class Conf:
    pass

def heard(generator):
    with torch.inference_mode():
        return [generator(mel).abs().max().item() for _ in range(3)]

def made(kind):
    torch.manual_seed(0)
    return kind(config()).eval()

torch.manual_seed(1)
mel = torch.randn(1, 80, 40) - 4
wrapped = made(Generator)
own = wrapped.forward
wrapped.forward = lambda x: own(x) * 0.5
told = {"plain": heard(made(Generator)), "subclass": heard(made(Loud)), "wrapped": heard(wrapped)}
os.chdir("/")
told["file"] = __file__
told["main"] = sys.modules["__main__"].Conf is Conf

def later():
    time.sleep(1)
    import beside
    told["thread"] = [beside.NAME, sys.argv[1:], len(pickle.dumps(Conf())) > 0]
    print(json.dumps(told))

threading.Thread(target=later).start()
"""


def test_it_is_as_under_python(host: Path) -> None:
    """Subclasses, forwards that the host has wrapped, threads that outlive the script, its place."""
    (host / "odd.py").write_text(LIKE_PYTHON, "utf-8")
    (host / "beside.py").write_text("NAME = '旁'", "utf-8")
    done = _run(host, "odd.py", "-n", "3")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    plain = told["plain"][0]
    assert told["plain"] == pytest.approx([plain] * 3, rel=1e-4)
    assert told["subclass"] == told["wrapped"] == pytest.approx([plain / 2] * 3, rel=1e-4)
    assert told["file"] == str((host / "odd.py").resolve())
    assert told["main"] is True
    assert told["thread"] == ["旁", ["-n", "3"], True]
    assert len([line for line in done.stderr.splitlines() if "is left to the host" in line]) == 2


def test_what_the_script_raises_is_shown_as_ever(host: Path) -> None:
    (host / "broken.py").write_text("import models\nraise RuntimeError('声音')\n", "utf-8")
    done = _run(host, "/opt/其他/bin/python3", "broken.py")
    assert done.returncode == 1
    assert 'broken.py", line 2' in done.stderr
    assert "RuntimeError: 声音" in done.stderr
    assert "no vocoder of a known host was called" in done.stderr


def test_a_module_in_another_folder(host: Path) -> None:
    """`-m` needs no `--` before it."""
    done = _run(host / "..", "-m", "infer", "run.npz", "0", options=("--cwd", str(host), "--no-race", "--json"))
    assert done.returncode == 0, done.stderr
    text, _, report = done.stdout.partition("\n")
    assert text.startswith("__main__ ['0']")
    assert json.loads(report)["places"][0]["by_engine"] == 2


def test_a_generator_that_has_changed_is_left_alone(host: Path) -> None:
    changed = MODELS + '''
class Generator(Generator):
    def __init__(self, h):
        super().__init__(h)
        self.conv_in = self.conv_pre
        del self.conv_pre
    def forward(self, x):
        self.conv_pre = self.conv_in
        try:
            return super().forward(x)
        finally:
            del self.conv_pre
'''  # fmt: skip
    (host / "models.py").write_text(changed, "utf-8")
    done = _run(host, "infer.py", "run.npz", "0")
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stderr.splitlines() if "is left to the host" in line]
    assert len(lines) == 1
    assert "conv_pre" in lines[0]


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ([], "there is no script"),
        (["python"], "there is no script"),
        (["--backend"], "is an option"),
        (["python3.11", "-c", "print(1)"], "is an option"),
        (["没有.py"], "no such file"),
    ],
)
def test_what_is_no_script_is_said(words: list[str], found: str) -> None:
    with pytest.raises(InputError, match=found):
        Script.from_words(words)


def test_wrong_words_are_said_before_the_host_starts(host: Path) -> None:
    for option, found in (
        (("--backend", "tensorflow"), "none of that name"),
        (("--precision", "fp12"), "none of that"),
    ):
        done = _run(host, "infer.py", "never.npz", "0", options=option)
        assert done.returncode == 2
        assert found in done.stderr
    done = _run(host, "infer.py", "never.npz", "0", options=("--cwd", "nowhere"))
    assert done.returncode == 2
    assert not (host / "never.npz").exists()


def test_a_report_never_takes_the_place_of_a_device(host: Path) -> None:
    pipe = host / "pipe"
    os.mkfifo(pipe)
    done = _run(host, "infer.py", "run.npz", "0", options=("--report", str(pipe)))
    assert done.returncode == 2  # the script has run; its sounds are there
    assert (host / "run.npz").is_file()
    assert "no file that could be replaced" in " ".join(done.stderr.split())
    assert pipe.is_fifo()


def test_exit_codes_are_the_interpreters(capsys: pytest.CaptureFixture[str]) -> None:
    assert [exit_code(SystemExit(code)) for code in (None, 0, 5, "why")] == [0, 0, 5, 1]
    assert capsys.readouterr().err == "why\n"


def test_hosts_are_known_without_torch() -> None:
    code = "import sys, trt_svc.dropin.watching as w; print(len(w.hosts.names()), 'torch' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    count, has_torch = told.split()
    assert int(count) >= 10
    assert has_torch == "False"
