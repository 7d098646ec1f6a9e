"""The model card: README.md with the front matter that model hubs read; English, with a summary in Japanese. No torch.

It says what is known and "unknown" where nothing is. All text that comes from elsewhere (names of models and files,
values of settings) stands in code spans, so that it stays text: no link, no heading, no markup, whatever it contains.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TypeGuard

import yaml

import tomoni
from tomoni.export.facts import Facts, gather, origin
from tomoni.hub import Located
from tomoni.yamltext import Dumper

FILE: Final = "README.md"
UNKNOWN: Final = "unknown"
METHODS = (
    "pretrain",
    "sft",
    "dpo",
    "orpo",
    "simpo",
    "kto",
    "grpo",
    "rloo",
    "ppo",
    "bestofn",
)  # that make a language model
LONGEST: Final = 200  # characters of a value
PROGRAMS: Final = {"hf": "transformers", "gguf": "llama.cpp", "onnx": "onnxruntime"}
LIBRARIES: Final = {"hf": "transformers", "gguf": "gguf", "onnx": "onnx"}
SETTINGS: Final = (
    "train", "lora_r", "lora_alpha", "lora_target_modules", "batch_size", "learning_rate", "lr_scheduler_type",
    "warmup_ratio", "warmup_steps", "weight_decay", "num_train_epochs", "max_steps", "max_length", "packing", "loss_on",
    "max_grad_norm", "dtype", "device", "seed",
)  # fmt: skip
ADAPTERS: Final = ("lora", "dora", "rslora")  # what the lora_ settings are about


def write_card(
    folder: Path,
    *,
    located: Located,
    to: str,
    quantization: str,
    run: Path | None = None,
    evaluation: Path | None = None,
) -> Path:
    """Write README.md into `folder`, which holds the exported files, and parity.json where a parity test was made.

    `to` is hf, gguf or onnx; `run` the folder of the run that made the model (found from `located` where it lies in
    one); `evaluation` a file that `tomoni evaluate --json` wrote. Everything may be missing but the model.
    """
    facts = gather(folder, located, run=run, evaluation=evaluation)
    path = folder / FILE
    path.write_text(front_matter(facts, to) + "\n" + body(facts, to, quantization), encoding="utf-8")
    return path


def front_matter(facts: Facts, to: str) -> str:
    base = facts.base
    method = facts.config.get("method")
    said: dict[str, Any] = {
        "license": base.licence if base else None,
        "language": list(base.languages) if base else None,
        "library_name": LIBRARIES.get(to),
        "pipeline_tag": "text-generation",
        "base_model": base.hub if base else None,
        "tags": ["tomoni", *([method] if method in METHODS else []), to],
    }
    known = {key: value for key, value in said.items() if value}
    return f"---\n{yaml.dump(known, Dumper=Dumper, allow_unicode=True, sort_keys=False, width=1000)}---\n"


def body(facts: Facts, to: str, quantization: str) -> str:
    written = f"{datetime.now(UTC):%Y-%m-%d}, tomoni {tomoni.__version__}"
    parts = [
        f"# {code(facts.name)}",
        *_summary(facts, to, quantization),
        "## 概要",
        *_japanese(facts, to, quantization),
        "## Data",
        *_data(facts),
        "## Method",
        *_method(facts),
        "## Evaluation",
        *_evaluation(facts),
        "## Cost",
        *_cost(facts),
        "## Lineage",
        *_lineage(facts),
        "## Licence",
        *_licence(facts),
        "## Form and parity",
        *_form(facts, to, quantization),
    ]
    notes = [f"{code(name)} could not be read; what it would have told is unknown here." for name in facts.unreadable]
    return "\n\n".join([*parts, *notes, f"Written {written}."]) + "\n"


# -- the parts -------------------------------------------------------------------------------------------------------


def _summary(facts: Facts, to: str, quantization: str) -> list[str]:
    kind = f"A {code(facts.kind)} language model" if facts.kind else "A language model"
    return [f"{kind} in the form {to} ({quantization}), for {PROGRAMS.get(to, UNKNOWN)}. {_made_by(facts)}"]


def _made_by(facts: Facts) -> str:
    method = facts.config.get("method")
    if facts.run is None:
        of = f" of {code(facts.base.name)}" if facts.base else ""
        return f"It was made{of} without a run's folder, so how it was trained is unknown here."
    start = "from random weights" if facts.from_nothing else f"from {code(facts.base.name) if facts.base else UNKNOWN}"
    return f"It was made by {code(method)} {start}."


def _japanese(facts: Facts, to: str, quantization: str) -> list[str]:
    after, before = _measured(facts, "after"), _measured(facts, "before")
    base = "乱数の重み" if facts.from_nothing else code(facts.base.name) if facts.base else "不明"
    held = "取り分けたデータ" if after.get("on") == "validation" else "学習データの一部（汎化の証拠ではない）"
    name, measure = _japanese_measure(after)
    change = f"{_number(before.get(name))} から {_number(after.get(name))}（{held}）" if after else "不明"
    seconds = facts.report.get("seconds")
    passed = {True: "合格", False: "不合格"}.get(facts.parity.get("passed"), "未実施")  # type: ignore[arg-type]
    return [
        "\n".join(
            [
                f"- 元のモデル：{base}",
                f"- 学習方法：{code(facts.config['method']) if 'method' in facts.config else '不明'}",
                f"- {measure}：{change}",
                f"- 学習時間：{_time(seconds) if _is_number(seconds) else '不明'}。電力と費用：不明",
                f"- 元のモデルのライセンス：{facts.base.licence if facts.base and facts.base.licence else '不明'}",
                f"- 形式：{to}（{quantization}）。元のモデルとの一致試験：{passed}",
            ]
        )
    ]


def _japanese_measure(after: Mapping[str, Any]) -> tuple[str, str]:
    """The statistic that sums up the run, and what it is called."""
    if "reward" in after:
        return "reward", "報酬"
    return "loss", "損失（1トークンあたり、nat）" if _is_number(after.get("mean_token_accuracy")) else "損失"


def _data(facts: Facts) -> list[str]:
    if not facts.config:
        return ["Unknown: the model was not exported from a run's folder."]
    files = table(
        ("file", "use", "SHA-256 (of the file at the time of this card)"),
        ((code(file.name), file.use, code(file.sha256) if file.sha256 else UNKNOWN) for file in facts.data),
    )
    share = facts.config.get("validation_share")
    lines = [
        ("training items", _count(facts.inputs.get("items"))),
        ("items looked at before and after", _count(_measured(facts, "after").get("items"))),
        ("share held out of the training files", code(share) if share else "none"),
        ("content that was trained on (SHA-256 of files, tokenizer and settings)", code(facts.inputs.get("data"))),
    ]
    if facts.quarantined:
        lines.append(("bad rows left out", f"{facts.quarantined:,}"))
    return [files, table(("", ""), lines)]


def _method(facts: Facts) -> list[str]:
    config = facts.config
    if not config:
        return ["Unknown."]
    adapter = config.get("train") in ADAPTERS
    shown = [key for key in SETTINGS if config.get(key) is not None and (adapter or not key.startswith("lora_"))]
    rows = [("method", code(config.get("method"))), *((key, code(config[key])) for key in shown)]
    return [
        table(("setting", "value"), rows),
        f"All settings are in the run's `config.yaml`, SHA-256 {code(facts.config_sha256)}.",
    ]


def _evaluation(facts: Facts) -> list[str]:
    before, after = _measured(facts, "before"), _measured(facts, "after")
    parts = []
    if after:
        items = _count(after.get("items"))
        where = (
            f"Measured by the run on {items} held-out items."
            if after.get("on") == "validation"
            else f"Measured by the run on {items} items of its training data: this shows fit, not learning."
        )
        parts = [where, table(("", "before", "after"), _figures(facts) or _of_tokens(before, after))]
    models = facts.evaluation.get("models")
    if isinstance(models, list) and models and isinstance(models[0], Mapping):
        parts += _evaluated(facts.evaluation, models[0])
    return parts or ["Unknown."]


def _figures(facts: Facts) -> list[tuple[str, str, str]]:
    """What the run's own report shows, in its words."""
    found = facts.report.get("figures")
    lines = found if isinstance(found, list) else []
    return [
        (code(line.get("what")), code(line.get("before")), code(line.get("after")))
        for line in lines
        if isinstance(line, Mapping)
    ]


