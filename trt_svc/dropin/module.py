"""A vocoder with upstream's calling convention, made from a checkpoint: for people who write their own programs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn, Self

import torch
from torch import Tensor, nn

from trt_svc.errors import InputError
from trt_svc.loading import load_vocoder
from trt_svc.session import Vocoder

SEEDS = 2**31 - 1


class DropIn(nn.Module):
    """Called like upstream's generators: `(mel)`, `(mel, f0)` or `(z, f0=f0, g=g)` in, audio (B, 1, samples) out.

    Device and type of the audio are those of the mel. Random numbers follow torch.manual_seed, but are not those that
    upstream would draw.
    """

    h: SimpleNamespace
    """Upstream's config names: sampling_rate, num_mels, n_fft, win_size, hop_size, fmin, fmax."""

    def __init__(self, vocoder: Vocoder) -> None:
        super().__init__()
        self.vocoder = vocoder
        # Hosts read device and type from the first parameter.
        self.whereabouts = nn.Parameter(torch.zeros(()), requires_grad=False)
        spec = vocoder.spec
        self.h = SimpleNamespace(
            sampling_rate=spec.sample_rate,
            num_mels=spec.n_mels,
            hop_size=spec.hop,
            n_fft=spec.n_fft,
            win_size=spec.win,
            fmin=spec.fmin,
            fmax=spec.fmax,
        )

    @classmethod
    def load(
        cls,
        path: str | Path,
        config: str | Path | Mapping[str, Any] | None = None,
        *,
        backend: str = "auto",
        precision: str = "auto",
        device: str = "auto",
        class_name: str = "Generator",
        **options: Any,
    ) -> Self:
        """From a checkpoint, as `load_vocoder` takes it. class_name: what hosts that ask for a class's name find."""
        vocoder = load_vocoder(path, config, backend=backend, precision=precision, device=device, **options)
        kind: type[Self] = type(class_name, (cls,), {"__doc__": cls.__doc__})
        made = kind(vocoder)
        if vocoder.device != "cpu":
            made = made.to(vocoder.device)
        return made.eval()

    def forward(self, mel: Tensor, f0: Tensor | None = None, g: Tensor | None = None) -> Tensor:
        """Audio (B, 1, samples)."""
        seed = int(torch.randint(SEEDS, ())) if self.vocoder.excitation.fields else 0
        curve = f0 if self.vocoder.spec.needs_f0 else None
        speaker = g if self.vocoder.spec.needs_speaker else None
        made = self.vocoder(mel, curve, speaker, seed=seed)
        return torch.as_tensor(made)[:, None].to(mel.device, mel.dtype)

    def remove_weight_norm(self) -> None:
        """Nothing to do: it is folded into the weights already."""

    def load_state_dict(self, *args: Any, **kwargs: Any) -> NoReturn:
        advice = f"Make another one: {type(self).__name__} = DropIn.load(path)."
        raise InputError("load_state_dict of a drop-in vocoder", "its weights are in an engine.", advice)

    def __deepcopy__(self, memo: object) -> NoReturn:
        self._refuse("copying")

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        self._refuse("pickling")

    def _refuse(self, what: str) -> NoReturn:
        raise InputError(f"{what} a drop-in vocoder", "its engine belongs to this process.", "Load it again there.")
