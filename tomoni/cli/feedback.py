"""`tomoni feedback W VERB`: what people said in a workspace: export, import, resolve, erase, people, backup. No torch."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tomoni.cli.options import invoke
from tomoni.errors import ConfigError, UserError, counted, did_you_mean

if TYPE_CHECKING:
    from tomoni.feedback.entries import Person
    from tomoni.feedback.store import Store

SHOWN = 20  # bad rows on the terminal
Workspace = Annotated[Path, typer.Argument(metavar="W", help="the workspace: the folder the studio was started with")]
Form = Annotated[str, typer.Option("--form", help="jsonl (ours, lossless), trl, argilla, labelstudio")]
Json = Annotated[bool, typer.Option("--json", help="one JSON object instead of text")]


def command(argv: list[str]) -> int:
    if not argv or argv[0] in ("--help", "-h"):
        print(help_text())
        return 0
    names = [word for word in argv[:2] if not word.startswith("-")]
    name = next((word for word in reversed(names) if word in VERBS), None)
    if name is None:
        wrong = names[-1] if names else argv[0]
        raise ConfigError(
            f'"{wrong}" is no verb of tomoni feedback{did_you_mean(wrong, list(VERBS))}',
            choices=list(VERBS),
            next_step=f"tomoni feedback W {next(iter(VERBS))}; `tomoni feedback --help` says what each does",
        )
    rest = list(argv)
    rest.remove(name)
    return invoke(VERBS[name], rest, verb=f"feedback W {name}")


def help_text() -> str:
    lines = ["Usage: tomoni feedback W VERB [options]", "", "What people said in the workspace W.", ""]
    lines += [f"  {name:<8} {(function.__doc__ or '').splitlines()[0]}" for name, function in VERBS.items()]
    return "\n".join([*lines, "", "`tomoni feedback W VERB --help` for a verb's own options."])


def export(
    workspace: Workspace,
    to: Annotated[Path, typer.Option("--to", help="a new file; for --form trl a new folder")],
    form: Annotated[
        str, typer.Option("--form", help="jsonl (ours, lossless), trl, argilla, labelstudio, csv (a table)")
    ] = "jsonl",
) -> int:
    """Write everything that was said to a file: ours (lossless), or another tool's form.

    jsonl makes the workspace anew wherever it is imported (without passwords). trl is what would be trained on, in three
    files. argilla, labelstudio and csv hold the judgements that count now. In csv, a cell that a spreadsheet would compute
    gets an apostrophe in front.
    """
    from tomoni.feedback.exchange import export as write

    with _reading(workspace) as store:
        for file, count in write(store, to, form=form).items():
            print(f"{file}: {counted(count, 'row')}")
    return 0


def import_(
    workspace: Workspace,
    files: Annotated[list[Path], typer.Argument(metavar="FILE…", help="JSONL, JSON or Parquet")],
    form: Form = "jsonl",
    person: Annotated[
        str | None,
        typer.Option(help="count everything as said by this person (name or id); default: whom the file names"),
    ] = None,
    columns: Annotated[
        list[str] | None,
        typer.Option("--column", metavar="OURS=THEIRS", help="prompt=question, first=a, second=b; may be repeated"),
    ] = None,
    mask: Annotated[
        bool, typer.Option("--mask/--no-mask", help="hide e-mail addresses, telephone numbers and the like")
    ] = True,
    on_bad_rows: Annotated[str, typer.Option(help="stop: change nothing; quarantine: take the good rows")] = "stop",
    as_json: Json = False,
) -> int:
    """Take in a file of ours, or of TRL, Argilla or Label Studio; the same file twice counts once.

    Bad rows are named by file, line and reason. Personal data is hidden in all forms but ours, and counted.
    """
    from tomoni.feedback.exchange import import_ as take

    if on_bad_rows not in ("stop", "quarantine"):
        raise ConfigError(f"--on-bad-rows {on_bad_rows!r} is not known", choices=["stop", "quarantine"])
    with _writing(workspace) as store:
        who = None if person is None else _person(store, person).id
        done = take(
            store, files, form=form, person=who, columns=_columns(columns or []),
            mask=None if mask else False, on_bad_rows="stop" if on_bad_rows == "stop" else "quarantine",
        )  # fmt: skip
    new = {what: count for what, count in done.new.items() if count}
    if as_json:
        _print_json({
            "new": new, "known": done.known, "masked": dict(done.masked), "bad": [row.as_dict() for row in done.bad]
        })  # fmt: skip
        return 0
    known = f" ({counted(done.known, 'row')} known before)" if done.known else ""
    print((", ".join(_number_of(count, what) for what, count in new.items()) or "nothing new") + known)
    if done.masked:
        print("hidden: " + ", ".join(f"{count:,} {what}" for what, count in done.masked.items()))
    for row in done.bad[:SHOWN]:
        print(f"bad: {row}")
    if len(done.bad) > SHOWN:
        print(f"… and {counted(len(done.bad) - SHOWN, 'more bad row')}")
    return 0


def resolve(
    workspace: Workspace,
    as_json: Json = False,
) -> int:
    """Make a snapshot: what was said, as data that `tomoni dpo`, `sft` and `kto` read; and what was left out, and why."""
    from tomoni.feedback.resolve import resolve as resolved

    with _reading(workspace) as store:
        held_out = {prompt.id for prompt in store.prompts(held_out=True)}
        snapshot = resolved(store.judgements(live=False), held_out=held_out)
    folder = snapshot.write(workspace)
    if as_json:
        print((folder / "snapshot.json").read_text(encoding="utf-8"), end="")
        return 0
    rows = {
        "pairs.jsonl": ("comparison", len(snapshot.comparisons) - snapshot.ties),
        "ties.jsonl": ("tie", snapshot.ties),
        "sft.jsonl": ("correction", len(snapshot.corrections)),
        "thumbs.jsonl": ("thumb", len(snapshot.thumbs)),
    }
    print(f"{folder}: from {counted(snapshot.judgements, 'judgement')} of {_number_of(len(snapshot.people), 'person')}")
    for name, (what, count) in rows.items():
        print(f"  {name:<13} {counted(count, what)}")
    for reason, count in snapshot.left_out.items():
        print(f"  left out: {count:,} {reason}")
    return 0


def erase(
    workspace: Workspace,
    person: Annotated[str, typer.Argument(metavar="PERSON", help="a name or an id")],
    yes: Annotated[bool, typer.Option("--yes", help="do not ask")] = False,
    as_json: Json = False,
) -> int:
    """Erase what one person said, for good, and name the model versions that have learnt from it."""
    with _writing(workspace) as store:
        store.take_in()
        who = _person(store, person)
        count = store.count_judgements(person=who.id, live=False)
        if not yes and not _agrees(f"erase {counted(count, 'judgement')} of {who.name}, for good? [y/N] "):
            print("nothing was erased")
            return 1
        erased = store.erase_person(who.id)
    if as_json:
        _print_json({"judgements": erased.judgements, "snapshots": erased.snapshots, "versions": erased.versions})
        return 0
    print(f"erased: {counted(erased.judgements, 'judgement')}; snapshots removed: {len(erased.snapshots)}")
    if erased.versions:
        print(f"these model versions have learnt from them: {', '.join(erased.versions)}")
        print("  next: train again from a snapshot without them, promote that, and remove these")
    print("copies that you made yourself (backups, exports, runs) may still hold it")
    return 0


def people(workspace: Workspace, as_json: Json = False) -> int:
    """List the people, and how much each has said."""
    with _reading(workspace) as store:
        rows: list[dict[str, Any]] = [
            {
                "id": person.id, "name": person.name, "role": person.role, "active": person.active,
                "judgements": store.count_judgements(person=person.id),
            }
            for person in store.people()
        ]  # fmt: skip
    if as_json:
        _print_json(rows)
        return 0
    if not rows:
        print("nobody yet")
    for row in rows:
        left = "" if row["active"] else ", no longer active"
        print(f"{row['name']} ({row['role']}{left}): {counted(row['judgements'], 'judgement')}  id {row['id']}")
    return 0


def backup(
    workspace: Workspace,
    to: Annotated[Path, typer.Option("--to", help="a new file, or a folder")],
) -> int:
    """Copy the whole database to a file, checked, while the studio goes on."""
    with _reading(workspace) as store:
        print(store.backup(to))
    return 0


VERBS: dict[str, Callable[..., int]] = {
    "export": export,
    "import": import_,
    "resolve": resolve,
    "erase": erase,
    "people": people,
    "backup": backup,
}


def _reading(workspace: Path) -> Store:
    from tomoni.feedback.store import Store

    return Store.read(workspace)


def _writing(workspace: Path) -> Store:
    from tomoni.feedback.store import Store
    from tomoni.feedback.workspace import find

    find(workspace)  # a misspelt name must not become a workspace
    return Store.open(workspace)


def _person(store: Store, named: str) -> Person:
    everyone = store.people()
    for person in everyone:
        if named in (person.id, person.name):
            return person
    names = [person.name for person in everyone]
    raise UserError(f"there is nobody called {named!r}{did_you_mean(named, names)}", choices=names[:SHOWN])


def _columns(given: list[str]) -> dict[str, str]:
    columns = {}
    for text in given:
        ours, sign, theirs = text.partition("=")
        if not sign or not ours or not theirs:
            raise ConfigError(
                f"--column {text!r} is not OURS=THEIRS", next_step="write it as in --column prompt=question"
            )
        columns[ours] = theirs
    return columns


def _agrees(question: str) -> bool:
    if not sys.stdin.isatty():
        raise UserError("nothing is erased without being asked", next_step="add --yes")
    return input(question).strip().lower() in ("y", "yes")


def _number_of(count: int, what: str) -> str:
    return f"{count:,} people" if what == "person" and count != 1 else counted(count, what)


def _print_json(body: Any) -> None:
    print(json.dumps(body, ensure_ascii=False, indent=2))
