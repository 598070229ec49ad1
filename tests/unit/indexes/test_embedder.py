"""The embedders that need no torch: against sentence-transformers' stored numbers, a numpy BERT, and their contract."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from indexes.embedder import (
    BATCH_TOKENS,
    DEFAULT_MODEL,
    PADDING,
    HashEmbedder,
    OnnxEmbedder,
    hub_folder,
    open_embedder,
    plan_batches,
)
from indexes.errors import EmbedderError, ModelDamaged, ModelMissing
from indexes.minilm_graph import GRAPH, MANIFEST, TOKENIZER, WEIGHTS, BertShape, Manifest, Weights, write_model
from indexes.protocols import Embedder
from tests.contracts.embedder import TEXTS, EmbedderContract, installed_minilm

REFERENCE = json.loads((Path(__file__).parent / "minilm_reference.json").read_text(encoding="utf-8"))["cases"]

# ---------------------------------------------------------------- a tiny model with random weights

WIDTH, HEADS, LAYERS, INNER, LIMIT, EPSILON = 12, 3, 2, 20, 16, 1e-6
WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    *["a", "b", "c", "d", "e", "f", "g", "h", "the", "lease", "ends", "in", "may"],
]
CONFIG = {
    "model_type": "bert",
    "hidden_act": "gelu",
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "hidden_size": WIDTH,
    "layer_norm_eps": EPSILON,
    "max_position_embeddings": 24,
}


def random_weights(seed: int = 0) -> dict[str, NDArray[np.float32]]:
    rng = np.random.default_rng(seed)

    def some(*shape: int) -> NDArray[np.float32]:
        return rng.normal(0, 0.6, shape).astype(np.float32)

    weights = {
        "embeddings.word_embeddings.weight": some(len(WORDS), WIDTH),
        "embeddings.position_embeddings.weight": some(24, WIDTH),
        "embeddings.token_type_embeddings.weight": some(2, WIDTH),
    }
    norms = ["embeddings.LayerNorm"]
    for layer in (f"encoder.layer.{number}" for number in range(LAYERS)):
        sizes = {f"attention.self.{part}": (WIDTH, WIDTH) for part in ("query", "key", "value")}
        sizes |= {
            "attention.output.dense": (WIDTH, WIDTH),
            "intermediate.dense": (INNER, WIDTH),
            "output.dense": (WIDTH, INNER),
        }
        for name, size in sizes.items():
            weights |= {f"{layer}.{name}.weight": some(*size), f"{layer}.{name}.bias": some(size[0])}
        norms += [f"{layer}.attention.output.LayerNorm", f"{layer}.output.LayerNorm"]
    for name in norms:
        weights |= {f"{name}.weight": 1 + some(WIDTH), f"{name}.bias": some(WIDTH)}
    return weights


def tiny_files(folder: Path, **changes: object) -> Path:
    """The files as they are published, before `write_model`."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(random_weights(), folder / WEIGHTS)
    (folder / "config.json").write_text(json.dumps(CONFIG | changes))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": LIMIT}))
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.enable_padding(length=20)  # as the published file does; it must be switched off
    tokenizer.save(str(folder / TOKENIZER))
    return folder


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    folder = tiny_files(tmp_path / "tiny")
    write_model(folder, name="tiny")
    return folder


