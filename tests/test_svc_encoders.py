"""Content encoders: parity with upstream, every published layout of the weights, wrong files, odd audio, export."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from tests import golden_svc
from tests.golden_svc import fill
from tests.parity_svc.content import FairseqObjects, Shapes, whisper_file
from trt_svc.errors import (
    CheckpointError,
    CheckpointNotFound,
    ConfigError,
    CorruptCheckpoint,
    InputError,
    UnknownFamily,
    UnsafeCheckpoint,
    WeightsMismatch,
)
from trt_svc.svc.encoders.base import ContentEncoder, conv_frames, encoders
from trt_svc.svc.encoders.hubert_files import Plan, open_hubert
from trt_svc.svc.encoders.long_audio import LONG_SAMPLES, units_in_blocks
from trt_svc.svc.encoders.names import hubert_name, is_training_only
from trt_svc.svc.encoders.stored import opened_weights, option
from trt_svc.svc.encoders.whisper import WhisperConfig, WhisperMedium, WhisperNet
from trt_svc.svc.encoders.whisper_mel import whisper_mel

NAMES = [
    "cnhubertlarge", "dphubert", "hubertsoft", "hubertsoft-onnx", "vec256l12-onnx", "vec256l9", "vec256l9-onnx",
    "vec768l12", "vec768l12-onnx", "vec768l9-onnx", "wavlmbase+", "whisper-ppg", "whisper-ppg-large",
]  # fmt: skip


def close(made: Any, expected: Any) -> None:
    """The tolerance of networks: rtol 1e-4, atol 2e-5 of the largest value."""
    expected = np.asarray(expected)
    assert np.shape(made) == expected.shape
    np.testing.assert_allclose(made, expected, rtol=1e-4, atol=2e-5 * float(np.abs(expected).max()))


def noise(samples: int, seed: int = 5) -> np.ndarray:
    return (golden_svc.u("audio", (samples,), seed) - 0.5).astype(np.float32)


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    return golden_svc.arrays("encoders")


@pytest.fixture(scope="module")
def meta() -> dict[str, Any]:
    return golden_svc.meta("encoders")


# Small networks of the real architectures, by formula.


def fairseq_shapes(
    width: int = 32, conv: int = 16, layers: int = 3, inner: int = 48, units: int | None = 8, large: bool = False
) -> Shapes:
    shapes: Shapes = {}
    for i, kernel in enumerate((10, 3, 3, 3, 3, 2, 2)):
        shapes[f"feature_extractor.conv_layers.{i}.0.weight"] = (conv, conv if i else 1, kernel)
        if large or i == 0:
            norm = "2.1" if large else "2"
            shapes |= {f"feature_extractor.conv_layers.{i}.{norm}.{leaf}": (conv,) for leaf in ("weight", "bias")}
    shapes |= {"layer_norm.weight": (conv,), "layer_norm.bias": (conv,), "mask_emb": (width,)}
    shapes |= {"post_extract_proj.weight": (width, conv), "post_extract_proj.bias": (width,)}
    shapes |= {"encoder.pos_conv.0.bias": (width,), "encoder.pos_conv.0.weight_g": (1, 1, 16)}
    shapes |= {"encoder.pos_conv.0.weight_v": (width, width // 4, 16)}
    shapes |= {"encoder.layer_norm.weight": (width,), "encoder.layer_norm.bias": (width,)}
    for n in range(layers):
        at = f"encoder.layers.{n}."
        for part in ("k_proj", "v_proj", "q_proj", "out_proj"):
            shapes |= {f"{at}self_attn.{part}.weight": (width, width), f"{at}self_attn.{part}.bias": (width,)}
        for part in ("self_attn_layer_norm", "final_layer_norm"):
            shapes |= {f"{at}{part}.weight": (width,), f"{at}{part}.bias": (width,)}
        shapes |= {f"{at}fc1.weight": (inner, width), f"{at}fc1.bias": (inner,)}
        shapes |= {f"{at}fc2.weight": (width, inner), f"{at}fc2.bias": (width,)}
    if units is not None:
        shapes |= {"final_proj.weight": (units, width), "final_proj.bias": (units,), "label_embs_concat": (5, units)}
    return shapes


def wavlm_shapes(buckets: int = 32, heads: int = 4, **sizes: Any) -> Shapes:
    shapes = fairseq_shapes(units=None, **sizes)
    shapes["encoder.layers.0.self_attn.relative_attention_bias.weight"] = (buckets, heads)
    for n in range(3):
        at = f"encoder.layers.{n}.self_attn."
        shapes |= {f"{at}grep_linear.weight": (8, 32 // heads), f"{at}grep_linear.bias": (8,)}
        shapes |= {f"{at}grep_a": (1, heads, 1, 1)}
    return shapes


HEADS = {"_name": "hubert", "encoder_attention_heads": 4}
WAVLM_CFG = {"encoder_attention_heads": 4, "max_distance": 40, "num_buckets": 32, "normalize": True}
PRUNED = {
    "extractor_mode": "group_norm",
    "extractor_conv_layer_config": [
        (16, 10, 5), (12, 3, 2), (14, 3, 2), (10, 3, 2), (16, 3, 2), (9, 2, 2), (11, 2, 2),
    ],
    "extractor_conv_bias": False,
    "encoder_embed_dim": 32,
    "encoder_projection_dropout": 0.1,
    "encoder_pos_conv_kernel": 16,
    "encoder_pos_conv_groups": 4,
    "encoder_num_layers": 4,
    "encoder_use_attention": [True, False, True, True],
    "encoder_use_feed_forward": [True, True, False, True],
    "encoder_num_heads": [4, 0, 1, 3],
    "encoder_head_dim": 8,
    "encoder_attention_dropout": 0.1,
    "encoder_ff_interm_features": [48, 20, 0, 7],
    "encoder_ff_interm_dropout": 0.0,
    "encoder_dropout": 0.1,
    "encoder_layer_norm_first": False,
    "encoder_layer_drop": 0.05,
    "aux_num_out": None,
    "normalize_waveform": False,
}  # fmt: skip


def pruned_shapes() -> Shapes:
    shapes: Shapes = {}
    inputs = 1
    for i, (outputs, kernel, _) in enumerate(PRUNED["extractor_conv_layer_config"]):
        shapes[f"feature_extractor.conv_layers.{i}.conv.weight"] = (outputs, inputs, kernel)
        inputs = outputs
    norm = "feature_extractor.conv_layers.0.layer_norm"
    shapes |= {f"{norm}.weight": (16,), f"{norm}.bias": (16,), "feature_extractor.dummy_weight": (inputs,)}
    at = "encoder.feature_projection."
    shapes |= {f"{at}layer_norm.weight": (inputs,), f"{at}layer_norm.bias": (inputs,)}
    shapes |= {f"{at}projection.weight": (32, inputs), f"{at}projection.bias": (32,)}
    at = "encoder.transformer."
    shapes |= {f"{at}pos_conv_embed.conv.bias": (32,), f"{at}pos_conv_embed.conv.weight_g": (1, 1, 16)}
    shapes |= {f"{at}pos_conv_embed.conv.weight_v": (32, 8, 16)}
    shapes |= {f"{at}layer_norm.weight": (32,), f"{at}layer_norm.bias": (32,)}
    for n in range(4):
        at = f"encoder.transformer.layers.{n}."
        if PRUNED["encoder_use_attention"][n]:
            kept = 8 * PRUNED["encoder_num_heads"][n]
            for part in ("k_proj", "v_proj", "q_proj"):
                shapes |= {f"{at}attention.{part}.weight": (kept, 32), f"{at}attention.{part}.bias": (kept,)}
            shapes |= {f"{at}attention.out_proj.weight": (32, kept), f"{at}attention.out_proj.bias": (32,)}
        if PRUNED["encoder_use_feed_forward"][n]:
            inner = PRUNED["encoder_ff_interm_features"][n]
            first, second = f"{at}feed_forward.intermediate_dense", f"{at}feed_forward.output_dense"
            shapes |= {f"{first}.weight": (inner, 32), f"{first}.bias": (inner,)}
            shapes |= {f"{second}.weight": (32, inner), f"{second}.bias": (32,)}
        for part in ("layer_norm", "final_layer_norm"):
            shapes |= {f"{at}{part}.weight": (32,), f"{at}{part}.bias": (32,)}
    return shapes


def save(tree: Any, path: Path) -> Path:
    torch.save(tree, path)
    return path


def fairseq_file(path: Path, seed: int = 3, heads: Mapping[str, Any] = HEADS, **sizes: Any) -> Path:
    return save({"model": fill(fairseq_shapes(**sizes), seed), "cfg": {"model": dict(heads)}}, path)


def hugging_face(weights: Mapping[str, torch.Tensor], table: Mapping[str, str]) -> dict[str, torch.Tensor]:
    """The same weights under Hugging Face's names, by the golden table."""
    kept = {name: value for name, value in weights.items() if not name.startswith(("final_proj", "label_"))}
    named = {table[name]: value for name, value in kept.items()}
    return named | {name: value for name, value in weights.items() if name.startswith("final_proj")}


