"""Which of two generations answers better? The figures, without how they are got."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

from indexes.model import Generation
from ingest.model import Collection
from ingest.run import Run

LOST = 0.5


@dataclass(frozen=True, slots=True)
class Figures:
    """Means over the questions of an evaluation set: of the fused answer, and the nDCG of each leg alone."""

    ndcg_at_10: float
    recall_at_10: float
    dense_ndcg_at_10: float
    lexical_ndcg_at_10: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two generations asked the same. `worse` names questions that the new one answers worse, worst first."""

    source: Literal["stored", "sampled"]
    queries: int
    unknown: int
    old: Figures
    new: Figures
    worse: tuple[tuple[str, float, float], ...]

    @property
    def difference(self) -> float:
        """nDCG@10 of the new one minus that of the old one."""
        return self.new.ndcg_at_10 - self.old.ndcg_at_10

    @property
    def lost_leg(self) -> str | None:
        """The leg that finds less than half as well as it did.

        Fused figures hide that: a question that is a sentence of its answer is found by its words alone.
        """
        for leg in ("dense", "lexical"):
            before, after = (float(getattr(one, f"{leg}_ndcg_at_10")) for one in (self.old, self.new))
            if after < before * LOST:
                return leg
        return None

    def sentence(self, tolerance: float) -> str:
        """What is worse, and by how much."""
        text = (
            f"nDCG@10 {self.new.ndcg_at_10:.4f} after {self.old.ndcg_at_10:.4f} over {self.queries} {self.source} "
            f"questions ({tolerance:g} less would do)"
        )
        return text if self.lost_leg is None else f"{text}, and its {self.lost_leg} leg finds less than half as well"

    def report(self) -> dict[str, Any]:
        """For people and machines; `source` says whether the questions were judged or drawn from the documents."""
        return {
            "source": self.source,
            "queries": self.queries,
            "unknown_documents": self.unknown,
            "old": _rounded(self.old),
            "new": _rounded(self.new),
            "difference": round(self.difference, 4),
            "lost_leg": self.lost_leg,
            "worse": [{"query": query, "old": round(old, 4), "new": round(new, 4)} for query, old, new in self.worse],
        }


def _rounded(figures: Figures) -> dict[str, float]:
    return {name: round(value, 4) for name, value in asdict(figures).items()}


Compare = Callable[[Collection, Generation, Generation, Run], Comparison | None]
"""(collection, old, new, run) -> how they compare; None where nothing can be asked."""
