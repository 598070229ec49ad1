"""How does onnxruntime run a BERT sentence encoder without torch?

`write_model` turns a folder with the published files (safetensors weights, config, tokenizer) into one that
`OnnxEmbedder` opens: it adds `model.onnx`, a graph of standard operators whose weights stay in the safetensors file
(external data, mapped into memory, not copied), and `manifest.json`, the size and SHA-256 of every file that is read.

Useful for: BERT encoders with absolute positions, exact GELU and float32 weights. Not useful for: any other model.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexes.durable import Stamp, stamp, write_aside
from indexes.errors import EmbedderError, ModelDamaged, ModelMissing

WEIGHTS, CONFIG, TOKENIZER, SENTENCE_CONFIG = (
    "model.safetensors",
    "config.json",
    "tokenizer.json",
    "sentence_bert_config.json",
)
GRAPH, MANIFEST = "model.onnx", "manifest.json"
GRAPH_VERSION = 1
"""Counts changes of the graph below: a cached graph of another version is not used."""
OPSET, IR_VERSION = 20, 10  # Gelu is an operator since 20; what onnxruntime 1.18 and later read
MASKED = -1e4  # added to the logits of padding: exp() of it is 0 in float32


@dataclass(frozen=True, slots=True)
class Manifest:
    """What is in a model's folder. `max_tokens` includes the two special tokens."""

    name: str
    graph_version: int
    dimensions: int
    max_tokens: int
    files: dict[str, Stamp]

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Raises ModelMissing without a manifest, ModelDamaged when it cannot be understood."""
        try:
            raw = json.loads((folder / MANIFEST).read_bytes())
            files = {name: Stamp(int(file["size"]), str(file["sha256"])) for name, file in raw["files"].items()}
            found = cls(
                str(raw["name"]), int(raw["graph_version"]), int(raw["dimensions"]), int(raw["max_tokens"]), files
            )
        except (FileNotFoundError, NotADirectoryError):
            raise ModelMissing(f"There is no embedding model in {folder}.") from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelDamaged(f"{folder / MANIFEST} cannot be read: {error!r}.") from error
        if absent := {WEIGHTS, TOKENIZER, GRAPH} - found.files.keys():
            raise ModelDamaged(f"{folder / MANIFEST} says nothing of {', '.join(sorted(absent))}.")
        return found

    def write(self, folder: Path) -> None:
        """Aside, then one rename."""
        write_aside(folder / MANIFEST, json.dumps(asdict(self), indent=1).encode())


@dataclass(frozen=True, slots=True)
class BertShape:
    """The numbers of a BERT that its graph depends on. `max_tokens`: longest input, in tokens."""

    layers: int
    heads: int
    width: int
    epsilon: float
    max_tokens: int

    @classmethod
    def read(cls, folder: Path) -> BertShape:
        """From config.json and sentence_bert_config.json. Raises EmbedderError for another architecture."""
        try:
            config = json.loads((folder / CONFIG).read_bytes())
            limit = json.loads((folder / SENTENCE_CONFIG).read_bytes())["max_seq_length"]
            kind = (config["model_type"], config["hidden_act"], config.get("position_embedding_type", "absolute"))
            shape = cls(
                layers=int(config["num_hidden_layers"]),
                heads=int(config["num_attention_heads"]),
                width=int(config["hidden_size"]),
                epsilon=float(config["layer_norm_eps"]),
                max_tokens=min(int(limit), int(config["max_position_embeddings"])),
            )
        except FileNotFoundError as error:
            raise ModelMissing(f"{error.filename} is not there.") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelDamaged(f"The configuration in {folder} cannot be read: {error!r}.") from error
        if kind != ("bert", "gelu", "absolute"):
            raise EmbedderError(
                f"This graph is for BERT with GELU and absolute positions, not for {', '.join(map(str, kind))}.",
                hint="Run other models through sentence-transformers: name them `st:NAME`.",
            )
        return shape


class Weights:
    """The tensors of a safetensors file: an 8-byte length, a JSON header, raw little-endian data."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            with path.open("rb") as file:
                length = int.from_bytes(file.read(8), "little")
                if not 2 <= length <= path.stat().st_size - 8:
                    raise ModelDamaged(f"{path} is not a safetensors file.")
                self._header: dict[str, Any] = json.loads(file.read(length))
        except FileNotFoundError:
            raise ModelMissing(f"{path} is not there.") from None
        except ValueError as error:
            raise ModelDamaged(f"{path} has a header that cannot be read: {error}.") from error
        self._start = 8 + length

    def place(self, name: str) -> tuple[tuple[int, ...], int, int]:
        """(shape, offset in the file, length in bytes) of a float32 tensor. Raises ModelDamaged."""
        try:
            entry = self._header[name]
            dtype, shape, (start, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
            if dtype != "F32" or end - start != 4 * math.prod(shape) or start < 0:
                raise ValueError(f"{dtype} {shape} in {end - start} bytes")
            if self._start + end > self._path.stat().st_size:
                raise ValueError("past the end of the file")
        except (KeyError, ValueError, TypeError) as error:
            raise ModelDamaged(f"{self._path} holds no usable tensor {name}: {error!r}.") from error
        return shape, self._start + start, end - start

    def array(self, name: str) -> NDArray[np.float32]:
        """A tensor's values."""
        shape, offset, length = self.place(name)
        return np.fromfile(self._path, dtype="<f4", count=length // 4, offset=offset).reshape(shape)


class _Builder:
    """Collects nodes and initializers; each method returns the name of a value."""

    def __init__(self, weights: Weights) -> None:
        from onnx import NodeProto, TensorProto  # 0.3 s: only the installer builds graphs

        self.weights = weights
        self.nodes: list[NodeProto] = []
        self.initializers: dict[str, TensorProto] = {}

    def op(self, kind: str, *inputs: str, name: str | None = None, **attributes: Any) -> str:
        from onnx import helper

        name = name or f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        return name

    def constant(self, values: Any, name: str) -> str:
        from onnx import numpy_helper

        self.initializers.setdefault(name, numpy_helper.from_array(np.asarray(values), name))
        return name

    def weight(self, name: str) -> str:
        """A tensor that stays in the safetensors file."""
        from onnx import TensorProto

        shape, offset, length = self.weights.place(name)
        tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=shape, data_location=TensorProto.EXTERNAL)
        for key, value in (("location", WEIGHTS), ("offset", offset), ("length", length)):
            tensor.external_data.add(key=key, value=str(value))
        self.initializers[name] = tensor
        return name

    def linear(self, x: str, layer: str) -> str:
        return self.op("Gemm", x, self.weight(f"{layer}.weight"), self.weight(f"{layer}.bias"), transB=1)

    def norm(self, x: str, layer: str, epsilon: float) -> str:
        scale, bias = self.weight(f"{layer}.weight"), self.weight(f"{layer}.bias")
        return self.op("LayerNormalization", x, scale, bias, axis=-1, epsilon=epsilon)


def build_graph(weights: Weights, shape: BertShape) -> bytes:
    """A serialised ONNX model: (input_ids, attention_mask), both int64 (batch, tokens), to unit vectors
    `sentence_embedding`, float32 (batch, width).

    It keeps to standard operators: measured on AVX-512, the fused com.microsoft ones (Attention,
    MultiHeadAttention, SkipLayerNormalization, BiasGelu) were 2 to 12 % slower than what onnxruntime makes of these.
    Between attentions all tokens are rows of one matrix, so that every product is one Gemm with its bias.
    """
    from onnx import TensorProto, helper

    graph = _Builder(weights)
    batch = graph.op("Shape", "input_ids", start=0, end=1)
    tokens = graph.op("Shape", "input_ids", start=1, end=2)
    mask = graph.op("Cast", "attention_mask", to=TensorProto.FLOAT)
    x = _embeddings(graph, tokens, shape)
    logits_bias = _padding_bias(graph, mask)
    for layer in range(shape.layers):
        x = _layer(graph, x, f"encoder.layer.{layer}", (batch, tokens, logits_bias), shape)
    _pool(graph, x, mask, (batch, tokens), shape)
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "tokens"])
        for name in ("input_ids", "attention_mask")
    ]
    output = helper.make_tensor_value_info("sentence_embedding", TensorProto.FLOAT, ["batch", shape.width])
    made = helper.make_graph(graph.nodes, "sentence_encoder", inputs, [output], list(graph.initializers.values()))
    opset = helper.make_opsetid("", OPSET)
    return bytes(helper.make_model(made, opset_imports=[opset], ir_version=IR_VERSION).SerializeToString())


