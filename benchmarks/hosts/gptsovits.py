"""GPT-SoVITS: its TTS class (versions 2, 3 and 4) with its own loaders, from files as it finds them on disk.

The text side (words to semantic tokens) is stubbed, and so is the acoustic model of versions 3 and 4; what makes
audio, what loads it and what switches it is the host's.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.hosts import gptsovits_files as files
from benchmarks.hosts.openvpi import work_folder
from benchmarks.hosts.scene import Audio, Scene, on_path, stub
from trt_svc.config import MelSpec
from trt_svc.features.mel import mel_filters

REPOSITORY = "GPT-SoVITS"
PACKAGES = ("einops",)
TOKENS_PER_SECOND = 25
TOKENS_OF_LANGUAGE = 300
FRAMES_PER_TOKEN = {"v3": 3.875, "v4": 4}
MEL_RATE_HZ = {"v3": 24000, "v4": 32000}
FULL_SIZE = {"v2": 512, "v3": 1536, "v4": 512}
NARROW = {"v2": 64, "v3": 128, "v4": 64}


class Words(nn.Module):
    """In place of the model that writes semantic tokens."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__()
        self.model = nn.Module()
        self.model.ar_audio_embedding = nn.Embedding(1025, 4)


class Part(nn.Module):
    """In place of a pretrained encoder that these scenes do not call."""

    def __init__(self, *args: Any) -> None:
        super().__init__()

    @classmethod
    def from_pretrained(cls, path: str) -> Part:
        return cls()


class Hub:
    """from_pretrained of huggingface_hub before 1.0: later versions leave out two arguments that the host needs."""

    @classmethod
    def from_pretrained(cls, model_id: str) -> Any:
        names = ("revision", "cache_dir", "force_download", "proxies", "resume_download", "local_files_only", "token")
        return cls._from_pretrained(model_id=model_id, **dict.fromkeys(names))  # type: ignore[attr-defined]


class Flow(nn.Module):
    """In place of the flow matching of versions 3 and 4: a drawn mel on the model's own scale."""

    def inference(
        self, features: Tensor, lengths: Tensor, prompt: Tensor, steps: int, inference_cfg_rate: float
    ) -> Tensor:
        batch, frames, _ = features.shape
        mel = torch.cat([files.log_mel(frames) for _ in range(batch)]).to(prompt)
        return (mel + 12) / 14 * 2 - 1

    def merge_and_unload(self) -> Flow:
        return self


class AcousticModel(nn.Module):
    """In place of SynthesizerTrnV3, whose transformer has 300 million parameters."""

    def __init__(self, *args: Any, version: str = "v4", **settings: Any) -> None:
        super().__init__()
        self.version = version
        self.bridge = nn.Linear(1, 1)
        self.cfm = Flow()

    def decode_encp(
        self, codes: Tensor, text: Tensor, refer: Tensor, ge: Tensor | None = None, speed: float = 1
    ) -> tuple[Tensor, Tensor]:
        frames = int(codes.shape[2] * FRAMES_PER_TOKEN[self.version] / speed)
        return torch.zeros(1, 512, frames), torch.zeros(1, 512, 1)


def scenes(root: Path, full_size: bool) -> Iterator[Scene]:
    os.chdir(work_folder())  # the host keeps its settings and its models where it is started
    _stub_packages()
    on_path(root)
    on_path(root / "GPT_SoVITS")
    import_module("tools")
    stub("tools.audio_sr", AP_BWE=Part)
    import_module("text")
    stub("text.LangSegmenter", LangSegmenter=None)
    stub("text.chinese")
    stub("text.cleaner", clean_text=None)
    channels = FULL_SIZE if full_size else NARROW
    tts, voices = _started(channels)
    yield _v2(tts, full_size)
    tts.init_vits_weights(str(voices["v4"]))
    yield _single(tts, "v4", full_size, _there_and_back(tts, "v4", voices))
    if not full_size:
        yield _batched(tts, _language_reload(tts, voices["v4"]))
    tts.init_vits_weights(str(voices["v3"]))
    yield _single(tts, "v3", full_size, _there_and_back(tts, "v3", voices))
    if not full_size:
        yield from _webui(channels, voices)


