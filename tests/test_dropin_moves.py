"""What hosts do to their generators besides calling them: move, halve, reload, copy, wrap and drop them."""

from __future__ import annotations

import copy
import gc
import inspect
import io
import pickle
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import trt_svc
from tests.hosts.generators import HiFiGANDouble, call, generator, normed, played, snr_db, voice
from trt_svc.dropin.handle import Handle
from trt_svc.dropin.host import Host, Place, hosts

SAME_DB = 90.0


@pytest.fixture(scope="module", autouse=True)
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRT_SVC_ENGINE_DIR", str(tmp_path_factory.mktemp("engines")))
        yield


def heard(module: Any, kind: str = "hifigan", backend: str = "torch", **options: Any) -> Handle:
    """Accelerated, and past the first call, which the host answers."""
    handle = trt_svc.accelerate(module, backend, **options)
    played(module, call(kind))
    assert handle.report().places[0].state == "engine", str(handle.report())
    return handle


def by_engine(handle: Handle) -> int:
    return handle.report().places[0].by_engine


def as_type(given: dict[str, Tensor], kind: torch.dtype) -> dict[str, Tensor]:
    """Hosts halve the mel and the speaker, not the pitch."""
    return {name: value if name == "f0" else value.to(kind) for name, value in given.items()}


# Types and devices.


@pytest.mark.parametrize(("kind", "least_db"), [(torch.float16, 35.0), (torch.bfloat16, 20.0), (torch.float64, 90.0)])
def test_switches_between_types(kind: torch.dtype, least_db: float) -> None:
    given = call("nsf")
    twin = generator("nsf")
    own = played(twin, given)
    own_there = played(twin.to(kind), as_type(given, kind))
    module = generator("nsf")
    handle = heard(module, "nsf")
    module.to(kind)
    for _ in range(3):
        made = played(module, as_type(given, kind))
        assert made.dtype == kind
        assert snr_db(made, own_there) > least_db
    count = by_engine(handle)
    assert count >= 2
    module.float()
    own_after = played(twin.float(), given)
    for _ in range(2):  # an engine from before the halving is kept: its weights are the better ones
        assert snr_db(played(module, given), own_after) > (60 if kind == torch.float16 else SAME_DB)
    assert by_engine(handle) > count
    assert snr_db(own_after, own) > 30


def test_half_and_back_needs_no_new_engine() -> None:
    module, given = generator("sovits"), call("sovits")
    handle = heard(module, "sovits")
    engine = handle.swaps[0].vocoder
    for switch in (module.half, module.float, module.double, module.float, module.eval):
        switch()
        first = next(module.parameters())
        played(module, as_type(given, first.dtype))
    assert handle.swaps[0].vocoder is engine
    assert by_engine(handle) == 5


def test_a_host_in_half_precision_from_the_start() -> None:
    module, given = generator("nsf").half(), as_type(call("nsf"), torch.float16)
    own = played(module, given)
    handle = trt_svc.accelerate(module, "onnxruntime")
    assert torch.equal(played(module, given), own)
    made = played(module, given)
    assert made.dtype == torch.float16 and snr_db(made, own) > 35
    assert by_engine(handle) == 1


def test_a_move_to_where_no_engine_can_go_and_back() -> None:
    module, given = generator("nsf"), call("nsf")
    own, weights = played(module, given), copy.deepcopy(module.state_dict())
    handle = heard(module, "nsf")
    module.to("meta")
    made = played(module, {name: value.to("meta") for name, value in given.items()})
    assert (made.device.type, made.shape) == ("meta", own.shape)
    assert "it is on the device meta" in (handle.report().places[0].by_host or {})
    module.to_empty(device="cpu").load_state_dict(weights)
    for _ in range(2):
        assert snr_db(played(module, given), own) > SAME_DB
    assert by_engine(handle) >= 1


def test_an_object_that_is_there_already() -> None:
    module = generator("nsf").to("meta")
    report = trt_svc.accelerate(module, "torch").report()
    assert not report.accelerated and str(report).count("\n") == 1
    assert "forward" not in vars(module)


