"""One contestant of a comparison, in a process of its own, so that its memory is its own.

    python -m tomoni.evaluate.contestant JOB OUTCOME        both JSON files; see `Job` and `Outcome`

torch is imported only by what needs it, so that a classical model is not charged for it.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from tomoni.errors import UserError, counted
from tomoni.evaluate.cases import PROMPT, Case, Cases, is_right, messages_of

Kind = Literal["generates", "head", "classical"]
CLASSICAL = "tfidf"
WARM_UP = 3  # cases that are asked before anything is timed
MORE = 8  # tokens that an answer may be longer than the longest desired one
MOST_NEW_TOKENS = 512


@dataclass(frozen=True)
class Job:
    """`name` is a model, or a folder of a fitted classical model; `single` cases are asked one by one for latency.
    `fit_to`: fit the classical model on `train` and save it there, and nothing else."""

    name: str
    cases: str
    train: str | None = None
    fit_to: str | None = None
    single: int = 50
    prompt: str = PROMPT
    examples: int = 0
    max_new_tokens: int | None = None
    device: str = "auto"
    weights: str = "float32"
    threads: int | None = None


@dataclass(frozen=True)
class Outcome:
    """Seconds are wall time; `latencies` of the cases asked one by one; `seconds` and `cpu_seconds` of all together."""

    kind: Kind
    description: str
    answers: tuple[str, ...]
    latencies: tuple[float, ...]
    seconds: float
    cpu_seconds: float
    load_seconds: float
    peak_bytes: int
    disk_bytes: int
    accelerator_bytes: int = 0
    weights: int | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Opened:
    kind: Kind
    description: str
    answer: Callable[[Sequence[Case]], list[str]]
    answer_one: Callable[[Case], str]
    disk_bytes: int
    weights: int | None = None
    notes: Callable[[], tuple[str, ...]] = tuple


def measure(job: Job) -> Outcome:
    cases = Cases.load(Path(job.cases)).cases
    begin = time.perf_counter()
    opened = _open(job)
    loaded = time.perf_counter() - begin
    for case in cases[:WARM_UP]:
        opened.answer_one(case)
    latencies = [_timed(opened.answer_one, case) for case in cases[: job.single]]
    begin, cpu = time.perf_counter(), time.process_time()
    answers = opened.answer(cases)
    seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
    return Outcome(
        opened.kind, opened.description, tuple(answers), tuple(latencies), seconds, cpu, loaded,
        peak_bytes=peak_bytes(), disk_bytes=opened.disk_bytes, accelerator_bytes=_accelerator_bytes(),
        weights=opened.weights, notes=opened.notes(),
    )  # fmt: skip


def peak_bytes() -> int:
    """The most memory this process has held. Not ru_maxrss: on Linux that also remembers the parent's, from before exec."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else 1024 * peak


def folder_bytes(*folders: Path) -> int:
    """All files of the folders, links followed, each folder once."""
    files = {path.resolve() for folder in folders for path in folder.rglob("*") if path.is_file()}
    return sum(path.stat().st_size for path in files)


def _timed(answer: Callable[[Case], str], case: Case) -> float:
    begin = time.perf_counter()
    answer(case)
    return time.perf_counter() - begin


def _accelerator_bytes() -> int:
    torch: Any = sys.modules.get("torch")
    return int(torch.cuda.max_memory_allocated()) if torch is not None and torch.cuda.is_available() else 0


# -- the three kinds -------------------------------------------------------------------------------------------------


def _open(job: Job) -> Opened:
    if (Path(job.name) / "model.npz").is_file():
        return _classical(job)
    from tomoni.engine.models import quiet
    from tomoni.evaluate.predict import is_task_model

    if job.threads is not None:
        import torch

        torch.set_num_threads(job.threads)
    with quiet():
        if is_task_model(job.name):
            return _head(job)
        _require_decoder(job.name)
        return _generates(job)


def _require_decoder(name: str) -> None:
    from tomoni.engine.scoring import is_encoder
    from tomoni.errors import ModelError
    from tomoni.hub import locate, result_of

    if is_encoder(locate(result_of(name))):
        raise ModelError(
            f"{name} is an encoder that was not trained for a task: it can neither name a class nor answer a prompt",
            next_step=f"train it, and compare that run's folder: tomoni classify --model_name_or_path {name} …",
        )


def _classical(job: Job) -> Opened:
    from tomoni.evaluate.classical import load

    model = load(Path(job.name))
    what = f"nearest of {len(model.answers):,} texts" if model.answers else f"linear, {len(model.names)} classes"
    return Opened(
        "classical",
        f"TF-IDF of characters, {what}",
        lambda cases: model.answer([case.texts for case in cases]),
        lambda case: model.answer([case.texts])[0],
        folder_bytes(Path(job.name)),
        weights=int(model.weight.size),
    )


