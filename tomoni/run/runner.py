"""The runner: drives a method's steps, and does once for all methods what no method does itself: progress, evaluation,
checkpoints, resume, stopping, the report.

Nothing here may reach into the training: looking at the model (evaluation, sampling) and saving it leave the weights
of every later step the same to the bit, and a run that was stopped, killed or taken up again ends with the weights,
optimizer and ledger of one that was not.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

from tomoni import durable
from tomoni.engine import checkpoint
from tomoni.errors import CheckpointError, RunError, UserError, counted
from tomoni.report import Looked, Report, State
from tomoni.rewards.opening import unread
from tomoni.run import figures, watched
from tomoni.run import report as reports
from tomoni.run.carried import Best, Carried
from tomoni.run.events import (
    Ended,
    Evaluated,
    Evaluating,
    Event,
    Listener,
    Notice,
    Preparing,
    Saved,
    Started,
    Stepped,
    Working,
)
from tomoni.run.folder import RunFolder
from tomoni.run.job import Job
from tomoni.run.journal import Journal
from tomoni.run.memory import peak_bytes
from tomoni.run.outcome import Answer, Measured, Result
from tomoni.run.stopping import StopRequest, listening
from tomoni.run.tracking import TensorBoard
from tomoni.run.watching import form_of
from tomoni.settings.common import TrainingSettings
from tomoni.settings.watching import WatchSettings

SECONDS_BETWEEN_SAVES = 300.0
ALIKE = 5  # first steps in which all completions of each prompt earn the same: then it is said
ITEMS_PER_LOOK = 64  # between two looks at whether the run is to stop


class _Stopped(Exception):
    """A signal came while the model was being looked at, or inside a long step."""


def run(cfg: TrainingSettings, *, on_event: Listener | None = None) -> Result:
    """See `tomoni.run.start`. torch is imported when the folder is held and the config accepted."""

    def make_job(tell: Listener) -> Job:
        from tomoni.run.prepare import prepare

        return prepare(cfg, folder, tell)

    listeners: list[Listener] = [on_event] if on_event is not None else []
    if cfg.report_to == "tensorboard":
        listeners.append(TensorBoard(Path(cfg.output_dir).expanduser()))
    with RunFolder.hold(cfg.output_dir) as folder:
        return drive(folder, cfg, make_job, listeners)


def drive(
    folder: RunFolder,
    cfg: TrainingSettings,
    make_job: Callable[[Listener], Job],
    listeners: Sequence[Listener],
) -> Result:
    """Make the job, run it, and leave a status that says how it ended.

    Signals are taken only while the job runs: until then there is nothing to save, and they end the process as usual.
    """

    def tell(event: Event) -> None:
        for listener in listeners:
            listener(event)

    for text in folder.compare(cfg):
        tell(Notice(text))
    folder.set_status("running")
    try:
        job = make_job(tell)
        needed = job.engine.bytes_to_save() + job.result_bytes
        durable.require_space(folder.root, needed)  # now, and not after the hours until the first checkpoint
        folder.accept(cfg, job.inputs)
        for text in job.notices:
            tell(Notice(text))
        with listening() as stop, contextlib.closing(Runner(job, folder, tell, stop)) as runner:
            result = runner.run()
    except BaseException as error:
        if folder.begun:
            _say_failed(folder, error)
        else:
            folder.withdraw()
        raise
    tell(Ended(result))
    return result


def _say_failed(folder: RunFolder, error: BaseException) -> None:
    text = error.text() if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
    try:
        folder.set_status("failed", error=text)
        record_ids = getattr(error, "record_ids", None)
        if record_ids is not None:
            folder.write_json("report.json", {"state": "failed", "error": text, "record_ids": list(record_ids)})
    except UserError:
        pass  # the disk that failed the run may fail this too; the error itself is on its way to the person


class Runner:
    def __init__(self, job: Job, folder: RunFolder, tell: Listener, stop: StopRequest) -> None:
        self.job = job
        self.cfg = job.cfg
        self.folder = folder
        self.tell = tell
        self.stop = stop
        self.metrics = Journal(folder.metrics)
        self.ledger = Journal(folder.ledger)
        self.completions = Journal(folder.completions) if job.rewards is not None else None
        self.carried = Carried()
        self.last_save = time.monotonic()
        self.saved_at = -1  # number of updates in the newest checkpoint
        self.alike: int | None = 0  # steps so far whose rewards told nothing apart; None: there was one that did

    @property
    def _journals(self) -> dict[str, Journal]:
        sampled = {} if self.completions is None else {"completions": self.completions}
        return {"ledger": self.ledger, "metrics": self.metrics, **sampled}

    def close(self) -> None:
        for journal in self._journals.values():
            journal.close()

    def run(self) -> Result:
        resumed_from = self._resume()
        self.tell(Started(self.carried.step, self.cfg.steps, self.job.items, self.job.trained_weights, resumed_from))
        self.folder.set_status("running", step=self.carried.step, steps=self.cfg.steps)
        try:
            before = self._before()
            self._train()
            if self.stop:
                raise _Stopped
            self._choose_weights()
            after = self._measured_at_end()
        except _Stopped:
            return self._stopped()
        return self._finish(before, after)

    # -- steps -------------------------------------------------------------------------------------------------------

    def _train(self) -> None:
        if self.carried.evaluation_due:
            self._evaluate_and_save()
        if self.stop:
            return  # it came again: not a step before the evaluation that is due
        if self.carried.ended:
            return
        for report in self._steps():
            self._account(report)
            if self._evaluation_due():
                self.carried.evaluation_due = True
                if report.resumable:
                    self._evaluate_and_save()
            if report.resumable and self._save_due():
                self._save()
            if report.resumable and (self.stop or self.carried.ended):
                return

    def _steps(self) -> Iterator[Report]:
        """The method's reports; the time that passes inside the method is the training's time."""
        state = State(self.carried.step, self.carried.values, self._inside)
        engine = cast(Any, self.job.engine)
        steps = iter(self.job.method.steps(engine, self.job.data, self.cfg, state, self.job.rewards))
        while True:
            begin = time.monotonic()
            report = next(steps, None)
            if report is None:
                return
            self.carried.add_seconds(time.monotonic() - begin)
            yield report

    def _inside(self, what: str, done: int, all: int) -> None:
        """What a long step is at. Where a checkpoint could not be taken anyway, a signal need not wait for its end."""
        if self.stop:
            raise _Stopped
        self.tell(Working(what, done, all))

    def _account(self, report: Report) -> None:
        self.carried.add(report, peak_bytes(self.job.device_type))
        replayed = list(self.job.replayed())
        self.ledger.append(
            {"step": report.step, "items": list(report.item_ids)} | ({"replayed": replayed} if replayed else {})
        )
        if self.completions is not None:
            for completion in report.completions:
                self.completions.append({"step": report.step, **completion})
        if report.stop:
            self.carried.ended = report.stop
            self.tell(Notice(f"ended after step {report.step + 1}: {report.stop}"))
        self._say_alike(report)
        done = self.carried.step
        line = None
        if done % self.cfg.logging_steps == 0 or done == self.cfg.steps:
            line = self.carried.take_line(epoch=self.job.data.epoch(report.step // self.cfg.updates_per_batch))
            self.metrics.append(line)
        loss, reward = (report.stats[name].value if name in report.stats else None for name in ("loss", "reward"))
        rate, left = self.carried.pace(self.cfg.steps)
        memory = self.carried.peak_memory_bytes
        self.tell(
            Stepped(done, self.cfg.steps, float("nan") if loss is None else loss, rate, left, memory, line, reward)
        )

    def _say_alike(self, report: Report) -> None:
        """A reward that never tells two completions of a prompt apart teaches nothing."""
        share = report.stats.get("frac_reward_zero_std")
        if (
            share is None
            or self.alike is None
            or self.job.rewards is None
            or getattr(self.cfg, "num_generations", 1) < 2
        ):
            return
        self.alike = self.alike + 1 if share.value == 1 else None
        if self.alike == min(ALIKE, self.cfg.steps):
            columns = ", ".join(unread(self.job.rewards))
            why = f"; no record has the column {columns}" if columns else "; does the reward read what it should?"
            steps = counted(self.alike, "step")
            self.tell(Notice(f"nothing is learnt: in {steps} all completions of each prompt earned the same{why}"))

    def _evaluation_due(self) -> bool:
        every, done = self.cfg.eval_steps, self.carried.step
        return self.carried.evaluation_due or bool(every and (done % every == 0 or done == self.cfg.steps))

    def _save_due(self) -> bool:
        done = self.carried.step
        if done == self.saved_at:
            return False
        if self.stop or self.carried.ended or done == self.cfg.steps:
            return True
        if self.cfg.save_steps:
            return done % self.cfg.save_steps == 0
        return time.monotonic() - self.last_save >= SECONDS_BETWEEN_SAVES

    # -- looking -----------------------------------------------------------------------------------------------------

    def _look(self) -> Measured:
        items = self.job.looked_at
        stats = None
        for begin in range(0, len(items), ITEMS_PER_LOOK):
            if self.stop:
                raise _Stopped
            end = min(begin + ITEMS_PER_LOOK, len(items))
            some = [items[index] for index in range(begin, end)]
            rewards = self.job.eval_rewards or self.job.rewards
            part = self.job.method.evaluate(cast(Any, self.job.engine), some, self.cfg, rewards)
            stats = part if stats is None else stats + part
            self.tell(Evaluating(end, len(items)))
        if stats is None:
            raise RunError("there is nothing to look at", next_step="give a validation_file with at least one row")
        return Measured(stats, len(items), self.job.looked_at_is)

    def _evaluate_and_save(self) -> None:
        """Evaluate where the training stands; a new best is saved at once, so that it can be had later. Where a signal
        interrupts the look, the checkpoint remembers that it is due."""
        try:
            measured = self._look()
        except _Stopped:
            return
        self.carried.evaluation_due = False
        self.carried.evaluated(measured)
        held_out = self.job.looked_at_is == "validation"
        best = held_out and self.carried.beats_the_best(measured)
        if best:
            self.carried.best = Best(self.carried.step, measured.loss, measured.chosen_by)
        prefix = "eval_" if held_out else "train_sample_"
        line = {
            "step": self.carried.step,
            **{prefix + name: mean for name, mean in figures.shown(measured.stats).items()},
            **{prefix + name: value for name, value in self._watched(measured).items()},
        }
        self.metrics.append(line)
        self.tell(Evaluated(self.carried.step, line, best))
        if held_out and self.carried.watch.points:
            self._judge()
        if best:
            self._save()

    def _watched(self, measured: Measured) -> dict[str, float]:
        """What the evaluation of a policy is beside the start's, where its items can be compared."""
        kept = self.folder.read_json("before.json") if isinstance(measured.stats, Looked) else None
        start = Measured.from_json(kept["measured"]).stats if kept else None
        if not isinstance(start, Looked) or not isinstance(measured.stats, Looked):
            return {}
        return self.carried.watch.add(self.carried.step, start, measured.stats)

    def _judge(self) -> None:
        """Say, once, that the policy has gone too far; or end the run there."""
        watch = self.carried.watch
        if not isinstance(self.cfg, WatchSettings):
            return
        reason, ends = watch.too_far(self.cfg, form_of(self.cfg))
        if reason is None:
            return
        if ends:
            self.carried.ended, self.carried.ended_too_far = reason, True
            self.tell(Notice(f"ended after step {self.carried.step}: {reason}"))
        elif not watch.warned:
            watch.warned = True
            self.tell(
                Notice(f"{reason}; best.json names the best checkpoint (on_overoptimization: stop would end here)")
            )

    def _before(self) -> Measured:
        """Loss and answers before the first step; kept in the folder, because a resumed run cannot measure them again."""
        kept = self.folder.read_json("before.json")
        if kept is None:
            measured = self._look()
            kept = {"measured": measured.as_json(), "answers": self._answers()}
            self.folder.write_json("before.json", kept)
        return Measured.from_json(kept["measured"])

    def _measured_at_end(self) -> Measured:
        at_end = self.carried.last_evaluation
        return at_end if at_end is not None and self.carried.last_evaluation_step == self.carried.step else self._look()

    def _answers(self) -> list[str]:
        if self.job.answer is None:
            return []
        if self.stop:
            raise _Stopped
        return self.job.answer()

    # -- keeping -----------------------------------------------------------------------------------------------------

    def _save(self) -> None:
        done = self.carried.step
        body = self.carried.as_json() | {name: journal.position() for name, journal in self._journals.items()}

        def write(staging: Path) -> None:
            self.job.engine.save(staging)
            (staging / "run.json").write_text(json.dumps(body, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

        final = checkpoint.step_folder(self.folder.checkpoints, done)
        checkpoint.commit(final, write, bytes_needed=self.job.engine.bytes_to_save())
        self.saved_at = done
        self.last_save = time.monotonic()
        best = self._point_to_best()
        with durable.naming_disk(self.folder.checkpoints, 0):
            checkpoint.retain(self.folder.checkpoints, newest=self.cfg.save_total_limit, also=best)
        self.folder.set_status("running", step=done, steps=self.cfg.steps)
        self.tell(Saved(final))

    def _point_to_best(self) -> Path | None:
        best = self.carried.best
        if best is None:
            return None
        folder = checkpoint.step_folder(self.folder.checkpoints, best.step)
        if not folder.exists():  # the checkpoints after it were damaged, and it was no longer kept
            (self.folder.root / "best.json").unlink(missing_ok=True)
            return None
        body = {"checkpoint": folder.name, "step": best.step, "eval_loss": best.loss}
        if self.folder.read_json("best.json") != body:
            self.folder.write_json("best.json", body)
        return folder

    def _resume(self) -> Path | None:
        """Take up the newest whole checkpoint; damaged newer ones are set aside and said."""
        found, damaged = checkpoint.newest_whole(self.folder.checkpoints)
        for entry in damaged:
            aside = checkpoint.set_aside(entry.folder)
            self.tell(
                Notice(
                    f"{entry.reason}; set aside as {aside.name}, going on from {found.name if found else 'the start'}"
                )
            )
        if found is None:
            for journal in self._journals.values():
                journal.cut(None)
            return None
        self.job.engine.load(found)
        body = json.loads((found / "run.json").read_text(encoding="utf-8"))
        self.carried = Carried.from_json(body)
        for name, journal in self._journals.items():
            if not journal.cut(body[name]):
                self.tell(Notice(f"{journal.path} is not what was written before; a new one begins at this step"))
        self.saved_at = self.carried.step
        self._point_to_best()
        return found

    # -- the end -----------------------------------------------------------------------------------------------------

    def _choose_weights(self) -> None:
        """The last step's weights are the result; with `load_best_model_at_end` those of the best evaluation."""
        if not (self.cfg.load_best_model_at_end or self.carried.ended_too_far):
            return
        best = self.carried.best
        if best is None:
            self.tell(
                Notice(
                    "load_best_model_at_end: no evaluation on held-out data was made; set eval_steps and a validation_file"
                )
            )
            return
        folder = checkpoint.step_folder(self.folder.checkpoints, best.step)
        try:
            checkpoint.verify(folder)
        except CheckpointError as error:
            self.tell(
                Notice(
                    f"the best evaluation's weights are lost: {error.what}; the result holds the last step's weights"
                )
            )
            return
        self.job.engine.load(folder)
        self.carried.last_evaluation = None
        self.tell(Notice(f"the result holds the weights of step {best.step}, the best by {best.by}"))

    def _stopped(self) -> Result:
        step = max(self.saved_at, 0)
        self.folder.set_status("stopped", step=step, steps=self.cfg.steps)
        return self._result("stopped", signal=self.stop.signal)

    def _finish(self, before: Measured, after: Measured) -> Result:
        kept = self.folder.read_json("before.json") or {"answers": []}
        now = self._answers_at_end()
        answers = tuple(
            Answer(prompt.prompt, prompt.desired, old, new, prompt.asked)
            for prompt, old, new in zip(self.job.prompts, kept["answers"], now, strict=False)
        )
        self.tell(Preparing("result"))
        final = self.folder.root / self.job.result_name
        checkpoint.commit(final, self.job.save_model, bytes_needed=self.job.result_bytes)
        self.tell(Saved(final))
        result = self._result("finished", before=before, after=after, answers=answers, model=final)
        self._report(result)
        self.folder.set_status("finished", step=self.carried.step, steps=self.cfg.steps)
        return result

    def _report(self, result: Result) -> None:
        watch, root = self.carried.watch, self.folder.root
        more = self.job.more_figures()
        body = reports.as_json(result, self.cfg) | watched.as_json(watch, self.cfg) | dict(more)
        self.folder.write_json("report.json", body)
        held_out = self.job.looked_at_is == "validation"
        section = watched.as_markdown(watch, self.cfg, held_out=held_out, ended=result.ended)
        durable.atomic_write(root / "report.md", reports.as_markdown(result, self.cfg, more) + section)
        if watch.points:
            drawn = watched.chart(watch, watched.read_metrics(self.folder.metrics), self.cfg)
            durable.atomic_write(root / watched.FILE, drawn)

    def _answers_at_end(self) -> list[str]:
        try:
            return self._answers()
        except _Stopped:
            return []  # the training is done; a signal now only spares the answers

    def _result(self, status: Any, **more: Any) -> Result:
        return Result(
            self.folder.root,
            status,
            step=self.carried.step,
            steps=self.cfg.steps,
            ended=self.carried.ended,
            best=self._point_to_best(),
            seconds=self.carried.seconds,
            tokens=self.carried.tokens,
            peak_memory_bytes=max(self.carried.peak_memory_bytes, peak_bytes(self.job.device_type)),
            **more,
        )