# Names.


def test_both_spellings_of_every_weight_mean_the_same(meta: dict[str, Any]) -> None:
    table = meta["contentvec"]["fairseq_to_hf"]
    named = {theirs: ours for theirs, ours in table.items() if not is_training_only(theirs)}
    assert len(named) > 200
    for fairseq, hugging in named.items():
        ours = hubert_name(fairseq)
        assert ours is not None and hubert_name(hugging) in (ours, _new_style(ours)), fairseq
    assert len({hubert_name(name) for name in named}) == len(named)


def _new_style(name: str) -> str:
    return name.replace("weight_g", "parametrizations.weight.original0").replace(
        "weight_v", "parametrizations.weight.original1"
    )


@pytest.mark.parametrize("form", ["safetensors", "bin", "bin with a prefix"])
def test_hugging_face_files_are_the_same_network(form: str, meta: dict[str, Any], tmp_path: Path) -> None:
    plain = fairseq_file(tmp_path / "fairseq.pt", layers=9)
    expected = encoders.get("vec256l9").from_file(plain, channels=8)(noise(5000))
    weights = hugging_face(fill(fairseq_shapes(layers=9), 3), meta["contentvec"]["fairseq_to_hf"])
    if form == "safetensors":
        save_file({name: value.contiguous() for name, value in weights.items()}, tmp_path / "model.safetensors")
    else:
        prefix = "hubert." if "prefix" in form else ""
        save({prefix + name: value for name, value in weights.items()}, tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text('{"num_attention_heads": 4, "do_stable_layer_norm": false}')
    encoder = encoders.get("vec256l9").from_file(tmp_path, channels=8)
    np.testing.assert_array_equal(encoder(noise(5000)), expected)


def test_half_precision_files_run_in_single(tmp_path: Path) -> None:
    weights = fill(fairseq_shapes(layers=12), 3)
    tree = {"cfg": {"model": HEADS}, "model": {name: value.half() for name, value in weights.items()}}
    encoder = encoders.get("vec768l12").from_file(save(tree, tmp_path / "half.pt"), channels=32)
    whole = encoders.get("vec768l12").from_file(fairseq_file(tmp_path / "whole.pt", layers=12), channels=32)
    np.testing.assert_allclose(encoder(noise(5000)), whole(noise(5000)), atol=0.02)


def test_options_are_found_in_any_kind_of_tree() -> None:
    assert option({"cfg": {"task": {"a": 1}, "model": {"b": 2}}}, "b") == 2
    assert option({"cfg": {"first": {"b": None}}}, "missing", "b") is None
    assert option(7, "b") is None
    endless: dict[str, Any] = {}
    endless["again"] = {"back": endless}
    assert option(endless, "b") is None


def test_omegaconf_nodes_are_read(tmp_path: Path) -> None:
    cfg = FairseqObjects.config({"task": {"sample_rate": 16000}, "model": {"encoder_attention_heads": 8}})
    FairseqObjects.save({"cfg": cfg, "model": {"a": torch.zeros(1)}}, tmp_path / "cfg.pt")
    with opened_weights(tmp_path / "cfg.pt") as stored:
        assert stored.option("encoder_attention_heads") == 8


# Networks without golden arrays: against torch's own layers, and against values of the published code.


def reference_extractor(weights: Mapping[str, torch.Tensor], audio: torch.Tensor, large: bool) -> torch.Tensor:
    x = audio
    for i, stride in enumerate((5, 2, 2, 2, 2, 2, 2)):
        at = f"feature_extractor.conv_layers.{i}."
        x = F.conv1d(x, weights[f"{at}0.weight"], stride=stride)
        if large:
            norm = weights[f"{at}2.1.weight"], weights[f"{at}2.1.bias"]
            x = F.layer_norm(x.mT, x.shape[1:2], *norm).mT
        elif i == 0:
            x = F.group_norm(x, x.shape[1], weights[f"{at}2.weight"], weights[f"{at}2.bias"])
        x = F.gelu(x)
    x = F.layer_norm(x.mT, x.shape[1:2], weights["layer_norm.weight"], weights["layer_norm.bias"])
    x = F.linear(x, weights["post_extract_proj.weight"], weights["post_extract_proj.bias"])
    conv = nn.utils.parametrizations.weight_norm(nn.Conv1d(32, 32, 16, padding=8, groups=4), dim=2)
    at = "encoder.pos_conv.0."
    names = ("parametrizations.weight.original0", "weight_g"), ("parametrizations.weight.original1", "weight_v")
    conv.load_state_dict({new: weights[at + old] for new, old in (*names, ("bias", "bias"))})
    return x + F.gelu(conv(x.mT)[..., :-1]).mT


def reference_layers(weights: Mapping[str, torch.Tensor], norm_first: bool) -> list[nn.TransformerEncoderLayer]:
    made = []
    for n in range(3):
        at = f"encoder.layers.{n}."
        layer = nn.TransformerEncoderLayer(32, 4, 48, 0.0, "gelu", batch_first=True, norm_first=norm_first)
        joined = {
            f"self_attn.in_proj_{leaf}": torch.cat([weights[f"{at}self_attn.{part}_proj.{leaf}"] for part in "qkv"])
            for leaf in ("weight", "bias")
        }
        names = {
            "self_attn.out_proj": "self_attn.out_proj", "linear1": "fc1", "linear2": "fc2",
            "norm1": "self_attn_layer_norm", "norm2": "final_layer_norm",
        }  # fmt: skip
        plain = {
            f"{new}.{leaf}": weights[f"{at}{old}.{leaf}"] for new, old in names.items() for leaf in ("weight", "bias")
        }
        layer.load_state_dict(joined | plain)
        made.append(layer.eval())
    return made


@torch.inference_mode()
def test_cnhubertlarge_is_torchs_own_layers(tmp_path: Path) -> None:
    weights = fill(fairseq_shapes(large=True), 4)
    tree = {"model": weights, "cfg": {"model": {**HEADS, "layer_norm_first": True}, "task": {"normalize": True}}}
    encoder = encoders.get("cnhubertlarge").from_file(save(tree, tmp_path / "large.pt"), channels=32)
    x = reference_extractor(weights, torch.tensor(noise(16000))[None, None], large=True)
    for layer in reference_layers(weights, norm_first=True):
        x = layer(x)
    x = F.layer_norm(x, (32,), weights["encoder.layer_norm.weight"], weights["encoder.layer_norm.bias"])
    close(encoder(noise(16000)), x.mT.numpy())


PUBLISHED = {
    "wavlmbase+": [
        1.11976, -0.5049292, -1.01624, -1.591022, -1.267246, 1.383524, -1.693092, 1.312944, -0.4164126, -0.5039015,
        -2.00032, -0.01568254, 0.2112869, -1.65519, 1.097366, 0.5567343,
    ],
    "cnhubertlarge": [
        -0.7374901, -0.8296907, -0.2066724, 0.2033987, 1.763261, -1.438799, 0.3846163, -0.7584668, -0.7772946, 1.244142,
        -0.8797121, -0.07651664, 1.98482, 0.928015, -0.4307351, 0.09843748,
    ],
    "dphubert": [
        -1.284857, 0.8428807, -0.135059, -0.08162293, -1.153962, -0.6131098, -1.207786, 0.2273553, 2.327346, 1.258993,
        -1.871755, 0.6336724, 0.9476833, 0.005381645, -0.4307077, 1.337467,
    ],
}  # fmt: skip
"""Made by the published code of WavLM (its encoder without distances is fairseq's large HuBERT) and DPHuBERT from the
same formula weights and audio."""


def pinned(units: np.ndarray) -> np.ndarray:
    """Sixteen of the values, from all over."""
    flat = units.reshape(-1)
    return flat[np.linspace(0, len(flat) - 1, 16).astype(int)]


def published_tree(name: str) -> dict[str, Any]:
    return {
        "wavlmbase+": lambda: {"cfg": WAVLM_CFG, "model": fill(wavlm_shapes(), 7)},
        "cnhubertlarge": lambda: {"cfg": {"model": HEADS}, "model": fill(fairseq_shapes(large=True), 4)},
        "dphubert": lambda: {"config": PRUNED, "state_dict": fill(pruned_shapes(), 8), "distill_linear_projs": {}},
    }[name]()


@pytest.mark.parametrize("name", ["wavlmbase+", "cnhubertlarge", "dphubert"])
def test_published_code_makes_the_same_units(name: str, tmp_path: Path) -> None:
    encoder = encoders.get(name).from_file(save(published_tree(name), tmp_path / "file.pt"), channels=32)
    units = encoder(noise(16000))
    assert units.shape == (1, 32, 49)
    expected = np.array(PUBLISHED[name])
    np.testing.assert_allclose(pinned(units), expected, rtol=1e-4, atol=2e-5 * float(np.abs(units).max()))


# One small encoder of every kind.


def soft_weights() -> dict[str, torch.Tensor]:
    """A small soft HuBERT from fairseq's names."""
    old = fill(fairseq_shapes(), 6)
    new: dict[str, torch.Tensor] = {"label_embedding.weight": torch.zeros(5, 8)}
    plain = {
        "layer_norm.": "feature_projection.norm.", "post_extract_proj.": "feature_projection.projection.",
        "encoder.pos_conv.0.": "positional_embedding.conv.", "encoder.layer_norm.": "norm.", "final_proj.": "proj.",
        "feature_extractor.conv_layers.0.2.": "feature_extractor.norm0.", "mask_emb": "masked_spec_embed",
    }  # fmt: skip
    parts = {
        "self_attn.out_proj": "self_attn.out_proj", "fc1": "linear1", "fc2": "linear2",
        "self_attn_layer_norm": "norm1", "final_layer_norm": "norm2",
    }  # fmt: skip
    for i in range(7):
        plain[f"feature_extractor.conv_layers.{i}.0."] = f"feature_extractor.conv{i}."
    for n in range(3):
        at = f"encoder.layers.{n}."
        plain |= {f"{at}{theirs}.": f"{at}{ours}." for theirs, ours in parts.items()}
        for leaf in ("weight", "bias"):
            pieces = [old[f"{at}self_attn.{part}_proj.{leaf}"] for part in "qkv"]
            new[f"{at}self_attn.in_proj_{leaf}"] = torch.cat(pieces)
    for name, value in old.items():
        stem = next((stem for stem in plain if name.startswith(stem)), None)
        if stem:
            new[plain[stem] + name.removeprefix(stem)] = value
    return new


def onnx_file(path: Path, channels: int = 256) -> Path:
    """One strided convolution with the ports of a published encoder."""
    weight = numpy_helper.from_array(noise(channels * 400).reshape(channels, 1, 400), "weight")
    nodes = [
        helper.make_node("Conv", ["source", "weight"], ["x"], strides=[320], kernel_shape=[400]),
        helper.make_node("Transpose", ["x"], ["embed"], perm=[0, 2, 1]),
    ]
    ports = [
        helper.make_tensor_value_info("source", TensorProto.FLOAT, [1, 1, "samples"]),
        helper.make_tensor_value_info("embed", TensorProto.FLOAT, [1, "frames", channels]),
    ]
    graph = helper.make_graph(nodes, "encoder", ports[:1], ports[1:], initializer=[weight])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ContentEncoder]:
    folder = tmp_path_factory.mktemp("small")
    files = {
        "vec768l12": (fairseq_file(folder / "a.pt", layers=12), 32),
        "vec256l9": (fairseq_file(folder / "b.pt", layers=9), 8),
        "whisper-ppg": (whisper_file(folder / "medium.pt", [80, 1500, 16, 2, 1], 3), 16),
        "vec256l9-onnx": (onnx_file(folder / "vec-256-layer-9.onnx"), 256),
    }
    for name in ("wavlmbase+", "cnhubertlarge", "dphubert"):
        files[name] = (save(published_tree(name), folder / f"{name}.pt"), 32)
    tree = {"cfg": HEADS, "hubert": {f"module.{name}": value for name, value in soft_weights().items()}}
    files["hubertsoft"] = (save(tree, folder / "soft.pt"), 8)
    return {name: encoders.get(name).from_file(path, channels) for name, (path, channels) in files.items()}


