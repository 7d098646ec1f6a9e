"""One press of Learn: what people said becomes a candidate, which stands beside the current version until people prefer it.

    W/learn/NNNN/status.json     state, stage, how much of it is done, seconds so far and left, pid
                 result.json     the new version, what it learnt from, what it cost, trials before and after
                 run/, run.jsonl the training and what it was given

Nothing here decides whether the candidate is better. It says what the judgements so far let expect, and answers prompts
that were never trained on, before and after, for people to choose between without knowing which is which.
"""

from __future__ import annotations

import contextlib
import hashlib
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tomoni import locking
from tomoni.durable import write_object
from tomoni.errors import DataError, RegistryError, RunError, UserError
from tomoni.feedback.entries import PromptRow, prompt_id
from tomoni.feedback.resolve import resolve
from tomoni.feedback.snapshot import Snapshot
from tomoni.feedback.store import Store
from tomoni.loop import practice
from tomoni.loop.practice import FEWEST_PROMPTS, SPARE, Lessons, Trainer, in_japanese
from tomoni.loop.progress import Pace, Progress
from tomoni.loop.replay import OFF, Replayed, gather
from tomoni.loop.since_first import first_of
from tomoni.loop.taste import Drawn, Expected, Prompt, Reader, agreements, best_of, expected_win_rate, understand
from tomoni.records import Chat
from tomoni.registry import Registry, Version

if TYPE_CHECKING:
    from tomoni.evaluate.subject import Subject
    from tomoni.feedback.head import Head

PRICE_PER_HOUR = 0.10  # US dollars, of a machine like a laptop; the studio and the verb let people set their own
REPLAY = 0.0  # share: see `loop.replay`
TRIALS = 20  # unchanged answers among them are ties that nobody has to look at
AT_ONCE = 16  # prompts drawn between two looks at the clock


@dataclass(frozen=True, slots=True)
class Plan:
    """`prompts` are learnt from at most; drawn for are up to `practice.SPARE` times as many, so that those can be left out
    on which the model is not sure. `sampling_seconds`: after so long no more prompts are drawn, if there are the fewest
    that are needed. `replay`: the share of what is learnt that is what the version was tuned on before (`loop.replay`)."""

    workspace: Path
    after: int = 0  # judgements with a greater sequence number only
    price_per_hour: float = PRICE_PER_HOUR
    prompts: int = practice.PROMPTS
    answers: int = practice.ANSWERS
    trials: int = TRIALS
    sampling_seconds: float = 60.0
    threads: int | None = None
    replay: float = REPLAY


def learn(plan: Plan) -> Path:
    """The press's folder, with result.json in it. Raises UserErrors: no workspace, no version that is served, nothing to
    learn from, too few prompts; what else goes wrong stands in status.json too."""
    registry = Registry.open(plan.workspace)
    with alone(plan.workspace), stoppable():
        folder = _next_folder(plan.workspace / "learn")
        progress = Progress(folder, Pace.of_last(folder.parent))
        try:
            progress.say("reading", 0.5)
            result = _press(plan, registry, folder, progress)
        except BaseException as error:
            stopped = isinstance(error, KeyboardInterrupt)
            text = error.text() if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            progress.say(progress.stage, state="stopped" if stopped else "failed", error=None if stopped else text)
            raise
        write_object(folder / "result.json", result)
        progress.say("done", 1.0, state="finished")
    return folder


# -- one press -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Material:
    """What was said, and the prompts to practise and to try on."""

    snapshot: Snapshot
    sequence: int
    practise: list[Prompt]
    tried: list[PromptRow]
    held_out: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Practised:
    """A candidate's run, `folder / "run"`, and what is known of it before anybody has judged it."""

    lessons: Lessons
    drawn: int  # prompts that were practised on
    training_seconds: float
    trials: list[dict[str, Any]]
    expected: Expected | None
    notes: list[str]
    replayed: Replayed = OFF


