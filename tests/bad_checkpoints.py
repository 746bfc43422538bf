"""Files that are not usable checkpoints: hostile, damaged, foreign or mismatched. Each builder returns load arguments."""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from tests.golden import SUBSET, GoldenNet, upstream_tree

EXECUTED = "executed"
"""Any hostile pickle would create a file of this name in its folder."""

NET = GoldenNet("hifigan-v3", SUBSET)
NSF = GoldenNet("nsf-openvpi-rb2", SUBSET)
WAVEGLOW = GoldenNet("waveglow-b2", SUBSET)

Builder = Callable[[Path], dict[str, Any]]
CORPUS: dict[str, Builder] = {}
HOSTILE: list[str] = []
"""Entries that want to run code and are to be named as such."""


def entry(build: Builder) -> Builder:
    CORPUS[build.__name__] = build
    return build


def hostile(build: Builder) -> Builder:
    HOSTILE.append(build.__name__)
    return entry(build)


def load_arguments(folder: Path, config: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return {"path": folder / "model.pt", **more}


def saved(folder: Path, tree: Any, config: dict[str, Any] | None = None, **options: Any) -> dict[str, Any]:
    torch.save(tree, folder / "model.pt", **options)
    return load_arguments(folder, NET.meta["config"] if config is None else config)


def raw(folder: Path, data: bytes) -> dict[str, Any]:
    (folder / "model.pt").write_bytes(data)
    return load_arguments(folder, NET.meta["config"])


class Calls:
    """Pickles as a call of any function."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.call = function, args

    def __reduce__(self) -> Any:
        return self.call


def attack(folder: Path) -> str:
    return f"touch '{folder / EXECUTED}'"


# Code that wants to run.


@hostile
def os_system(folder: Path) -> dict[str, Any]:
    import os

    return saved(folder, {"generator": {**NET.weights, "x": Calls(os.system, attack(folder))}})


@hostile
def os_system_before_torch_1_6(folder: Path) -> dict[str, Any]:
    import os

    tree = {"generator": {**NET.weights, "x": Calls(os.system, attack(folder))}}
    return saved(folder, tree, _use_new_zipfile_serialization=False)


@hostile
def os_system_in_a_plain_pickle(folder: Path) -> dict[str, Any]:
    import os

    return raw(folder, pickle.dumps(Calls(os.system, attack(folder))))


@hostile
def subprocess_popen(folder: Path) -> dict[str, Any]:
    import subprocess

    return saved(folder, {"generator": NET.weights, "hook": Calls(subprocess.Popen, ["touch", str(folder / EXECUTED)])})


@hostile
def builtins_eval(folder: Path) -> dict[str, Any]:
    return saved(folder, {"generator": Calls(eval, f"open({str(folder / EXECUTED)!r}, 'w')")})


@hostile
def builtins_exec(folder: Path) -> dict[str, Any]:
    return saved(folder, [Calls(exec, f"open({str(folder / EXECUTED)!r}, 'w')")])


@hostile
def builtins_getattr(folder: Path) -> dict[str, Any]:
    return saved(folder, {"generator": Calls(getattr, "x", "upper")})


@hostile
def opens_a_file(folder: Path) -> dict[str, Any]:
    return saved(folder, {"generator": Calls(open, str(folder / EXECUTED), "w")})


@hostile
def torch_load_inside(folder: Path) -> dict[str, Any]:
    import os

    inner = io.BytesIO()
    torch.save(Calls(os.system, attack(folder)), inner)
    return saved(folder, {"generator": Calls(torch.storage._load_from_bytes, inner.getvalue())})


@hostile
def torch_hub(folder: Path) -> dict[str, Any]:
    return saved(folder, {"generator": Calls(torch.hub.load, "owner/name", "model")})


@hostile
def numpy_testing(folder: Path) -> dict[str, Any]:
    from numpy.testing import assert_equal

    return saved(folder, {"generator": Calls(assert_equal, 1, 2)})


@hostile
def importlib_import(folder: Path) -> dict[str, Any]:
    import importlib

    return saved(folder, {"generator": Calls(importlib.import_module, "this")})


@hostile
def hand_written_opcodes(folder: Path) -> dict[str, Any]:
    """GLOBAL, MARK, STRING, TUPLE, REDUCE as an attacker types them, inside a proper torch zip."""
    code = b"cposix\nsystem\n(V" + attack(folder).encode() + b"\ntR."
    with zipfile.ZipFile(folder / "model.pt", "w") as archive:
        archive.writestr("archive/data.pkl", code)
        archive.writestr("archive/version", "3")
    return load_arguments(folder, NET.meta["config"])


@hostile
def stack_global_with_joined_name(folder: Path) -> dict[str, Any]:
    code = b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93\x8c\x041+1\n\x85R."
    return raw(folder, code)


@hostile
def torchscript(folder: Path) -> dict[str, Any]:
    with zipfile.ZipFile(folder / "model.pt", "w") as archive:
        archive.writestr("model/data.pkl", pickle.dumps({}))
        archive.writestr("model/constants.pkl", pickle.dumps(()))
        archive.writestr("model/code/__torch__.py", "def forward(self): return 1")
    return load_arguments(folder, NET.meta["config"])


# Damaged containers.


@entry
def zero_bytes(folder: Path) -> dict[str, Any]:
    return raw(folder, b"")


@entry
def one_byte(folder: Path) -> dict[str, Any]:
    return raw(folder, b"P")


@entry
def truncated_zip(folder: Path) -> dict[str, Any]:
    arguments = saved(folder, upstream_tree(NET))
    data = (folder / "model.pt").read_bytes()
    (folder / "model.pt").write_bytes(data[: len(data) // 2])
    return arguments


@entry
def truncated_by_one_byte(folder: Path) -> dict[str, Any]:
    arguments = saved(folder, upstream_tree(NET))
    data = (folder / "model.pt").read_bytes()
    (folder / "model.pt").write_bytes(data[:-1])
    return arguments


@entry
def truncated_legacy(folder: Path) -> dict[str, Any]:
    arguments = saved(folder, upstream_tree(NET), _use_new_zipfile_serialization=False)
    data = (folder / "model.pt").read_bytes()
    (folder / "model.pt").write_bytes(data[: len(data) - 1000])
    return arguments


@entry
def truncated_pickle(folder: Path) -> dict[str, Any]:
    return raw(folder, pickle.dumps({"generator": list(range(1000))})[:500])


@entry
def truncated_safetensors(folder: Path) -> dict[str, Any]:
    path = folder / "model.safetensors"
    save_file(NET.weights, path)
    path.write_bytes(path.read_bytes()[:5000])
    return {"path": path, "config": NET.meta["config"]}


@entry
def safetensors_with_a_huge_header(folder: Path) -> dict[str, Any]:
    path = folder / "model.safetensors"
    path.write_bytes(struct.pack("<Q", 2**62) + b"{" + b" " * 100)
    return {"path": path, "config": NET.meta["config"]}


@entry
def random_bytes(folder: Path) -> dict[str, Any]:
    return raw(folder, np.random.default_rng(0).bytes(5000))


@entry
def pickle_of_random_opcodes(folder: Path) -> dict[str, Any]:
    return raw(folder, b"\x80\x02" + np.random.default_rng(1).bytes(5000))


@entry
def compressed_zip(folder: Path) -> dict[str, Any]:
    with zipfile.ZipFile(folder / "model.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"generator": {}}))
        archive.writestr("archive/data/0", b"\0" * (64 << 20))
    return load_arguments(folder, NET.meta["config"])


@entry
def ordinary_zip(folder: Path) -> dict[str, Any]:
    with zipfile.ZipFile(folder / "model.pt", "w") as archive:
        archive.writestr("G_30000.pth", b"inside")
    return load_arguments(folder, NET.meta["config"])


@entry
def endless_nesting(folder: Path) -> dict[str, Any]:
    return raw(folder, b"\x80\x02" + b"]" * 5000 + b"a" * 4999 + b".")


@entry
def git_lfs_pointer(folder: Path) -> dict[str, Any]:
    return raw(folder, b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")


@entry
def web_page(folder: Path) -> dict[str, Any]:
    return raw(folder, b"<!DOCTYPE html><html><body>404</body></html>")


@entry
def wav_file(folder: Path) -> dict[str, Any]:
    return raw(folder, b"RIFF\x24\0\0\0WAVEfmt ")


@entry
def config_given_as_weights(folder: Path) -> dict[str, Any]:
    return raw(folder, json.dumps(NET.meta["config"]).encode())


# Code that uses permitted-looking names.


def _zip_with(folder: Path, code: bytes, **storages: bytes) -> dict[str, Any]:
    with zipfile.ZipFile(folder / "model.pt", "w") as archive:
        archive.writestr("archive/data.pkl", code)
        for key, data in storages.items():
            archive.writestr(f"archive/data/{key}", data)
    return load_arguments(folder, NET.meta["config"])


@entry
def numpy_objects_over_bytes(folder: Path) -> dict[str, Any]:
    """With NumPy's real classes this shape of file forges objects from raw bytes."""
    forged = Calls(np.ndarray, (2,), np.dtype("O"), b"\0" * 16)
    return saved(folder, {"generator": forged})


@entry
def build_on_a_storage_type(folder: Path) -> dict[str, Any]:
    return raw(folder, b"\x80\x02ctorch\nFloatStorage\n}X\x05\x00\x00\x00dtypectorch\nint32\nsb.")


@entry
def build_on_a_builder(folder: Path) -> dict[str, Any]:
    return raw(folder, b"\x80\x02ctorch\nSize\n}X\x0c\x00\x00\x00__defaults__K\x01sb.")


@entry
def items_of_an_ordered_dict_replaced(folder: Path) -> dict[str, Any]:
    return raw(folder, b"\x80\x02ccollections\nOrderedDict\n)R}X\x05\x00\x00\x00itemsK\x05sb.")


@entry
def extension_registry(folder: Path) -> dict[str, Any]:
    return raw(folder, b"\x80\x02\x82\x01.")


@entry
def nested_files_without_end(folder: Path) -> dict[str, Any]:
    data = pickle.dumps({}, protocol=2)
    for _ in range(8):
        data = b"\x80\x03ctorch.storage\n_load_from_bytes\nB" + struct.pack("<I", len(data)) + data + b"\x85R."
    return raw(folder, data)


# Bombs in small files.


@entry
def thousands_of_views_of_one_storage(folder: Path) -> dict[str, Any]:
    block = torch.zeros(500_000, dtype=torch.float16)
    return saved(folder, {"generator": {f"w{i}": block.view(1000, 500) for i in range(2000)}})


@entry
def doubling_list_as_text(folder: Path) -> dict[str, Any]:
    levels = b"".join(bytes([0x5D, 0x71, i + 1, 0x28, 0x68, i, 0x68, i, 0x65]) for i in range(60))
    return raw(folder, b"\x80\x02]q\x00" + levels + b"ctorch\ndevice\nh\x3c\x85R.")


@entry
def doubling_tuple_as_a_key(folder: Path) -> dict[str, Any]:
    levels = b"".join(bytes([0x68, i, 0x68, i, 0x86, 0x71, i + 1, 0x30]) for i in range(60))
    return raw(folder, b"\x80\x02)q\x000" + levels + b"}h\x3cK\x01s.")


@entry
def list_of_a_long_text(folder: Path) -> dict[str, Any]:
    return raw(folder, b"\x80\x02cbuiltins\nlist\ncbuiltins\nbytes\nJ\xff\xff\xff\x7f\x85R\x85R.")


@entry
def seventy_dimensions(folder: Path) -> dict[str, Any]:
    return _crafted(folder, (1,) * 70, (1,) * 70, stored=1, claimed=1)


@entry
def thousands_of_empty_storages_before_torch_1_6(folder: Path) -> dict[str, Any]:
    class Key:
        def __init__(self, i: int) -> None:
            self.i = i

    class Pickler(pickle.Pickler):
        def persistent_id(self, obj: Any) -> Any:
            return ("storage", torch.FloatStorage, str(obj.i), "cpu", 0, None) if isinstance(obj, Key) else None

    buffer = io.BytesIO()
    for header in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}):
        pickle.dump(header, buffer, protocol=2)
    Pickler(buffer, protocol=2).dump([Key(i) for i in range(60_000)])
    pickle.dump([str(i) for i in range(60_000)], buffer, protocol=2)
    return raw(folder, buffer.getvalue() + b"\0" * 8 * 60_000)


