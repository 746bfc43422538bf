"""Random weights for the networks around the vocoders, scaled on one pass so that they behave like trained ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.song_audio import RATE_HZ, song
from benchmarks.song_crepe import least_squares
from trt_svc.config import MelSpec
from trt_svc.features.mel import log_mel
from trt_svc.svc.diffusion import normalised
from trt_svc.svc.networks.denoiser import WaveNet
from trt_svc.svc.networks.synthesizer import InferOptions, Synthesizer
from trt_svc.svc.networks.unit2mel import Unit2Mel
from trt_svc.svc.samplers.schedule import Schedule
from trt_svc.svc.sinc import sinc_resample
from trt_svc.types import Array
from trt_svc.vocoders.healthy import healthy_net

UNIT_SPREAD = 0.3
"""Root mean square of the units that real encoders give."""
FRAMES = 60
QUIET = 0.2
"""Root mean square in front of a vocoder's tanh, which then bends little."""
VOICE_LEVELS = {
    "pre": 1.0,
    "enc_p.proj": 0.5,
    "dec.conv_post": QUIET,
    "f0_decoder.proj": 0.1,
    "flow.*.post": 0.3,
    "flow.*.cond_layer": 0.7,
    "flow.*.res_skip_layers.*": 0.7,
    "flow.*": 1.0,
}
"""Root mean square of what a layer gives, by pattern; the first that fits."""
UNIT2MEL_LEVELS = {
    "*_embed": 0.6,
    "*.mlp.*": 0.7,
    "*diffusion_projection": 0.5,
    "*conditioner_projection": 0.7,
    "*": 1.0,
}
MEL = MelSpec(44100, 2048, 2048, 512, 128, 40, 16000, "nvstft")
FITTED_S, FITTED_STEPS = 6.0, (2, 5, 10, 20, 30, 45, 60, 75, 90, 99)
"""Audio and steps that the denoiser's last layer is fitted on."""
SCALED = (nn.Conv1d, nn.Linear)
GAINS = {"feature_extractor": 2.0, "self_attn.out_proj": 0.1, "fc2": 0.1}
"""Of a weight's variance: rectifiers take half away, and many layers must leave something of what came in."""
EMBEDDINGS = ("emb_g.weight", "emb_uv.weight", "enc_p.f0_emb.weight")


def healthy_voice(model: Mapping[str, Any], seed: int) -> Synthesizer:
    """A voice of this config.json section."""
    net = Synthesizer.from_config(model, {}).eval().requires_grad_(False)
    _draw(net, seed)
    dec = {key: model[key] for key in type(net.dec.config).model_fields if key in model}
    net.dec.load_state_dict(healthy_net("sovits_dec", {**dec, "sampling_rate": 44100}, seed=seed).state_dict())
    rng = np.random.default_rng(seed)
    units = torch.from_numpy(rng.normal(0, UNIT_SPREAD, (1, model["ssl_dim"], FRAMES)).astype(np.float32))
    f0_hz, uv = torch.full((1, FRAMES), 220.0), torch.ones(1, FRAMES)
    options = InferOptions(predict_f0=True)
    set_level(net, VOICE_LEVELS, lambda: net.infer(units, f0_hz, uv, 0, options=options))
    net.enc_p.proj.bias[model["inter_channels"] :] = -1.0  # log spread of the latent
    net.f0_decoder.proj.bias.fill_(1.5)  # about 200 Hz
    return net


