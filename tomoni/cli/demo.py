"""`tomoni demo`: a small pretrained model learns to answer about an invented town, beside honest baselines.

The bundled models have read about the town in running text only. The demo tunes the small one on questions about part
of its shops, people, stations and events, and asks about the others, of which no question was ever in the tuning
data. Every number that it prints is measured in this run.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tomoni.errors import RunError, UserError, counted
from tomoni.hub import BUNDLED
from tomoni.world import (
    bundled_world,
    example_questions,
    follow_ups,
    held_out_questions,
    is_right,
    most_frequent_answers,
    tuning_questions,
    what_it_knows,
)

if TYPE_CHECKING:
    from rich.console import Console

    from tomoni.evaluate.sidebyside import Answers
    from tomoni.evaluate.subject import Subject
    from tomoni.run.outcome import Result
    from tomoni.settings.common import TrainingSettings

TUNING: dict[str, Any] = {
    "num_train_epochs": 3,
    "batch_size": 4,
    "learning_rate": 4e-4,
    "lr_scheduler_type": "linear",
    "warmup_ratio": 0.05,
    "max_length": 512,
    "sample_prompts": 0,
    "save_steps": 100_000,
}
# random weights get what suits them: a higher rate and three times as many passes
FROM_SCRATCH = TUNING | {"learning_rate": 1e-3, "num_train_epochs": 9}
SHOTS = 5
MAX_NEW_TOKENS = 40
Record = dict[str, Any]
TUNED = "small, tuned"
MARK = ".tomoni-demo"  # says that the folder is the demo's own and may be made anew


@dataclass(frozen=True)
class Arm:
    """One row of the table. `right` counts among `asked`; seconds and tokens of tuning and of answering apart."""

    name: str
    right: int
    asked: int
    tuning_seconds: float = 0.0
    tuning_tokens: int = 0
    seconds: float = 0.0
    tokens: int = 0

    @property
    def interval(self) -> tuple[float, float]:
        from tomoni.evaluate.metrics import wilson

        found = wilson(self.right, self.asked)
        return found.low, found.high

    def cost(self, price_per_hour: float) -> float:
        return (self.tuning_seconds + self.seconds) / 3600 * price_per_hour


@dataclass(frozen=True)
class Questions:
    tuning: list[Record]
    held_out: list[Record]
    unseen_phrasing: list[Record]
    follow_ups: list[Record]


def command(argv: list[str]) -> int:
    options = _parse(argv)
    begin = time.monotonic()
    folder = Path(options.folder or ("demo" if options.task == "answers" else f"demo-{options.task}"))
    make_room(folder)
    if options.task == "preferences":
        from tomoni.cli import demo_preferences

        return demo_preferences.show(folder, options)
    if options.task == "politeness":
        from tomoni.cli import demo_politeness

        return demo_politeness.show(folder, options)
    if options.task == "classify":
        from tomoni.cli import demo_classify

        return demo_classify.show(folder, options)
    questions = _write_questions(folder, options)

    from rich.console import Console

    console = Console(highlight=False, quiet=options.json)
    arms = _measure(folder, questions, options, console)
    played: dict[str, Any] = {}
    if options.round and not options.with_me:
        from tomoni.cli import demo_round

        played = {"round": demo_round.show(folder, options, console)}
    seconds = time.monotonic() - begin
    body = _as_json(arms, options, seconds) | played
    (folder / "result.json").write_text(json.dumps(body, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if options.json:
        print(json.dumps(body, ensure_ascii=False))
    else:
        _say_goodbye(console, folder, seconds, with_me=options.with_me)
    if options.studio and not options.json and sys.stdin.isatty() and sys.stdout.isatty():
        from tomoni.cli import studio

        return studio.command([str(folder)])
    return 0


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tomoni demo",
        description="A small pretrained model learns a task, in about three minutes, without a network.",
    )
    with_encoder = ("classify",) if "encoder" in BUNDLED else ()
    parser.add_argument(
        "--task",
        choices=("answers", "preferences", "politeness", *with_encoder),
        default="answers",
        help="answers: learn to answer, beside honest baselines; preferences: then learn what a person likes; "
        "politeness: then learn from a reward"
        + ("; classify: an encoder sorts notices" if with_encoder else "")
        + " (default: answers)",
    )
    parser.add_argument(
        "--folder", help="where data, runs and results go; made anew each time (default: demo, or demo-TASK)"
    )
    parser.add_argument("--tuning-questions", type=int, default=600, help="questions to tune on (default: 600)")
    parser.add_argument("--held-out", type=int, default=600, help="questions to measure on (default: 600)")
    parser.add_argument(
        "--labelled", type=int, default=60, help="classify: labelled notices to learn from (default: 60)"
    )
    parser.add_argument(
        "--pairs", type=int, default=900, help="preferences: questions that the person is asked about (default: 900)"
    )
    parser.add_argument(
        "--method", choices=("grpo", "ppo"), default="grpo", help="politeness: how it is learnt (default: grpo)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the questions and the tuning (default: 0)")
    parser.add_argument(
        "--price-per-hour",
        type=float,
        default=0.10,
        help="US dollars for an hour of a machine like this one (default: 0.10)",
    )
    parser.add_argument(
        "--no-studio",
        dest="studio",
        action="store_false",
        help="answers: end instead of opening the studio on what was made",
    )
    parser.add_argument(
        "--no-round",
        dest="round",
        action="store_false",
        help="answers: leave out the round with simulated people (about a minute)",
    )
    parser.add_argument(
        "--with-me",
        action="store_true",
        help="answers: no simulated people; you judge in the studio, and play the round from there",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON only")
    options = parser.parse_args(argv)
    for name in ("tuning_questions", "held_out", "pairs", "labelled"):
        if getattr(options, name) < 1:
            raise UserError(
                f"--{name.replace('_', '-')} {getattr(options, name)} is below 1",
                next_step="give a number of questions",
            )
    return options


def make_room(folder: Path) -> None:
    """An empty folder of the demo's own; anybody else's folder is left alone."""
    if folder.exists() and any(folder.iterdir()) and not (folder / MARK).exists():
        raise RunError(
            f"{folder} exists and was not made by the demo", next_step="name another folder: tomoni demo --folder NAME"
        )
    if judged := _judgements(folder):
        raise RunError(
            f"{folder} holds {counted(judged, 'judgement')} that people made in the studio, and the demo would begin anew",
            next_step=f"go on with it: tomoni studio {folder}; or name another folder: tomoni demo --folder NAME",
        )
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    (folder / MARK).touch()


def _judgements(folder: Path) -> int:
    """How many judgements the folder holds, where it has become a workspace."""
    from tomoni.feedback.store import Store

    if not ((folder / "workspace.json").exists() and (folder / "tomoni.db").exists()):
        return 0
    with Store.read(folder) as store:
        return store.count_judgements()


def _write_questions(folder: Path, options: argparse.Namespace) -> Questions:
    world = bundled_world()
    questions = Questions(
        tuning=list(tuning_questions(world, options.tuning_questions, options.seed)),
        held_out=list(held_out_questions(world, options.held_out, options.seed)),
        unseen_phrasing=list(held_out_questions(world, options.held_out // 2, options.seed, phrasing="unseen")),
        follow_ups=list(follow_ups(world, options.held_out // 3, options.seed)),
    )
    (folder / "data").mkdir()
    for name, records in asdict(questions).items():
        lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        (folder / "data" / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    return questions


# -- measuring -------------------------------------------------------------------------------------------------------


def _measure(folder: Path, questions: Questions, options: argparse.Namespace, console: Console) -> dict[str, list[Arm]]:
    from tomoni.engine.random_start import write_random_start
    from tomoni.engine.sampler import Sampling
    from tomoni.evaluate import sidebyside
    from tomoni.evaluate.subject import open_subject
    from tomoni.records import Message

    world = bundled_world()
    entities = {record["entity"] for record in questions.held_out}
    asked_in_tuning = {record["entity"] for record in questions.tuning}
    console.print(
        f"\n[bold]An invented town.[/bold] The bundled models have read about it, and have never been in a chat.\n"
        f"Tuning: {len(questions.tuning)} questions about {len(asked_in_tuning)} shops, people, stations and events. "
        f"Measured: {len(questions.held_out)} questions about {len(entities)} others.\n"
    )
    arms: list[Arm] = []

    def add(name: str, records: Sequence[Record], asked: Answers, run: Result | None = None) -> Arm:
        right = sum(is_right(text, record, world) for text, record in zip(asked.texts, records, strict=True))
        tuning = (run.seconds, run.tokens) if run else (0.0, 0)
        arm = Arm(name, right, len(records), *tuning, seconds=asked.seconds, tokens=asked.tokens)
        low, high = arm.interval
        console.print(
            f"  {name:<27} [bold]{right / len(records):6.1%}[/bold]  ({low:.1%} to {high:.1%})  {tuning[0] + asked.seconds:5.1f} s"
        )
        return arm

    def ask(model: Subject, records: Sequence[Record], plain: Sequence[str] | None = None) -> Answers:
        """Greedily; in the model's chat form, or as plain texts to continue until the end of the line."""
        how = Sampling(max_new_tokens=MAX_NEW_TOKENS, temperature=0.0, stop=("\n",) if plain is not None else ())
        chats = [tuple(Message(turn["role"], turn["content"]) for turn in r["messages"][:-1]) for r in records]
        prompts: Sequence[tuple[Message, ...] | str] = chats if plain is None else plain
        tasks = [sidebyside.Task(r["id"], asked, r["answer"]) for r, asked in zip(records, prompts, strict=True)]
        return sidebyside.ask(model, tasks, how)

    console.print("[bold]Before tuning[/bold], on the same questions:")
    arms.append(_guesser(questions, console))
    untuned: dict[str, Sequence[str]] = {}
    for size in ("small", "large"):
        model = open_subject(f"bundled:{size}")
        in_chat = ask(model, questions.held_out)
        arms.append(add(f"{size} untuned, in chat", questions.held_out, in_chat))
        for shots, how in ((0, "plain text"), (SHOTS, f"{SHOTS} examples")):
            asked = ask(model, questions.held_out, _with_shots(questions, shots))
            arms.append(add(f"{size} untuned, {how}", questions.held_out, asked))
            untuned |= {"in chat": in_chat.texts, how: asked.texts} if size == "small" else {}

    console.print("\n[bold]Tuning[/bold] the small model, and one of its size from random weights:")
    tuned_run = _tune(folder / "run", "bundled:small", TUNING, folder, options, console)
    random_weights = write_random_start("bundled:small", folder / "scratch-start", options.seed)
    scratch_run = _tune(folder / "scratch", str(random_weights), FROM_SCRATCH, folder, options, console)
    console.print("\n[bold]After tuning[/bold]:")
    scratch = open_subject(folder / "scratch")
    arms.append(add("small from scratch, tuned", questions.held_out, ask(scratch, questions.held_out), scratch_run))
    tuned = open_subject(folder / "run")
    answers = ask(tuned, questions.held_out)
    arms.append(add(TUNED, questions.held_out, answers, tuned_run))
    more = [
        add("  phrasings not in tuning", questions.unseen_phrasing, ask(tuned, questions.unseen_phrasing)),
        add("  follow-up turns", questions.follow_ups, ask(tuned, questions.follow_ups)),
    ]
    write_opening(folder)
    _show_table(console, arms, options.price_per_hour)
    _show_answers(console, questions.held_out, untuned, answers.texts)
    return {"held_out": arms, "tuned_elsewhere": more}


