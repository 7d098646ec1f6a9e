"""A model as one GGUF file, written through the `gguf` library; read by llama.cpp, Ollama, LM Studio and others.

    plan = plan_of(model, tokenizer, template, "q8_0")      # raises or names everything that stands in the way
    write_gguf(plan, path)

Matrices get the asked form, vectors (norms, biases) stay float32. Where a matrix's rows are no multiple of a block (32
numbers) it stays F16, as llama.cpp's own quantizer does. Under q5_1 and q4_0 the embeddings and the output matrix are
Q8_0: rounding them to 4 bits costs most and saves least.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from torch import Tensor

from tomoni.engine.saving import TOKENIZER_ROOM
from tomoni.errors import ModelError
from tomoni.export import architectures, ranges, vocabulary
from tomoni.export.vocabulary import Vocabulary

BLOCK: Final = 32  # numbers that share a scale in Q8_0, Q5_1 and Q4_0
ROOM: Final = 1 << 20  # for alignment and the numbers in the header


@dataclass(frozen=True)
class Plan:
    """What will be written. `forms` has GGUF's type of each tensor by name; `notes` is for the user."""

    model: Any
    name: str
    quantization: str
    vocabulary: Vocabulary
    template: str
    forms: dict[str, str]
    bytes: int
    notes: list[str] = field(default_factory=list)


def refuse(model: Any, tokenizer: Any, template: str | None = None) -> Vocabulary:
    """The vocabulary. Raises ModelError for what can be said without looking at a weight: a missing package, an
    architecture, a detail of it or a tokenizer that llama.cpp does not have."""
    _require_library()
    config = model.config
    architectures.architecture_of(config)
    if refused := architectures.refusals(config):
        raise ModelError(
            f"llama.cpp would not compute what this {config.model_type} computes: " + "; ".join(refused),
            next_step="export it with --to hf or --to onnx",
        )
    return vocabulary.vocabulary_of(tokenizer, config.vocab_size, template)


def largest_size(model: Any, quantization: str) -> int:
    """Upper bound in bytes of the file: a form takes at most this many bits a number, what stays F16 included."""
    bits = {"f32": 32, "f16": 16, "bf16": 16}.get(quantization, 16)
    numbers = sum(weight.numel() for weight in model.parameters())
    return numbers * bits // 8 + TOKENIZER_ROOM


def plan_of(
    model: Any, tokenizer: Any, template: str, quantization: str, *, name: str = "model", chats: bool = True
) -> Plan:
    """Look at everything that can go wrong before anything is written. Raises ModelError: an architecture or a
    tokenizer that the format cannot hold, what llama.cpp would compute otherwise, weights too large for F16.

    Without `chats` the model continues plain texts, and the file says what stands before those."""
    words = refuse(model, tokenizer, template if chats else None)
    config = model.config
    forms, kept = forms_of(model, quantization)
    ranges.refuse_too_large(architectures.tensors(model), forms.__getitem__)
    size = ROOM + sum(len(token) + 16 for token in words.tokens) * 3
    size += sum(_bytes(weight, forms[tensor]) for tensor, weight in architectures.tensors(model))
    notes = [*architectures.notes(config), *words.notes]
    if kept:
        matrices = sum(form != "F32" for form in forms.values())
        notes.append(
            f"{len(kept)} of {matrices} matrices stay F16, because their rows are no multiple of {BLOCK} numbers: "
            + ", ".join(kept[:4]) + (", …" if len(kept) > 4 else "")
        )  # fmt: skip
    return Plan(model, name, quantization, words, template, forms, size, notes)


def forms_of(model: Any, quantization: str) -> tuple[dict[str, str], list[str]]:
    """GGUF's type of each tensor by its name in the file, and the matrices that stay F16 with their shapes. Looks at
    names and shapes only, so that a model without weights will do. Raises ModelError for a weight that the format has no
    place for, and where no matrix can be given the form."""
    own = model.state_dict()
    forms = {"rope_freqs.weight": "F32"} if architectures.slows_frequencies(model.config) else {}
    kept = []
    for name, tensor in architectures.places(model).items():
        forms[tensor] = _form(tensor, own[name], quantization)
        if own[name].dim() > 1 and quantization[0] == "q" and forms[tensor] == "F16":
            kept.append(f"{tensor} {list(own[name].shape)}")
    if kept and len(kept) == sum(form != "F32" for form in forms.values()):
        raise ModelError(
            f"no matrix of this model can be {quantization}: their rows are no multiple of {BLOCK} numbers "
            f"(hidden_size {model.config.hidden_size})",
            choices=("f16", "bf16", "f32"),
            next_step="export with --quantization f16",
        )
    return forms, kept


def write_gguf(plan: Plan, path: Path) -> None:
    """Write the file; one tensor at a time is held in its new form."""
    import gguf

    layout = architectures.architecture_of(plan.model.config)
    writer = gguf.GGUFWriter(path, layout.name)
    try:
        writer.add_type("model")
        writer.add_name(plan.name)
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        writer.add_file_type(_file_type(plan.quantization))
        architectures.describe(writer, plan.model.config)
        vocabulary.write(writer, plan.vocabulary, plan.template)
        for name, weight in architectures.tensors(plan.model):
            _announce(writer, name, weight, plan.forms[name])
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for name, weight in architectures.tensors(plan.model):
            writer.write_tensor_data(gguf.quants.quantize(weight.contiguous().numpy(), _number(plan.forms[name])))
    finally:
        writer.close()


def _require_library() -> None:
    try:
        import gguf  # noqa: F401
    except ModuleNotFoundError as missing:
        raise ModelError(
            "the package gguf is missing, which writes GGUF files", next_step='pip install "tomoni[export]"'
        ) from missing


def _form(name: str, weight: Tensor, quantization: str) -> str:
    if weight.dim() < 2 or quantization == "f32":
        return "F32"
    if quantization in ("f16", "bf16"):
        return quantization.upper()
    if weight.shape[-1] % BLOCK:
        return "F16"
    return "Q8_0" if name in ("token_embd.weight", "output.weight") else quantization.upper()


def _number(form: str) -> Any:
    from gguf import GGMLQuantizationType

    return GGMLQuantizationType[form]


def _file_type(quantization: str) -> int:
    from gguf import LlamaFileType

    names = {"f32": "ALL_F32"}
    return int(LlamaFileType[names.get(quantization, f"MOSTLY_{quantization.upper()}")])


def _bytes(weight: Tensor, form: str) -> int:
    from gguf import GGML_QUANT_SIZES

    block, size = GGML_QUANT_SIZES[_number(form)]
    return weight.numel() // block * size + BLOCK


def _announce(writer: Any, name: str, weight: Tensor, form: str) -> None:
    import numpy as np
    from gguf.quants import quant_shape_to_byte_shape

    number = _number(form)
    if form in ("F32", "F16"):
        kind = np.dtype(np.float32 if form == "F32" else np.float16)
        writer.add_tensor_info(name, tuple(weight.shape), kind, weight.numel() * kind.itemsize, number)
        return
    shape = quant_shape_to_byte_shape(tuple(weight.shape), number)
    writer.add_tensor_info(name, shape, np.dtype(np.uint8), int(np.prod(shape)), number)
