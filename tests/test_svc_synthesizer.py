"""The network of a voice: upstream's numbers stage by stage, long takes in bounded memory, strict loading."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tests import golden_svc
from tests.parity_svc.voice import META, config_of, golden_voice, stored, write_voice
from trt_svc.errors import CheckpointError, ConfigError, InputError, TrtSvcError, UnknownFamily, WeightsMismatch
from trt_svc.svc.networks.attention import (
    OFFSETS,
    WINDOW,
    CausalTransformer,
    SelfAttention,
    hide_future,
    read_band,
    spread_band,
)
from trt_svc.svc.networks.pitch_decoder import hz_from_log, log_f0
from trt_svc.svc.networks.prior import RelativeTransformer, coarse_pitch
from trt_svc.svc.networks.source import SummedPhase
from trt_svc.svc.networks.stages import EncoderStage, PitchStage
from trt_svc.svc.networks.stored_filters import StoredSnake
from trt_svc.svc.networks.synthesizer import InferOptions, Synthesizer
from trt_svc.svc.speakers import Speakers
from trt_svc.svc.voice_model import VoiceModel, load_voice
from trt_svc.svc.voice_weights import settled
from trt_svc.vocoders.antialias import kaiser_lowpass
from trt_svc.vocoders.sovits_dec import SovitsDec

INVENTORY: dict[str, dict[str, Any]] = json.loads(
    gzip.decompress((golden_svc.FOLDER / "state_dict_inventory.json.gz").read_bytes())
)
FULL_SIZE = [name for name in INVENTORY if name.startswith("so-vits-svc")]


@pytest.fixture(scope="module")
def voice_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], VoiceModel]:
    @cache
    def load(net: str) -> VoiceModel:
        return golden_voice(net, tmp_path_factory.mktemp(net))

    return load


# Pitch scales.


def test_high_notes_keep_the_highest_bin_unless_upstream_is_asked_for() -> None:
    high = torch.tensor([[1099.0, 1104.0, 1500.0, 4000.0]])
    assert coarse_pitch(high).tolist() == [[255, 255, 255, 255]]
    assert coarse_pitch(high, clamps_high=False).tolist()[0][2:] == [0, 0]
    odd = torch.tensor([[0.0, -699.0, -700.0, 1e30]])
    assert coarse_pitch(odd).tolist() == [[1, 1, 1, 255]]


def test_log_f0_and_back() -> None:
    f0_hz = torch.tensor([0.0, 50.0, 440.0, 1100.0])
    torch.testing.assert_close(hz_from_log(log_f0(f0_hz)), f0_hz, rtol=1e-5, atol=1e-3)


# Attention.


def attention(causal: bool, channels: int = 8, heads: int = 2, seed: int = 1) -> SelfAttention:
    module = golden_svc.fill(SelfAttention(channels, heads, causal=causal), seed).eval()
    return module.requires_grad_(False)


def by_the_book(module: SelfAttention, x: Tensor) -> Tensor:
    """Relative attention entry by entry."""
    q, k, v = (
        conv(x)[0].reshape(module.heads, -1, x.shape[-1]) for conv in (module.conv_q, module.conv_k, module.conv_v)
    )
    q, frames, out = q / module.head_channels**0.5, x.shape[-1], torch.zeros_like(v)
    for head in range(module.heads):
        for i in range(frames):
            offsets = {j: j - i + WINDOW for j in range(frames) if abs(j - i) <= WINDOW}
            scores = torch.stack([q[head, :, i] @ k[head, :, j] for j in range(frames)])
            for j, offset in offsets.items():
                scores[j] += q[head, :, i] @ module.emb_rel_k[0, offset]
            weights = scores.softmax(0)
            out[head, :, i] = v[head] @ weights + sum(weights[j] * module.emb_rel_v[0, o] for j, o in offsets.items())
    return module.conv_o(out.reshape(1, -1, frames))


@pytest.mark.parametrize("frames", [1, 2, 3, 5, 9, 12])
def test_relative_attention_is_what_it_says(frames: int) -> None:
    module = attention(causal=False)
    x = torch.from_numpy(golden_svc.u("x", (1, 8, frames), 3)).float() * 4 - 2
    torch.testing.assert_close(module(x), by_the_book(module, x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("frames", [1, 2, 8, 9, 30])
def test_band_is_spread_and_read_back(frames: int) -> None:
    band = torch.rand(2, 3, frames, OFFSETS) + 1
    square = spread_band(band)
    inside = torch.tensor([[0 <= i + o - WINDOW < frames for o in range(OFFSETS)] for i in range(frames)])
    torch.testing.assert_close(read_band(square), band * inside, rtol=0, atol=0)
    assert square.count_nonzero() == 6 * inside.count_nonzero()


def test_the_future_is_hidden_from_queries_at_the_end_of_the_keys() -> None:
    hidden = hide_future(torch.zeros(3, 5)) < 0
    assert hidden.int().tolist() == [[0, 0, 0, 1, 1], [0, 0, 0, 0, 1], [0, 0, 0, 0, 0]]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("frames", [1, 2, 7, 9, 64, 131])
def test_blocks_give_the_numbers_of_the_whole(causal: bool, frames: int) -> None:
    module = attention(causal)
    x = torch.from_numpy(golden_svc.u("x", (2, 8, frames), 5)).float() * 4 - 2
    module.max_scores = None
    whole = module(x)
    for scores in (1, 4 * frames * 3, 4 * frames * 50):  # one query at a time, three, fifty
        module.max_scores = scores
        torch.testing.assert_close(module(x), whole, rtol=1e-5, atol=1e-6)


class LargestTensor(TorchDispatchMode):
    """Notes the most numbers that any operation's result holds."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for value in made if isinstance(made, (tuple, list)) else (made,):
            if isinstance(value, Tensor):
                self.numbers = max(self.numbers, value.numel())
        return made


