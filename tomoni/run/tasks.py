"""From a config of classify, regress, tag or span to a Job."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from tomoni.data.labels import Survey
from tomoni.data.tasks import TaskRenderer
from tomoni.data.tokenize import load_tokenizer
from tomoni.data.words import tagger
from tomoni.errors import ConfigError, DataError, ModelError
from tomoni.hub import context_of, result_of
from tomoni.rows import Item
from tomoni.run import datasets
from tomoni.run.calibrating import Calibrating
from tomoni.run.events import Listener, Notice, Preparing, Working
from tomoni.run.folder import RunFolder
from tomoni.run.job import Job, Tokenizer
from tomoni.run.keeping import keep_features, keep_frozen
from tomoni.run.methods import method_module
from tomoni.settings.common import TrainingSettings
from tomoni.settings.tasks import TaskSettings, WholeTextSettings

if TYPE_CHECKING:
    from tomoni.engine.engine import Engine
    from tomoni.engine.taskmodels import Task
    from tomoni.hub import Located


def prepare_task(cfg: TaskSettings, folder: RunFolder, tell: Listener) -> Job:
    """Everything that can be wrong with a config's files is found here, before anything is trained."""
    from tomoni.engine import checkpoint, fewtokens, models, scoring
    from tomoni.engine.engine import Engine
    from tomoni.engine.sampler import longest_row
    from tomoni.engine.setup import pick_device
    from tomoni.engine.taskmodels import own_pooling, spec_of
    from tomoni.hub import locate

    pick_device(cfg.device)
    method = method_module(_method(cfg))
    tell(Preparing("data"))
    located = locate(result_of(cfg.model_name_or_path))
    encoder = scoring.is_encoder(located)
    _require_fit(cfg, encoder)
    if not encoder:
        models.examine(located)
    tokenizer = load_tokenizer(located.tokenizer_folder)
    cfg, capped = _within_context(cfg, located)
    survey = Survey().of(datasets.reading(cfg, cfg.train_file, on_bad_rows="quarantine"))
    render = renderer(cfg, tokenizer, survey)
    data = datasets.datasets(cfg, method, tokenizer, render, folder.root / "quarantine.jsonl")
    _require_difference(cfg, survey)
    given, cfg = cfg, cfg.with_steps(len(data.train))  # type: ignore[assignment]
    task = _task(cfg, render, encoder=encoder, own=own_pooling(located), pair=_is_pair(data.train[0]))

    tell(Preparing("model"))
    body = scoring.load_body(located, attn_implementation=cfg.attn_implementation)
    models.check_tokenizer(getattr(body, "get_base_model", lambda: body)(), tokenizer)
    context = longest_row(body)
    if context is not None and data.longest > context:
        raise DataError(
            f"the longest row has {data.longest:,} tokens, and the model has room for {context:,} (its context)",
            next_step=f"set max_length to {context} or less, and on_long_rows to truncate or drop where needed",
        )
    task = replace(task, max_length=min(cfg.max_length, context or cfg.max_length))  # what it reads when it is used
    if encoder and cfg.train == "all":  # a part or an adapter trains no embeddings, or none that matter
        fewtokens.part(body, fewtokens.tokens_of(data.train[index] for index in range(len(data.train))))
    trained = chosen_part(body, cfg)
    engine = Engine(
        trained.model,
        trained=trained.parameters,
        cfg=cfg,
        score_head=spec_of(task, times=getattr(cfg, "head_learning_rate", 1.0)),
        tokenizer=tokenizer,
    )
    whole = isinstance(cfg, WholeTextSettings)
    kept = _keep(cfg, engine, data, tell, whole=whole)
    thin = () if whole and cfg.train == "head" else datasets.too_few(cfg, len(data.train))  # a solved head is no step
    begun, _ = checkpoint.newest_whole(folder.checkpoints)
    if whole and cfg.train != "head" and cfg.head_start == "solved" and begun is None:  # type: ignore[attr-defined]
        _begin_solved(engine, data.train, cfg, tell)
    calibrated = Calibrating(engine, data, task)
    return Job(
        cfg=cfg,
        method=method,
        engine=engine,
        data=datasets.stream(data.train, cfg, given),
        items=len(data.train),
        looked_at=data.looked_at,
        looked_at_is=data.looked_at_is,
        inputs={"model": _identity(located), "data": data.key, "items": len(data.train)},
        trained_weights=sum(weight.numel() for weight in engine.trained.values()),
        result_name="model",
        result_bytes=4 * trained.total + (1 << 24),
        save_model=lambda staging: _save(engine, tokenizer, staging, task, calibrated),
        more_figures=calibrated.figures,
        device_type=engine.device.type,
        notices=(
            *capped,
            *render.notes,
            *_label_notes(cfg, render),
            *_rare_types(survey),
            *data.notices,
            *thin,
            *([kept] if kept else []),
        ),
    )


