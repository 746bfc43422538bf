"""Geometry of the networks: receptive fields, lengths, and what configs may leave open."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests.nets import SMALL, random_small
from trt_svc.checkpoints.presets import presets
from trt_svc.config import MelSpec
from trt_svc.errors import ConfigError, InputError
from trt_svc.features.mel import log_mel, mel_filters
from trt_svc.vocoders.base import VocoderNet, families

# Published tables: output samples that mel frame 0 influences, and frames (left, right) an output frame needs.
REACH = {
    "hifigan_v1": (-3258, 3513, 13, 13),
    "hifigan_v2": (-3258, 3513, 13, 13),
    "hifigan_v3": (-2582, 2837, 11, 11),
    "nsf_hifigan_44k": (-6574, 7085, 13, 13),
    "pc_nsf_hifigan_44k": (-6574, 7085, 13, 13),
    "sovits_41_dec": (-6574, 7085, 13, 13),
    "sovits_41_snake_dec": (-11899, 12410, 24, 24),
    "bigvgan_base_24khz_100band": (-4433, 4688, 18, 18),
    "bigvgan_24khz_100band": (-9501, 9756, 38, 38),
    "bigvgan_v2_24khz_100band_256x": (-9501, 9756, 38, 38),
    "bigvgan_v2_44khz_128band_512x": (-10397, 10908, 21, 21),
    "gptsovits_v4": (-5494, 5973, 12, 12),
    "gptsovits_v2_dec": (-6899, 7538, 11, 11),
    "waveglow_256": (-24472, 25495, 99, 96),
}
PARAMETERS = {
    "hifigan_v1": 13.926e6,
    "bigvgan_v2_24khz_100band_256x": 112.41e6,
    "nsf_hifigan_44k": 14.17e6,
    "gptsovits_v4": 14.43e6,
    "waveglow_256": 87.73e6,
    "sovits_41_dec": 14.79e6,
}


def meta_net(name: str) -> VocoderNet:
    preset = presets()[name]
    with torch.device("meta"):
        return families.get(preset.family).from_config(preset.config, {}, preset.source)


@pytest.mark.parametrize("name", REACH)
def test_receptive_field_equals_the_published_table(name: str) -> None:
    net = meta_net(name)
    left, right, frames_left, frames_right = REACH[name]
    assert (net.reach().left, net.reach().right) == (left, right)
    assert net.receptive_field == (frames_left, frames_right)


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_count(name: str) -> None:
    assert sum(p.numel() for p in meta_net(name).parameters()) == pytest.approx(PARAMETERS[name], rel=2e-3)


@pytest.mark.parametrize("family", SMALL)
def test_receptive_field_is_what_the_network_does(family: str) -> None:
    """The exact support of a single mel frame in float64: without biases and with silence around it nothing else sounds."""
    net = random_small(family).double()
    for name, parameter in net.named_parameters():
        if name.endswith("bias"):
            parameter.zero_()
    left, right = net.receptive_field
    frames, at = left + right + 9, right + 4
    inputs = []
    for spec in net.core_inputs():
        length = 1 if spec.may_be_constant else int(frames * spec.per_frame)
        inputs.append(torch.zeros(1, spec.channels, length, dtype=torch.float64))
    inputs[0][:, :, at] = torch.randn(net.spec.n_mels, dtype=torch.float64)
    touched = np.flatnonzero(net(*inputs)[0].numpy())
    reach, hop = net.reach(), net.spec.hop
    assert (touched.min() - at * hop, touched.max() - at * hop) == (reach.left, reach.right)


@pytest.mark.parametrize("family", SMALL)
@pytest.mark.parametrize("frames", [1, 2, 7])
def test_length(family: str, frames: int) -> None:
    net = random_small(family)
    inputs = [
        torch.zeros(2, s.channels, 1 if s.may_be_constant else int(frames * s.per_frame)) for s in net.core_inputs()
    ]
    assert net(*inputs).shape == (2, net.samples_out(frames))
    assert net.samples_out(frames) == frames * net.spec.hop


def test_odd_upsampling_makes_other_lengths_like_upstream() -> None:
    net = random_small("hifigan", upsample_kernel_sizes=[15, 16, 4, 4])
    assert net.samples_out(5) == net(torch.zeros(1, 80, 5)).shape[1] != 5 * 256


def test_odd_upsampling_is_refused_where_a_source_is_added() -> None:
    with pytest.raises(ConfigError, match="do not keep lengths"):
        random_small("nsf_hifigan", upsample_kernel_sizes=[15, 16, 4, 4, 4])


def test_extra_dilations_are_ignored_as_upstream_does() -> None:
    more = random_small("hifigan", resblock_dilation_sizes=[[1, 3, 5, 7]] * 3)
    assert len(more.resblocks[0].convs1) == 3  # type: ignore[union-attr, arg-type]
    kept = random_small("bigvgan", resblock_dilation_sizes=[[1, 3, 5, 7]] * 3)
    assert len(kept.resblocks[0].convs1) == 4  # type: ignore[union-attr, arg-type]


def test_resblock_is_compared_as_a_string() -> None:
    assert hasattr(random_small("hifigan", resblock="1").resblocks[0], "convs1")  # type: ignore[index]
    assert hasattr(random_small("hifigan", resblock=1).resblocks[0], "convs")  # type: ignore[index]


def test_waveglow_with_a_group_that_does_not_divide_the_hop() -> None:
    config = {"n_mel_channels": 4, "n_flows": 2, "n_group": 6, "WN_config": {"n_layers": 2, "n_channels": 6}}
    net = random_small("waveglow", waveglow_config=config)
    inputs = [torch.zeros(1, s.channels, int(5 * s.per_frame)) for s in net.core_inputs()]
    assert net(*inputs).shape == (1, net.samples_out(5)) == (1, 5 * 256 // 6 * 6)


def test_source_choice() -> None:
    preset = presets()["nsf_hifigan_44k"]
    nsf = families.get("nsf_hifigan")
    with torch.device("meta"):
        assert nsf.from_config(preset.config, {}).source == "openvpi"  # type: ignore[attr-defined]
        assert nsf.from_config(preset.config, {}, "sovits-interp").source == "sovits-interp"  # type: ignore[attr-defined]
        with pytest.raises(InputError, match="Did you mean 'openvpi'"):
            nsf.from_config(preset.config, {}, "openvip")
        with pytest.raises(InputError, match="nine harmonics"):
            nsf.from_config(preset.config, {}, "mini")


HOSTILE = [
    {"upsample_initial_channel": 10**9},
    {"upsample_rates": [8] * 100, "upsample_kernel_sizes": [16] * 100},
    {"resblock_kernel_sizes": [3] * 10**5, "resblock_dilation_sizes": [[1]] * 10**5},
    {"upsample_rates": []},
    {"upsample_rates": [8, 8, 2]},
    {"upsample_rates": "8822"},
    {"sampling_rate": "fast"},
    {"resblock_kernel_sizes": [4, 7, 11]},
    {"hop_size": 300},
    {"fmax": float("inf")},
    {"fmin": 9000},
    {"win_size": 2048},
    {"upsample_rates": [512] * 12, "upsample_kernel_sizes": [512] * 12},
    {"upsample_kernel_sizes": [2, 2, 2, 2]},
]


@pytest.mark.parametrize("changes", HOSTILE, ids=lambda c: next(iter(c)))
def test_hostile_configs_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        random_small("hifigan", **changes)
    assert "config" in str(caught.value)
    assert len(str(caught.value)) < 900


@pytest.mark.parametrize("name", sorted(presets()))
def test_every_preset_builds(name: str) -> None:
    net = meta_net(name)
    assert net.family == presets()[name].family
    assert net.spec.hop > 0
    assert presets()[name].published_as


def test_a_config_may_leave_the_hop_out_and_list_too_many_kernels() -> None:
    config = {k: v for k, v in presets()["hifigan_v3"].config.items() if k != "hop_size"}
    net = families.get("hifigan").from_config({**config, "upsample_kernel_sizes": [16, 16, 8, 4]}, {})
    assert net.spec.hop == 256
    assert net.spec.mel is not None
    assert net.spec.mel.hop == 256


@pytest.mark.parametrize("rates", [([4, 3], [12, 5]), ([8, 4, 3], [16, 8, 5]), ([8, 8, 1], [16, 16, 3])])
def test_strides_that_a_source_cannot_follow_are_refused(rates: tuple[list[int], list[int]]) -> None:
    with pytest.raises(ConfigError, match="do not keep lengths"):
        random_small(
            "nsf_hifigan", upsample_rates=rates[0], upsample_kernel_sizes=rates[1], hop_size=int(np.prod(rates[0]))
        )


def test_a_flat_waveglow_config_keeps_its_sigma() -> None:
    flat = {
        "n_mel_channels": 4,
        "n_flows": 2,
        "n_early_every": 4,
        "WN_config": {"n_layers": 2, "n_channels": 6},
        "sigma": 0.25,
    }
    assert families.get("waveglow").from_config(flat, {}).sigma == 0.25  # type: ignore[attr-defined]


def test_a_window_shorter_than_the_transform() -> None:
    """torch.stft centres it; so do we."""
    spec = MelSpec(22050, 1024, 800, 256, 80, 0.0, 8000.0)
    audio = np.random.default_rng(0).normal(0, 0.1, 8192).astype(np.float32)
    padded = torch.nn.functional.pad(torch.from_numpy(audio)[None], (384, 384), mode="reflect")
    window = torch.hann_window(800)
    spectrum = torch.stft(padded, 1024, 256, 800, window, center=False, return_complex=True)
    magnitude = torch.sqrt(spectrum.real**2 + spectrum.imag**2 + 1e-9)
    expected = torch.log(torch.clamp(torch.from_numpy(mel_filters(spec)) @ magnitude, min=1e-5)).numpy()
    assert np.abs(log_mel(audio, spec) - expected).max() < 1e-4
