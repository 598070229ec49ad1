"""How many tokens a text costs the caller's model."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from typing import Any, Protocol

from indexes.errors import QueryInvalid

TOKENIZERS = ("o200k_base", "cl100k_base")
_PIECE = 500_000  # characters; bpe-openai refuses a million


class TokenCounter(Protocol):
    """Counts tokens the way one family of models does."""

    @property
    def name(self) -> str:
        """The encoding, as tiktoken names it."""
        ...

    def count(self, text: str) -> int:
        """Tokens of `text` as plain text: control sequences in it have no meaning."""
        ...


class BpeCounter:
    """One of OpenAI's byte pair encodings, by bpe-openai (its tables are in the package)."""

    def __init__(self, name: str) -> None:
        self._name = name
        with warnings.catch_warnings():  # bpe-openai 0.1.4 reads its tables by a deprecated call
            warnings.simplefilter("ignore", DeprecationWarning)
            import bpe_openai  # type: ignore[import-untyped,unused-ignore]

            self._encoding: Any = bpe_openai.get_encoding(name)

    @property
    def name(self) -> str:
        """The encoding, as tiktoken names it."""
        return self._name

    def count(self, text: str) -> int:
        """Tokens of `text`; lone surrogates count as U+FFFD. Exact up to 500,000 characters."""
        return sum(len(self._encoding.encode_ordinary(piece)) for piece in _pieces(text))


def token_counter(name: str) -> TokenCounter:
    """The counter of this name, loaded once. Raises QueryInvalid for a name that is not known."""
    if name not in TOKENIZERS:
        raise QueryInvalid(f"There is no tokenizer {name!r}.", hint=f"Choose one of: {', '.join(TOKENIZERS)}.")
    with _lock:
        if name not in _counters:
            _counters[name] = BpeCounter(name)
        return _counters[name]


_lock = threading.Lock()
_counters: dict[str, TokenCounter] = {}


def _pieces(text: str) -> Iterator[str]:
    """Parts of at most 500,000 characters, cut before a blank where there is one (tokens begin with blanks)."""
    start = 0
    while len(text) - start > _PIECE:
        stop = text.rfind(" ", start + _PIECE // 2, start + _PIECE)
        stop = stop if stop > start else start + _PIECE
        yield text[start:stop]
        start = stop
    yield text[start:]
