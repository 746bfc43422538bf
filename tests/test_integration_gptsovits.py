"""GPT-SoVITS's TTS and its page, on a stand-in with the same surface: all versions, what they load, their settings."""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn

import trt_svc
from tests.hosts import gptsovits_double as host
from tests.hosts import gptsovits_page
from trt_svc.backends.tensorrt import TensorRT
from trt_svc.backends.tensorrt_rtx import TensorRTRtx
from trt_svc.difference import difference
from trt_svc.dropin.accelerate import host_of
from trt_svc.dropin.handle import Handle
from trt_svc.dropin.report import PlaceReport
from trt_svc.dropin.settings import Settings
from trt_svc.dropin.watching import Watch
from trt_svc.integrations.gptsovits import GPTSoVITS
from trt_svc.integrations.gptsovits_settings import stated, wishes

Sing = Callable[[], Tensor]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRT_SVC_ENGINE_DIR", str(tmp_path / "engines"))
    monkeypatch.chdir(tmp_path)
    host.was_read.clear()


@pytest.fixture
def page() -> ModuleType:
    return importlib.reload(gptsovits_page)


def tts_of(voice: str, **keys: Any) -> host.TTS:
    version = host.VOICES[voice]
    return host.TTS({"custom": {"version": version, "vits_weights_path": voice}, **keys})


def tts_from_file(**whole: Any) -> host.TTS:
    Path("tts_infer.yaml").write_text(yaml.safe_dump({"custom": {"version": "v4"}, **whole}))
    return host.TTS("tts_infer.yaml")


def sung(tts: host.TTS) -> Tensor:
    """As TTS.run sings, by version."""
    torch.manual_seed(1)
    codes, phones = torch.zeros(1, 1, 10, dtype=torch.long), torch.zeros(1, 4, dtype=torch.long)
    if tts.configs.use_vocoder:
        return tts.using_vocoder_synthesis(codes, phones, sample_steps=4)
    return tts.vits_model.decode(codes, phones, [torch.ones(1, host.SPEAKER, 5)], speed=1.0).detach()[0, 0, :]


def sung_in_batches(tts: host.TTS) -> Tensor:
    torch.manual_seed(1)
    tokens = [6, 9]
    texts = [torch.zeros(n, dtype=torch.long) for n in tokens]
    made = tts.using_vocoder_synthesis_batched_infer(tokens, texts, texts, sample_steps=4)
    assert [len(audio) for audio in made] == [4 * n * host.HOP for n in tokens]
    return torch.cat(made)


def snr_db(made: Tensor, plain: Tensor) -> float:
    return difference(made.float().numpy(), plain.float().numpy()).snr_db


def only_place(handle: Handle) -> PlaceReport:
    (place,) = handle.report().places
    return place


def check(obj: Any, sing: Sing, label: str, backend: str = "torch") -> None:
    """Plain, beside the engine, by the engine and plain again."""
    plain = sing()
    with trt_svc.accelerate(obj, backend, "fp32") as handle:
        assert torch.equal(sing(), plain)
        made = sing()
        place = only_place(handle)
        assert (handle.host, place.label) == ("GPT-SoVITS", label)
        assert (place.state, place.by_engine) == ("engine", 1), place
        assert snr_db(made, plain) >= 90
    assert torch.equal(sing(), plain)


LABELS = {"a.v2": "vits_model.dec", "a.v3": "vocoder", "a.v4": "vocoder"}


@pytest.mark.parametrize("voice", LABELS)
def test_versions(voice: str) -> None:
    tts = tts_of(voice)
    check(tts, lambda: sung(tts), LABELS[voice], "onnxruntime" if voice == "a.v4" else "torch")


@pytest.mark.parametrize("voice", ["a.v3", "a.v4"])
def test_parallel_mode_is_one_long_call(voice: str) -> None:
    tts = tts_of(voice)
    shapes = []
    tts.vocoder.conv_pre.register_forward_pre_hook(lambda _, args: shapes.append(tuple(args[0].shape)))
    check(tts, lambda: sung_in_batches(tts), "vocoder")
    assert set(shapes) == {(1, host.BANDS, {"a.v3": 80, "a.v4": 96}[voice])}


