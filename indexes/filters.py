"""Which documents satisfy a condition on their metadata?

What a condition means, on every engine:
- `eq` holds when the value is the given scalar or, for a list value, contains it; `in` when that is so for any
  of the given scalars; `ne` and `nin` are their opposites, so they hold where the key is missing.
- `gt gte lt lte` compare numbers with numbers and text with text (by code point), anything else never holds; for a
  list value one element is enough. Booleans equal only booleans and have no order.
- `exists` holds when the key is there (value true or absent) or is not there (value false).
- Every other leaf does not hold where the key is missing. `not` is the opposite of its one part.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from indexes.documents import Documents
from indexes.errors import QueryInvalid
from indexes.model import Filter, MetadataValue, Scalar

Mask = NDArray[np.bool_]
MAX_DEPTH: Final = 16
MAX_PARTS: Final = 1000
"""Leaves and branches of one filter in all, and values of one `in`: what a caller may make us do."""

_ORDER: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "gt": operator.gt,
    "gte": operator.ge,
    "lt": operator.lt,
    "lte": operator.le,
}


def matching(condition: Filter, documents: Documents) -> Mask:
    """One boolean per document. The condition must have passed `check_filter`."""
    if condition.op == "and":
        return np.asarray(np.logical_and.reduce([matching(part, documents) for part in condition.parts]))
    if condition.op == "or":
        return np.asarray(np.logical_or.reduce([matching(part, documents) for part in condition.parts]))
    if condition.op == "not":
        return ~matching(condition.parts[0], documents)
    return _leaf(condition, documents)


def _leaf(condition: Filter, documents: Documents) -> Mask:
    column = documents.columns.get(condition.key)
    opposite = condition.op in ("ne", "nin") or (condition.op == "exists" and condition.value is False)
    if column is None:
        return np.full(len(documents), opposite)
    if condition.op == "exists":
        found = column.present()
    elif condition.op in _ORDER:
        found = column.where(_comparison(condition))
    else:
        value = condition.value
        found = column.holding(value if isinstance(value, tuple) else () if value is None else (value,))
    found = documents.whole(found)
    return ~found if opposite else found


def _comparison(condition: Filter) -> Callable[[MetadataValue], bool]:
    compare, bound = _ORDER[condition.op], condition.value
    text = isinstance(bound, str)

    def one(value: Scalar) -> bool:
        return not isinstance(value, bool) and isinstance(value, str) == text and compare(value, bound)

    def holds(value: MetadataValue) -> bool:
        return any(map(one, value)) if isinstance(value, tuple) else one(value)

    return holds


def check_filter(condition: Filter) -> None:
    """Raise QueryInvalid when a filter cannot mean anything, or asks for too much work."""
    _check(condition, 1, [0])


def _check(condition: Filter, depth: int, parts: list[int]) -> None:
    parts[0] += 1
    if depth > MAX_DEPTH or parts[0] > MAX_PARTS:
        raise QueryInvalid(f"The filter is too large: at most {MAX_DEPTH} levels and {MAX_PARTS} conditions.")
    if condition.op in ("and", "or", "not"):
        if not condition.parts or (condition.op == "not" and len(condition.parts) != 1):
            wanted = "one part" if condition.op == "not" else "at least one part"
            raise QueryInvalid(f"The filter's `{condition.op}` needs {wanted}.")
        for part in condition.parts:
            _check(part, depth + 1, parts)
    else:
        _check_leaf(condition)


def _check_leaf(condition: Filter) -> None:
    op, value = condition.op, condition.value
    if not condition.key:
        raise QueryInvalid(f"The filter's `{op}` names no key.")
    if condition.parts:
        raise QueryInvalid(f"The filter's `{op}` on {condition.key!r} takes a value, not parts.")
    many = isinstance(value, tuple)
    if op in ("in", "nin"):
        fits = many and len(value) <= MAX_PARTS  # type: ignore[arg-type]
    elif op == "exists":
        fits = value is None or isinstance(value, bool)
    elif op in _ORDER:
        fits = isinstance(value, str | int | float) and not isinstance(value, bool)
    elif op in ("eq", "ne"):
        fits = isinstance(value, str | int | float)
    else:
        raise QueryInvalid(f"The filter has an unknown operator {op!r}.")
    scalars = value if isinstance(value, tuple) else (value,)
    if not fits or any(isinstance(scalar, float) and math.isnan(scalar) for scalar in scalars):
        raise QueryInvalid(f"The filter's `{op}` on {condition.key!r} cannot have the value {value!r:.100}.")
