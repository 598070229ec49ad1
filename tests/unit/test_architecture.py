"""The house rules that can be read off the code. Import directions are in .importlinter; that they bite is shown here.

Each rule is a function from source text to findings, tried on examples first, so that a rule that sees nothing fails.
"""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("ragsvc", "ingest", "indexes")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
# A migration is one list of statements, written once and never changed: its length says nothing.
MIGRATIONS = ROOT / "ingest" / "catalog" / "migrations" / "versions"
GROWING = [path for path in SOURCES if not path.is_relative_to(MIGRATIONS)]


def name_of(path: Path) -> str:
    """A path as it is written in rules: from the root, with slashes."""
    return path.relative_to(ROOT).as_posix()


def dotted(node: ast.expr) -> str:
    """`a.b.c` of a chain of names, else an empty string."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        left = dotted(node.value)
        return f"{left}.{node.attr}" if left else ""
    return ""


def imported(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, module or module.name) of each import."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def test_there_is_something_to_check() -> None:
    assert {name_of(path).split("/")[0] for path in SOURCES} == set(PACKAGES)


# ---------------------------------------------------------------- size

USUAL, MOST, FILE = 35, 60, 300  # lines; DESIGN 8.2


def function_lengths(tree: ast.AST) -> list[tuple[str, int]]:
    """(name, lines from `def` to the end, docstring included) of each function and method."""
    functions = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return [(node.name, (node.end_lineno or node.lineno) - node.lineno + 1) for node in functions]


def test_function_lengths_count_from_def_to_end() -> None:
    tree = ast.parse(
        "@x\ndef a():\n    '''Doc.'''\n\n    return 1\n\n\nclass B:\n    async def c(self):\n        pass\n"
    )
    assert function_lengths(tree) == [("a", 4), ("c", 2)]


def test_no_function_is_too_long() -> None:
    long = [
        f"{name_of(path)}: {name}: {lines} lines"
        for path in GROWING
        for name, lines in function_lengths(parsed(path))
        if lines > MOST
    ]
    assert not long, "\n".join(["Functions over 60 lines: tell the story in verbs.", *long])


def test_nine_of_ten_functions_are_short() -> None:
    lengths = [(lines, name, name_of(path)) for path in GROWING for name, lines in function_lengths(parsed(path))]
    over = sorted((found for found in lengths if found[0] > USUAL), reverse=True)
    assert len(over) <= len(lengths) * 0.1, f"{len(over)} of {len(lengths)} functions over {USUAL} lines: {over}"


def test_files_are_short_or_say_why() -> None:
    long = [
        name_of(path)
        for path in GROWING
        if len(path.read_text(encoding="utf-8").splitlines()) >= FILE
        and "300 lines" not in (ast.get_docstring(parsed(path)) or "")
    ]
    assert not long, f"Split these, or begin their reason in the docstring with 'Over 300 lines because': {long}"


def test_tests_are_at_least_as_long_as_the_source() -> None:
    def lines(paths: list[Path]) -> int:
        return sum(1 for path in paths for line in path.read_text(encoding="utf-8").splitlines() if line.strip())

    source, tests = lines(SOURCES), lines(sorted((ROOT / "tests").rglob("*.py")))
    assert tests >= source, f"{tests} lines of tests for {source} lines of source"


# ---------------------------------------------------------------- names

BANNED_NAMES = {"utils", "util", "helpers", "helper", "common", "manager", "misc", "data", "info", "process", "handle"}


def test_modules_are_named_for_what_they_hold() -> None:
    vague = [name_of(path) for path in SOURCES if set(path.relative_to(ROOT).with_suffix("").parts) & BANNED_NAMES]
    assert not vague


# ---------------------------------------------------------------- the environment has one reader

ENVIRONMENT = {"os.environ", "os.environb", "os.getenv", "os.getenvb"}
SETTINGS = "ragsvc/settings.py"


def environment_reads(tree: ast.AST) -> list[int]:
    """Lines that read the environment. Setting a variable for a library (`os.environ[...] = ...`) is not reading."""
    writes = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store | ast.Del)
    }
    reads = [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and dotted(node) in ENVIRONMENT and id(node) not in writes
    ]
    return reads + [line for line, name in imported(tree) if name in ENVIRONMENT]


@pytest.mark.parametrize(
    ("text", "reads"),
    [
        ("import os\nos.environ['A']", 1),
        ("import os\nos.getenv('A')", 1),
        ("import os\ndict(os.environ)", 1),
        ("from os import environ", 1),
        ("from os import getenv as g", 1),
        ("import os\nos.environ['A'] = '1'", 0),
        ("import os\nos.getpid()", 0),
    ],
)
def test_environment_reads_are_seen(text: str, reads: int) -> None:
    assert len(environment_reads(ast.parse(text))) == reads


def test_only_the_settings_read_the_environment() -> None:
    readers = [
        f"{name_of(path)}:{line}"
        for path in SOURCES
        if name_of(path) != SETTINGS
        for line in environment_reads(parsed(path))
    ]
    assert not readers, f"Configuration enters once, in {SETTINGS}: {readers}"


# ---------------------------------------------------------------- who may catch everything

MAY_CATCH_ALL = {"ragsvc/app.py", "ragsvc/errors.py", "ragsvc/cli.py", "ingest/worker.py"}


def catch_alls(tree: ast.AST) -> list[int]:
    """Lines of `except:`, `except Exception`, `except BaseException` that do not end by raising it again."""
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.ExceptHandler):
            continue
        kinds = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
        everything = any(kind is None or dotted(kind) in {"Exception", "BaseException"} for kind in kinds)
        last = node.body[-1]
        if everything and not (isinstance(last, ast.Raise) and last.exc is None):
            found.append(node.lineno)
    return found


@pytest.mark.parametrize(
    ("handler", "found"),
    [
        ("except Exception: pass", 1),
        ("except: pass", 1),
        ("except (OSError, BaseException) as e: print(e)", 1),
        ("except BaseException:\n    print()\n    raise", 0),
        ("except OSError: pass", 0),
    ],
)
def test_catch_alls_are_seen(handler: str, found: int) -> None:
    assert len(catch_alls(ast.parse(f"try:\n    pass\n{handler}"))) == found


def test_only_the_edges_catch_everything() -> None:
    found = [
        f"{name_of(path)}:{line}"
        for path in SOURCES
        if name_of(path) not in MAY_CATCH_ALL
        for line in catch_alls(parsed(path))
    ]
    assert not found, f"Name the errors that are expected: {found}"


# ---------------------------------------------------------------- ACCEPTANCE 12: no format that runs code

CODE_FORMATS = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "jsonpickle", "joblib", "shelve", "marshal"}
CODE_CALLS = {
    "eval", "exec", "__import__", "torch.load", "yaml.load", "yaml.load_all", "yaml.full_load", "yaml.unsafe_load",
    "yaml.full_load_all", "yaml.unsafe_load_all", "pandas.read_pickle", "pd.read_pickle", "os.system", "os.popen",
}  # fmt: skip
ARRAY_LOADS = {"np.load", "numpy.load"}
UNSAFE_OPTIONS = {"allow_pickle": False, "trust_remote_code": False, "shell": False, "weights_only": True}


def code_runners(tree: ast.AST) -> list[str]:
    """What in this source could run code that came as data: 'line: what'."""
    found = [f"{line}: import {name}" for line, name in imported(tree) if name.split(".")[0] in CODE_FORMATS]
    found += [f"{line}: import {name}" for line, name in imported(tree) if name in CODE_CALLS]
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = dotted(node.func)
        options = {word.arg: word.value for word in node.keywords if word.arg}
        if called in CODE_CALLS:
            found.append(f"{node.lineno}: {called}()")
        if called in ARRAY_LOADS and "allow_pickle" not in options:
            found.append(f"{node.lineno}: {called}() without allow_pickle=False")
        for option, safe in UNSAFE_OPTIONS.items():
            value = options.get(option)
            if value is not None and not (isinstance(value, ast.Constant) and value.value is safe):
                found.append(f"{node.lineno}: {called}({option}={ast.unparse(value)})")
    return found


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "from pickle import loads",
        "import joblib.numpy_pickle",
        "import shelve as s",
        "torch.load('x')",
        "from torch import load",
        "yaml.load(text, Loader=yaml.Loader)",
        "yaml.unsafe_load(text)",
        "np.load('x')",
        "np.load('x', allow_pickle=True)",
        "np.save('x', a, allow_pickle=chosen)",
        "eval('1')",
        "exec(text)",
        "__import__(name)",
        "pd.read_pickle('x')",
        "subprocess.run(text, shell=True)",
        "AutoModel.from_pretrained(name, trust_remote_code=True)",
    ],
)
def test_a12_gate_sees_what_runs_code(text: str) -> None:
    assert code_runners(ast.parse(text))


@pytest.mark.parametrize(
    "text",
    [
        "np.load('x', allow_pickle=False)",
        "model.eval()",
        "json.loads(text)",
        "yaml.safe_load(text)",
        "SentenceTransformer(name, trust_remote_code=False)",
        "subprocess.run(['ls'], shell=False)",
        "re.compile('x')",
    ],
)
def test_a12_gate_lets_plain_code_through(text: str) -> None:
    assert code_runners(ast.parse(text)) == []


def test_a12_no_format_that_runs_code() -> None:
    found = [
        f"{name_of(path)}:{what}"
        for path in [*SOURCES, *sorted((ROOT / "bench").rglob("*.py"))]
        for what in code_runners(parsed(path))
    ]
    assert not found, "\n".join(found)


# ---------------------------------------------------------------- the files of the project name no machine


def kept_files() -> list[Path]:
    """Every file that is or would be committed; without git, every file of the project's folders."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if listed.returncode == 0:
        paths = [ROOT / name.decode() for name in listed.stdout.split(b"\0") if name]
    else:
        folders = [ROOT / name for name in (*PACKAGES, "tests", "bench", "docs", "docker", "requirements")]
        paths = [path for folder in folders for path in folder.rglob("*") if "__pycache__" not in path.parts]
    return [path for path in paths if path.is_file() and not path.is_symlink()]