@pytest.mark.parametrize("name", ["vocoder", "vits_model"])
def test_parts_alone(name: str) -> None:
    tts = tts_of("a.v4" if name == "vocoder" else "a.v2")
    check(getattr(tts, name), lambda: sung(tts), {"vocoder": "Generator", "vits_model": "dec"}[name])


# What the host loads.


@pytest.mark.parametrize("version", ["v3", "v4"])
def test_another_voice_keeps_the_vocoder(version: str) -> None:
    """The host looks at the name of the class; a vocoder it does not recognise would be read from disk again."""
    tts = tts_of(f"a.{version}")
    with trt_svc.accelerate(tts, "torch", "fp32") as handle:
        vocoder, plain = tts.vocoder, sung(tts)
        tts.init_vits_weights({"v3": "a.v3", "v4": "b.v4"}[version])
        tts.init_vocoder(version)
        assert tts.vocoder is vocoder and host.was_read == [f"vocoder.{version}"]
        assert snr_db(sung(tts), plain) >= 90
        assert only_place(handle).by_engine == 1


def test_another_version_brings_another_vocoder() -> None:
    tts = tts_of("a.v4")
    plain = {"a.v4": sung(tts)}
    for voice in ("a.v3", "a.v2"):
        tts.init_vits_weights(voice)
        plain[voice] = sung(tts)
    tts.init_vits_weights("a.v4")
    with trt_svc.accelerate(tts, "torch", "fp32") as handle:
        for voice in ("a.v3", "a.v4", "a.v2"):
            tts.init_vits_weights(voice)
            fresh = [swap for swap in handle.swaps if swap.label == LABELS[voice]]
            assert [swap.heard for swap in fresh] == [None]
            assert torch.equal(sung(tts), plain[voice])
            assert snr_db(sung(tts), plain[voice]) >= 90
            assert fresh[0].by_engine == 1
    for voice, expected in plain.items():
        tts.init_vits_weights(voice)
        assert torch.equal(sung(tts), expected)
    assert not {"init_vocoder", "init_vits_weights"} & set(vars(tts))


def test_another_vocoder_without_another_voice() -> None:
    tts = tts_of("a.v4")
    mel = torch.randn(1, host.BANDS, 12)
    with torch.inference_mode(), trt_svc.accelerate(tts, "torch", "fp32") as handle:
        tts.init_vocoder("v3")
        plain, made = tts.vocoder(mel), tts.vocoder(mel)
        assert (type(tts.vocoder).__name__, only_place(handle).family) == ("BigVGAN", "bigvgan")
        assert snr_db(made, plain) >= 90 and only_place(handle).by_engine == 1


def test_another_voice_of_version_2_has_other_weights() -> None:
    tts = tts_of("b.v2")
    plain = sung(tts)
    tts.init_vits_weights("a.v2")
    with trt_svc.accelerate(tts, "torch", "fp32") as handle:
        sung(tts)
        tts.init_vits_weights("b.v2")
        assert torch.equal(sung(tts), plain) and snr_db(sung(tts), plain) >= 90
        assert only_place(handle).by_engine == 1


def test_precision_and_device() -> None:
    tts = tts_of("a.v4")
    plain = sung(tts)
    with trt_svc.accelerate(tts, "torch", "fp32") as handle:
        sung(tts)
        tts.enable_half_precision(True)  # the host refuses it on a CPU
        tts.set_device(torch.device("cpu"))
        made = sung(tts)
        assert made.dtype == torch.float32 and snr_db(made, plain) >= 90
        tts.vocoder = tts.vocoder.half()
        mel = torch.randn(1, host.BANDS, 20)
        with torch.inference_mode():
            assert [tts.vocoder(mel.half()).dtype for _ in range(2)] == [torch.float16] * 2
        tts.enable_half_precision(False)
        assert sung(tts).dtype == torch.float32
        assert only_place(handle).by_engine >= 2
    assert "forward" not in vars(tts.vocoder)


# inference_webui.py.


