"""Whatever does not fit, sounds wrong, fails or is slow is left to the host, which sounds as before."""

from __future__ import annotations

import itertools
import json
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import trt_svc
from tests.hosts.generators import (
    MELS,
    HiFiGANDouble,
    NsfDouble,
    SovitsDouble,
    call,
    config,
    generator,
    played,
    snr_db,
)
from trt_svc.backends.base import Runner, backends
from trt_svc.backends.ort import OnnxRuntime
from trt_svc.build_config import BuildConfig, Precision
from trt_svc.dropin.handle import Handle
from trt_svc.dropin.host import Host, Place, hosts
from trt_svc.dropin.settings import HALF_HOST_DB, Settings
from trt_svc.dropin.swap import MAX_FAILURES
from trt_svc.errors import ConfigError
from trt_svc.session import Vocoder
from trt_svc.types import Array

SAME_DB = 90.0


class Faulty(OnnxRuntime):
    """onnxruntime that lies when told to."""

    name = "faulty"
    lie: Callable[[Array], Array] | None = None

    def open(self, files: Mapping[str, bytes], device: str) -> Any:
        return FaultyRunner(super().open(files, device))


class FaultyRunner:
    def __init__(self, real: Runner) -> None:
        self.real = real

    def sibling(self) -> FaultyRunner:
        return self

    def run(self, inputs: Mapping[str, Array]) -> Array:
        made = self.real.run(inputs)
        return Faulty.lie(made) if Faulty.lie else made


@pytest.fixture(scope="module", autouse=True)
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    backends.names()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRT_SVC_ENGINE_DIR", str(tmp_path_factory.mktemp("engines")))
        yield


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> BuildConfig:
    monkeypatch.setitem(backends._parts, "faulty", Faulty)
    monkeypatch.setattr(Faulty, "lie", None)
    return BuildConfig("faulty", "cpu", Precision("fp32"), rewrites=())


def heard(module: Any, kind: str = "hifigan", backend: str = "torch", **options: Any) -> Handle:
    """Accelerated, and past the first call, which the host answers."""
    handle = trt_svc.accelerate(module, backend, **options)
    played(module, call(kind))
    assert handle.report().places[0].state == "engine", str(handle.report())
    return handle


def left(handle: Handle) -> str:
    """Why the only place is left to the host."""
    (place,) = handle.report().places
    assert place.state == "left to the host", str(handle.report())
    assert str(handle.report()).count("\n") == 1
    return place.reason


# Generators that are not what they seem.


class OtherSlope(NsfDouble):
    slope = 0.2


class Louder(NsfDouble):
    def end(self, x: Tensor) -> Tensor:
        return 0.5 * super().end(x)


class ExtraLayer(NsfDouble):
    def add_parts(self) -> None:
        super().add_parts()
        self.conv_extra = nn.Conv1d(1, 1, 3, 1, 1)

    def end(self, x: Tensor) -> Tensor:
        return self.conv_extra(super().end(x))


class Tuple(NsfDouble):
    def forward(self, x: Tensor, f0: Tensor) -> Any:
        return super().forward(x, f0), None


class Flat(NsfDouble):
    def forward(self, x: Tensor, f0: Tensor) -> Tensor:
        return super().forward(x, f0)[:, 0]


class InDouble(NsfDouble):
    def forward(self, x: Tensor, f0: Tensor) -> Tensor:
        return super().forward(x, f0).double()


class Reflecting(NsfDouble):
    def add_parts(self) -> None:
        super().add_parts()
        self.conv_pre.padding_mode = "reflect"
        self.conv_pre._reversed_padding_repeated_twice = [3, 3]


class LateNoise(NsfDouble):
    """Draws behind the network's inputs."""

    def end(self, x: Tensor) -> Tensor:
        made = super().end(x)
        return made + 0.01 * torch.randn_like(made)


class Padded(NsfDouble):
    def add_parts(self) -> None:
        super().add_parts()
        self.resblocks[1].convs2[0].padding = (4,)
        self.resblocks[1].convs2[0].dilation = (2,)


class Strided(NsfDouble):
    def add_parts(self) -> None:
        super().add_parts()
        self.ups[1] = nn.ConvTranspose1d(8, 4, 4, 2, 0)

    def joined(self, stage: int, x: Tensor, source: Tensor | None) -> Tensor:
        return super().joined(stage, x[..., 1:-1] if stage == 1 else x, source)


