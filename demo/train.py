"""Trains the demo voice: a small NSF-HiFiGAN in upstream's config format, on audio made by `demo.corpus`.

    python -m demo.corpus CORPUS && python -m demo.train CORPUS OUT_DIR [--steps 30000]

Three quarters of the steps go to spectral losses alone, the rest adds an adversary, which takes the buzz out of
noise. A checkpoint in upstream's layout ({"generator": ...} with weight norm) and the loss curve are written
every few minutes; a started run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from demo.corpus import CONTROL_RATE
from demo.losses import Critics, SpectralLoss, critic_loss, generator_loss
from trt_svc.excitation import Excitation
from trt_svc.features.mel import log_mel
from trt_svc.noise import Noise
from trt_svc.vocoders.nsf_hifigan import NSFHiFiGAN

CONFIG = Path(__file__).parents[1] / "trt_svc/assets/demo_voice/config.json"
HELD_OUT = 3
"""Clips of each kind that training never sees (the first seeds)."""


@dataclass
class Clip:
    name: str
    audio: np.ndarray
    mel: np.ndarray
    f0: np.ndarray


def load_clip(path: Path, net: NSFHiFiGAN) -> Clip:
    audio, _ = soundfile.read(path, dtype="float32")
    assert net.spec.mel is not None
    hop = net.spec.hop
    audio = audio[: len(audio) // hop * hop]
    mel = log_mel(audio, net.spec.mel)[0]
    curve = np.load(path.with_suffix("").with_suffix(".f0.npy"))
    # The middle of frame t lies at (t + 1/2) hop; the nearest value keeps voicing edges sharp.
    at = ((np.arange(mel.shape[1]) + 0.5) * hop / net.spec.sample_rate * CONTROL_RATE).astype(int)
    return Clip(path.stem, audio, mel, curve[np.minimum(at, len(curve) - 1)].astype(np.float32))


def with_weight_norm(net: nn.Module) -> None:
    for name, module in net.named_modules():
        if isinstance(module, (nn.Conv1d, nn.ConvTranspose1d)) and not name.startswith("noise_convs"):
            parametrizations.weight_norm(module)


def upstream_state(net: nn.Module) -> dict[str, Tensor]:
    """The state dict under upstream's names, weight_g and weight_v."""
    endings = (("parametrizations.weight.original0", "weight_g"), ("parametrizations.weight.original1", "weight_v"))
    out = {}
    for name, value in net.state_dict().items():
        for new, old in endings:
            name = name.replace(new, old)
        out[name] = value.detach().clone()
    return out


