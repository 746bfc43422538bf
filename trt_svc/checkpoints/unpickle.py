"""A reader for pickles that builds data and nothing else.

`torch.load(weights_only=True)` is not enough here: it refuses WaveGlow's pickled module and the training
objects that voice checkpoints carry, and it has been bypassed twice. This reader resolves names in three ways:

* a short list of harmless constructors (tensors, arrays, ordered dictionaries), most of them our own;
* any other name of Python's standard library, of torch or of NumPy is refused: a checkpoint has no
  business calling those;
* a name of any other package becomes an inert stand-in that remembers what was stored in it.
"""

from __future__ import annotations

import collections
import io
import pickle
import sys
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
import torch

from trt_svc.errors import UnsafeCheckpoint

Resolver = Mapping[tuple[str, str], Any]


class ByteSource(Protocol):
    """What an unpickler reads from."""

    def read(self, count: int, /) -> bytes: ...

    def readline(self) -> bytes: ...


class Inert(dict[Any, Any]):
    """Stands in for an object of a foreign class: keeps its state, has none of its behaviour."""

    def __new__(cls, *args: object, **kwargs: object) -> Inert:
        made = super().__new__(cls)
        made.arguments = args
        made.state = {}
        made.members = []
        return made

    arguments: tuple[object, ...]
    state: dict[str, Any]
    members: list[object]

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__()

    def __setstate__(self, state: object) -> None:
        if isinstance(state, dict):
            self.state.update(state)
        else:
            self.members.append(state)

    def append(self, member: object) -> None:
        self.members.append(member)

    def extend(self, members: list[object]) -> None:
        self.members.extend(members)

    add = append

    def __hash__(self) -> int:  # type: ignore[override]
        return id(self)


