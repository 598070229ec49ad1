"""docs/cli.md says what the command line has, and every option's variable works."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, get_type_hints

import pytest
import typer.main

from ragsvc import settings
from ragsvc.cli import app
from ragsvc.options import OPTION_VARIABLES
from ragsvc.settings import Settings
from tests.docs.pages import ROOT, Section, markdown_files, read, rows, sections


def walk(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """(`keys create`, command) of every command that does something."""
    if hasattr(command, "commands"):
        for name, inner in command.commands.items():
            yield from walk(inner, (*path, name))
    else:
        yield " ".join(path), command


def options(command: Any) -> list[Any]:
    """Its options without --help."""
    return [p for p in command.params if p.param_type_name == "option" and p.name != "help"]


COMMANDS: dict[str, Any] = dict(walk(typer.main.get_command(app)))
SECTIONS: dict[str, Section] = {
    re.sub(r" ?\[?[A-Z]+\]?$", "", section.title.strip("`").removeprefix("ragsvc ")): section
    for section in sections(read("cli.md"), 2)
}
OPTIONS = [(name, option) for name, command in COMMANDS.items() for option in options(command)]
CASES = pytest.mark.parametrize(("name", "option"), OPTIONS, ids=[f"{n} {o.opts[0]}" for n, o in OPTIONS])


def variable_of(option: Any) -> str:
    """RAGSVC_ and the option's name; RAGSVC_WORKERS was the number of jobs before there was `--workers`."""
    if option.opts[0] == "--workers":
        return "RAGSVC_SERVE_WORKERS"
    return "RAGSVC_" + str(option.opts[0]).removeprefix("--").replace("-", "_").upper()


def test_every_command_has_a_section_and_nothing_else() -> None:
    assert set(SECTIONS) == set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_arguments_are_in_the_heading(name: str) -> None:
    words = [f"ragsvc {name}"]
    for parameter in COMMANDS[name].params:
        if parameter.param_type_name == "argument":
            shown = parameter.name.upper()
            words.append(shown if parameter.required else f"[{shown}]")
    assert SECTIONS[name].title == f"`{' '.join(words)}`"


@pytest.mark.parametrize("name", COMMANDS)
def test_options_of_a_command_are_all_in_its_table(name: str) -> None:
    assert [row[0].strip("`") for row in rows(SECTIONS[name].body)] == [o.opts[0] for o in options(COMMANDS[name])]


@CASES
def test_row_of_an_option_says_its_variable_and_default(name: str, option: Any) -> None:
    row = next(row for row in rows(SECTIONS[name].body) if row[0] == f"`{option.opts[0]}`")
    assert row[1] == f"`{variable_of(option)}`"
    if option.required:
        expected = "required"
    elif option.is_flag:
        expected = "off"
    elif option.envvar is None:
        expected = "the setting"
    elif option.default == "":
        expected = "empty"
    else:
        expected = "none" if option.default is None else f"`{option.default}`"
    assert row[2] == expected
    assert row[3].endswith(".")


@CASES
def test_option_has_help(name: str, option: Any) -> None:
    assert option.help
    assert option.help.endswith((".", "]."))