def _press(plan: Plan, registry: Registry, folder: Path, progress: Progress) -> dict[str, Any]:
    base = registry.current()
    if base is None:
        raise RegistryError(
            f"no version is served in {plan.workspace} yet", next_step=f"tomoni promote {plan.workspace} MODEL"
        )
    material = _read(plan)
    practised = practise(base, material, registry, plan, folder, progress)
    lessons, cost = practised.lessons, progress.seconds / 3600 * plan.price_per_hour
    version = _register(registry, base, folder, material, lessons, cost, progress.seconds, practised.expected)
    return {
        "version": version.id,
        "base": base.id,
        "seconds": round(progress.seconds, 1),
        "training_seconds": round(practised.training_seconds, 1),
        "cost": round(cost, 6),
        "price_per_hour": plan.price_per_hour,
        "sequence": material.sequence,
        "snapshot": material.snapshot.hash,
        "learnt_from": _counts(material.snapshot),
        "practised_on": {"prompts": practised.drawn, "own_answers": lessons.own, "corrections": lessons.corrected},
        "replayed": practised.replayed.as_json(),
        "trials": practised.trials,
        "expected_win_rate": None if practised.expected is None else asdict(practised.expected),
        "notes": practised.notes,
    }


def practise(
    base: Version, material: Material, registry: Registry, plan: Plan, folder: Path, progress: Progress
) -> Practised:
    """Train a candidate from `base` in `folder / "run"`; nothing is registered."""
    corrections = material.snapshot.corrections
    replayed = gather(registry, base, plan.replay, folder, material.held_out)
    with progress.opaque("reading"):
        from tomoni.evaluate.subject import open_subject

        before = open_version(registry, base)
        far = bool(corrections) and practice.surprise(before, corrections) > practice.SURPRISE
    progress.plan(min(len(material.practise), plan.prompts), imitating=far)
    drawn = sample(before, material, plan, progress)
    progress.say("fitting")
    first = opened_first(registry, base, partial(open_version, registry))
    sure = practice.surest(drawn, plan.prompts)
    reader = reader_of(first, before, sure, told=progress.within("fitting", 0.0, 0.9))
    head = understand(reader, material.snapshot, drawn)
    trainer = Trainer(
        base.model,
        folder,
        before.weights,
        int(before.model.config.get_text_config().hidden_size),
        before.located.base is not None,
        threads=plan.threads,
        replay=replayed,
    )
    notes: list[str] = []
    imitated = _imitated(sure, reader, trainer, corrections, progress) if far else None
    if far and imitated is None:
        notes.append("corrections_too_far")
    rows = min(len(drawn), plan.prompts)  # what is left out is no reason to learn less
    lessons = _lessons(reader, head, corrections, imitated or sure, rows)
    progress.say("training")
    trained = trainer.practise(lessons.rows, far=imitated is not None, on_event=progress.steps("training"))
    progress.say("answering")
    after = open_subject(folder / "run")
    trials, expected = _try(before, after, reader, head, material, notes, progress)
    return Practised(lessons, len(sure), trained.seconds, trials, expected, notes, replayed)


def opened_first(registry: Registry, base: Version, opened: Callable[[Version], Subject]) -> Subject | None:
    """The first version of the line, where that is not the base and its files are there still."""
    first = first_of(registry, base)
    if first.id != base.id:
        with contextlib.suppress(UserError):
            return opened(first)
    return None


def reader_of(
    first: Subject | None, base: Subject, drawn: Sequence[Drawn], told: Callable[[float], None] | None = None
) -> Reader:
    """Who reads answers: the first version of the line, or the base where there is no other."""
    return Reader(base, drawn, told=told) if first is None else practice.eyes_of_first(first, drawn, told=told)


def open_version(registry: Registry, version: Version) -> Subject:
    from tomoni.evaluate.subject import open_subject

    registry.verify(version)
    return open_subject(version.model)


