"""Whom a model can sing as, and who is meant by a name or a number."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from trt_svc.errors import InputError, shown
from trt_svc.registry import did_you_mean


@dataclass(frozen=True)
class Speakers:
    """Whom a model can sing as."""

    names: Mapping[str, int]
    count: int
    what: str
    """The model, for messages."""

    def number(self, asked: str | int | None) -> int:
        """The number of a speaker given by name or number; None is the only one."""
        if asked is None:
            return self._only()
        if isinstance(asked, str) and asked in self.names:
            return self.names[asked]
        number = int(asked) if isinstance(asked, int) or asked.isdecimal() else -1
        known = set(self.names.values()) or range(self.count)
        if isinstance(asked, bool) or number not in known:
            found = f"{self.what} has none of that name or number."
            raise InputError(
                f"speaker {shown(str(asked))!r}", found, did_you_mean(str(asked), list(self.names) or ["0"])
            )
        return number

    def name(self, number: int) -> str:
        """The name that clusters are filed under."""
        return next((name for name, own in self.names.items() if own == number), str(number))

    def _only(self) -> int:
        if len(self.names) == 1 or self.count == 1:
            return next(iter(self.names.values()), 0)
        known = ", ".join(list(self.names)[:8]) or f"0 to {self.count - 1}"
        raise InputError("converting without a speaker", f"{self.what} has several.", f"Name one (-s): {known}.")
