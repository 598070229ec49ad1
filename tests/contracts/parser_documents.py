"""Small real documents, made in memory, for the tests of the parsers."""

from __future__ import annotations

import hashlib
import struct
import zipfile
import zlib
from collections.abc import Sequence
from email.message import EmailMessage
from io import BytesIO

import docx
import openpyxl
import pptx
from pptx.util import Inches

OLE_HEADER = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"


def docx_document(*, title: str = "Handbook", author: str = "Ada") -> bytes:
    """Headings of two levels, paragraphs, both kinds of lists, a table."""
    document = docx.Document()
    document.core_properties.title, document.core_properties.author = title, author
    document.add_heading("Leave", level=1)
    document.add_paragraph("Everyone has thirty days of leave. Prices_like *this* stay as they are.")
    document.add_heading("Sick leave", level=2)
    for text, style in (("Tell your manager", "List Bullet"), ("See a doctor", "List Number")):
        numbered = document.styles[style].element.pPr.numPr.numId.val
        # Word says it in the paragraph as well as in its style, which is where it is looked for.
        properties = document.add_paragraph(text, style=style)._p.get_or_add_pPr().get_or_add_numPr()
        properties.get_or_add_ilvl().val, properties.get_or_add_numId().val = 0, numbered
    table = document.add_table(rows=2, cols=2)
    for cell, text in zip((c for row in table.rows for c in row.cells), ("Year", "Days", "2024", "30"), strict=True):
        cell.text = text
    return _saved(document)