def _read(plan: Plan) -> Material:
    with Store.read(plan.workspace) as store:
        sequence = store.sequence
        stored = [one for one in store.judgements(live=False) if one.sequence > plan.after]
        held_out = store.prompts(held_out=True)
        pool = store.prompts(status="active", held_out=False)
    snapshot = resolve(stored, held_out=[row.id for row in held_out])
    if snapshot.empty:
        why = "; ".join(f"{count} {reason}" for reason, count in snapshot.left_out.items())
        raise DataError(
            "nothing to learn from yet" + (f" ({why})" if why else ""),
            next_step="judge about ten pairs, or correct three answers, in the studio",
        )
    snapshot.write(plan.workspace)
    return material_of(snapshot, sequence, pool, held_out, plan)


def material_of(
    snapshot: Snapshot,
    sequence: int,
    pool: Sequence[PromptRow],
    held_out: Sequence[PromptRow],
    plan: Plan,
    *,
    times: int = SPARE,
) -> Material:
    """The prompts to practise on, of `pool`, up to `times` the plan's number, and to try on, of `held_out`. DataError where
    there are too few."""
    judged: list[Prompt] = [comparison.prompt for comparison in snapshot.comparisons]
    judged += [thumb.prompt for thumb in snapshot.thumbs]
    judged += [practice.prompt_of(chat) for chat in snapshot.corrections]
    spoken = {in_japanese(prompt) for prompt in judged}  # what was said in one language is no word on the other
    practise = [row for row in _shuffled(pool, snapshot.hash) if in_japanese(row.messages) in spoken]
    tried = [row for row in _shuffled(held_out, snapshot.hash) if in_japanese(row.messages) in spoken]
    own = [one.prompt for one in snapshot.thumbs]  # a thumb needs other answers to its prompt
    prompts = list({prompt_id(one): one for one in [*own, *(row.messages for row in practise)]}.values())[
        : times * plan.prompts
    ]
    if len(prompts) < min(FEWEST_PROMPTS, plan.prompts):
        raise DataError(
            f"{len(prompts)} prompts to practise on, and {FEWEST_PROMPTS} are needed",
            next_step="add prompts that people would ask (Prompts in the studio); they need no answers",
        )
    return Material(snapshot, sequence, prompts, tried[: plan.trials], frozenset(row.id for row in held_out))


def _shuffled(rows: Sequence[PromptRow], key: str) -> list[PromptRow]:
    """Other ones at each press, the same ones at the same press again."""
    return sorted(rows, key=lambda row: hashlib.sha256(f"{key} {row.id}".encode()).digest())


def sample(subject: Subject, material: Material, plan: Plan, progress: Progress) -> list[Drawn]:
    progress.say("sampling")
    begin, drawn = time.monotonic(), list[Drawn]()
    for start in range(0, len(material.practise), AT_ONCE):
        if len(drawn) >= FEWEST_PROMPTS and time.monotonic() - begin > plan.sampling_seconds:
            break
        some = material.practise[start : start + AT_ONCE]
        here = (start / len(material.practise), (start + len(some)) / len(material.practise))
        drawn += practice.draw(subject, some, plan.answers, seed=start, told=progress.within("sampling", *here))
    if not drawn:
        raise DataError(
            "the model answers nothing to any of these prompts", next_step="fine-tune it first, or roll back"
        )
    return drawn


def _lessons(reader: Reader, head: Head, corrections: Sequence[Chat], drawn: Sequence[Drawn], rows: int) -> Lessons:
    """What to learn: of each prompt's answers the best, in so many rows, and the corrections as they are."""
    chosen = []
    for one, agreed_N in zip(drawn, agreements(drawn), strict=True):
        place, _ = best_of(reader, head, one, agreed_N)
        chosen.append((one.prompt, one.texts[place]))
    own = practice.rows_of_own(chosen, rows)
    corrected = practice.rows_of_corrections(corrections, practice.REPEATED)
    return Lessons(own + corrected, len(own), len(corrected))


