"""docs/errors.md says every error of the tree, its status and what to do."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterator

import pytest

import indexes
import ingest
import ragsvc
from indexes.errors import RagsvcError
from ragsvc.errors import NoRoute, problem_of, status_of
from tests.docs.pages import Section, read, sections


def classes() -> list[type[RagsvcError]]:
    """Every error of the project, wherever it is defined."""
    for package in (indexes, ingest, ragsvc):
        for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
            if ".migrations" not in module.name:  # alembic's own: they run when imported
                importlib.import_module(module.name)

    def below(kind: type[RagsvcError]) -> Iterator[type[RagsvcError]]:
        for inner in kind.__subclasses__():
            yield inner
            yield from below(inner)

    found = dict.fromkeys(below(RagsvcError))
    return [kind for kind in found if kind.__module__.split(".")[0] in ("indexes", "ingest", "ragsvc")]


CLASSES = classes()
SECTIONS: dict[str, Section] = {section.title: section for section in sections(read("errors.md"), 3)}
CASES = pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)


def made(kind: type[RagsvcError]) -> RagsvcError:
    """An error as the code raises it."""
    return NoRoute("Not Found", status=404) if kind is NoRoute else kind()


def test_every_error_has_a_section_and_nothing_else() -> None:
    assert set(SECTIONS) == {kind.__name__ for kind in CLASSES}


def test_names_of_errors_are_unique() -> None:
    # `type` of a problem document is the name alone.
    assert len({kind.__name__ for kind in CLASSES}) == len(CLASSES)


@CASES
def test_status_is_the_documented_one(kind: type[RagsvcError]) -> None:
    body = SECTIONS[kind.__name__].body.strip()
    documented = re.match(r"HTTP (\d{3})", body)
    if documented is not None:
        assert status_of(made(kind)) == int(documented[1])
    else:
        assert body.startswith("Not over HTTP")
        assert status_of(made(kind)) == 500, "it has a status of its own, so it is meant to go over HTTP"


@CASES
def test_what_to_do_is_the_hint_of_the_class(kind: type[RagsvcError]) -> None:
    assert re.findall(r"^Do: (.+)$", SECTIONS[kind.__name__].body, flags=re.M) == [made(kind).hint]


@CASES
def test_docstring_is_a_default_message(kind: type[RagsvcError]) -> None:
    assert kind.__doc__, "the class docstring is the default message"
    first = kind.__doc__.strip().splitlines()[0]
    assert first.endswith(".")
    assert first[0].isupper()
    if kind is not NoRoute:
        assert kind().message == first


@CASES
def test_hint_is_a_sentence(kind: type[RagsvcError]) -> None:
    assert kind.hint.strip()
    assert kind.hint.endswith(".")
    assert kind.hint[0].isupper() or kind.hint[0] == "`"


@CASES
def test_problem_document_has_every_member(kind: type[RagsvcError]) -> None:
    problem = problem_of(made(kind))
    assert set(problem) == {"type", "title", "status", "detail", "hint"}
    assert all(problem.values())
    assert problem["type"] == f"urn:ragsvc:error:{kind.__name__}"
    assert str(problem["title"]).endswith(".")


def test_own_message_and_hint_win() -> None:
    problem = problem_of(ragsvc.errors.Invalid("query is missing.", hint="Send it."))
    assert (problem["detail"], problem["hint"]) == ("query is missing.", "Send it.")


def test_routes_that_hints_name_exist() -> None:
    from ragsvc.routes import collections, documents, generations, jobs, operations, retrieve, sources

    nouns = (collections, documents, generations, jobs, operations, retrieve, sources)
    routers = [module.router for module in nouns]
    known = {(method, route.path) for router in routers for route in router.routes for method in route.methods}  # type: ignore[attr-defined]
    for kind in CLASSES:
        for method, path in re.findall(r"\b(GET|POST|PUT|PATCH|DELETE) (/[\w/{}-]+)", kind.hint):
            assert (method, path) in known, f"{kind.__name__}: {method} {path}"


@pytest.mark.parametrize("module", ["indexes.errors", "ingest.errors"])
def test_tree_in_the_docstring_is_the_tree(module: str) -> None:
    drawn = set(re.findall(r"-- (\w+)", importlib.import_module(module).__doc__ or ""))
    here = {kind.__name__ for kind in CLASSES if kind.__module__ == module}
    assert drawn == here
