"""Which model turns text into vectors, and how is it run?

`open_embedder` is the seam's registry. `OnnxEmbedder` runs the default model by onnxruntime, without torch;
`HashEmbedder` needs no model at all and is for tests and for measuring the pipeline without a model's cost.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexes.durable import stamp
from indexes.embedder_torch import SentenceTransformersEmbedder
from indexes.errors import EmbedderError, ModelDamaged, ModelMissing
from indexes.minilm_graph import GRAPH, GRAPH_VERSION, TOKENIZER, WEIGHTS, Manifest
from indexes.model import Matrix
from indexes.protocols import Embedder

DEFAULT_MODEL = "all-MiniLM-L6-v2"
CHOICES = f'"{DEFAULT_MODEL}", "st:NAME_OR_PATH" (extra models), "hash:DIM" (no model, for tests)'
BATCH_TOKENS = 640  # the activations of one batch then fit the cache: 4,800 tokens cost 27 % more per token
PADDING = 48  # tokens of padding that a batch may hold; the fixed cost of one more batch is about 20 tokens
WIDEST = 65_536


def open_embedder(name: str, *, models_dir: Path, threads: int = 0) -> Embedder:
    """The embedder of this name. `threads`: cores that bulk work may use at once (0: all that the process may).

    Raises EmbedderError for a name that is none of the choices, ModelMissing, ModelDamaged.
    """
    if name == DEFAULT_MODEL:
        return OnnxEmbedder(models_dir / DEFAULT_MODEL, threads=threads)
    kind, _, rest = name.partition(":")
    if kind == "st" and rest:
        installed = models_dir / hub_folder(rest)
        return SentenceTransformersEmbedder(str(installed) if installed.is_dir() else rest, threads=threads)
    if kind == "hash" and rest.isascii() and rest.isdigit() and 1 <= int(rest) <= WIDEST:
        return HashEmbedder(int(rest))
    raise EmbedderError(f"There is no embedder {name!r}.", hint=f"Choose one of {CHOICES}.")


def hub_folder(name: str) -> str:
    """The folder under `models_dir` where a model of the hub, `org/name`, is kept once installed."""
    return "hub--" + name.replace("/", "--")


class OnnxEmbedder:
    """A sentence encoder from a folder that `minilm_graph.write_model` made.

    Each batch runs on one core and bulk work runs `threads` batches at once: measured on two cores, that gave 219
    passages per CPU-second against 187 for one batch spread over both, which waits at every operator. Any number of
    threads may call it. Making one reads the manifest; the first text loads the model (0.2 s, 70 MB).
    """

    def __init__(self, folder: Path, *, threads: int = 0, batch_tokens: int = BATCH_TOKENS) -> None:
        """Raises ModelMissing, and ModelDamaged when a file has not the recorded size."""
        self._folder, self._batch_tokens = folder, batch_tokens
        self._threads = threads or _cores()
        self._manifest = Manifest.read(folder)
        if self._manifest.graph_version != GRAPH_VERSION:
            raise ModelDamaged(f"The graph in {folder} is of another version.", hint="Run `ragsvc model install`.")
        for name, expected in self._manifest.files.items():
            if not (folder / name).is_file():
                raise ModelMissing(f"{folder / name} is not there.")
            if (size := (folder / name).stat().st_size) != expected.size:
                raise ModelDamaged(f"{folder / name} has {size} bytes, not {expected.size}.")
        self._lock = threading.Lock()
        self._loaded: _Loaded | None = None

    @property
    def id(self) -> str:
        """Name, `@`, the first 12 hex digits of the weights' SHA-256."""
        return f"{self._manifest.name}@{self._manifest.files[WEIGHTS].sha256[:12]}"

    @property
    def dimensions(self) -> int:
        """Width of a vector."""
        return self._manifest.dimensions

    def encode(self, texts: Sequence[str]) -> Matrix:
        """Passages to float32 of shape (len(texts), dimensions), rows of unit length.

        What a text has past the model's longest input (256 tokens) is not read. Raises EmbedderError.
        """
        rows = self._tokens(texts)
        vectors = np.empty((len(rows), self.dimensions), np.float32)
        if not rows:
            return vectors
        loaded = self._load()

        def run(batch: list[int]) -> None:
            vectors[batch] = loaded.run([rows[index] for index in batch])

        batches = list(plan_batches([len(row) for row in rows], self._batch_tokens))
        if len(batches) == 1 or self._threads == 1:
            for batch in batches:
                run(batch)
        else:
            for _ in loaded.pool.map(run, batches):  # its results are None; it raises what a batch raised
                pass
        return vectors

    def encode_query(self, text: str) -> Matrix:
        """A question to (1, dimensions): the model is symmetric, so as a passage. Never waits behind bulk work."""
        return self.encode([text])

    def count_tokens(self, texts: Sequence[str]) -> int:
        """How many tokens the model reads for these texts, the two special ones of each included."""
        return sum(len(row) for row in self._tokens(texts))

    def _tokens(self, texts: Sequence[str]) -> list[list[int]]:
        if isinstance(texts, str):
            raise EmbedderError("encode() takes a list of texts, not one text.")
        return [self._load().tokens(text) for text in texts]

    def _load(self) -> _Loaded:
        if self._loaded is None:
            with self._lock:
                if self._loaded is None:
                    self._loaded = _Loaded(self._folder, self._manifest, self._threads)
        return self._loaded