def healthy_unit2mel(units: int, n_mels: int, layers: int, channels: int, hidden: int, seed: int) -> Unit2Mel:
    """A diffusion model for one speaker."""
    net = Unit2Mel(units, n_mels, layers, channels, hidden, speakers=1, pitch_shift=True).eval().requires_grad_(False)
    _draw(net, seed)
    rng = np.random.default_rng(seed)
    given = torch.from_numpy(rng.normal(0, UNIT_SPREAD, (1, FRAMES, units)).astype(np.float32))
    f0_hz, volume = torch.full((1, FRAMES), 220.0), torch.full((1, FRAMES), 0.1)
    x = torch.from_numpy(rng.standard_normal((1, n_mels, FRAMES)).astype(np.float32))
    shift = torch.ones(1)
    set_level(
        net, UNIT2MEL_LEVELS, lambda: net(x, torch.full((1,), 50.0), net.condition(given, f0_hz, volume, shift=shift))
    )
    _open_path(net.denoiser)
    _fit_denoiser(net, rng)
    return net


def _open_path(net: WaveNet) -> None:
    """Lets the noisy mel through to the last layer, unharmed, beside the random features, which lose it.

    Offsets keep it above zero at the rectifiers; it takes the first block, and the first channels everywhere.
    """
    mels, width, first = net.n_mels, net.channels, net.residual_layers[0]
    through, signal = slice(mels), slice(width, width + mels)
    _route(net.input_projection, through, 0.25, offset=1.0)
    for layer in (first.diffusion_projection, first.conditioner_projection):
        _route(layer, through, 0.0)
    _route(first.conditioner_projection, signal, 0.0)
    _route(first.dilated_conv, through, 0.0, offset=4.0)  # an open gate
    _route(first.dilated_conv, signal, 1.0, offset=-1.0)
    for block in net.residual_layers:
        _route(block.output_projection, signal, 4.0 * net.layers**0.5 if block is first else 0.0)
    _route(net.skip_projection, through, 1.0, offset=3.0)


