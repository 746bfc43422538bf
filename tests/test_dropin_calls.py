"""Accelerated generators answer the calls of their hosts as before: same sound, same shapes, same random numbers."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import trt_svc
from tests.hosts.generators import KINDS, NsfDouble, call, config, generator, normed, played, snr_db, voice
from trt_svc.dropin.handle import Handle

SAME_DB = 90.0
THREADS = 8


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


def answers(handle: Handle) -> tuple[int, dict[str, int] | None]:
    """By the engine; by the host, why."""
    place = handle.report().places[0]
    rest = {reason: count for reason, count in (place.by_host or {}).items() if "beside the engine" not in reason}
    return place.by_engine, rest


EVERY = [(kind, backend) for kind in KINDS for backend in ("onnxruntime", "torch")]


@pytest.mark.parametrize(("kind", "backend"), [*EVERY, ("hifigan2", "openvino"), ("speaker", "openvino")])
def test_every_call_sounds_as_the_hosts_own(kind: str, backend: str) -> None:
    if backend == "openvino":
        pytest.importorskip("openvino")
    module, given, other = generator(kind), call(kind), call(kind, frames=37, batch=2, seed=1)
    own, own_other = played(module, given), played(module, other)
    handle = trt_svc.accelerate(module, backend)
    assert torch.equal(played(module, given), own)  # the host answers the first call
    assert snr_db(played(module, given), own) > SAME_DB
    assert snr_db(played(module, other), own_other) > SAME_DB
    assert answers(handle) == (2, {})


@pytest.mark.parametrize("norm", ["hooks", "parametrizations"])
@pytest.mark.parametrize("kind", ["nsf", "mini", "sovits", "bigvgan"])
def test_weight_norm_may_still_be_there(kind: str, norm: str) -> None:
    module, given = generator(kind, norm=norm), call(kind)
    own = played(module, given)
    handle = heard(module, kind)
    assert snr_db(played(module, given), own) > SAME_DB
    assert answers(handle) == (1, {})


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino", "torch"])
def test_callers_keep_what_they_were_given(backend: str) -> None:
    if backend == "openvino":
        pytest.importorskip("openvino")
    module = generator("speaker")
    heard(module, "speaker", backend)
    calls = [call("speaker", frames, batch, seed) for frames in (5, 40, 5, 17) for batch in (1, 3) for seed in (0, 1)]
    kept = [played(module, given) for given in calls]
    copies = [sound.clone() for sound in kept]
    for given in reversed(calls):
        played(module, given).zero_()  # what callers do to theirs is nobody else's affair
    assert all(torch.equal(sound, copy) for sound, copy in zip(kept, copies, strict=True))


@pytest.mark.parametrize(("frames", "batch"), [(1, 1), (2, 5), (900, 1), (3000, 1), (60, 7)])
@pytest.mark.parametrize("kind", ["nsf", "sovits"])
def test_any_length_and_batch(kind: str, frames: int, batch: int) -> None:
    module, given = generator(kind), call(kind, frames, batch)
    own = played(module, given)
    handle = heard(module, kind, "onnxruntime")
    assert snr_db(played(module, given), own) > SAME_DB
    assert answers(handle) == (1, {})


def test_a_call_longer_than_the_longest_run_is_cut_without_a_trace() -> None:
    module, given = generator("nsf"), call("nsf", 400)
    own = played(module, given)
    handle = heard(module, "nsf", chunk_frames=100)
    assert snr_db(played(module, given), own) > SAME_DB
    assert answers(handle) == (1, {})


def test_views_of_any_kind_are_taken() -> None:
    module, given = generator("sovits"), call("sovits", 30, 2)
    own = played(module, given)
    handle = heard(module, "sovits", "onnxruntime")
    views = {
        "x": given["x"].transpose(1, 2).contiguous().transpose(1, 2),
        "f0": given["f0"].repeat_interleave(2, 1)[:, ::2],
        "g": given["g"].expand(-1, -1, 4)[:, :, 1:2],
    }
    assert not any(view.is_contiguous() for name, view in views.items() if name != "g")
    assert snr_db(played(module, views), own) > SAME_DB
    expanded = {**given, "g": given["g"].expand(-1, -1, 30)}
    assert snr_db(played(module, expanded), own) > SAME_DB
    assert answers(handle) == (2, {})


def test_arguments_by_position_or_name() -> None:
    module, given = generator("sovits"), call("sovits")
    own = played(module, given)
    handle = heard(module, "sovits")
    torch.manual_seed(1)
    with torch.no_grad():
        assert snr_db(module(given["x"], given["f0"], given["g"]), own) > SAME_DB
    torch.manual_seed(1)
    with torch.no_grad():
        assert snr_db(module.forward(given["x"], g=given["g"], f0=given["f0"]), own) > SAME_DB
    assert answers(handle) == (2, {})


# Random numbers.


@pytest.mark.parametrize("kind", ["hifigan", "nsf", "mini", "sovits"])
def test_random_numbers_go_on_as_after_the_hosts_own_call(kind: str) -> None:
    module, given = generator(kind), call(kind)

    def afterwards() -> list[Any]:
        random.seed(3)
        np.random.seed(3)
        played(module, given, seed=3)
        return [torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random()]

    own = afterwards()
    with trt_svc.accelerate(module, "onnxruntime") as handle:
        assert afterwards() == own  # the first call
        assert afterwards() == own
        assert answers(handle) == (1, {})
    assert afterwards() == own


def test_accelerating_draws_nothing() -> None:
    module, given = generator("nsf"), call("nsf")
    own = played(module, given)
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)
    before = random.getstate(), np.random.get_state()[1].tolist()
    trt_svc.accelerate(module, "onnxruntime")
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before
    with torch.no_grad():
        assert torch.equal(module(**given), own)


def test_other_seeds_give_other_sounds() -> None:
    module, given = generator("nsf"), call("nsf")
    heard(module, "nsf")
    assert torch.equal(played(module, given, 1), played(module, given, 1))
    assert snr_db(played(module, given, 1), played(module, given, 2)) < 60


# Modes of torch.


def test_inference_mode_and_no_grad() -> None:
    module, given = generator("nsf"), call("nsf")
    own = played(module, given)
    with torch.inference_mode():
        handle = trt_svc.accelerate(module, "onnxruntime")
        torch.manual_seed(1)
        assert torch.equal(module(**given), own)
        torch.manual_seed(1)
        made = module(**given)
        assert made.is_inference()
    assert snr_db(made, own) > SAME_DB
    made = played(module, given)
    assert not made.is_inference()
    assert snr_db(made, own) > SAME_DB
    assert answers(handle) == (2, {})


def test_weights_made_in_inference_mode() -> None:
    with torch.inference_mode():
        module, given = generator("nsf"), call("nsf")
        own = played(module, given)
        heard(module, "nsf")
        assert snr_db(played(module, given), own) > SAME_DB
        module.load_state_dict(voice("nsf", seed=1))
        other = played(generator("nsf", seed=1), given)
        assert torch.equal(played(module, given), other)
        assert snr_db(played(module, given), other) > SAME_DB


def test_training_flows_through_the_hosts_own_forward() -> None:
    module, given = generator("nsf"), call("nsf")
    own = played(module, given)
    handle = heard(module, "nsf")
    module.requires_grad_(True).train()
    torch.manual_seed(1)
    made = module(**given)
    made.square().mean().backward()
    assert torch.equal(made.detach(), own)
    assert all(parameter.grad is not None for parameter in module.parameters())
    assert answers(handle) == (0, {"gradients are asked for": 1})
    module.eval()
    wanted = {**given, "x": given["x"].requires_grad_(True)}
    module(**wanted).square().mean().backward()
    assert given["x"].grad is not None and given["x"].grad.abs().max() > 0


def test_gradients_switched_on_in_eval_mode_cost_nothing() -> None:
    """Hosts forget no_grad; parameters that could learn do not make a call one of training."""
    module, given = generator("nsf").requires_grad_(True), call("nsf")
    handle = trt_svc.accelerate(module, "torch")
    torch.manual_seed(1)
    own = module(**given)
    assert own.requires_grad
    torch.manual_seed(1)
    assert snr_db(module(**given), own) > SAME_DB
    assert answers(handle) == (1, {})


@pytest.mark.parametrize("backend", ["onnxruntime", "torch"])
@pytest.mark.parametrize("kind", ["hifigan", "nsf", "sovits", "bigvgan"])
def test_autocast(kind: str, backend: str) -> None:
    module, given = generator(kind), call(kind)
    own = played(module, given)
    handle = trt_svc.accelerate(module, backend)
    with torch.autocast("cpu", torch.bfloat16):
        own_half = played(module, given)
        made = played(module, given)
    assert own_half.dtype == made.dtype == torch.bfloat16
    assert snr_db(made, own_half) > 20
    assert snr_db(made.float(), own) > max(48, snr_db(own_half.float(), own))  # only the result is rounded
    assert snr_db(played(module, given), own) > SAME_DB
    assert answers(handle) == (2, {})


def traced(module: Any, given: Any) -> Any:
    return torch.jit.trace(module, given, check_trace=False)


def compiled(module: Any, given: Any) -> Any:
    return torch.compile(module, backend="eager")


def exported(module: Any, given: Any) -> Any:
    return torch.export.export(module, given).module()


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("through", [traced, compiled, exported])
def test_compilers_see_the_hosts_own_forward(through: Callable[[Any, Any], Any]) -> None:
    module, (mel,) = generator(), call().values()
    own = played(module, {"x": mel})
    handle = heard(module)
    with torch.no_grad():
        assert snr_db(through(module, (mel,))(mel), own) > SAME_DB
        assert answers(handle)[0] == 0
        assert snr_db(module(mel), own) > SAME_DB
    assert answers(handle)[0] == 1


def test_a_compiled_module_may_be_handed_over() -> None:
    module, (mel,) = generator(), call().values()
    own = played(module, {"x": mel})
    outer = torch.compile(module, backend="eager")
    handle = trt_svc.accelerate(outer, "torch")
    assert [place.label for place in handle.report().places] == ["_orig_mod"]
    with torch.no_grad():
        assert snr_db(outer(mel), own) > SAME_DB
    for _ in range(2):
        assert snr_db(played(module, {"x": mel}), own) > SAME_DB
    assert answers(handle) == (1, {"it is being traced": 1})


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_traced_module_is_left_to_the_host() -> None:
    module, (mel,) = generator(), call().values()
    program = torch.jit.trace(module, mel)
    handle = trt_svc.accelerate(program, "torch")
    assert "it is a TorchScript program" in str(handle.report())
    assert snr_db(played(program, {"x": mel}), played(module, {"x": mel})) > SAME_DB


def test_cuda_graphs_capture_the_hosts_own_forward(monkeypatch: pytest.MonkeyPatch) -> None:
    module, given = generator("nsf"), call("nsf")
    own = played(module, given)
    handle = heard(module, "nsf")
    capturing = True
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.is_current_stream_capturing", lambda: capturing)
    assert torch.equal(played(module, given), own)
    assert answers(handle) == (0, {"a CUDA graph is being captured": 1})
    capturing = False
    assert snr_db(played(module, given), own) > SAME_DB
    assert answers(handle)[0] == 1


def test_a_capture_before_the_first_call_is_no_first_call(monkeypatch: pytest.MonkeyPatch) -> None:
    module, given = generator(), call()
    handle = trt_svc.accelerate(module, "torch")
    with monkeypatch.context() as patch:
        patch.setattr("torch.cuda.is_available", lambda: True)
        patch.setattr("torch.cuda.is_current_stream_capturing", lambda: True)
        played(module, given)
    assert handle.report().places[0].state == "not heard yet"


@contextmanager
def doubled() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


SURROUNDINGS: list[Callable[[], Any]] = [
    doubled,
    torch.inference_mode,
    torch.enable_grad,
    lambda: torch.device("meta"),
    lambda: torch.autocast("cpu", torch.bfloat16),
]


@pytest.mark.parametrize("number", range(len(SURROUNDINGS)))
def test_engines_are_built_whatever_the_host_has_switched_on(number: int) -> None:
    """`trt-svc run` builds in the middle of the host's first call, and everybody when the weights have changed."""
    module, given = generator("nsf", seed=10 + number), call("nsf")  # weights that no engine is there for yet
    own = played(module, given)
    with SURROUNDINGS[number]():
        handle = trt_svc.accelerate(module, "onnxruntime")
    for _ in range(2):
        made = played(module, given)
    assert answers(handle) == (1, {}), str(handle.report())
    assert snr_db(made, own) > SAME_DB


