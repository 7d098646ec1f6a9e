"""A model in Hugging Face's form: an adapter merged into its base, weights in one type, tokenizer, template, end tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from tomoni.engine.saving import Dtype, bytes_needed, merge, save_model
from tomoni.engine.trained import adapter_kind
from tomoni.errors import ModelError
from tomoni.evaluate.subject import Subject
from tomoni.export.ranges import refuse_too_large

DTYPES: Final[dict[str, Dtype]] = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}


def refuse_unmergeable(subject: Subject) -> None:
    """Raises ModelError for an adapter that is no part of any weight (prompt tuning)."""
    if subject.located.base is not None and adapter_kind(subject.model) == "prompt_tuning":
        raise ModelError(
            f"{subject.name} is prompt tuning: its virtual tokens stand before the text and are no part of any weight",
            next_step="use the adapter folder as it is (tomoni chat, PEFT), or train lora, which can be merged",
        )


def merged(subject: Subject) -> Any:
    """The whole model, an adapter merged into its base. The subject's own model is used up."""
    return subject.model if subject.located.base is None else merge(subject.model, in_place=True)


def write_hf(model: Any, tokenizer: Any, template: str, folder: Path, quantization: str) -> None:
    """Write what `AutoModelForCausalLM` and `AutoTokenizer` read; weights in f32, f16 or bf16. Raises ModelError where
    f16 cannot hold a weight."""
    refuse_too_large(model.state_dict().items(), lambda name: quantization.upper())
    tokenizer.chat_template = template
    save_model(model, tokenizer, folder, dtype=DTYPES[quantization])


def hf_bytes(model: Any, quantization: str) -> int:
    return bytes_needed(model, dtype=DTYPES[quantization])
