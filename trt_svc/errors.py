"""Every error of the library, one tree.

TrtSvcError
├── InputError               a tensor, number or option handed to a call does not fit
│   └── AudioFileError       a recording cannot be read or written
├── OutputError              a file cannot be written
├── ConfigError              a config.json, preset or recipe does not fit
├── CheckpointError          a weights file cannot be used
│   ├── CheckpointNotFound   there is no such file, folder or alias
│   ├── CorruptCheckpoint    truncated, foreign or damaged container
│   ├── UnsafeCheckpoint     opening it the usual way would run code
│   ├── UnknownFamily        no vocoder family has these keys
│   └── WeightsMismatch      keys, shapes or values do not fit the family and config
├── BuildError               an engine cannot be built
│   ├── GraphError           a module cannot be written as a graph, or its graph is not what it should be
│   ├── UnsupportedOperator  the compiler does not know an operation
│   ├── OutOfMemory          the compiler or the run needs more memory than there is
│   ├── ShapeRangeError      the asked shapes cannot be built
│   ├── QualityError         the engine does not sound like the network
│   └── BuildCancelled       stopped on request
├── EngineError              an engine file cannot be used
├── RunError                 a run of the network went wrong and could not be recovered
│   └── RunHung              it did not come back
├── MissingExtra             an optional package is not installed
└── BackendUnavailable       a backend cannot run on this machine

A message always has three parts: what was asked, what was found, what to do next.
"""

from __future__ import annotations

import reprlib

_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother, _SHORT.maxlong = 3, 80, 80, 30


def shown(value: object) -> str:
    """A value from outside, fit for a message: short, on one line, without control characters."""
    text = value if isinstance(value, str) else _SHORT.repr(value)
    text = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text[:200])
    return text if len(text) <= 80 else text[:77] + "..."


class TrtSvcError(Exception):
    """Base of all errors raised on purpose by trt_svc."""

    def __init__(self, asked: str, found: str, advice: str) -> None:
        super().__init__(asked, found, advice)
        self.asked = asked
        self.found = found
        self.advice = advice

    def __str__(self) -> str:
        return f"{self.asked}: {self.found} {self.advice}"

    def as_dict(self) -> dict[str, str]:
        """The same message for `--json`."""
        return {
            "error": type(self).__name__,
            "asked": self.asked,
            "found": self.found,
            "advice": self.advice,
        }


class InputError(TrtSvcError, ValueError):
    """A tensor, number or option handed to a call does not fit."""


class AudioFileError(InputError):
    """A recording cannot be read or written."""


class OutputError(TrtSvcError, OSError):
    """A file cannot be written."""


class ConfigError(TrtSvcError, ValueError):
    """A config.json, preset or recipe does not fit."""


class CheckpointError(TrtSvcError):
    """A weights file cannot be used."""


class CheckpointNotFound(CheckpointError, FileNotFoundError):
    """There is no such file, folder or alias."""


class CorruptCheckpoint(CheckpointError):
    """Truncated, foreign or damaged container."""


class UnsafeCheckpoint(CheckpointError):
    """Opening the file the usual way would run code."""


class UnknownFamily(CheckpointError):
    """No vocoder family has these keys."""


class WeightsMismatch(CheckpointError):
    """Keys, shapes or values do not fit the family and config."""


class BuildError(TrtSvcError):
    """An engine cannot be built."""


class GraphError(BuildError):
    """A module cannot be written as a graph, or its graph is not what it should be."""


class UnsupportedOperator(BuildError):
    """The compiler does not know an operation."""


class OutOfMemory(BuildError, MemoryError):
    """The compiler or the run needs more memory than there is."""


class ShapeRangeError(BuildError):
    """The asked shapes cannot be built."""


class QualityError(BuildError):
    """The engine does not sound like the network."""


class BuildCancelled(BuildError):
    """Stopped on request."""


class EngineError(TrtSvcError):
    """An engine file cannot be used."""


class RunError(TrtSvcError, RuntimeError):
    """A run of the network went wrong and could not be recovered."""


class RunHung(RunError, TimeoutError):
    """A run did not come back."""


class MissingExtra(TrtSvcError, ImportError):
    """An optional package is not installed."""


class BackendUnavailable(TrtSvcError, RuntimeError):
    """A backend cannot run on this machine."""