# In pieces, or this file would be its own finding.
HOSTS = [
    "py" + "pi.org",
    "python" + "hosted.org",
    "registry.npm" + "js",
    "download.py" + "torch.org",
    "deb.deb" + "ian.org",
]
PLACES = [
    "/wo" + "rk/main",
    "/wo" + "rk/shared",
    "/wo" + "rk/.library",
    "/opt/" + "wheels",
    "/opt/" + "pypi",
    ".py" + "env/",
]
OPTIONS = [r"--(?:extra-)?index-url[ =]\S", r"--find-links[ =]\S", r"file:///(?:opt|root)/"]
TELLING = re.compile("|".join([*map(re.escape, HOSTS + PLACES), *OPTIONS]))


@pytest.mark.parametrize("text", [HOSTS[0], "see " + PLACES[0] + "/x", "--index" + "-url h", "--find" + "-links=x"])
def test_a_registry_or_machine_path_is_seen(text: str) -> None:
    assert TELLING.search(text)


def test_pinned_lists_and_their_making_are_let_through() -> None:
    assert not TELLING.search("uv pip compile --no-emit-index-url --no-emit-find-links pyproject.toml")
    assert not TELLING.search("export UV_FIND_LINKS := $(PIP_FIND_LINKS)")


def test_no_file_names_a_registry_or_a_machine() -> None:
    paths = kept_files()
    assert ROOT / "pyproject.toml" in paths or ROOT / "ragsvc" / "__init__.py" in paths
    found = [
        f"{name_of(path)}: {match.group()}"
        for path in paths
        if (match := TELLING.search(path.read_bytes().decode("utf-8", errors="replace")))
    ]
    assert not found, "\n".join(found)


