"""The house's rules, as tests that fail: what code may not contain, and documents that say what is so."""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from tomoni.cli.app import VERBS, available
from tomoni.config import load_by
from tomoni.run.methods import METHODS, config_class

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "tomoni"
LONGEST_FUNCTION = 80
LONGEST_FILE = 500
NO_TORCH = (
    "errors",
    "config",
    "yamltext",
    "records",
    "rows",
    "report",
    "world",
    "settings",
    "plan",
    "feedback",
    "registry",
    "studio",
)
UNPICKLERS = {"pickle", "cPickle", "_pickle", "dill", "joblib", "marshal", "shelve", "cloudpickle", "pickletools"}
UNSAFE_CALLS = {
    "torch.load": "unpickles",
    "yaml.load": "builds any object",
    "yaml.unsafe_load": "builds any object",
    "yaml.full_load": "builds any object",
    "pd.read_pickle": "unpickles",
    "pandas.read_pickle": "unpickles",
    "os.system": "runs a shell",
    "eval": "runs text",
    "exec": "runs text",
}
UNSAFE_KEYWORDS = {"allow_pickle", "trust_remote_code"}


@cache
def sources(folder: Path = PACKAGE) -> tuple[Path, ...]:
    return tuple(sorted(folder.rglob("*.py")))


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def unsafe(module: ast.Module) -> Iterator[tuple[int, str]]:
    """Lines that unpickle, run text or run a stranger's code, with the reason."""
    for node in ast.walk(module):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            yield from ((node.lineno, f"import {name}") for name in names if name.split(".")[0] in UNPICKLERS)
        if isinstance(node, ast.Call):
            name = dotted(node.func)
            if name in UNSAFE_CALLS:
                yield node.lineno, f"{name} {UNSAFE_CALLS[name]}"
            if name.endswith("read_pickle") or name.endswith("to_pickle"):
                yield node.lineno, name
            for keyword in node.keywords:
                given = keyword.value.value if isinstance(keyword.value, ast.Constant) else "a variable"
                if keyword.arg in UNSAFE_KEYWORDS and given is not False:
                    yield node.lineno, f"{keyword.arg}={given}"
                if keyword.arg == "shell" and given is not False:
                    yield node.lineno, "shell"


def told(found: list[tuple[Path, int, str]]) -> str:
    return "\n".join(f"{path.relative_to(ROOT)}:{line}: {what}" for path, line, what in found)


def test_nothing_is_unpickled_and_no_text_is_run() -> None:
    found = [(path, line, what) for path in sources() for line, what in unsafe(tree(path))]
    assert not found, told(found)


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from joblib import load",
        "import torch\ntorch.load('x', weights_only=True)",
        "import numpy as np\nnp.load('x', allow_pickle=True)",
        "np.load('x', allow_pickle=flag)",
        "AutoModel.from_pretrained('x', trust_remote_code=True)",
        "yaml.load(text, Loader=yaml.Loader)",
        "subprocess.run('ls', shell=True)",
        "eval('1')",
    ],
)
def test_the_search_for_unsafe_code_finds_it(code: str) -> None:
    assert list(unsafe(ast.parse(code)))


def test_safe_code_passes_the_search() -> None:
    safe = "import json\nyaml.safe_load(t)\nnp.load('x', allow_pickle=False)\nmodel.eval()\nsafetensors.torch.load_file('x')"
    assert not list(unsafe(ast.parse(safe)))


def test_every_error_for_people_says_what_to_do_or_what_is_possible() -> None:
    tree_of_errors = {
        "UserError",
        "ConfigError",
        "DataError",
        "ModelError",
        "CheckpointError",
        "RunError",
        "RegistryError",
        "DiskError",
    }
    silent = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in sources()
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call)
        and dotted(node.func) in tree_of_errors | {"Diverged"}
        and not any(keyword.arg in ("next_step", "choices") for keyword in node.keywords)
    ]
    assert not silent


def test_functions_fit_a_screen() -> None:
    found = [
        (path, node.lineno, f"{node.name} has {(node.end_lineno or 0) - node.lineno + 1} lines")
        for path in sources()
        for node in ast.walk(tree(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno + 1 > LONGEST_FUNCTION
    ]
    assert not found, told(found)


def test_files_stay_small_and_none_is_a_catch_all() -> None:
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in sources()}
    found = [(path, lines, "too many lines") for path, lines in lengths.items() if lines > LONGEST_FILE]
    found += [
        (path, 1, "a catch-all")
        for path in lengths
        if path.stem in ("utils", "util", "helpers", "misc", "common_utils")
    ]
    assert not found, told(found)


def test_every_package_that_must_not_load_torch_is_in_the_contract() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    named = {name for contract in contracts if contract["type"] == "forbidden" for name in contract["source_modules"]}
    there = {f"tomoni.{name}" for name in NO_TORCH if (PACKAGE / name).is_dir() or (PACKAGE / f"{name}.py").exists()}
    assert there <= named


def test_every_requirement_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = project["dependencies"] + [need for needs in project["optional-dependencies"].values() for need in needs]
    names = {re.split(r"[\[<>=]", need)[0].lower().replace("_", "-") for need in wanted} - {"tomoni"}
    pins = [
        line for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines() if not line.startswith("#")
    ]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", pin) for pin in pins)
    assert names <= {pin.split("==")[0].lower().replace("_", "-") for pin in pins}


def test_no_file_names_a_private_folder_or_a_package_index() -> None:
    # spelt in parts, so that this file does not find itself
    private = re.compile(
        "|".join(["/work" + "/(?:main|shared)", "/tmp" + "/wt", "pypi" + r"\.org", "pythonhosted" + r"\.org"])
    )
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    found = []
    for name in listed.stdout.decode().split("\0"):
        path = ROOT / name
        if path.is_file() and path.suffix in (
            "",
            ".py",
            ".md",
            ".toml",
            ".txt",
            ".yaml",
            ".json",
            ".jsonl",
            ".jinja",
            ".html",
        ):
            text = path.read_text(encoding="utf-8", errors="replace")
            found += [(path, text[: hit.start()].count("\n") + 1, hit.group()) for hit in private.finditer(text)]
    assert not found, told(found)


# documents that are true

DOCUMENTS = tuple(sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]))
LIVING = tuple(path for path in DOCUMENTS if path.name not in ("CHANGELOG.md", "LOG.md"))