class Grouped(NsfDouble):
    def add_parts(self) -> None:
        super().add_parts()
        self.resblocks[0].convs1[0] = nn.Conv1d(8, 8, 3, 1, 1, groups=2)


CHANGED = [
    (OtherSlope, "dB from the host's own"),
    (Louder, "dB from the host's own"),
    (Reflecting, "dB from the host's own"),
    (LateNoise, "dB from the host's own"),
    (ExtraLayer, "conv_extra"),
    (Tuple, "gives a tuple, not one tensor"),
    (Flat, r"gives \(1, 192\), the engine \(1, 1, 192\)"),
    (InDouble, "gives torch.float64, the engine torch.float32"),
    (Padded, r"padding of resblocks.1.convs2.0 is \(4,\), not \(2,\)"),
    (Strided, r"padding of ups.1 is \(0,\), not \(1,\)"),
    (Grouped, "resblocks.0.convs1.0"),
]


@pytest.mark.parametrize(("kind", "reason"), CHANGED)
def test_a_changed_generator_is_left_to_its_host(
    kind: type[NsfDouble], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    module, given = kind(config()).eval().requires_grad_(False), call("nsf")
    own_weights = generator("nsf").state_dict()
    fitting = {k: v for k, v in own_weights.items() if module.state_dict()[k].shape == v.shape}
    module.load_state_dict(fitting, strict=False)

    def thrice() -> list[Tensor]:
        """Sounds, and the random numbers behind each."""
        made = [(played(module, given, seed), torch.rand(3)) for seed in (1, 2, 3)]
        return [part for sound, drawn in made for part in (sound[0] if isinstance(sound, tuple) else sound, drawn)]

    own = thrice()
    with caplog.at_level(logging.WARNING, "trt_svc"):
        handle = trt_svc.accelerate(module, "torch")
        assert all(torch.equal(made, before) for made, before in zip(thrice(), own, strict=True))
    assert len(caplog.records) == 1
    assert "\n" not in caplog.messages[0] and "left to the host" in caplog.messages[0]

    assert re.search(reason, left(handle)), left(handle)
    handle.restore()
    assert all(torch.equal(made, before) for made, before in zip(thrice(), own, strict=True))


class Renamed(nn.Module):
    """The next version of a host calls its first layer otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = HiFiGANDouble(config()).eval()
        self.first, self.inner.conv_pre = self.inner.conv_pre, None

    def forward(self, x: Tensor) -> Tensor:
        return self.inner.trunk(self.first(x))


class RenamedHost(Host):
    title = "Renamed"
    loaders = ("reload",)

    def claims(self, obj: Any) -> bool:
        return isinstance(obj, Renamed)

    def places(self, obj: Any) -> list[Place]:
        return [Place("Renamed", obj)]


def test_a_host_with_a_renamed_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    hosts.names()
    monkeypatch.setitem(hosts._parts, "renamed", RenamedHost)
    module, given = Renamed(), call()
    own = played(module, given)
    handle = trt_svc.accelerate(module, "torch")
    assert torch.equal(played(module, given), own)
    assert left(handle) == "the live Renamed: it has not the layers conv_pre, ups, resblocks, conv_post"
    assert not vars(module).keys() & {"forward", "reload"}


class NeverSpeaks(SovitsDouble):
    """Takes a speaker and does not ask it."""

    def forward(self, x: Tensor, f0: Tensor, g: Tensor | None = None) -> Tensor:
        return super().forward(x, f0)


class ManyWays(SovitsDouble):
    """Another signature, and calls that need none of the network."""

    def forward(self, x: Tensor, f0: Tensor, g: Tensor | None = None, short_cut: bool = False) -> Tensor:
        return F.interpolate(x[:, :1], scale_factor=8.0) if short_cut else super().forward(x, f0, g)


def test_a_forward_that_passes_by_its_layers_is_left_after_some_calls(caplog: pytest.LogCaptureFixture) -> None:
    module, given = generator("sovits", made=NeverSpeaks), call("sovits")
    own, then = played(module, given), torch.rand(2)
    handle = trt_svc.accelerate(module, "torch")
    for _ in range(MAX_FAILURES + 2):
        assert torch.equal(played(module, given), own)
        assert torch.equal(torch.rand(2), then)
    assert left(handle) == "this call: the host's forward did not come by its speaker"
    assert len([line for line in caplog.messages if "left to the host" in line]) == 1


def test_calls_that_need_no_network_stay_the_hosts() -> None:
    module, given = generator("sovits", made=ManyWays), call("sovits")
    short = {**given, "short_cut": torch.tensor(True)}
    own, own_short = played(module, given), played(module, short)
    handle = heard(module, "sovits")
    for _ in range(MAX_FAILURES + 2):
        assert torch.equal(played(module, short), own_short)
    assert snr_db(played(module, given), own) > SAME_DB
    assert handle.report().places[0].by_engine == 1


def test_reasons_do_not_pile_up() -> None:
    module = generator()
    handle = heard(module)
    for frames in range(1, 60):
        played(module, {"x": call(frames=frames)["x"][0]})  # without a batch axis
    by_host = handle.report().places[0].by_host
    assert by_host is not None and sum(by_host.values()) == 60 and len(by_host) < 30


# Engines that fail.


def raises(made: Array) -> Array:
    raise RuntimeError("the driver went away")


LIES: list[Callable[[Array], Array]] = [
    lambda made: made * np.nan,
    lambda made: made * 0,
    lambda made: made[:, :-1],
    lambda made: 40 * made,
    raises,
]


@pytest.mark.parametrize("lie", LIES)
def test_a_backend_that_fails_is_answered_for_by_the_host(
    lie: Any, faulty: BuildConfig, caplog: pytest.LogCaptureFixture
) -> None:
    module, given = generator("nsf"), call("nsf", 40)
    own, then = played(module, given), torch.rand(2)
    handle = heard(module, "nsf", build=faulty)
    assert snr_db(played(module, given), own) > SAME_DB
    Faulty.lie = staticmethod(lie)
    for _ in range(MAX_FAILURES - 1):
        assert torch.equal(played(module, given), own)
        assert torch.equal(torch.rand(2), then)
    Faulty.lie = None
    assert snr_db(played(module, given), own) > SAME_DB  # it has come back
    Faulty.lie = staticmethod(lie)
    assert handle.report().accelerated
    caplog.clear()
    for _ in range(MAX_FAILURES + 2):
        assert torch.equal(played(module, given), own)
        assert torch.equal(torch.rand(2), then)
    assert left(handle)
    assert len(caplog.records) == MAX_FAILURES and "left to the host" in caplog.messages[-1]
    Faulty.lie = None
    assert torch.equal(played(module, given), own)
    assert handle.report().places[0].by_engine == 2


@pytest.mark.parametrize("lie", [raises, lambda made: made * 0, lambda made: 0.5 * made, lambda made: np.roll(made, 3)])
def test_a_backend_that_fails_at_its_first_call(lie: Any, faulty: BuildConfig) -> None:
    module, given = generator("nsf"), call("nsf", 40)
    own, then = played(module, given), torch.rand(2)
    handle = trt_svc.accelerate(module, build=faulty)
    Faulty.lie = staticmethod(lie)
    for _ in range(2):
        assert torch.equal(played(module, given), own)
        assert torch.equal(torch.rand(2), then)
    assert left(handle)


def test_a_fault_in_our_own_code_is_no_trouble_of_the_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    module, given = generator("nsf"), call("nsf")
    own = played(module, given)
    handle = heard(module, "nsf")
    monkeypatch.setattr(Vocoder, "run_network", lambda self, inputs: inputs["nothing"])
    for _ in range(MAX_FAILURES):
        assert torch.equal(played(module, given), own)
    assert left(handle) == "KeyError: 'nothing'"


def test_accelerated_again_after_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    module, given = generator("nsf"), call("nsf")
    own = played(module, given)
    with monkeypatch.context() as patch:
        patch.setattr(Vocoder, "run_network", lambda self, inputs: 1 / 0)
        handle = trt_svc.accelerate(module, "torch")
        played(module, given)
        assert left(handle).startswith("ZeroDivisionError")
    handle = heard(module, "nsf")
    assert snr_db(played(module, given), own) > SAME_DB


def test_another_voice_gets_another_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    module, given = generator("hifigan"), call("hifigan")
    other = generator("hifigan", seed=1)
    handle = trt_svc.accelerate(module, "onnxruntime", min_snr_db=250.0)
    played(module, given)
    assert "250 dB" in left(handle)
    for _ in range(2):
        played(module, given)
    assert "250 dB" in left(handle)  # the same voice stays with the host
    (swap,) = handle.swaps
    monkeypatch.setattr(swap, "settings", replace(swap.settings, min_snr_db=None))
    with torch.no_grad():
        module.load_state_dict(other.state_dict())
    own = played(other, given)
    for _ in range(2):
        assert snr_db(played(module, given), own) > SAME_DB
    assert (handle.report().places[0].state, swap.by_engine) == ("engine", 1)


def test_an_engine_below_its_own_gate_is_not_put_in(caplog: pytest.LogCaptureFixture) -> None:
    module, given = generator("nsf"), call("nsf")
    own = played(module, given)
    strict = BuildConfig("onnxruntime", "cpu", Precision("fp32"), rewrites=(), gate_db=300.0)
    handle = trt_svc.accelerate(module, build=strict)
    assert "the gate asks for 300 dB" in left(handle) and "forward" not in vars(module)
    assert ["left to the host" in message for message in caplog.messages] == [False, True]  # it took time, and why
    assert torch.equal(played(module, given), own)


def test_an_engine_that_sounds_otherwise_than_asked() -> None:
    module, given = generator("nsf"), call("nsf")
    own = played(module, given)
    handle = trt_svc.accelerate(module, "onnxruntime", min_snr_db=250.0)
    for _ in range(2):
        assert torch.equal(played(module, given), own)
    assert left(handle).endswith("dB from the host's own, 250 dB are asked for")


# How fast.


@pytest.mark.parametrize(
    ("backend", "engine_s", "stays"), [("auto", 0.2, False), ("auto", 0.05, True), ("torch", 0.2, True)]
)
def test_only_auto_minds_that_the_host_is_faster(
    backend: str, engine_s: float, stays: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = itertools.cycle([0.1, engine_s])
    monkeypatch.setattr("trt_svc.dropin.trial._timed", lambda run, device: (run(), next(times)))
    module, given = generator(), call()
    own = played(module, given)
    handle = trt_svc.accelerate(module, backend)
    assert torch.equal(played(module, given), own)
    (place,) = handle.report().places
    assert (place.host_s, place.engine_s, place.speedup) == (0.1, engine_s, 0.1 / engine_s)
    assert handle.report().accelerated == stays
    if not stays:
        assert left(handle) == "the host's own is faster here (0.10 s against 0.20 s)"
    assert snr_db(played(module, given), own) > SAME_DB
    assert torch.equal(played(module, given), own) or stays


def test_a_race_on_the_first_call() -> None:
    module, given = generator("nsf"), call("nsf")
    handle = trt_svc.accelerate(module, "torch")
    assert handle.race() == {}
    played(module, given)
    torch.manual_seed(5)
    (found,) = handle.race(rounds=2).values()
    then = torch.rand(2)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(2), then)
    assert found.rounds == 2 and found.snr_db > SAME_DB and found.host_s > 0 and found.engine_s > 0
    handle.restore()
    assert handle.race() == {}


# Silence.


def test_silence_says_nothing_about_an_engine() -> None:
    module, given = generator(), call()
    for name, parameter in module.named_parameters():
        if name.endswith("bias"):
            parameter.zero_()
    own = played(module, given)
    handle = trt_svc.accelerate(module, "torch")
    for _ in range(2):
        assert not played(module, {"x": torch.zeros(1, MELS, 9)}).any()
        assert handle.report().places[0].state == "not heard yet"
    assert torch.equal(played(module, given), own)
    assert handle.report().places[0].state == "engine"
    assert snr_db(played(module, given), own) > SAME_DB
    assert not played(module, {"x": torch.zeros(1, MELS, 9)}).any()
    assert handle.report().places[0].by_engine == 2


def test_an_engine_that_sounds_where_the_host_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    module = generator()
    for parameter in module.conv_post.parameters():
        parameter.zero_()
    monkeypatch.setattr(Vocoder, "run_network", lambda self, inputs: torch.full((1, 24 * 8), 0.1))
    handle = trt_svc.accelerate(module, "torch")
    assert not played(module, call()).any()
    assert "dB from the host's own" in left(handle)


# What is asked for.


def test_precision_follows_the_device() -> None:
    usual = Settings()
    assert [usual.on(kind).precision.name for kind in ("cpu", "cuda")] == ["fp32", "fp16"]
    assert [Settings(precision="mixed").on(kind).precision.name for kind in ("cpu", "cuda")] == ["mixed", "mixed"]
    assert [usual.on(kind).device for kind in ("cpu", "cuda")] == ["cpu", "auto"]
    batch = Settings(max_batch=3, workspace_bytes=1 << 30).on("cuda")
    assert batch.batch is not None and (batch.batch.max, batch.workspace_bytes) == (3, 1 << 30)
    build = BuildConfig("onnxruntime")
    assert Settings(build=build).on("cpu") is build


def test_what_is_asked_of_the_first_sound() -> None:
    usual = Settings()
    floors = [usual.least_db(precision, False) for precision in ("fp32", "mixed", "fp16", "bf16")]
    assert floors == sorted(floors, reverse=True)
    assert usual.least_db("fp32", True) == HALF_HOST_DB
    assert Settings(min_snr_db=70.0).least_db("fp16", True) == 70.0


def test_wishes_of_the_host() -> None:
    wishes = {"backend": "onnxruntime", "precision": "fp32", "max_batch": 2, "off": ""}
    assert Settings().with_wishes(wishes) == Settings("onnxruntime", "fp32", max_batch=2)
    assert Settings("torch").with_wishes(wishes) == Settings("torch", "fp32", max_batch=2)
    assert Settings().with_wishes({}) == Settings()
    limit = {"backend": "tensorrt", "workspace_bytes": 1 << 30}
    assert Settings().with_wishes(limit) == Settings("tensorrt", workspace_bytes=1 << 30)
    assert Settings("onnxruntime").with_wishes(limit) == Settings("onnxruntime")  # which knows no such limit
    with pytest.raises(ConfigError, match="speed is unknown"):
        Settings().with_wishes({"speed": 9})


class WishingHost(RenamedHost):
    title = "Wishing"
    wishes: dict[str, Any] = {}

    def claims(self, obj: Any) -> bool:
        return isinstance(obj, Louder)

    def settings(self, obj: Any) -> dict[str, Any]:
        return self.wishes

    def facts(self, module: nn.Module) -> dict[str, Any]:
        return {"sampling_rate": 24000}


def test_a_host_that_wishes_none_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    hosts.names()
    monkeypatch.setitem(hosts._parts, "wishing", WishingHost)
    module = generator("nsf", made=Louder)
    monkeypatch.setattr(WishingHost, "wishes", {"off": "its config says so"})
    handle = trt_svc.accelerate(module)
    assert left(handle) == "its config says so" and "forward" not in vars(module)
    monkeypatch.setattr(WishingHost, "wishes", {"backend": "torch"})
    handle = trt_svc.accelerate(module)
    (place,) = handle.report().places
    assert (place.backend, place.precision, place.state) == ("torch", "fp32", "not heard yet")
    engine = handle.swaps[0].vocoder
    assert engine is not None and engine.spec.sample_rate == 24000


@pytest.mark.parametrize("words", [{"backend": "none of that name"}, {"precision": "fp17"}, {"precision": "bf16"}])
def test_wrong_words_are_the_callers(words: dict[str, str]) -> None:
    module = generator("nsf")
    with pytest.raises(trt_svc.TrtSvcError):
        trt_svc.accelerate(module, **words)
    assert "forward" not in vars(module)


def test_mixed_precision() -> None:
    module, given = generator("speaker"), call("speaker")
    own = played(module, given)
    assert "the torch backend runs in fp32" in left(trt_svc.accelerate(module, "torch", "mixed"))
    pytest.importorskip("openvino")
    handle = trt_svc.accelerate(module, "openvino", "mixed")
    assert torch.equal(played(module, given), own)
    (place,) = handle.report().places
    assert (place.state, place.precision) == ("engine", "mixed")
    assert snr_db(played(module, given), own) > 35


def test_reports_are_plain() -> None:
    module = generator("nsf")
    handle = trt_svc.accelerate(nn.ModuleDict({"a": module, "b": nn.Linear(1, 1)}), "torch")
    assert "not heard yet: nsf_hifigan on torch fp32, cpu" in str(handle.report())
    played(module, call("nsf"))
    told = json.loads(json.dumps(handle.report().as_dict()))
    assert told["places"][0]["label"] == "a" and told["places"][0]["rounds"] >= 1
    assert "dB from the host's own" in str(handle.report())
