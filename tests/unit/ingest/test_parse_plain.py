"""Text files and tables of text."""

from __future__ import annotations

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.errors import DocumentDamaged, DocumentWithoutText
from ingest.model import Parsed
from ingest.parse.plain import DelimitedParser, PlainParser, as_utf8, decode, sniff_delimiter, table_elements
from tests.contracts.parser import ParserContract

TEXT = "First line\nof a paragraph.\n\n  \nSecond paragraph.\n\fThird, after a form feed.\n"


class TestPlainParser(ParserContract):
    media_type, name = "text/plain", "notes.txt"
    words = ("First line", "Second paragraph", "Third")

    def parser(self) -> PlainParser:
        return PlainParser()

    def sample(self) -> bytes:
        return TEXT.encode()


class TestDelimitedParser(ParserContract):
    media_type, name = "text/csv", "staff.csv"
    words = ("name", "city", "Ada", "Bonn", "Bob")

    def parser(self) -> DelimitedParser:
        return DelimitedParser()

    def sample(self) -> bytes:
        return b'name,city\n"Ada, the first",Bonn\nBob,"two\nlines"\n'


def plain(data: bytes, media_type: str = "text/plain") -> list[str]:
    return [e.text for e in PlainParser().parse(data, media_type=media_type, name="notes.txt").elements]


def delimited(text: str, media_type: str = "text/csv") -> Parsed:
    return DelimitedParser().parse(text.encode(), media_type=media_type, name="t.csv")


def test_blank_lines_divide_paragraphs() -> None:
    assert plain(TEXT.encode()) == ["First line\nof a paragraph.", "Second paragraph.", "Third, after a form feed."]


def test_windows_line_ends() -> None:
    assert plain(b"one\r\ntwo\r\n\r\nthree") == ["one\ntwo", "three"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_unicode_encodings(encoding: str) -> None:
    text = "Grüße aus Köln: the harbour opens at noon, and closes at five."
    assert plain(text.encode(encoding)) == [text]


def test_a_declared_charset_is_believed() -> None:
    assert plain("Привет, мир".encode("koi8-r"), "text/plain; charset=KOI8-R") == ["Привет, мир"]


def test_a_wrong_declared_charset_is_not() -> None:
    assert plain("Grüße".encode(), "text/plain; charset=us-ascii") == ["Grüße"]
    assert plain("Grüße".encode(), "text/plain; charset=no-such-thing") == ["Grüße"]


def test_an_undeclared_legacy_charset_is_guessed() -> None:
    text = "Die Straße nach Köln ist für Fußgänger gesperrt, weil die Brücke über den Fluß erneuert wird. " * 5
    assert plain(text.encode("cp1252")) == [text.strip()]


@given(st.binary(max_size=2000))
def test_decoding_never_fails(data: bytes) -> None:
    assert isinstance(decode(data), str)
    assert isinstance(as_utf8(data), bytes)


@given(st.text(alphabet=st.characters(codec="utf-8", exclude_categories=("Cc",)), min_size=1, max_size=200))
def test_utf8_is_always_read_as_utf8(text: str) -> None:
    assert decode(text.encode()).encode() == text.encode().removeprefix(b"\xef\xbb\xbf")


def test_binary_named_as_text() -> None:
    with pytest.raises(DocumentDamaged, match=r"notes\.txt is named as text but holds binary data"):
        plain(bytes(range(256)) * 40)


def test_a_stray_control_character_is_dropped() -> None:
    assert plain(b"a good line with one bell\x07 in it, and much more text around it than that one") == [
        "a good line with one bell in it, and much more text around it than that one"
    ]


def test_empty() -> None:
    with pytest.raises(DocumentWithoutText, match=r"notes\.txt"):
        plain(b"  \n\n ")


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_delimiters_are_sniffed(delimiter: str) -> None:
    text = "\n".join(delimiter.join(row) for row in (["a", "b", "c"], ["1.5", "x y", "z"], ["2", "", "q"]))
    assert sniff_delimiter(text) == delimiter


def test_decimal_commas_do_not_mislead() -> None:
    parsed = delimited("Ort;Preis\nBonn;1,50\nKöln;2,75\n")
    assert parsed.elements[0].text == "| Ort | Preis |\n| --- | --- |\n| Bonn | 1,50 |\n| Köln | 2,75 |"


def test_one_column() -> None:
    assert delimited("name\nAda\nBob\n").elements[0].text == "| name |\n| --- |\n| Ada |\n| Bob |"


def test_tabs_by_type() -> None:
    assert "| a,b | c |" in delimited("x\ty\na,b\tc\n", "text/tab-separated-values").elements[0].text


def test_pipes_are_escaped_and_short_rows_filled() -> None:
    assert delimited("a,b\nx|y\n").elements[0].text == "| a | b |\n| --- | --- |\n| x\\|y |  |"


@given(st.integers(0, 180))
def test_long_tables_are_split_and_keep_their_header(rows: int) -> None:
    written = io.StringIO()
    csv.writer(written).writerows([["id", "value"], *([str(n), f"v{n}"] for n in range(rows))])
    tables = delimited(written.getvalue()).elements
    assert len(tables) == max(1, -(-rows // 50))
    assert all(table.text.startswith("| id | value |\n| --- | --- |") for table in tables)
    body = [line for table in tables for line in table.text.split("\n")[2:]]
    assert body == [f"| {n} | v{n} |" for n in range(rows)]


def test_a_table_without_cells() -> None:
    assert list(table_elements([["", " "], []])) == []
    with pytest.raises(DocumentWithoutText):
        delimited(",,\n,,\n")


def test_a_very_long_field() -> None:
    assert "x" * 200_000 in delimited(f"a,b\n{'x' * 200_000},1\n").elements[0].text
