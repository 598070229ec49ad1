"""Does retrieval reach the figures of docs/quality.md on real data? Takes minutes: `make soak`."""

from __future__ import annotations

from pathlib import Path

import pytest

from ragsvc.evaluate import evaluate
from ragsvc.model_install import install
from ragsvc.settings import Settings

FLOORS = {"lexical": 0.67, "dense": 0.63, "hybrid": 0.70}


@pytest.mark.soak
def test_scifact_reaches_its_floors(shared_data: Path, tmp_path: Path) -> None:
    settings = Settings(data=tmp_path)
    install(settings.models_dir)
    figures = evaluate(shared_data / "scifact", settings, say=None)
    assert figures["queries"] == 300
    reached = {mode: figures["modes"][mode]["nDCG@10"] for mode in FLOORS}
    assert all(reached[mode] >= floor for mode, floor in FLOORS.items()), reached
    assert reached["hybrid"] > max(reached["lexical"], reached["dense"])
    again = evaluate(shared_data / "scifact", settings, say=None)
    assert again["ingest"]["embedded"] == 0
    assert again["modes"] == figures["modes"]
