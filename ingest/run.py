"""What a running job says of itself while it runs, and how it learns that it shall stop."""

from __future__ import annotations

from dataclasses import dataclass, field
from time import monotonic
from typing import Any

from indexes.errors import RagsvcError
from ingest.model import COUNTS


class Cancelled(RagsvcError):
    """The job was asked to stop."""

    hint = "Queue it again if it shall run after all."


@dataclass(slots=True)
class Run:
    """Progress of one job. One thread writes, the heartbeat reads: single fields, so no lock is needed."""

    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTS, 0))
    stage: str = "list"
    done: int = 0
    total: int | None = None
    chunks: int = 0
    tokens: int = 0
    embedded: int = 0
    again_in_s: float | None = None
    stopping: bool = False
    _started: float = field(default_factory=monotonic)

    def begin(self, stage: str, total: int | None = None) -> None:
        """Enter a stage of `total` steps."""
        self.stage, self.done, self.total, self._started = stage, 0, total, monotonic()

    def check(self) -> None:
        """Raises Cancelled if the job was asked to stop."""
        if self.stopping:
            raise Cancelled

    def again(self, seconds: float) -> None:
        """Something of the source wants to be looked at again that soon."""
        self.again_in_s = seconds if self.again_in_s is None else min(seconds, self.again_in_s)

    def eta_s(self) -> int | None:
        """Seconds left in this stage at the pace so far."""
        if not self.total or not self.done:
            return None
        return round((monotonic() - self._started) / self.done * max(self.total - self.done, 0))

    def progress(self) -> dict[str, Any]:
        """The job's `progress` object."""
        return {
            "stage": self.stage,
            "done": self.done,
            "total": self.total,
            "eta_s": self.eta_s(),
            "chunks": self.chunks,
            "tokens": self.tokens,
            "embedded": self.embedded,
        }
