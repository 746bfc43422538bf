"""NVIDIA's own BigVGAN with its fused CUDA kernel, from a checkout that the user names: the peer to beat there.

Its kernel is compiled at first use (nvcc and ninja are needed) for the GPU at hand, beside the checkout's sources.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from trt_svc.bench.contenders.base import Contender, Forms, Opened, Track, contenders
from trt_svc.bench.contenders.torch_eager import TorchEntrant, names_of, on_torch
from trt_svc.bench.subjects import Subject
from trt_svc.errors import EngineError
from trt_svc.optional import is_installed
from trt_svc.vocoders.bigvgan import BigVGAN
from trt_svc.vocoders.layers import ResBlock1

CHECKOUT_VARIABLE = "TRT_SVC_BIGVGAN"
KERNEL = Path("alias_free_activation", "cuda", "activation1d.py")


class BigVGANKernel(Contender):
    name = "bigvgan-cuda-kernel"
    precisions = ("fp32", "tf32", "fp16")

    def why_not(self, device: str, precision: str) -> str:
        if device == "cpu":
            return "its kernel needs a GPU"
        checkout = os.environ.get(CHECKOUT_VARIABLE, "")
        if not checkout:
            return f"{CHECKOUT_VARIABLE} names no checkout of NVIDIA/BigVGAN"
        if not (Path(checkout) / KERNEL).is_file():
            return f"the folder in {CHECKOUT_VARIABLE} has no {KERNEL.as_posix()}"
        missing = [tool for tool in ("nvcc", "ninja") if not shutil.which(tool)]
        return f"its kernel is compiled with {' and '.join(missing)}, not on the path" if missing else ""

    def forms(self, subject: Subject, wanted: Sequence[str]) -> list[Forms]:
        return [None] if isinstance(subject.net, BigVGAN) else []

    def prepare(self, subject: Subject, track: Track, precision: str, forms: Forms) -> Callable[[], Opened]:
        def opened() -> Opened:
            net = subject.net
            assert isinstance(net, BigVGAN)
            with for_this_gpu(track.device):
                upstream = upstream_net(net, Path(os.environ[CHECKOUT_VARIABLE]), use_kernel=True).to(track.device)
            module = _Called(upstream, torch.float16 if precision == "fp16" else torch.float32)
            return on_torch(TorchEntrant(module, names_of(net), track.device, precision))

        return opened


class _Called(nn.Module):
    """Upstream's network as ours is called."""

    def __init__(self, upstream: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.upstream = upstream.to(dtype)
        self.dtype = dtype

    def forward(self, mel: Tensor) -> Tensor:
        wave: Tensor = self.upstream(mel.to(self.dtype))
        return wave.squeeze(1).float()


def upstream_net(net: BigVGAN, checkout: Path, use_kernel: bool) -> nn.Module:
    """Upstream's class from a checkout, with our network's weights."""
    settings: dict[str, Any] = {name: _listed(value) for name, value in net.config.model_dump().items()}
    settings["resblock"] = "1" if isinstance(net.resblocks[0], ResBlock1) else "2"
    with importable(checkout):
        hparams = importlib.import_module("env").AttrDict(settings)
        made: nn.Module = importlib.import_module("bigvgan").BigVGAN(hparams, use_cuda_kernel=use_kernel)
        made.eval().requires_grad_(False)
        made.remove_weight_norm()  # type: ignore[operator]
    missing, unknown = made.load_state_dict(net.state_dict(), strict=False)
    lost = [name for name in missing if not name.endswith("filter")]  # which it makes itself
    if lost or unknown:
        raise EngineError(
            "racing upstream's BigVGAN",
            f"our weights do not fit that checkout: {[*lost, *unknown][:3]}.",
            "Name a checkout of https://github.com/NVIDIA/BigVGAN.",
        )
    return made


def _listed(value: Any) -> Any:
    return [_listed(part) for part in value] if isinstance(value, tuple) else value


@contextlib.contextmanager
def importable(checkout: Path) -> Iterator[None]:
    """Its modules have names like `utils`: they are forgotten again, and nobody else's are taken for them."""
    needs = _stand_ins()
    hidden = {name: sys.modules.pop(name) for name in ("env", "activations", "bigvgan", *needs) if name in sys.modules}
    known = set(sys.modules)
    sys.modules.update(needs)
    sys.path.insert(0, str(checkout))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(str(checkout))
        for name in set(sys.modules) - known:
            place = str(getattr(sys.modules[name], "__file__", None) or "")
            if name in needs or place.startswith(str(checkout)):
                del sys.modules[name]
        sys.modules.update(hidden)


def _stand_ins() -> dict[str, ModuleType]:
    """What it imports for training and downloads only: its network runs without those packages."""
    utils = ModuleType("utils")
    vars(utils).update(
        init_weights=lambda layer: None, get_padding=lambda kernel, dilation=1: dilation * (kernel - 1) // 2
    )
    found = {"utils": utils}
    if not is_installed("huggingface_hub"):
        found["huggingface_hub"] = hub = ModuleType("huggingface_hub")
        vars(hub).update(PyTorchModelHubMixin=_Mixin, hf_hub_download=None)
    return found


class _Mixin:
    """Takes the words that the class is declared with."""

    def __init_subclass__(cls, **words: Any) -> None:
        super().__init_subclass__()


@contextlib.contextmanager
def for_this_gpu(device: str) -> Iterator[None]:
    """Its build names two old generations only: nvcc is told this one too."""
    major, minor = torch.cuda.get_device_capability(device)
    before = os.environ.get("NVCC_APPEND_FLAGS")
    flags = f"-gencode arch=compute_{major}{minor},code=sm_{major}{minor}"
    os.environ["NVCC_APPEND_FLAGS"] = f"{before} {flags}" if before else flags
    try:
        yield
    finally:
        os.environ.pop("NVCC_APPEND_FLAGS", None) if before is None else os.environ.update(NVCC_APPEND_FLAGS=before)


contenders.register(BigVGANKernel.name)(BigVGANKernel())
