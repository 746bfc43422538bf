"""A reader of pickle byte code that knows data and nothing else.

Python's unpickler calls what a file names and sets attributes on what it gets, so a list of permitted names is
never safe for long: real NumPy classes alone are enough to forge objects and reach `eval`, and
`torch.load(weights_only=True)` has been bypassed twice. Here the byte code is interpreted by hand
(`pickletools` only splits it into instructions). There is no way from it to a Python callable:

* numbers, texts, lists, dictionaries and tuples are built as such;
* the handful of ways in which tensors are stored become `StoredTensor` descriptions, read later and only on demand;
* every other name becomes an `Inert` record of what was stored with it;
* names that only an attack would use make the file refused, with the name in the message.
"""

from __future__ import annotations

import io
import math
import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import IO, Any

import torch

from trt_svc.errors import UnsafeCheckpoint, shown

KEY_TYPES = (str, int, float, bytes, type(None))


class BadPickle(Exception):
    """The byte code is damaged or claims the impossible."""


@dataclass(frozen=True)
class Name:
    """A global of a pickle: a label, never the thing itself."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(eq=False)
class Inert:
    """Stands for an object of some class: what was stored in it, none of what it can do."""

    kind: Name
    arguments: Any = ()
    state: dict[str, Any] = field(default_factory=dict)
    items: dict[Any, Any] = field(default_factory=dict)
    members: list[Any] = field(default_factory=list)


@dataclass(frozen=True)
class Storage:
    """Where the numbers of tensors lie: element type, count, and a way to read the bytes."""

    dtype: torch.dtype
    count: int
    read: Callable[[], bytes | bytearray]


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file: its shape and place. `load` makes a tensor that owns its memory."""

    storage: Storage
    dtype: torch.dtype
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def bytes_claimed(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def load(self) -> torch.Tensor:
        if math.prod(self.shape) == 0:
            return torch.empty(self.shape, dtype=self.dtype)
        data = self.storage.read()
        held = len(data) // self.dtype.itemsize
        if self._last() >= held:
            raise BadPickle(f"a tensor of shape {self.shape} reaches beyond its {held} stored numbers")
        flat = torch.frombuffer(bytearray(data), dtype=self.dtype)
        return torch.as_strided(flat, self.shape, self.stride, self.offset).clone()

    def _last(self) -> int:
        return self.offset + sum((n - 1) * s for n, s in zip(self.shape, self.stride, strict=True))

    def check(self) -> None:
        """Refuses shapes that claim more numbers than are stored."""
        values = (*self.shape, *self.stride, self.offset)
        if len(self.shape) > 16 or any(type(v) is not int or not 0 <= v < 2**48 for v in values):
            raise BadPickle(f"a tensor has the impossible shape {shown(self.shape)}")
        count = math.prod(self.shape)
        limit = self.storage.count * self.storage.dtype.itemsize // self.dtype.itemsize
        if count > limit or (count and self._last() >= limit):
            raise BadPickle(f"a tensor of shape {shown(self.shape)} claims more than the {limit} numbers stored for it")


_STORAGE_TYPES = {
    "FloatStorage": torch.float32, "HalfStorage": torch.float16, "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool, "UntypedStorage": torch.uint8,
}  # fmt: skip
_DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in {*_STORAGE_TYPES.values()}}

# Names that no checkpoint has a use for. Nothing would be called anyway; this is to warn the owner of the file.
_HOSTILE_MODULES = {
    "_io", "_pickle", "_posixsubprocess", "asyncio", "bdb", "code", "codeop", "commands", "ctypes", "dbm", "distutils",
    "doctest", "ftplib", "functools", "gc", "http", "importlib", "inspect", "io", "linecache", "marshal",
    "multiprocessing", "nt", "operator", "os", "pdb", "pickle", "pip", "pkgutil", "platform", "posix", "pty", "pydoc",
    "requests", "runpy", "shelve", "shutil", "signal", "site", "smtplib", "socket", "sqlite3", "ssl", "subprocess",
    "sys", "tempfile", "threading", "timeit", "trace", "types", "unittest", "urllib", "venv", "webbrowser", "xmlrpc",
    "zipimport",
}  # fmt: skip
_HOSTILE_PREFIXES = (
    "torch.hub", "torch.jit", "torch.utils.cpp_extension", "torch.package", "numpy.testing",
)  # fmt: skip
_PLAIN_NAMES = {("types", "SimpleNamespace"), ("functools", "partial"), ("types", "MappingProxyType")}
_PLAIN_BUILTINS = {
    "bool", "bytearray", "bytes", "complex", "dict", "float", "frozenset", "int", "list", "long", "object", "range",
    "set", "slice", "str", "tuple", "unicode",
}  # fmt: skip


