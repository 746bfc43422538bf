"""A stand-in for Applio: its generators, the synthesizer that chooses one of them, and the objects that hold a voice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from tests.hosts import rvc_double as rvc
from tests.hosts.openvpi import known_as
from tests.hosts.rvc_double import GIN, INTER, SPEAKERS

FOLDER = "rvc.lib.algorithm.generators"
ODD = {"upsample_rates": [7, 3, 3], "upsample_kernel_sizes": [14, 6, 6]}


class RampSine(nn.Module):
    """One sine: a ramp in every frame on a wrapped sum over frames; one initial phase for all rows, then not used."""

    def __init__(self, sampling_rate: int) -> None:
        super().__init__()
        self.sampling_rate = sampling_rate

    def forward(self, f0: Tensor, hop: int) -> Tensor:
        ramp = f0[..., None] / self.sampling_rate * torch.arange(1, hop + 1)
        ends = torch.fmod(ramp[:, :-1, -1:] + 0.5, 1.0) - 0.5
        cycles = ramp + F.pad(ends.cumsum(1).fmod(1.0), (0, 0, 1, 0))
        torch.rand(1, 1, 1)
        sine = 0.1 * torch.sin(2 * torch.pi * cycles.reshape(len(f0), -1, 1))
        voiced = (f0 > 0).float().repeat_interleave(hop, 1)[..., None]
        return sine * voiced + (0.003 * voiced + (1 - voiced) / 30) * torch.randn_like(sine)


@known_as(f"{FOLDER}.hifigan_nsf", "HiFiGANNSFGenerator")
class WithPitch(rvc.GeneratorNSF):
    """`dec(z, f0, g=g)`, also with odd rates under kernels of twice the rate."""

    def upsampler(self, width_in: int, width_out: int, kernel: int, rate: int) -> nn.Module:
        padding = rate // 2 + 1 if rate % 2 else (kernel - rate) // 2
        return nn.ConvTranspose1d(width_in, width_out, kernel, rate, padding, output_padding=rate % 2)

    def sines(self) -> nn.Module:
        return RampSine(self.h.sampling_rate)

    def forward(self, x: Tensor, f0: Tensor, g: Tensor | None = None) -> Tensor:  # type: ignore[override]
        return super().forward(x, f0, g)


@known_as(f"{FOLDER}.hifigan", "HiFiGANGenerator")
class WithoutPitch(rvc.Generator):
    def forward(self, x: Tensor, g: Tensor | None = None) -> Tensor:  # type: ignore[override]
        return super().forward(x, g)


class Other(nn.Module):
    """The networks that are left alone: enough of them to sound."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(INTER, 1, 3, padding=1)

    def forward(self, x: Tensor, f0: Tensor, g: Tensor | None = None) -> Tensor:
        return torch.tanh(self.conv(x) + f0[:, None] / 1000)


@known_as(f"{FOLDER}.refinegan", "RefineGANGenerator")
class RefineGAN(Other):
    pass


@known_as(f"{FOLDER}.hifigan_mrf", "HiFiGANMRFGenerator")
class MRF(Other):
    pass


KINDS: dict[str, Callable[[int], nn.Module]] = {
    "HiFi-GAN": lambda seed: rvc.generator(WithPitch, seed, "parametrizations"),
    "MRF HiFi-GAN": lambda seed: MRF(),
    "RefineGAN": lambda seed: RefineGAN(),
}


@known_as("rvc.lib.algorithm.synthesizers", "Synthesizer")
class Synthesizer(nn.Module):
    """Its generator is chosen by the name that the voice gives; voices without pitch have only one kind."""

    def __init__(self, use_f0: bool = True, vocoder: str = "HiFi-GAN", seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.use_f0 = use_f0
        self.emb_g = nn.Embedding(SPEAKERS, GIN)
        self.enc_p = nn.Linear(rvc.UNITS["v2"], INTER)
        self.dec = KINDS[vocoder](seed) if use_f0 else None
        if not use_f0 and vocoder == "HiFi-GAN":
            self.dec = rvc.generator(WithoutPitch, seed, "parametrizations")
        self.eval().requires_grad_(False)

    @torch.jit.export
    def infer(
        self, phone: Tensor, phone_lengths: Tensor, pitch: Tensor | None = None, nsff0: Tensor | None = None,
        sid: Tensor = None, rate: Tensor | None = None,
    ) -> Any:  # fmt: skip
        g = self.emb_g(sid).unsqueeze(-1)
        z = torch.tanh(self.enc_p(phone)).transpose(1, 2)
        z = z + 0.3 * torch.randn_like(z)
        if rate is not None:
            head = int(z.shape[2] * (1.0 - rate.item()))
            z = z[:, :, head:]
            nsff0 = nsff0[:, head:] if nsff0 is not None else None
        assert self.dec is not None
        return (self.dec(z, nsff0, g=g) if self.use_f0 else self.dec(z, g=g)), None, (z,)


class Holder:
    """Loads a voice in two steps, always in float32."""

    net_g: Any = None

    def load_model(self, weight_root: str) -> None:
        self.cpt = torch.load(weight_root, weights_only=True)

    def setup_network(self) -> None:
        self.net_g = Synthesizer(bool(self.cpt["f0"]), self.cpt["vocoder"])
        self.net_g.load_state_dict(self.cpt["weight"], strict=False)
        self.net_g = self.net_g.to("cpu").float()
        self.net_g.eval()


@known_as("rvc.infer.infer", "VoiceConverter")
class VoiceConverter(Holder):
    def __init__(self) -> None:
        self.net_g = None

    def get_vc(self, weight_root: str, sid: Any) -> None:
        if weight_root == "":
            del self.net_g
            return
        self.load_model(weight_root)
        self.setup_network()

    def convert(self, units: Tensor, f0: Tensor | None) -> Tensor:
        """The middle of `Pipeline.voice_conversion`."""
        lengths, sid = torch.tensor([units.shape[1]]), torch.tensor([1])
        with torch.no_grad():
            coarse = None if f0 is None else f0.round().long()
            return self.net_g.infer(units.float(), lengths, coarse, f0, sid)[0][0, 0].data.cpu().float()


@known_as("rvc.realtime.pipeline", "RealtimeVoiceConverter")
class RealtimeVoiceConverter(Holder):
    """Takes every parametrization away, and clips the audio in place."""

    def __init__(self, weight_root: str) -> None:
        self.load_model(weight_root)
        self.setup_network()

    def setup_network(self) -> None:
        super().setup_network()
        for layer in list(self.net_g.modules()):
            if parametrize.is_parametrized(layer):
                parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)

    def inference(self, feats: Tensor, p_len: Tensor, sid: Tensor, pitch: Tensor, pitchf: Tensor, rate: Any) -> Tensor:
        output = self.net_g.infer(feats, p_len, pitch, pitchf, sid, rate)[0][0, 0]
        return torch.clip(output, -1.0, 1.0, out=output)


def voice_file(path: Path, seed: int = 0, pitch: bool = True, vocoder: str = "HiFi-GAN") -> str:
    weights = Synthesizer(pitch, vocoder, seed).state_dict()
    torch.save({"weight": weights, "f0": int(pitch), "vocoder": vocoder}, path)
    return str(path)
