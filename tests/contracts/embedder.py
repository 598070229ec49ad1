"""What every Embedder promises. A test class inherits EmbedderContract and gives the fixture `embedder`."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexes.errors import EmbedderError
from indexes.protocols import Embedder
from ragsvc.model_install import PACKAGE, install

NOISE = 1e-5  # what padding and the order of sums may change in a component
TEXTS: tuple[str, ...] = (
    "Visitors sign in at the front desk.",
    "",
    "The invoice is due within 30 days of receipt, unless both parties agree otherwise in writing.",
    "Größe 3,5 µm — 東京, naïve café 🙂",
    "a",
    "SELECT id FROM chunks WHERE version_id = ? ORDER BY ordinal;",
    " \t\n ",
    "word " * 400,
    "Visitors sign in at the front desk.",
    "Parking is behind the building.",
)


def installed_minilm(factory: pytest.TempPathFactory) -> Path:
    """The one models' folder of a test run, with the default model in it; skips where its package is not installed."""
    if importlib.util.find_spec(PACKAGE) is None:
        pytest.skip("requirements/model.txt is not installed")
    return install(factory.getbasetemp() / "models").parent


class EmbedderContract:
    """Inherit it; `related` are two texts that must be nearer to each other than to the third, by `margin`."""

    related = ("Parking is behind the building.", "Where is the parking?", "Tantivy stores an inverted index.")
    margin = 0.1

    @pytest.fixture
    def embedder(self) -> Embedder:
        raise NotImplementedError

    def test_it_is_an_embedder_with_a_name_and_a_width(self, embedder: Embedder) -> None:
        assert isinstance(embedder, Embedder)
        assert embedder.id
        assert embedder.id == embedder.id.strip()
        assert embedder.dimensions > 0

    def test_rows_are_unit_float32_in_the_order_of_the_texts(self, embedder: Embedder) -> None:
        vectors = embedder.encode(TEXTS)
        assert vectors.dtype == np.float32
        assert vectors.shape == (len(TEXTS), embedder.dimensions)
        assert vectors.flags.c_contiguous
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
        backwards = embedder.encode(TEXTS[::-1])
        np.testing.assert_allclose(backwards[::-1], vectors, atol=NOISE)

    def test_no_texts_give_no_rows(self, embedder: Embedder) -> None:
        vectors = embedder.encode([])
        assert vectors.shape == (0, embedder.dimensions)
        assert vectors.dtype == np.float32
        assert embedder.count_tokens([]) == 0

    def test_one_empty_text_has_a_vector(self, embedder: Embedder) -> None:
        vector = embedder.encode([""])
        assert vector.shape == (1, embedder.dimensions)
        assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)

    def test_a_text_gives_its_vector_whatever_else_is_in_the_batch(self, embedder: Embedder) -> None:
        alone = np.concatenate([embedder.encode([text]) for text in TEXTS])

        @settings(max_examples=15)
        @given(st.lists(st.sampled_from(range(len(TEXTS))), min_size=1, max_size=12))
        def check(picked: list[int]) -> None:
            together = embedder.encode([TEXTS[index] for index in picked])
            np.testing.assert_allclose(together, alone[picked], rtol=0, atol=NOISE)

        check()

    def test_a_query_is_one_unit_row(self, embedder: Embedder) -> None:
        for text in TEXTS:
            vector = embedder.encode_query(text)
            assert vector.shape == (1, embedder.dimensions)
            assert vector.dtype == np.float32
            assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)

    def test_what_is_related_is_near(self, embedder: Embedder) -> None:
        near, also_near, far = embedder.encode(self.related)
        assert near @ also_near > near @ far + self.margin

    def test_tokens_add_up_and_grow(self, embedder: Embedder) -> None:
        assert embedder.count_tokens(TEXTS) == sum(embedder.count_tokens([text]) for text in TEXTS)
        assert embedder.count_tokens(["one two three"]) > embedder.count_tokens(["one"])

    def test_one_text_in_place_of_a_list_is_an_error(self, embedder: Embedder) -> None:
        with pytest.raises(EmbedderError, match="list"):
            embedder.encode("abc")

    def test_many_threads_may_use_it_at_once(self, embedder: Embedder) -> None:
        expected = embedder.encode(TEXTS)

        def work(start: int) -> tuple[int, np.ndarray]:
            rotated: Sequence[str] = TEXTS[start:] + TEXTS[:start]
            return start, embedder.encode(rotated)

        with ThreadPoolExecutor(4) as pool:
            for start, vectors in pool.map(work, [0, 3, 5, 8]):
                np.testing.assert_allclose(np.roll(vectors, start, axis=0), expected, rtol=0, atol=NOISE)
