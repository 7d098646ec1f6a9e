"""From a config to a Job: model and tokenizer, data, what is trained, the engine."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tomoni.data.render import Renderer
from tomoni.data.tokenize import fingerprint, load_tokenizer
from tomoni.errors import ConfigError, DataError, RunError
from tomoni.hub import result_of
from tomoni.records import Text
from tomoni.run import datasets
from tomoni.run.events import Listener, Notice, Preparing
from tomoni.run.folder import RunFolder
from tomoni.run.holding import (
    chosen,
    models_held,
    opened_rewards,
    pair_renderer,
    reference_engine,
    save_scorer,
    score_head,
)
from tomoni.run.job import Job, Tokenizer
from tomoni.run.keeping import keep_frozen
from tomoni.run.methods import method_module
from tomoni.run.replaying import replayed
from tomoni.run.samples import answers, samples
from tomoni.run.tasks import prepare_task, word_renderer
from tomoni.settings.common import TrainingSettings
from tomoni.settings.pretrain import Config as Pretrain
from tomoni.settings.tasks import TaskSettings

if TYPE_CHECKING:
    from tomoni.hub import Located


@dataclass(frozen=True)
class Start:
    """What a run starts from: a model that was found, or None for a new one of the config's shape."""

    located: Located | None
    tokenizer: Tokenizer
    identity: Mapping[str, Any]
    encoder: bool = False


def prepare(cfg: TrainingSettings, folder: RunFolder, tell: Listener) -> Job:
    """Everything that can be wrong with a config's files is found here, before anything is trained."""
    from tomoni.engine.engine import Engine
    from tomoni.engine.sampler import longest_row
    from tomoni.engine.setup import pick_device

    if isinstance(cfg, TaskSettings):
        return prepare_task(cfg, folder, tell)
    pick_device(cfg.device)
    method = method_module(_method_of(cfg))
    tell(Preparing("data"))
    held = models_held(cfg)
    start = _start(cfg, scores="score" in held)
    masked = isinstance(cfg, Pretrain) and cfg.objective == "mlm"
    render: Any = pair_renderer(cfg, start.tokenizer) if start.encoder else None
    render = render or (word_renderer(cfg, start.tokenizer) if masked else _renderer(cfg, start.tokenizer))
    data = datasets.datasets(cfg, method, start.tokenizer, render, folder.root / "quarantine.jsonl")
    again = replayed(cfg, start.tokenizer, render.template, folder.root / "quarantine-replay.jsonl")
    given, cfg = cfg, cfg.with_steps(len(data.train))
    if cfg.steps == 0:
        raise ConfigError("max_steps is 0", next_step="set it to the number of steps, or -1 for num_train_epochs")

    tell(Preparing("model"))
    trained = chosen(_model(cfg, start, scores="score" in held), cfg, held)
    adapter = trained.adapter and "score" not in held and not masked
    context = longest_row(trained.model)
    room = getattr(cfg, "max_completion_length", 0)
    _require_context(context, data.longest, room, again=0 if again is None else again.longest)
    another = reference_engine(cfg, start.tokenizer) if "reference" in held else None
    engine = Engine(
        trained.model,
        trained=trained.parameters,
        cfg=cfg,
        score_head=score_head(cfg, held, encoder=start.encoder),
        keep_reference="reference" in held and ("rewards" in held or not another),
        reference_engine=another,
        tokenizer=start.tokenizer,
        temperature=getattr(cfg, "temperature", 1.0),
    )
    engine.replay = None if again is None else again.replay
    replay_tokens = 0 if again is None else again.rows.tokens
    say = lambda text: tell(Notice(text))  # noqa: E731
    kept = None if "rewards" in held or masked else keep_frozen(cfg, engine, data, say, besides=replay_tokens)
    asked = []
    if isinstance(render, Renderer) and "score" not in held:
        asked = samples(data.records, render, start.tokenizer, count=cfg.sample_prompts, context=context)
    rewards, eval_rewards = opened_rewards(cfg, start.tokenizer) if "rewards" in held else (None, None)
    return Job(
        cfg=cfg,
        method=method,
        engine=engine,
        data=datasets.stream(data.train, cfg, given),
        items=len(data.train),
        looked_at=data.looked_at,
        looked_at_is=data.looked_at_is,
        inputs={"model": start.identity, "data": data.key, "items": len(data.train)}
        | ({} if again is None else {"replay": again.key, "replay_items": len(again.rows)}),
        trained_weights=trained.trainable,
        result_name="adapter" if adapter else "model",
        result_bytes=4 * (trained.trainable if adapter else trained.total) + (1 << 24),
        save_model=lambda staging: (
            save_scorer(engine, cfg, data.looked_at, start.tokenizer, staging)
            if "score" in held
            else _save(trained.model, trained.adapter and not masked, start.tokenizer, staging, masked=masked)
        ),
        prompts=[sample.shown for sample in asked],
        answer=answers(engine, start.tokenizer, render, asked) if asked and isinstance(render, Renderer) else None,
        rewards=rewards,
        eval_rewards=eval_rewards,
        device_type=engine.device.type,
        replayed=tuple if again is None else again.replay.take,
        notices=(
            *render.notes,
            *data.notices,
            *(again.notices if again else ()),
            *datasets.too_few(cfg, len(data.train)),
            *([kept] if kept else []),
        ),
    )


