from __future__ import annotations

import errno
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.engine.faults import FaultyOs, put
from tests.run import jobs
from tomoni.engine import checkpoint
from tomoni.engine.engine import Engine
from tomoni.errors import CheckpointError, DataError, DiskError, Diverged, RunError
from tomoni.report import Mean
from tomoni.rows import Item, Row
from tomoni.run.events import Ended, Evaluated, Event, Notice, Saved, Started, Stepped
from tomoni.run.folder import RunFolder, is_held, read_status


class Recorder(list[Event]):
    """A listener that keeps every event."""

    def __call__(self, event: Event) -> None:
        self.append(event)

    def of(self, kind: type) -> list[Any]:
        return [event for event in self if isinstance(event, kind)]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Digests of a run that nobody watched and nothing interrupted."""
    folder = tmp_path_factory.mktemp("plain") / "run"
    jobs.train(jobs.config(folder, save_steps=100), make=lambda cfg: jobs.job(cfg, listen=False))
    return jobs.digests(folder)


def test_watching_changes_nothing(tmp_path: Path, plain: dict[str, str]) -> None:
    """Evaluation at every step, sampling (which draws from the global streams), listeners, frequent saves."""
    folder = tmp_path / "run"
    events = Recorder()
    jobs.train(jobs.config(folder, eval_steps=1, save_steps=1, logging_steps=3), on_event=events)
    assert jobs.digests(folder) == plain
    assert len(events.of(Evaluated)) == 18 and len(events.of(Stepped)) == 18


def test_the_result_and_the_report_hold_before_and_after(tmp_path: Path) -> None:
    result = jobs.train(jobs.config(tmp_path / "run"))
    assert result.status == "finished" and result.step == 18
    assert result.before is not None and result.after is not None and result.after.loss < result.before.loss
    # the tokens of the run, counted once more from the ledger's side: 18 steps of 4 items
    stream = jobs.job(jobs.config(tmp_path / "other")).data
    assert result.tokens == sum(len(item.rows[0].tokens) for step in range(18) for item in stream.batch(step))
    body = json.loads((tmp_path / "run" / "report.json").read_text(encoding="utf-8"))
    assert body["after"]["loss"] == result.after.loss and body["answers"][0]["desired"] == "七"
    text = (tmp_path / "run" / "report.md").read_text(encoding="utf-8")
    assert f"{result.before.loss:.3f} | {result.after.loss:.3f}" in text and "何問目?" in text
    checkpoint.verify(tmp_path / "run" / "model")


def test_metrics_have_a_line_every_logging_steps_with_means_over_them(tmp_path: Path) -> None:
    jobs.train(jobs.config(tmp_path / "every", logging_steps=1))
    jobs.train(jobs.config(tmp_path / "third", logging_steps=3))
    every, third = lines(tmp_path / "every" / "metrics.jsonl"), lines(tmp_path / "third" / "metrics.jsonl")
    assert [line["step"] for line in every] == list(range(1, 19))
    assert [line["step"] for line in third] == [3, 6, 9, 12, 15, 18]
    names = {"step", "epoch", "loss", "mean_token_accuracy", "grad_norm", "learning_rate", "num_tokens"}
    assert names | {"tokens_per_second", "seconds", "memory"} <= every[0].keys()
    assert third[0]["num_tokens"] == every[2]["num_tokens"]
    norms = [line["grad_norm"] for line in every[:3]]
    assert third[0]["grad_norm"] == pytest.approx(np.mean(np.array(norms, dtype=np.float64)), rel=1e-12)
    assert every[-1]["epoch"] == pytest.approx(18 * 4 / 14, abs=1e-6)


def test_the_ledger_names_the_items_of_every_step(tmp_path: Path) -> None:
    jobs.train(jobs.config(tmp_path / "run"))
    stream = jobs.job(jobs.config(tmp_path / "other")).data
    expected = [{"step": step, "items": [item.id for item in stream.batch(step)]} for step in range(18)]
    assert jobs.ledger(tmp_path / "run") == expected


class StopAt:
    """Sends this process a signal at the end of a step."""

    def __init__(self, step: int, number: int) -> None:
        self.step, self.number = step, number

    def __call__(self, event: Event) -> None:
        if isinstance(event, Stepped) and event.step == self.step:
            os.kill(os.getpid(), self.number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_after_the_step_and_the_run_goes_on_from_there(
    tmp_path: Path, plain: dict[str, str], number: signal.Signals
) -> None:
    folder = tmp_path / "run"
    handler = signal.getsignal(number)
    result = jobs.train(jobs.config(folder, eval_steps=5), on_event=StopAt(7, number))
    assert (result.status, result.signal, result.step) == ("stopped", number, 7)
    assert signal.getsignal(number) is handler
    assert (read_status(folder) or {})["state"] == "stopped" and not is_held(folder)
    checkpoint.verify(folder / "checkpoints" / "step-000007")
    events = Recorder()
    assert jobs.train(jobs.config(folder, eval_steps=5), on_event=events).status == "finished"
    assert events.of(Started)[0].step == 7
    assert jobs.digests(folder) == plain


def test_a_second_signal_ends_at_once() -> None:
    script = """