SMALL = [
    "vec768l12",
    "vec256l9",
    "hubertsoft",
    "cnhubertlarge",
    "wavlmbase+",
    "dphubert",
    "whisper-ppg",
    "vec256l9-onnx",
]
each_small = pytest.mark.parametrize("name", SMALL)


def test_the_registry_knows_them_by_upstreams_names() -> None:
    assert encoders.names() == NAMES
    for name, kind in encoders:
        assert kind.name == name and kind.channels in (256, 768, 1024, 1280) and kind.usual_files
    with pytest.raises(InputError, match="Did you mean 'vec768l12'"):
        encoders.get("vec768l1")


def test_soft_hubert_hears_its_padding(small: dict[str, ContentEncoder], tmp_path: Path) -> None:
    """40 zeros on each side; query, key and value come out of one matrix."""
    path = save({"cfg": HEADS, "model": fill(fairseq_shapes(), 6)}, tmp_path / "plain.pt")
    net = open_hubert(path, Plan("group", projected=True), "hubertsoft")
    audio = torch.tensor(np.pad(noise(8000), 40))[None, None]
    close(small["hubertsoft"](noise(8000)), net(audio).numpy())


@each_small
@pytest.mark.parametrize("samples", [400, 401, 719, 720, 4321, 8000])
def test_frames_follow_from_samples(name: str, samples: int, small: dict[str, ContentEncoder]) -> None:
    units = small[name](noise(samples))
    assert units.dtype == np.float32 and units.flags.c_contiguous
    assert units.shape == (1, small[name].channels, small[name].frames(samples))