def _of_tokens(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Of a report that has no figures: it was written by an older version."""
    return [
        ("loss (nats a token)", _number(before.get("loss")), _number(after.get("loss"))),
        ("perplexity", _perplexity(before.get("loss")), _perplexity(after.get("loss"))),
        ("tokens predicted right", _share(before), _share(after)),
    ]


def _evaluated(evaluation: Mapping[str, Any], model: Mapping[str, Any]) -> list[str]:
    exact = model.get("exact_match")
    rows = [
        ("held-out records", _count(evaluation.get("records"))),
        ("loss (nats a token)", _number(model.get("loss"))),
        ("perplexity", _number(model.get("perplexity"))),
        ("tokens predicted right", _percent(model.get("mean_token_accuracy"))),
        ("greedy answers exactly right", f"{_count(model.get('right'))} of {_count(model.get('asked'))}"),
    ]
    if isinstance(exact, Mapping):
        interval = f"{_percent(exact.get('low'))} to {_percent(exact.get('high'))}"
        rows.append(("  as a share, with its 95 % interval", f"{_percent(exact.get('value'))} ({interval})"))
    return [
        f"Measured by `tomoni evaluate` as {code(model.get('name'))}, before the change of form.",
        table(("", ""), rows),
    ]


def _cost(facts: Facts) -> list[str]:
    report = facts.report
    memory = report.get("peak_memory_bytes")
    rows = [
        ("training time", _time(report.get("seconds"))),
        ("steps", _count(report.get("step"))),
        ("tokens", _count(report.get("num_tokens"))),
        ("tokens a second", _count(report.get("tokens_per_second"))),
        ("peak memory", f"{memory / 2**30:.2f} GiB" if _is_number(memory) else UNKNOWN),
        ("energy", UNKNOWN),
        ("money", UNKNOWN),
    ]
    return [table(("", ""), rows)]


def _lineage(facts: Facts) -> list[str]:
    base = facts.base
    start = "none: it began with random weights" if facts.from_nothing else code(base.name) if base else UNKNOWN
    rows = [
        ("base model", start),
        ("its revision", code(base.revision) if base else UNKNOWN),
        ("SHA-256 of its files", code(base.sha256) if base else UNKNOWN),
        ("run", code(facts.run)),
        ("begun", code(facts.status.get("start"))),
    ]
    rows += [(f"exported from {code(name)}, SHA-256", code(found)) for name, found in facts.weights.items()]
    return [table(("", ""), rows)]


def _licence(facts: Facts) -> list[str]:
    base = facts.base
    if base is None or base.licence is None:
        return ["Of the base model: unknown. Of the data: unknown. Whoever passes the model on has to find out."]
    return [
        f"Of the base model, as its own card says: {code(base.licence)}. Of the data: unknown. "
        "Whoever passes the model on has to see that the data allow it."
    ]


def _form(facts: Facts, to: str, quantization: str) -> list[str]:
    files = table(("file", "bytes"), ((code(name), f"{size:,}") for name, size in facts.files.items()))
    found = facts.parity
    if not found:
        return [f"{to}, {quantization}.", files, "Parity with the original: not tested."]
    bound = found.get("bound")
    bounds: Mapping[str, Any] = bound if isinstance(bound, Mapping) else {}
    prompts, said = _count(found.get("prompts")), found.get("prompts_are")
    rows = [
        ("passed", {True: "yes", False: "NO"}.get(found.get("passed"), UNKNOWN)),  # type: ignore[arg-type]
        ("program", code(found.get("program"))),
        ("prompts", f"{prompts} {code(origin(said)) if isinstance(said, str) and said else ''}"),
        ("template text equal", _texts(found)),
        ("tokens equal", f"{_count(found.get('tokens_equal'))} of {prompts}"),
        ("greedy answers equal", f"{_count(found.get('answers_equal'))} of {prompts}"),
        (
            "largest difference of a logprob",
            f"{_number(found.get('logprob'))} (bound {_number(bounds.get('logprob'))})",
        ),
        ("divergence, nats a token", f"{_number(found.get('divergence'))} (bound {_number(bounds.get('divergence'))})"),
    ]
    return [
        f"{to}, {quantization}.",
        files,
        "Compared with the original before it changed its form:",
        table(("", ""), rows),
    ]


def _texts(found: Mapping[str, Any]) -> str:
    out_of = found.get("texts", found.get("prompts"))
    if out_of == 0:
        return "not compared: no prompt was a conversation"
    kind = " built-in conversations" if found.get("built_in_texts") else ""
    return f"{_count(found.get('text_equal'))} of {_count(out_of)}{kind}"


def _measured(facts: Facts, when: str) -> Mapping[str, Any]:
    found = facts.report.get(when)
    return found if isinstance(found, Mapping) else {}


# -- values ----------------------------------------------------------------------------------------------------------


def code(value: Any) -> str:
    """A value as a code span that nothing in it can leave; "unknown" for None."""
    if value is None:
        return UNKNOWN
    if isinstance(value, list | tuple):
        value = ", ".join(map(str, value))
    text = visible(str(value))[:LONGEST]
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    gap = " " if text.startswith("`") or text.endswith("`") or not text.strip() else ""
    return f"{fence}{gap}{text}{gap}{fence}"


def visible(text: str) -> str:
    """On one line, without control characters and those that turn the direction of reading."""
    kept = "".join(
        " " if unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Zl", "Zp") and letter != "\u200d" else letter
        for letter in text
    )
    return " ".join(kept.split()) or " "


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = list(head)
    lines = [head, ["---"] * len(head), *map(list, rows)]
    # GitHub's tables end a cell at any bare |, also within code
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _number(value: Any) -> str:
    return f"{value:,.4g}" if _is_number(value) else UNKNOWN


def _count(value: Any) -> str:
    return f"{value:,.0f}" if _is_number(value) else UNKNOWN


def _percent(value: Any) -> str:
    return f"{value:.1%}" if _is_number(value) else UNKNOWN


def _share(measured: Mapping[str, Any]) -> str:
    return _percent(measured.get("mean_token_accuracy"))


def _perplexity(loss: Any) -> str:
    return _number(math.exp(loss)) if _is_number(loss) and loss < 700 else UNKNOWN


def _time(seconds: Any) -> str:
    """ "8.4 s", "2 min 05 s", "3 h 07 min"."""
    if not _is_number(seconds):
        return UNKNOWN
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, left = divmod(minutes, 60)
    return f"{hours} h {left:02d} min" if hours else f"{minutes} min {rest:02d} s"
