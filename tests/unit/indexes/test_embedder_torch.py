"""sentence-transformers as an Embedder (extra models), and as the oracle of the default model's graph."""

from __future__ import annotations

import json
import random
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from indexes.embedder import DEFAULT_MODEL, OnnxEmbedder, hub_folder, open_embedder
from indexes.embedder_torch import NEEDS_EXTRA, SentenceTransformersEmbedder, save_model
from indexes.errors import EmbedderError, ModelMissing
from indexes.protocols import Embedder
from tests.contracts.embedder import TEXTS, EmbedderContract, installed_minilm


def test_without_the_extra_the_error_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Core: None in sys.modules is Python's own way to say that a module cannot be imported."""
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    for attempt in (
        lambda: open_embedder("st:org/name", models_dir=tmp_path),
        lambda: save_model("org/name", tmp_path / "there"),
    ):
        with pytest.raises(EmbedderError, match="org/name needs sentence-transformers") as caught:
            attempt()
        assert caught.value.hint == NEEDS_EXTRA == 'Install the extra: uv pip install "ragsvc[models]".'


@pytest.fixture(scope="module")
def sentence_transformers_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MiniLM as a folder that sentence-transformers opens: what is installed, and which module follows which."""
    pytest.importorskip("sentence_transformers")
    folder = tmp_path_factory.mktemp("saved")
    for file in (installed_minilm(tmp_path_factory) / DEFAULT_MODEL).iterdir():
        (folder / file.name).symlink_to(file)
    steps = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
    modules = [
        {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for number, (path, kind) in enumerate(steps.items())
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 512})
    )
    for path in ("1_Pooling", "2_Normalize"):
        (folder / path).mkdir()
    (folder / "1_Pooling" / "config.json").write_text(
        json.dumps({"word_embedding_dimension": 384, "pooling_mode_mean_tokens": True})
    )
    return folder


@pytest.fixture(scope="module")
def oracle(sentence_transformers_model: Path) -> SentenceTransformersEmbedder:
    return SentenceTransformersEmbedder(str(sentence_transformers_model), device="cpu")


@pytest.fixture(scope="module")
def minilm(tmp_path_factory: pytest.TempPathFactory) -> OnnxEmbedder:
    return OnnxEmbedder(installed_minilm(tmp_path_factory) / DEFAULT_MODEL)


@pytest.mark.extras
@pytest.mark.slow
class TestSentenceTransformersContract(EmbedderContract):
    @pytest.fixture
    def embedder(self, oracle: SentenceTransformersEmbedder) -> Embedder:
        return oracle


def varied_sentences(count: int) -> list[str]:
    """Sentences of 1 to 400 words: prose, numbers, code, accents, words that no vocabulary has."""
    rng = random.Random(7)
    words = re.split(
        " ",
        "the lease tenant pays invoice index merge segment Zürich naïve 東京 x86_64 3.14 2024-05-01 O'Neil "
        "def return {key: value} https://example.org/a?b=c qzxjkv supercalifragilistic not never 10% € — ; !",
    )
    lengths = [rng.choice((1, 3, 3, 8, 8, 15, 15, 25, 25, 60, 150, 400)) for _ in range(count)]
    return [" ".join(rng.choice(words) for _ in range(length)) for length in lengths]


@pytest.mark.extras
@pytest.mark.slow
def test_the_graph_equals_sentence_transformers(oracle: SentenceTransformersEmbedder, minilm: OnnxEmbedder) -> None:
    texts = [*varied_sentences(200 - len(TEXTS)), *TEXTS]
    assert oracle.count_tokens(texts) == minilm.count_tokens(texts)
    assert sum(minilm.count_tokens([text]) == 256 for text in texts) > 20, "some must be cut at the limit"
    expected, found = oracle.encode(texts), minilm.encode(texts)
    cosines = (expected.astype(np.float64) * found).sum(axis=1)
    assert cosines.min() > 0.99999
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.extras
def test_it_is_named_by_its_folder_and_weights(oracle: SentenceTransformersEmbedder, tmp_path: Path) -> None:
    name, _, digest = oracle.id.partition("@")
    assert name.startswith("st:saved")
    assert len(digest) == 12
    assert oracle.dimensions == 384


@pytest.mark.extras
def test_a_saved_model_is_found_by_its_hub_name_and_keeps_its_digest(
    oracle: SentenceTransformersEmbedder, sentence_transformers_model: Path, tmp_path: Path
) -> None:
    save_model(str(sentence_transformers_model), tmp_path / hub_folder("org/mini"))
    found = open_embedder("st:org/mini", models_dir=tmp_path, threads=1)
    assert found.id.partition("@")[2] == oracle.id.partition("@")[2]
    np.testing.assert_allclose(found.encode(TEXTS), oracle.encode(TEXTS), rtol=0, atol=1e-5)


@pytest.mark.extras
def test_a_prompt_changes_the_vectors_and_so_the_name(
    oracle: SentenceTransformersEmbedder, sentence_transformers_model: Path, tmp_path: Path
) -> None:
    for file in sentence_transformers_model.iterdir():
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "config_sentence_transformers.json").write_text(
        json.dumps({"prompts": {"query": "question: ", "document": ""}, "default_prompt_name": None})
    )
    prompted = SentenceTransformersEmbedder(str(tmp_path), device="cpu")
    assert prompted.id.partition("@")[2] != oracle.id.partition("@")[2]
    text = "where do visitors sign in"
    np.testing.assert_allclose(prompted.encode([text]), oracle.encode([text]), atol=1e-5)
    np.testing.assert_allclose(prompted.encode_query(text), oracle.encode([f"question: {text}"]), atol=1e-5)


@pytest.mark.extras
def test_an_unknown_model_is_missing_not_fetched(tmp_path: Path) -> None:
    pytest.importorskip("sentence_transformers")
    for name in ("no-such-org/no-such-model", str(tmp_path / "absent"), str(tmp_path)):
        with pytest.raises(ModelMissing, match="cannot open") as caught:
            open_embedder(f"st:{name}", models_dir=tmp_path)
        assert "ragsvc model install" in caught.value.hint


@pytest.mark.extras
def test_pickled_weights_are_not_opened(sentence_transformers_model: Path, tmp_path: Path) -> None:
    for file in sentence_transformers_model.iterdir():
        if file.name != "model.safetensors":
            (tmp_path / file.name).symlink_to(file)
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04cos\nsystem\n.")
    with pytest.raises(ModelMissing):
        SentenceTransformersEmbedder(str(tmp_path), device="cpu")


@pytest.mark.extras
def test_text_that_is_no_unicode_is_our_error(oracle: SentenceTransformersEmbedder) -> None:
    with pytest.raises(EmbedderError):
        oracle.encode(["half \ud800 of a pair"])
