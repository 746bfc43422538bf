"""Compiling and shipping the native kernels: which library, made by whom, and what happens when it cannot be made."""

from __future__ import annotations

import ctypes
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from trt_svc.errors import BackendUnavailable
from trt_svc.native import compilers, compiling, processor, ship
from trt_svc.native.processor import ISA_VARIABLE, Target, this_target, usable_isas

TARGET = this_target()
LANES = {"avx512": 16, "avx2": 8, "neon": 4}
# The kernels take seconds to compile; where only the way to them is tried, this stands in their place.
SMALL = 'extern "C" __attribute__((visibility("default"))) int trt_svc_abi(void) { return ANSWER; }\n'

needs_shell = pytest.mark.skipif(TARGET.system == "windows", reason="writes a compiler as a shell script")
needs_compiler = pytest.mark.skipif(not any(compilers.compilers(TARGET)), reason="there is no C++ compiler")


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Another source, nothing shipped, an empty cache; returns the source's folder."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "network.cpp").write_text(SMALL.replace("ANSWER", "41"))
    monkeypatch.setattr(compiling, "SOURCE", source)
    monkeypatch.setattr(compiling, "SHIPPED", tmp_path / "shipped")
    monkeypatch.setenv(compiling.DIRECTORY_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.delenv("CXX", raising=False)
    return source


def answer(path: Path) -> int:
    return int(ctypes.CDLL(str(path)).trt_svc_abi())


def script(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def counting(folder: Path) -> str:
    """A compiler that writes a line for every time it is asked."""
    real = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if not real:
        pytest.skip("there is no compiler to wrap")
    return script(folder / "counting", f'echo asked >> "{folder}/log"\nexec {real} "$@"')


def asked(folder: Path) -> int:
    return len((folder / "log").read_text().splitlines())


# The kernels themselves.


@needs_compiler
@pytest.mark.parametrize("isa", usable_isas(TARGET))
def test_the_kernels_are_there_for_every_kind_of_vectors(isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ISA_VARIABLE, isa)
    path = compiling.library_path()
    library = ctypes.CDLL(str(path))
    assert isa in path.name
    assert library.trt_svc_lanes() == LANES[isa]
    assert library.trt_svc_abi() > 0


@pytest.mark.parametrize("target", ship.ISAS, ids=lambda target: target.name)
def test_what_is_shipped_is_of_the_present_sources(target: Target) -> None:
    folder = compiling.SHIPPED / target.name
    if not compiling.SHIPPED.is_dir():
        pytest.skip("nothing is shipped: `make native`")
    manifest = compiling.read_manifest(folder)
    assert manifest["source"] == compiling.source_hash(compiling.SOURCE), "run `make native`"
    assert set(manifest["libraries"]) == {target.library(isa) for isa in ship.ISAS[target]}
    for name, digest in manifest["libraries"].items():
        assert compiling.sha256_of(folder / name) == digest


# Where a library comes from.


@needs_shell
def test_the_second_call_finds_what_the_first_compiled(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", counting(tmp_path))
    first = compiling.library_path()
    assert first.is_relative_to(tmp_path / "cache")
    assert answer(first) == 41
    assert compiling.library_path() == first
    assert asked(tmp_path) == 1


@needs_shell
def test_other_sources_are_another_library(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", counting(tmp_path))
    first = compiling.library_path()
    other = tmp_path / "other"
    other.mkdir()
    (other / "network.cpp").write_text(SMALL.replace("ANSWER", "42"))
    monkeypatch.setattr(compiling, "SOURCE", other)
    second = compiling.library_path()
    assert (answer(first), answer(second)) == (41, 42)
    assert asked(tmp_path) == 2


def test_ends_of_lines_are_no_change(small: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "network.cpp").write_bytes((small / "network.cpp").read_bytes().replace(b"\n", b"\r\n"))
    assert compiling.source_hash(other) == compiling.source_hash(small)


@needs_shell
def test_a_damaged_library_is_compiled_again(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", counting(tmp_path))
    path = compiling.library_path()
    whole = path.read_bytes()
    path.unlink()  # the loaded one stays as it is
    path.write_bytes(whole[:-100] + b"x" * 100)
    again = compiling.library_path()
    assert again == path
    assert compiling.sha256_of(again) == compiling.read_manifest(path.parent)["libraries"][path.name]
    assert asked(tmp_path) == 2


@needs_shell
def test_a_shipped_library_is_taken_unless_it_is_stale(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", counting(tmp_path))
    isa = usable_isas(TARGET)[0]
    home = compiling.SHIPPED / TARGET.name
    compilers.compile_library(TARGET, isa, small, home / TARGET.library(isa))
    compiling.write_manifest(home, [TARGET.library(isa)], "a test")
    assert compiling.library_path().parent == home
    assert asked(tmp_path) == 1

    manifest = home / compiling.MANIFEST
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"source": "0" * 64}))
    assert compiling.library_path().is_relative_to(tmp_path / "cache")
    assert asked(tmp_path) == 2


@pytest.mark.parametrize("text", ["", "[]", '{"libraries": 3}', "{" * 100_000], ids=["empty", "list", "number", "deep"])
def test_a_foreign_manifest_vouches_for_nothing(text: str, tmp_path: Path) -> None:
    (tmp_path / compiling.MANIFEST).write_text(text)
    assert compiling.read_manifest(tmp_path) == {}


@needs_shell
def test_racing_processes_compile_once(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", counting(tmp_path))
    code = (
        "import pathlib, sys; from trt_svc.native import compiling;"
        "compiling.SOURCE, compiling.SHIPPED = map(pathlib.Path, sys.argv[1:]); print(compiling.library_path())"
    )
    command = [sys.executable, "-c", code, str(small), str(compiling.SHIPPED)]
    racing = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    found = {process.communicate(timeout=120)[0].strip() for process in racing}
    assert [process.returncode for process in racing] == [0] * 4
    assert len(found) == 1
    assert answer(Path(found.pop())) == 41
    assert asked(tmp_path) == 1


# Compilers.


@needs_compiler
@pytest.mark.parametrize("number", range(2))
def test_every_compiler_here_makes_one_that_loads(number: int, small: Path, tmp_path: Path) -> None:
    found = list(compilers.compilers(TARGET))
    if number >= len(found):
        pytest.skip("there is only one")
    path = tmp_path / found[number].name / TARGET.library("x")
    compilers.compile_with(found[number], TARGET, usable_isas(TARGET)[0], small, path)
    assert answer(path) == 41
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.skipif(compilers.ziglang() is None, reason="needs the package ziglang")
def test_zig_makes_them_for_another_machine(small: Path, tmp_path: Path) -> None:
    other = Target("macos", "aarch64")
    (path,) = ship.ship(other, tmp_path)
    content = path.read_bytes()
    assert content[:4] == b"\xcf\xfa\xed\xfe"
    assert b"@rpath/trt_svc_native-neon.dylib" in content
    assert str(tmp_path).encode() not in content
    assert compiling.read_manifest(path.parent)["source"] == compiling.source_hash(compiling.SOURCE)


@needs_shell
@pytest.mark.parametrize("broken", ["false", "no-such-compiler-here", "true"])
def test_after_a_broken_compiler_the_next_one_is_asked(
    broken: str, small: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if not any(compilers.compilers(TARGET)):
        pytest.skip("there is no next one")
    monkeypatch.setenv("CXX", broken)
    assert answer(compiling.library_path()) == 41
    assert f"CXX={broken}" in caplog.text


@needs_shell
def test_what_a_compiler_says_is_told_shortly(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compilers, "ziglang", lambda: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    complaint = 'echo "In file a.h:" >&2; echo "a.h:3: error: no such vector" >&2; echo more >&2; exit 1'
    monkeypatch.setenv("CXX", script(tmp_path / "grumpy", complaint))
    with pytest.raises(BackendUnavailable) as caught:
        compiling.library_path()
    assert "says 'a.h:3: error: no such vector'" in caught.value.found
    assert "trt-svc[native]" in caught.value.advice


def test_without_a_compiler_the_message_says_what_to_install(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compilers, "ziglang", lambda: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BackendUnavailable) as caught:
        compiling.library_path()
    assert caught.value.found == "there is no C++ compiler."
    assert 'pip install "trt-svc[native]"' in caught.value.advice


def test_a_folder_that_cannot_be_written_is_named(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv(compiling.DIRECTORY_VARIABLE, str(tmp_path / "file"))
    with pytest.raises(BackendUnavailable, match=compiling.DIRECTORY_VARIABLE):
        compiling.library_path()


# The CPU.


def test_only_vectors_that_the_cpu_has_can_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    here = usable_isas(TARGET)
    for isa in here:
        monkeypatch.setenv(ISA_VARIABLE, isa)
        assert usable_isas(TARGET) == (isa,)
    monkeypatch.setenv(ISA_VARIABLE, "avx1024")
    with pytest.raises(BackendUnavailable, match=f"avx1024.*{here[0]}"):
        usable_isas(TARGET)


HASWELL = "fpu sse4_2 movbe popcnt avx f16c bmi1 avx2 bmi2 fma"


@pytest.mark.parametrize(
    ("flags", "isas"),
    [
        (HASWELL, ("avx2",)),
        (f"{HASWELL} avx512f avx512cd", ("avx2",)),
        (f"{HASWELL} avx512f avx512cd avx512bw avx512dq avx512vl", ("avx512", "avx2")),
        (HASWELL.replace(" fma", ""), ()),
    ],
)
def test_vectors_by_the_flags_of_linux(
    flags: str, isas: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    described = tmp_path / "cpuinfo"
    described.write_text(f"processor\t: 0\nvmx flags\t: avx512f\nflags\t\t: {flags}\n\nprocessor\t: 1\n")
    monkeypatch.delenv(ISA_VARIABLE, raising=False)
    monkeypatch.setattr(processor, "CPUINFO", described)
    if isas:
        assert usable_isas(Target("linux", "x86_64")) == isas
    else:
        with pytest.raises(BackendUnavailable, match="neither AVX2 with FMA nor NEON"):
            usable_isas(Target("linux", "x86_64"))


def test_machines_that_no_kernels_are_written_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    monkeypatch.setattr("sysconfig.get_platform", lambda: "win-riscv64")
    with pytest.raises(BackendUnavailable, match=r"riscv64.*Choose another backend"):
        this_target()
