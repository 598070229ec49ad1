"""The terms that index, query and packer agree on."""
# ruff: noqa: RUF001 - other scripts are what is tested

from __future__ import annotations

import json
import math
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rank_bm25 import BM25Okapi

from indexes.analyze import MAX_TERM_LENGTH, Analyzer, PlainAnalyzer, analyzer_of, detect_language
from indexes.errors import RagsvcError

ANALYZER = Analyzer()


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("The runners were running", ["runner", "were", "run"]),
        ("President's presidents", ["presid", "presid"]),
        ("résumé Résumé resume", ["resum", "resum", "resum"]),
        ("naïve Ångström Øre Łódź", ["naiv", "angstrom", "ore", "lodz"]),
        ("Straße STRASSE", ["strass", "strass"]),
        ("1,000 1'000 1.000.000 3.14 50%", ["1000", "1000", "1000000", "3.14", "50"]),
        ("192.168.0.1 on 2024-01-15", ["192.168.0.1", "2024-01-15", "2024", "01", "15"]),
        ("foo_bar-baz", ["foo_bar-baz", "foo", "bar", "baz"]),
        ("A1.2 v2.0.1-beta", ["a1.2", "a1", "2", "v2.0.1-beta", "v2", "0", "1", "beta"]),
        ("HTTPServer getUserName", ["httpserver", "http", "server", "getusernam", "get", "user", "name"]),
        ("mRNA GmbH", ["mrna", "rna", "gmbh", "gmb"]),
        ("C++ and C# but #tag", ["c++", "c#", "tag"]),
        ("AT&T", ["at&t", "t"]),
        ("me@example.com", ["me@example.com", "me", "exampl", "com"]),
        ("l'homme d'État", ["homm", "etat"]),
        ("ﬁne ＷＩＤＥ", ["fine", "wide"]),
        ("6½ cups", ["6", "1", "2", "cup"]),
        ("word\u00a0word", ["word", "word"]),
        ("!!! --- ...", []),
        ("", []),
    ],
)
def test_english_and_identifiers(text: str, terms: list[str]) -> None:
    assert ANALYZER.terms(text) == terms


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("黑豹队的防守", ["黑豹", "豹队", "队的", "的防", "防守"]),
        ("分", ["分"]),
        ("308分，Nokia手机", ["308", "分", "nokia", "手机"]),
        ("日本語テスト", ["日本", "本語", "語テ", "テス", "スト"]),
        ("ｶﾀｶﾅ", ["カタ", "タカ", "カナ"]),
        ("서울에서 만나요", ["서울", "울에", "에서", "만나", "나요"]),
        ("ไทย", ["ไท", "ทย"]),
    ],
)
def test_scripts_without_blanks_give_bigrams(text: str, terms: list[str]) -> None:
    assert ANALYZER.terms(text) == terms


def test_words_of_other_scripts_are_kept_whole_and_stemmed() -> None:
    assert len(ANALYZER.terms("हिन्दी में किताबें")) == 3
    assert ANALYZER.terms("книги")[0] == ANALYZER.terms("книга")[0]
    assert ANALYZER.terms("كِتَاب") == ANALYZER.terms("كتاب")
    assert len(ANALYZER.terms("می\u200cخواهم")) == 2
    assert ANALYZER.terms("שָׁלוֹם") == ANALYZER.terms("שלום")


def test_the_language_chooses_the_stemmer_of_its_script_only() -> None:
    assert ANALYZER.terms("Häuser Haus", lang="de") == ["haus", "haus"]
    assert ANALYZER.terms("running", lang="zh") == ["run"]
    assert ANALYZER.terms("running", lang="ru") == ["run"]
    assert ANALYZER.terms("die Katze und der Hund", lang="de") == ["katz", "hund"]
    assert ANALYZER.terms("running", lang="xx") == ["running"]
    assert ANALYZER.terms("не книги", lang="ru") != ANALYZER.terms("не книги", lang="uk")


@pytest.mark.parametrize(("text", "lang"), [("to be or not to be", None), ("und oder", "de"), ("The", None)])
def test_a_text_of_stop_words_returns_them(text: str, lang: str | None) -> None:
    assert ANALYZER.terms(text, lang=lang) == [word.lower() for word in text.split()]


def test_a_query_gets_the_terms_of_all_languages_once() -> None:
    both = ANALYZER.query_terms("Häuser houses Häuser", langs=("en", "de"))
    assert set(both) >= {"hauser", "hous", "haus"}
    assert len(both) == len(set(both))
    assert ANALYZER.query_terms("running dogs running", langs=()) == ["run", "dog"]


@given(st.text(max_size=300), st.sampled_from([None, "en", "de", "fr", "ru", "zh", "ar", "hi", "xx"]))
def test_terms_are_short_lower_case_and_without_white_space(text: str, lang: str | None) -> None:
    terms = ANALYZER.terms(text, lang=lang)
    assert all(term and len(term) <= MAX_TERM_LENGTH and len(term.split()) == 1 for term in terms)
    assert terms == Analyzer().terms(text, lang=lang)