def _imitated(
    drawn: Sequence[Drawn], reader: Reader, trainer: Trainer, corrections: Sequence[Chat], progress: Progress
) -> list[Drawn] | None:
    """What was drawn, with half of the answers from a model that imitates the corrections, and read; None where it only
    repeats itself."""
    from tomoni.evaluate.subject import open_subject

    prompts, count = [one.prompt for one in drawn], max(len(drawn[0].texts) // 2, 1)
    for gently in (1.0, 0.5, 0.25):
        if gently < 1:
            progress.once_more("imitating")
        progress.say("imitating")
        trainer.imitate(corrections, gently=gently, on_event=progress.steps("imitating", 0.0, 0.5))
        imitator = open_subject(trainer.folder / f"imitator-{gently:g}")
        answered = practice.draw(imitator, prompts, count, seed=1, told=progress.within("imitating", 0.5, 0.9))
        if len(answered) == len(drawn) and not practice.repeats_itself(
            [one.texts[0] for one in drawn], [one.texts[0] for one in answered]
        ):
            new = [(one.prompt, text) for one in answered for text in one.texts]
            reader.read(new, told=progress.within("imitating", 0.9, 1.0))
            return [
                replace(one, texts=(*one.texts[: len(one.texts) // 2], *other.texts))
                for one, other in zip(drawn, answered, strict=True)
            ]
    return None


def _try(
    before: Subject,
    after: Subject,
    reader: Reader,
    head: Head,
    material: Material,
    notes: list[str],
    progress: Progress,
) -> tuple[list[dict[str, Any]], Expected | None]:
    """Answers to prompts that are never trained on, before and after, drawn in the same way."""
    prompts = [row.messages for row in material.tried]
    if not prompts:
        notes.append("no_held_out_prompts")
        return [], None
    old, new = (
        practice.draw_one(subject, prompts, seed=7, told=progress.within("answering", begins, begins + 0.4))
        for subject, begins in ((before, 0.1), (after, 0.5))
    )
    if practice.repeats_itself(old, new):
        notes.append("repeats_itself")
    trials = [
        {
            "id": row.id,
            "topic": row.topic,
            "prompt": [{"role": message.role, "content": message.content} for message in row.messages],
            "before": one,
            "after": other,
        }
        for row, one, other in zip(material.tried, old, new, strict=True)
    ]
    answered = [
        (row.messages, one, other) for row, one, other in zip(material.tried, old, new, strict=True) if one and other
    ]
    if not answered or not head.labels:
        return trials, None
    return trials, expected_win_rate(reader, head, answered)


def _register(
    registry: Registry,
    base: Version,
    folder: Path,
    material: Material,
    lessons: Lessons,
    cost: float,
    seconds: float,
    expected: Expected | None,
) -> Version:
    snapshot = material.snapshot
    return registry.register(
        folder / "run",
        base=base.id,
        method="learn",
        config={"own_answers": lessons.own, "corrections": lessons.corrected},
        run=folder / "run",
        snapshot=snapshot.hash,
        judgements=snapshot.judgements,
        people=snapshot.people,
        evaluation={} if expected is None else {"expected_win_rate": asdict(expected)},
        cost={"usd": round(cost, 6), "seconds": round(seconds, 1)},
    )


def _counts(snapshot: Snapshot) -> Mapping[str, Any]:
    return {
        "comparisons": len(snapshot.comparisons),
        "ties": snapshot.ties,
        "corrections": len(snapshot.corrections),
        "thumbs": len(snapshot.thumbs),
        "people": len(snapshot.people),
        "left_out": dict(snapshot.left_out),
    }


# -- the folder ------------------------------------------------------------------------------------------------------


def _next_folder(root: Path) -> Path:
    numbers = [int(path.name) for path in root.iterdir() if path.is_dir() and path.name.isdigit()]
    folder = root / f"{max(numbers, default=0) + 1:04}"
    folder.mkdir()
    return folder


@contextlib.contextmanager
def alone(workspace: Path) -> Iterator[None]:
    """One press at a time in a workspace."""
    root = workspace / "learn"
    root.mkdir(parents=True, exist_ok=True)
    try:
        lock = locking.take(root / "lock")
    except locking.Taken as taken:
        raise RunError(
            f"{workspace} is already learning ({taken.by})", next_step="wait for it to end, or stop it in the studio"
        ) from taken
    with lock:
        yield


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """SIGTERM ends the press like an interruption from the keyboard, so that its folder says so."""

    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    earlier = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, earlier)