@entry
def yaml_aliases(folder: Path) -> dict[str, Any]:
    arguments = saved(folder, {"generator": NET.weights})
    (folder / "config.json").unlink()
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 9)]
    (folder / "config.yaml").write_text("\n".join([*lines, "upsample_rates: *a8"]))
    return arguments


# Names made for terminals.


@entry
def escape_codes_in_names(folder: Path) -> dict[str, Any]:
    return saved(folder, {"x\n\n\x1b[31mred" + "y" * 5000: 1, "generator": {}})


@entry
def escape_codes_in_weights(folder: Path) -> dict[str, Any]:
    return saved(folder, {"generator": {**NET.weights, "\x1b[2J" + "z" * 5000: torch.zeros(1)}})


@entry
def a_named_pipe(folder: Path) -> dict[str, Any]:
    import os

    os.mkfifo(folder / "model.pt")
    return load_arguments(folder, NET.meta["config"])


@entry
def a_name_too_long(folder: Path) -> dict[str, Any]:
    return {"path": folder / ("x" * 300)}


@entry
def a_hint_of_the_wrong_type(folder: Path) -> dict[str, Any]:
    weights = dict(list(NET.weights.items())[:5])
    return saved(folder, {"generator": weights}, {**NET.meta["config"], "trt_svc": {"family": 5, "source": ["x"]}})