def test_frames_of_known_lengths(small: dict[str, ContentEncoder]) -> None:
    assert [conv_frames(n) for n in (0, 1, 399, 400, 719, 720, 8000)] == [0, 0, 0, 1, 1, 2, 24]
    assert [small["hubertsoft"].frames(n) for n in (319, 320, 8000)] == [0, 1, 25]
    assert [small["whisper-ppg"].frames(n) for n in (319, 320, 8000, 480000)] == [0, 1, 25, 1500]


@each_small
def test_audio_too_short_for_one_frame_is_refused(name: str, small: dict[str, ContentEncoder]) -> None:
    encoder = small[name]
    assert encoder(noise(encoder.min_samples)).shape[2] == 1
    for samples in (1, 2, encoder.min_samples - 1):
        with pytest.raises(InputError, match=f"{samples} samples at 16 kHz are less than the {encoder.min_samples}"):
            encoder(noise(samples))


@each_small
@pytest.mark.parametrize(
    "audio",
    [
        np.zeros(0), np.zeros((0, 8000)), np.zeros((1, 1, 8000)), np.float32(0.5), "sound", None,
        np.full(8000, np.nan), np.full(8000, np.inf), np.zeros(8000, complex),
    ],
    ids=["empty", "no batch", "three axes", "number", "text", "none", "nan", "inf", "complex"],
)  # fmt: skip
def test_what_is_no_audio_is_refused(name: str, audio: Any, small: dict[str, ContentEncoder]) -> None:
    with pytest.raises(InputError):
        small[name](audio)