def _head(job: Job) -> Opened:
    from tomoni.errors import ModelError
    from tomoni.evaluate.predict import Asked, Predictor
    from tomoni.hub import result_of
    from tomoni.settings.sft import Config

    cfg = Config(
        model_name_or_path="-",
        train_file=("-",),
        output_dir="-",
        device=job.device,
        threads=job.threads,
        dtype="float32",
    )
    predictor = Predictor.open(job.name, cfg)
    if predictor.task.method != "classify" or predictor.task.several:
        raise ModelError(
            f"{job.name} is a model for {predictor.task.method}, and compare asks for one class or answer",
            next_step="measure it with `tomoni evaluate`",
        )

    data = Cases.load(Path(job.cases)).cases
    if any(len(case.texts) != len(predictor.needs) for case in data):
        raise ModelError(
            f"{job.name} reads {' and '.join(predictor.needs)}, and the rows have {counted(len(data[0].texts), 'text')} each",
            next_step="compare on rows of the form that the model was trained on",
        )

    def answer(cases: Sequence[Case]) -> list[str]:
        asked = (Asked(number, None, case.texts) for number, case in enumerate(cases))
        return [str(said.get("label", "")) for said in predictor.predict(asked, top=1)]  # none of unknown characters

    def notes() -> tuple[str, ...]:
        cut = predictor.render.truncated
        said = [f"{counted(cut, 'text')} cut to {predictor.task.max_length} tokens"] if cut else []
        if foreign := Counter(
            case.desired for case in data if not any(is_right(case, own) for own in predictor.task.names)
        ):
            named = ", ".join(map(repr, sorted(foreign)[:5])) + (" …" if len(foreign) > 5 else "")
            said.append(f"it never learnt {named}: {counted(foreign.total(), 'row')} it cannot get right")
        return tuple(said)

    folder = Path(result_of(job.name)).expanduser()
    body: Any = predictor.engine.model
    size = sum(weight.numel() for weight in body.parameters())
    return Opened(
        "head", f"{body.config.model_type}, {len(predictor.task.names)} classes", answer,
        lambda case: answer([case])[0], folder_bytes(folder), size, notes,
    )  # fmt: skip


def _generates(job: Job) -> Opened:
    from tomoni.engine.sampler import Sampling
    from tomoni.evaluate.sidebyside import Task, ask
    from tomoni.evaluate.subject import open_subject

    data = Cases.load(Path(job.cases))
    known = Cases.load(Path(job.train)) if job.train else None
    classes = known.classes if known and known.classes else data.classes
    examples = known.cases[: job.examples] if known else ()
    subject = open_subject(job.name, device=job.device, weights=job.weights)  # type: ignore[arg-type]
    longest = max(len(subject.renderer.encoder.plain(text)) for text in [*classes, *(c.desired for c in data.cases)])
    how = Sampling(max_new_tokens=job.max_new_tokens or min(longest + MORE, MOST_NEW_TOKENS), temperature=0.0)
    single = subject.sampler(max_batch=1)
    finishes: list[str] = []

    def task(case: Case) -> Task:
        return Task(case.id, messages_of(case, classes, job.prompt, examples), case.desired)

    def answer(cases: Sequence[Case]) -> list[str]:
        told = ask(subject, [task(case) for case in cases], how)
        finishes.extend(told.finishes)
        return list(told.texts)

    def answer_one(case: Case) -> str:
        prompt = subject.renderer.prompt(task(case).prompt)  # type: ignore[arg-type]
        return single.sample([prompt], how)[0].text if single.room(prompt) > 0 else ""

    def notes() -> tuple[str, ...]:
        too_long = finishes.count("too long")
        return (f"{too_long:,} prompts fill the context and count as wrong",) if too_long else ()

    folders = {subject.located.folder, subject.located.model.folder}
    if subject.located.base:
        folders.add(subject.located.base.folder)
    return Opened("generates", subject.description, answer, answer_one, folder_bytes(*folders), subject.weights, notes)


def main() -> int:
    job = Job(**json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    try:
        if job.fit_to is not None:
            from tomoni.evaluate.classical import fit, save

            begin = time.perf_counter()
            save(fit(Cases.load(Path(job.train or job.cases))), Path(job.fit_to))
            body: dict[str, Any] = {"fit_seconds": time.perf_counter() - begin}
        else:
            body = asdict(measure(job))
    except UserError as error:
        body = {"error": {"what": error.what, "choices": error.choices, "next_step": error.next_step}}
    Path(sys.argv[2]).write_text(json.dumps(body, ensure_ascii=False), encoding="utf-8")
    return 0


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    sys.exit(main())
