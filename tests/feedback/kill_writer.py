"""Starts writers that are killed. Forks them from one process that has imported everything, so that twenty are quick.

stdin   WORKSPACE ACKS WHAT COUNT    one writer; its pid is written back, then its exit status when it ended
WHAT    judge: four threads judge, and note in the file ACKS what was acknowledged, as "key id sequence" a line
        serve: the inbox gets feedback in one thread while another takes it in; "event" a line
        migrate:N: opens with the migrations in the folder beside it, and ends before the N-th statement
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

from sqlalchemy import event
from sqlalchemy.engine import Engine

from tests.feedback.saying import ASKED, judgement
from tomoni.feedback import database
from tomoni.feedback.inbox import AnswerEvent, FeedbackEvent, Inbox
from tomoni.feedback.store import Store

THREADS = 4


def judge(workspace: Path, acks: int, count: int) -> None:
    store = Store.open(workspace)
    person = store.person_named("花子") or store.add_person("花子", role="owner")
    said = {line.split()[0] for line in Path(f"/proc/self/fd/{acks}").resolve().read_text().splitlines()}

    def loop(thread: int) -> None:
        for number in range(count):
            key = f"{thread}-{number}"
            if key in said:
                continue  # acknowledged to an earlier writer; the one that was cut off is sent again with its key
            value = {"verdict": "first" if number % 2 else "second"}
            replaces = f"j{thread}-{number - 1}" if number % 5 == 4 else None
            ack = store.judge(judgement(f"j{key}", person.id, value=value, replaces=replaces), key=key)
            os.write(acks, f"{key} {ack.id} {ack.sequence}\n".encode())

    threads = [threading.Thread(target=loop, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def serve(workspace: Path, acks: int, count: int) -> None:
    store = Store.open(workspace)
    inbox = Inbox(workspace)
    if not store.answers():
        inbox.append([AnswerEvent("c", ASKED, "v1", "h", "東京です。")])

    def take() -> None:
        while True:
            store.take_in()
            time.sleep(0.002)

    threading.Thread(target=take, daemon=True).start()
    for _ in range(count):
        told = FeedbackEvent("c", "ann", comment="よい")
        inbox.append([told])
        os.write(acks, f"{told.event}\n".encode())


def migrate(workspace: Path, at: int) -> None:
    counted = 0

    @event.listens_for(Engine, "before_cursor_execute")
    def count(*_: object) -> None:
        nonlocal counted
        counted += 1
        if counted > at:
            os.kill(os.getpid(), signal.SIGKILL)

    database.MIGRATIONS = workspace.parent / "history"
    Store.open(workspace).close()


def run(workspace: Path, acks: Path, what: str, count: int) -> None:
    handle = os.open(acks, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    if what == "judge":
        judge(workspace, handle, count)
    elif what == "serve":
        serve(workspace, handle, count)
    else:
        migrate(workspace, int(what.partition(":")[2]))


def main() -> None:
    for line in sys.stdin:
        workspace, acks, what, count = line.split()
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                run(Path(workspace), Path(acks), what, int(count))
                code = 0
            finally:
                os._exit(code)
        print(pid, flush=True)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
