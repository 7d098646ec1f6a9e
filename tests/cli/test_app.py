"""The command table: answers at once, says what went wrong in one place, and ends with the right code."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import tomoni
from tomoni.cli import app
from tomoni.errors import UserError
from tomoni.run.methods import METHODS, config_class

HEAVY = (
    "torch",
    "transformers",
    "peft",
    "numpy",
    "typer",
    "click",
    "rich",
    "pydantic",
    "yaml",
    "pyarrow",
    "importlib.metadata",
)


def verb(monkeypatch: pytest.MonkeyPatch, raising: BaseException | None = None, code: int = 0) -> None:
    """Puts a verb `init` in place that raises or returns."""

    def command(argv: list[str]) -> int:
        if raising is not None:
            raise raising
        print("ran", argv)
        return code

    monkeypatch.setattr(app, "import_module", lambda name: SimpleNamespace(command=command))


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys; from tomoni.cli.app import main; main(['--help']); "
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert "tomoni VERB" in done.stdout


def test_python_dash_m_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "tomoni", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"tomoni {tomoni.__version__}\n"


def test_a_reader_that_goes_away_is_no_error() -> None:
    script = "import sys; from tomoni.cli.app import main; sys.stdin.read(); sys.exit(main(['--help']))"
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdin and process.stdout and process.stderr
        process.stdout.close()
        process.stdin.close()
        assert process.stderr.read() == b""
        assert process.wait() == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_output_that_cannot_be_written_is_not_a_success() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "tomoni", "--help"], stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert done.returncode != 0
    assert b"No space left" in done.stderr


def test_help_lists_verbs_by_stage_and_only_those_that_exist(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main([]) == 0
    shown = capsys.readouterr().out
    package = Path(app.__file__).parents[1]
    for known in app.VERBS:
        file = package / ("settings" if known.learns else "cli") / f"{known.name}.py"
        assert (f"\n  {known.name} " in shown) == file.exists()
    assert shown.index("Start here:") < shown.index("  init ") < shown.index("Options:")


def test_every_verb_has_a_stage_and_a_command() -> None:
    assert {known.stage for known in app.VERBS} == set(app.STAGES)
    for known in app.available():
        source = (Path(app.__file__).parent / f"{known.module.rpartition('.')[2]}.py").read_text(encoding="utf-8")
        argument = ", method: str" if known.learns else ""
        assert f"\ndef command(argv: list[str]{argument}) -> int:" in source, known.name


@pytest.mark.parametrize("method", METHODS)
def test_the_help_of_a_method_shows_every_key_of_its_config(method: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main([method, "--help"]) == 0
    shown = capsys.readouterr().out
    for name in set(config_class(method).model_fields) - {"method"}:
        assert shown.count(f"\n  --{name} ") + shown.count(f"\n  --{name}\n") == 1, name


def test_an_unknown_verb_is_answered_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(["inti"]) == 2
    said = capsys.readouterr()
    assert 'unknown verb "inti" (did you mean "init"?)' in said.err
    assert said.out == ""
    assert app.main(["--nope"]) == 2
    assert 'unknown option "--nope"' in capsys.readouterr().err


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        (
            UserError("rate is 0", choices=["1"], next_step="raise it"),
            2,
            "tomoni: rate is 0\n  possible: 1\n  next: raise it\n",
        ),
        (KeyboardInterrupt(), 130, "\ninterrupted\n"),
        (
            ZeroDivisionError("by zero"),
            1,
            "tomoni: unexpected ZeroDivisionError: by zero\n  next: run again with --debug",
        ),
        (
            PermissionError(errno.EACCES, "Permission denied", "私のファイル"),
            2,
            "tomoni: 私のファイル: Permission denied\n  next: ",
        ),
        (OSError(errno.ENOSPC, "No space left on device"), 2, "tomoni: the disk: No space left on device\n  next: "),
        (FileNotFoundError(errno.ENOENT, "No such file", "x"), 1, "tomoni: unexpected FileNotFoundError"),
        (ModuleNotFoundError("No module named 'rich'", name="rich"), 2, "tomoni: the package rich is missing in "),
        (ModuleNotFoundError("No module", name="tomoni.nothing"), 1, "tomoni: unexpected ModuleNotFoundError"),
    ],
)
def test_each_ending_has_its_code_and_its_message(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], raised: BaseException, code: int, said: str
) -> None:
    verb(monkeypatch, raised)
    assert app.main(["init"]) == code
    assert capsys.readouterr().err.startswith(said)
    with pytest.raises(type(raised)):
        app.main(["init", "--debug"])


def test_a_verb_gets_the_rest_and_gives_the_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    verb(monkeypatch, code=3)
    assert app.main(["init", "a", "--b"]) == 3
    assert capsys.readouterr().out == "ran ['a', '--b']\n"


def test_a_verbs_own_help_and_mistakes(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(["init", "--help"]) == 0
    assert "tomoni init" in capsys.readouterr().out
    assert app.main(["init"]) == 2
    assert "tomoni init --help" in capsys.readouterr().err