def _embeddings(graph: _Builder, tokens: str, shape: BertShape) -> str:
    """Word plus position, normalised; rows are tokens. The one token type is folded into the positions.

    Positions are a Slice of their table: Range and Gather would meet a broken fusion in onnxruntime.
    """
    positions = graph.weights.array("embeddings.position_embeddings.weight")[: shape.max_tokens]
    positions = positions + graph.weights.array("embeddings.token_type_embeddings.weight")[0]
    zero = graph.constant(np.array([0], np.int64), "zero")
    table = graph.op("Slice", graph.constant(positions, "positions"), zero, tokens, zero)
    words = graph.op("Gather", graph.weight("embeddings.word_embeddings.weight"), "input_ids")
    rows = graph.constant(np.array([-1, shape.width], np.int64), "rows")
    x = graph.op("Reshape", graph.op("Add", words, table), rows)
    return graph.norm(x, "embeddings.LayerNorm", shape.epsilon)


def _padding_bias(graph: _Builder, mask: str) -> str:
    """(batch, 1, 1, tokens): 0 for text, MASKED for padding."""
    padding = graph.op("Sub", graph.constant(np.float32(1), "one"), mask)
    bias = graph.op("Mul", padding, graph.constant(np.float32(MASKED), "masked"))
    return graph.op("Unsqueeze", bias, graph.constant(np.array([1, 2], np.int64), "head_axes"))


