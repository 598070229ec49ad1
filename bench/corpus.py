"""Passages to measure with: a data set in BEIR layout, or else sentences of the sample handbook, mixed."""

from __future__ import annotations

import json
import random
from pathlib import Path

HANDBOOK = Path(__file__).parent.parent / "ragsvc" / "samples" / "handbook"


def documents(count: int, dataset: Path | None) -> list[tuple[str, str]]:
    """`count` (title, text) pairs; a data set that is too small is repeated with its sentences in another order."""
    rng = random.Random(7)
    if dataset is not None:
        with (dataset / "corpus.jsonl").open(encoding="utf-8") as lines:
            base = [(one.get("title", ""), one["text"]) for one in map(json.loads, lines)]
    else:
        sentences = [
            line.strip()
            for path in sorted(HANDBOOK.glob("*.md"))
            for line in path.read_text(encoding="utf-8").replace(". ", ".\n").splitlines()
            if len(line) > 40
        ]
        base = [(f"Note {n}", " ".join(rng.sample(sentences, 8))) for n in range(count)]
    made = base[:count]
    while len(made) < count:
        title, text = rng.choice(base)
        parts = text.split(". ")
        rng.shuffle(parts)
        made.append((title, ". ".join(parts)))
    return made


def questions(count: int, dataset: Path | None) -> list[str]:
    """`count` questions: those of the data set, or sentences of the handbook; repeated ones are told apart."""
    if dataset is not None:
        with (dataset / "queries.jsonl").open(encoding="utf-8") as lines:
            base = [one["text"] for one in map(json.loads, lines)]
    else:
        base = [f"what about {path.stem.replace('-', ' ')}" for path in sorted(HANDBOOK.glob("*.md"))]
    return [base[n % len(base)] + ("" if n < len(base) else f" {n}") for n in range(count)]


def write_folder(folder: Path, documents: list[tuple[str, str]]) -> None:
    """One Markdown file per document."""
    folder.mkdir(parents=True)
    for number, (title, text) in enumerate(documents):
        heading = f"# {' '.join(title.split())}\n\n" if title else ""
        (folder / f"{number:06}.md").write_text(heading + text + "\n", encoding="utf-8")
