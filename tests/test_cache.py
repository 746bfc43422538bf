"""The engine cache: keys, single flight, damage, death at any moment.

TRT_SVC_TORTURE=1 (`make cache-torture`) runs the full counts: 200 kills, 10,000 damaged entries, 32 real builds.
"""

from __future__ import annotations

import json
import logging
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from trt_svc import engine_key as keys
from trt_svc.build_config import OPTION_FIELDS, BuildConfig, Precision, ShapeRange
from trt_svc.cache import (
    MANIFEST,
    EngineCache,
    Rejected,
    encoded_manifest,
    folder_bytes,
    is_plain_name,
    read_entry,
    require_entry,
    verified_entry,
)
from trt_svc.engine_archive import import_archive, write_archive, write_engine_file
from trt_svc.engine_key import KEY_FIELDS, NOT_IN_KEY, EngineKey, engine_key
from trt_svc.errors import EngineError, OutputError
from trt_svc.files import engine_directory

TORTURE = bool(os.environ.get("TRT_SVC_TORTURE"))
KILLS, DAMAGES, REAL_RACERS = (200, 10_000, 32) if TORTURE else (20, 1_000, 4)

SETTINGS = BuildConfig(backend="onnxruntime", precision=Precision("fp32")).for_family("hifigan")
FILES = {"model.onnx": b"an engine" * 500, "sentinel.npz": b"an answer" * 40}


def key_of(
    weights: str = "w" * 64, graph: str = "g" * 64, settings: BuildConfig = SETTINGS, **identity: str
) -> EngineKey:
    return engine_key(weights, graph, settings, identity or {"onnxruntime": "1.31"})


def stored(cache: EngineCache, weights: str = "w" * 64) -> EngineKey:
    key = key_of(weights)
    cache.store(key, FILES, {"family": "hifigan"}, {"quality": {"snr_db": 120.0}})
    return key


@pytest.fixture
def cache(tmp_path: Path) -> EngineCache:
    return EngineCache(tmp_path / "engines")


# Keys.


def test_what_is_stored_is_found(cache: EngineCache) -> None:
    key = key_of()
    assert cache.find(key) is None
    stored(cache)
    found = cache.find(key)
    assert found is not None and found.files == FILES and found.metadata == {"family": "hifigan"}
    assert cache.find(key_of("x" * 64)) is None