# Tensors that lie.


def _crafted(folder: Path, size: tuple[int, ...], stride: tuple[int, ...], stored: int, claimed: int) -> dict[str, Any]:
    """A torch zip whose single tensor claims a shape its storage does not hold."""
    marker = object()

    class Storage:
        pass

    class Pickler(pickle.Pickler):
        def persistent_id(self, obj: Any) -> Any:
            return ("storage", torch.FloatStorage, "0", "cpu", claimed) if obj is marker else None

    buffer = io.BytesIO()
    tensor = Calls(torch._utils._rebuild_tensor_v2, marker, 0, size, stride, False, OrderedDict())
    Pickler(buffer, protocol=2).dump({"generator": {"conv_pre.weight": tensor}})
    with zipfile.ZipFile(folder / "model.pt", "w") as archive:
        archive.writestr("archive/data.pkl", buffer.getvalue())
        archive.writestr("archive/data/0", b"\0" * 4 * stored)
    return load_arguments(folder, NET.meta["config"])


@entry
def shape_bomb_by_stride_zero(folder: Path) -> dict[str, Any]:
    return _crafted(folder, (10**6, 10**6), (0, 0), stored=1, claimed=1)


@entry
def shape_bomb_by_size(folder: Path) -> dict[str, Any]:
    return _crafted(folder, (10**7, 10**7), (10**7, 1), stored=4, claimed=4)