def _guesser(questions: Questions, console: Console) -> Arm:
    """Always the most frequent answer of the tuning data to this kind of question in this language."""
    world = bundled_world()
    most = most_frequent_answers(questions.tuning)
    right = sum(is_right(most.get((r["fact"], r["lang"]), ""), r, world) for r in questions.held_out)
    arm = Arm("most frequent answer", right, len(questions.held_out))
    low, high = arm.interval
    console.print(f"  {arm.name:<27} [bold]{right / arm.asked:6.1%}[/bold]  ({low:.1%} to {high:.1%})")
    return arm


def _with_shots(questions: Questions, shots: int) -> list[str]:
    """Plain question-and-answer text, the form in which an untuned model does best; examples in the same language."""
    label = {"en": ("Question: ", "Answer:"), "ja": ("質問：", "答え：")}
    single = [record for record in questions.tuning if record["turns"] == 1]
    prompts = []
    for number, record in enumerate(questions.held_out):
        ask, answer = label[record["lang"]]
        same = [example for example in single if example["lang"] == record["lang"]]
        start = number * shots
        examples = [same[(start + i) % len(same)]["messages"] for i in range(shots)] if same else []
        lines = [f"{ask}{user['content']}\n{answer} {assistant['content']}\n\n" for user, assistant in examples]
        prompts.append("".join(lines) + f"{ask}{record['messages'][-2]['content']}\n{answer}")
    return prompts


