"""The command line as so-vits-svc's inference_main.py takes it: several values behind one option, underscores."""

from __future__ import annotations

import re
from typing import Any

from typer.core import TyperCommand

SEVERAL = ("-n", "--clean-names", "-t", "--trans", "-s", "--spk-list")
"""Options that take all the values up to the next option."""
_NUMBER = re.compile(r"-(\d+\.?\d*|\.\d+)")


class UpstreamWords(TyperCommand):
    """A command that may be called like upstream's."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, plain_words(args))


def plain_words(words: list[str]) -> list[str]:
    """The same with one option before every value, and with dashes in long names."""
    made: list[str] = []
    several = ""
    for place, word in enumerate(words):
        if word == "--":
            return made + words[place:]
        if _is_option(word):
            made.append(_with_dashes(word))
            several = made[-1] if made[-1] in SEVERAL else ""
        elif several and made[-1] != several:
            made += [several, word]
        else:
            made.append(word)
    return made


def _is_option(word: str) -> bool:
    return len(word) > 1 and word.startswith("-") and _NUMBER.fullmatch(word) is None


def _with_dashes(option: str) -> str:
    name, equals, value = option.partition("=")
    return name.replace("_", "-") + equals + value if name.startswith("--") else option