@given(st.lists(st.sampled_from(["The", "cat's", "a_b", "1,000", "naïve", "黑豹队", "не", "état"]), max_size=8))
def test_terms_of_a_text_are_those_of_its_words(words: list[str]) -> None:
    apart = [term for word in words for term in ANALYZER.terms(f"anchor {word}")[1:]]
    assert ANALYZER.terms("anchor " + " ".join(words))[1:] == apart


@pytest.mark.parametrize("text", ["x" * 5000, "a-" * 3000, "9" * 500, "漢" * 500, "é" * 200])
def test_overlong_words_are_cut(text: str) -> None:
    assert max(map(len, ANALYZER.terms(text))) <= MAX_TERM_LENGTH


def test_threads_get_the_same_terms() -> None:
    texts = [f"running{n} runners analyses{n} relational conditional organisation" for n in range(200)]
    expected = [Analyzer().terms(text) for text in texts]
    shared = Analyzer()
    with ThreadPoolExecutor(8) as pool:
        for _ in range(3):
            assert list(pool.map(shared.terms, texts)) == expected


def test_importing_loads_neither_stemmer_nor_language_model() -> None:
    code = "import sys, indexes.analyze; print('Stemmer' in sys.modules, 'fasttext' in sys.modules)"
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


@pytest.mark.parametrize(
    ("text", "lang"),
    [
        ("The committee met on Tuesday to discuss the budget.", "en"),
        ("Der Ausschuss traf sich am Dienstag, um den Haushalt zu besprechen.", "de"),
        ("Le comité s'est réuni mardi pour discuter du budget.", "fr"),
        ("委员会星期二开会讨论预算问题。", "zh"),
        ("委員会は火曜日に予算について話し合いました。", "ja"),
        ("Комитет собрался во вторник, чтобы обсудить бюджет.", "ru"),
        ("ok", None),
        ("", None),
        ("1234 5678 9012 3456 7890", None),
        ("\ud800 \x00", None),
    ],
)
def test_languages_are_detected_offline(text: str, lang: str | None) -> None:
    assert detect_language(text) == lang


@pytest.mark.slow
def test_scifact_reaches_the_published_quality(shared_data: Path) -> None:
    """nDCG@10 of plain BM25 with these terms; .679 is published for Lucene's English analyzer."""
    lines = (shared_data / "scifact/corpus.jsonl").read_text().splitlines()
    corpus = [json.loads(line) for line in lines]
    queries = map(json.loads, (shared_data / "scifact/queries.jsonl").read_text().splitlines())
    questions = {one["_id"]: one["text"] for one in queries}
    rows = [line.split() for line in (shared_data / "scifact/qrels/test.tsv").read_text().splitlines()]
    relevant: dict[str, set[str]] = {}
    for query, document, grade in (row for row in rows if row[2].isdigit()):
        if int(grade) > 0:
            relevant.setdefault(query, set()).add(document)
    bm25 = BM25Okapi([ANALYZER.terms(f"{one['title']} {one['text']}") for one in corpus], k1=1.2, b=0.75)
    gains = []
    for query, wanted in sorted(relevant.items())[:120]:
        best = np.argsort(-bm25.get_scores(ANALYZER.terms(questions[query])), kind="stable")[:10]
        found = [rank for rank, row in enumerate(best, 2) if corpus[row]["_id"] in wanted]
        ideal = sum(1 / math.log2(rank) for rank in range(2, 2 + min(len(wanted), 10)))
        gains.append(sum(1 / math.log2(rank) for rank in found) / ideal)
    assert sum(gains) / len(gains) > 0.64


# ---------------------------------------------------------------- the choice


def test_the_plain_analyzer_keeps_words_as_they_are() -> None:
    plain, text = analyzer_of("plain-1"), "The Résumés of the runners: A1.2-X, running, 日本語"
    terms = plain.terms(text, lang="en")
    assert terms[:2] == ["the", "resumes"]  # a stop word stays, accents and case go
    assert {"runners", "running", "a1.2-x", "日本", "本語"} <= set(terms)
    stemmed = ANALYZER.terms(text, lang="en")
    assert "run" in stemmed
    assert "runners" not in stemmed
    assert plain.terms(text, lang="de") == terms  # no language changes it


def test_an_analyzer_is_chosen_by_its_id() -> None:
    assert type(analyzer_of("standard-1")) is Analyzer
    assert type(analyzer_of("plain-1")) is PlainAnalyzer
    assert analyzer_of("plain-1") is analyzer_of("plain-1")
    with pytest.raises(RagsvcError, match="psychic-1") as raised:
        analyzer_of("psychic-1")
    assert "plain-1" in raised.value.hint