def is_hostile(name: Name) -> bool:
    """Would only an attack name this?"""
    if (name.module, name.name) in _PLAIN_NAMES:
        return False
    if str(name) in ("torch.load", "torch.serialization.load", "numpy.load"):
        return True
    if name.module in ("builtins", "__builtin__"):
        return name.name not in _PLAIN_BUILTINS
    return name.module.partition(".")[0] in _HOSTILE_MODULES or name.module.startswith(_HOSTILE_PREFIXES)


class DataReader:
    """Interprets one pickle."""

    def __init__(
        self,
        file: IO[bytes],
        what: str,
        load_storage: Callable[[Any], Storage] | None = None,
        load_nested: Callable[[bytes], Any] | None = None,
    ) -> None:
        self._file = file
        self._what = what
        self._load_storage = load_storage
        self._load_nested = load_nested
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    def load(self) -> Any:
        """The object of the pickle; the file is left right behind it."""
        for opcode, argument, _ in pickletools.genops(self._file):
            handler = _OPCODES.get(opcode.name)
            if handler is None:
                raise BadPickle(f"it uses the instruction {opcode.name}, which no checkpoint needs")
            handler(self, argument)
        return self._pop()

    # The stack.

    def _pop(self) -> Any:
        if not self._stack or (self._marks and len(self._stack) <= self._marks[-1]):
            raise BadPickle("it takes more values than it has")
        return self._stack.pop()

    def _top(self) -> Any:
        value = self._pop()
        self._stack.append(value)
        return value

    def _pop_mark(self) -> list[Any]:
        if not self._marks:
            raise BadPickle("a list has no beginning")
        at = self._marks.pop()
        values = self._stack[at:]
        del self._stack[at:]
        return values

    def push(self, value: Any) -> None:
        self._stack.append(value)

    # Containers.

    def mark(self, _: Any) -> None:
        self._marks.append(len(self._stack))

    def pop(self, _: Any) -> None:
        if self._marks and self._marks[-1] == len(self._stack):
            self._marks.pop()
        else:
            self._pop()

    def pop_mark(self, _: Any) -> None:
        self._pop_mark()

    def dup(self, _: Any) -> None:
        self.push(self._top())

    def tuple_of(self, count: int) -> None:
        values = [self._pop() for _ in range(count)]
        self.push(tuple(reversed(values)))

    def append(self, _: Any) -> None:
        self._extend([self._pop()])

    def appends(self, _: Any) -> None:
        self._extend(self._pop_mark())

    def _extend(self, values: list[Any]) -> None:
        target = self._top()
        if isinstance(target, Inert):
            target.members.extend(values)
        elif isinstance(target, list):
            target.extend(values)
        else:
            raise BadPickle("it appends to something that is no list")

    def setitem(self, _: Any) -> None:
        value, key = self._pop(), self._pop()
        self._update([key, value])

    def setitems(self, _: Any) -> None:
        self._update(self._pop_mark())

    def _update(self, flat: list[Any]) -> None:
        target = self._top()
        items = target.items if isinstance(target, Inert) else target
        if not isinstance(items, dict):
            raise BadPickle("it sets items of something that is no dictionary")
        items.update(_dictionary(flat))

    def make_dict(self, _: Any) -> None:
        self.push(_dictionary(self._pop_mark()))

    # The memo.

    def put(self, index: int) -> None:
        self._memo[index] = self._top()

    def memoize(self, _: Any) -> None:
        self._memo[len(self._memo)] = self._top()

    def get(self, index: int) -> None:
        if index not in self._memo:
            raise BadPickle("it refers to a value that does not exist")
        self.push(self._memo[index])

    # Names and objects.

    def global_(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self.push(self._named(module, name))

    def stack_global(self, _: Any) -> None:
        name, module = self._pop(), self._pop()
        if not (isinstance(name, str) and isinstance(module, str)):
            raise BadPickle("a name is not a text")
        self.push(self._named(module, name))

    def _named(self, module: str, name: str) -> Any:
        found = Name(module, name)
        if is_hostile(found):
            raise UnsafeCheckpoint(
                self._what,
                f"opening it the usual way would call {shown(str(found))}; nothing was run.",
                "A checkpoint has no use for that. Do not open this file with other tools; "
                "get the weights from a source you trust.",
            )
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        return found

    def reduce(self, _: Any) -> None:
        arguments, function = self._pop(), self._pop()
        self.push(self._made(function, arguments))

    def new_object(self, _: Any) -> None:
        self.reduce(None)

    def new_object_ex(self, _: Any) -> None:
        self._pop()  # keyword arguments
        self.reduce(None)

    def old_object(self, _: Any) -> None:
        values = self._pop_mark()
        self.push(self._made(values[0] if values else None, tuple(values[1:])))

    def old_instance(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self.push(self._made(self._named(module, name), tuple(self._pop_mark())))

    def _made(self, function: Any, arguments: Any) -> Any:
        if not isinstance(function, Name):
            raise BadPickle("it calls something that is not a name")
        if not isinstance(arguments, tuple):
            arguments = (arguments,)
        key = (function.module, function.name)
        if key == ("torch.storage", "_load_from_bytes") and self._load_nested and isinstance(arguments[0], bytes):
            return self._load_nested(arguments[0])
        builder = _BUILDERS.get(key)
        return builder(*arguments) if builder else Inert(function, arguments)

    def build(self, _: Any) -> None:
        state, target = self._pop(), self._top()
        if not isinstance(target, Inert):
            return  # an OrderedDict's or a tensor's attributes: of no interest
        parts = state if isinstance(state, tuple) and len(state) == 2 else (state,)
        plain = [part for part in parts if isinstance(part, dict)]
        for part in plain:
            target.state.update({str(name): value for name, value in part.items()})
        if not plain:
            target.members.append(state)

    def persistent(self, pid: Any) -> None:
        if self._load_storage is None:
            raise BadPickle("it refers to storages outside the pickle")
        self.push(self._load_storage(pid))

    def persistent_top(self, _: Any) -> None:
        self.persistent(self._pop())


def _dictionary(flat: list[Any]) -> dict[Any, Any]:
    if len(flat) % 2:
        raise BadPickle("a key has no value")
    keys = flat[::2]
    for key in keys:
        # A tuple of plain values may be a key; deeper ones could take for ever to hash.
        inner = key if isinstance(key, tuple) else (key,)
        if not all(isinstance(part, (KEY_TYPES, Name, torch.dtype)) for part in inner):
            raise BadPickle("a dictionary has a key that is neither a number nor a text")
    return dict(zip(keys, flat[1::2], strict=True))


# The ways tensors and their like are stored.


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> StoredTensor:
    return _checked(storage, getattr(storage, "dtype", torch.float32), offset, size, stride)


def _tensor_v3(storage: Any, offset: Any, size: Any, stride: Any, grad: Any, hooks: Any, dtype: Any, *rest: Any) -> Any:
    return _checked(storage, dtype, offset, size, stride)


def _checked(storage: Any, dtype: Any, offset: Any, size: Any, stride: Any) -> StoredTensor:
    shapes = size if isinstance(size, (tuple, list)) else None
    strides = stride if isinstance(stride, (tuple, list)) else None
    if not isinstance(storage, Storage) or not isinstance(dtype, torch.dtype) or shapes is None or strides is None:
        raise BadPickle("a tensor is described in an unknown way")
    made = StoredTensor(storage, dtype, offset, tuple(shapes), tuple(strides))
    if len(made.shape) != len(made.stride):
        raise BadPickle("a tensor's shape and strides differ in length")
    made.check()
    return made


def _parameter(data: Any, *rest: Any) -> Any:
    return data


def _from_type(build: Any, kind: Any, arguments: Any, *rest: Any) -> Any:
    builder = _BUILDERS.get((build.module, build.name)) if isinstance(build, Name) else None
    if builder is None or not isinstance(arguments, tuple):
        raise BadPickle("a tensor is described in an unknown way")
    return builder(*arguments)


def _ordered(*arguments: Any) -> dict[Any, Any]:
    pairs = arguments[0] if arguments else []
    if isinstance(pairs, dict):
        return dict(pairs)
    if not isinstance(pairs, (list, tuple)) or not all(isinstance(p, (list, tuple)) and len(p) == 2 for p in pairs):
        return {}
    return _dictionary([value for pair in pairs for value in pair])


def _text_bytes(text: Any = "", encoding: Any = "latin1") -> bytes:
    return (
        text.encode("utf-8" if encoding in ("utf-8", "utf8") else "latin1", "replace") if isinstance(text, str) else b""
    )


def _listed(values: Any = (), *rest: Any) -> list[Any]:
    return list(values) if isinstance(values, (list, tuple)) else []


_BUILDERS: dict[tuple[str, str], Callable[..., Any]] = {
    ("collections", "OrderedDict"): _ordered,
    ("collections", "defaultdict"): lambda *_: {},
    ("collections", "Counter"): _ordered,
    ("builtins", "dict"): _ordered,
    ("__builtin__", "dict"): _ordered,
    ("builtins", "list"): _listed,
    ("builtins", "set"): _listed,
    ("builtins", "frozenset"): _listed,
    ("__builtin__", "set"): _listed,
    ("_codecs", "encode"): _text_bytes,
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_tensor_v3"): _tensor_v3,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _parameter,
    ("torch._tensor", "_rebuild_from_type_v2"): _from_type,
    ("torch", "Size"): lambda *a: tuple(_listed(*a)),
}


def _constant(value: Any) -> Callable[[DataReader, Any], None]:
    return lambda reader, _: reader.push(value)


def _ignore(reader: DataReader, _: Any) -> None:
    pass


def _argument(reader: DataReader, argument: Any) -> None:
    reader.push(argument)


def _empty(make: Callable[[], Any]) -> Callable[[DataReader, Any], None]:
    return lambda reader, _: reader.push(make())


_LITERALS = (
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "UNICODE", "SHORT_BINUNICODE",
    "BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8", "STRING", "BINSTRING",
    "SHORT_BINSTRING",
)  # fmt: skip
_OPCODES: dict[str, Callable[[DataReader, Any], None]] = {
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), _ignore),
    **dict.fromkeys(_LITERALS, _argument),
    "NONE": _constant(None),
    "NEWTRUE": _constant(True),
    "NEWFALSE": _constant(False),
    "EMPTY_LIST": _empty(list),
    "EMPTY_DICT": _empty(dict),
    "EMPTY_SET": _empty(list),
    "EMPTY_TUPLE": _constant(()),
    "MARK": DataReader.mark,
    "POP": DataReader.pop,
    "POP_MARK": DataReader.pop_mark,
    "DUP": DataReader.dup,
    "LIST": lambda reader, _: reader.push(reader._pop_mark()),
    "TUPLE": lambda reader, _: reader.push(tuple(reader._pop_mark())),
    "FROZENSET": lambda reader, _: reader.push(reader._pop_mark()),
    "TUPLE1": lambda reader, _: reader.tuple_of(1),
    "TUPLE2": lambda reader, _: reader.tuple_of(2),
    "TUPLE3": lambda reader, _: reader.tuple_of(3),
    "DICT": DataReader.make_dict,
    "APPEND": DataReader.append,
    "APPENDS": DataReader.appends,
    "ADDITEMS": DataReader.appends,
    "SETITEM": DataReader.setitem,
    "SETITEMS": DataReader.setitems,
    "PUT": DataReader.put,
    "BINPUT": DataReader.put,
    "LONG_BINPUT": DataReader.put,
    "MEMOIZE": DataReader.memoize,
    "GET": DataReader.get,
    "BINGET": DataReader.get,
    "LONG_BINGET": DataReader.get,
    "GLOBAL": DataReader.global_,
    "STACK_GLOBAL": DataReader.stack_global,
    "REDUCE": DataReader.reduce,
    "NEWOBJ": DataReader.new_object,
    "NEWOBJ_EX": DataReader.new_object_ex,
    "OBJ": DataReader.old_object,
    "INST": DataReader.old_instance,
    "BUILD": DataReader.build,
    "PERSID": DataReader.persistent,
    "BINPERSID": DataReader.persistent_top,
}  # fmt: skip


def storage_type(name: Any) -> torch.dtype:
    """The element type that `torch.FloatStorage` and its like stand for."""
    if isinstance(name, Name) and name.module in ("torch", "torch.storage") and name.name in _STORAGE_TYPES:
        return _STORAGE_TYPES[name.name]
    raise BadPickle("an unknown kind of storage")


def unpickle(data: bytes, what: str, load_storage: Callable[[Any], Storage] | None = None) -> Any:
    """The data of a pickle; `what` names it in messages."""
    return DataReader(io.BytesIO(data), what, load_storage).load()
