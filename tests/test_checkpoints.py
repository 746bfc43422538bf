"""Finding, recognising, describing and converting checkpoints."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

import trt_svc
from tests import golden
from tests.golden import SUBSET, GoldenNet, upstream_checkpoint
from trt_svc.checkpoints.convert import convert_checkpoint
from trt_svc.checkpoints.describe import describe, gflop_per_second
from trt_svc.checkpoints.load import examine, open_checkpoint
from trt_svc.checkpoints.locate import locate, read_config
from trt_svc.checkpoints.presets import Preset, presets
from trt_svc.errors import CheckpointNotFound, ConfigError, InputError
from trt_svc.vocoders.base import families

NETS = golden.networks(SUBSET)


@pytest.mark.parametrize("net", NETS, ids=lambda net: net.name)
def test_family_is_recognised_from_keys(net: GoldenNet, tmp_path: Path) -> None:
    seen = examine(upstream_checkpoint(net, tmp_path), source=net.source)
    assert seen.family == net.family
    assert not (seen.missing or seen.extra or seen.misshapen)


@pytest.mark.parametrize("net", NETS, ids=lambda net: net.name)
def test_description(net: GoldenNet, tmp_path: Path) -> None:
    found = describe(upstream_checkpoint(net, tmp_path), source=net.source)
    assert found.usable
    assert found.family == net.family
    assert found.gflop_per_second > 0
    assert found.noise == {} or set(found.noise) == set(net.noise)
    assert json.loads(json.dumps(found.as_dict()))["parameters"] == found.parameters


def test_cost_of_the_published_networks() -> None:
    """GFLOP per second of audio, against hand counts of convolution work."""
    expected = {
        "hifigan_v1": 52.8,
        "nsf_hifigan_44k": 56.0,
        "bigvgan_v2_24khz_100band_256x": 172.0,
        "gptsovits_v4": 65.0,
    }
    for name, gflop in expected.items():
        preset = presets()[name]
        with torch.device("meta"):
            net = families.get(preset.family).from_config(preset.config, {}, preset.source)
        assert gflop_per_second(net) == pytest.approx(gflop, rel=0.05)


@pytest.mark.parametrize("net", NETS, ids=lambda net: net.name)
def test_conversion_keeps_the_sound(net: GoldenNet, tmp_path: Path) -> None:
    path = upstream_checkpoint(net, tmp_path / "in")
    weights, _ = convert_checkpoint(path, tmp_path / "out", source=net.source)
    assert weights.suffix == ".safetensors"
    before, after = trt_svc.load_vocoder(path, source=net.source), trt_svc.load_vocoder(tmp_path / "out")
    assert after.checkpoint.family == net.family
    arguments = {**net.inputs, "noise": net.noise or None}
    assert np.array_equal(before(**arguments), after(**arguments))


def test_conversion_replaces_nothing_unasked(tmp_path: Path) -> None:
    path = upstream_checkpoint(GoldenNet("hifigan-v3", SUBSET), tmp_path / "in")
    convert_checkpoint(path, tmp_path / "out")
    with pytest.raises(InputError, match="already holds"):
        convert_checkpoint(path, tmp_path / "out")
    convert_checkpoint(path, tmp_path / "out", overwrite=True)


def test_the_published_config_is_found_by_shape(tmp_path: Path) -> None:
    """A full-size HiFi-GAN V3 and GPT-SoVITS v4 without any config beside them."""
    for name in ("hifigan_v3", "gptsovits_v4"):
        preset = presets()[name]
        net = families.get(preset.family).from_config(preset.config, {})
        torch.save({"generator": net.state_dict()}, tmp_path / f"{name}.pt")
        opened = open_checkpoint(tmp_path / f"{name}.pt")
        assert opened.family == preset.family
        assert opened.config_origin == f"preset {name}"


def test_a_tie_between_published_configs_is_settled_by_name_or_asked_for(tmp_path: Path) -> None:
    """The two BigVGAN v2 for 22 kHz have the same shapes and different mels."""
    narrow = {"upsample_initial_channel": 64}
    twins = {
        name: Preset(name, "bigvgan", (name,), {**presets()[name].config, **narrow})
        for name in ("bigvgan_v2_22khz_80band_256x", "bigvgan_v2_22khz_80band_fmax8k_256x")
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trt_svc.checkpoints.load.presets", lambda: twins)
        net = families.get("bigvgan").from_config(next(iter(twins.values())).config, {})
        for name in twins:
            (tmp_path / name).mkdir()
            torch.save({"generator": net.state_dict()}, tmp_path / name / "g_1")
            assert examine(tmp_path / name / "g_1").config_origin == f"preset {name}"
        torch.save({"generator": net.state_dict()}, tmp_path / "g_1")
        with pytest.raises(ConfigError, match="several published ones fit"):
            examine(tmp_path / "g_1")


# Places.


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    return path


@pytest.mark.parametrize(
    ("files", "chosen"),
    [
        (["model", "config.json"], "model"),
        (["bigvgan_generator.pt", "bigvgan_discriminator_optimizer.pt", "config.json"], "bigvgan_generator.pt"),
        (["g_02500000", "do_02500000", "config.json"], "g_02500000"),
        (["g_00100000", "g_02500000", "do_02500000"], "g_02500000"),
        (["G_800.pth", "G_30400.pth", "D_30400.pth", "config.json"], "G_30400.pth"),
        (["generator_v1", "config.json", "readme.txt"], "generator_v1"),
        (["model_ckpt_steps_1000.ckpt", "model_ckpt_steps_320000.ckpt"], "model_ckpt_steps_320000.ckpt"),
        (["vocoder.pth"], "vocoder.pth"),
        (["声码器.safetensors"], "声码器.safetensors"),
    ],
)
def test_the_generator_of_a_folder(tmp_path: Path, files: list[str], chosen: str) -> None:
    for name in files:
        touch(tmp_path / name)
    assert locate(tmp_path).weights.name == chosen


def test_config_beside(tmp_path: Path) -> None:
    weights = touch(tmp_path / "voice.pt")
    assert locate(weights).config is None
    touch(tmp_path / "config.json")
    assert locate(weights).config == tmp_path / "config.json"
    touch(tmp_path / "voice.json")
    assert locate(weights).config == tmp_path / "voice.json"


def test_aliases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path / "shelf" / "my_voice" / "model.pt")
    monkeypatch.setenv("TRT_SVC_MODELS", f"{tmp_path / 'none'}{os.pathsep}{tmp_path / 'shelf'}")
    assert locate("my_voice").weights == tmp_path / "shelf" / "my_voice" / "model.pt"
    assert locate("demo").weights.name == "model.safetensors"
    with pytest.raises(CheckpointNotFound, match="Did you mean 'my_voice'"):
        locate("my_voise")
    with pytest.raises(CheckpointNotFound, match="hf download nvidia/bigvgan --local-dir models/bigvgan"):
        locate("nvidia/bigvgan")


def test_configs_in_yaml_with_a_bom_and_by_preset(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("num_mels: 80\nfmax: null\n")
    assert read_config(tmp_path / "config.yaml") == {"num_mels": 80, "fmax": None}
    (tmp_path / "config.json").write_bytes(b"\xef\xbb\xbf" + b'{"num_mels": 80}')
    assert read_config(tmp_path) == {"num_mels": 80}
    assert read_config("hifigan_v1")["upsample_initial_channel"] == 512
    file = Path(trt_svc.__file__).parents[1] / "configs" / "vocoders" / "hifigan_v1.json"
    assert read_config(file) == read_config("hifigan_v1")
    with pytest.raises(ConfigError):
        read_config(tmp_path / "other.json")


@pytest.mark.parametrize(
    "name", ["nsf_hifigan_44k", "pc_nsf_hifigan_44k", "sovits_41_dec", "sovits_41_snake_dec", "sovits_40_dec"]
)
def test_the_usual_voices_need_no_config(name: str, tmp_path: Path) -> None:
    preset = presets()[name]
    net = families.get(preset.family).from_config(preset.config, {}, preset.source)
    torch.save({"generator": net.state_dict()}, tmp_path / "x.pt")
    assert examine(tmp_path / "x.pt").config_origin == f"preset {name}"


def test_unreadable_files_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = upstream_checkpoint(GoldenNet("hifigan-v3", SUBSET), tmp_path)

    def refuse(self: Path, *_: object, **__: object) -> object:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(CheckpointNotFound, match="may not be read"):
        open_checkpoint(path)