# Hooks of others.


def test_hooks_on_the_module_still_fire() -> None:
    module, given = generator("nsf"), call("nsf")
    handle = heard(module, "nsf")
    seen: list[Any] = []
    hooks = [
        module.register_forward_pre_hook(lambda _, args, named: seen.append(set(named)), with_kwargs=True),
        module.register_forward_hook(lambda _, args, made: seen.append(made.shape)),
    ]
    played(module, given)
    assert seen == [{"x", "f0"}, (1, 1, 24 * 8)]
    changed = module.register_forward_hook(lambda _, args, made: 0 * made)
    assert not played(module, given).any()
    assert answers(handle) == (2, {})
    for hook in (*hooks, changed):
        hook.remove()
    assert not module._forward_hooks and not module._forward_pre_hooks


def test_hooks_on_its_first_layer_still_bend_the_mel() -> None:
    module, given = generator(), call()
    module.conv_pre.register_forward_pre_hook(lambda _, args: (0.5 * args[0],))
    own = played(module, given)
    handle = heard(module)
    assert snr_db(played(module, given), own) > SAME_DB
    assert answers(handle) == (1, {})


# Threads.


def in_threads(work: Callable[[int], None]) -> None:
    """Every thread does its work, and what one raises is raised here."""
    wrong: list[BaseException] = []

    def run(number: int) -> None:
        try:
            work(number)
        except BaseException as err:
            wrong.append(err)

    threads = [threading.Thread(target=run, args=(number,), daemon=True) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not any(thread.is_alive() for thread in threads)
    if wrong:
        raise wrong[0]


@pytest.mark.parametrize("objects", [1, 2])
@pytest.mark.parametrize("backend", ["onnxruntime", "torch"])
def test_threads_share_accelerated_objects(backend: str, objects: int) -> None:
    modules = [generator("speaker", seed=seed) for seed in range(objects)]
    calls = [call("speaker", frames=7 + 5 * number, seed=number) for number in range(THREADS)]
    own = [[played(module, given) for given in calls] for module in modules]
    handles = [trt_svc.accelerate(module, backend) for module in modules]

    def work(number: int) -> None:
        for turn in range(4):
            at, which = (number + turn) % THREADS, (number + turn) % objects
            with torch.no_grad():
                assert snr_db(modules[which](**calls[at]), own[which][at]) > SAME_DB

    in_threads(work)
    asked = [answers(handle) for handle in handles]
    assert sum(by_engine for by_engine, _ in asked) == 4 * THREADS - objects
    assert all(by_host == {} for _, by_host in asked)


def test_threads_with_random_numbers_get_whole_sounds() -> None:
    """Whose draws are whose is nobody's promise in threads; the rest of the sound is."""
    module, given = generator("mini"), call("mini", 60)
    reference = played(module, given)
    apart = snr_db(played(module, given, seed=2), reference)
    assert 10 < apart < 60
    handle = heard(module, "mini", "onnxruntime")

    def work(number: int) -> None:
        for _ in range(4):
            with torch.no_grad():
                assert snr_db(module(**given), reference) > apart - 3

    in_threads(work)
    assert answers(handle) == (4 * THREADS, {})


def test_a_voice_that_changes_between_threads() -> None:
    """Whoever calls after the new weights are in hears them."""
    module, given = generator(), call()
    heard(module)
    for seed in (1, 0, 2):
        module.load_state_dict(voice(seed=seed))
        own = played(generator(seed=seed), given)

        def work(number: int, own: Tensor = own) -> None:
            with torch.no_grad():
                assert snr_db(module(**given), own) > SAME_DB

        in_threads(work)


@pytest.mark.parametrize("fits", [True, False])
def test_two_generators_with_one_calling_the_other(fits: bool) -> None:
    """What one taps is not taken for the other's, also where the inner one is run by the host."""

    class Doubled(NsfDouble):
        other: Any = None

        def forward(self, x: Tensor, f0: Tensor) -> Tensor:
            inner = self.other[0](x if fits else x[0])
            return super().forward(x + 0 * inner.mean(), f0)

    inner = generator()
    outer = Doubled(config())
    outer.load_state_dict(voice("nsf"))
    outer.other = (inner,)
    outer.eval()
    given = call("nsf")
    own = played(outer, given)
    handles = [trt_svc.accelerate(module, "torch") for module in (outer, inner)]
    for _ in range(3):
        assert snr_db(played(outer, given), own) > SAME_DB
    assert answers(handles[0]) == (2, {})
    assert (answers(handles[1])[0] > 0) == fits


def test_threads_go_on_through_accelerating_and_restoring() -> None:
    module, given = generator("speaker"), call("speaker")
    own = played(module, given)
    done = threading.Event()

    def work(number: int) -> None:
        if number:
            while not done.is_set():
                with torch.no_grad():
                    assert snr_db(module(**given), own) > SAME_DB
            return
        try:
            for turn in range(10):
                with trt_svc.accelerate(module, "torch" if turn % 2 else "onnxruntime"):
                    module.load_state_dict(module.state_dict())
                    done.wait(0.02)
        finally:
            done.set()

    in_threads(work)
    assert "forward" not in vars(module)


# Odd calls.


def test_calls_that_the_engine_cannot_take_are_the_hosts() -> None:
    module, given = generator("sovits"), call("sovits")
    without = {name: value for name, value in given.items() if name != "g"}
    unheard = {**given, "x": given["x"].clone().index_fill_(2, torch.tensor(3), torch.nan)}
    own, own_unheard = played(module, given), played(module, unheard)
    own_without, drawn_then = played(module, without), torch.rand(2)
    handle = heard(module, "sovits")
    assert torch.equal(played(module, without), own_without)
    assert torch.equal(torch.rand(2), drawn_then)
    assert torch.equal(played(module, unheard).nan_to_num(), own_unheard.nan_to_num())
    by_engine, by_host = answers(handle)
    assert by_engine == 0 and by_host is not None
    assert sorted(by_host.values()) == [1, 1]
    assert "did not come by its speaker" in str(by_host) and "NaN" in str(by_host)
    for _ in range(5):
        played(module, without)
    assert snr_db(played(module, given), own) > SAME_DB
    assert answers(handle)[0] == 1


def test_a_first_call_of_another_kind_does_not_cost_the_engine() -> None:
    module, given = generator("sovits"), call("sovits")
    without = {name: value for name, value in given.items() if name != "g"}
    own = played(module, without)
    handle = trt_svc.accelerate(module, "torch")
    assert torch.equal(played(module, without), own)
    played(module, given)
    played(module, given)
    assert answers(handle)[0] == 1


def test_what_the_host_raises_is_raised() -> None:
    module, given = generator("nsf"), call("nsf")
    wrong = {**given, "x": given["x"][:, :-1]}
    with pytest.raises(RuntimeError) as own:
        played(module, wrong)
    handle = trt_svc.accelerate(module, "torch")
    for _ in range(2):
        with pytest.raises(RuntimeError) as again:
            played(module, wrong)
        assert str(again.value) == str(own.value)
        played(module, given)
    assert handle.report().places[0].state == "engine"


def test_a_sound_without_a_batch() -> None:
    """torch's convolutions take (channels, frames) too."""
    module, given = generator(), {"x": call()["x"][0]}
    own = played(module, given)
    heard(module)
    assert torch.equal(played(module, given), own)


def test_weight_norm_put_on_later() -> None:
    module, given = generator(), call()
    own = played(module, given)
    handle = heard(module)
    normed(module.conv_pre, "parametrizations")
    for _ in range(2):
        assert snr_db(played(module, given), own) > SAME_DB
    assert answers(handle) == (1, {})