def _save(engine: Engine, tokenizer: Tokenizer, staging: Path, task: Task, calibrated: Calibrating) -> None:
    from tomoni.engine import fewtokens
    from tomoni.engine.taskmodels import save

    found = replace(task, temperature=calibrated.temperature())
    with fewtokens.joined(engine.model):
        save(engine, tokenizer, staging, found)


def renderer(cfg: TaskSettings, tokenizer: Tokenizer, survey: Survey) -> TaskRenderer:
    """With the classes, types or numbers that the training data has."""
    options: dict[str, Any] = {"max_length": cfg.max_length, "on_long_rows": cfg.on_long_rows}
    options["labelled"] = _method(cfg) in ("classify", "regress")
    match _method(cfg):
        case "classify":
            labels = survey.labels
            options["labels"] = labels
            if getattr(cfg, "class_weights", "none") == "balanced" and not labels.several and labels.counts:
                total, size = sum(labels.counts), len(labels.counts)
                options["weights"] = [total / (size * count) for count in labels.counts]
        case "regress":
            numbers = np.asarray(survey.numbers or [0.0], dtype=np.float64)
            spread = float(numbers.std())
            options |= {"mean": float(numbers.mean()), "spread": spread if spread > 0 else 1.0}
        case "tag":
            options |= {"types": sorted(survey.types), "stride": cfg.stride}  # type: ignore[attr-defined]
        case "span":
            options |= {"answerable": survey.unanswerable == 0, "stride": cfg.stride}  # type: ignore[attr-defined]
    made = TaskRenderer(tokenizer, **options)
    if _method(cfg) in ("tag", "span") and not made.encoder.places_known:
        raise ModelError(
            "the model's tokenizer does not say where its tokens stand in a text",
            next_step="take a model with a tokenizer.json, or a BertJapaneseTokenizer",
        )
    return made


def word_renderer(cfg: TrainingSettings, tokenizer: Tokenizer) -> TaskRenderer:
    """For hiding whole words. ConfigError where the tokenizer has no token to hide them behind."""
    if tokenizer.mask_token_id is None:
        raise ConfigError(
            "objective: mlm needs a tokenizer with a mask token, and this one has none",
            next_step="take an encoder (BERT and its relatives), or begin from scratch",
        )
    made = TaskRenderer(tokenizer, max_length=cfg.max_length)
    if tagger() is None:
        made.notes.append("fugashi is not installed: Japanese words are told by their script (pip install tomoni[ja])")
    return made


def chosen_part(body: Any, cfg: TaskSettings) -> Any:
    """What of the body is trained, beside the head."""
    from tomoni.engine.trained import Trained, choose

    if cfg.train != "head":
        return choose(body, cfg, seed=cfg.seed)
    for weight in body.parameters():
        weight.requires_grad_(False)
    return Trained(body, {}, adapter=False)


def _require_difference(cfg: TaskSettings, survey: Survey) -> None:
    """DataError where every record has the same answer: a model that always gives it would be measured as perfect."""
    same = need = ""
    match _method(cfg):
        case "classify" if len(survey.labels.names) == 1 and not survey.labels.several:
            same, need = f"every usable row is of the class {survey.labels.names[0]!r}", "two classes"
        case "regress" if survey.numbers and len(set(survey.numbers)) == 1:
            same, need = f"every label is {survey.numbers[0]:g}", "two numbers"
        case "tag" if not survey.types:
            same, need = "no row has a span", "one type of span"
        case "span" if survey.questions and survey.unanswerable == survey.questions:
            same = f"none of the {survey.questions:,} questions has an answer"
            need = "one answer, its text and its answer_start"
    if same:
        raise DataError(
            f"{', '.join(cfg.train_file)}: {same}: there is nothing to learn",
            next_step=f"name rows with at least {need}",
        )


