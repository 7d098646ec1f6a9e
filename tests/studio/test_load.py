"""Many annotators at once, a studio that is killed again and again, a network that is cut: nothing acknowledged is lost,
nothing counts twice, and a button does not keep people waiting."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter, deque
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.studio.process import Studio, cookies
from tests.studio.rooms import add_pairs, house_in
from tomoni.feedback.store import Store
from tomoni.records import Kind
from tomoni.studio.judging import id_of

VERDICTS = ("left", "right", "tie", "both_bad")
STEADY = 25.0  # seconds that are measured
PATIENCE = 10.0  # seconds for an answer
Entry = dict[str, Any]


@dataclass
class World:
    """What the annotators and whoever torments them share. The numbers are seconds."""

    port: int
    pairs: list[str]
    cut: bool = False
    ended: bool = False
    steady: bool = False  # nothing is being killed or cut
    cpu: float = 0.0  # the studio's, while it is steady
    waits: list[float] = field(default_factory=list)  # of acknowledgements while it is steady
    inside: list[float] = field(default_factory=list)  # of that, between the request's head and the answer's
    statuses: Counter[int] = field(default_factory=Counter)
    lines: set[asyncio.StreamWriter] = field(default_factory=set)
    outboxes: list[deque[Entry]] = field(default_factory=list)

    async def caught_up(self) -> None:
        """Until what gathered while nobody answered has been sent: people come at their own pace then."""
        async with asyncio.timeout(300):
            while sum(map(len, self.outboxes)) > 3:
                await asyncio.sleep(0.1)

    def cut_the_lines(self) -> None:
        self.cut = True
        for line in self.lines:
            line.transport.abort()


class Line:
    """One connection, kept open as a browser does."""

    def __init__(self, world: World, cookie: str) -> None:
        self.world, self.cookie = world, cookie
        self.ends: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self.took = 0.0  # what the last answer took inside the studio

    async def post(self, path: str, body: Entry) -> tuple[int, Any]:
        """Status and body; OSError where the other side is not reached, or leaves in the middle."""
        try:
            async with asyncio.timeout(PATIENCE):
                return await self._post(path, body)
        except (OSError, asyncio.IncompleteReadError, TimeoutError, ValueError) as error:
            self.close()
            raise OSError("not reached") from error

    async def _post(self, path: str, body: Entry) -> tuple[int, Any]:
        if self.world.cut:
            raise OSError("the network is cut")
        if self.ends is None:
            self.ends = await asyncio.open_connection("127.0.0.1", self.world.port)
            self.world.lines.add(self.ends[1])
        reader, writer = self.ends
        raw = json.dumps(body).encode()
        host = f"127.0.0.1:{self.world.port}"
        writer.write(
            f"POST {path} HTTP/1.1\r\nHost: {host}\r\nOrigin: http://{host}\r\nSec-Fetch-Site: same-origin\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(raw)}\r\nCookie: {self.cookie}\r\n\r\n".encode()
            + raw
        )
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        sizes = [line.partition(":")[2] for line in head.lower().split("\r\n") if line.startswith("content-length")]
        self.took = next(float(line[7:]) for line in head.lower().split("\r\n") if line.startswith("x-took:"))
        answer = json.loads(await reader.readexactly(int(sizes[0])))
        if "connection: close" in head.lower():
            self.close()
        return int(head.split()[1]), answer

    def close(self) -> None:
        if self.ends is not None:
            self.world.lines.discard(self.ends[1])
            self.ends[1].close()
            self.ends = None


@dataclass
class Annotator:
    """Judges on and on; keeps what was not acknowledged, sends it again, some of it twice, not always in order."""

    world: World
    person: str
    cookie: str
    think: float
    most: int
    drawn: random.Random
    acknowledged: dict[str, Entry] = field(default_factory=dict)
    outbox: deque[Entry] = field(default_factory=deque)
    again: int = 0  # acknowledgements of what was there already

    async def live(self) -> None:
        lines = [Line(self.world, self.cookie) for _ in range(2)]
        self.world.outboxes.append(self.outbox)
        await asyncio.sleep(self.drawn.uniform(0, 2 * self.think))
        for number in range(self.most):
            if self.world.ended:
                break
            self.outbox.append(self.judged(number))
            await self.deliver(lines)
            await asyncio.sleep(self.drawn.uniform(0.5, 1.5) * self.think)
        while self.outbox:
            await self.deliver(lines)
            await asyncio.sleep(0.2)
        for line in lines:
            line.close()

    def judged(self, number: int) -> Entry:
        return {
            "key": f"{self.person}-{number:06}",
            "pair": self.world.pairs[number % len(self.world.pairs)],
            "verdict": self.drawn.choice(VERDICTS),
            "comment": f"{number}番目",
            "seconds": 1.5,
        }

    async def deliver(self, lines: list[Line]) -> None:
        if self.drawn.random() < 0.2:
            self.outbox.rotate(1)  # in another order
        for entry in list(self.outbox):
            twice = self.drawn.random() < 0.1
            sent = [self.send(line, entry) for line in lines[: 1 + twice]]
            if not any(await asyncio.gather(*sent)):
                return  # tried again after the next judgement
            self.outbox.remove(entry)
            if self.drawn.random() < 0.05:
                await self.send(lines[0], entry)  # an acknowledgement that the page never saw

    async def send(self, line: Line, entry: Entry) -> bool:
        began, steady = time.perf_counter(), self.world.steady
        try:
            status, answer = await line.post("/api/judge", entry)
        except OSError:
            return False
        self.world.statuses[status] += 1
        if status != 200 or answer["saved"] is not True:
            return False
        if steady and self.world.steady:
            self.world.waits.append(time.perf_counter() - began)
            self.world.inside.append(line.took)
        self.again += answer["again"]
        self.acknowledged[entry["key"]] = entry
        return True


async def torment(world: World, studio: Studio, *, kills: int, cut: float, steady: float, seed: int = 3) -> None:
    """Kills at random moments, one cut of the network in the middle, then calm, in which waits are measured."""
    drawn = random.Random(seed)
    for number in range(kills):
        if number == kills // 2:
            world.cut_the_lines()
            await asyncio.sleep(cut)
            world.cut = False
        await asyncio.sleep(drawn.uniform(0.05, 0.7))
        await asyncio.to_thread(studio.kill)
        await asyncio.to_thread(studio.up)
    if steady:
        await world.caught_up()
        await asyncio.sleep(1.0)
    world.steady, before = steady > 0, studio.cpu()
    await asyncio.sleep(steady)
    world.cpu = studio.cpu() - before
    world.steady, world.ended = False, True


def work(folder: Path, *, people: int, think: float, **how: Any) -> tuple[World, list[Annotator], Studio]:
    """A workspace with pairs and people, and what became of it."""
    with house_in(folder) as house:
        pairs = [pair.id for pair in add_pairs(house, 40)]
        crowd = [house.store.add_person(f"人{number}", role="annotator", lang="ja") for number in range(people)]
    studio = Studio(folder / "ws")
    with Store.open(folder / "ws") as store:
        sessions = cookies(store, crowd, studio.port)
    world = World(studio.port, pairs)
    annotators = [
        Annotator(world, person.id, cookie, think, 100_000, random.Random(number))
        for number, (person, cookie) in enumerate(zip(crowd, sessions, strict=True))
    ]

    async def all_of_it() -> None:
        await asyncio.to_thread(studio.up)
        async with asyncio.timeout(900), asyncio.TaskGroup() as group:
            group.create_task(torment(world, studio, **how))
            for annotator in annotators:
                group.create_task(annotator.live())

    try:
        asyncio.run(all_of_it())
    finally:
        with suppress(ProcessLookupError):
            studio.kill()
    return world, annotators, studio


def require_that_all_is_there(world: World, annotators: list[Annotator], studio: Studio) -> int:
    """Every judgement that was acknowledged stands in the store as it was said, once. How many. Of several of one pair by
    one person the one that came last counts."""
    assert set(world.statuses) == {200}, world.statuses
    with Store.open(studio.workspace) as store:
        stored = store.judgements(kinds=[Kind.COMPARISON], live=False)
        counts = {entry.judgement.id for entry in store.judgements(kinds=[Kind.COMPARISON])}
        assert store.look(lambda connection: connection.exec_driver_sql("PRAGMA integrity_check").scalar()) == "ok"
    by_id = {entry.judgement.id: entry.judgement for entry in stored}
    assert len(by_id) == len(stored), "a judgement stands there twice"
    assert [entry.sequence for entry in stored] == sorted(entry.sequence for entry in stored)
    last = {(entry.judgement.person, entry.judgement.extra["pair"]): entry.judgement.id for entry in stored}
    assert counts == set(last.values())
    said = 0
    for annotator in annotators:
        assert not annotator.outbox
        for key, entry in annotator.acknowledged.items():
            judgement = by_id.pop(id_of(annotator.person, key, 0), None)
            assert judgement is not None, f"{key} was acknowledged and is lost"
            assert (judgement.person, judgement.comment) == (annotator.person, entry["comment"])
            assert judgement.extra["pair"] == entry["pair"]
            place = {"left": 0, "right": 1}.get(entry["verdict"])
            verdict = entry["verdict"] if place is None else ("first", "second")[judgement.order[place]]
            assert judgement.value["verdict"] == verdict
            said += 1
    assert not by_id, f"{len(by_id)} judgements that nobody was told of"
    return said


def test_judgements_survive_five_kills_and_a_cut_network(tmp_path: Path) -> None:
    world, annotators, studio = work(tmp_path, people=12, think=0.2, kills=5, cut=1.0, steady=0)
    said = require_that_all_is_there(world, annotators, studio)
    assert said > 50 and sum(annotator.again for annotator in annotators) > 5
    log = studio.log.read_text(encoding="utf-8")
    assert "Traceback" not in log and "番目" not in log


@pytest.mark.slow
def test_fifty_annotators_lose_nothing_in_a_hundred_kills_and_a_long_cut(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world, annotators, studio = work(tmp_path, people=50, think=3.0, kills=100, cut=15.0, steady=STEADY)
    said = require_that_all_is_there(world, annotators, studio)
    assert said > 1_000 and len(world.waits) > 200
    assert world.cpu / len(world.waits) < 0.025  # seconds of CPU; those by the clock are the machine's as well
    p50, p99 = np.percentile(world.waits, [50, 99])
    i50, i99 = np.percentile(world.inside, [50, 99])
    again = sum(annotator.again for annotator in annotators)
    with capsys.disabled():
        print(
            f"\n{said} judgements acknowledged in 100 kills, {again} of them sent again, none lost, none twice; "
            f"acknowledged in {1000 * p50:.0f} ms (median) and {1000 * p99:.0f} ms (p99), inside the studio in {1000 * i50:.0f} and {1000 * i99:.0f} ms, {len(world.waits)} measured at {len(world.waits) / STEADY:.0f} a second; "
            f"{1000 * world.cpu / len(world.waits):.1f} ms of CPU each"
        )