@entry
def storage_bomb(folder: Path) -> dict[str, Any]:
    return _crafted(folder, (4,), (1,), stored=4, claimed=10**15)


@entry
def negative_shape(folder: Path) -> dict[str, Any]:
    return _crafted(folder, (-4,), (1,), stored=4, claimed=4)


@entry
def storage_bomb_before_torch_1_6(folder: Path) -> dict[str, Any]:
    marker = object()

    class Pickler(pickle.Pickler):
        def persistent_id(self, obj: Any) -> Any:
            return ("storage", torch.FloatStorage, "0", "cpu", 10**14, None) if obj is marker else None

    buffer = io.BytesIO()
    for header in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}):
        pickle.dump(header, buffer, protocol=2)
    tensor = Calls(torch._utils._rebuild_tensor_v2, marker, 0, (4,), (1,), False, OrderedDict())
    Pickler(buffer, protocol=2).dump({"generator": {"conv_pre.weight": tensor}})
    return raw(folder, buffer.getvalue())


@entry
def numpy_array_bomb(folder: Path) -> dict[str, Any]:
    array = Calls(np._core.multiarray._reconstruct, np.ndarray, (10**12,), b"b")
    return saved(folder, {"generator": {"conv_pre.weight": array}})


# Weights that do not belong.


@entry
def nan_weights(folder: Path) -> dict[str, Any]:
    weights = NET.weights
    weights["ups.1.weight_v"][0, 0, 0] = float("nan")
    return saved(folder, {"generator": weights})


@entry
def infinite_weights(folder: Path) -> dict[str, Any]:
    weights = NET.weights
    weights["conv_post.bias"][0] = float("inf")
    return saved(folder, {"generator": weights})


@entry
def zero_norm(folder: Path) -> dict[str, Any]:
    weights = NET.weights
    weights["conv_pre.weight_v"].zero_()
    return saved(folder, {"generator": weights})


@entry
def missing_weight(folder: Path) -> dict[str, Any]:
    weights = NET.weights
    del weights["resblocks.2.convs.0.bias"]
    return saved(folder, {"generator": weights})


@entry
def half_of_a_weight_norm(folder: Path) -> dict[str, Any]:
    weights = NET.weights
    del weights["ups.0.weight_v"]
    return saved(folder, {"generator": weights})


@entry
def other_half_of_a_weight_norm(folder: Path) -> dict[str, Any]:
    weights = NET.weights
    del weights["ups.0.weight_g"]
    return saved(folder, {"generator": weights})