def _within_context(cfg: TaskSettings, located: Located) -> tuple[TaskSettings, Sequence[str]]:
    """Where nobody has set `max_length`, no more than the model reads; and what is to be said of that."""
    window = context_of(located.model.folder)
    if "max_length" in cfg.model_fields_set or window is None or not 8 <= window < cfg.max_length:
        return cfg, ()
    told = f"max_length: {window}, as many tokens as the model reads (the default is {cfg.max_length})"
    return cfg.model_copy(update={"max_length": window}), (told,)


def _require_fit(cfg: TaskSettings, encoder: bool) -> None:
    pool = getattr(cfg, "pool", None)
    if not encoder and _method(cfg) not in ("classify", "regress"):
        raise ConfigError(
            f"{_method(cfg)} needs a model that looks at a text from both sides (BERT and its relatives)",
            next_step="take an encoder; a decoder can classify and regress",
        )
    if pool is not None and (pool == "last") == encoder:
        raise ConfigError(
            f"pool: {pool} does not go with {'an encoder' if encoder else 'a decoder'}",
            choices=("first", "mean") if encoder else ("last",),
        )


def _task(
    cfg: TaskSettings, render: TaskRenderer, *, encoder: bool, own: Literal["first", "mean"] | None, pair: bool
) -> Task:
    from tomoni.engine.taskmodels import Task

    usual: Literal["first", "mean"] = own or ("mean" if cfg.train == "head" else "first")
    pool: Any = "last" if not encoder else "first" if _method(cfg) in ("tag", "span") else None
    return Task(
        method=_method(cfg),
        encoder=encoder,
        pool=pool or getattr(cfg, "pool", None) or usual,
        max_length=cfg.max_length,
        names=render.types if render.labels is None else render.labels.names,
        several=render.labels is not None and render.labels.several,
        pair=pair,
        stride=render.stride,
        max_answer_length=getattr(cfg, "max_answer_length", 30),
        answerable=render.answerable,
        mean=render.mean,
        spread=render.spread,
    )


def _is_pair(item: Item) -> bool:
    segments = item.rows[0].segments
    return segments is not None and bool(segments.any())


def _keep(cfg: TaskSettings, engine: Engine, data: datasets.Datasets, tell: Listener, *, whole: bool) -> str | None:
    def say(text: str) -> None:
        tell(Notice(text))

    if whole and cfg.train == "head":
        return keep_features(cfg, engine, data)
    return keep_frozen(cfg, engine, data, say)


def _begin_solved(engine: Engine, train: Any, cfg: TaskSettings, tell: Listener) -> None:
    from tomoni.engine.heads import begin_head

    tell(Preparing("head"))
    begin_head(engine, train, seed=cfg.seed, told=lambda what, done, all: tell(Working(what, done, all)))


def _label_notes(cfg: TaskSettings, render: TaskRenderer) -> Sequence[str]:
    if render.labels is None:
        return [f"types of spans: {', '.join(render.types)}"] if render.types else []
    shown = ", ".join(render.labels.names[:10]) + (" …" if len(render.labels.names) > 10 else "")
    notes = render.labels.notes() if getattr(cfg, "class_weights", "none") == "none" else []
    return [f"{len(render.labels.names)} classes: {shown}", *notes, *render.labels.alike()]


def _rare_types(survey: Survey) -> Sequence[str]:
    once = sorted(name for name, count in survey.types.items() if count == 1)
    shown = ", ".join(once[:10]) + (" …" if len(once) > 10 else "")
    return [f"types with one example, of which little can be learnt and nothing measured: {shown}"] if once else []


def _identity(located: Located) -> dict[str, Any]:
    files = json.dumps([dict(located.files), dict(located.model.files)], sort_keys=True).encode()
    return {"revision": located.revision, "sha256": hashlib.sha256(files).hexdigest()}


def _method(cfg: TaskSettings) -> str:
    return str(getattr(cfg, "method", ""))