CHANGES: dict[str, BuildConfig] = {
    "precision": replace(SETTINGS, precision=Precision("fp16")),
    "protected": replace(SETTINGS, precision=Precision("fp32", ("conv_pre",))),
    "frames": replace(SETTINGS, frames=(ShapeRange(1, 2, 3),)),
    "one more profile": replace(SETTINGS, frames=(*SETTINGS.frames, ShapeRange(4, 5, 6))),
    "batch": replace(SETTINGS, batch=ShapeRange(1, 2, 3)),
    "backend": replace(SETTINGS, backend="openvino"),
    "workspace_bytes": replace(SETTINGS, workspace_bytes=1 << 30),
    "optimization_level": replace(SETTINGS, optimization_level=5),
    "hardware_compatible": replace(SETTINGS, hardware_compatible=True),
    "version_compatible": replace(SETTINGS, version_compatible=True),
    "strip_weights": replace(SETTINGS, strip_weights=True),
    "targets": replace(SETTINGS, targets=("sm86",)),
}
SAME: dict[str, BuildConfig] = {
    "gate_db": replace(SETTINGS, gate_db=90.0),
    "rewrites": replace(SETTINGS, rewrites=("fold-mean",)),
    "device": replace(SETTINGS, device="cpu"),
    "allow_bf16": replace(SETTINGS, precision=Precision("fp32", allow_bf16=True)),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_setting_that_changes_the_engine_changes_the_key(name: str) -> None:
    assert key_of(settings=CHANGES[name]).sha256 != key_of().sha256


@pytest.mark.parametrize("name", SAME)
def test_a_setting_that_does_not_change_the_engine_keeps_the_key(name: str) -> None:
    assert key_of(settings=SAME[name]).sha256 == key_of().sha256


def test_content_versions_and_machine_change_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [key_of(), key_of("x" * 64), key_of(graph="x" * 64)]
    found += [key_of(onnxruntime="1.32"), key_of(onnxruntime="1.31", gpu="RTX 4090"), key_of(driver_major="580")]
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    found.append(key_of())
    monkeypatch.setattr("platform.system", lambda: "Windows")
    found.append(key_of())
    monkeypatch.setattr(keys, "BUILD_REVISION", keys.BUILD_REVISION + 1)
    found.append(key_of())
    assert len({key.sha256 for key in found}) == len(found)


def test_every_field_of_the_settings_is_decided_on() -> None:
    named = {"backend", "precision", "frames", "batch"} | set(OPTION_FIELDS) | set(NOT_IN_KEY)
    assert named == {field.name for field in fields(BuildConfig)}
    assert set(key_of().fields) == set(KEY_FIELDS)


def test_where_engines_live(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("TRT_SVC_ENGINE_DIR", raising=False)
    assert engine_directory() == Path(__file__).parents[1] / "engines"
    monkeypatch.setenv("TRT_SVC_ENGINE_DIR", str(tmp_path / "elsewhere"))
    assert engine_directory() == tmp_path / "elsewhere"


# Size.


def test_the_least_recently_used_go_first(cache: EngineCache) -> None:
    made = [stored(cache, letter * 64) for letter in "abcd"]
    for age, key in enumerate(reversed(made)):
        os.utime(cache.folder(key.sha256) / MANIFEST, (1e9 - age, 1e9 - age))
    assert cache.find(made[0]) is not None  # now the newest
    size = folder_bytes(cache.folder(made[0].sha256))
    gone = cache.prune(int(2.5 * size))
    assert set(gone) == {made[1].sha256, made[2].sha256}
    assert cache.keys()[0] == made[0].sha256


def test_a_new_entry_makes_room_for_itself(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path, limit_bytes=10_000)
    for letter in "abc":
        stored(cache, letter * 64)
    assert len(cache.keys()) == 1
    assert cache.find(key_of("c" * 64)) is not None


def test_a_full_disk_is_reported_and_leaves_nothing(cache: EngineCache, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("trt_svc.cache.write_durably", full)
    with pytest.raises(OutputError, match=r"No space left.*engines prune"):
        stored(cache)
    assert cache.keys() == []
    assert not list(cache.root.glob("partial/*"))


# Damage.


def _flip(folder: Path, rng: random.Random) -> None:
    path = rng.choice(sorted(folder.iterdir()))
    data = bytearray(path.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def _truncate(folder: Path, rng: random.Random) -> None:
    path = rng.choice(sorted(folder.iterdir()))
    data = path.read_bytes()
    path.write_bytes(data[: rng.randrange(len(data))])


def _extend(folder: Path, rng: random.Random) -> None:
    path = rng.choice(sorted(folder.iterdir()))
    path.write_bytes(path.read_bytes() + rng.randbytes(rng.randrange(1, 9)))


def _zero_a_stretch(folder: Path, rng: random.Random) -> None:
    path = rng.choice(sorted(folder.iterdir()))
    data = bytearray(path.read_bytes())
    at = rng.randrange(len(data))
    data[at : at + 64] = bytes(len(data[at : at + 64]))
    path.write_bytes(data)


def _swap_files(folder: Path, rng: random.Random) -> None:
    a, b = folder / "model.onnx", folder / "sentinel.npz"
    one, two = a.read_bytes(), b.read_bytes()
    a.write_bytes(two), b.write_bytes(one)


def _lose_a_file(folder: Path, rng: random.Random) -> None:
    rng.choice(sorted(folder.iterdir())).unlink()


def _smuggle_a_file(folder: Path, rng: random.Random) -> None:
    (folder / f"extra{rng.randrange(99)}.so").write_bytes(b"x")


def _rename_a_file(folder: Path, rng: random.Random) -> None:
    (folder / "model.onnx").rename(folder / "model.plan")


def _folder_for_a_file(folder: Path, rng: random.Random) -> None:
    (folder / "model.onnx").unlink()
    (folder / "model.onnx").mkdir()


def _reseal(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    manifest = json.loads((folder / MANIFEST).read_bytes())
    manifest.pop("seal")
    change(manifest)
    (folder / MANIFEST).write_bytes(encoded_manifest(manifest))


def _older_format(folder: Path, rng: random.Random) -> None:
    _reseal(folder, lambda m: m.update(format=0))


def _other_settings(folder: Path, rng: random.Random) -> None:
    _reseal(folder, lambda m: m["key"].update(precision={"name": "fp16", "protected": []}))


def _no_field(folder: Path, rng: random.Random) -> None:
    _reseal(folder, lambda m: m.pop(rng.choice(["key", "files", "key_sha256"])))


def _wrong_types(folder: Path, rng: random.Random) -> None:
    wrong = rng.choice([{"model.onnx": 5}, {"model.onnx": {}}, {"model.onnx": []}, [1], 7, "model.onnx"])
    _reseal(folder, lambda m: m.update(rng.choice([{"files": wrong}, {"metadata": 5}, {"notes": []}, {"created": 1}])))


def _path_outside(folder: Path, rng: random.Random) -> None:
    _reseal(folder, lambda m: m["files"].update({"../../x": {"bytes": 1, "sha256": "0" * 64}}))


def _not_json(folder: Path, rng: random.Random) -> None:
    (folder / MANIFEST).write_bytes(
        rng.choice([b"", b"[1]", b"null", b"{", b"[" * 5000, b"\xff\xfe", b'{"format": 1}'])
    )


DAMAGE = (
    *[_flip] * 6, *[_truncate] * 4, *[_extend] * 2, *[_zero_a_stretch] * 2, _swap_files, _lose_a_file, _smuggle_a_file,
    _rename_a_file, _folder_for_a_file, _older_format, _other_settings, _no_field, _wrong_types, _path_outside, _not_json,
)  # fmt: skip


def test_no_damaged_entry_ever_opens(cache: EngineCache, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    key = stored(cache)
    whole = tmp_path / "whole"
    shutil.copytree(cache.folder(key.sha256), whole)
    rng = random.Random(1)
    for count in range(DAMAGES):
        folder = cache.folder(key.sha256)
        shutil.rmtree(folder)
        shutil.copytree(whole, folder)
        damage = DAMAGE[count % len(DAMAGE)]
        before = {path.name: path.read_bytes() for path in folder.iterdir()}
        damage(folder, rng)
        unchanged = {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()} == before
        caplog.clear()
        with caplog.at_level(logging.WARNING, "trt_svc.cache"):
            found = cache.find(key)
        if unchanged:  # zeroes over zeroes
            continue
        assert found is None, (count, damage.__name__)
        (record,) = caplog.records
        assert "is not used: it" in record.message or re.search(r"is not used: \S+ (has|is|cannot)", record.message)
        assert len(record.message.splitlines()) == 1


def test_an_entry_under_another_name_is_refused(cache: EngineCache) -> None:
    key, other = stored(cache), key_of("x" * 64)
    folder = cache.folder(other.sha256)
    folder.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(cache.folder(key.sha256), folder)
    assert cache.find(other) is None
    with pytest.raises(Rejected, match="another engine"):
        read_entry(folder)
    with pytest.raises(EngineError, match=r"another engine.*--force"):
        verified_entry(cache, other.sha256)


def test_a_damaged_entry_is_replaced(cache: EngineCache) -> None:
    key = stored(cache)
    (cache.folder(key.sha256) / "model.onnx").write_bytes(b"noise")
    assert cache.find(key) is None
    stored(cache)
    found = cache.find(key)
    assert found is not None and found.files == FILES


def test_damaged_shortcuts_are_ignored(cache: EngineCache) -> None:
    key = stored(cache)
    request = {"weights_file": "abc", "settings": {"a": 1}}
    assert cache.recall(request) is None
    cache.remember(request, key.sha256)
    found = cache.recall(request)
    assert found is not None and found.key == key.sha256
    (path,) = cache.root.glob("requests/*.json")
    whole, rng = path.read_bytes(), random.Random(2)
    for _ in range(300):
        data = bytearray(whole)
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
        assert cache.recall(request) is None
    path.write_bytes(whole)
    assert cache.recall({**request, "weights_file": "abd"}) is None
    (cache.folder(key.sha256) / "model.onnx").write_bytes(b"noise")
    assert cache.recall(request) is None


# Archives.


def test_an_engine_travels_in_an_archive(cache: EngineCache, tmp_path: Path) -> None:
    entry = cache.find(stored(cache))
    assert entry is not None
    write_archive(entry, tmp_path / "引擎.zip")
    elsewhere = EngineCache(tmp_path / "elsewhere")
    imported = import_archive(tmp_path / "引擎.zip", elsewhere)
    assert imported.files == FILES
    again = elsewhere.find(entry.key)
    assert again is not None and again.manifest == entry.manifest
    import_archive(tmp_path / "引擎.zip", elsewhere)  # twice is fine
    assert len(elsewhere.keys()) == 1


@pytest.mark.parametrize(
    "name", ["C:evil.dll", "a/b", "..", ".hidden", "model.onnx:stream", "NUL", "con.txt", "", "x\n", "ü", "a" * 200]
)
def test_names_that_mean_other_things_elsewhere(name: str) -> None:
    assert not is_plain_name(name)
    assert is_plain_name("model.onnx") and is_plain_name("sentinel.npz")


@pytest.mark.parametrize("damage", ["flipped", "cut", "no zip", "missing", "outside", "empty"])
def test_a_damaged_archive_is_refused(damage: str, cache: EngineCache, tmp_path: Path) -> None:
    import zipfile

    entry = cache.find(stored(cache))
    assert entry is not None
    path = tmp_path / "e.zip"
    write_archive(entry, path)
    data = path.read_bytes()
    if damage == "flipped":
        at = data.index(b"an engine") + 5
        path.write_bytes(data[:at] + b"X" + data[at + 1 :])
    elif damage == "cut":
        path.write_bytes(data[: len(data) // 2])
    elif damage == "no zip":
        path.write_bytes(b"hello")
    elif damage == "missing":
        path.unlink()
    else:
        with zipfile.ZipFile(path, "w") as archive:
            if damage == "outside":
                archive.writestr(f"{entry.key}/../../../evil", b"x")
    elsewhere = EngineCache(tmp_path / "elsewhere")
    with pytest.raises(EngineError, match="engine archive"):
        import_archive(path, elsewhere)
    assert elsewhere.keys() == []
    assert not list(tmp_path.rglob("evil"))
    assert not list(elsewhere.root.glob("partial/*"))


def test_the_bare_engine_file(cache: EngineCache, tmp_path: Path) -> None:
    entry = cache.find(stored(cache))
    assert entry is not None
    write_engine_file(entry, tmp_path / "voice.onnx")
    assert (tmp_path / "voice.onnx").read_bytes() == FILES["model.onnx"]
    assert json.loads((tmp_path / "voice.onnx.json").read_text())["key_sha256"] == entry.key


def test_keys_by_their_first_letters(cache: EngineCache) -> None:
    key = stored(cache).sha256
    assert require_entry(cache, key[:8].upper()) == key
    for wrong in ("", "zz", "../.."):
        with pytest.raises(EngineError, match="engines ls"):
            require_entry(cache, wrong)


# Processes.

WORKER = """
import sys, time
from pathlib import Path
from trt_svc.cache import EngineCache
from trt_svc.engine_key import EngineKey, KEY_FIELDS
cache = EngineCache(Path(sys.argv[1]))
key = EngineKey({name: {"name": name} for name in KEY_FIELDS})
files = {"model.onnx": b"0123456789abcdef" * 65536, "sentinel.npz": b"answer" * 1000}
print("ready", flush=True)
sys.stdin.readline()
with cache.building(key):
    found = cache.find(key)
    if found is None:
        (cache.root / "builds").open("a").write("built\\n")
        time.sleep(float(sys.argv[2]))
        found = cache.store(key, files, {"family": "x"}, {})
assert found.files == files
print(found.key, flush=True)
"""


def worker(root: Path, build_s: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WORKER, str(root), str(build_s)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def start(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None and process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.stdin.write("\n")
    process.stdin.flush()


def finish(process: subprocess.Popen[str]) -> int:
    process.communicate(timeout=120)
    return process.returncode


def test_32_processes_and_one_build(tmp_path: Path) -> None:
    workers = [worker(tmp_path, 0.3) for _ in range(32)]
    for one in workers:
        start(one)
    assert [finish(one) for one in workers] == [0] * 32
    assert (tmp_path / "builds").read_text() == "built\n"


def test_a_killed_writer_leaves_no_bad_entry(tmp_path: Path) -> None:
    rng = random.Random(3)
    key = EngineKey({name: {"name": name} for name in KEY_FIELDS})
    cache = EngineCache(tmp_path)
    outcomes = set()
    for _ in range(KILLS):
        shutil.rmtree(cache.folder(key.sha256), ignore_errors=True)
        doomed = worker(tmp_path, 0.0)
        start(doomed)
        time.sleep(rng.uniform(0, 0.02))
        doomed.send_signal(signal.SIGKILL)
        finish(doomed)
        found = cache.find(key)
        outcomes.add(found is not None)
        if cache.folder(key.sha256).exists():
            assert found is not None, "what is under its name is whole"
        survivor = worker(tmp_path, 0.0)
        start(survivor)
        assert finish(survivor) == 0
        assert cache.find(key) is not None
    cache.prune(1 << 40)
    assert not list(tmp_path.glob("partial/*")), "leftovers of the dead are swept"
    assert False in outcomes, "the kills came too late to interrupt anything"


def command_line(root: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "trt_svc", "build-engine", "demo", "--backend", "onnxruntime"]
    environment = {**os.environ, "TRT_SVC_ENGINE_DIR": str(root), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_real_builds_race_to_one_engine(tmp_path: Path) -> None:
    racers = [command_line(tmp_path) for _ in range(REAL_RACERS)]
    said = [racer.communicate(timeout=500) for racer in racers]
    assert [racer.returncode for racer in racers] == [0] * REAL_RACERS, said
    assert sum("compiling for onnxruntime" in errors for _, errors in said) == 1
    assert sum("built now" in text for text, _ in said) == 1
    assert len(EngineCache(tmp_path).keys()) == 1


def test_a_killed_real_build_leaves_no_bad_entry(tmp_path: Path) -> None:
    rng = random.Random(4)
    cache = EngineCache(tmp_path)
    interrupted = 0
    for _ in range(KILLS if TORTURE else 4):
        doomed = command_line(tmp_path)
        time.sleep(rng.uniform(0.5, 3.5))
        doomed.kill()
        text, stages = doomed.communicate()
        interrupted += bool(stages) and "built now" not in text
        for key in cache.keys():  # noqa: SIM118
            read_entry(cache.folder(key))  # raises where an entry is not whole
        if rng.random() < 0.5:
            cache.prune(0)
            cache.forget_requests()
    assert interrupted or not TORTURE, "no kill hit a build at work"
    survivor = command_line(tmp_path)
    survivor.communicate(timeout=300)
    assert survivor.returncode == 0
    assert len(cache.keys()) == 1