class Storage:
    """A run of bytes of a file with an element type."""

    def __init__(self, data: memoryview, dtype: torch.dtype) -> None:
        self.data = data
        self.dtype = dtype

    def tensor(self, dtype: torch.dtype, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> torch.Tensor:
        """A view of the storage; refuses shapes that claim more than the file holds."""
        held = len(self.data) // dtype.itemsize
        count = 1
        for length in size:
            count *= int(length)
        reach = offset + sum((int(n) - 1) * int(s) for n, s in zip(size, stride, strict=True)) + 1 if count else 0
        if min((*size, *stride, offset, 0)) < 0 or count > held or reach > held:
            raise pickle.UnpicklingError(
                f"a tensor of shape {tuple(size)} claims more numbers than the {held} stored for it"
            )
        if count == 0:
            return torch.empty(size, dtype=dtype)
        flat = torch.frombuffer(self.data, dtype=dtype, count=held)
        return torch.as_strided(flat, size, stride, offset)


class StorageType:
    """What `torch.FloatStorage` and its like resolve to: a mere label."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype


_STORAGES = {
    "FloatStorage": torch.float32, "HalfStorage": torch.float16, "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool, "UntypedStorage": torch.uint8,
}  # fmt: skip


def _tensor_v1(storage: Storage, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> torch.Tensor:
    return storage.tensor(storage.dtype, offset, size, stride)


def _tensor_v2(
    storage: Storage, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *rest: object
) -> torch.Tensor:
    return storage.tensor(storage.dtype, offset, size, stride)


def _tensor_v3(
    storage: Storage,
    offset: int,
    size: tuple[int, ...],
    stride: tuple[int, ...],
    grad: object,
    hooks: object,
    dtype: torch.dtype,
    *rest: object,
) -> torch.Tensor:
    return storage.tensor(dtype, offset, size, stride)


def _parameter(data: torch.Tensor, *rest: object) -> torch.Tensor:
    return data


def _from_type(build: Callable[..., Any], kind: object, args: tuple[Any, ...], state: object) -> Any:
    if build not in (_tensor_v1, _tensor_v2, _tensor_v3, _parameter):
        raise pickle.UnpicklingError("a tensor is stored in an unknown way")
    return build(*args)


def _array(kind: object, shape: object, code: object) -> np.ndarray[Any, Any]:
    # Always empty: __setstate__ then gives it a shape that NumPy checks against the bytes in the file.
    return np.ndarray((0,), dtype=np.int8)


def _array_from_buffer(data: bytes, dtype: np.dtype[Any], shape: tuple[int, ...], order: str) -> np.ndarray[Any, Any]:
    return np.frombuffer(data, dtype=dtype).reshape(shape, order="F" if order == "F" else "C")


def _scalar(dtype: np.dtype[Any], data: bytes) -> Any:
    return np.frombuffer(data, dtype=dtype)[0]


def _old_object(kind: type, base: type, state: object) -> object:
    if not (isinstance(kind, type) and issubclass(kind, Inert)):
        raise pickle.UnpicklingError("an object of an unexpected class")
    return kind()


def _text_bytes(text: str, encoding: str) -> bytes:
    return text.encode(encoding if encoding in ("latin1", "latin-1", "utf-8", "ascii") else "latin1")


def _plain(value: object = "", *rest: object) -> str:
    return str(value)


_NUMPY_HOMES = ("numpy.core.multiarray", "numpy._core.multiarray")
_HARMLESS: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("collections", "defaultdict"): lambda *args: collections.defaultdict(),
    ("collections", "Counter"): collections.Counter,
    ("_codecs", "encode"): _text_bytes,
    ("copyreg", "_reconstructor"): _old_object,
    ("copy_reg", "_reconstructor"): _old_object,
    ("torch._utils", "_rebuild_tensor"): _tensor_v1,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor_v2,
    ("torch._utils", "_rebuild_tensor_v3"): _tensor_v3,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _parameter,
    ("torch._tensor", "_rebuild_from_type_v2"): _from_type,
    ("torch.nn.parameter", "Parameter"): type("Parameter", (Inert,), {}),
    ("torch", "Tensor"): type("Tensor", (Inert,), {}),
    ("torch", "Size"): torch.Size,
    ("torch", "device"): _plain,
    **{("torch", name): StorageType(dtype) for name, dtype in _STORAGES.items()},
    **{("torch.storage", name): StorageType(dtype) for name, dtype in _STORAGES.items()},
    **{(home, "_reconstruct"): _array for home in _NUMPY_HOMES},
    **{(home, "scalar"): _scalar for home in _NUMPY_HOMES},
    ("numpy.core.numeric", "_frombuffer"): _array_from_buffer,
    ("numpy._core.numeric", "_frombuffer"): _array_from_buffer,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    **{(home, name): kind for home in ("builtins", "__builtin__") for name, kind in {
        "dict": dict, "list": list, "tuple": tuple, "set": set, "frozenset": frozenset, "object": object,
        "int": int, "long": int, "float": float, "bool": bool, "str": str, "unicode": str, "bytes": bytes,
        "complex": complex, "slice": slice,
    }.items()},
}  # fmt: skip
# Plain holders of values: kept as inert objects although they belong to the standard library or torch.
_INERT_NAMES = {("argparse", "Namespace"), ("types", "SimpleNamespace")}
_INERT_PACKAGES = ("torch.nn.", "torch.optim.", "pathlib", "datetime", "enum")
_WATCHED = (
    {"torch", "numpy", "torchvision", "torchaudio"}
    | set(sys.stdlib_module_names)
    | {"__builtin__", "commands", "copy_reg"}
)


class DataUnpickler(pickle.Unpickler):
    """Unpickles data; refuses everything that would run."""

    def __init__(
        self,
        file: ByteSource,
        what: str,
        load_storage: Callable[[Any], Storage] | None = None,
        extra: Resolver | None = None,
    ) -> None:
        super().__init__(file, encoding="latin1")
        self._what = what
        self._load_storage = load_storage
        self._extra = extra or {}
        self._inert: dict[tuple[str, str], type[Inert]] = {}

    def find_class(self, module: str, name: str, /) -> Any:
        key = (module, name)
        if key in self._extra:
            return self._extra[key]
        if key in _HARMLESS:
            return _HARMLESS[key]
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        if key not in _INERT_NAMES and not module.startswith(_INERT_PACKAGES) and module.partition(".")[0] in _WATCHED:
            raise UnsafeCheckpoint(
                self._what,
                f"opening it the usual way would call {module}.{name}; nothing was run.",
                "A checkpoint has no use for that. Do not open this file with other tools; "
                "get the weights from a source you trust.",
            )
        if key not in self._inert:
            self._inert[key] = type(name.rpartition(".")[2] or "Foreign", (Inert,), {"__module__": module})
        return self._inert[key]

    def persistent_load(self, pid: Any, /) -> Any:
        if self._load_storage is None:
            raise pickle.UnpicklingError("it refers to storages outside the pickle")
        return self._load_storage(pid)


def unpickle(
    data: bytes, what: str, load_storage: Callable[[Any], Storage] | None = None, extra: Resolver | None = None
) -> Any:
    """The data of a pickle; `what` names it in messages."""
    return DataUnpickler(io.BytesIO(data), what, load_storage, extra).load()