class _Loaded:
    """The tokenizer and the session of a model whose files have just been checked."""

    def __init__(self, folder: Path, manifest: Manifest, threads: int) -> None:
        # Imported here: importing a module loads nothing heavy, and a process that never embeds never pays.
        import onnxruntime
        from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument, RuntimeException
        from tokenizers import Tokenizer

        for name, expected in manifest.files.items():
            if stamp(folder / name) != expected:
                raise ModelDamaged(
                    f"{folder / name} does not have the SHA-256 that was recorded when it was installed."
                )
        self._tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
        self._tokenizer.enable_truncation(manifest.max_tokens)
        self._tokenizer.no_padding()  # the published file pads everything to 128
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        self._session: Any = onnxruntime.InferenceSession(
            str(folder / GRAPH), options, providers=["CPUExecutionProvider"]
        )
        self._failures = (Fail, InvalidArgument, RuntimeException)
        self.pool = ThreadPoolExecutor(threads, thread_name_prefix="embed")

    def tokens(self, text: str) -> list[int]:
        """Token ids of one text, truncated.

        One text at a time: encode_batch would start threads of its own, which do not survive a fork and warn of it.
        """
        try:
            return self._tokenizer.encode(text).ids
        except TypeError as error:
            shown = ascii(text)[:80]
            raise EmbedderError(
                f"This is not Unicode text: {shown}",
                hint="Half of a surrogate pair, perhaps: normalise the text first.",
            ) from error

    def run(self, rows: list[list[int]]) -> Matrix:
        """One batch, padded to its longest row, to (len(rows), dimensions)."""
        longest = max(map(len, rows))
        ids = np.zeros((len(rows), longest), np.int64)
        mask = np.zeros_like(ids)
        for index, row in enumerate(rows):
            ids[index, : len(row)] = row
            mask[index, : len(row)] = 1
        try:
            vectors: Matrix = self._session.run(None, {"input_ids": ids, "attention_mask": mask})[0]
        except self._failures as error:  # out of memory, above all
            raise EmbedderError(f"onnxruntime could not embed {ids.shape} tokens: {error}") from error
        return vectors


def plan_batches(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Positions in `lengths` (tokens of each text) as batches, longest first, every position once.

    A batch is at most `batch_tokens` with its padding, or one text, and at most PADDING tokens of it are padding.
    """
    batch: list[int] = []
    longest = padding = 0
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        gap = longest - lengths[index]
        if batch and ((len(batch) + 1) * longest > batch_tokens or padding + gap > PADDING):
            yield batch
            batch = []
        if not batch:
            longest, padding, gap = lengths[index], 0, 0
        batch.append(index)
        padding += gap
    if batch:
        yield batch


def _cores() -> int:
    """Cores that this process may use."""
    allowed = getattr(os, "sched_getaffinity", None)  # not on every system
    return len(allowed(0)) if allowed else os.cpu_count() or 1


WORD = re.compile(r"\w+")


class HashEmbedder:
    """Signed feature hashing of words and of the character 3-grams in them (Weinberger 2009), at unit length.

    A real embedder without weights: texts that share words and word parts are near. For tests, and for measuring
    the pipeline without a model's cost; its relevance is that of shared words, no better. A token is a word.
    """

    def __init__(self, dimensions: int) -> None:
        if not 1 <= dimensions <= WIDEST:
            raise EmbedderError(f"A vector has between 1 and {WIDEST} dimensions, not {dimensions}.")
        self._dimensions = dimensions

    @property
    def id(self) -> str:
        """`hash:DIM@1`: the number after `@` counts changes of the features."""
        return f"hash:{self._dimensions}@1"

    @property
    def dimensions(self) -> int:
        """Width of a vector."""
        return self._dimensions

    def encode(self, texts: Sequence[str]) -> Matrix:
        """Texts to float32 of shape (len(texts), dimensions), rows of unit length."""
        if isinstance(texts, str):
            raise EmbedderError("encode() takes a list of texts, not one text.")
        return np.array([self._vector(text) for text in texts], np.float32).reshape(len(texts), self._dimensions)

    def encode_query(self, text: str) -> Matrix:
        """A question as a passage, to (1, dimensions)."""
        return self.encode([text])

    def count_tokens(self, texts: Sequence[str]) -> int:
        """Words."""
        return sum(len(WORD.findall(text)) for text in texts)

    def _vector(self, text: str) -> NDArray[np.float64]:
        features = [_features(word) for word in WORD.findall(text.casefold())]
        if not features:
            return self._no_words()
        hashes: NDArray[np.int64] = np.concatenate([part[0] for part in features])
        values = np.concatenate([part[1] for part in features])
        vector = np.bincount(hashes % self._dimensions, values, minlength=self._dimensions)
        length = float(np.linalg.norm(vector))
        if length < 1e-9:  # signs may cancel out
            return self._no_words()
        unit: NDArray[np.float64] = vector / length
        return unit

    def _no_words(self) -> NDArray[np.float64]:
        """The one point of all texts without a word: a vector must have a direction."""
        point = np.zeros(self._dimensions)
        point[0] = 1
        return point


@lru_cache(maxsize=65_536)
def _features(word: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """(hashes, signed weights) of a word and of its 3-grams; together the 3-grams weigh as much as the word."""
    framed = f"<{word}>"
    grams = [framed[start : start + 3] for start in range(len(framed) - 2)]
    packed = b"".join(
        hashlib.blake2b(feature.encode(errors="surrogatepass"), digest_size=8).digest()
        for feature in (f"word {word}", *grams)
    )
    hashes = np.frombuffer(packed, "<i8")
    weights = np.array([1.0] + [len(grams) ** -0.5] * len(grams))
    return hashes >> 1 & 2**62 - 1, np.where(hashes & 1, weights, -weights)