# ---------------------------------------------------------------- importing does nothing

IMPORT_ALL = """
import importlib, pkgutil, sys, threading
for package in ("indexes", "ingest", "ragsvc"):
    root = importlib.import_module(package)
    for module in pkgutil.walk_packages(root.__path__, package + "."):
        if ".migrations" not in module.name and not module.name.endswith("__main__"):
            importlib.import_module(module.name)
heavy = {"torch", "transformers", "sentence_transformers", "unstructured", "spacy", "pandas"} & set(sys.modules)
assert not heavy, f"imported: {sorted(heavy)}"
extra = [thread.name for thread in threading.enumerate() if thread is not threading.main_thread()]
assert not extra, f"threads: {extra}"
"""


@pytest.mark.slow
def test_importing_every_module_loads_no_extra_starts_no_thread_and_writes_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": "", "HOME": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- the import contracts bite

# What is planted -> the file it goes to, the line, the contract that must break (its name in .importlinter).
VIOLATIONS = {
    "indexes knows ingest": ("indexes/model.py", "import ingest.errors", "The service knows ingestion"),
    "ingest knows ragsvc": ("ingest/errors.py", "import ragsvc", "The service knows ingestion"),
    "faiss in ingest": ("ingest/model.py", "import faiss", "faiss only in"),
    "tantivy in the service": ("ragsvc/__init__.py", "import tantivy", "tantivy only in"),
    "torch in the engine": ("indexes/model.py", "import torch", "torch and sentence-transformers only in"),
    "sqlalchemy in the engine": ("indexes/protocols.py", "import sqlalchemy.orm", "sqlalchemy and alembic only in"),
    "pydantic in ingest": ("ingest/model.py", "import pydantic", "The web framework and pydantic only in"),
    "the clock in the catalogue": ("ingest/catalog/__init__.py", "import apscheduler.job", "apscheduler only in"),
    "unstructured beside the parsers": ("ingest/model.py", "import unstructured", "unstructured only in"),
    "values that know the seams": ("indexes/model.py", "import indexes.protocols", "Inside indexes"),
    "a module without a place": ("indexes/unplaced.py", "", "Inside indexes"),
}


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            sys.executable,
            "-c",
            "from importlinter.cli import lint_imports_command as run; run()",
            "--no-cache",
            "--no-logo",
        ],
        cwd=folder,
        env={"PYTHONPATH": str(folder), "PATH": "", "HOME": str(folder)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the packages and their contracts that may be spoilt."""
    folder = tmp_path_factory.mktemp("tree")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / ".importlinter", folder)
    return folder


@pytest.mark.slow
def test_import_contracts_hold(tree: Path) -> None:
    done = lint_imports(tree)
    assert done.returncode == 0, done.stdout
    assert "0 broken" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("what", VIOLATIONS)
def test_import_contracts_break_on(what: str, tree: Path) -> None:
    name, line, contract = VIOLATIONS[what]
    path = tree / name
    before = path.read_text(encoding="utf-8") if path.exists() else None
    try:
        path.write_text(f"{before or ''}\n{line}\n", encoding="utf-8")
        done = lint_imports(tree)
        assert done.returncode == 1, done.stdout + done.stderr
        assert re.search(rf"{re.escape(contract)}.*BROKEN", done.stdout), done.stdout
    finally:
        path.write_text(before, encoding="utf-8") if before is not None else path.unlink()
