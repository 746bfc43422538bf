"""Recorded launches: a network of a hundred small kernels costs one launch instead of a hundred.

`GraphCache` decides which shapes are recorded; `TorchGraph` records them with torch. Recording must never break a
call: a shape that cannot be recorded runs plainly from then on.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

MAX_GRAPHS = 8
SIGHTINGS = 2
"""A shape is recorded when it is seen this often."""
REMEMBERED = 256
"""Shapes whose sightings are counted."""
WARM_UPS = 2

Inputs = TypeVar("Inputs")
Output = TypeVar("Output")
InputsIn = TypeVar("InputsIn", contravariant=True)
OutputOut = TypeVar("OutputOut", covariant=True)


class Replay(Protocol[InputsIn, OutputOut]):
    """A recorded run."""

    def __call__(self, inputs: InputsIn, /) -> OutputOut: ...

    def close(self) -> None:
        """Frees it, once the device is done with it."""
        ...


@dataclass
class _Shape:
    """What is known of a shape that is not recorded."""

    seen: int = 0
    needed: int = SIGHTINGS
    refused: bool = False


class GraphCache(Generic[Inputs, Output]):
    """The shapes used last, recorded. Safe to use from several threads; replays happen one at a time."""

    def __init__(self, limit: int = MAX_GRAPHS) -> None:
        self._limit = limit
        self._replays: OrderedDict[Hashable, Replay[Inputs, Output]] = OrderedDict()
        self._shapes: OrderedDict[Hashable, _Shape] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._replays)

    def run(
        self,
        key: Hashable,
        inputs: Inputs,
        plainly: Callable[[Inputs], Output],
        record: Callable[[Inputs], Replay[Inputs, Output]],
    ) -> Output:
        """By the recording of this shape if there is one or it is time to make one, else plainly."""
        if self._limit > 0:
            with self._lock:
                replay = self._replay(key, inputs, record)
                if replay is not None:
                    try:
                        return replay(inputs)
                    except Exception as err:
                        self._refuse(key, err)
        return plainly(inputs)

    def _replay(
        self, key: Hashable, inputs: Inputs, record: Callable[[Inputs], Replay[Inputs, Output]]
    ) -> Replay[Inputs, Output] | None:
        if key in self._replays:
            self._replays.move_to_end(key)
            return self._replays[key]
        shape = self._sighted(key)
        if shape.refused or shape.seen < shape.needed:
            return None
        try:
            while len(self._replays) >= self._limit:
                self._forget_oldest()  # first, so that its memory can be used
            self._replays[key] = record(inputs)
        except Exception as err:
            self._refuse(key, err)
        return self._replays.get(key)

    def _sighted(self, key: Hashable) -> _Shape:
        shape = self._shapes.setdefault(key, _Shape())
        self._shapes.move_to_end(key)
        while len(self._shapes) > REMEMBERED:
            self._shapes.popitem(last=False)
        shape.seen += 1
        return shape

    def _forget_oldest(self) -> None:
        key, replay = self._replays.popitem(last=False)
        shape = self._shapes.setdefault(key, _Shape())
        # More shapes than recordings would otherwise mean recording all the time.
        shape.seen, shape.needed = 0, 2 * shape.needed
        replay.close()

    def _refuse(self, key: Hashable, err: Exception) -> None:
        log.debug("shape %s runs without a CUDA graph: %s", key, err)
        self._shapes.setdefault(key, _Shape()).refused = True
        replay = self._replays.pop(key, None)
        if replay is not None:
            with contextlib.suppress(Exception):
                replay.close()

    def close(self) -> None:
        """Frees all recordings."""
        with self._lock:
            while self._replays:
                _, replay = self._replays.popitem()
                replay.close()


# Recording with torch.

Tensors = Sequence["torch.Tensor"]

_RECORDING = threading.Lock()
"""torch allows one recording at a time in a process."""


class StreamOrder:
    """Keeps the users of shared memory in order although they come on different streams; the host does not wait."""

    def __init__(self) -> None:
        self._event: torch.cuda.Event | None = None

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """What the current stream does in here comes after all earlier turns."""
        import torch

        if torch.cuda.is_current_stream_capturing():  # events from outside must not enter the caller's own graph
            yield
            return
        self.wait_on_stream()
        try:
            yield
        finally:
            self._event = self._event or torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._event.record()

    def wait_on_stream(self) -> None:
        """The current stream goes on after the last turn."""
        if self._event is not None:
            self._event.wait()

    def wait_on_host(self) -> None:
        """Until the last turn is done."""
        if self._event is not None:
            self._event.synchronize()


Prepare = Callable[[Tensors], Callable[[], "torch.Tensor"]]
"""Gets fixed inputs; returns what launches the network on them and gives its output."""


class Recorder:
    """Records what a network launches, each shape with inputs of its own; the recordings share scratch memory."""

    def __init__(self, order: StreamOrder) -> None:
        self.order = order
        self._stream: torch.cuda.Stream | None = None
        self._pool: Any = None

    def record(self, inputs: Tensors, prepare: Prepare) -> TorchGraph:
        """A recording for inputs of these shapes, made on the current device."""
        import torch

        with _RECORDING:
            if self._stream is None:
                self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
                self._pool = torch.cuda.graph_pool_handle()
            return TorchGraph(inputs, prepare, self.order, self._stream, self._pool)


class TorchGraph:
    """One recorded shape. Its output is copied, so callers may keep it."""

    def __init__(
        self, inputs: Tensors, prepare: Prepare, order: StreamOrder, stream: torch.cuda.Stream, pool: Any
    ) -> None:
        import torch

        self._order = order
        self._inputs = [torch.empty_like(tensor) for tensor in inputs]
        self._graph = torch.cuda.CUDAGraph()
        current = torch.cuda.current_stream()
        stream.wait_stream(current)
        try:
            with torch.cuda.stream(stream), self._order.turn():
                self._fill(inputs)
                self._launch = prepare(self._inputs)  # kept, for what it works in
                for _ in range(WARM_UPS):
                    expected = self._launch().clone()
                self._output = self._recorded(pool)
                self._check(expected)
        finally:
            current.wait_stream(stream)

    def _fill(self, inputs: Tensors) -> None:
        for mine, given in zip(self._inputs, inputs, strict=True):
            mine.copy_(given)

    def _recorded(self, pool: Any) -> torch.Tensor:
        # torch.cuda.graph() would wait for the whole device, and stays on the stream when a recording fails.
        # thread_local: other threads go on allocating meanwhile.
        self._graph.capture_begin(pool=pool, capture_error_mode="thread_local")
        try:
            output = self._launch()
        except BaseException:
            with contextlib.suppress(Exception):
                self._end(pool)
            raise
        self._end(pool)
        return output

    def _end(self, pool: Any) -> None:
        import torch

        try:
            self._graph.capture_end()
        except Exception:
            # Where ending fails torch's allocator goes on as if recording, and would keep back freed memory.
            stop = getattr(torch._C, "_cuda_endAllocateToPool", None)
            if stop is not None:
                with contextlib.suppress(Exception):
                    stop(torch.cuda.current_device(), pool)
            raise

    def _check(self, expected: torch.Tensor) -> None:
        """A recording may miss what ran on another stream, without an error."""
        import torch

        self._output.fill_(float("nan"))
        self._graph.replay()
        if not torch.allclose(self._output, expected, rtol=1e-3, atol=1e-4, equal_nan=True):
            raise RuntimeError("the recording gives another output than the network")

    def __call__(self, inputs: Tensors, /) -> torch.Tensor:
        with self._order.turn():
            self._fill(inputs)
            self._graph.replay()
            return self._output.clone()

    def close(self) -> None:
        self._order.wait_on_host()
        self._graph.reset()