def test_a_move_to_another_device_opens_the_engine_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no second device here: the module says that it is on one, and what opens engines is watched."""
    module, given = generator("nsf"), call("nsf")
    handle = heard(module, "nsf")
    asked: list[str] = []
    really = trt_svc.dropin.swap.load_vocoder

    def load(*args: Any, device: str, **options: Any) -> Any:
        asked.append(device)
        return really(*args, device="cpu", **options)

    monkeypatch.setattr("trt_svc.dropin.swap.load_vocoder", load)
    monkeypatch.setattr("trt_svc.dropin.swap.device_of", lambda module: torch.device("cpu", 0))
    played(module, given)
    assert asked == []  # nothing has moved yet
    module.load_state_dict(module.state_dict())
    for _ in range(2):
        played(module, given)
    assert asked == ["cpu:0"]
    assert by_engine(handle) == 2


def test_to_and_cpu_and_eval_give_the_object_itself() -> None:
    module = generator("nsf")
    heard(module, "nsf")
    assert module.cpu() is module.to("cpu") is module.float() is module.eval() is module


# Another voice in the same object.


def in_place(module: Any, weights: dict[str, Tensor]) -> None:
    module.load_state_dict(weights)


def assigned(module: Any, weights: dict[str, Tensor]) -> None:
    module.load_state_dict({name: value.clone() for name, value in weights.items()}, assign=True)


def in_inference_mode(module: Any, weights: dict[str, Tensor]) -> None:
    with torch.inference_mode():
        module.load_state_dict(weights)


def by_data(module: Any, weights: dict[str, Tensor]) -> None:
    for name, parameter in module.named_parameters():
        parameter.data = weights[name].clone()


def one_layer(module: Any, weights: dict[str, Tensor]) -> None:
    in_place(module, weights)
    last = nn.Conv1d(4, 1, 7, 1, 3)
    last.load_state_dict({"weight": weights["conv_post.weight"], "bias": weights["conv_post.bias"]})
    module.conv_post = last


def first_layer(module: Any, weights: dict[str, Tensor]) -> None:
    in_place(module, weights)
    module.conv_pre = copy.deepcopy(generator("nsf", seed=1).conv_pre)


@pytest.mark.parametrize("backend", ["onnxruntime", "torch"])
@pytest.mark.parametrize("load", [in_place, assigned, in_inference_mode, by_data, one_layer, first_layer])
def test_another_voice_is_heard_at_once(load: Any, backend: str) -> None:
    module, given = generator("nsf"), call("nsf")
    old, new = played(module, given), played(generator("nsf", seed=1), given)
    handle = heard(module, "nsf", backend)
    played(module, given)
    load(module, voice("nsf", seed=1))
    for _ in range(3):
        made = played(module, given)
        assert snr_db(made, new) > SAME_DB
        assert snr_db(made, old) < 20
    assert by_engine(handle) == 3
    in_place(module, voice("nsf"))
    assert snr_db(played(module, given), old) > SAME_DB


def test_one_scaled_layer_is_heard_at_once() -> None:
    module, given = generator(), call()
    heard(module)
    with torch.no_grad():
        module.conv_post.weight.mul_(0.5)
    twin = generator()
    twin.conv_post.weight.mul_(0.5)
    for _ in range(2):
        assert snr_db(played(module, given), played(twin, given)) > SAME_DB


@pytest.mark.parametrize("norm", ["hooks", "parametrizations"])
def test_weight_norm_is_removed_afterwards(norm: str) -> None:
    module, given = generator("nsf", norm=norm), call("nsf")
    own = played(module, given)
    handle = heard(module, "nsf", "onnxruntime")
    assert snr_db(played(module, given), own) > SAME_DB
    module.remove_weight_norm()
    assert not any("original" in name or name.endswith("_g") for name in module.state_dict())
    for _ in range(3):
        assert snr_db(played(module, given), own) > SAME_DB
    assert by_engine(handle) >= 3
    handle.restore()
    assert snr_db(played(module, given), own) > SAME_DB


def test_a_voice_of_another_size_is_left_to_the_host() -> None:
    module, given = generator("nsf"), call("nsf")
    handle = heard(module, "nsf")
    module.conv_post = nn.Conv1d(4, 1, 9, 1, 4)
    for _ in range(2):
        made = played(module, given)
    handle.restore()
    assert torch.equal(made, played(module, given))
    place = handle.report().places[0]
    assert place.state == "left to the host" and "conv_post" in place.reason


# Copies, pickles, the end.


@pytest.mark.parametrize("take", [copy.deepcopy, pickle.dumps, lambda module: torch.save(module, io.BytesIO())])
@pytest.mark.parametrize("norm", ["none", "hooks"])
def test_copies_are_refused_in_plain_words(take: Any, norm: str) -> None:
    module, given = generator("sovits", norm=norm), call("sovits")
    own = played(module, given)
    handle = heard(module, "sovits")
    for whole in (module, nn.ModuleDict({"dec": module})):
        with pytest.raises(trt_svc.TrtSvcError, match=r"belongs to an engine of this process\. restore\(\)"):
            take(whole)
    assert snr_db(played(module, given), own) > SAME_DB
    handle.restore()
    assert take(module) is not module
    assert torch.equal(played(copy.deepcopy(module), given), own)


def test_weights_are_saved_and_loaded_as_ever() -> None:
    module, before = generator("sovits"), generator("sovits").state_dict()
    heard(module, "sovits")
    assert list(module.state_dict()) == list(before)
    stored = io.BytesIO()
    torch.save(module.state_dict(), stored)
    stored.seek(0)
    loaded = torch.load(stored, weights_only=True)
    assert all(torch.equal(loaded[name], value) for name, value in before.items())
    assert torch.equal(copy.deepcopy(module.state_dict())["conv_pre.weight"], before["conv_pre.weight"])


@pytest.mark.parametrize("norm", ["none", "hooks", "parametrizations"])
@pytest.mark.parametrize("backend", ["onnxruntime", "torch"])
def test_what_the_host_drops_is_gone_at_once(backend: str, norm: str) -> None:
    module, given = generator("nsf", norm=norm), call("nsf")
    handle = heard(module, "nsf", backend)
    played(module, given)
    gone = weakref.ref(module)
    gc.collect()
    gc.disable()
    try:
        del module
        assert gone() is None
    finally:
        gc.enable()
    assert handle.report().places[0].state == "closed"
    handle.restore()


def test_an_engine_is_gone_with_the_last_that_knew_it() -> None:
    module = generator("nsf")
    handle = heard(module, "nsf")
    engine = weakref.ref(handle.swaps[0].vocoder)
    gc.collect()
    gc.disable()
    try:
        handle.restore()
        assert engine() is None
        handle = heard(module, "nsf")
        engine = weakref.ref(handle.swaps[0].vocoder)
        del module, handle
        assert engine() is None
    finally:
        gc.enable()


# What a module is.


def test_it_stays_what_it_was() -> None:
    module = generator("sovits", norm="parametrizations")
    module.note = "the host's"
    kind, names = type(module), set(dir(module))
    parameters, buffers = dict(module.named_parameters()), dict(module.named_buffers())
    children, text = list(module.named_children()), repr(module)
    signature = inspect.signature(module.forward)
    handle = heard(module, "sovits")
    assert type(module) is kind and module.__class__.__name__ == "SovitsDouble" and isinstance(module, HiFiGANDouble)
    assert set(dir(module)) == names and module.note == "the host's" and module.h.gin_channels == 6
    assert all(value is dict(module.named_parameters())[name] for name, value in parameters.items())
    assert dict(module.named_buffers()).keys() == buffers.keys()
    assert list(module.named_children()) == children and repr(module) == text
    assert next(module.parameters()).device.type == "cpu" and not module.training
    assert inspect.signature(module.forward) == signature
    assert module and module is not None and module == module
    handle.restore()
    assert set(dir(module)) == names


def test_restored_it_is_bit_identical() -> None:
    module, given = generator("nsf", norm="parametrizations"), call("nsf")
    own, inside = played(module, given), set(vars(module))
    hooks = [len(layer._forward_pre_hooks) for layer in module.modules()]
    handle = heard(module, "nsf", "onnxruntime")
    played(module, given)
    for _ in range(2):
        handle.restore()
        assert torch.equal(played(module, given), own)
        assert set(vars(module)) == inside
        assert [len(layer._forward_pre_hooks) for layer in module.modules()] == hooks
    assert not handle.report().accelerated and "closed" in str(handle.report())


def test_as_a_context_manager_also_where_something_is_raised() -> None:
    module, given = generator("nsf"), call("nsf")
    own = played(module, given)
    with trt_svc.accelerate(module, "torch") as handle:
        played(module, given)
        played(module, given)
        assert by_engine(handle) == 1
    assert torch.equal(played(module, given), own)
    with pytest.raises(KeyError), trt_svc.accelerate(module, "torch"):
        raise KeyError("the host's")
    assert "forward" not in vars(module)


# Twice.


def test_twice_changes_nothing() -> None:
    module, given = generator("nsf"), call("nsf")
    own = played(module, given)
    first = heard(module, "nsf")
    engine = vars(module)["forward"]
    second = trt_svc.accelerate(module, "torch")
    assert vars(module)["forward"] is engine
    assert second.report().places == first.report().places
    second.restore()
    assert torch.equal(played(module, given), own)
    first.restore()
    assert torch.equal(played(module, given), own) and "forward" not in vars(module)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_again_with_other_settings(order: tuple[int, int]) -> None:
    module, given = generator("nsf"), call("nsf")
    own = played(module, given)
    hooks = len(module.conv_pre._forward_pre_hooks)
    handles = [heard(module, "nsf"), heard(module, "nsf", "onnxruntime")]
    assert [handle.report().places[0].state for handle in handles] == ["closed", "engine"]
    assert snr_db(played(module, given), own) > SAME_DB
    assert [by_engine(handle) for handle in handles] == [0, 1]
    for at in order:
        handles[at].restore()
        assert snr_db(played(module, given), own) > SAME_DB
    assert torch.equal(played(module, given), own) and "forward" not in vars(module)
    assert len(module.conv_pre._forward_pre_hooks) == hooks


def test_nested() -> None:
    module, given = generator("nsf"), call("nsf")
    own = played(module, given)
    for inner in ("torch", "onnxruntime"):
        with trt_svc.accelerate(module, "torch"):
            played(module, given)
            with trt_svc.accelerate(module, inner):
                for _ in range(2):
                    assert snr_db(played(module, given), own) > SAME_DB
            assert snr_db(played(module, given), own) > SAME_DB
        assert torch.equal(played(module, given), own) and "forward" not in vars(module)


def test_two_objects_at_once() -> None:
    one, two = generator("nsf"), generator("nsf", seed=1)
    given = call("nsf")
    own = [played(module, given) for module in (one, two)]
    handles = [heard(one, "nsf"), heard(two, "nsf")]
    for _ in range(2):
        for module, sound in zip((one, two), own, strict=True):
            assert snr_db(played(module, given), sound) > SAME_DB
    handles[0].restore()
    assert torch.equal(played(one, given), own[0])
    assert snr_db(played(two, given), own[1]) > SAME_DB
    assert [by_engine(handle) for handle in handles] == [2, 3]


# Other people's forwards.


def test_a_forward_that_somebody_replaced_before() -> None:
    module, given = generator("nsf"), call("nsf")
    plain = played(module, given)
    asked: list[str] = []

    def louder(x: Tensor, f0: Tensor) -> Tensor:
        asked.append("louder")
        return type(module).forward(module, 1.5 * x, f0)

    module.forward = louder
    own = played(module, given)
    assert snr_db(own, plain) < 40
    handle = heard(module, "nsf")
    assert snr_db(played(module, given), own) > SAME_DB
    assert by_engine(handle) == 1 and len(asked) > 2
    assert list(inspect.signature(module.forward).parameters) == ["x", "f0"]
    handle.restore()
    assert module.forward is louder and torch.equal(played(module, given), own)


def test_a_forward_that_somebody_wraps_afterwards() -> None:
    module, given = generator("nsf"), call("nsf")
    own = played(module, given)
    handle = heard(module, "nsf")
    inner = module.forward
    wrapper = module.forward = lambda *args, **kwargs: -inner(*args, **kwargs)
    assert snr_db(-played(module, given), own) > SAME_DB
    assert by_engine(handle) == 1
    handle.restore()
    assert module.forward is wrapper
    assert torch.equal(-played(module, given), own)
    assert by_engine(handle) == 1


def test_a_forward_that_goes_on_behind_the_network_is_left_to_the_host() -> None:
    module, given = generator("nsf"), call("nsf")
    inner = module.forward
    module.forward = lambda *args, **kwargs: (inner(*args, **kwargs), 44100)
    own = played(module, given)[0]
    handle = trt_svc.accelerate(module, "torch")
    for _ in range(2):
        assert torch.equal(played(module, given)[0], own)
    assert "gives a tuple" in str(handle.report())


def test_weight_norm_around_an_accelerated_layer() -> None:
    module, given = generator("nsf"), call("nsf")
    own = played(module, given)
    handle = heard(module, "nsf")
    normed(module.ups[0], "hooks")
    for _ in range(2):
        assert snr_db(played(module, given), own) > SAME_DB
    assert by_engine(handle) == 1


# Objects that hold generators, and load others.


class Singer:
    """A host's object, whose loader puts another generator in place."""

    def __init__(self) -> None:
        self.vocoder: Any = None
        self.load(0)

    def load(self, seed: int, *, fails: bool = False) -> str:
        """Puts a voice in."""
        if fails:
            raise FileNotFoundError(seed)
        self.vocoder = generator("nsf", seed=seed)
        return "loaded"


