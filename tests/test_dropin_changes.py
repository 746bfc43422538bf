"""A host that does something else than in the call that was heard: never yesterday's sound, never an error of ours."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import trt_svc
from tests.hosts.generators import HiFiGANDouble, call, generator, played, snr_db
from trt_svc.dropin.handle import Handle
from trt_svc.dropin.swap import MAX_CHANGES, MAX_WAYS, Swap

SAME_DB = 90.0


class Switched(HiFiGANDouble):
    """A forward with switches."""

    gain = 1.0

    def forward(self, x: Tensor, scale: float = 1.0, more: bool = False) -> Any:
        made = self.trunk(self.conv_pre(x)) * scale * self.gain
        return (made, x) if more else made


class InPieces(HiFiGANDouble):
    """A forward that hands longer input to its network in pieces."""

    piece_frames = 30

    def forward(self, x: Tensor) -> Tensor:
        parts = x.split(self.piece_frames, -1)
        return torch.cat([self.trunk(self.conv_pre(part)) for part in parts], -1)


class WritesIntoItsInput(HiFiGANDouble):
    def forward(self, x: Tensor) -> Tensor:
        x.mul_(0.5)
        return self.trunk(self.conv_pre(x))


@pytest.fixture(autouse=True)
def _engines(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TRT_SVC_ENGINE_DIR", str(tmp_path_factory.getbasetemp() / "dropin-changes"))
    yield


def heard(module: Any, **given: Any) -> tuple[Handle, Swap]:
    """Accelerated, and its first call behind it."""
    handle = trt_svc.accelerate(module, "torch")
    played(module, given or call())
    (swap,) = handle.swaps
    return handle, swap


def checked(module: Any, twin: Any, times: int = 3, **given: Any) -> None:
    """Some calls, each as the twin makes it that nobody has accelerated."""
    for _ in range(times):
        made, own = played(module, given), played(twin, given)
        if isinstance(own, tuple):
            assert isinstance(made, tuple)
            made, own = made[0], own[0]
        assert snr_db(made, own) > SAME_DB


def twins(kind: type[HiFiGANDouble]) -> tuple[Any, Any]:
    return generator(made=kind), generator(made=kind)


def test_arguments_that_switch_something() -> None:
    module, twin = twins(Switched)
    _, swap = heard(module)
    checked(module, twin, **call())
    assert swap.by_engine == 3
    checked(module, twin, **call(), scale=0.5)  # heard, and it does not sound like the engine
    checked(module, twin, **call(), more=True)
    assert swap.by_engine == 3 and not swap.aside
    checked(module, twin, **call())
    assert swap.by_engine == 6


def test_arguments_that_are_never_the_same_end_at_the_host() -> None:
    module, twin = twins(Switched)
    _, swap = heard(module)
    for step in range(MAX_WAYS + 4):
        checked(module, twin, 1, **call(), scale=1.0 + step / 10)
    assert swap.by_host["it is called in ever new ways"] >= 4


def test_longer_input_that_the_host_takes_in_pieces() -> None:
    module, twin = twins(InPieces)
    _, swap = heard(module, **call(frames=20))
    checked(module, twin, **call(frames=25))
    assert swap.by_engine == 3
    checked(module, twin, **call(frames=70))
    assert swap.by_engine == 3
    assert any("in pieces" in reason for reason in swap.by_host)


@pytest.mark.parametrize("change", ["gain", "hook", "forward"])
def test_layers_and_attributes_that_change_are_heard_again(change: str) -> None:
    module, twin = twins(Switched)
    _, swap = heard(module)
    checked(module, twin, **call())
    for one in (module, twin):
        if change == "gain":
            one.gain = 0.25
        elif change == "hook":
            one.conv_post.register_forward_hook(lambda layer, given, made: made * 0.25)
        else:
            one.conv_post.forward = lambda x, own=one.conv_post.forward: own(x) * 0.25
    checked(module, twin, **call())
    assert "from the host's own" in swap.aside


def test_the_mode_of_training_is_no_change() -> None:
    module, twin = twins(Switched)
    _, swap = heard(module)
    for switch in (module.train, module.eval):
        switch()
        checked(module, twin, **call())
    assert swap.by_engine == 6


def test_a_forward_that_writes_into_its_input() -> None:
    module, twin = twins(WritesIntoItsInput)
    trt_svc.accelerate(module, "torch")
    for _ in range(3):
        mine, theirs = call(), call()
        made, own = played(module, mine), played(twin, theirs)
        assert snr_db(made, own) > SAME_DB
        assert torch.equal(mine["x"], theirs["x"])


def test_an_interrupted_build_is_made_up_for(monkeypatch: pytest.MonkeyPatch) -> None:
    module, twin = generator(), generator(seed=1)
    handle, swap = heard(module)
    module.load_state_dict(twin.state_dict())

    def interrupted(*_: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Swap, "_opened", interrupted)
        with pytest.raises(KeyboardInterrupt):
            played(module, call())
    checked(module, twin, **call())
    assert swap.by_engine == 2
    assert trt_svc.accelerate(module, "torch").swaps == handle.swaps


def test_training_does_not_build_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    module = generator()
    _, swap = heard(module)
    opened, own_opened = [], Swap._opened
    monkeypatch.setattr(Swap, "_opened", lambda self, module: opened.append(1) or own_opened(self, module))
    for seed in range(1, MAX_CHANGES + 4):
        twin = generator(seed=seed)
        module.load_state_dict(twin.state_dict())
        checked(module, twin, 1, **call())  # heard by both, but never by the engine alone
    assert len(opened) < MAX_CHANGES
    assert "as in training" in swap.aside


def test_threads_do_not_wait_for_a_build(monkeypatch: pytest.MonkeyPatch) -> None:
    module, twin = generator(), generator(seed=1)
    _, swap = heard(module)
    module.load_state_dict(twin.state_dict())
    begun, go_on, own_opened = threading.Event(), threading.Event(), Swap._opened

    def slow(self: Swap, module: nn.Module) -> Any:
        begun.set()
        assert go_on.wait(60)
        return own_opened(self, module)

    monkeypatch.setattr(Swap, "_opened", slow)
    builder = threading.Thread(target=played, args=(module, call()))
    builder.start()
    assert begun.wait(60)
    with torch.no_grad():
        assert snr_db(module(**call()), twin(**call())) > SAME_DB  # while the other thread builds
    assert swap.by_host["its engine is being made"] == 1
    go_on.set()
    builder.join()
    checked(module, twin, **call())


@pytest.mark.parametrize("trouble", ["meta", "extra"])
def test_a_module_left_alone_may_become_unreadable(trouble: str) -> None:
    module = generator()
    handle = trt_svc.accelerate(module, "onnxruntime", min_snr_db=250.0)
    played(module, call())
    assert handle.swaps[0].aside
    if trouble == "meta":
        module.to("meta")
        assert module(**{name: value.to("meta") for name, value in call().items()}).device.type == "meta"
    else:
        module.conv_post.get_extra_state = lambda: {"scale": 1}
        module.conv_post.bias.data = module.conv_post.bias.data.clone()
        assert torch.isfinite(played(module, call())).all()


def test_the_engine_goes_with_the_module_though_the_handle_is_kept() -> None:
    module = generator()
    handle, swap = heard(module)
    engine = weakref.ref(swap.vocoder)
    gc.collect()
    del module
    assert swap.vocoder is None and engine() is None
    assert handle.report().places[0].state == "closed"


def test_objects_of_the_first_call_are_not_kept() -> None:
    class Odd(Switched):
        def forward(self, x: Tensor, context: Any = None) -> Tensor:
            return self.trunk(self.conv_pre(x))

    class Context:
        pass

    module, context = generator(made=Odd), Context()
    handle, _ = heard(module, **call(), context=context)
    gone = weakref.ref(context)
    del context
    assert gone() is None
    assert handle.race() == {}  # nothing to race with


def test_generators_in_lists_and_tables() -> None:
    class Holder:
        def __init__(self) -> None:
            self.voices = [generator(), {"爱丽丝": generator(seed=1)}]

    labels = [place.label for place in trt_svc.accelerate(Holder(), "torch").report().places]
    assert labels == ["voices[0]", "voices[1]['爱丽丝']"]