def test_page(page: ModuleType) -> None:
    def sing() -> Tensor:
        torch.manual_seed(1)
        return page.get_tts_wav(10)

    list(page.change_sovits_weights("a.v4"))
    plain = {"a.v4": sing()}
    for voice in ("a.v3", "a.v2"):
        list(page.change_sovits_weights(voice))
        plain[voice] = sing()
    own = page.init_hifigan, page.init_bigvgan, page.change_sovits_weights
    labels = {"a.v4": "hifigan_model", "a.v3": "bigvgan_model", "a.v2": "vq_model.dec"}
    with trt_svc.accelerate(page, "torch", "fp32") as handle:
        for voice, label in labels.items():
            list(page.change_sovits_weights(voice))
            assert torch.equal(sing(), plain[voice])  # reads the vocoder if the page has let go of it
            assert snr_db(sing(), plain[voice]) >= 90
            assert {swap.label: swap.by_engine for swap in handle.swaps}[label] == 1
            if voice != "a.v2":
                vocoder = getattr(page, label)
                assert vocoder and vocoder != None  # noqa: E711 - as the host asks
    assert (page.init_hifigan, page.init_bigvgan, page.change_sovits_weights) == own
    assert torch.equal(sing(), plain["a.v2"])


def test_page_without_vocoders(page: ModuleType) -> None:
    with trt_svc.accelerate(page, "torch", "fp32") as handle:
        reasons = {place.label: place.reason for place in handle.report().places}
        assert reasons == {
            "hifigan_model": "there is none; version 4 has one",
            "bigvgan_model": "there is none; version 3 has one",
            "vq_model.dec": "no voice is loaded yet",
        }
        list(page.change_sovits_weights("a.v2"))
        assert only_place(handle).state == "not heard yet"


def test_speakers_of_the_api(page: ModuleType) -> None:
    sovits = type("Sovits", (), {"vq_model": host.SynthesizerTrn().eval()})()
    page.speaker_list = {"default": type("Speaker", (), {"sovits": sovits})()}
    try:
        with trt_svc.accelerate(page, "torch", "fp32") as handle:
            assert only_place(handle).label == "speaker_list['default'].sovits.vq_model.dec"
            assert only_place(handle).state == "not heard yet"
    finally:
        del page.speaker_list


# A host that changed.


def test_another_name_for_the_vocoder(caplog: pytest.LogCaptureFixture) -> None:
    tts = tts_of("a.v4")
    plain = sung(tts)
    tts.synth = tts.vocoder
    del tts.vocoder
    with trt_svc.accelerate(tts, "torch", "fp32") as handle:
        assert not handle.report().accelerated
        assert "has no vocoder here; it may be another version of the host" in str(handle.report())
        assert sum("has no vocoder here" in line for line in caplog.messages) == 1
        tts.vocoder = tts.synth
        assert torch.equal(sung(tts), plain)


