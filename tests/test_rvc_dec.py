"""The decoders of RVC and Applio, against what the hosts' own classes made of the same weights and draws."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.record_rvc_dec import BLOCKS, CHANNELS, EVEN, GIN, INTER, RATE_HZ
from tests.rvc_dec_voices import BOUND, SOURCES, WITHOUT_PITCH, error_of, opened, recorded, voice_file
from trt_svc.build_config import BuildConfig
from trt_svc.checkpoints.load import recognise
from trt_svc.difference import difference
from trt_svc.errors import ConfigError, InputError, UnknownFamily
from trt_svc.loading import load_vocoder
from trt_svc.vocoders.base import families
from trt_svc.vocoders.healthy import healthy_net
from trt_svc.vocoders.rvc_dec import RvcDec

MIN_SNR_DB = 110.0


@pytest.mark.parametrize("name", SOURCES)
def test_the_network_with_the_hosts_own_source(name: str, tmp_path: Path) -> None:
    data, vocoder = recorded(name), opened(name, tmp_path)
    made = vocoder.run_network({"mel": data["z"], "source": data["source"], "speaker": data["g"]})
    assert vocoder.family == "rvc_dec"
    assert difference(made, data["audio"]).snr_db >= MIN_SNR_DB


@pytest.mark.parametrize("name", [*SOURCES, WITHOUT_PITCH])
def test_alone_with_its_own_source(name: str, tmp_path: Path) -> None:
    assert error_of(name, tmp_path) <= BOUND


def test_a_voice_without_pitch_is_a_generator_of_another_family(tmp_path: Path) -> None:
    data, vocoder = recorded(WITHOUT_PITCH), opened(WITHOUT_PITCH, tmp_path)
    assert vocoder.family == "gptsovits_generator" and vocoder.spec.sample_rate == RATE_HZ
    assert difference(vocoder(data["z"], speaker=data["g"]), data["audio"]).snr_db >= MIN_SNR_DB


@pytest.mark.parametrize("name", ["rvc", "applio-odd"])
def test_its_engine(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRT_SVC_ENGINE_DIR", str(tmp_path / "engines"))
    data, vocoder = recorded(name), opened(name, tmp_path, build=BuildConfig("onnxruntime", "cpu"))
    made = vocoder.run_network({"mel": data["z"], "source": data["source"], "speaker": data["g"]})
    assert vocoder.backend == "onnxruntime"
    assert difference(made, data["audio"]).snr_db >= 90


@pytest.mark.parametrize("name", SOURCES)
def test_pieces_with_the_context_it_states_give_the_whole(name: str, tmp_path: Path) -> None:
    data, vocoder = recorded(name), opened(name, tmp_path)
    left, right = vocoder.receptive_field
    z = np.tile(data["z"], (1, 1, 4))
    f0 = np.tile(data["f0"], 4)
    whole = vocoder(z, f0, data["g"])
    cut = opened(name, tmp_path, chunk_frames=left + right + 7)(z, f0, data["g"])
    assert np.abs(cut - whole).max() < 2e-6
    changed = z.copy()
    changed[:, :, 48] += 1
    moved = np.flatnonzero(np.abs(vocoder(changed, f0, data["g"]) - whole)[0] > 0) // vocoder.spec.hop
    assert 48 - right <= moved.min() < 48 < moved.max() <= 48 + left


def test_a_stream_gives_the_whole(tmp_path: Path) -> None:
    data, vocoder = recorded("applio-odd"), opened("applio-odd", tmp_path)
    whole = vocoder(data["z"], data["f0"], data["g"], seed=4)
    stream = vocoder.stream(seed=4, speaker=data["g"])
    blocks = [stream.push(data["z"][:, :, i : i + 5], data["f0"][:, i : i + 5]) for i in range(0, 24, 5)]
    assert np.abs(np.concatenate([*blocks, stream.flush()], axis=1) - whole).max() < 2e-6


# Which family, which config.


def test_nine_harmonics_belong_to_so_vits() -> None:
    shapes = {"cond.weight": (16, 6, 1), "ups.0.weight": (16, 8, 4), "conv_pre.weight": (16, 8, 7)}
    assert recognise({**shapes, "m_source.l_linear.weight": (1, 1)}, None, "it") == "rvc_dec"
    assert recognise({**shapes, "m_source.l_linear.weight": (1, 9)}, None, "it") == "sovits_dec"


def config(**changes: Any) -> dict[str, Any]:
    return {
        "inter_channels": INTER,
        "gin_channels": GIN,
        "upsample_initial_channel": CHANNELS,
        "upsample_rates": EVEN[0],
        "upsample_kernel_sizes": EVEN[1],
        "resblock_kernel_sizes": BLOCKS[0],
        "resblock_dilation_sizes": BLOCKS[1],
        **changes,
    }


@pytest.mark.parametrize("rates", [[4, 3], [4, 1], [4, 5]])
def test_kernels_that_keep_no_lengths_are_refused(rates: list[int]) -> None:
    kernels = [7, 4] if rates == [4, 3] else [8, 2 if rates == [4, 1] else 8]
    with pytest.raises(ConfigError, match="does not keep lengths"):
        RvcDec.from_config(config(upsample_rates=rates, upsample_kernel_sizes=kernels), {})


def test_an_unknown_source_is_refused() -> None:
    with pytest.raises(InputError, match=r"source 'openvip'.*Did you mean 'openvpi'"):
        families.get("rvc_dec").from_config(config(), {}, "openvip")


def test_random_weights_sing() -> None:
    net = healthy_net("rvc_dec", config(resblock="2", resblock_dilation_sizes=[[1, 3], [1, 3]]))
    assert net.voice().spec.needs_f0 and net.samples_out(7) == 7 * 160


@pytest.mark.parametrize("stored", [[1, 2, 3], ["x"] * 18, {"inter_channels": INTER}, list(range(19))])
def test_a_config_of_another_shape_is_no_config(stored: Any, tmp_path: Path) -> None:
    with pytest.raises((ConfigError, UnknownFamily)):
        load_vocoder(voice_file("rvc", tmp_path, config=stored))