def _route(layer: nn.Conv1d | nn.Linear, rows: slice, gain: float, offset: float = 0.0) -> None:
    """Makes these outputs the first inputs times a gain, and nothing else."""
    count = rows.stop - (rows.start or 0)
    layer.weight[rows] = 0
    layer.bias[rows] = offset
    if gain:
        layer.weight[rows, :count, layer.weight.shape[2] // 2] = gain * torch.eye(count)


@torch.inference_mode()
def _fit_denoiser(net: Unit2Mel, rng: np.random.Generator) -> None:
    """Lets the last layer tell noise from mels, as well as it can on random features: mels stay what they are."""
    mel = normalised(log_mel(song(FITTED_S, seed=1), MEL)[0])
    schedule, features, noises = Schedule(), [], []
    hook = net.denoiser.output_projection.register_forward_pre_hook(lambda _module, given: features.append(given[0][0]))
    for step in FITTED_STEPS:
        noise = rng.standard_normal(mel.shape).astype(np.float32)
        x = torch.from_numpy(schedule.signal(step) * mel + schedule.noise(step) * noise).float()
        cond = torch.from_numpy(rng.normal(0, 1, (1, net.hidden, mel.shape[1])).astype(np.float32))
        net(x[None], torch.full((1,), float(step)), cond)
        noises.append(noise)
    hook.remove()
    given = torch.cat(features, dim=1).T.double().numpy()
    solved = least_squares(np.concatenate([given, np.ones((len(given), 1))], axis=1), np.concatenate(noises, axis=1).T)
    net.denoiser.output_projection.weight.copy_(torch.from_numpy(solved[:-1].T[..., None]))
    net.denoiser.output_projection.bias.copy_(torch.from_numpy(solved[-1]))


def contentvec_weights(
    width: int, conv: int, inner: int, seed: int, layers: int = 12, units: int = 256
) -> dict[str, Tensor]:
    """HuBERT base under fairseq's names: norms keep the variance, and the last makes units as small as real ones."""
    shapes: dict[str, tuple[int, ...]] = {}
    for i, kernel in enumerate((10, 3, 3, 3, 3, 2, 2)):
        shapes[f"feature_extractor.conv_layers.{i}.0.weight"] = (conv, conv if i else 1, kernel)
    for leaf in ("weight", "bias"):
        shapes |= {f"feature_extractor.conv_layers.0.2.{leaf}": (conv,), f"layer_norm.{leaf}": (conv,)}
    shapes |= {"mask_emb": (width,), "post_extract_proj.weight": (width, conv), "post_extract_proj.bias": (width,)}
    shapes |= {"encoder.pos_conv.0.bias": (width,), "encoder.pos_conv.0.weight_v": (width, width // 16, 128)}
    shapes |= {f"encoder.layer_norm.{leaf}": (width,) for leaf in ("weight", "bias")}
    for n in range(layers):
        at = f"encoder.layers.{n}."
        squares = [f"{at}self_attn.{part}_proj" for part in ("k", "v", "q", "out")]
        sizes = dict.fromkeys(squares, (width, width)) | {f"{at}fc1": (inner, width), f"{at}fc2": (width, inner)}
        for name, shape in sizes.items():
            shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
        for norm in ("self_attn_layer_norm", "final_layer_norm"):
            shapes |= {f"{at}{norm}.{leaf}": (width,) for leaf in ("weight", "bias")}
    shapes |= {"final_proj.weight": (units, width), "final_proj.bias": (units,)}
    generator = torch.Generator().manual_seed(seed)
    made = {name: _drawn(name, shape, generator) for name, shape in shapes.items()}
    direction = made["encoder.pos_conv.0.weight_v"]
    made["encoder.pos_conv.0.weight_g"] = torch.linalg.vector_norm(direction, dim=(0, 1), keepdim=True)
    made[f"encoder.layers.{layers - 1}.final_layer_norm.weight"] *= UNIT_SPREAD
    return made


@torch.inference_mode()
def centre_features(weights: dict[str, Tensor], net: nn.Module, audio: Array) -> None:
    """Random convolutions give mostly a constant: behind them it is taken off, and the rest made larger."""
    seen: list[Tensor] = []
    hook = net.feature_projection.register_forward_hook(lambda _module, _given, out: seen.append(out.flatten(0, 1)))
    net(torch.from_numpy(sinc_resample(audio, RATE_HZ, 16000))[None, None])
    hook.remove()
    constant, spread = seen[0].mean(0), seen[0].std(0).mean()
    weights["post_extract_proj.weight"] /= spread
    weights["post_extract_proj.bias"].sub_(constant).div_(spread)


def set_level(net: nn.Module, levels: Mapping[str, float], run: Callable[[], Any]) -> None:
    """One pass in which every layer that a pattern names is scaled to that root mean square."""

    def scaled_to(level: float) -> Callable[..., Tensor]:
        def scale(module: nn.Module, _given: Any, out: Tensor) -> Tensor:
            factor = level / out.pow(2).mean().sqrt().clamp_min(1e-6)
            for parameter in module.parameters(recurse=False):
                parameter.mul_(factor)
            return out * factor

        return scale

    hooks = []
    for name, module in net.named_modules():
        level = next((level for pattern, level in levels.items() if fnmatchcase(name, pattern)), None)
        if level is not None and isinstance(module, SCALED):
            hooks.append(module.register_forward_hook(scaled_to(level)))
    with torch.inference_mode():
        run()
    for hook in hooks:
        hook.remove()


def _draw(net: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in net.named_parameters():
        parameter.copy_(_drawn(name, tuple(parameter.shape), generator))


def _drawn(name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Normal numbers that keep the variance of what they are multiplied with; norms near 1, all else near 0."""
    if name in EMBEDDINGS:
        return 0.5 * torch.randn(shape, generator=generator)
    if len(shape) > 1:
        gain = next((gain for part, gain in GAINS.items() if part in name), 1.0)
        return torch.randn(shape, generator=generator) * (gain / int(np.prod(shape[1:]))) ** 0.5
    near = 1.0 if name.endswith(("gamma", "weight")) else 0.0
    return near + 0.05 * torch.randn(shape, generator=generator)
