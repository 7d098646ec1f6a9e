"""What a person sees while a run works: a bar in a terminal, plain lines elsewhere. A listener; changes nothing."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TextIO

from tomoni.run.events import (
    Ended,
    Evaluated,
    Evaluating,
    Event,
    Notice,
    Preparing,
    Saved,
    Started,
    Stepped,
    Working,
)
from tomoni.run.report import duration

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

SECONDS_BETWEEN_LINES = 5.0
WHAT = {
    "model": "loading the model",
    "data": "reading and tokenising the data",
    "head": "reading each text once, to begin with the best head",
    "result": "saving the result",
}
INSIDE = {"read": "reading texts", "solve": "solving for the best head, round"}


def progress(out: TextIO | None = None) -> Bar | Lines:
    """The listener for this output: standard error unless given, so that standard output stays for results."""
    out = out or sys.stderr
    return Bar(out) if out.isatty() else Lines(out)


def describe(event: Event) -> str | None:
    """The events that are one line of text in either form; None for the others."""
    match event:
        case Preparing(what):
            return WHAT.get(what, what)
        case Started(step, total, items, trained_weights, resumed_from):
            begin = f"going on from {resumed_from.name}" if resumed_from else "starting"
            return f"{begin}: step {step} of {total}, {items:,} items, {trained_weights:,} trained weights"
        case Evaluated(step, metrics, best):
            values = ", ".join(f"{name} {value:.4g}" for name, value in metrics.items() if name not in _unsaid(metrics))
            return f"step {step}: {values}{' (best so far)' if best else ''}"
        case Notice(text):
            return f"note: {text}"
        case _:
            return None


def _unsaid(metrics: Mapping[str, float]) -> set[str]:
    """Where there is a reward, the loss is its negative."""
    return {"step", *(f"{name.removesuffix('reward')}loss" for name in metrics if name.endswith("_reward"))}


def measure_text(event: Stepped, digits: int = 3) -> str:
    """The one number to look at: where there is a reward the loss says nothing."""
    name, value = ("loss", event.loss) if event.reward is None else ("reward", event.reward)
    return f"{name} {value:.{digits}f}"


def step_text(event: Stepped) -> str:
    return (
        f"{measure_text(event)}  {event.tokens_per_second:,.0f} tokens/s  "
        f"{event.memory_bytes / 2**30:.1f} GiB  {duration(event.seconds_left)} left"
    )


def inside_text(event: Evaluating | Working) -> str:
    if isinstance(event, Evaluating):
        return f"evaluating {event.done:,}/{event.items:,}"
    of = f"/{event.all:,}" if event.all else ""
    return f"{INSIDE.get(event.what, event.what)} {event.done:,}{of}"


class Lines:
    """A line at most every five seconds, and one for everything that happens once."""

    def close(self) -> None:
        """Nothing to end; as `Bar.close`."""

    def __init__(self, out: TextIO) -> None:
        self.out = out
        self.last = -SECONDS_BETWEEN_LINES  # when a step was told
        self.said = time.monotonic()  # when anything was

    def __call__(self, event: Event) -> None:
        text = describe(event)
        if text is not None:
            self._say(text)
        match event:
            case Stepped(step, total):
                if self._long_since(self.last) or step == total:
                    self._say(f"step {step}/{total}  {step_text(event)}")
                    self.last = self.said
            case Evaluating() | Working():  # of a short one nothing need be said
                if self._long_since(self.said):
                    self._say(inside_text(event))
            case _:
                pass

    def _long_since(self, then: float) -> bool:
        return time.monotonic() - then >= SECONDS_BETWEEN_LINES

    def _say(self, text: str) -> None:
        self.said = time.monotonic()
        print(text, file=self.out, flush=True)


class Bar:
    """A bar with loss, tokens a second, memory and time left; notices scroll above it."""

    def __init__(self, out: TextIO) -> None:
        from rich.console import Console

        self.console = Console(file=out, highlight=False)
        self.bar: RichProgress | None = None
        self.task: Any = None

    def __call__(self, event: Event) -> None:
        text = describe(event)
        if text is not None:
            self.console.print(text, markup=False)
        match event:
            case Started(step, total):
                self._start(step, total)
            case Stepped(step):
                if self.bar is not None:
                    self.bar.update(self.task, completed=step, say=step_text(event))
            case Evaluating() | Working():
                if self.bar is not None:
                    self.bar.update(self.task, say=inside_text(event))
            case Saved(folder):
                if self.bar is not None:
                    self.bar.update(self.task, say=f"saved {folder.name}")
            case Ended():
                self.close()
            case _:
                pass

    def close(self) -> None:
        """Also when a run fails: the cursor must come back."""
        if self.bar is not None:
            self.bar.stop()
            self.bar = None

    def _start(self, step: int, total: int) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        self.bar = Progress(
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[say]}", markup=False),
            console=self.console,
        )
        self.task = self.bar.add_task("", total=total, completed=step, say="looking at the model before training")
        self.bar.start()
