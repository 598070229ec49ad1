"""Web pages and XML."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.errors import DocumentDamaged, DocumentWithoutText
from ingest.model import Parsed
from ingest.parse.markup import HtmlParser, XmlParser, html_document, parse_xml
from tests.contracts.parser import ParserContract

PAGE = """<!doctype html><html lang="de"><head><title> Der  Hafen </title><meta name="author" content="Ada">
<style>p {color: red}</style><script>var hidden = "script text";</script></head><body>
<nav><a href="/">Home</a><a href="/x">Menu entry</a></nav>
<main><h1>Harbour</h1><p>It opens
 at <b>no</b>on.<br>And closes at five.</p>
<ul><li>Boats<ul><li>Small ones</li></ul></li><li><p>Ships</p></li></ul>
<table><caption>Fees</caption><tr><th>Kind</th><th colspan="2">Fee</th></tr>
<tr><td>Boat</td><td>5</td><td>EUR</td></tr></table>
<pre>  if x:
    y()</pre></main>
<aside>Advert</aside><p hidden>Hidden one</p><p aria-hidden="true">Hidden two</p>
<p style="DISPLAY : none">Hidden three</p>
<footer>Imprint</footer></body></html>"""


class TestHtmlParser(ParserContract):
    media_type, name = "text/html", "harbour.html"
    words = ("Harbour", "It opens at noon.", "Boats", "Small ones", "Ships", "Fees", "| Boat | 5 | EUR |", "if x:")

    def parser(self) -> HtmlParser:
        return HtmlParser()

    def sample(self) -> bytes:
        return PAGE.encode()


class TestXmlParser(ParserContract):
    media_type, name = "application/xml", "facts.xml"
    words = ("United States", "Washington, DC", "mixed bold text")

    def parser(self) -> XmlParser:
        return XmlParser()

    def sample(self) -> bytes:
        return (
            b'<?xml version="1.0"?><facts><country id="1"><name>United States</name>'
            b"<capital>Washington, DC</capital></country><p>mixed bold text</p></facts>"
        )


def page(body: str) -> list[tuple[str, str]]:
    return [(e.kind, e.text) for e in html_document(f"<html><body>{body}</body></html>").elements]


def parse(data: bytes, media_type: str = "text/html") -> Parsed:
    return HtmlParser().parse(data, media_type=media_type, name="x.html")


def test_a_whole_page() -> None:
    parsed = parse(PAGE.encode())
    assert [(e.kind, e.level, e.text) for e in parsed.elements] == [
        ("heading", 1, "Harbour"),
        ("paragraph", 0, "It opens at noon.\nAnd closes at five."),
        ("list_item", 0, "Boats"),
        ("list_item", 0, "Small ones"),
        ("list_item", 0, "Ships"),
        ("paragraph", 0, "Fees"),
        ("table", 0, "| Kind | Fee |  |\n| --- | --- | --- |\n| Boat | 5 | EUR |"),
        ("code", 0, "  if x:\n    y()"),
    ]
    assert parsed.title == "Der Hafen"
    assert parsed.metadata == {"lang": "de", "author": "Ada"}


def test_a_main_part_with_little_of_the_text_does_not_hide_the_rest() -> None:
    assert page(f"<main>small</main><p>{'the text of the page ' * 9}</p>")[0] == ("paragraph", "small")
    assert len(page(f"<main>small</main><p>{'the text of the page ' * 9}</p>")) == 2


def test_a_page_that_is_all_furniture_is_read_after_all() -> None:
    assert page("<nav><p>Everything is in here</p>") == [("paragraph", "Everything is in here")]


def test_layout_tables_are_not_tables() -> None:
    assert page("<table><tr><td><h2>News</h2></td><td>one</td></tr><tr><td>two</td><td>three</td></tr></table>") == [
        ("heading", "News"),
        ("paragraph", "one"),
        ("paragraph", "two"),
        ("paragraph", "three"),
    ]
    inner = "<table><tr><td>a</td><td>b</td></tr><tr><td>c</td><td>d</td></tr></table>"
    assert page(f"<table><tr><td>left</td><td>{inner}</td></tr><tr><td>x</td><td>y</td></tr></table>")[1] == (
        "table",
        "| a | b |\n| --- | --- |\n| c | d |",
    )


@pytest.mark.parametrize("span", ["99999999999", "-1", "x", "0", "²"])
def test_absurd_spans_are_tolerated(span: str) -> None:
    table = page(f'<table><tr><td colspan="{span}">a</td><td>b</td></tr><tr><td>c</td><td>d</td></tr></table>')
    assert table[0][0] == "table"
    assert len(table[0][1]) < 2000


def test_two_breaks_end_a_paragraph() -> None:
    assert page("one<br>two<br> <br>three") == [("paragraph", "one\ntwo"), ("paragraph", "three")]


def test_text_between_blocks_is_kept() -> None:
    assert [text for _, text in page("a<div>b<p>c</p>d</div>e")] == ["a", "b", "c", "d", "e"]


def test_charsets() -> None:
    text = "<p>Grüße</p>"
    assert parse(text.encode("latin-1"), "text/html; charset=iso-8859-1").elements[0].text == "Grüße"
    declared = f'<html><head><meta charset="windows-1252"></head><body>{text}</body></html>'
    assert parse(declared.encode("cp1252")).elements[0].text == "Grüße"
    assert parse(text.encode()).elements[0].text == "Grüße"


def test_a_page_of_scripts_has_no_text() -> None:
    with pytest.raises(DocumentWithoutText, match=r"x\.html shows no text"):
        parse(b"<html><body><div id=app></div><script>render()</script></body></html>")


def test_ten_thousand_nested_blocks_do_not_exhaust_the_stack() -> None:
    assert page("<div>" * 10_000 + "deep")[-1] == ("paragraph", "deep")


@given(st.text(alphabet="<>/abdivpulte \n&;\"'=!-", max_size=300))
def test_any_tag_soup_gives_elements_without_tags(soup: str) -> None:
    for _, text in page(soup):
        assert text.strip()


def xml(text: str) -> list[str]:
    parsed = XmlParser().parse(text.encode(), media_type="application/xml", name="x.xml")
    return [element.text for element in parsed.elements]


LAUGHS = (
    '<?xml version="1.0"?><!DOCTYPE l [<!ENTITY a "ha">'
    + "".join(f'<!ENTITY {chr(98 + n)} "{f"&{chr(97 + n)};" * 10}">' for n in range(9))
    + "]><l>&j;</l>"
)


@pytest.mark.parametrize(
    "attack",
    [
        LAUGHS,
        '<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]><x>&e;</x>',
        '<!DOCTYPE x [<!ENTITY % e SYSTEM "http://127.0.0.1/e.dtd"> %e;]><x>text</x>',
        '<!DOCTYPE x SYSTEM "http://127.0.0.1/e.dtd"><x>&undefined;</x>',
    ],
    ids=["billion laughs", "file", "parameter entity", "external dtd"],
)
def test_entities_are_refused(attack: str) -> None:
    with pytest.raises(DocumentDamaged, match=r"x\.xml"):
        xml(attack)


def test_xml_in_utf_16_with_a_wrong_declaration() -> None:
    data = '<?xml version="1.0" encoding="utf-8"?><a>Grüße</a>'.encode("utf-16")
    assert parse_xml(data, name="x.xml").text == "Grüße"


def test_xml_without_text() -> None:
    with pytest.raises(DocumentWithoutText):
        xml("<a><b/></a>")