def pptx_document() -> bytes:
    """Three slides: title slide; an empty one; bullets, a table and speaker's notes."""
    deck = pptx.Presentation()
    deck.core_properties.title = "Strategy"
    first = deck.slides.add_slide(deck.slide_layouts[0])
    first.shapes.title.text, first.placeholders[1].text = "Where we go", "An outlook"
    deck.slides.add_slide(deck.slide_layouts[6])
    third = deck.slides.add_slide(deck.slide_layouts[1])
    third.shapes.title.text, third.placeholders[1].text = "Markets", "Europe\nAsia"
    grid = third.shapes.add_table(2, 2, Inches(1), Inches(4), Inches(4), Inches(1)).table
    for index, text in enumerate(("Region", "Share", "Europe", "40 %")):
        grid.cell(index // 2, index % 2).text = text
    third.notes_slide.notes_text_frame.text = "Mention the harbour."
    return _saved(deck)


def xlsx_document(*, rows: int = 2) -> bytes:
    """A sheet with a caption above a table, an empty sheet, and a sheet with two tables."""
    book = openpyxl.Workbook()
    sheet = book.active
    sheet.title = "Prices"
    sheet.append(["Price list"])
    sheet.append(["Item", "Price"])
    for number in range(rows):
        sheet.append([f"item{number}", number + 0.5])
    book.create_sheet("Nothing")
    other = book.create_sheet("Sites")
    for row in (["City", None, "Staff"], ["Bonn", None, 7], [], ["Car", "Seats"], ["a|b", 4]):
        other.append(row)
    return _saved(book)


def _saved(document: object) -> bytes:
    target = BytesIO()
    document.save(target)  # type: ignore[attr-defined]
    return target.getvalue()


def eml_message(*, html: bool = False, attachment: bool = False) -> bytes:
    """A message with plain text, or with HTML alone."""
    message = EmailMessage()
    message["Subject"], message["From"], message["To"] = "Grüße from Bonn", "Ada <ada@example.org>", "bob@example.org"
    message["Date"] = "Mon, 6 May 2024 10:00:00 +0200"
    if html:
        message.set_content("<html><body><h1>News</h1><p>The harbour opens.</p></body></html>", subtype="html")
    else:
        message.set_content("Dear Bob,\n\nThe harbour opens on Monday.\n\nAda\n")
        message.add_alternative("<p>The HTML part says the same.</p>", subtype="html")
    if attachment:
        message.add_attachment(b"%PDF-1.4", maintype="application", subtype="pdf", filename="plan.pdf")
    return bytes(message)


def epub_book(*, chapter: str = "", encryption: str = "") -> bytes:
    """Two chapters, stored in the other order than they are read in."""
    page = '<html xmlns="http://www.w3.org/1999/xhtml"><head><title>x</title></head><body>{}</body></html>'
    parts = {
        "mimetype": "application/epub+zip",
        "META-INF/container.xml": '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
        '<rootfile full-path="OEBPS/book.opf" media-type="application/oebps-package+xml"/></rootfiles></container>',
        "OEBPS/two.xhtml": page.format("<h1>Second</h1><p>The end of the voyage.</p>"),
        "OEBPS/text/one%20a.xhtml".replace("%20", " "): chapter or page.format("<h1>First</h1><p>A ship sails.</p>"),
        "OEBPS/book.opf": '<package xmlns="http://www.idpf.org/2007/opf"><metadata '
        'xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:title>The Voyage</dc:title><dc:creator>A. Author</dc:creator>'
        "<dc:language>en</dc:language></metadata><manifest>"
        '<item id="b" href="two.xhtml" media-type="application/xhtml+xml"/>'
        '<item id="a" href="text/one%20a.xhtml" media-type="application/xhtml+xml"/></manifest>'
        '<spine><itemref idref="a"/><itemref idref="b"/></spine></package>',
    }
    if encryption:
        parts["META-INF/encryption.xml"] = (
            '<encryption xmlns:enc="http://www.w3.org/2001/04/xmlenc#">'
            f'<enc:CipherReference URI="{encryption}"/></encryption>'
        )
    return zip_of(parts)


def zip_of(parts: dict[str, str]) -> bytes:
    """A zip container with these parts, packed."""
    target = BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in parts.items():
            archive.writestr(name, text)
    return target.getvalue()


def bomb_docx(*, mebibytes: int) -> bytes:
    """A docx whose main part is a run of one letter."""
    target = BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("[Content_Types].xml", "<Types/>")
        with archive.open("word/document.xml", "w", force_zip64=True) as part:
            for _ in range(mebibytes):
                part.write(b"A" * (1 << 20))
    return target.getvalue()


Page = Sequence[tuple[float, float, str]]
"""Lines as (x, y, text), y upwards from the foot of the page."""


def lines_from(top: float, *texts: str, step: float = 14, x: float = 72) -> list[tuple[float, float, str]]:
    """Lines below each other, at the distance of one line."""
    return [(x, top - step * index, text) for index, text in enumerate(texts)]


def pdf_document(
    *pages: Page, info: dict[str, str] | None = None, outline: Sequence[tuple[str, int]] = (), password: str = ""
) -> bytes:
    """A PDF 1.4 with Helvetica text. `outline` holds (title, page from 1); `password` makes it need one."""
    objects: list[bytes] = []

    def add(body: str | bytes) -> int:
        objects.append(body.encode("latin-1") if isinstance(body, str) else body)
        return len(objects)

    font = add("<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>")
    tree = len(objects) + 2 * len(pages) + 1
    leaves = []
    for page in pages:
        drawn = "".join(f"BT /F1 12 Tf {x} {y} Td ({_escaped(text)}) Tj ET\n" for x, y, text in page)
        packed = zlib.compress(drawn.encode("latin-1"))
        stream = add(b"<< /Length %d /Filter /FlateDecode >>\nstream\n%b\nendstream" % (len(packed), packed))
        resources = f"/Resources << /Font << /F1 {font} 0 R >> >> /Contents {stream} 0 R"
        leaves.append(add(f"<< /Type /Page /Parent {tree} 0 R /MediaBox [0 0 595 842] {resources} >>"))
    kids = " ".join(f"{leaf} 0 R" for leaf in leaves)
    add(f"<< /Type /Pages /Count {len(leaves)} /Kids [{kids}] >>")
    outlines = _outline(add, len(objects), outline, leaves)
    root = add(f"<< /Type /Catalog /Pages {tree} 0 R {outlines} >>")
    described = add("<< " + " ".join(f"/{key} ({_escaped(value)})" for key, value in (info or {}).items()) + " >>")
    lock = f" /Encrypt {add(_encryption(password))} 0 R /ID [<{'41' * 16}> <{'41' * 16}>]" if password else ""
    return _assembled(objects, f"/Root {root} 0 R /Info {described} 0 R{lock}")


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("(", "\\(").replace(")", "\\)")


def _outline(add, count: int, entries: Sequence[tuple[str, int]], leaves: Sequence[int]) -> str:  # type: ignore[no-untyped-def]
    if not entries:
        return ""
    first, last, parent = count + 1, count + len(entries), count + len(entries) + 1
    for index, (title, page) in enumerate(entries):
        after = f"/Next {first + index + 1} 0 R" if first + index < last else ""
        add(f"<< /Title ({_escaped(title)}) /Parent {parent} 0 R {after} /Dest [{leaves[page - 1]} 0 R /Fit] >>")
    return f"/Outlines {add(f'<< /First {first} 0 R /Last {last} 0 R /Count {len(entries)} >>')} 0 R"


def _encryption(password: str) -> bytes:
    """The standard security handler, revision 2 (PDF 1.4, section 3.5.2): RC4 with 40 bits."""
    filler = bytes.fromhex("28BF4E5E4E758A4164004E56FFFA01082E2E00B6D0683E802F0CA9FE6453697A")
    padded = (password.encode() + filler)[:32]
    owner = _rc4(_md5(padded)[:5], padded)
    key = _md5(padded + owner + struct.pack("<i", -4) + b"A" * 16)[:5]
    user = _rc4(key, filler)
    return b"<< /Filter /Standard /V 1 /R 2 /P -4 /O <%b> /U <%b> >>" % (owner.hex().encode(), user.hex().encode())


def _md5(data: bytes) -> bytes:
    return hashlib.md5(data, usedforsecurity=False).digest()


def _rc4(key: bytes, data: bytes) -> bytes:
    state = list(range(256))
    j = 0
    for i in range(256):
        j = (j + state[i] + key[i % len(key)]) % 256
        state[i], state[j] = state[j], state[i]
    i = j = 0
    out = bytearray()
    for byte in data:
        i = (i + 1) % 256
        j = (j + state[i]) % 256
        state[i], state[j] = state[j], state[i]
        out.append(byte ^ state[(state[i] + state[j]) % 256])
    return bytes(out)


def _assembled(objects: Sequence[bytes], trailer: str) -> bytes:
    out = bytearray(b"%PDF-1.4\n")
    places = []
    for number, body in enumerate(objects, start=1):
        places.append(len(out))
        out += b"%d 0 obj\n%b\nendobj\n" % (number, body)
    start = len(out)
    out += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    out += b"".join(b"%010d 00000 n \n" % place for place in places)
    out += f"trailer\n<< /Size {len(objects) + 1} {trailer} >>\nstartxref\n{start}\n%%EOF\n".encode()
    return bytes(out)