@CASES
def test_options_variable_sets_it(name: str, option: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    variable = variable_of(option)
    stated, expected = example(name, option)
    monkeypatch.setenv(variable, stated)
    if option.envvar is None:  # the settings read it, whichever way the command goes
        assert variable.removeprefix("RAGSVC_").lower() in Settings.model_fields
        assert str(getattr(settings.load(**{option.name: None}), option.name)) == stated
        return
    assert option.envvar == variable
    context = COMMANDS[name].make_context(name, required_arguments(COMMANDS[name], without=option))
    assert context.params[option.name] == expected
    assert context.get_parameter_source(option.name).name == "ENVIRONMENT"


@CASES
def test_option_wins_over_its_variable(name: str, option: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    stated, expected = example(name, option)
    monkeypatch.setenv(
        variable_of(option), {"bool": "0", "int": "2", "float": "0.25"}.get(kind_of(name, option), "other")
    )
    if kind_of(name, option) == "bool":
        typed = [option.opts[0]]
    else:
        typed = [part for value in stated.split() for part in (option.opts[0], value)]
    arguments = required_arguments(COMMANDS[name], without=option) + typed
    context = COMMANDS[name].make_context(name, arguments)
    assert context.params[option.name] == expected


def kind_of(name: str, option: Any) -> str:
    """bool, int, float or str, by the annotation of the command's function."""
    hint = str(get_type_hints(COMMANDS[name].callback)[option.name])
    return next((kind for kind in ("bool", "int", "float") if kind in hint), "str")


def example(name: str, option: Any) -> tuple[str, Any]:
    """A value of its variable, and what it shall come to."""
    kind = kind_of(name, option)
    if option.multiple:
        return "one two", ["one", "two"]
    values: dict[str, tuple[str, Any]] = {
        "bool": ("1", True),
        "int": ("7", 7),
        "float": ("0.5", 0.5),
        "str": ("x", "x"),
    }
    return values[kind]


def required_arguments(command: Any, *, without: Any) -> list[str]:
    """What must be typed for the command to be understood."""
    typed: list[str] = []
    for parameter in command.params:
        if parameter.required and parameter is not without:
            typed += ["x"] if parameter.param_type_name == "argument" else [parameter.opts[0], "x"]
    return typed


def test_every_documented_variable_is_one_that_doctor_knows() -> None:
    known = OPTION_VARIABLES | {f"RAGSVC_{name.upper()}" for name in Settings.model_fields}
    assert {variable_of(option) for _, option in OPTIONS} <= known


@pytest.mark.parametrize("name", COMMANDS)
def test_command_says_what_it_does(name: str) -> None:
    assert COMMANDS[name].help.strip().endswith(".")


def written_commands() -> list[tuple[str, str]]:
    """(where, `ragsvc ...`) in every page and in every text of the code."""
    found: list[tuple[str, str]] = []
    for path in markdown_files():
        text = path.read_text(encoding="utf-8")
        where = str(path.relative_to(ROOT))
        found += [(where, line) for line in re.findall(r"`ragsvc ([a-z][^`]+)`", text)]
        found += [(where, line) for line in re.findall(r"^(?:\.venv/bin/)?ragsvc ([a-z].+)$", text, flags=re.M)]
    for package in ("indexes", "ingest", "ragsvc"):
        for path in (ROOT / package).rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            found += [(str(path.relative_to(ROOT)), line) for line in re.findall(r"`ragsvc ([a-z][^`{]*)`", text)]
    return found


def test_every_command_that_is_written_somewhere_exists() -> None:
    """Hints and pages name commands: each must be one, with options that it has."""
    written = written_commands()
    assert len(written) > 40
    for where, line in written:
        words = re.split(r"\s+#", line)[0].split()
        name = next((n for n in (" ".join(words[:2]), words[0]) if n in COMMANDS), None)
        group = words[0] in {known.split()[0] for known in COMMANDS} and len(words) == 1
        assert name is not None or group, f"{where}: ragsvc {line}"
        if name is not None:
            known = {o.opts[0] for o in options(COMMANDS[name])} | {"--help"}
            used = {word for word in words if word.startswith("--")}
            assert used <= known, f"{where}: ragsvc {line}"


def test_page_names_the_three_exit_statuses() -> None:
    assert re.search(r"0 it worked, 1 it failed.*, 2 wrong usage", read("cli.md"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "variables", "status", "said"),
    [
        (["sources", "--json"], {}, 0, ""),
        (["retrieve", "why?", "--mode", "psychic"], {}, 2, "mode"),
        (["jobs", "job_none"], {}, 1, "what to do"),
        (["sources"], {"RAGSVC_PORT": "many"}, 2, "RAGSVC_PORT"),
        (["jobs", "--cancel"], {}, 2, "which job"),
    ],
)
def test_exit_status_is_the_documented_one(
    arguments: list[str], variables: dict[str, str], status: int, said: str, tmp_path: Any
) -> None:
    import os
    import subprocess
    import sys

    environment = {**os.environ, "RAGSVC_DATA": str(tmp_path / "data"), "COLUMNS": "200", **variables}
    done = subprocess.run(
        [sys.executable, "-c", "from ragsvc.cli import main; main()", *arguments],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == status, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