@pytest.mark.parametrize("change", ["a tuple", "another layer"])
def test_another_vocoder_is_left_to_the_host(
    change: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tts, own = tts_of("a.v4"), host.Generator.forward
    if change == "a tuple":
        monkeypatch.setattr(host.Generator, "forward", lambda self, x, g=None: (own(self, x, g),))
    else:
        tts.vocoder.conv_extra = nn.Conv1d(1, 1, 1)
    mel = torch.randn(1, host.BANDS, 12)
    with torch.inference_mode(), trt_svc.accelerate(tts, "torch", "fp32") as handle:
        assert torch.equal(tts.vocoder(mel)[0], tts.vocoder(mel)[0])
        place = only_place(handle)
        assert (place.state, place.by_engine) == ("left to the host", 0)
        assert {"a tuple": "gives a tuple", "another layer": "conv_extra"}[change] in place.reason
        (line,) = caplog.messages
        assert place.reason in line


def test_further_arguments_go_to_the_hosts_own_forward(monkeypatch: pytest.MonkeyPatch) -> None:
    tts, own, given = tts_of("a.v4"), host.Generator.forward, []

    def forward(self: nn.Module, x: Tensor, *, lengths: int) -> Tensor:
        given.append(lengths)
        return own(self, x)

    monkeypatch.setattr(host.Generator, "forward", forward)
    mel = torch.randn(1, host.BANDS, 12)
    with torch.inference_mode(), trt_svc.accelerate(tts, "torch", "fp32") as handle:
        plain, made = tts.vocoder(mel, lengths=12), tts.vocoder(mel, lengths=12)
        assert snr_db(made, plain) >= 90 and only_place(handle).by_engine == 1
        assert set(given) == {12}
        with pytest.raises(TypeError, match="lengths"):
            tts.vocoder(mel)


def test_other_projects_are_not_claimed() -> None:
    made = type("Generator", (nn.Module,), {"__module__": "infer.module.models"})()
    assert not isinstance(host_of(made), GPTSoVITS)
    assert not isinstance(host_of(type("TTS", (), {"__module__": "other"})()), GPTSoVITS)
    assert not isinstance(host_of(sys), GPTSoVITS)


def test_both_names_of_its_folder() -> None:
    for package in ("", "GPT_SoVITS."):
        for module, name in (("TTS_infer_pack.TTS", "TTS"), ("module.models", "Generator")):
            obj = type(name, (), {"__module__": package + module})()
            assert isinstance(host_of(obj), GPTSoVITS)
    assert isinstance(host_of(type("MyTTS", (host.TTS,), {}).__new__(host.TTS)), GPTSoVITS)


# Its settings.


def test_settings_file() -> None:
    keys = {"use_tensorrt": False, "tensorrt_precision": "fp32"}
    tts = tts_from_file(**keys)
    plain = sung(tts)
    with trt_svc.accelerate(tts, "torch", "fp32") as handle:
        assert "use_tensorrt is false in GPT-SoVITS's settings" in str(handle.report())
        assert not handle.swaps and torch.equal(sung(tts), plain)


def test_keys_of_the_whole_file_stay_in_it() -> None:
    keys = {"use_tensorrt": False, "tensorrt_precision": "fp32"}
    tts = tts_from_file(**keys)
    str(tts.configs)
    tts.init_vits_weights("b.v4")
    assert stated(tts.configs) == keys
    assert keys.items() <= yaml.safe_load(Path("tts_infer.yaml").read_text()).items()


def test_keys_of_the_section_in_use_are_read_once(caplog: pytest.LogCaptureFixture) -> None:
    Path("tts_infer.yaml").write_text(
        yaml.safe_dump({"use_tensorrt": True, "custom": {"version": "v4", "use_tensorrt": False}})
    )
    tts = host.TTS("tts_infer.yaml")
    str(tts.configs)
    assert stated(tts.configs) == {"use_tensorrt": False}
    assert "GPT-SoVITS drops use_tensorrt from `custom` whenever" in caplog.text
    assert "use_tensorrt" not in yaml.safe_load(Path("tts_infer.yaml").read_text())["custom"]
    assert stated(host.TTS("tts_infer.yaml").configs) == {"use_tensorrt": True}


def test_settings_of_a_dictionary(caplog: pytest.LogCaptureFixture) -> None:
    tts = tts_of("a.v4", use_tensorrt=True, tensorrt_precision="FP32", tensorrt_workspace_size="1GiB")
    caplog.set_level(logging.WARNING)
    assert GPTSoVITS().settings(tts) == {"backend": "auto", "precision": "fp32"}
    assert [line for line in caplog.messages if "use_tensorrt" in line] == [
        "use_tensorrt: TensorRT runs on NVIDIA's GPUs, and this model is not on one; the fastest other backend is taken"
    ]
    assert GPTSoVITS().settings(tts_of("a.v4")) == {}
    assert GPTSoVITS().settings(tts_of("a.v4", use_tensorrt=None)) == {}
    assert GPTSoVITS().settings(tts_of("a.v4", tensorrt_max_batch_size=2)) == {"max_batch": 2}


@pytest.mark.parametrize("usable", ["tensorrt", "tensorrt-rtx", "none"])
def test_use_tensorrt_on_a_gpu(usable: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    for kind in (TensorRT, TensorRTRtx):
        monkeypatch.setattr(kind, "why_not_here", lambda self, _: "" if self.name == usable else "not there.")
    keys = {"use_tensorrt": True, "tensorrt_workspace_size": "512MiB"}
    found = wishes(keys, on_gpu=True)
    if usable == "none":
        assert found == {"backend": "auto"}
        assert "tensorrt: not there; tensorrt-rtx: not there; the fastest other backend is taken" in caplog.text
    else:
        assert found == {"backend": usable, "workspace_bytes": 512 << 20}
        assert Settings().with_wishes(found).backend == usable


@pytest.mark.parametrize(
    ("key", "value", "bytes_or_batch"),
    [
        ("tensorrt_workspace_size", 4 << 30, 4 << 30),
        ("tensorrt_workspace_size", "1.5GiB", 3 << 29),
        ("tensorrt_workspace_size", "2 GB", 2_000_000_000),
        ("tensorrt_max_batch_size", "4", 4),
    ],
)
def test_sizes(key: str, value: Any, bytes_or_batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TensorRT, "why_not_here", lambda self, _: "")
    assert bytes_or_batch in wishes({"use_tensorrt": "True", key: value}, on_gpu=True).values()


WRONG = [
    ("use_tensorrt", "maybe", "neither true nor false"),
    ("use_tensorrt", 2, "neither true nor false"),
    ("tensorrt_precision", "fp61", "Use fp16, fp32, mixed or auto."),
    ("tensorrt_precision", "bf16", "audibly rough"),
    ("tensorrt_precision", 16, "none of that name"),
    ("tensorrt_workspace_size", 4, "A number alone is bytes; write 1GiB or 512MiB."),
    ("tensorrt_workspace_size", 4096, "too little"),
    ("tensorrt_workspace_size", "a lot", "not a number of bytes"),
    ("tensorrt_workspace_size", True, "not a number of bytes"),
    ("tensorrt_workspace_size", -1, "not a number of bytes"),
    ("tensorrt_workspace_size", [1], "not a number of bytes"),
    ("tensorrt_max_batch_size", 0, "no whole number from 1 to 64"),
    ("tensorrt_max_batch_size", 1.5, "no whole number"),
    ("tensorrt_max_batch_size", True, "no whole number"),
    ("tensorrt_max_batch_size", "many\nlines", "no whole number"),
]


@pytest.mark.parametrize(("key", "value", "said"), WRONG, ids=str)
def test_wrong_settings_leave_the_host_alone(key: str, value: Any, said: str, caplog: pytest.LogCaptureFixture) -> None:
    tts = tts_of("a.v4", **{key: value})
    plain = sung(tts)
    with trt_svc.accelerate(tts, "torch", "fp32") as handle:
        assert not handle.swaps and torch.equal(sung(tts), plain)
        assert said in str(handle.report())
    (line,) = caplog.messages
    assert line.startswith(f"GPT-SoVITS runs as before: {key} ")
    assert said in line and "\n" not in line


def test_a_config_of_another_kind_says_nothing() -> None:
    tts = tts_of("a.v4")
    tts.configs.default_configs = "something else"
    assert GPTSoVITS().settings(tts) == {}
    del tts.configs
    assert GPTSoVITS().settings(tts) == {}


@pytest.mark.parametrize("use", [True, False])
def test_settings_under_run(use: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """There only generators are met; the settings are those that the host has read."""
    monkeypatch.setattr(host.TTS_Config, "__init__", vars(host.TTS_Config)["__init__"])  # put back afterwards
    for name, kind in (("GPT_SoVITS.TTS_infer_pack.TTS", host.TTS_Config), ("module.models", host.Generator)):
        module = ModuleType(name)
        setattr(module, kind.__name__, kind)
        monkeypatch.setitem(sys.modules, name, module)
    plain = sung(tts_of("a.v4"))
    with Watch(Settings("torch", "fp32")) as watch:
        tts = tts_from_file(use_tensorrt=use)
        assert torch.equal(sung(tts), plain)
        assert snr_db(sung(tts), plain) >= 90
    assert [swap.by_engine for swap in watch.swaps] == ([1] if use else [])
    assert list(watch.refused.values()) == ([] if use else ["use_tensorrt is false in GPT-SoVITS's settings"])