def batch_of(
    clips: list[Clip], weights: np.ndarray, rng: np.random.Generator, size: int, frames: int, hop: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    mels, f0s, waves = [], [], []
    for i in rng.choice(len(clips), size, p=weights):
        clip = clips[i]
        at = int(rng.integers(0, max(1, clip.mel.shape[1] - frames)))
        mels.append(clip.mel[:, at : at + frames])
        f0s.append(clip.f0[at : at + frames])
        waves.append(clip.audio[at * hop : (at + frames) * hop])
    return np.stack(mels), np.stack(f0s), np.stack(waves)


def source_for(excitation: Excitation, f0: np.ndarray, rng: np.random.Generator) -> Tensor:
    seeds = tuple(int(s) for s in rng.integers(0, 2**31, len(f0)))
    return torch.from_numpy(excitation.begin(Noise(excitation.fields, seeds)).push(f0, f0.shape[1])["source"])


class Trainer:
    def __init__(self, corpus: Path, out: Path, options: argparse.Namespace) -> None:
        self.options, self.out = options, out
        self.net = NSFHiFiGAN.from_config(json.loads(CONFIG.read_text()), {}, "openvpi")
        with_weight_norm(self.net)
        # The source is rendered in NumPy, outside the graph: its merge stays a plain sum of the harmonics.
        nn.init.ones_(self.net.m_source.l_linear.weight).requires_grad_(False)
        nn.init.zeros_(self.net.m_source.l_linear.bias).requires_grad_(False)
        paths = sorted(corpus.glob("*.flac"))
        self.clips = [load_clip(p, self.net) for p in paths if int(p.stem.rpartition("-")[2]) >= HELD_OUT]
        self.held_out = [load_clip(p, self.net) for p in paths if int(p.stem.rpartition("-")[2]) < HELD_OUT]
        lengths = np.array([c.mel.shape[1] for c in self.clips], float)
        self.weights = lengths / lengths.sum()
        self.spectral = SpectralLoss(self.net.spec.mel)  # type: ignore[arg-type]
        self.critics = Critics()
        self.optimiser = torch.optim.AdamW(
            [p for p in self.net.parameters() if p.requires_grad], lr=options.rate, betas=(0.8, 0.99), weight_decay=0.01
        )
        self.critic_optimiser = torch.optim.AdamW(self.critics.parameters(), lr=options.rate / 2, betas=(0.8, 0.99))
        self.average = {name: value.clone() for name, value in upstream_state(self.net).items()}
        self.step, self.seconds, self.curve = 0, 0.0, []
        self.resume()
        # A resumed run draws other batches than those it has seen.
        self.rng = np.random.default_rng([options.seed, self.step])

    @property
    def progress(self) -> float:
        return self.step / self.options.steps

    def set_rates(self) -> None:
        warm = min(1.0, (self.step + 1) / 200)
        rate = self.options.rate * warm * (0.03 ** max(0.0, (self.progress - 0.15) / 0.85))
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        for group in self.critic_optimiser.param_groups:
            group["lr"] = rate / 2

    def train_step(self) -> dict[str, float]:
        self.set_rates()
        mel, f0, wave = batch_of(
            self.clips, self.weights, self.rng, self.options.batch, self.options.frames, self.net.spec.hop
        )
        made = self.net(torch.from_numpy(mel), self.source(f0))
        real = torch.from_numpy(wave)
        values: dict[str, float] = {}
        adversarial = self.progress > self.options.adversary_from
        if adversarial:
            loss = critic_loss(self.critics(real), self.critics(made.detach()))
            self.critic_optimiser.zero_grad(set_to_none=True)
            loss.backward()
            self.critic_optimiser.step()
            values["critic"] = float(loss.detach())
        mel_loss, stft_loss = self.spectral(made, real)
        total = 3.0 * mel_loss + stft_loss
        if adversarial:
            fool, match = generator_loss(self.critics(real), self.critics(made))
            total = total + 0.35 * fool + 0.7 * match
            values |= {"fool": float(fool.detach()), "match": float(match.detach())}
        self.optimiser.zero_grad(set_to_none=True)
        total.backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), 5.0)
        self.optimiser.step()
        return values | {"mel": float(mel_loss.detach()), "stft": float(stft_loss.detach())}

    def source(self, f0: np.ndarray) -> Tensor:
        return source_for(self.net.excitation(), f0, self.rng)

    def smooth_weights(self) -> None:
        keep = min(0.999, (1 + self.step) / (10 + self.step))
        for name, value in upstream_state(self.net).items():
            self.average[name].lerp_(value, 1 - keep)

    @torch.inference_mode()
    def evaluate(self) -> dict[str, float]:
        """Mean held-out losses per kind of clip."""
        self.net.eval()
        found: dict[str, list[float]] = {}
        for clip in self.held_out:
            frames = min(400, clip.mel.shape[1])
            source = source_for(self.net.excitation(), clip.f0[None, :frames], np.random.default_rng(0))
            made = self.net(torch.from_numpy(clip.mel[None, :, :frames].copy()), source)
            mel, _ = self.spectral(made, torch.from_numpy(clip.audio[None, : frames * self.net.spec.hop].copy()))
            found.setdefault(clip.name.rpartition("-")[0], []).append(float(mel))
        self.net.train()
        return {f"held_out_{kind}": round(float(np.mean(v)), 4) for kind, v in found.items()}

    def save(self) -> None:
        state = {
            "generator": self.average,
            "step": self.step,
            "seconds": self.seconds,
            "curve": self.curve,
            "live": self.net.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "critics": self.critics.state_dict(),
            "critic_optimiser": self.critic_optimiser.state_dict(),
        }
        torch.save(state, self.out / "training.pt.tmp")
        (self.out / "training.pt.tmp").replace(self.out / "training.pt")
        (self.out / "curve.json").write_text(json.dumps(self.curve, indent=0))

    def resume(self) -> None:
        path = self.out / "training.pt"
        if not path.exists():
            return
        state = torch.load(path, weights_only=True)
        self.net.load_state_dict(state["live"])
        self.critics.load_state_dict(state["critics"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.critic_optimiser.load_state_dict(state["critic_optimiser"])
        self.average, self.step, self.seconds, self.curve = (
            state["generator"],
            state["step"],
            state["seconds"],
            state["curve"],
        )

    def run(self) -> None:
        recent: list[dict[str, float]] = []
        clock, saved = time.perf_counter(), time.perf_counter()
        while self.progress < 1:
            recent.append(self.train_step())
            self.smooth_weights()
            self.step += 1
            now = time.perf_counter()
            self.seconds += now - clock
            clock = now
            if now - saved > self.options.report_seconds:
                means = {key: round(float(np.mean([r[key] for r in recent if key in r])), 4) for key in recent[-1]}
                entry = {"step": self.step, "minutes": round(self.seconds / 60, 1), **means, **self.evaluate()}
                self.curve.append(entry)
                print(json.dumps(entry), flush=True)
                self.save()
                recent, saved, clock = [], time.perf_counter(), time.perf_counter()
        self.save()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument(
        "--steps", type=int, default=30000, help="about 4 a second on 2 cores before the adversary, 2 with it"
    )
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--frames", type=int, default=24)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--adversary-from", type=float, default=0.75)
    parser.add_argument("--report-seconds", type=float, default=300)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    options.out.mkdir(parents=True, exist_ok=True)
    Trainer(options.corpus, options.out, options).run()


if __name__ == "__main__":
    main()