def code_of(text: str) -> Iterator[tuple[str, str]]:
    """(language, code) of fenced blocks, indented blocks and inline code."""
    fences = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
    yield from fences.findall(text)
    rest = fences.sub("", text)
    yield from (("", line.strip()) for line in re.findall(r"^(?: {4}|\t)(.+)$", rest, re.MULTILINE))
    yield from (("", code) for code in re.findall(r"`([^`\n]+)`", rest))


def commands(text: str, tool: str) -> set[str]:
    found: set[str] = set()
    for language, code in code_of(text):
        if language in ("", "bash", "sh", "console", "shell"):
            found |= set(re.findall(rf"(?:^|[\s;&|(/]){tool} ([a-z][a-z-]*)\b(?![=.])", code, re.MULTILINE))
    return found


def ids(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", LIVING, ids=ids)
def test_commands_that_documents_name_exist(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert commands(text, "make") <= targets
    assert commands(text, "tomoni") <= {verb.name for verb in available()}


@pytest.mark.parametrize("path", DOCUMENTS, ids=ids)
def test_links_inside_the_repository_lead_somewhere(path: Path) -> None:
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    targets = [target for target in re.findall(r"\]\(([^)\s]+)\)", text) if not re.match(r"[a-z]+:", target)]
    for target in targets:
        name, _, anchor = target.partition("#")
        there = path.parent / name if name else path
        assert there.exists(), f"{ids(path)}: {target}"
        if anchor and there.suffix == ".md":
            headings = re.findall(r"^#+ +(.+)$", there.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in slugs, f"{ids(path)}: {target}"


@pytest.mark.parametrize("path", LIVING, ids=ids)
def test_python_in_documents_compiles_and_imports_what_exists(path: Path) -> None:
    for language, code in code_of(path.read_text(encoding="utf-8")):
        if language not in ("python", "py"):
            continue
        for node in ast.walk(ast.parse(code, filename=ids(path))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "tomoni":
                place = ROOT.joinpath(*str(node.module).split("."))
                module = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
                assert module.exists(), f"{ids(path)}: {node.module}"
                for alias in node.names:
                    known = alias.name in module.read_text(encoding="utf-8") or (place / f"{alias.name}.py").exists()
                    assert known, f"{ids(path)}: {node.module}.{alias.name}"


CONFIGS: dict[str, Any] = {method: config_class(method) for method in METHODS}


def test_configs_in_documents_and_recipes_are_valid() -> None:
    texts = {ids(path): path.read_text(encoding="utf-8") for path in sorted((ROOT / "recipes").glob("*.yaml"))}
    for path in LIVING:
        blocks = [code for language, code in code_of(path.read_text(encoding="utf-8")) if language in ("yaml", "yml")]
        texts |= {f"{ids(path)}[{number}]": code for number, code in enumerate(blocks)}
    for name, text in texts.items():
        content = yaml.safe_load(text)
        if isinstance(content, dict) and content.get("method") in CONFIGS:
            load_by(CONFIGS, None, content)
        else:
            assert "method" not in (content or {}), f"{name}: a method without a config"


def test_the_readmes_in_both_languages_name_the_same_commands() -> None:
    english, japanese = ROOT / "README.md", ROOT / "README.ja.md"
    if not japanese.exists():
        pytest.skip("README.ja.md is not written yet")
    for tool in ("make", "tomoni"):
        both = [commands(path.read_text(encoding="utf-8"), tool) for path in (english, japanese)]
        assert both[0] == both[1]


def test_the_search_for_commands_finds_them() -> None:
    text = "Run `make foo`, then\n\n    tomoni bar --x 1\n\n```bash\n.venv/bin/tomoni baz x\nmake PYTHON=p\n```\nwe make tea with tomoni here"
    assert commands(text, "make") == {"foo"}
    assert commands(text, "tomoni") == {"bar", "baz"}


def test_every_verb_file_is_in_the_table() -> None:
    files = {
        path.stem for path in (PACKAGE / "cli").glob("*.py") if "\ndef command(" in path.read_text(encoding="utf-8")
    }
    assert {f"tomoni.cli.{name}" for name in files} <= {verb.module for verb in VERBS}
