"""Sentence spans of a normalised text: what is embedded, scored, packed and cited.

Own rules, because no library fits [measured]: sentencex panics on an ideographic space after an initial and takes
quadratic time on unclosed quotation marks, pysbd is slow, blingfire is not kept. One linear pass of a regular
expression finds what may end a sentence; a few rules per hit decide.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from indexes.model import Span
from ingest.model import Block, Text

MAX_SENTENCE = 600  # characters; a model that reads 256 tokens then sees nearly all of it
LONG_ITEM = 300  # a list item up to this long is one sentence
_TINY = 3  # letters; a fragment with fewer joins its neighbour

Range = tuple[int, int]

_CLOSERS = r"[\"'\u2019\u201d\u00bb\u203a)\]}\u300d\u300f\u3011\u300b\uff09\u3009*_]"
_END = re.compile(
    rf"(?P<strong>[\u3002\uff01\uff1f\uff61\u0964\u0965\u061f\u06d4\u1362\u104b\u17d4]++[!?]*+{_CLOSERS}*+\s*+)"
    rf"|(?P<weak>[.!?\u2026]++{_CLOSERS}*+(?P<gap>\s*+))|(?P<line>\n)"
)
_OPENERS = "\"'\u2018\u201c\u201e\u00ab\u2039([{\u300c\u300e*_-\u2013\u2014\u2022\u00bf\u00a1 "
_LAST_WORD = re.compile(r"[^\s(\[{\"\u201c\u2018'\u2014/]{0,24}\Z")
_NEXT_WORD = re.compile(r"[^\s.,;:!?)]{1,24}")
_ITEM_MARK = re.compile(r"(?:[-*+\u2022\u25cf\u25aa\u2013]|\(?\d{1,3}[.)]|\(?[A-Za-z][.)])\s")
_LIST_NUMBER = re.compile(r"\W*(?:\d{1,3}|[A-Za-z])\.\W*")


def _words(listed: str) -> frozenset[str]:
    return frozenset(listed.split())


# Titles and words that a name, a number or a reference follows: never the end of a sentence.
_NEVER = _words(
    "mr mrs ms mx dr prof st ste gen sen rep gov lt col sgt capt cmdr adm maj rev hon pres supt msgr fr bros vs v "
    "cf viz e.g i.e eg ie fig figs eq eqs ref refs sec sect ch chap vol vols art arts no nos nr nrs p pp ed eds "
    "approx ca c incl resp z.b d.h u.a u.ä i.d.r bzw ggf evtl vgl hr hrn mme mlle m mm sra srta ud uds dña d.c av "
    "ej dept univ tel ext jan feb mar apr jun jul aug sep sept oct nov dec mt ft"
)
# These end a sentence only when what follows plainly begins one.
_MAYBE = _words("inc ltd co corp llc plc gmbh etc jr sr al esq usw str abs bd hrsg ave blvd rd sq min max std avg est")
_STARTERS = _words(
    "the a an it he she they we i you this that these those there here in on at for from by as but and or so if "
    "when while after before since although though however moreover furthermore then thus hence therefore what who "
    "where why how his her their its our my your no not all some many most each both one two another other such "
    "with without under der die das ein eine er sie es wir ich ihr dies diese dieser dieses und aber wenn als nach "
    "vor seit im am auf mit le la les un une il elle ils elles ce cette ces mais et dans pour el los las una lo o "
    "do os gli een het de en"
)
_MONTHS = _words(
    "january february march april may june july august september october november december januar februar märz mai "
    "juni juli oktober dezember jahrhundert"
)
_CUTS = (re.compile(r"[;:\u2014\uff1b\uff1a]\s*|[,\uff0c\u3001\u060c]\s*|\s[-\u2013]\s"), re.compile(r"\s+"))


def sentence_spans(text: Text) -> tuple[Span, ...]:
    """Sentences in document order, never across blocks; together they hold every character but white space.

    None is longer than 600 characters. A table row and a blank-line group of code count as sentences.
    """
    spans: list[Span] = []
    for block in text.blocks:
        spans += (Span(start, end) for start, end in _block_sentences(text.text, block))
    return tuple(spans)


def _block_sentences(text: str, block: Block) -> Iterator[Range]:
    start, end = block.span.start, block.span.end
    if block.kind == "table":
        ranges = _rows(text, start, end)
    elif block.kind == "code":
        ranges = _merge_tiny(text, _split_at(text, start, end, "\n\n"), letters_only=False)
    elif block.kind == "heading" or (block.kind == "list_item" and end - start <= LONG_ITEM):
        ranges = [(start, end)]
    else:
        ranges = _merge_tiny(text, _prose(text, start, end), letters_only=True)
    for first, last in ranges:
        yield from _cut(text, first, last, lines=block.kind == "code")


def _trim(text: str, start: int, end: int) -> Range:
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return start, end


def _prose(text: str, start: int, end: int) -> list[Range]:
    ranges: list[Range] = []
    begin = start
    for match in _END.finditer(text, start, end):
        if match.end() < end and _ends(text, begin, match, start, end):
            ranges.append(_trim(text, begin, match.end()))
            begin = match.end()
    if begin < end:
        ranges.append(_trim(text, begin, end))
    return [(first, last) for first, last in ranges if first < last]


def _ends(text: str, begin: int, match: re.Match[str], start: int, end: int) -> bool:
    """Whether a sentence that began at `begin` ends with this punctuation or newline."""
    if match["strong"]:
        return True
    if match["line"]:
        return _line_ends(text, begin, match.start(), match.end(), end)
    if not match["gap"]:
        return False
    after = match.end()
    limit = min(end, after + 8)
    while after < limit and text[after] in _OPENERS:
        after += 1
    following = text[after : after + 1]
    if not following or following.islower():
        return False
    mark = match["weak"].rstrip()
    if not mark.startswith(".") or mark.startswith(".."):
        return True
    return _period_ends(text, begin, match.start(), after, end)


def _period_ends(text: str, begin: int, dot: int, after: int, end: int) -> bool:
    found = _LAST_WORD.search(text, max(begin, dot - 24), dot)
    word = found[0] if found else ""
    if not word:
        return True
    if dot - begin <= 8 and _LIST_NUMBER.fullmatch(text, begin, dot + 1):
        return False  # "1. Open the lid": a list mark, not a sentence
    follower = _NEXT_WORD.match(text, after, end)
    next_word = follower[0].casefold() if follower else ""
    folded = word.casefold()
    if folded in _NEVER and not (folded == "no" and next_word[:1].isalpha()):
        return False
    if (len(word) == 1 and word.isalpha()) or folded in _MAYBE or ("." in word and word.replace(".", "").isalpha()):
        return next_word in _STARTERS  # J. Smith, z. B., Acme Inc., U.S., 5 p.m.
    return not (word.isdigit() and len(word) <= 2 and next_word in _MONTHS)  # German ordinals: 3. Oktober


def _line_ends(text: str, begin: int, newline: int, after: int, end: int) -> bool:
    """Whether a single newline in prose ends a sentence: before a list mark, or after a short line (not wrapped)."""
    if _ITEM_MARK.match(text, after, end):
        return True
    line = newline - max(begin, text.rfind("\n", begin, newline) + 1)
    return line < 50 and text[newline - 1] not in ",;" and not text[after : after + 1].islower()


def _rows(text: str, start: int, end: int) -> list[Range]:
    """Lines of a table; the `|---|` line belongs to the header row above it."""
    rows: list[Range] = []
    for first, last in _split_at(text, start, end, "\n"):
        if rows and not any(ch.isalnum() for ch in text[first:last]):
            rows[-1] = (rows[-1][0], last)
        else:
            rows.append((first, last))
    return rows


def _split_at(text: str, start: int, end: int, separator: str) -> list[Range]:
    ranges: list[Range] = []
    while start < end:
        stop = text.find(separator, start, end)
        first, last = _trim(text, start, end if stop < 0 else stop)
        if first < last:
            ranges.append((first, last))
        start = end if stop < 0 else stop + len(separator)
    return ranges


def _is_tiny(text: str, first: int, last: int, *, letters_only: bool) -> bool:
    if last - first > 40:
        return False
    test = str.isalpha if letters_only else str.isalnum
    return sum(1 + (ch >= "\u2e80") for ch in text[first:last] if test(ch)) < _TINY  # an ideograph says more


def _merge_tiny(text: str, ranges: Sequence[Range], *, letters_only: bool) -> list[Range]:
    """Join fragments without words to the sentence before them (a list number: to the one after)."""
    merged: list[Range] = []
    waiting: int | None = None
    for first, last in ranges:
        first, waiting = (first if waiting is None else waiting), None
        if _is_tiny(text, first, last, letters_only=letters_only):
            if merged and not _LIST_NUMBER.fullmatch(text, first, last):
                merged[-1] = (merged[-1][0], last)
            else:
                waiting = first
        else:
            merged.append((first, last))
    if waiting is not None:
        tail = ranges[-1][1]
        if merged:
            merged[-1] = (merged[-1][0], tail)
        else:
            merged.append((waiting, tail))
    return merged


def _cut(text: str, start: int, end: int, *, lines: bool) -> Iterator[Range]:
    """Pieces of at most 600 characters, of about equal length, cut at a clause or at white space."""
    while end - start > MAX_SENTENCE:
        pieces = -(-(end - start) // MAX_SENTENCE)
        low = start + (end - start) // pieces // 2
        high = start + MAX_SENTENCE
        stop = text.rfind("\n", low, high) + 1 if lines else 0
        for pattern in _CUTS:
            stop = stop or max((m.end() for m in pattern.finditer(text, low, high)), default=0)
        stop = min(stop or high, high)
        yield _trim(text, start, stop)
        start = _trim(text, stop, end)[0]
    if start < end:
        yield start, end