@each_small
def test_silence_makes_finite_units(name: str, small: dict[str, ContentEncoder]) -> None:
    assert np.isfinite(small[name](np.zeros(4000))).all()


@each_small
def test_audio_far_beyond_full_scale_is_refused(name: str, small: dict[str, ContentEncoder]) -> None:
    assert np.isfinite(small[name](noise(4000) * np.float32(1e5))).all()
    with pytest.raises(InputError, match="between -1 and 1"):
        small[name](noise(4000) * np.float32(1e38))


@each_small
def test_a_batch_is_its_recordings(name: str, small: dict[str, ContentEncoder]) -> None:
    batch = np.stack([noise(4000, seed) for seed in (1, 2, 3)])
    units = small[name](batch)
    for one, expected in zip(batch, units, strict=True):
        np.testing.assert_allclose(small[name](one)[0], expected, rtol=1e-4, atol=1e-5)


def test_other_kinds_of_arrays_are_the_same_audio(small: dict[str, ContentEncoder]) -> None:
    audio = (noise(4000) * 32768).astype(np.int16)
    expected = small["vec768l12"](audio / 32768)
    frozen = (audio / 32768).astype(np.float32)
    frozen.setflags(write=False)
    for same in (audio, torch.tensor(audio / 32768), frozen, np.repeat(frozen, 2)[::2]):
        np.testing.assert_allclose(small["vec768l12"](same), expected, atol=1e-6)