def _stub_packages() -> None:
    stub("torchaudio")
    stub("huggingface_hub", PyTorchModelHubMixin=Hub, hf_hub_download=None)
    stub("ffmpeg")
    stub("librosa.filters", mel=_mel_filters)
    stub("peft", LoraConfig=dict, get_peft_model=lambda net, config: net)
    stub("transformers", AutoTokenizer=Part, AutoModelForMaskedLM=Part)
    stub("x_transformers.x_transformers", RotaryEmbedding=Part, apply_rotary_pos_emb=None)
    stub("AR.models.t2s_lightning_module", Text2SemanticLightningModule=Words)
    stub("feature_extractor.cnhubert", CNHubert=Part, get_model=Part)
    stub("sv", SV=Part)
    stub("psutil")
    sys.modules["gradio"] = MagicMock()


def _mel_filters(sr: int, n_fft: int, n_mels: int, fmin: float, fmax: float | None) -> Audio:
    spec = MelSpec(
        sample_rate=sr, n_fft=n_fft, win=n_fft, hop=n_fft // 4, n_mels=n_mels, fmin=fmin, fmax=fmax or sr / 2
    )
    return mel_filters(spec)


def _started(channels: dict[str, int]) -> tuple[Any, dict[str, Path]]:
    """The host as api_v2.py starts it, with a version 2 voice; the voices of the others."""
    host = import_module("TTS_infer_pack.TTS")
    host.SynthesizerTrnV3 = AcousticModel
    # init_vocoder has the sizes of the version 4 vocoder in its text.
    host.Generator = partial(_generator, host.Generator, channels["v4"])
    files.save_v2(import_module("module.models"), channels["v2"])
    files.save_v4_vocoder(partial(host.Generator, **V4_ARGUMENTS))
    files.save_v3_vocoder(import_module("BigVGAN.bigvgan"), channels["v3"])
    files.save_t2s(Words())
    voices = {version: files.save_v3_v4(version, AcousticModel()) for version in ("v3", "v4")}
    voices["v2"] = files.MODELS / files.VITS_FILES["v2"]
    return host.TTS(str(files.save_settings())), voices


V4_ARGUMENTS = {
    "initial_channel": files.BANDS,
    "resblock": "1",
    "resblock_kernel_sizes": [3, 7, 11],
    "resblock_dilation_sizes": files.DILATIONS,
    "upsample_rates": [10, 6, 2, 2, 2],
    "upsample_kernel_sizes": [20, 12, 4, 4, 4],
    "gin_channels": 0,
    "is_bias": True,
}


def _generator(kind: Any, channels: int, **arguments: Any) -> Any:
    return kind(**{**arguments, "upsample_initial_channel": channels})


def _v2(tts: Any, full_size: bool) -> Scene:
    """As `run` calls it for versions 1 and 2."""
    tokens = TOKENS_PER_SECOND * (2 if full_size else 1)

    def sing() -> Audio:
        torch.manual_seed(0)
        codes = torch.randint(0, 1024, (1, 1, tokens))
        phones = torch.randint(0, TOKENS_OF_LANGUAGE, (1, 20))
        refer = [torch.rand(1, 1025, 60)]
        return tts.vits_model.decode(codes, phones, refer, speed=1.0).detach()[0, 0, :].cpu().numpy()

    def reload() -> None:
        tts.init_vits_weights(tts.configs.vits_weights_path)

    return Scene("TTS.vits_model.decode, v2", tts, sing, reload, tts.vits_model.dec)


def _hear_reference(tts: Any, version: str, seconds: float) -> None:
    """What set_ref_audio leaves behind."""
    rate_hz = MEL_RATE_HZ[version]
    t = np.arange(int(seconds * rate_hz), dtype=np.float32) / rate_hz
    tts.prompt_cache |= {
        "prompt_semantic": torch.zeros(int(seconds * TOKENS_PER_SECOND), dtype=torch.long),
        "phones": list(range(10)),
        "refer_spec": [(torch.rand(1, 1025, 50), None)],
        "raw_audio": torch.from_numpy(0.3 * np.sin(2 * np.pi * 220 * t))[None],
        "raw_sr": rate_hz,
    }


