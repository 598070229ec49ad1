"""1,000 citations while documents are edited, renamed, deleted, compacted and re-indexed: each stays exact for ever."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import sqlalchemy as sa

from indexes.model import Span
from ingest.catalog.tables import texts
from ingest.model import Document
from ragsvc.citations import SEPARATOR, Resolved, citation_id, parse_citation_id, resolve
from tests.contracts.installation import EVERYTHING, Workshop, workshop

WANTED = 1000
PARTS = (
    "The notice period is {n} weeks.",
    "Größe: {n},5 µm — naïve café 🙂.",
    "東京の人口は{n}万人です。",
    "| key | value |\n|---|---|\n| n | {n} |",
    "- item {n}\n- another item\n  - nested {n}",
    "مرحبا بالعالم {n}.",
    "```\ncode = {n}\n```",
    "e\u0301 combining {n}, 👩‍👩‍👧 family, \U0001d4b3 beyond the BMP.",
    "A very long sentence that goes on and on about the number {n}, " * 6 + "and ends.",
)


def text_of(rng: random.Random) -> str:
    """A document of a few sections in several scripts."""
    parts = []
    for section in range(rng.randint(1, 4)):
        parts.append(f"## Section {section} 🧭")
        parts += [rng.choice(PARTS).format(n=rng.randint(1, 99)) for _ in range(rng.randint(1, 5))]
    return "\n\n".join(parts)


class Ledger:
    """What was cited, kept outside the service: the exact characters at the time of citing."""

    def __init__(self, shop: Workshop, rng: random.Random) -> None:
        self.shop, self.rng = shop, rng
        self.quotes: dict[str, str] = {}

    def cite_at_random(self, document: Document) -> None:
        version = self.rng.choice(self.shop.versions(document))
        text = self.shop.text(version.id)
        cuts = sorted(self.rng.sample(range(len(text) + 1), min(2 * self.rng.randint(1, 4), len(text)) // 2 * 2))
        spans = [Span(start, end) for start, end in zip(cuts[::2], cuts[1::2], strict=True)]
        self.quotes[citation_id(version.id, spans)] = SEPARATOR.join(text[span.start : span.end] for span in spans)

    def cite_answers(self, question: str) -> None:
        for result in self.shop.ask(question, top_k=20, compression=self.rng.choice(("sentences", "none"))).results:
            self.quotes[result.id] = result.passage.text

    def stored(self, version_id: str) -> str:
        """The text as the database has it, past every cache."""
        with self.shop.service.catalog._db.read() as conn:
            return str(conn.execute(sa.select(texts.c.text).where(texts.c.version_id == version_id)).scalar_one())

    def check(self) -> None:
        documents = self.shop.service.catalog.documents
        for name, quote in self.quotes.items():
            found = resolve(documents, name, allowed=EVERYTHING)
            assert isinstance(found, Resolved)
            version_id, spans = parse_citation_id(name)
            text = self.stored(version_id)
            assert found.version.id == version_id
            assert hashlib.sha256(text.encode()).hexdigest() == found.version.sha256
            assert SEPARATOR.join(text[span.start : span.end] for span in spans) == quote == found.quote
            assert found.quote_sha256 == hashlib.sha256(quote.encode()).hexdigest()


def change(shop: Workshop, rng: random.Random, documents: list[Document]) -> None:
    """One edit, rename, deletion or upkeep of the indexes."""
    document = rng.choice(documents)
    what = rng.random()
    if what < 0.6:
        shop.push(document.uri, text_of(rng))
    elif what < 0.75:
        at = documents.index(document)
        uri = f"moved-{rng.randrange(10**9)}.md"
        now = shop.clock()
        shop.service.catalog.recording.rename(document.id, uri=uri, title=uri, fingerprint=uri, now=now)
        documents[at] = shop.service.catalog.documents.get(document.id, allowed=EVERYTHING)
    elif what < 0.9:
        shop.delete(document)
    elif what < 0.97:
        shop.service.follower.publish()
    else:
        for generation in shop.service.catalog.collections.generations():
            shop.service.follower.rebuild(generation)


def test_a50_a_thousand_citations_stay_exact(tmp_path: Path) -> None:
    rng = random.Random(50)
    with workshop(tmp_path) as shop:
        ledger = Ledger(shop, rng)
        documents = [shop.push(f"{number}.md", text_of(rng)) for number in range(30)]
        while len(ledger.quotes) < WANTED:
            change(shop, rng, documents)
            for _ in range(12):
                ledger.cite_at_random(rng.choice(documents))
            ledger.cite_answers(f"notice number {rng.randint(1, 99)} weeks 東京 café")
        ledger.check()
        answered = len(ledger.quotes)
        assert answered >= WANTED
    with workshop(tmp_path) as shop:  # and in another process's life
        ledger.shop = shop
        ledger.check()