@pytest.mark.parametrize("kind", [RelativeTransformer, CausalTransformer])
def test_long_takes_need_no_square_of_their_length(kind: type[torch.nn.Module]) -> None:
    frames, budget = 6000, 1 << 20
    net = golden_svc.fill(kind(8, 16, 2, 1, 3), 2).requires_grad_(False)
    for module in net.modules():
        if isinstance(module, SelfAttention):
            module.max_scores = budget
    x = torch.from_numpy(golden_svc.u("x", (1, 8, frames), 5)).float() * 4 - 2
    with LargestTensor() as largest:
        made = net(x)
    assert largest.numbers <= budget < frames**2 / 30
    assert torch.isfinite(made).all()


def test_a_whole_voice_sings_long_takes_the_same(voice_of: Callable[[str], VoiceModel]) -> None:
    net = voice_of("v768_vol_transflow").net if "v768_vol_transflow" in META else voice_of(next(iter(META))).net
    frames = 150
    take = {**example(net, frames), "options": InferOptions(predict_f0=net.predicts_f0)}
    parts = [module for module in net.modules() if isinstance(module, SelfAttention)]
    kept = parts[0].max_scores
    try:
        whole, _ = net.infer(**take)
        for part in parts:
            part.max_scores = 2000
        in_blocks, _ = net.infer(**take)
    finally:
        for part in parts:
            part.max_scores = kept
    torch.testing.assert_close(in_blocks, whole, rtol=1e-4, atol=1e-4)


# Takes of any length, batches, bad inputs.


def example(net: Synthesizer, frames: int, batch: int = 1) -> dict[str, Any]:
    def numbers(name: str, *shape: int) -> Tensor:
        return torch.from_numpy(golden_svc.u(name, (batch, *shape, frames), 11)).float()

    voiced = (numbers("uv") > 0.2).float()
    return {
        "units": numbers("units", net.config.ssl_dim) - 0.5,
        "f0_hz": 100 + 400 * numbers("f0"),
        "uv": voiced,
        "speaker": 0,
        "volume": numbers("volume") if net.emb_vol is not None else None,
    }


@pytest.mark.parametrize("net_name", META)
@pytest.mark.parametrize("frames", [1, 2, 37])
def test_any_number_of_frames(net_name: str, frames: int, voice_of: Callable[[str], VoiceModel]) -> None:
    net = voice_of(net_name).net
    options = InferOptions(predict_f0=net.predicts_f0)
    audio, f0_hz = net.infer(**example(net, frames), options=options)
    assert audio.shape == (1, frames * net.hop_samples)
    assert f0_hz.shape == (1, frames)
    assert torch.isfinite(audio).all()
    again, _ = net.infer(**example(net, frames), options=options)
    assert torch.equal(audio, again)


