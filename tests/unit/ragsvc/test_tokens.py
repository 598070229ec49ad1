"""Token counts are those of the caller's model, and no text breaks them."""

from __future__ import annotations

import pytest

from indexes.errors import QueryInvalid
from ragsvc.tokens import TOKENIZERS, token_counter


@pytest.mark.parametrize(
    ("name", "text", "tokens"),
    [
        # Counts of OpenAI's tiktoken.
        ("cl100k_base", "hello world", 2),
        ("cl100k_base", "tiktoken is great!", 6),
        ("cl100k_base", "antidisestablishmentarianism", 6),
        ("cl100k_base", "2 + 2 = 4", 7),
        ("cl100k_base", "お誕生日おめでとう", 9),
        ("o200k_base", "hello world", 2),
        ("o200k_base", "tiktoken is great!", 6),
        ("o200k_base", "antidisestablishmentarianism", 6),
        ("o200k_base", "2 + 2 = 4", 7),
        ("o200k_base", "お誕生日おめでとう", 8),
        ("o200k_base", "", 0),
    ],
)
def test_counts_are_those_of_the_published_encodings(name: str, text: str, tokens: int) -> None:
    assert token_counter(name).count(text) == tokens


@pytest.mark.parametrize("name", TOKENIZERS)
def test_control_sequences_are_plain_text(name: str) -> None:
    assert token_counter(name).count("<|endoftext|>") > 3


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("text", ["\ud800", "a\udfff b", "\x00", "\U000e0041", "\u200d" * 50])
def test_no_text_crashes_it(name: str, text: str) -> None:
    assert token_counter(name).count(text) > 0


def test_texts_over_the_library_limit_are_counted_in_pieces() -> None:
    counter = token_counter("o200k_base")
    assert counter.count("word " * 300_000) == pytest.approx(300_000, rel=0.001)
    assert counter.count("x" * 1_200_000) > 0


def test_counters_are_loaded_once_and_know_their_name() -> None:
    assert token_counter("o200k_base") is token_counter("o200k_base")
    assert [token_counter(name).name for name in TOKENIZERS] == list(TOKENIZERS)


@pytest.mark.parametrize("name", ["", "gpt2", "O200K_BASE", "../o200k_base"])
def test_an_unknown_name_is_refused_with_the_choices(name: str) -> None:
    with pytest.raises(QueryInvalid, match="tokenizer") as caught:
        token_counter(name)
    assert all(choice in caught.value.hint for choice in TOKENIZERS)