def test_whisper_hears_thirty_seconds_and_no_more(small: dict[str, ContentEncoder]) -> None:
    assert small["whisper-ppg"](noise(480000)).shape == (1, 16, 1500)
    with pytest.raises(InputError, match=r"30\.00 s of audio are longer than the 30 s"):
        small["whisper-ppg"](noise(480001))


# Long audio.


@pytest.mark.parametrize("name", ["vec768l12", "hubertsoft", "cnhubertlarge", "wavlmbase+", "dphubert"])
@pytest.mark.parametrize("samples", [9001, 400, 2639, 2640])
def test_blocks_make_no_difference(name: str, samples: int, small: dict[str, ContentEncoder]) -> None:
    audio = torch.tensor(np.stack([noise(samples, 1), noise(samples, 2) + 0.25]))[:, None]
    net = small[name].module()
    with torch.inference_mode():
        close(units_in_blocks(net, audio, block_frames=7, query_frames=5).numpy(), net(audio).numpy())


def test_half_a_minute_and_more_goes_through_in_blocks(small: dict[str, ContentEncoder]) -> None:
    audio = noise(LONG_SAMPLES + 1234)
    with torch.inference_mode():
        close(small["vec256l9"](audio), small["vec256l9"].module()(torch.tensor(audio)[None, None]).numpy())


# Wrong and damaged files.


def refused(name: str, path: Path, error: type[Exception], match: str, channels: int | None = 32) -> None:
    with pytest.raises(error, match=match):
        encoders.get(name).from_file(path, channels=channels)


def broken(change: Any, folder: Path, **sizes: Any) -> Path:
    weights = fill(fairseq_shapes(layers=12, **sizes), 3)
    change(weights)
    return save({"model": weights, "cfg": HEADS}, folder / "checkpoint.pt")


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        (lambda w: w.pop("encoder.layers.1.fc1.bias"), WeightsMismatch, r"1 weights are missing \(layers.1.widen.bias"),
        (lambda w: w.update({"norm.weight": torch.zeros(9)}), WeightsMismatch, "holds norm.weight twice"),
        (lambda w: w.update({"layer_norm.bias": torch.zeros(9)}), WeightsMismatch, r"feature_norm.bias is \(9,\)"),
        (lambda w: w.update({"encoder.extra": torch.zeros(9)}), UnknownFamily, "1 of its .* belong to no HuBERT"),
        (lambda w: w.update({"encoder.layers.0.self_attn.grep_a": torch.zeros(9)}), WeightsMismatch, "unknown to it"),
        (lambda w: w["layer_norm.bias"].fill_(torch.nan), WeightsMismatch, "layer_norm.bias contains NaN"),
        (lambda w: w.pop("encoder.pos_conv.0.weight_v"), WeightsMismatch, "has no .* beside it"),
        (lambda w: w.pop("encoder.pos_conv.0.weight_g"), WeightsMismatch, "has no g beside it"),
        (
            lambda w: w.pop("feature_extractor.conv_layers.6.0.weight"),
            WeightsMismatch,
            "extractor.6.conv.weight is missing",
        ),
        (lambda w: w.update({"layer_norm.weight": torch.zeros(16, dtype=torch.int64)}), WeightsMismatch, "are missing"),
        (
            lambda w: w.update({"encoder.pos_conv.0.weight_v": torch.ones(32, 5, 16)}),
            WeightsMismatch,
            "positions.weight",
        ),
        (
            lambda w: w.update({"feature_extractor.conv_layers.0.0.weight": torch.ones(16, 1, 8)}),
            WeightsMismatch,
            "samples wide instead of",
        ),
    ],
)
def test_damaged_weights_are_refused(change: Any, error: type[Exception], match: str, tmp_path: Path) -> None:
    refused("vec768l12", broken(change, tmp_path), error, match)


