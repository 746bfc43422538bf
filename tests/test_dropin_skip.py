"""While a generator's inputs are looked for, the layers in front of mini-NSF's source do not work."""

from __future__ import annotations

import copy
import gc
import weakref

import pytest
import torch

from tests.hosts.generators import call, generator
from trt_svc.dropin.skip import before_stage_two
from trt_svc.dropin.tap import Tap
from trt_svc.errors import InputError


@torch.inference_mode()
def test_the_same_inputs_without_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    mini, given = generator("mini"), call("mini")
    names = ["mel", "source", "pre_noise"]
    own, worked = mini(**given), []
    watches = [conv.register_forward_hook(lambda *_: worked.append(1)) for conv in mini.resblocks[0].convs1]

    def tapped(tap: Tap) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        return tap.inputs(lambda: mini(**given))

    with monkeypatch.context() as awake:
        awake.setattr("trt_svc.dropin.tap.before_stage_two", lambda *_: [])
        tap = Tap(mini, names)
        with_work = tapped(tap)
        tap.remove()
    assert worked
    worked.clear()
    tap = Tap(mini, names)
    without = tapped(tap)
    assert not worked
    assert all(torch.equal(without[name], value) for name, value in with_work.items())
    with pytest.raises(InputError, match="copying"):
        copy.deepcopy(mini)
    torch.manual_seed(1)
    beside_the_tap = mini(**given)
    assert worked  # only the tap's own runs skip
    for layer in (*watches, tap):
        layer.remove()
    torch.manual_seed(1)
    assert torch.equal(mini(**given), beside_the_tap) and beside_the_tap.shape == own.shape
    assert not any("forward" in vars(layer) for layer in mini.modules())


def test_a_layer_is_freed_when_its_host_lets_go() -> None:
    mini = generator("mini")
    gone = weakref.ref(mini.ups[0])
    before_stage_two(mini, lambda: False)
    gc.disable()
    try:
        del mini
        assert gone() is None
    finally:
        gc.enable()