def _single(tts: Any, version: str, full_size: bool, after_reload: Callable[[], None]) -> Scene:
    tokens = TOKENS_PER_SECOND * (2 if full_size else 1)

    def sing() -> Audio:
        torch.manual_seed(0)
        _hear_reference(tts, version, 0.5)
        codes = torch.zeros(1, 1, tokens, dtype=torch.long)
        made = tts.using_vocoder_synthesis(codes, torch.zeros(1, 20, dtype=torch.long), sample_steps=4)
        return made.float().cpu().numpy()

    return Scene(f"TTS.using_vocoder_synthesis, {version}", tts, sing, after_reload, tts.vocoder)


def _batched(tts: Any, after_reload: Callable[[], None]) -> Scene:
    """Two sentences in two chunks, which reach the vocoder end to end as one long mel."""

    def sing() -> dict[str, Audio]:
        torch.manual_seed(0)
        _hear_reference(tts, "v4", 6)
        tokens = [60, 80]
        made = tts.using_vocoder_synthesis_batched_infer(
            tokens,
            [torch.zeros(n, dtype=torch.long) for n in tokens],
            [torch.zeros(20, dtype=torch.long) for _ in tokens],
            sample_steps=4,
        )
        return {f"sentence {i}": audio.float().cpu().numpy() for i, audio in enumerate(made, start=1)}

    return Scene("TTS.using_vocoder_synthesis_batched_infer, v4", tts, sing, after_reload)


def _there_and_back(tts: Any, version: str, voices: dict[str, Path]) -> Callable[[], None]:
    """To the other version with a vocoder and back: the first vocoder is let go of and read from disk again."""
    other = "v3" if version == "v4" else "v4"

    def switch() -> None:
        tts.init_vits_weights(str(voices[other]))
        tts.init_vits_weights(str(voices[version]))

    return switch


def _language_reload(tts: Any, voice: Path) -> Callable[[], None]:
    """Another voice of the same version: the vocoder must not be read again, its class still being `Generator`."""

    def reload() -> None:
        before = tts.vocoder
        tts.init_vits_weights(str(voice))
        assert tts.vocoder is before, "the vocoder was loaded again"

    return reload


def _webui(channels: dict[str, int], voices: dict[str, Path]) -> Iterator[Scene]:
    """inference_webui.py as a module, started with a voice of version 2; its vocoders are globals of its own."""
    os.environ |= {"version": "v2", "gpt_path": str(files.T2S_FILE), "sovits_path": str(voices["v2"])}
    webui = import_module("GPT_SoVITS.inference_webui")
    webui.Generator = partial(_generator, webui.Generator, channels["v4"])

    def speak() -> Audio:
        torch.manual_seed(0)
        codes = torch.randint(0, 1024, (1, 1, TOKENS_PER_SECOND))
        phones = torch.randint(0, TOKENS_OF_LANGUAGE, (1, 20))
        return webui.vq_model.decode(codes, phones, [torch.rand(1, 1025, 60)], speed=1)[0][0].numpy()

    def another_voice() -> None:
        for _ in webui.change_sovits_weights(str(voices["v2"]), "", ""):
            pass

    yield Scene("inference_webui.vq_model.decode, v2", webui, speak, another_voice)

    def vocode() -> Audio:
        torch.manual_seed(0)
        mel = files.log_mel(100)
        if webui.hifigan_model == None:  # noqa: E711 - as the host asks
            webui.init_hifigan()
        with torch.inference_mode():
            return webui.hifigan_model(mel)[0][0].cpu().numpy()

    webui.init_hifigan()
    yield Scene("inference_webui.hifigan_model, v4", webui, vocode, webui.init_bigvgan)