@pytest.mark.parametrize("net_name", META)
def test_a_batch_gives_what_its_rows_give(net_name: str, voice_of: Callable[[str], VoiceModel]) -> None:
    net = voice_of(net_name).net
    batch = example(net, 15, batch=2)
    together, _ = net.infer(**batch)
    for row in range(2):
        alone = {key: v[row : row + 1] if isinstance(v, Tensor) else v for key, v in batch.items()}
        torch.testing.assert_close(together[row : row + 1], net.infer(**alone)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("net_name", [name for name, about in META.items() if "autof0" in about["cases"]])
def test_pitches_are_predicted_for_each_row(net_name: str, voice_of: Callable[[str], VoiceModel]) -> None:
    net = voice_of(net_name).net
    batch, options = example(net, 15, batch=2), InferOptions(predict_f0=True)
    _, together = net.infer(**batch, options=options)
    for row in range(2):
        alone = {key: v[row : row + 1] if isinstance(v, Tensor) else v for key, v in batch.items()}
        _, f0_hz = net.infer(**alone, options=options)
        torch.testing.assert_close(together[row : row + 1], f0_hz, rtol=1e-4, atol=1e-2)


def test_silence_is_sung_without_complaint(voice_of: Callable[[str], VoiceModel]) -> None:
    net = voice_of(next(iter(META))).net
    take = {key: torch.zeros_like(v) if isinstance(v, Tensor) else v for key, v in example(net, 6).items()}
    audio, f0_hz = net.infer(**take)
    assert torch.isfinite(audio).all() and not f0_hz.any()


def test_a_speaker_may_be_given_in_any_form(voice_of: Callable[[str], VoiceModel]) -> None:
    net = voice_of(next(iter(META))).net
    take, frames = example(net, 9), 9
    by_number, _ = net.infer(**{**take, "speaker": 2})
    by_vector, _ = net.infer(**{**take, "speaker": net.speaker_vectors(2)})
    alone = torch.nn.functional.one_hot(torch.full((frames,), 2), net.config.n_speakers).float()
    by_mix, _ = net.infer(**{**take, "speaker": alone})
    assert torch.equal(by_number, by_vector)
    torch.testing.assert_close(by_mix, by_number, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("cuts", [(0, 9), (0, 1, 5, 9), (0, 0, 4, 4, 9)])
def test_upstreams_source_is_the_same_in_pieces(cuts: tuple[int, ...]) -> None:
    f0 = np.array([[0, 220, 330, 440, 0, -50, 900, 1400, 100]], np.float32)
    initial = golden_svc.u("initial", (1, 9), 1).astype(np.float32)
    whole = np.stack(list(SummedPhase(initial, 44100, 16).sines(f0)))
    phase = SummedPhase(initial, 44100, 16)
    pieces = [np.stack(list(phase.sines(f0[:, a:b]))) for a, b in pairwise(cuts)]
    np.testing.assert_array_equal(np.concatenate(pieces, axis=2), whole)


def test_both_sources_agree_over_a_short_take(voice_of: Callable[[str], VoiceModel]) -> None:
    net = voice_of(next(iter(META))).net
    ours, _ = net.infer(**example(net, 9))
    upstreams, _ = net.infer(**example(net, 9), options=InferOptions(as_upstream=True))
    torch.testing.assert_close(ours, upstreams, rtol=0, atol=1e-4)


BAD_TAKES: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "no frames": lambda t: {k: v[..., :0] if isinstance(v, Tensor) else v for k, v in t.items()},
    "other units": lambda t: {**t, "units": t["units"][:, 1:]},
    "units without a batch": lambda t: {**t, "units": t["units"][0]},
    "NaN in the units": lambda t: {**t, "units": t["units"] * float("nan")},
    "infinite f0": lambda t: {**t, "f0_hz": t["f0_hz"] + float("inf")},
    "short f0": lambda t: {**t, "f0_hz": t["f0_hz"][:, 1:]},
    "uv of another shape": lambda t: {**t, "uv": t["uv"][:, None]},
    "volume on or off": lambda t: {**t, "volume": None if t["volume"] is not None else t["uv"]},
    "speaker -1": lambda t: {**t, "speaker": -1},
    "speaker beyond": lambda t: {**t, "speaker": 10_000},
    "mix of other speakers": lambda t: {**t, "speaker": torch.ones(8, 1000)},
    "mix of another length": lambda t: {**t, "speaker": "short mix"},
    "vectors of another width": lambda t: {**t, "speaker": torch.ones(1, 7, 1)},
    "noise of another shape": lambda t: {**t, "noise": {"prior_noise": np.zeros((1, 2, 3), np.float32)}},
    "unknown noise": lambda t: {**t, "noise": {"hiss": np.zeros(3, np.float32)}},
}


@pytest.mark.parametrize("what", BAD_TAKES)
@pytest.mark.parametrize("net_name", META)
def test_bad_takes_are_refused_in_words(net_name: str, what: str, voice_of: Callable[[str], VoiceModel]) -> None:
    net = voice_of(net_name).net
    take = BAD_TAKES[what](example(net, 8))
    if isinstance(take["speaker"], str):
        take["speaker"] = torch.ones(5, net.config.n_speakers)
    with pytest.raises(InputError):
        net.infer(**take)


def test_automatic_pitch_of_a_voice_without_it(tmp_path: Path) -> None:
    name = next(iter(META))
    weights = {key: v for key, v in stored(name).items() if not key.startswith("f0_decoder.")}
    config = config_of(name)
    config["model"].pop("use_automatic_f0_prediction")
    net = load_voice(write_voice(tmp_path, weights, config)).net
    assert not net.predicts_f0
    with pytest.raises(InputError, match="without an f0 decoder"):
        net.infer(**example(net, 4), options=InferOptions(predict_f0=True))


@pytest.mark.parametrize("net_name", META)
def test_stages_do_what_the_voice_does(net_name: str, voice_of: Callable[[str], VoiceModel]) -> None:
    net = voice_of(net_name).net
    take, seen = example(net, 12), {}
    net.infer(**take, options=InferOptions(predict_f0=net.predicts_f0), seen=seen)
    volume = () if take["volume"] is None else (take["volume"][:, None],)
    uv = take["uv"][:, None]
    encoder = EncoderStage(net)
    given = (take["units"], uv, seen["f0_coarse"][:, None].float(), *volume)
    assert [(v.shape[1], v.dtype) for v in given] == [(i.channels, torch.float32) for i in encoder.core_inputs()]
    torch.testing.assert_close(encoder(*given), torch.cat([seen["m_p"], seen["logs_p"]], dim=1), rtol=0, atol=0)
    g = net.speaker_vectors(0)
    torch.testing.assert_close(net.flow(seen["z_p"], g), seen["z"], rtol=0, atol=0)
    assert [i.channels for i in net.flow.core_inputs()] == [seen["z_p"].shape[1], g.shape[1]]
    if net.predicts_f0:
        pitch = PitchStage(net)
        given = (take["units"], uv, seen["norm_lf0"], g, *volume)
        assert [v.shape[1] for v in given] == [i.channels for i in pitch.core_inputs()]
        torch.testing.assert_close(pitch(*given), seen["pred_lf0"], rtol=0, atol=0)


# Files.


def folded(inventory: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Shapes as the loader hands them on: weight norm folded, training parts and stored filters gone."""
    weights = {name: torch.empty(shape, device="meta") for name, (shape, _) in inventory.items()}
    plain = {n.replace("weight_v", "weight"): w for n, w in weights.items() if not n.endswith("weight_g")}
    kept = {n: w for n, w in plain.items() if not n.startswith("enc_q.")}
    return {name: tuple(w.shape) for name, w in SovitsDec.adapt(kept).items()}


def template(name: str) -> dict[str, Any]:
    """The published config of a full-size variant, its switches left for the weights to say."""
    tiny = "tiny" in name
    return {
        "resblock": "1",
        "resblock_kernel_sizes": [3, 7, 11],
        "resblock_dilation_sizes": [[1, 3, 5]] * 3,
        "upsample_rates": [8, 8, 2, 2, 2],
        "upsample_initial_channel": 400 if tiny else 512,
        "upsample_kernel_sizes": [16, 16, 4, 4, 4],
        "vocoder_name": "nsf-snake-hifigan" if "snake" in name else "nsf-hifigan",
        "n_heads": 2,
        "n_layers": 6,
        "filter_channels": 512 if tiny else 768,
    }


@pytest.mark.parametrize("name", FULL_SIZE)
def test_every_full_size_variant_has_exactly_our_keys(name: str) -> None:
    shapes = folded(INVENTORY[name])
    model = settled(template(name), shapes, name, "template")
    with torch.device("meta"):
        net = Synthesizer.from_config(model, {n[4:]: s for n, s in shapes.items() if n.startswith("dec.")})
    assert {n: tuple(w.shape) for n, w in net.state_dict().items()} == shapes
    assert (net.emb_vol is not None) == ("vol_embedding" in name)
    assert net.flow.shape.transformer == ("transformer" in name)
    assert (net.flow.shape.shares, net.flow.shape.depthwise) == (("tiny" in name,) * 2)


def test_a_real_folder(tmp_path: Path) -> None:
    voice = load_voice(golden_svc.FOLDER / "e2e" / "logs" / "44k")
    config = json.loads((golden_svc.FOLDER / "e2e" / "logs" / "44k" / "config.json").read_text())
    assert voice.path.name == "G_0.pth"
    assert dict(voice.speakers) == config["spk"]
    assert (voice.sample_rate_hz, voice.hop_samples) == (config["data"]["sampling_rate"], config["data"]["hop_length"])
    assert voice.speech_encoder == config["model"]["speech_encoder"]
    assert voice.unit_interpolate_mode == config["data"]["unit_interpolate_mode"]
    name, number = next(iter(config["spk"].items()))
    known = Speakers(voice.speakers, voice.net.config.n_speakers, "the voice")
    assert known.number(name) == known.number(number) == known.number(str(number)) == number
    audio, _ = voice.net.infer(**example(voice.net, 3))
    assert audio.shape == (1, 3 * voice.hop_samples)
    for unknown in ("nobody", -1, 999, "", "²"):
        with pytest.raises(InputError, match="none of that name or number"):
            known.number(unknown)


def newer_spelling(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    ends = {"weight_g": "parametrizations.weight.original0", "weight_v": "parametrizations.weight.original1"}
    return {
        name.replace(old, ends[old]) if (old := name.rpartition(".")[2]) in ends else name: value
        for name, value in weights.items()
    }


SAME_WEIGHTS: dict[str, Callable[[dict[str, Tensor]], dict[str, Tensor]]] = {
    "parametrizations": newer_spelling,
    "data parallel": lambda w: {f"module.{name}": value for name, value in w.items()},
    "training file": lambda w: {**w, "enc_q.pre.weight": torch.zeros(16, 1025, 1), "enc_q.pre.bias": torch.zeros(16)},
}


@pytest.mark.parametrize("spelling", SAME_WEIGHTS)
def test_every_spelling_of_the_weights_sounds_the_same(
    spelling: str, tmp_path: Path, voice_of: Callable[[str], VoiceModel]
) -> None:
    name = next(iter(META))
    voice = load_voice(write_voice(tmp_path, SAME_WEIGHTS[spelling](stored(name)), config_of(name)))
    expected, _ = voice_of(name).net.infer(**example(voice.net, 5))
    assert torch.equal(voice.net.infer(**example(voice.net, 5))[0], expected)
    assert voice.dtype == "float32"
    assert list(voice.left_out) == (["enc_q.pre.weight", "enc_q.pre.bias"] if spelling == "training file" else [])


def test_half_precision_releases_run_in_float32(tmp_path: Path, voice_of: Callable[[str], VoiceModel]) -> None:
    name = next(iter(META))
    half = {key: value.half() for key, value in stored(name).items()}
    voice = load_voice(write_voice(tmp_path, half, config_of(name)))
    assert voice.dtype == "float16"
    assert all(weight.dtype == torch.float32 for weight in voice.net.parameters())
    made, expected = (v.net.infer(**example(v.net, 12))[0] for v in (voice, voice_of(name)))
    assert 20 * torch.log10(expected.norm() / (made - expected).norm()) > 25


def test_a_config_of_40_leaves_much_unsaid(tmp_path: Path) -> None:
    name = next(name for name, about in META.items() if about["cfg"]["ssl_dim"] == 256)
    config = config_of(name)
    for key in ("vol_embedding", "use_automatic_f0_prediction", "speech_encoder", "n_flow_layer", "use_transformer_flow",
                "flow_share_parameter", "use_depthwise_conv", "n_layers_trans_flow", "vocoder_name"):  # fmt: skip
        config["model"].pop(key)
    config["model"]["ssl_dim"] = None
    config["data"] = {}
    voice = load_voice(write_voice(tmp_path, stored(name), config))
    assert voice.speech_encoder == "vec256l9"
    assert (voice.sample_rate_hz, voice.unit_interpolate_mode) == (44100, "left")


def test_the_source_keeps_upstreams_rate_whatever_the_data_is_at(tmp_path: Path) -> None:
    """Upstream hands `model` alone to the network, so a 32 kHz voice is trained with sines counted at 44.1 kHz."""
    name = next(iter(META))
    config = config_of(name)
    config["data"]["sampling_rate"] = 32000
    voice = load_voice(write_voice(tmp_path / "data", stored(name), config))
    assert (voice.sample_rate_hz, voice.net.dec.spec.sample_rate) == (32000, 44100)
    config["model"]["sampling_rate"] = 32000
    assert load_voice(write_voice(tmp_path / "model", stored(name), config)).net.dec.spec.sample_rate == 32000


def test_usual_filters_need_no_activation_of_their_own(tmp_path: Path) -> None:
    name = next((n for n, about in META.items() if about["cfg"]["vocoder_name"] == "nsf-snake-hifigan"), None)
    if name is None:
        pytest.skip("no golden voice has the snake decoder")
    usual = {
        k: kaiser_lowpass().half().reshape(1, 1, -1) if k.endswith(".filter") else v for k, v in stored(name).items()
    }
    voice = load_voice(write_voice(tmp_path / "usual", usual, config_of(name)))
    assert not any(isinstance(module, StoredSnake) for module in voice.net.modules())
    own = load_voice(write_voice(tmp_path / "own", stored(name), config_of(name)))
    assert any(isinstance(module, StoredSnake) for module in own.net.modules())
    short = {k: v[..., 1:] if k.endswith(".lowpass.filter") else v for k, v in stored(name).items()}
    with pytest.raises(WeightsMismatch, match="12 taps"):
        load_voice(write_voice(tmp_path / "short", short, config_of(name)))


def without(name: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda w: {key: value for key, value in w.items() if key != name}


def with_value(name: str, change: Callable[[Tensor], Tensor]) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda w: {**w, name: change(w[name].clone())}


ANY_VOICE = next(iter(META))
BAD_WEIGHTS: dict[str, tuple[Callable[[dict[str, Tensor]], dict[str, Tensor]], type[TrtSvcError], str]] = {
    "a layer's bias": (without("enc_p.enc_.attn_layers.0.conv_q.bias"), WeightsMismatch, "1 weights are missing"),
    "the uv embedding": (without("emb_uv.weight"), WeightsMismatch, "emb_uv.weight"),
    "half a weight norm": (without("dec.conv_pre.weight_g"), WeightsMismatch, "conv_pre"),
    "part of the f0 decoder": (without("f0_decoder.proj.bias"), WeightsMismatch, "f0_decoder.proj.bias"),
    "the relative keys": (without("enc_p.enc_.attn_layers.0.emb_rel_k"), WeightsMismatch, "lacks what every voice has"),
    "NaN": (with_value("pre.bias", lambda w: w * float("nan")), WeightsMismatch, "NaN"),
    "another shape": (with_value("pre.bias", lambda w: w[:-1]), WeightsMismatch, "have another shape"),
    "flat pre": (with_value("pre.weight", lambda w: w.flatten()), WeightsMismatch, "lacks what every voice has"),
    "an unknown weight": (lambda w: {**w, "emb_pitch.weight": torch.ones(2)}, WeightsMismatch, "unknown to it"),
    "nothing": (lambda w: {}, UnknownFamily, "no weights"),
    "an RVC voice": (lambda w: {"enc_p.emb_phone.weight": torch.ones(2)}, UnknownFamily, "RVC"),
    "a diffusion model": (lambda w: {"unit_embed.weight": torch.ones(2)}, UnknownFamily, "diffusion"),
    "a discriminator": (lambda w: {"discriminators.0.convs.0.bias": torch.ones(2)}, UnknownFamily, "discriminator"),
    "a vocoder": (lambda w: {k[4:]: v for k, v in w.items() if k.startswith("dec.")}, UnknownFamily, "vocoder"),
    "something else": (lambda w: {"layer.weight": torch.ones(2)}, UnknownFamily, "not those of a voice"),
}


@pytest.mark.parametrize("what", BAD_WEIGHTS)
def test_bad_weights_are_refused_in_words(what: str, tmp_path: Path) -> None:
    change, kind, words = BAD_WEIGHTS[what]
    with pytest.raises(kind, match=re.escape(words)):
        load_voice(write_voice(tmp_path, change(stored(ANY_VOICE)), config_of(ANY_VOICE)))


Change = Callable[[dict[str, Any]], Any]
BAD_CONFIGS: dict[str, tuple[Change, type[TrtSvcError], str]] = {
    "768 channels": (
        lambda c: c["model"].update(gin_channels=999),
        WeightsMismatch,
        "gin_channels 999 (the weights have",
    ),
    "volume": (lambda c: c["model"].update(vol_embedding=True), WeightsMismatch, "vol_embedding True"),
    "more layers": (lambda c: c["model"].update(n_layers=9), WeightsMismatch, "n_layers 9"),
    "another decoder": (lambda c: c["model"].update(upsample_initial_channel=32), WeightsMismatch, "dec."),
    "another hop": (lambda c: c["data"].update(hop_length=320), ConfigError, "hop_length is 320"),
    "istft decoder": (lambda c: c["model"].update(type_="ms-istft"), ConfigError, "ms-istft"),
    "no model": (lambda c: c.pop("model"), ConfigError, "'model'"),
    "model is a list": (lambda c: c.update(model=[]), ConfigError, "'model'"),
    "no rates": (lambda c: c["model"].pop("upsample_rates"), ConfigError, "upsample_rates"),
    "rate in words": (lambda c: c["data"].update(sampling_rate="44k"), ConfigError, "44k"),
    "speakers as a list": (lambda c: c.update(spk=["a"]), ConfigError, "spk"),
    "speaker beyond": (lambda c: c["spk"].update(z=400), ConfigError, "spk"),
    "odd kernels": (lambda c: c["model"].update(upsample_kernel_sizes=[15] * 5), ConfigError, "kernel"),
}


@pytest.mark.parametrize("what", BAD_CONFIGS)
def test_bad_configs_are_refused_in_words(what: str, tmp_path: Path) -> None:
    name = next(n for n, about in META.items() if not about["cfg"]["vol_embedding"])
    change, kind, words = BAD_CONFIGS[what]
    config = config_of(name)
    change(config)
    with pytest.raises(kind, match=re.escape(words)):
        load_voice(write_voice(tmp_path, stored(name), config))


def test_no_config_at_all(tmp_path: Path) -> None:
    path = write_voice(tmp_path, stored(ANY_VOICE), None)
    with pytest.raises(ConfigError, match=r"no config\.json lies beside it"):
        load_voice(path)
    assert load_voice(path, config=config_of(ANY_VOICE)).net.config.n_speakers == META[ANY_VOICE]["cfg"]["n_speakers"]


def test_missing_and_damaged_files(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        load_voice(tmp_path / "G_1.pth")
    path = write_voice(tmp_path, stored(ANY_VOICE), config_of(ANY_VOICE))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(CheckpointError):
        load_voice(path)


def test_a_shared_flow_must_be_one(tmp_path: Path) -> None:
    name = next((n for n, about in META.items() if about["cfg"]["flow_share_parameter"]), None)
    if name is None:
        pytest.skip("no golden voice shares its flow")
    weights = stored(name)
    weights["flow.flows.2.enc.cond_layer.bias"] += 1
    with pytest.raises(WeightsMismatch, match=r"differs from the weight it shares"):
        load_voice(write_voice(tmp_path, weights, config_of(name)))
