"""What every parser promises, whatever the format."""

from __future__ import annotations

import pytest

from ingest.errors import ParseError
from ingest.model import Parsed
from ingest.parse.wire import HEADER, KINDS, decode_answer, encode_parsed, frame
from ingest.protocols import Parser


class ParserContract:
    """Inherit, and say what is parsed and what must be found in it."""

    media_type: str
    name: str
    words: tuple[str, ...]
    """In this order in the elements' text."""
    paged = False

    def parser(self) -> Parser:
        """The parser under test."""
        raise NotImplementedError

    def sample(self) -> bytes:
        """A sound document."""
        raise NotImplementedError

    @pytest.fixture
    def parsed(self) -> Parsed:
        return self.parser().parse(self.sample(), media_type=self.media_type, name=self.name)

    def test_declares_what_it_reads(self) -> None:
        types = self.parser().media_types
        assert self.media_type in types
        assert all(kind == kind.lower() and "/" in kind and ";" not in kind for kind in types)

    def test_finds_the_words_in_reading_order(self, parsed: Parsed) -> None:
        text = "\n".join(element.text for element in parsed.elements)
        places = [text.find(word) for word in self.words]
        assert -1 not in places, [word for word in self.words if word not in text]
        assert places == sorted(places)

    def test_elements_are_well_formed(self, parsed: Parsed) -> None:
        for element in parsed.elements:
            assert element.kind in KINDS
            assert element.text.strip(), "no element is empty"
            assert (1 <= element.level <= 6) if element.kind == "heading" else element.level == 0
            assert (element.page is not None and element.page >= 1) if self.paged else element.page is None

    def test_tables_are_pipe_rows_with_a_header(self, parsed: Parsed) -> None:
        for table in (element for element in parsed.elements if element.kind == "table"):
            rows = table.text.split("\n")
            assert all(row.startswith("|") and row.endswith("|") for row in rows)
            assert set(rows[1]) <= set("|-: ")
            assert len({row.replace("\\|", "").count("|") for row in rows}) == 1, "as many cells in every row"

    def test_metadata_are_scalars(self, parsed: Parsed) -> None:
        assert all(isinstance(key, str) and isinstance(value, str) for key, value in parsed.metadata.items())
        assert parsed.title is None or parsed.title.strip() == parsed.title != ""

    def test_the_same_bytes_give_the_same_elements(self, parsed: Parsed) -> None:
        assert self.parser().parse(self.sample(), media_type=self.media_type, name=self.name) == parsed

    def test_crosses_the_jail_unchanged(self, parsed: Parsed) -> None:
        assert decode_answer(frame(encode_parsed(parsed))[HEADER.size :]) == parsed

    @pytest.mark.parametrize("part", [0.0, 0.1, 0.35, 0.6, 0.85, 0.99])
    def test_a_part_of_the_file_is_read_or_refused(self, part: float) -> None:
        cut = self.sample()[: int(len(self.sample()) * part)]
        self.read_or_refused(cut)

    @pytest.mark.parametrize("seed", range(6))
    def test_a_damaged_file_is_read_or_refused(self, seed: int) -> None:
        damaged = bytearray(self.sample())
        for place in range(seed * 7, len(damaged), 97 + seed):
            damaged[place] ^= 0x5A
        self.read_or_refused(bytes(damaged))

    @pytest.mark.parametrize("data", [b"", b"\x00" * 300, b"\xff\xfe\xfd" * 100, bytes(range(256)) * 4])
    def test_no_document_at_all_is_read_or_refused(self, data: bytes) -> None:
        self.read_or_refused(data)

    def read_or_refused(self, data: bytes) -> None:
        """Nothing but Parsed with text, or a ParseError that names the file and says what to do."""
        refused: ParseError | None = None
        parsed: Parsed | None = None
        try:
            parsed = self.parser().parse(data, media_type=self.media_type, name=self.name)
        except ParseError as error:
            refused = error
        if parsed is not None:
            assert any(element.text.strip() for element in parsed.elements)
        else:
            assert refused is not None
            assert self.name in refused.message
            assert refused.hint
