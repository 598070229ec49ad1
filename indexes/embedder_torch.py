"""Any sentence-transformers model as an Embedder (extra `models`). The one module that imports it and torch: lazily."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from indexes.errors import EmbedderError, ModelMissing
from indexes.model import Matrix

NEEDS_EXTRA = 'Install the extra: uv pip install "ragsvc[models]".'


class SentenceTransformersEmbedder:
    """A model by name (already on this machine) or by folder. Nothing is fetched and no code of the model's is run.

    `threads` 0 leaves torch's own choice; another number is set for the whole process, as torch has it.
    """

    def __init__(self, name: str, *, threads: int = 0, device: str | None = None) -> None:
        """Load the model: seconds. Raises EmbedderError without the extra, ModelMissing for an unknown model."""
        self._model = _load(name, device=device, local_files_only=True)
        if threads > 0:
            import torch

            torch.set_num_threads(threads)
        # The Rust tokenizer inside is switched between settings on each call: two threads meet "Already borrowed".
        self._lock = threading.Lock()
        width = self._model.get_embedding_dimension()
        if not width:
            raise EmbedderError(f"The model {name} does not say how wide its vectors are.")
        self._dimensions = int(width)
        self._id = f"st:{Path(name).name if Path(name).is_dir() else name}@{_digest(self._model)}"

    @property
    def id(self) -> str:
        """`st:NAME@` and 12 hex digits over the weights, the prompts and the longest input."""
        return self._id

    @property
    def dimensions(self) -> int:
        """Width of a vector."""
        return self._dimensions

    def encode(self, texts: Sequence[str]) -> Matrix:
        """Passages, with the model's document prompt where it has one, to (len(texts), dimensions)."""
        return self._run(self._model.encode_document, texts)

    def encode_query(self, text: str) -> Matrix:
        """A question, with the model's query prompt where it has one, to (1, dimensions)."""
        return self._run(self._model.encode_query, [text])

    def count_tokens(self, texts: Sequence[str]) -> int:
        """Tokens after truncation, special ones included, a prompt's not."""
        if not texts:
            return 0
        with self._lock:
            read = self._model.tokenizer(list(texts), truncation=True, max_length=self._model.max_seq_length)
        return sum(len(ids) for ids in read["input_ids"])

    def _run(self, encode: Any, texts: Sequence[str]) -> Matrix:
        if isinstance(texts, str):
            raise EmbedderError("encode() takes a list of texts, not one text.")
        if not texts:
            return np.empty((0, self._dimensions), np.float32)
        try:
            with self._lock:
                found = encode(list(texts), normalize_embeddings=True, show_progress_bar=False)
        except (RuntimeError, TypeError, ValueError) as error:  # out of memory, or a lone surrogate
            raise EmbedderError(f"{self._id} could not embed {len(texts)} texts: {error}") from error
        return np.ascontiguousarray(found, dtype=np.float32)


def save_model(name: str, folder: Path) -> None:
    """Fetch a model that the user named from the hub and save it in a folder, weights as safetensors.

    Raises EmbedderError without the extra, ModelMissing when the hub does not give it.
    """
    _load(name, device="cpu", local_files_only=False).save_pretrained(str(folder), create_model_card=False)


def _load(name: str, *, device: str | None, local_files_only: bool) -> Any:
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise EmbedderError(
            f"The model {name} needs sentence-transformers, which is not installed.", hint=NEEDS_EXTRA
        ) from error
    try:
        return SentenceTransformer(
            name,
            device=device,
            local_files_only=local_files_only,
            trust_remote_code=False,
            model_kwargs={"use_safetensors": True},  # other weight files are pickles
        )
    except (OSError, ValueError, KeyError) as error:
        raise ModelMissing(
            f"sentence-transformers cannot open the model {name}: {error}",
            hint=f"Give the path of a saved model, or run `ragsvc model install hub:{name}`.",
        ) from error


def _digest(model: Any) -> str:
    """12 hex digits over everything that decides a vector."""
    import torch

    settings = {"max_seq_length": model.max_seq_length, "prompts": model.prompts, "default": model.default_prompt_name}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for key, tensor in sorted(model.state_dict().items()):
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:12]
