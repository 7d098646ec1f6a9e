"""What is measured: each workload's sides, pairs and files. The goals are ratios on one machine in one run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import work
from bench.shapes import SHAPES
from bench.turns import Pair, Side

ADAMW = {
    "learning_rate": 1e-3,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 3,
    "weight_decay": 0.0,
    "max_grad_norm": 1.0,
    "seed": 0,
}
BATCH = 8
EQUAL_STEPS = 100


@dataclass(frozen=True)
class Size:
    """How much of a workload is run: `steps` are timed, equality is held over `equal_steps`."""

    steps: int = 40
    equal_steps: int = EQUAL_STEPS
    prompts: int = 64
    questions: int = 480
    repeats: int = 5


@dataclass(frozen=True)
class Workload:
    """`write` puts the work's files into a folder; `prepare` names jobs of `bench.prepare`; `longer` are the sides once
    more, over the steps that equality is held over. `tried` are other settings of the peers, run once."""

    name: str
    title: str
    about: str
    sides: tuple[Side, ...]
    pairs: tuple[Pair, ...]
    shape: str = ""
    train: str = ""
    write: Callable[[Path], None] = lambda folder: None
    prepare: tuple[Mapping[str, Any], ...] = ()
    longer: tuple[Side, ...] = ()
    tried: tuple[Side, ...] = ()
    works: Mapping[str, str] = field(default_factory=dict)  # a side's name: its file of rows
    kept_from: int | None = None  # the step from which frozen layers need not run again


def workloads(folder: Path, size: Size) -> dict[str, Workload]:
    """All of them, with their files in `folder`."""
    from bench.preferences import preferences

    made = [
        sft(folder, size, "8M", "lora", goals=(8.0, 3.0)),
        sft(folder, size, "30M", "lora", goals=(8.0, 3.0)),
        sft(folder, size, "8M", "all", goals=(None, 2.0)),
        sft(folder, size, "30M", "all", goals=(None, 2.0)),
        top(folder, size),
        sampling(folder, size, "8M"),
        sampling(folder, size, "30M"),
        alone(folder, size),
        *preferences(folder, size).values(),
        command(folder, size),
        start(),
    ]
    return {workload.name: workload for workload in made}


# -- training --------------------------------------------------------------------------------------------------------


def _job(folder: Path, shape: str, train: str, file: str) -> dict[str, Any]:
    shared = {"train": train, "batch_size": BATCH, **ADAMW}
    if train == "lora":
        shared |= {"lora_r": 16, "lora_alpha": 32}
    job = {
        "model": str(folder / shape),
        "shape": dataclasses.asdict(SHAPES[shape]),
        "work": str(folder / file),
        "shared": shared,
        "trainer": "trl",
    }
    return job | ({"adapter": str(folder / f"{shape}-lora")} if train == "lora" else {})


def _rows(path: Path, shape: str, *, steps: int, grouped: bool, epochs: int = 1) -> None:
    work.instructions(
        items=steps * BATCH, vocabulary=SHAPES[shape].vocabulary, batch_size=BATCH, grouped=grouped, epochs=epochs
    ).save(path)


# glibc keeps what is freed instead of giving it back to the system and faulting it in again at every step
KEEPING_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": str(2**32),
    "MALLOC_TRIM_THRESHOLD_": str(2**32),
    "MALLOC_TOP_PAD_": str(2**26),
}
KEPT = "TRL, grouped, glibc keeps memory"  # the best that was found for TRL, see TRIED
# settings of TRL's, each beside the grouped order: what its documentation advises, and what might be faster here
TRIED: Mapping[str, Mapping[str, Any]] = {
    "grouped, torch_compile": {"theirs": {"torch_compile": True}},
    "grouped, padding_free": {"theirs": {"padding_free": True, "max_length": None}},
    "packing (bfd) into rows of 1,024 tokens, one a step": {
        "theirs": {"packing": True, "max_steps": -1, "num_train_epochs": 1, "per_device_train_batch_size": 1}
    },
    "grouped, eager attention": {"attention": "eager"},
    "grouped, 2 dataloader workers": {"theirs": {"dataloader_num_workers": 2, "dataloader_persistent_workers": True}},
    "grouped, bf16 (TRL's own default; other arithmetic)": {"theirs": {"bf16": True}},
    "grouped, gradient_checkpointing (TRL's own default)": {"theirs": {"gradient_checkpointing": True}},
    "grouped, optim adamw_torch (not fused)": {"theirs": {"optim": "adamw_torch"}},
}


def _tried(side: Side, label: str, how: Mapping[str, Any]) -> Side:
    job = {name: value for name, value in how.items() if name != "environment"}
    return dataclasses.replace(
        side, name=f"TRL, {label}", job={**side.job, **job}, environment=how.get("environment", {})
    )


def sft(folder: Path, size: Size, shape: str, train: str, *, goals: tuple[float | None, float]) -> Workload:
    name = f"sft-{'lora' if train == 'lora' else 'full'}-{shape.lower()}"
    files = {order: f"{name}-{order}.npz" for order in ("shuffled", "grouped", "equal")}

    def write(place: Path) -> None:
        _rows(place / files["shuffled"], shape, steps=size.steps, grouped=False)
        _rows(place / files["grouped"], shape, steps=size.steps, grouped=True)
        _rows(place / files["equal"], shape, steps=size.equal_steps, grouped=True)

    def side(who: str, order: str, **more: Any) -> Side:
        ours = who == "tomoni"
        job = _job(folder, shape, train, files[order]) | more
        return Side(f"{who}, {order}", ours, "ours_train" if ours else "peer_train", job)

    tried = tuple(_tried(side("TRL", "grouped"), label, how) for label, how in TRIED.items())
    what = "LoRA (rank 16, all linear layers)" if train == "lora" else "all weights"
    return Workload(
        name=name,
        title=f"Instruction tuning, {what}, {shape}",
        about=(
            f"{size.steps} steps of {BATCH} rows with lengths of real instruction data (up to 1,024 tokens), loss on "
            "completions, float32, fused AdamW, dropout 0. Shuffled: TRL as a careful user sets it up (no gradient "
            "checkpointing, float32). Grouped: the order of `group_by_length`; both sides get the same batches in either "
            "order. TRL's best is that with an allocator that gives no memory back, as PyTorch's tuning guide advises. "
            "Time includes whatever is compiled."
        ),
        sides=(
            *(side(who, order) for order in ("shuffled", "grouped") for who in ("tomoni", "TRL")),
            dataclasses.replace(side("TRL", "grouped"), name=KEPT, environment=KEEPING_MEMORY),
        ),
        pairs=(
            Pair("tomoni, shuffled", "TRL, shuffled", goals[0], 0.5, "losses"),
            Pair("tomoni, grouped", "TRL, grouped", goals[1], 0.5, "losses"),
            Pair("tomoni, grouped", KEPT, goals[1], None, "losses"),
            Pair("tomoni, shuffled", KEPT, None, None, ""),
        ),
        shape=shape,
        train=train,
        write=write,
        prepare=(_job(folder, shape, train, files["grouped"]),),
        longer=(side("tomoni", "equal"), side("TRL", "equal")) if size.equal_steps > size.steps else (),
        tried=tried,
        works={
            **{f"{who}, {order}": files[order] for who in ("tomoni", "TRL") for order in ("shuffled", "grouped")},
            KEPT: files["grouped"],
        },
    )


def top(folder: Path, size: Size, *, shape: str = "30M", layers: int = 2, epochs: int = 4) -> Workload:
    """Only the top layers: what lies below is the same in every epoch."""
    name = f"sft-top{layers}-{shape.lower()}"
    file = f"{name}.npz"
    steps = max(1, size.steps // 2)
    part = f"top:{layers}"

    def write(place: Path) -> None:
        _rows(place / file, shape, steps=steps, grouped=True, epochs=epochs)

    def side(who: str, trainer: str = "trl", train: str = part) -> Side:
        ours = who.startswith("tomoni")
        job = _job(folder, shape, train, file) | {"trainer": trainer}
        return Side(who, ours, "ours_train" if ours else "peer_train", job)

    return Workload(
        name=name,
        title=f"Only the top {layers} of 12 layers, {epochs} epochs, {shape}",
        about=(
            f"{epochs} epochs of {steps} steps of {BATCH} rows, grouped by length on every side; otherwise as above. "
            "Our time includes the first pass through the frozen layers and the writing of what is kept."
        ),
        sides=(
            side("tomoni, top"),
            side("transformers Trainer, top", "transformers"),
            side("TRL, top"),
            side("transformers Trainer, all", "transformers", "all"),
            side("tomoni, all", train="all"),
        ),
        pairs=(
            Pair("tomoni, top", "transformers Trainer, top", 2.0, None, "losses"),
            Pair("tomoni, top", "TRL, top", 2.0, None, "losses"),
            Pair("tomoni, top", "transformers Trainer, all", 4.5, None, ""),
            Pair("tomoni, top", "tomoni, all", None, None, ""),
        ),
        shape=shape,
        train=part,
        write=write,
        prepare=(_job(folder, shape, part, file),),
        works={who: file for who in ("tomoni, top", "transformers Trainer, top", "TRL, top")},
        kept_from=steps,
    )


# -- sampling --------------------------------------------------------------------------------------------------------


def _sampled(folder: Path, shape: str, file: str, **more: Any) -> dict[str, Any]:
    model = {"model": str(folder / f"{shape}-lively"), "shape": dataclasses.asdict(SHAPES[shape]), "lively": True}
    return {**model, "work": str(folder / file), **more}


def sampling(folder: Path, size: Size, shape: str) -> Workload:
    name = f"sampling-{shape.lower()}"
    file = f"{name}.npz"

    def write(place: Path) -> None:
        drawn = work.prompts(count=size.prompts, vocabulary=SHAPES[shape].vocabulary, prompt=(16, 128), answer=(8, 256))
        drawn.save(place / file)

    def peer(label: str, **theirs: Any) -> Side:
        return Side(label, False, "peer_sample", _sampled(folder, shape, file, theirs=theirs))

    batches = {f"generate, batches of {count}": count for count in (8, 16, 32)}
    return Workload(
        name=name,
        title=f"Sampling, mixed lengths, {shape}",
        about=(
            f"{size.prompts} prompts of 16 to 128 tokens, answers that end after 8 to 256 tokens, greedy, float32. "
            "`generate` gets the prompts in order of length; a stopping criterion ends its rows where ours end."
        ),
        sides=(
            Side("tomoni", True, "ours_sample", _sampled(folder, shape, file)),
            *(peer(label, batch_size=count) for label, count in batches.items()),
        ),
        pairs=tuple(Pair("tomoni", label, 2.0, None, "answers") for label in batches),
        shape=shape,
        write=write,
        prepare=(_sampled(folder, shape, file),),
        tried=(peer("continuous batching of transformers", continuous=True),),
    )


def alone(folder: Path, size: Size, *, shape: str = "135M") -> Workload:
    name = f"sampling-one-{shape.lower()}"
    file = f"{name}.npz"

    def write(place: Path) -> None:
        drawn = work.prompts(count=1, vocabulary=SHAPES[shape].vocabulary, prompt=(64, 64), answer=(128, 128))
        drawn.save(place / file)

    return Workload(
        name=name,
        title=f"Sampling, one answer at a time, {shape}",
        about="One prompt of 64 tokens, 128 tokens of answer, greedy. int8 is of the weights; its answers may differ.",
        sides=(
            Side("tomoni", True, "ours_sample", _sampled(folder, shape, file)),
            Side("tomoni, int8", True, "ours_sample", _sampled(folder, shape, file, ours={"weights": "int8"})),
            Side("generate", False, "peer_sample", _sampled(folder, shape, file, theirs={"batch_size": 1})),
        ),
        pairs=(Pair("tomoni", "generate", None, None, "answers"), Pair("tomoni, int8", "generate", 2.0, None, "")),
        shape=shape,
        write=write,
        prepare=(_sampled(folder, shape, file),),
    )


# -- whole commands --------------------------------------------------------------------------------------------------


def command(folder: Path, size: Size) -> Workload:
    """What a user waits for: `tomoni sft` beside a script with TRL, from text files to a saved adapter."""
    job = {"folder": str(folder / "command"), "questions": size.questions, "shared": {"batch_size": 16, **ADAMW}}
    return Workload(
        name="command-sft",
        title="The whole command: from a text file to a saved model",
        about=(
            f"LoRA on `bundled:small`, {size.questions} questions and answers, one epoch, batch 16, the same order. "
            "Seconds of the whole process: imports, reading, tokenising, training, saving. Ours also measures the loss "
            "before and after, and writes a resumable run folder; the peer's script does neither."
        ),
        sides=(
            Side("tomoni sft", True, "ours_command", job),
            Side("TRL script", False, "peer_command", job),
        ),
        pairs=(Pair("tomoni sft", "TRL script", None, None, "losses"),),
        prepare=(job,),
    )


def start() -> Workload:
    return Workload(
        name="start",
        title="Start",
        about="Seconds until the help text has been printed. A bare interpreter is the floor.",
        sides=(
            Side("tomoni --help", True, command=("{python}", "-m", "tomoni", "--help")),
            Side("trl --help", False, command=("{bin}/trl", "--help")),
            Side("python -c pass", True, command=("{python}", "-c", "pass")),
        ),
        pairs=(Pair("tomoni --help", "trl --help", None, None, ""),),
    )
