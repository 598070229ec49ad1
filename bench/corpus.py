"""What is measured with? Data sets in BEIR layout, one or a folder of them, or sentences of the sample handbook."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

HANDBOOK = Path(__file__).parent.parent / "ragsvc" / "samples" / "handbook"
DATASETS: Final = Path(__file__).parent.parent.parent / "shared" / "data"
ENGLISH: Final = ("scifact", "cranfield", "cacm", "chunking_eval", "xquad/en")
PASSAGE: Final = 700  # characters, as the chunker wants them
SHORTEST: Final = 200
_SENTENCE_END: Final = re.compile(r"(?<=[.!?])\s+|\n\n+")


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


def distinct_passages(datasets: Path) -> list[str]:
    """All texts of the English sets below a folder, and the newest PEPs, cut at sentences into passages; none twice.

    Where there is no such folder: mixed sentences of the handbook.
    """
    if not datasets.is_dir():
        return [text for _, text in documents(2_000, None)]
    texts = [
        f"{one.get('title', '')}\n\n{one['text']}"
        for name in ENGLISH
        for one in _rows(datasets / name / "corpus.jsonl")
    ]
    texts += {one["doc_id"]: one["text"] for one in _rows(datasets / "peps_versions" / "versions.jsonl")}.values()
    return list(dict.fromkeys(passage for text in texts for passage in _cut(text) if len(passage) >= SHORTEST))


def distinct_questions(datasets: Path) -> list[str]:
    """The questions that people asked of these sets, none twice; those of the handbook where there is no folder."""
    if not datasets.is_dir():
        return questions(200, None)
    files = [datasets / name / "queries.jsonl" for name in ENGLISH if name != "chunking_eval"]
    files += [datasets / "scifact" / "queries.train.jsonl", datasets / "chunking_eval" / "questions.jsonl"]
    return list(dict.fromkeys(one.get("text") or one["question"] for path in files for one in _rows(path)))


def _rows(path: Path) -> Iterator[dict[str, str]]:
    with path.open(encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def _cut(text: str) -> Iterator[str]:
    """Whole sentences until they are PASSAGE characters; a longer sentence is cut."""
    passage = ""
    for sentence in _SENTENCE_END.split(text):
        if passage and len(passage) + len(sentence) >= PASSAGE:
            yield passage
            passage = ""
        passage = f"{passage} {' '.join(sentence.split())}".strip()[:PASSAGE]
    if passage:
        yield passage