def _layer(graph: _Builder, x: str, name: str, at: tuple[str, str, str], shape: BertShape) -> str:
    """One encoder block, normalised after each residual sum as BERT does."""
    mixed = graph.linear(_attention(graph, x, f"{name}.attention.self", at, shape), f"{name}.attention.output.dense")
    x = graph.norm(graph.op("Add", mixed, x), f"{name}.attention.output.LayerNorm", shape.epsilon)
    inner = graph.op("Gelu", graph.linear(x, f"{name}.intermediate.dense"), approximate="none")
    return graph.norm(
        graph.op("Add", graph.linear(inner, f"{name}.output.dense"), x), f"{name}.output.LayerNorm", shape.epsilon
    )


def _attention(graph: _Builder, x: str, name: str, at: tuple[str, str, str], shape: BertShape) -> str:
    """softmax(q k' / sqrt(head width) + padding) v over the tokens of each text; in and out as rows."""
    batch, tokens, logits_bias = at
    per_head = shape.width // shape.heads
    heads = graph.constant(np.array([shape.heads, per_head], np.int64), "heads")
    by_head = graph.op("Concat", batch, tokens, heads, axis=0)
    q, k, v = (
        graph.op("Transpose", graph.op("Reshape", graph.linear(x, f"{name}.{part}"), by_head), perm=order)
        for part, order in (("query", [0, 2, 1, 3]), ("key", [0, 2, 3, 1]), ("value", [0, 2, 1, 3]))
    )
    scale = graph.constant(np.float32(1 / math.sqrt(per_head)), "scale")
    logits = graph.op("Mul", graph.op("MatMul", q, k), scale)  # onnxruntime makes one FusedMatMul of both
    shares = graph.op("Softmax", graph.op("Add", logits, logits_bias), axis=-1)
    joined = graph.op("Transpose", graph.op("MatMul", shares, v), perm=[0, 2, 1, 3])
    return graph.op("Reshape", joined, "rows")


def _pool(graph: _Builder, x: str, mask: str, size: tuple[str, str], shape: BertShape) -> None:
    """The mean over a text's tokens at unit length. The mean's divisor cancels in the normalisation: a sum does."""
    width = graph.constant(np.array([shape.width], np.int64), "width")
    stacked = graph.op("Reshape", x, graph.op("Concat", *size, width, axis=0))
    axis = graph.constant(np.array([1], np.int64), "token_axis")
    total = graph.op("Squeeze", graph.op("MatMul", graph.op("Unsqueeze", mask, axis), stacked), axis)
    graph.op("LpNormalization", total, name="sentence_embedding", axis=1, p=2)


def write_model(folder: Path, *, name: str) -> Manifest:
    """Add model.onnx and manifest.json to a folder that holds weights, configuration and tokenizer.

    The caller has checked the weights' hash. Raises ModelMissing, ModelDamaged, EmbedderError.
    """
    shape = BertShape.read(folder)
    write_aside(folder / GRAPH, build_graph(Weights(folder / WEIGHTS), shape))
    files = {file: _stamp(folder / file) for file in (WEIGHTS, TOKENIZER, GRAPH)}
    manifest = Manifest(name, GRAPH_VERSION, shape.width, shape.max_tokens, files)
    manifest.write(folder)
    return manifest


def _stamp(path: Path) -> Stamp:
    try:
        return stamp(path)
    except FileNotFoundError:
        raise ModelMissing(f"{path} is not there.") from None