def _method_of(cfg: TrainingSettings) -> str:
    return str(getattr(cfg, "method", ""))


# -- model and tokenizer ---------------------------------------------------------------------------------------------


def _start(cfg: TrainingSettings, *, scores: bool) -> Start:
    from tomoni.engine import models, scoring
    from tomoni.hub import locate

    name = getattr(cfg, "model_name_or_path", None)
    if name is None:
        if not isinstance(cfg, Pretrain):
            raise ConfigError("model_name_or_path is missing", next_step="name a model to begin with")
        tokenizer = _new_tokenizer(cfg)
        return Start(None, tokenizer, {"tokenizer": fingerprint(tokenizer)})
    located = locate(result_of(name))  # also what an earlier run left in its folder
    encoder = scores and scoring.is_encoder(located)
    if not encoder and not (isinstance(cfg, Pretrain) and cfg.objective == "mlm"):
        models.examine(located)
    files = json.dumps([dict(located.files), dict(located.model.files)], sort_keys=True).encode()
    identity = {"revision": located.revision, "sha256": hashlib.sha256(files).hexdigest()}
    return Start(located, load_tokenizer(located.tokenizer_folder), identity, encoder)


def _new_tokenizer(cfg: Pretrain) -> Tokenizer:
    """The named one, or one trained on the text; kept beside the tokenised data, so that a resumed run has the same."""
    from tomoni.data.vocabulary import train_tokenizer
    from tomoni.engine import checkpoint

    if cfg.tokenizer is not None:
        return load_tokenizer(cfg.tokenizer)
    wanted = cfg.vocabulary
    kept = datasets.cache_folder("tokenizers") / datasets.text_key(cfg, f"{wanted.model_dump_json()} {cfg.objective}")
    if checkpoint.is_whole(kept):
        return load_tokenizer(kept)
    reading = datasets.reading(cfg, cfg.train_file)
    texts = (record.text for record in reading if isinstance(record, Text))
    if (first := next(texts, None)) is None:
        raise DataError(
            f"pretrain learns from plain text, and {', '.join(cfg.train_file)} has none (form: {reading.form})",
            next_step="name text files, or records with a text column; prompts with answers are for `tomoni sft`",
        )
    made = train_tokenizer(itertools.chain([first], texts), **wanted.model_dump(), framed=cfg.objective == "mlm")

    def write(staging: Path) -> None:
        made.save_pretrained(staging)

    checkpoint.commit(kept, write, bytes_needed=200 * wanted.vocab_size)
    return load_tokenizer(kept)


def _renderer(cfg: TrainingSettings, tokenizer: Tokenizer) -> Renderer:
    named = getattr(cfg, "chat_template", None)
    render = Renderer(
        tokenizer,
        template=_read_template(Path(named)) if named else None,
        loss_on=getattr(cfg, "loss_on", "assistant"),
        max_length=cfg.max_length,
        on_long_rows=cfg.on_long_rows,
    )
    tokenizer.chat_template = render.template  # saved with the model: it is part of what was learnt
    return render


def _read_template(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"chat_template: {path} cannot be read: {error}", next_step="name a Jinja file in UTF-8"
        ) from error


def _model(cfg: TrainingSettings, start: Start, *, scores: bool) -> Any:
    from tomoni.engine import masked, models, scoring, scratch

    if start.located is None:
        if not isinstance(cfg, Pretrain):
            raise RunError("only pretrain begins without a model", next_step="set model_name_or_path")
        new = masked.new_model if cfg.objective == "mlm" else scratch.new_model
        return new(cfg.shape, start.tokenizer, seed=cfg.seed, attn_implementation=cfg.attn_implementation)
    guesses = isinstance(cfg, Pretrain) and cfg.objective == "mlm"
    load: Any = masked.load if guesses else scoring.load_body if scores else models.load
    model = load(start.located, attn_implementation=cfg.attn_implementation)
    models.check_tokenizer(getattr(model, "get_base_model", lambda: model)(), start.tokenizer)
    return model


def _require_context(context: int | None, longest: int, room: int = 0, *, again: int = 0) -> None:
    """Positions that a model has never seen teach it nothing, and beyond a fixed table they are an error in the middle."""
    if context is not None and context < 2:
        raise ConfigError("num_virtual_tokens leaves no room in the model's context", next_step="set it to some dozens")
    if context is not None and room and longest + room > context:
        raise DataError(
            f"max_completion_length is {room:,} and the longest prompt has {longest:,} tokens: more than the {context:,} that "
            "the model has room for (its context)",
            next_step=f"set max_completion_length to {max(context - longest, 1)} or less"
            + ("" if longest < context // 2 else ", or max_length to less, and on_long_rows to truncate or drop"),
        )
    longest = max(longest, again)
    if context is not None and longest > context:
        raise DataError(
            f"the longest row has {longest:,} tokens, and the model has room for {context:,} (its context)",
            next_step=f"set max_length to {context} or less, and on_long_rows to truncate or drop where needed",
        )


def _save(model: Any, adapter: bool, tokenizer: Tokenizer, folder: Path, *, masked: bool) -> None:
    from tomoni.engine import masked as masking
    from tomoni.engine import saving

    if masked:
        masking.save(model, tokenizer, folder)
    elif adapter:
        saving.save_adapter(model, tokenizer, folder)
    else:
        saving.save_model(model, tokenizer, folder)