class SingerHost(Host):
    title = "Singer"
    loaders = ("load", "not_there")
    wishes: dict[str, Any] = {}

    def claims(self, obj: Any) -> bool:
        return isinstance(obj, Singer)

    def places(self, obj: Any) -> list[Place]:
        return [Place("vocoder", obj.vocoder, "there is none")]

    def settings(self, obj: Any) -> dict[str, Any]:
        return self.wishes


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    hosts.names()
    monkeypatch.setitem(hosts._parts, "singer", SingerHost)


@pytest.fixture
def singer(known: None) -> Singer:
    return Singer()


def test_what_the_host_loads_is_accelerated_too(singer: Singer) -> None:
    given = call("nsf")
    handle = trt_svc.accelerate(singer, "torch")
    assert handle.host == "Singer"
    first = singer.vocoder
    played(first, given)
    assert singer.load(1) == "loaded"
    assert first is not singer.vocoder and singer.load.__name__ == "load" and singer.load.__doc__ == "Puts a voice in."
    own = played(generator("nsf", seed=1), given)
    for _ in range(2):
        assert snr_db(played(singer.vocoder, given), own) > SAME_DB
    assert [(place.label, place.by_engine) for place in handle.report().places][-1] == ("vocoder", 1)
    with pytest.raises(FileNotFoundError):
        singer.load(2, fails=True)
    singer.vocoder = None
    assert "there is none" not in str(handle.report())
    handle.restore()
    assert "load" not in vars(singer)
    singer.load(0)
    assert "forward" not in vars(singer.vocoder)


