"""Options of the command line: each has an environment variable RAGSVC_... of the same name."""

from __future__ import annotations

from typing import Any

import typer

OPTION_VARIABLES: set[str] = set()


def option(name: str, *short: str, help: str, **more: Any) -> Any:
    """A typer option `--name` with the variable RAGSVC_NAME. Settings read theirs themselves."""
    variable = "RAGSVC_" + name.removeprefix("--").split("/")[0].replace("-", "_").upper()
    OPTION_VARIABLES.add(variable)
    return typer.Option(name, *short, help=help, envvar=variable, **more)