def test_networks_of_another_kind_are_refused(tmp_path: Path) -> None:
    base = fairseq_file(tmp_path / "base.pt", layers=12)
    large = save(published_tree("cnhubertlarge"), tmp_path / "large.pt")
    wavlm = save(published_tree("wavlmbase+"), tmp_path / "wavlm.pt")
    pruned = save(published_tree("dphubert"), tmp_path / "pruned.pt")
    whisper = whisper_file(tmp_path / "whisper.pt", [80, 1500, 16, 2, 1], 3)
    soft = save(soft_weights(), tmp_path / "soft.pt")
    refused("vec768l12", large, WeightsMismatch, "it is a HuBERT of the large kind")
    refused("vec768l12", wavlm, WeightsMismatch, "it is a WavLM of the base kind")
    refused("vec768l12", whisper, UnknownFamily, "belong to no HuBERT")
    refused("vec768l12", soft, WeightsMismatch, "3 layers, 12 are needed")
    refused("cnhubertlarge", base, WeightsMismatch, "it is a HuBERT of the base kind")
    refused("wavlmbase+", base, WeightsMismatch, "it is a HuBERT of the base kind")
    refused("dphubert", base, UnknownFamily, "does not say what was pruned")
    refused("vec768l12", pruned, WeightsMismatch, "4 layers, 12 are needed")
    refused("whisper-ppg", base, UnknownFamily, "does not say its dimensions")
    refused("vec768l12", base, WeightsMismatch, "32 channels, 768 are expected", channels=None)


def test_a_hubert_without_projection_has_no_256_channels(tmp_path: Path) -> None:
    """What Hugging Face's form of Facebook's network looks like; for vec768l12 it cannot be told apart."""
    path = fairseq_file(tmp_path / "facebook.pt", layers=12, units=None)
    refused("vec256l9", path, WeightsMismatch, "it has no final projection .* it is not ContentVec")
    assert encoders.get("vec768l12").from_file(path, channels=32)(noise(4000)).shape == (1, 32, 12)


def test_heads_must_be_known_and_fit(tmp_path: Path) -> None:
    odd = fairseq_file(tmp_path / "odd.pt", layers=12, heads={"encoder_attention_heads": 5})
    refused("vec768l12", odd, WeightsMismatch, "5 attention heads do not divide its 32 channels")
    unsaid = fairseq_file(tmp_path / "unsaid.pt", layers=12, heads={})
    refused("vec768l12", unsaid, WeightsMismatch, "config.json")


def test_a_broken_config_beside_the_weights_is_an_error(tmp_path: Path) -> None:
    save_file(
        {f"hubert.{name}": value for name, value in fill(fairseq_shapes(), 3).items()}, tmp_path / "model.safetensors"
    )
    (tmp_path / "config.json").write_text("{")
    refused("hubertsoft", tmp_path, ConfigError, "config.json", channels=8)


def test_wavlm_must_say_its_distances(tmp_path: Path) -> None:
    path = save({"model": fill(wavlm_shapes(), 7), "cfg": HEADS}, tmp_path / "wavlm.pt")
    refused("wavlmbase+", path, WeightsMismatch, "max_distance None for 32 buckets")


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"n_mels": 128}, "large-v3 is another network"),
        ({"n_audio_ctx": 3000}, "1500 positions are needed"),
        ({"n_audio_head": 3}, "n_audio_head 3"),
        ({"n_audio_layer": 2}, "are missing"),
        ({"n_audio_state": 10**12}, "damaged"),
        ({"n_audio_layer": True}, "damaged"),
    ],
)
def test_other_whispers_are_refused(changed: dict[str, Any], match: str, tmp_path: Path) -> None:
    path = whisper_file(tmp_path / "medium.pt", [80, 1500, 16, 2, 1], 3, **changed)
    refused("whisper-ppg", path, WeightsMismatch, match, channels=16)


@pytest.mark.parametrize(
    ("changed", "error", "match"),
    [
        ({"encoder_num_heads": [4, 0, 1]}, WeightsMismatch, "not as long as encoder_num_layers"),
        ({"encoder_num_heads": [4, 0, 1, 2]}, WeightsMismatch, "another shape"),
        ({"encoder_use_attention": [True] * 4}, WeightsMismatch, "heads is 0"),
        ({"encoder_layer_norm_first": True}, WeightsMismatch, "encoder_layer_norm_first"),
        ({"encoder_pos_conv_groups": 5}, WeightsMismatch, "encoder_pos_conv_groups"),
        ({"extractor_conv_layer_config": [(16, 10, 5)]}, WeightsMismatch, "extractor_conv_layer_config"),
        ({"encoder_remaining_heads": [[0]]}, UnknownFamily, "pruned WavLM"),
        ({"encoder_embed_dim": 10**9}, WeightsMismatch, "encoder_embed_dim"),
    ],
)
def test_pruned_networks_must_be_what_they_say(
    changed: dict[str, Any], error: type[Exception], match: str, tmp_path: Path
) -> None:
    tree = published_tree("dphubert") | {"config": PRUNED | changed}
    refused("dphubert", save(tree, tmp_path / "pruned.pth"), error, match)


