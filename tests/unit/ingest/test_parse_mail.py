"""E-mail messages."""

from __future__ import annotations

import contextlib

import pytest

from ingest.errors import DocumentDamaged, DocumentEncrypted, DocumentWithoutText
from ingest.model import Parsed
from ingest.parse.mail import MailParser
from tests.contracts.parser import ParserContract
from tests.contracts.parser_documents import eml_message


class TestMailParser(ParserContract):
    media_type, name = "message/rfc822", "hello.eml"
    words = ("Dear Bob", "The harbour opens", "Ada")

    def parser(self) -> MailParser:
        return MailParser()

    def sample(self) -> bytes:
        return eml_message(attachment=True)


def parse(data: bytes) -> Parsed:
    return MailParser().parse(data, media_type="message/rfc822", name="m.eml")


def test_headers_are_metadata_and_the_subject_the_title() -> None:
    parsed = parse(eml_message())
    assert parsed.title == "Grüße from Bonn"
    assert parsed.metadata == {
        "from": "Ada <ada@example.org>",
        "to": "bob@example.org",
        "date": "2024-05-06T08:00:00+00:00",
    }


def test_plain_text_is_preferred_to_html() -> None:
    assert [e.text for e in parse(eml_message()).elements] == ["Dear Bob,", "The harbour opens on Monday.", "Ada"]


def test_html_alone_goes_through_the_html_parser() -> None:
    assert [(e.kind, e.text) for e in parse(eml_message(html=True)).elements] == [
        ("heading", "News"),
        ("paragraph", "The harbour opens."),
    ]


def test_attachments_are_named_and_not_read() -> None:
    parsed = parse(eml_message(attachment=True))
    assert parsed.warnings == ("Attachments were not read: plan.pdf.",)
    assert "PDF" not in "".join(e.text for e in parsed.elements)


def test_a_message_of_attachments_only() -> None:
    data = b'Subject: x\nContent-Type: image/png; name="photo.png"\nContent-Transfer-Encoding: base64\n\niVBORw0KGgo=\n'
    with pytest.raises(DocumentWithoutText, match=r"photo\.png"):
        parse(data)


@pytest.mark.parametrize(
    "kind", ["multipart/encrypted; boundary=x", "application/pkcs7-mime; smime-type=enveloped-data"]
)
def test_encrypted(kind: str) -> None:
    with pytest.raises(DocumentEncrypted, match=r"m\.eml"):
        parse(f"Subject: x\nContent-Type: {kind}\n\n--x\n\nsecret\n--x--\n".encode())


def test_no_message() -> None:
    with pytest.raises(DocumentDamaged, match=r"m\.eml is not an e-mail message"):
        parse(b"just a text without headers\n")


def test_flowed_lines_are_joined() -> None:
    data = b"Subject: x\nContent-Type: text/plain; format=flowed\n\nThis goes \non and on.\n\n> quoted \n> line\n"
    assert [e.text for e in parse(data).elements] == ["This goes on and on.", "> quoted \n> line"]


@pytest.mark.parametrize(
    "header",
    [
        b"Subject: =?utf-8?q?broken",
        b"Subject: =?no-such-charset?b?AAAA?=",
        b"From: <<<>>>@@",
        b'To: "unclosed',
        b"Date: the day after tomorrow",
        b"Date: Mon, 99 Foo 99999 99:99:99 +9999",
        b"Content-Type: text/plain; charset=no-such-charset",
        b"Content-Type: ;;;=",
        b"Content-Disposition: ; filename*=x''%",
        b"Subject: \xff\xfe raw bytes",
    ],
)
def test_malformed_headers_do_not_cost_the_body(header: bytes) -> None:
    parsed = parse(b"X-Sound: yes\n" + header + b"\n\nThe body is fine.\n")
    assert parsed.elements[-1].text == "The body is fine."


def test_a_message_in_utf_16() -> None:
    assert parse(eml_message().decode().encode("utf-16")).title == "Grüße from Bonn"


def test_a_thousand_nested_parts() -> None:
    nested = b"".join(b"Content-Type: multipart/mixed; boundary=b%d\n\n--b%d\n" % (n, n) for n in range(300))
    # The jail turns a RecursionError into ParserKilled.
    with contextlib.suppress(DocumentWithoutText, RecursionError):
        parse(b"Subject: deep\n" + nested + b"\nend\n")