@entry
def unknown_extra_weight(folder: Path) -> dict[str, Any]:
    return saved(folder, {"generator": {**NET.weights, "surprise.weight": torch.zeros(3)}})


@entry
def integer_weights(folder: Path) -> dict[str, Any]:
    return saved(folder, {"generator": {name: value.long() for name, value in NET.weights.items()}})


@entry
def misshapen_weight(folder: Path) -> dict[str, Any]:
    return saved(folder, {"generator": {**NET.weights, "conv_post.bias": torch.zeros(2)}})


@entry
def wrong_num_mels(folder: Path) -> dict[str, Any]:
    return saved(folder, {"generator": NSF.weights}, {**NSF.meta["config"], "num_mels": 128})


@entry
def config_of_another_model(folder: Path) -> dict[str, Any]:
    return saved(folder, {"generator": NET.weights}, GoldenNet("hifigan-v1", SUBSET).meta["config"])


@entry
def wrong_family(folder: Path) -> dict[str, Any]:
    return {**saved(folder, {"generator": NET.weights}), "family": "bigvgan"}


@entry
def unknown_family(folder: Path) -> dict[str, Any]:
    return {**saved(folder, {"generator": NET.weights}), "family": "hifi-gan"}


@entry
def discriminator_file(folder: Path) -> dict[str, Any]:
    return saved(
        folder, {"mpd": {"discriminators.0.convs.0.bias": torch.zeros(4)}, "msd": {}, "optim_g": {}, "steps": 5}
    )


@entry
def discriminator_weights(folder: Path) -> dict[str, Any]:
    return saved(
        folder,
        {
            "model": {
                "discriminators.0.convs.0.bias": torch.zeros(4),
                "discriminators.0.convs.0.weight": torch.zeros(4, 1, 3),
            }
        },
    )


@entry
def another_network(folder: Path) -> dict[str, Any]:
    return saved(folder, {"encoder.layers.0.weight": torch.zeros(4, 4), "encoder.layers.0.bias": torch.zeros(4)})


@entry
def no_weights(folder: Path) -> dict[str, Any]:
    return saved(folder, {"generator": {}, "epoch": 3})


@entry
def a_list(folder: Path) -> dict[str, Any]:
    return saved(folder, [1, 2, 3])


@entry
def a_lone_tensor(folder: Path) -> dict[str, Any]:
    return saved(folder, torch.zeros(3))


@entry
def singular_waveglow(folder: Path) -> dict[str, Any]:
    weights = WAVEGLOW.weights
    weights["convinv.0.conv.weight"].zero_()
    return saved(folder, {"model": weights}, WAVEGLOW.meta["config"])


# Files and configs that are not there or not right.


@entry
def missing_config(folder: Path) -> dict[str, Any]:
    torch.save({"generator": NET.weights}, folder / "model.pt")
    return load_arguments(folder)


@entry
def config_that_is_a_list(folder: Path) -> dict[str, Any]:
    arguments = saved(folder, {"generator": NET.weights})
    (folder / "config.json").write_text("[1, 2]")
    return arguments


@entry
def config_that_is_not_json(folder: Path) -> dict[str, Any]:
    arguments = saved(folder, {"generator": NET.weights})
    (folder / "config.json").write_bytes(b"\xff\xfe{nonsense")
    return arguments


@entry
def config_with_a_bomb(folder: Path) -> dict[str, Any]:
    return saved(folder, {"generator": NET.weights}, {**NET.meta["config"], "upsample_initial_channel": 10**12})


@entry
def config_without_its_keys(folder: Path) -> dict[str, Any]:
    return saved(folder, {"generator": NET.weights}, {"sampling_rate": 22050})


@entry
def config_file_that_is_missing(folder: Path) -> dict[str, Any]:
    return {**saved(folder, {"generator": NET.weights}), "config": str(folder / "no.json")}


@entry
def empty_folder(folder: Path) -> dict[str, Any]:
    (folder / "model").mkdir()
    return {"path": folder / "model"}


@entry
def folder_with_two_models(folder: Path) -> dict[str, Any]:
    for name in ("one.pt", "two.pt"):
        torch.save({"generator": NET.weights}, folder / name)
    return {"path": folder}


@entry
def no_such_file(folder: Path) -> dict[str, Any]:
    return {"path": folder / "missing.pt"}


@entry
def no_such_alias(folder: Path) -> dict[str, Any]:
    return {"path": "demmo"}


@entry
def a_hub_id(folder: Path) -> dict[str, Any]:
    return {"path": "nvidia/bigvgan_v2_24khz_100band_256x"}