import os, signal
from tomoni.run.stopping import listening
with listening() as stop:
    os.kill(os.getpid(), signal.SIGTERM)
    print(stop.signal == signal.SIGTERM, flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
    print("still here")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("True\n", -signal.SIGTERM)
    assert "SIGTERM: saving after this step" in done.stderr


def test_a_signal_during_an_evaluation_loses_neither_the_step_nor_the_evaluation(
    tmp_path: Path, plain: dict[str, str]
) -> None:
    folder, other = tmp_path / "run", tmp_path / "other"
    cfg = jobs.config(folder, eval_steps=6, save_steps=100)

    class StopInLook(Recorder):
        def __call__(self, event: Event) -> None:
            super().__call__(event)
            if isinstance(event, Stepped) and event.step == 6:
                os.kill(os.getpid(), signal.SIGTERM)  # seen by the look that follows, before its first part

    assert jobs.train(cfg, on_event=StopInLook()).step == 6
    jobs.train(cfg)
    jobs.train(jobs.config(other, eval_steps=6, save_steps=100))
    assert jobs.digests(folder) == plain
    looked = [[line for line in lines(path / "metrics.jsonl") if "eval_loss" in line] for path in (folder, other)]
    assert looked[0] == looked[1] and [line["step"] for line in looked[0]] == [6, 12, 18]


def test_a_signal_during_the_evaluation_that_was_due_at_resume_takes_no_step_before_it(tmp_path: Path) -> None:
    cfg = jobs.config(tmp_path / "run", eval_steps=6, save_steps=100)
    assert jobs.train(cfg, on_event=StopAt(6, signal.SIGTERM)).step == 6

    def stop_at_once(event: Event) -> None:
        if isinstance(event, Started):
            os.kill(os.getpid(), signal.SIGTERM)

    again = jobs.train(cfg, on_event=stop_at_once)
    assert (again.status, again.step) == ("stopped", 6)
    jobs.train(cfg)
    looked = [line["step"] for line in lines(tmp_path / "run" / "metrics.jsonl") if "eval_loss" in line]
    assert looked == [6, 12, 18]


def test_stopped_many_times_the_metrics_lines_are_those_of_one_run(tmp_path: Path) -> None:
    jobs.train(jobs.config(tmp_path / "one", logging_steps=4))
    for stop in (3, 5, 6, 13):
        jobs.train(jobs.config(tmp_path / "many", logging_steps=4), on_event=StopAt(stop, signal.SIGTERM))
    jobs.train(jobs.config(tmp_path / "many", logging_steps=4))
    timed = ("seconds", "tokens_per_second", "memory")
    one, many = (
        [
            {key: value for key, value in line.items() if key not in timed}
            for line in lines(tmp_path / name / "metrics.jsonl")
        ]
        for name in ("one", "many")
    )
    assert one == many


def test_a_second_run_in_one_folder_is_refused_and_names_the_first(tmp_path: Path) -> None:
    refusals = []

    def start_another(event: Event) -> None:
        if isinstance(event, Stepped) and event.step == 2:
            with pytest.raises(RunError) as caught:
                jobs.train(jobs.config(tmp_path / "run"))
            refusals.append(caught.value.what)

    jobs.train(jobs.config(tmp_path / "run"), on_event=start_another)
    holder = json.loads((tmp_path / "run" / "lock").read_text())
    assert len(refusals) == 1
    for part in (f"process {os.getpid()}", holder["host"], holder["start"], str(tmp_path / "run")):
        assert part in refusals[0]


def test_the_lock_has_one_owner_whoever_races_for_it(tmp_path: Path) -> None:
    owners: list[RunFolder] = []
    refused: list[RunError] = []
    barrier = threading.Barrier(8)

    def race() -> None:
        barrier.wait()
        try:
            owners.append(RunFolder.hold(tmp_path / "run"))
        except RunError as error:
            refused.append(error)

    for _ in range(10):
        owners.clear()
        refused.clear()
        threads = [threading.Thread(target=race) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(owners) == 1 and len(refused) == 7
        assert is_held(tmp_path / "run")
        owners[0].close()
        assert not is_held(tmp_path / "run")


def test_a_killed_run_is_seen_as_killed(tmp_path: Path) -> None:
    with RunFolder.hold(tmp_path / "run") as folder:
        folder.set_status("running", step=3)
        assert (read_status(tmp_path / "run") or {})["state"] == "running"
    assert (read_status(tmp_path / "run") or {})["state"] == "killed"


def stopped_at(folder: Path, step: int, **changes: Any) -> None:
    jobs.train(jobs.config(folder, **changes), on_event=StopAt(step, signal.SIGTERM))


def test_a_changed_config_is_refused_and_the_keys_are_named(tmp_path: Path) -> None:
    stopped_at(tmp_path / "run", 5)
    before = (tmp_path / "run" / "config.yaml").read_bytes()
    with pytest.raises(RunError) as caught:
        jobs.train(jobs.config(tmp_path / "run", learning_rate=0.5, seed=6, eval_steps=3))
    assert "learning_rate was 0.01 and is 0.5; seed was 5 and is 6" in caught.value.what
    assert "eval_steps" not in caught.value.what
    assert (tmp_path / "run" / "config.yaml").read_bytes() == before
    assert (read_status(tmp_path / "run") or {})["state"] == "stopped"


def test_keys_that_change_no_weight_may_change(tmp_path: Path, plain: dict[str, str]) -> None:
    stopped_at(tmp_path / "run", 5)
    events = Recorder()
    jobs.train(jobs.config(tmp_path / "run", eval_steps=4, save_steps=3), on_event=events)
    assert not events.of(Notice)
    assert jobs.digests(tmp_path / "run") == plain


def test_a_changed_micro_batch_is_obeyed_and_it_is_said_that_the_bits_change(tmp_path: Path) -> None:
    stopped_at(tmp_path / "run", 5)
    events = Recorder()
    jobs.train(jobs.config(tmp_path / "run", tokens_per_microbatch=4096), on_event=events)
    notices = [event.text for event in events.of(Notice)]
    assert len(notices) == 1 and "tokens_per_microbatch was 24 and is 4096" in notices[0]
    last = tmp_path / "run" / "checkpoints" / "step-000018" / "engine.json"
    assert json.loads(last.read_text(encoding="utf-8"))["tokens_per_microbatch"] == 4096


def test_changed_data_is_refused(tmp_path: Path) -> None:
    stopped_at(tmp_path / "run", 5)
    with pytest.raises(RunError, match="data was 14 and is 15"):
        jobs.train(
            jobs.config(tmp_path / "run"),
            make=lambda cfg: jobs.job(cfg, items=[jobs.an_item(number) for number in range(15)]),
        )


def test_a_run_without_a_checkpoint_may_begin_anew_with_another_config(tmp_path: Path) -> None:
    with pytest.raises(Diverged):
        jobs.train(jobs.config(tmp_path / "run"), make=poisoned)
    jobs.train(jobs.config(tmp_path / "run", learning_rate=0.5, max_steps=2))
    assert "learning_rate: 0.5" in (tmp_path / "run" / "config.yaml").read_text()


def test_a_finished_run_is_not_begun_again(tmp_path: Path) -> None:
    jobs.train(jobs.config(tmp_path / "run", max_steps=2))
    with pytest.raises(RunError, match="is finished"):
        jobs.train(jobs.config(tmp_path / "run", max_steps=2))


def test_a_folder_with_other_files_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "大事.txt").write_text("mine")
    with pytest.raises(RunError, match=r"大事\.txt"):
        jobs.train(jobs.config(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["大事.txt"]


def test_a_run_that_cannot_begin_leaves_nothing_behind(tmp_path: Path) -> None:
    def fail(cfg: object) -> Any:
        raise DataError("empty.jsonl has no rows")

    with pytest.raises(DataError):
        jobs.train(jobs.config(tmp_path / "run"), make=fail)
    assert not (tmp_path / "run").exists()


def test_a_damaged_checkpoint_is_said_and_set_aside_and_the_one_before_taken(
    tmp_path: Path, plain: dict[str, str]
) -> None:
    folder = tmp_path / "run"
    stopped_at(folder, 10, save_steps=4)
    weights = folder / "checkpoints" / "step-000010" / "weights.safetensors"
    raw = bytearray(weights.read_bytes())
    raw[-3] ^= 1
    weights.write_bytes(raw)
    events = Recorder()
    jobs.train(jobs.config(folder), on_event=events)
    notice = events.of(Notice)[0].text
    assert "step-000010" in notice and "weights.safetensors" in notice and "going on from step-000008" in notice
    assert events.of(Started)[0].step == 8
    assert (folder / "checkpoints" / "damaged-step-000010").is_dir()
    assert jobs.digests(folder) == plain


def test_with_every_checkpoint_damaged_the_run_begins_anew(tmp_path: Path, plain: dict[str, str]) -> None:
    stopped_at(tmp_path / "run", 10)
    for folder in checkpoint.step_folders(tmp_path / "run" / "checkpoints"):
        (folder / "run.json").unlink()
    events = Recorder()
    jobs.train(jobs.config(tmp_path / "run"), on_event=events)
    assert events.of(Started)[0].step == 0 and len(events.of(Notice)) == 2
    assert jobs.digests(tmp_path / "run") == plain


def test_a_damaged_ledger_is_said(tmp_path: Path) -> None:
    stopped_at(tmp_path / "run", 10)
    ledger = tmp_path / "run" / "ledger.jsonl"
    ledger.write_bytes(ledger.read_bytes().replace(b'"step": 1,', b'"step": 9,'))
    events = Recorder()
    jobs.train(jobs.config(tmp_path / "run"), on_event=events)
    assert "ledger.jsonl is not what was written before" in events.of(Notice)[0].text
    assert (tmp_path / "run" / "damaged-ledger.jsonl").exists()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_full_disk_ends_the_run_with_the_last_checkpoint_whole(
    tmp_path: Path, plain: dict[str, str], code: int
) -> None:
    folder = tmp_path / "run"

    class Full(Recorder):
        """From the second checkpoint on the disk takes nothing any more."""

        def __call__(self, event: Event) -> None:
            if isinstance(event, Saved):
                faulty = FaultyOs()
                faulty.at = next_write(faulty)
                put(patch, faulty)

    def next_write(faulty: FaultyOs) -> int:
        def refuse(operation: str) -> None:
            faulty.at = faulty.count
            raise OSError(code, os.strerror(code))

        faulty.fault = refuse
        return 0

    with pytest.MonkeyPatch.context() as patch, pytest.raises(DiskError) as caught:
        jobs.train(jobs.config(folder, save_steps=4), on_event=Full())
    assert str(folder) in caught.value.what and caught.value.next_step
    assert [path.name for path in checkpoint.step_folders(folder / "checkpoints")] == ["step-000004"]
    assert not is_held(folder)
    jobs.train(jobs.config(folder, save_steps=4))
    assert jobs.digests(folder) == plain


def test_a_disk_too_small_for_a_checkpoint_is_said_before_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Engine, "bytes_to_save", lambda engine: 1 << 60)
    events = Recorder()
    with pytest.raises(DiskError, match="1,152,921,504,607"):
        jobs.train(jobs.config(tmp_path / "run"), on_event=events)
    assert not events.of(Stepped)


def poisoned(cfg: Any) -> Any:
    """The third item has a weight that is not finite."""
    items = [jobs.an_item(number) for number in range(jobs.ITEMS)]
    row = items[2].rows[0]
    items[2] = Item("毒-2", (Row(row.tokens, np.where(row.weights > 0, np.float32(np.inf), row.weights)),))
    return jobs.job(cfg, items=items)


def test_a_loss_that_is_not_finite_names_the_records_and_keeps_the_last_checkpoint(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with pytest.raises(Diverged) as caught:
        jobs.train(jobs.config(folder, save_steps=1), make=poisoned)
    assert caught.value.record_ids == ("毒-2",)
    status = read_status(folder) or {}
    assert status["state"] == "failed" and "毒-2" in status["error"]
    assert json.loads((folder / "report.json").read_text(encoding="utf-8"))["record_ids"] == ["毒-2"]
    for saved in checkpoint.step_folders(folder / "checkpoints"):
        checkpoint.verify(saved)


def test_a_skipped_step_leaves_the_loss_of_the_steps_around_it_in_the_metrics(tmp_path: Path) -> None:
    cfg = jobs.config(tmp_path / "run", on_nonfinite="skip", logging_steps=6)
    jobs.train(cfg, make=poisoned)
    seen = lines(tmp_path / "run" / "metrics.jsonl")
    assert [line["step"] for line in seen] == [6, 12, 18]
    assert sum(line["skipped"] for line in seen) > 0
    assert all(0 < line["loss"] < 20 for line in seen)


def test_a_held_out_loss_that_is_not_a_number_is_never_the_best(tmp_path: Path) -> None:
    def first_look_fails(cfg: Any) -> Any:
        made = jobs.job(cfg)
        plain_evaluate, looks = made.engine.evaluate, []

        def evaluate(items: Any, loss: Any) -> Any:
            looks.append(1)
            stats = plain_evaluate(items, loss)
            return stats | {"loss": Mean(math.nan, 1.0)} if len(looks) == 2 else stats  # the first during the training

        made.engine.evaluate = evaluate  # type: ignore[method-assign]
        return made

    jobs.train(jobs.config(tmp_path / "run", eval_steps=6), make=first_look_fails)
    looked = [line for line in lines(tmp_path / "run" / "metrics.jsonl") if "eval_mean_token_accuracy" in line]
    assert ["eval_loss" in line for line in looked] == [False, True, True]
    assert json.loads((tmp_path / "run" / "best.json").read_text())["step"] in (12, 18)


def test_a_report_is_json_that_every_program_reads_whatever_the_loss(tmp_path: Path) -> None:
    def last_look_fails(cfg: Any) -> Any:
        made = jobs.job(cfg)
        plain_evaluate = made.engine.evaluate

        def evaluate(items: Any, loss: Any) -> Any:
            stats = plain_evaluate(items, loss)
            return stats | {"loss": Mean(math.nan, 1.0)} if made.engine.updates else stats

        made.engine.evaluate = evaluate  # type: ignore[method-assign]
        return made

    def refuse(word: str) -> None:
        raise AssertionError(word)

    jobs.train(jobs.config(tmp_path / "run", max_steps=2), make=last_look_fails)
    body = json.loads((tmp_path / "run" / "report.json").read_text(encoding="utf-8"), parse_constant=refuse)
    assert body["before"]["loss"] > 0
    assert body["after"]["loss"] is None


def test_tokens_are_counted_with_prompts_and_answers_of_the_items_trained_on(tmp_path: Path) -> None:
    cfg = jobs.config(tmp_path / "run")
    stream = jobs.job(cfg).data
    result = jobs.train(cfg)
    assert result.tokens == sum(len(row) for step in range(18) for item in stream.batch(step) for row in item.rows)


def test_the_best_checkpoint_is_kept_and_pointed_to(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    result = jobs.train(
        jobs.config(
            folder,
            eval_steps=2,
            save_steps=5,
            save_total_limit=1,
            learning_rate=1.0,
            lr_scheduler_type="constant",
            max_steps=24,
        )
    )
    seen = {line["step"]: line["eval_loss"] for line in lines(folder / "metrics.jsonl") if "eval_loss" in line}
    best = min(seen, key=lambda step: seen[step])
    assert best != 24, "this test needs a run that gets worse at the end"
    pointer = json.loads((folder / "best.json").read_text())
    assert pointer == {"checkpoint": f"step-{best:06d}", "step": best, "eval_loss": seen[best]}
    assert result.best == folder / "checkpoints" / f"step-{best:06d}"
    kept = [path.name for path in checkpoint.step_folders(folder / "checkpoints")]
    assert kept == [f"step-{best:06d}", "step-000024"]


def test_on_request_the_result_holds_the_best_weights_and_else_the_last(tmp_path: Path) -> None:
    for load_best in (True, False):
        folder = tmp_path / f"best-{load_best}"
        cfg = jobs.config(
            folder,
            eval_steps=2,
            learning_rate=1.0,
            lr_scheduler_type="constant",
            max_steps=24,
            load_best_model_at_end=load_best,
        )
        result = jobs.train(cfg)
        source = result.best if load_best else folder / "checkpoints" / "step-000024"
        assert source is not None and result.after is not None
        model = (folder / "model" / "model.safetensors").read_bytes()
        assert model == (source / "weights.safetensors").read_bytes()
    assert json.loads((tmp_path / "best-True" / "best.json").read_text())["step"] != 24


def test_a_copied_run_folder_goes_on_elsewhere(tmp_path: Path, plain: dict[str, str]) -> None:
    stopped_at(tmp_path / "here", 6)
    shutil.copytree(tmp_path / "here", tmp_path / "そこ")
    jobs.train(jobs.config(tmp_path / "そこ"))
    assert jobs.digests(tmp_path / "そこ") == plain


def test_a_listener_hears_the_end_once(tmp_path: Path) -> None:
    events = Recorder()
    result = jobs.train(jobs.config(tmp_path / "run", max_steps=2), on_event=events)
    assert events.of(Ended) == [Ended(result)] and events[-1] == Ended(result)


def test_a_checkpoint_of_other_weights_is_refused(tmp_path: Path) -> None:
    stopped_at(tmp_path / "run", 5)

    def other(cfg: Any) -> Any:
        job = jobs.job(cfg)
        del job.engine.trained[next(iter(job.engine.trained))]  # type: ignore[attr-defined]
        return job

    with pytest.raises(CheckpointError, match="other weights"):
        jobs.train(jobs.config(tmp_path / "run"), make=other)