def numpy_bert(weights: dict[str, NDArray[np.float32]], ids: Sequence[int]) -> NDArray[np.float64]:
    """One text through BERT as the paper has it, in float64, without batches, padding or fusions."""

    def linear(x: NDArray[np.float64], name: str) -> NDArray[np.float64]:
        return x @ weights[f"{name}.weight"].astype(np.float64).T + weights[f"{name}.bias"]

    def norm(x: NDArray[np.float64], name: str) -> NDArray[np.float64]:
        centred = x - x.mean(1, keepdims=True)
        spread = np.sqrt((centred**2).mean(1, keepdims=True) + EPSILON)
        return centred / spread * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    x = weights["embeddings.word_embeddings.weight"][list(ids)].astype(np.float64)
    x = x + weights["embeddings.position_embeddings.weight"][: len(ids)]
    x = norm(x + weights["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
    for name in (f"encoder.layer.{number}" for number in range(LAYERS)):
        parts = [linear(x, f"{name}.attention.self.{part}") for part in ("query", "key", "value")]
        mixed = []
        for q, k, v in zip(*(np.split(part, HEADS, axis=1) for part in parts), strict=True):
            shares = np.exp(q @ k.T / math.sqrt(WIDTH // HEADS))
            mixed.append(shares / shares.sum(1, keepdims=True) @ v)
        x = norm(
            x + linear(np.concatenate(mixed, 1), f"{name}.attention.output.dense"), f"{name}.attention.output.LayerNorm"
        )
        inner = linear(x, f"{name}.intermediate.dense")
        inner = inner * 0.5 * (1 + np.vectorize(math.erf)(inner / math.sqrt(2)))
        x = norm(x + linear(inner, f"{name}.output.dense"), f"{name}.output.LayerNorm")
    mean = x.mean(0)
    return mean / np.linalg.norm(mean)


def test_the_graph_computes_what_bert_is(tiny: Path) -> None:
    embedder, weights = OnnxEmbedder(tiny, threads=1), load_file(tiny / WEIGHTS)

    @given(st.lists(st.lists(st.sampled_from(range(1, len(WORDS))), max_size=30), min_size=1, max_size=8))
    def check(texts: list[list[int]]) -> None:
        plain = [[number for number in text if number > 3] for text in texts]
        found = embedder.encode([" ".join(WORDS[number] for number in text) for text in plain])
        expected = [numpy_bert(weights, [2, *text[: LIMIT - 2], 3]) for text in plain]
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)

    check()


def test_the_oracle_notices_a_change_of_any_tensor(tiny: Path) -> None:
    """A graph that forgot a tensor would agree with an oracle that forgot it too: each one must matter."""
    weights = load_file(tiny / WEIGHTS)
    ids = [2, 5, 9, 12, 3]
    before = numpy_bert(weights, ids)
    for name in weights:
        changed = weights | {name: weights[name] + np.linspace(0, 1, weights[name].size).reshape(weights[name].shape)}
        moved = np.abs(numpy_bert(changed, ids) - before).max()
        assert moved > 1e-4 or name.endswith("key.bias"), name  # a key's bias shifts all logits of a query alike


class TestTinyContract(EmbedderContract):
    related = ("the lease ends in may", "the lease ends in may", "a b c d e f g h")  # random weights know no more
    margin = 0.01

    @pytest.fixture
    def embedder(self, tiny: Path) -> Embedder:
        return OnnxEmbedder(tiny, threads=2, batch_tokens=40)


# ---------------------------------------------------------------- the default model


@pytest.fixture(scope="module")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return installed_minilm(tmp_path_factory)


@pytest.fixture(scope="module")
def minilm(models_dir: Path) -> OnnxEmbedder:
    return OnnxEmbedder(models_dir / DEFAULT_MODEL)


class TestMiniLMContract(EmbedderContract):
    @pytest.fixture
    def embedder(self, minilm: OnnxEmbedder) -> Embedder:
        return minilm


def test_minilm_gives_sentence_transformers_numbers(minilm: OnnxEmbedder) -> None:
    expected = np.array([case["vector"] for case in REFERENCE])
    assert minilm.count_tokens([REFERENCE[-1]["text"]]) == 256, "one case must be long enough to be cut"
    found = minilm.encode([case["text"] for case in REFERENCE])
    np.testing.assert_allclose(found, expected, rtol=0, atol=3e-6)
    assert (found * expected).sum(1).min() > 0.99999
    for case, row in zip(REFERENCE, found, strict=True):
        np.testing.assert_allclose(minilm.encode_query(case["text"])[0], row, rtol=0, atol=1e-5)


def test_minilm_is_named_by_its_weights(minilm: OnnxEmbedder) -> None:
    assert minilm.id == "all-MiniLM-L6-v2@53aa51172d14"
    assert minilm.dimensions == 384


def test_words_past_the_limit_are_not_read(minilm: OnnxEmbedder) -> None:
    text = "lease " * 254
    assert minilm.count_tokens([text]) == minilm.count_tokens([text + "ends in May"]) == 256
    np.testing.assert_allclose(minilm.encode([text]), minilm.encode([text + "ends in May"]), atol=1e-6)


def test_the_number_of_threads_and_the_batches_change_nothing(models_dir: Path, minilm: OnnxEmbedder) -> None:
    texts = [f"{text} {number}" for number in range(3) for text in TEXTS]
    one = OnnxEmbedder(models_dir / DEFAULT_MODEL, threads=1, batch_tokens=1)
    np.testing.assert_allclose(one.encode(texts), minilm.encode(texts), rtol=0, atol=1e-5)


# ---------------------------------------------------------------- loading


def test_opening_reads_no_weights_and_importing_nothing_heavy(tiny: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from indexes.embedder import OnnxEmbedder\n"
        f"embedder = OnnxEmbedder(Path({str(tiny)!r})); print(embedder.id, embedder.dimensions)\n"
        "print({'onnxruntime', 'onnx', 'tokenizers', 'torch', 'sentence_transformers'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    name, heavy = done.stdout.splitlines()
    assert name.startswith("tiny@")
    assert heavy == "set()"


def test_a_fork_after_embedding_warns_of_nothing(tiny: Path) -> None:
    code = (
        "import os; from pathlib import Path; from indexes.embedder import OnnxEmbedder\n"
        f"embedder = OnnxEmbedder(Path({str(tiny)!r}), threads=1); embedder.encode(['a b', 'c'] * 20)\n"
        "child = os.fork()\nif not child:\n    embedder.count_tokens(['a b']); os._exit(0)\nos.waitpid(child, 0)"
    )
    environment = {key: value for key, value in os.environ.items() if key != "TOKENIZERS_PARALLELISM"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stderr == ""


def test_threads_that_meet_at_the_first_text_load_one_model(tiny: Path) -> None:
    embedder = OnnxEmbedder(tiny)
    with ThreadPoolExecutor(8) as pool:
        assert len({id(loaded) for loaded in pool.map(lambda _: embedder._load(), range(32))}) == 1


def test_an_absent_model_says_how_to_get_it(tmp_path: Path, tiny: Path) -> None:
    with pytest.raises(ModelMissing, match="no embedding model") as caught:
        OnnxEmbedder(tmp_path / "nothing")
    assert "ragsvc model install" in caught.value.hint
    for name in (WEIGHTS, GRAPH, TOKENIZER):
        copy = shutil.copytree(tiny, tmp_path / f"without-{name}")
        (copy / name).unlink()
        with pytest.raises(ModelMissing, match=name):
            OnnxEmbedder(copy)


@pytest.mark.parametrize("name", [WEIGHTS, GRAPH, TOKENIZER])
def test_a_file_of_another_size_is_noticed_at_once(tiny: Path, name: str) -> None:
    with (tiny / name).open("ab") as file:
        file.write(b"\0")
    with pytest.raises(ModelDamaged, match=name) as caught:
        OnnxEmbedder(tiny)
    assert "--force" in caught.value.hint


@pytest.mark.parametrize("name", [WEIGHTS, GRAPH, TOKENIZER])
def test_one_flipped_bit_is_noticed_before_the_first_vector(tiny: Path, name: str) -> None:
    raw = bytearray((tiny / name).read_bytes())
    raw[len(raw) // 2] ^= 1
    (tiny / name).write_bytes(raw)
    embedder = OnnxEmbedder(tiny)
    with pytest.raises(ModelDamaged, match=name):
        embedder.encode(["a"])


@pytest.mark.parametrize(
    "manifest", [b"", b"{", b"[]", b'{"name": "x"}', b'{"files": {"a": 1}}', b'{"files": []}', b"\xff", b"null"]
)
def test_a_manifest_that_says_nothing_is_damage(tiny: Path, manifest: bytes) -> None:
    (tiny / MANIFEST).write_bytes(manifest)
    with pytest.raises(ModelDamaged):
        OnnxEmbedder(tiny)


def test_a_manifest_must_vouch_for_every_file_that_is_read(tiny: Path) -> None:
    raw = json.loads((tiny / MANIFEST).read_bytes())
    del raw["files"][WEIGHTS]
    (tiny / MANIFEST).write_text(json.dumps(raw))
    with pytest.raises(ModelDamaged, match=WEIGHTS):
        OnnxEmbedder(tiny)


def test_a_graph_of_another_version_is_not_used(tiny: Path) -> None:
    raw = json.loads((tiny / MANIFEST).read_bytes())
    (tiny / MANIFEST).write_text(json.dumps(raw | {"graph_version": raw["graph_version"] + 1}))
    with pytest.raises(ModelDamaged, match="version") as caught:
        OnnxEmbedder(tiny)
    assert caught.value.hint == "Run `ragsvc model install`."


def test_text_that_is_no_unicode_is_named(tiny: Path) -> None:
    with pytest.raises(EmbedderError, match="ud800"):
        OnnxEmbedder(tiny).encode(["fine", "half \ud800 of a pair"])


def test_what_onnxruntime_says_becomes_our_error(tiny: Path) -> None:
    with pytest.raises(EmbedderError, match="could not embed"):
        OnnxEmbedder(tiny)._load().run([[10**6]])


# ---------------------------------------------------------------- building the graph


def test_building_twice_gives_the_same_bytes_and_copies_no_weights(tiny: Path) -> None:
    graph, manifest = (tiny / GRAPH).read_bytes(), Manifest.read(tiny)
    assert write_model(tiny, name="tiny") == manifest
    assert (tiny / GRAPH).read_bytes() == graph
    assert load_file(tiny / WEIGHTS)["encoder.layer.0.output.dense.weight"].tobytes() not in graph
    assert not [path.name for path in tiny.iterdir() if path.name.startswith(".")]


def test_the_longest_input_is_the_shorter_of_both_limits(tmp_path: Path) -> None:
    assert BertShape.read(tiny_files(tmp_path / "a")).max_tokens == LIMIT
    assert BertShape.read(tiny_files(tmp_path / "b", max_position_embeddings=7)).max_tokens == 7


@pytest.mark.parametrize(
    "changes", [{"model_type": "mpnet"}, {"hidden_act": "gelu_new"}, {"position_embedding_type": "relative_key"}]
)
def test_another_architecture_is_refused(tmp_path: Path, changes: dict[str, str]) -> None:
    with pytest.raises(EmbedderError, match=next(iter(changes.values()))) as caught:
        write_model(tiny_files(tmp_path / "other", **changes), name="other")
    assert "st:NAME" in caught.value.hint


def test_the_build_needs_every_file(tmp_path: Path) -> None:
    for name in (WEIGHTS, TOKENIZER, "config.json", "sentence_bert_config.json"):
        folder = tiny_files(tmp_path / name)
        (folder / name).unlink()
        with pytest.raises(ModelMissing, match=name):
            write_model(folder, name="tiny")
        assert not (folder / MANIFEST).exists()


def test_weights_are_read_as_safetensors_reads_them(tiny: Path) -> None:
    ours = Weights(tiny / WEIGHTS)
    for name, expected in load_file(tiny / WEIGHTS).items():
        np.testing.assert_array_equal(ours.array(name), expected)


def header(entries: object) -> bytes:
    raw = json.dumps(entries).encode()
    return len(raw).to_bytes(8, "little") + raw


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"short",
        b"\xff" * 64,  # a header longer than the file
        (4).to_bytes(8, "little") + b"nope",
        header([]),
        header({}),
        header({"w": {"dtype": "F16", "shape": [1], "data_offsets": [0, 2]}}) + b"\0\0",
        header({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}) + b"\0" * 8,
        header({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}) + b"\0" * 4,  # past the end
        header({"w": {"dtype": "F32", "shape": [2], "data_offsets": [-8, 0]}}) + b"\0" * 4,
        header({"w": {"dtype": "F32", "shape": "x", "data_offsets": 3}}),
    ],
)
def test_a_broken_safetensors_file_is_damage(tmp_path: Path, content: bytes) -> None:
    (tmp_path / WEIGHTS).write_bytes(content)
    with pytest.raises(ModelDamaged):
        Weights(tmp_path / WEIGHTS).place("w")


# ---------------------------------------------------------------- batches


@given(st.lists(st.integers(2, 256), max_size=200), st.integers(1, 2000))
def test_batches_hold_each_text_once_within_their_bounds(lengths: list[int], limit: int) -> None:
    batches = list(plan_batches(lengths, limit))
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        sizes = [lengths[index] for index in batch]
        assert len(batch) == 1 or max(sizes) * len(batch) <= limit
        assert max(sizes) * len(batch) - sum(sizes) <= PADDING
    assert [max(lengths[index] for index in batch) for batch in batches] == sorted(
        (max(lengths[index] for index in batch) for batch in batches), reverse=True
    )


def test_texts_of_one_length_fill_their_batches() -> None:
    assert [len(batch) for batch in plan_batches([20] * 100, BATCH_TOKENS)] == [32, 32, 32, 4]
    assert [len(batch) for batch in plan_batches([150, 20, 20], BATCH_TOKENS)] == [1, 2]


# ---------------------------------------------------------------- hashing


class TestHashContract(EmbedderContract):
    @pytest.fixture
    def embedder(self) -> Embedder:
        return HashEmbedder(256)


class TestNarrowHashContract(EmbedderContract):
    """So narrow that features collide and cancel: every vector must still have a direction."""

    related = ("the lease", "the lease", "water")

    @pytest.fixture
    def embedder(self) -> Embedder:
        return HashEmbedder(2)


def test_hashed_vectors_are_the_same_on_every_machine() -> None:
    """Written down once; a change of the features needs another number in the id."""
    embedder = HashEmbedder(4)
    assert embedder.id == "hash:4@1"
    np.testing.assert_allclose(
        embedder.encode(["The lease ends in May."])[0], [0.701295, 0.151142, 0.674714, 0.1735], atol=1e-5
    )


@given(st.text(), st.text())
def test_hashing_knows_words_not_their_case_or_order(left: str, right: str) -> None:
    one, other = HashEmbedder(64).encode([f"{left} {right}", f"{right} {left}"])
    np.testing.assert_allclose(one, other, atol=1e-5)


def test_word_parts_bring_inflections_near() -> None:
    invoice, invoices, weather = HashEmbedder(512).encode(["invoice", "invoices", "weather"])
    assert invoice @ invoices > 0.3 > invoice @ weather


def test_hashed_features_spread_evenly() -> None:
    """Signs cancel in the mean, and unrelated words are nearly orthogonal: 1/sqrt(dimensions) is the noise."""
    vectors = HashEmbedder(256).encode([f"w{number * 7919:x}" for number in range(400)])
    off = (vectors @ vectors.T)[~np.eye(400, dtype=bool)]
    assert abs(off.mean()) < 0.05
    assert abs(vectors.mean()) < 0.01


# ---------------------------------------------------------------- the registry


def test_the_registry_opens_each_kind(models_dir: Path) -> None:
    assert open_embedder(DEFAULT_MODEL, models_dir=models_dir).id == "all-MiniLM-L6-v2@53aa51172d14"
    assert open_embedder("hash:32", models_dir=models_dir).dimensions == 32


def test_the_default_model_has_to_be_installed(tmp_path: Path) -> None:
    with pytest.raises(ModelMissing):
        open_embedder(DEFAULT_MODEL, models_dir=tmp_path)


@pytest.mark.parametrize(
    "name", ["", "minilm", "st:", "hash:", "hash:0", "hash:-1", "hash:x", "hash:²", "hash:99999999"]
)
def test_an_unknown_name_lists_the_choices(tmp_path: Path, name: str) -> None:
    with pytest.raises(EmbedderError, match="no embedder") as caught:
        open_embedder(name, models_dir=tmp_path)
    assert all(choice in caught.value.hint for choice in (DEFAULT_MODEL, "st:", "hash:"))


def test_hub_names_become_one_folder_name() -> None:
    assert hub_folder("org/name") == "hub--org--name"