def _tune(
    output: Path, model: str, tuning: dict[str, Any], folder: Path, options: argparse.Namespace, console: Console
) -> Result:
    from tomoni.settings.sft import Config

    cfg = Config(
        model_name_or_path=model,
        train_file=(str(folder / "data" / "tuning.jsonl"),),
        output_dir=str(output),
        seed=options.seed,
        **tuning,
    )
    return train(cfg, console)


def train(cfg: TrainingSettings, console: Console) -> Result:
    """Run it behind a bar. Raises RunError where it was stopped."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from tomoni.run import start
    from tomoni.run.events import Event, Stepped
    from tomoni.run.progress import measure_text

    output = Path(cfg.output_dir)
    with Progress(
        TextColumn(f"  {output.name:<8}"),
        BarColumn(),
        TextColumn("{task.fields[say]}"),
        TimeRemainingColumn(),
        console=console,
    ) as bar:
        task = bar.add_task("", total=None, say="")

        def show(event: Event) -> None:
            if isinstance(event, Stepped):
                bar.update(task, completed=event.step, total=event.total, say=measure_text(event, 2))

        result = start(cfg, on_event=show)
    if result.status != "finished":
        raise RunError(f"the tuning in {output} was stopped at step {result.step}", next_step="run tomoni demo again")
    return result


# -- showing ---------------------------------------------------------------------------------------------------------


def _show_table(console: Console, arms: Sequence[Arm], price: float) -> None:
    from rich.table import Table

    table = Table(title="\nQuestions about entities never asked about in tuning", title_justify="left", box=None)
    table.add_column("", no_wrap=True)
    for heading in ("right", "95% interval", "seconds", "tokens", "cost"):
        table.add_column(heading, justify="right", no_wrap=True)
    for arm in arms:
        low, high = arm.interval
        table.add_row(
            arm.name,
            f"{arm.right / arm.asked:.1%}",
            f"{100 * low:.1f} to {high:.1%}",
            f"{arm.tuning_seconds + arm.seconds:.1f}" if arm.tokens else "",
            f"{arm.tuning_tokens + arm.tokens:,}" if arm.tokens else "",
            f"${arm.cost(price):.4f}" if arm.tokens else "",
            style="bold green" if arm.name == TUNED else "",
        )
    console.print(table)
    console.print(
        f"  Seconds and tokens of tuning and answering together; cost at ${price:.2f} an hour (--price-per-hour).\n"
        "  What it took to pretrain the bundled models is not in it.\n",
        soft_wrap=True,
    )


def _show_answers(
    console: Console, records: Sequence[Record], before: Mapping[str, Sequence[str]], after: Sequence[str]
) -> None:
    """The first two questions in each language, whatever became of them."""
    console.print("[bold]The same questions, before and after[/bold] (the first two in each language)\n")
    for lang in ("en", "ja"):
        for number in [number for number, record in enumerate(records) if record["lang"] == lang][:2]:
            record = records[number]
            console.print("  " + record["messages"][-2]["content"], style="bold", markup=False)
            for how, answers in before.items():
                console.print(f"    {'untuned, ' + how:<21} {short(answers[number])}", markup=False)
            console.print(f"    {'tuned':<21} {short(after[number])}", markup=False, style="green")
            console.print(f"    {'in the town book':<21} {record['answer']}\n", markup=False)


def short(text: str, most: int = 52) -> str:
    """One line that fits 80 columns beside its label; full-width characters take two."""
    from rich.cells import cell_len, set_cell_size

    text = " ".join(text.split())
    return text if cell_len(text) <= most else set_cell_size(text, most - 1).rstrip() + "…"


def write_opening(folder: Path) -> None:
    """What `tomoni chat` says first: what this model knows, questions to try, and that it knows nothing else."""
    world = bundled_world()
    body = {
        "chat_opening": what_it_knows(world, "en") + "\n" + what_it_knows(world, "ja"),
        "questions": example_questions(world, "en", 4) + example_questions(world, "ja", 4, seed=1),
    }
    for result in (folder / "run" / "model", folder / "run"):
        (result / "tomoni.json").write_text(json.dumps(body, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _say_goodbye(console: Console, folder: Path, seconds: float, *, with_me: bool) -> None:
    program = os.environ.get("TOMONI_PROGRAM", "tomoni")
    console.print(f"\nDone in {seconds:.0f} s, on this machine, without a network. All of it is in {folder}/.")
    console.print(f"Talk to it:              [bold]{program} chat {folder}/run[/bold]")
    if with_me:
        console.print("You are the people of the first round: judge in the studio, then begin it under Rounds.")
    console.print(f"Teach it in a minute:    [bold]{program} studio {folder}[/bold]")
    console.print(f"1分で教える:             [bold]{program} studio {folder}[/bold]\n")


def _as_json(arms: dict[str, list[Arm]], options: argparse.Namespace, seconds: float) -> dict[str, Any]:
    def row(arm: Arm) -> dict[str, Any]:
        low, high = arm.interval
        return {
            **asdict(arm),
            "share": arm.right / arm.asked,
            "low": low,
            "high": high,
            "cost_usd": arm.cost(options.price_per_hour),
        }

    return {
        "seconds": seconds,
        "tuning": TUNING,
        "from_scratch": FROM_SCRATCH,
        **{name: [row(arm) for arm in rows] for name, rows in arms.items()},
    }