@pytest.mark.parametrize("name", ["vec768l12", "whisper-ppg", "dphubert", "vec256l9-onnx"])
def test_files_that_are_no_weights_are_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "text.pt").write_text("not weights at all")
    (tmp_path / "empty.pt").write_bytes(b"")
    whole = fairseq_file(tmp_path / "whole.pt").read_bytes()
    (tmp_path / "half.pt").write_bytes(whole[: len(whole) // 2])
    graph = onnx_file(tmp_path / "whole.onnx").read_bytes()
    (tmp_path / "half.onnx").write_bytes(graph[: len(graph) // 2])
    save({"epoch": 3}, tmp_path / "nothing.pt")
    for file in ("text.pt", "empty.pt", "half.pt", "half.onnx", "nothing.pt"):
        refused(name, tmp_path / file, CorruptCheckpoint, "checkpoint|graph")
    for missing in (tmp_path / "missing.pt", tmp_path, Path("\0"), Path("x" * 5000)):
        refused(name, missing, CheckpointNotFound, "weights of content encoder")


def test_truncated_safetensors_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file(fill(fairseq_shapes(), 3), path)
    path.write_bytes(path.read_bytes()[:-100])
    refused("vec768l12", path, CorruptCheckpoint, "truncated or damaged")


class Evil:
    def __reduce__(self) -> Any:
        return os.mkdir, ("evil",)


def test_nothing_in_a_file_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, key in (("vec768l12", "model"), ("dphubert", "config"), ("whisper-ppg", "dims")):
        path = save({key: Evil(), "state_dict": fill(fairseq_shapes(), 3)}, tmp_path / "evil.pt")
        refused(name, path, UnsafeCheckpoint, "nothing was run")
    assert not Path("evil").exists()


def test_every_refusal_is_one_of_ours(tmp_path: Path) -> None:
    """Any single byte turned over: a usable encoder or a CheckpointError."""
    whole = bytearray(fairseq_file(tmp_path / "whole.pt", layers=12, width=8, conv=4, inner=4, units=None,
                                   heads={"encoder_attention_heads": 2}).read_bytes())  # fmt: skip
    path = tmp_path / "turned.pt"
    for at in np.linspace(0, len(whole) - 1, 30).astype(int):
        turned = bytearray(whole)
        turned[at] ^= 0xFF
        path.write_bytes(turned)
        with contextlib.suppress(CheckpointError, ConfigError):
            encoders.get("vec768l12").from_file(path, channels=8)


# ONNX files.


def test_an_onnx_encoder_is_its_graph(small: dict[str, ContentEncoder], tmp_path: Path) -> None:
    audio = noise(8000)
    session = onnxruntime.InferenceSession(str(onnx_file(tmp_path / "a.onnx")), providers=["CPUExecutionProvider"])
    expected = session.run(None, {"source": audio[None, None]})[0]
    np.testing.assert_array_equal(small["vec256l9-onnx"](audio), expected.transpose(0, 2, 1))
    with pytest.raises(InputError, match="finished ONNX graph"):
        small["vec256l9-onnx"].module()


def test_onnx_files_of_another_shape_are_refused(tmp_path: Path) -> None:
    refused("vec256l9-onnx", onnx_file(tmp_path / "a.onnx", 12), WeightsMismatch, "12 channels, 256 are expected", None)
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, "n"]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", ports[:1], ports[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), tmp_path / "b.onnx")
    refused("vec256l9-onnx", tmp_path / "b.onnx", UnknownFamily, "it takes and gives", None)


# Export.


def exported(net: nn.Module, example: torch.Tensor, moving: dict[int, str]) -> onnxruntime.InferenceSession:
    """The network on onnxruntime, written by torch's own exporter."""
    file = io.BytesIO()
    torch.onnx.export(
        net,
        (example,),
        file,
        input_names=["input"],
        output_names=["units"],
        dynamic_axes={"input": moving},
        dynamo=False,
    )
    return onnxruntime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["vec768l12", "vec256l9", "hubertsoft", "cnhubertlarge", "wavlmbase+", "dphubert"])
def test_networks_of_any_length_export(name: str, small: dict[str, ContentEncoder]) -> None:
    net = small[name].module()
    session = exported(net, torch.tensor(noise(4000))[None, None], {0: "batch", 2: "samples"})
    for batch, samples in ((1, 4000), (2, 9001), (1, 400)):
        audio = noise(batch * samples).reshape(batch, 1, samples)
        with torch.inference_mode():
            close(session.run(None, {"input": audio})[0], net(torch.tensor(audio)).numpy())


@pytest.mark.filterwarnings("ignore")
def test_whisper_exports() -> None:
    net = WhisperNet(WhisperConfig(16, 2, 1))
    net.load_state_dict(fill(net.state_dict(), 3))
    net.eval()
    mel = whisper_mel(torch.tensor(np.stack([noise(8000), noise(8000, 9)])))
    with torch.inference_mode():
        close(exported(net, mel[:1], {0: "batch"}).run(None, {"input": mel.numpy()})[0], net(mel).numpy())
    np.testing.assert_allclose(
        WhisperMedium(net)(noise(8000)), net(mel)[:1, :, :25].detach().numpy(), rtol=1e-4, atol=1e-5
    )