def test_a_loader_is_followed_by_the_last_handle(singer: Singer) -> None:
    first = trt_svc.accelerate(singer, "torch")
    second = trt_svc.accelerate(singer, "onnxruntime")
    singer.load(1)
    assert vars(singer.vocoder)["forward"].settings.backend == "onnxruntime"
    first.restore()
    singer.load(0)
    assert vars(singer.vocoder)["forward"].settings.backend == "onnxruntime"
    second.restore()
    assert "load" not in vars(singer) and "forward" not in vars(singer.vocoder)


def test_what_did_not_fit_is_not_tried_for_every_slice(
    singer: Singer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tried = []
    monkeypatch.setattr("trt_svc.dropin.accelerate.swapped", lambda module, *_, **__: tried.append(module) or 1 / 0)
    handle = trt_svc.accelerate(singer, "torch")
    odd = singer.vocoder

    def load_the_same(seed: int) -> None:
        singer.vocoder = odd

    monkeypatch.setattr(vars(singer)["load"], "_loader", load_the_same)
    for _ in range(3):
        singer.load(0)
    assert tried == [odd]
    assert caplog.text.count("is left to the host") == 1
    assert "ZeroDivisionError" in str(handle.report())
    handle.restore()


@pytest.mark.usefixtures("known")
def test_a_host_that_follows_is_gone_at_once() -> None:
    singer = Singer()
    handle = trt_svc.accelerate(singer, "torch")
    played(singer.vocoder, call("nsf"))
    singer.load(1)
    gone = [weakref.ref(singer), weakref.ref(singer.vocoder)]
    gc.collect()
    gc.disable()
    try:
        del singer
        assert [ref() for ref in gone] == [None, None]
    finally:
        gc.enable()
    assert handle.report().places[0].state == "closed"
    handle.restore()


def test_generators_are_found_inside_unknown_objects() -> None:
    class Wrapper:
        def __init__(self) -> None:
            self.model = nn.ModuleDict({"gen": generator("nsf"), "other": nn.Linear(1, 1)})
            self.again = self.model

    wrapper = Wrapper()
    handle = trt_svc.accelerate(wrapper, "torch")
    assert [place.label for place in handle.report().places] == ["model.gen"]
    handle.restore()
    with pytest.raises(trt_svc.TrtSvcError, match="no vocoder was found"):
        trt_svc.accelerate(nn.Linear(1, 1))


def test_of_several_places_one_may_not_fit() -> None:
    fits, odd = generator("nsf"), generator("nsf")
    odd.conv_post.padding = (2,)
    handle = trt_svc.accelerate(nn.ModuleDict({"fits": fits, "odd": odd}), "torch")
    states = {place.label: place.state for place in handle.report().places}
    assert states == {"fits": "not heard yet", "odd": "left to the host"}
    assert handle.report().accelerated and "forward" not in vars(odd)
