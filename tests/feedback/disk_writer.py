"""A writer on a disk that fails; a process of its own, since limits and preloaded faults are a process's."""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path

from tests.feedback.saying import ASKED, judgement
from tomoni.errors import DiskError
from tomoni.feedback.inbox import Inbox, PromptEvent
from tomoni.feedback.store import Store


def say(store: Store, person: str, first: int, most: int) -> tuple[list[str], str]:
    """The keys that were acknowledged, and what was said when one was not."""
    done: list[str] = []
    for number in range(first, first + most):
        try:
            store.judge(judgement(f"j{number}", person, comment="長い話。" * 500), key=f"k{number}")
        except DiskError as error:
            return done, error.text()
        done.append(f"k{number}")
    return done, ""


def full(workspace: Path) -> dict[str, object]:
    """Files may not grow over half a megabyte; then they may."""
    store = Store.open(workspace)
    person = store.add_person("花子", role="owner").id
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 19, resource.RLIM_INFINITY))
    done, said = say(store, person, 0, 1000)
    failed_again = say(store, person, len(done), 1)[1]
    seen = [one.judgement.id for one in store.judgements()]
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    more, after = say(store, person, len(done), 5)
    store.close()
    return {"done": done, "said": said, "failed_again": failed_again, "seen": seen, "more": more, "after": after}


def mounted(workspace: Path) -> dict[str, object]:
    """On a small file system, filled by a file that is then removed."""
    store = Store.open(workspace)
    person = store.add_person("花子", role="owner").id
    ballast = workspace / "ballast"
    ballast.write_bytes(bytes(1 << 20))
    done, said = say(store, person, 0, 1000)
    ballast.unlink()
    more, after = say(store, person, len(done), 5)
    return {"done": done, "said": said, "more": more, "after": after}


def sync(workspace: Path, flag: Path) -> dict[str, object]:
    store = Store.open(workspace)
    person = store.add_person("花子", role="owner").id
    done, _ = say(store, person, 0, 5)
    flag.touch()
    refused, said = say(store, person, 5, 1)
    flag.unlink()
    later, said_later = say(store, person, 6, 1)
    seen = [one.judgement.id for one in store.judgements()]
    store.close()
    return {"done": done, "refused": refused, "said": said, "later": later, "said_later": said_later, "seen": seen}


def inbox(workspace: Path, flag: Path) -> dict[str, object]:
    """The same of the inbox."""
    box = Inbox(workspace)
    said = []
    for number in range(4):
        if number == 2:
            flag.touch()
        if number == 3:
            flag.unlink()
        try:
            box.append([PromptEvent(ASKED)])
            said.append("")
        except DiskError as error:
            said.append(error.text())
    return {"said": said}


if __name__ == "__main__":
    what, *paths = sys.argv[1:]
    print(json.dumps({"full": full, "mounted": mounted, "sync": sync, "inbox": inbox}[what](*map(Path, paths))))
