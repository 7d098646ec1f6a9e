"""From a model to a folder that another program runs: refuse early, write aside, prove, and only then give it its name.

A folder that did not pass is kept under another name (`…-failed`), with what differs, so that nobody uses it by mistake.
"""

from __future__ import annotations

import copy
import importlib.metadata
import json
import os
import platform
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from tomoni.durable import require_space
from tomoni.engine.sampler import longest_row
from tomoni.engine.saving import weights_to_be
from tomoni.errors import DataError, ModelError, counted
from tomoni.evaluate.subject import Subject
from tomoni.export import architectures, card, facts, gguf, merged, modelfile, parity
from tomoni.export.answers import Prompt, Reader
from tomoni.export.aside import Aside, failed, refuse_output, sweep
from tomoni.export.llamacpp import LlamaCpp, require_llamacpp
from tomoni.export.prompts import built_in
from tomoni.export.ranges import LARGEST, refuse_too_large
from tomoni.export.readers import OnnxRuntime, Plain, Tomoni, written
from tomoni.hub import first_line
from tomoni.records import Message

LONGEST_CONTEXT: Final = 4096  # that llama.cpp makes room for while it is asked
SMALL: Final = 200_000_000  # weights up to which one thread is enough
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Order:
    """What is wanted. `prompts_are` says in words where the prompts come from."""

    to: str
    quantization: str
    output: Path
    prompts: tuple[Prompt, ...]
    prompts_are: str


@dataclass(frozen=True)
class Outcome:
    """`folder` is the output, or the one beside it that is named as failed."""

    folder: Path
    parity: parity.Parity
    notes: tuple[str, ...]
    bytes: int


def export(subject: Subject, order: Order, say: Say = lambda text: None) -> Outcome:
    """Raises UserErrors for all that can be told before work starts: what the form cannot hold, a missing package, no
    room on the disk, an output that exists."""
    sweep(order.output.parent)
    refuse(subject, order)
    with Aside(order.output) as aside:
        original = Tomoni(subject)
        known, notes = _known(subject, original, order, say)
        spoken = _spoken(original, known)
        chats = bool(subject.tokenizer.chat_template)
        model = merged.merged(subject)
        say(f"writing {order.to} {order.quantization}")
        notes += _write(subject, model, order, aside.files, chats)
        say("asking the exported model the same")
        with ExitStack() as opened:
            found = parity.compare(
                known,
                _reader(opened, aside.files, order, _context(subject, order), subject),
                (order.to, order.quantization),
                ends=_ends(subject),
                shown=lambda ids: str(subject.tokenizer.decode(ids.tolist())),
                spoken=spoken,
            )
        return _finish(aside, order, subject, found, notes)


def _known(subject: Subject, original: Tomoni, order: Order, say: Say) -> tuple[list[parity.Known], list[str]]:
    """What the model makes of the prompts that can be compared, and what a user should know about the others. Raises
    DataError where none can."""
    say(f"asking the model {len(order.prompts)} prompts ({order.prompts_are})")
    context = _context(subject, order)
    asked, notes = _askable(subject, order)
    known = parity.answers_of(original, asked, context=context)
    if not known:
        raise DataError(
            f"none of the {counted(len(order.prompts), 'prompt')} ({order.prompts_are}) can be compared: "
            + ("; ".join(notes) or f"each is too long for the context of {context} tokens"),
            next_step="name shorter ones with --prompts FILE",
        )
    if dropped := len(asked) - len(known):
        notes.append(f"{counted(dropped, 'prompt')} too long for the context of {context} tokens, not compared")
    return known, notes


def _spoken(original: Tomoni, known: Sequence[parity.Known]) -> list[tuple[Prompt, str]]:
    """Where all prompts are plain texts: conversations as the model's template writes them. A template comes with every
    export, and plain texts say nothing about it."""
    if any(one.prompt.text is None for one in known):
        return []
    found = []
    for prompt in built_in(chats=True):
        with suppress(Exception):  # templates say no (to a system message) by raising what they like
            found.append((prompt, original.text(prompt)))
    return found


def refuse(subject: Subject, order: Order) -> None:
    """Everything that can be said before work starts."""
    above = refuse_output(order.output)
    merged.refuse_unmergeable(subject)
    empty = without_weights(_base(subject))
    match order.to:
        case "gguf":
            require_llamacpp()
            own = subject.renderer.template if subject.tokenizer.chat_template else None
            gguf.refuse(_base(subject), subject.tokenizer, own)
            forms, _ = gguf.forms_of(empty, order.quantization)
            places = architectures.places(empty)
            if LARGEST.keys() & forms.values():
                refuse_too_large(
                    ((places[name], weight) for name, weight in weights_to_be(subject.model, places)), forms.__getitem__
                )
        case "onnx":
            from tomoni.export import onnx

            if reasons := onnx.refusals(empty):
                raise ModelError(
                    "ONNX cannot hold this model: " + "; ".join(reasons),
                    next_step="export it with --to hf or --to gguf",
                )
        case _ if order.quantization == "f16":
            refuse_too_large(weights_to_be(subject.model, empty.state_dict()), lambda name: "F16")
    require_space(above, _bytes(subject, order))


def _base(subject: Subject) -> Any:
    """The model without an adapter around it."""
    return subject.model if subject.located.base is None else subject.model.get_base_model()


def _context(subject: Subject, order: Order) -> int:
    """Tokens of a prompt and its answer that both programs can hold and that are worth the memory."""
    own = longest_row(subject.model) or LONGEST_CONTEXT
    held = architectures.context_of(_base(subject).config) if order.to == "gguf" else own
    return min(own, held, LONGEST_CONTEXT)


def _texts(prompt: Prompt) -> list[str]:
    return [turn.content for turn in prompt.messages] + ([prompt.text] if prompt.text else [])


def _askable(subject: Subject, order: Order) -> tuple[list[Prompt], list[str]]:
    """Prompts that mean the same everywhere. One that spells a control token is plain text in tomoni and is a control
    token to every other program that tokenises a template's text."""
    pattern = subject.renderer.encoder.pattern
    kept = [
        prompt for prompt in order.prompts if not (pattern and any(pattern.search(text) for text in _texts(prompt)))
    ]
    left = len(order.prompts) - len(kept)
    said = "a control token spelt out in a prompt is read as one by other programs, as text by tomoni"
    return kept, [f"{counted(left, 'prompt')} not compared: {said}"] if left else []


def without_weights(model: Any) -> Any:
    """The same architecture with nothing in it: no weights, no adapter's layers."""
    with torch.device("meta"):
        return type(model)(copy.deepcopy(model.config))


def _bytes(subject: Subject, order: Order) -> int:
    model = _base(subject)
    match order.to:
        case "hf":
            return merged.hf_bytes(model, order.quantization)
        case "gguf":
            return gguf.largest_size(model, order.quantization)
        case _:
            from tomoni.export import onnx

            return onnx.size_on_disk(model, order.quantization == "int8")


def _write(subject: Subject, model: Any, order: Order, work: Path, chats: bool) -> list[str]:
    """Fill the folder; what a user should know about it."""
    template = subject.renderer.template
    subject.tokenizer.chat_template = template
    match order.to:
        case "hf":
            merged.write_hf(model, subject.tokenizer, template, work, order.quantization)
            return []
        case "onnx":
            from tomoni.export import onnx

            onnx.write_onnx(model, subject.tokenizer, work, int8=order.quantization == "int8")
            return []
        case _:
            plan = gguf.plan_of(
                model, subject.tokenizer, template, order.quantization, name=_title(subject), chats=chats
            )
            path = work / gguf_name(order)
            gguf.write_gguf(plan, path)
            return [*plan.notes, *_write_modelfile(subject, model, path, plan)]


def gguf_name(order: Order) -> str:
    return f"model-{order.quantization}.gguf"


def _title(subject: Subject) -> str:
    return Path(subject.name).name or subject.name


def _write_modelfile(subject: Subject, model: Any, path: Path, plan: gguf.Plan) -> list[str]:
    """Beside the GGUF file; a note where its template is none that Ollama can hold."""

    def render(turns: Sequence[modelfile.Turn], asks: bool) -> str:
        return str(
            subject.tokenizer.apply_chat_template(
                list(turns), tokenize=False, add_generation_prompt=asks, chat_template=subject.renderer.template
            )
        )

    own = model.generation_config
    drawn = bool(getattr(own, "do_sample", False))
    parameters = {
        "num_ctx": min(longest_row(model) or LONGEST_CONTEXT, LONGEST_CONTEXT),
        "temperature": float(own.temperature or 1.0) if drawn else 0,
        "repeat_penalty": 1.0,
    }
    bos = subject.tokenizer.bos_token if plan.vocabulary.adds_bos else ""
    stops = [str(subject.tokenizer.convert_ids_to_tokens(token)) for token in subject.stop_tokens]
    try:
        made = modelfile.modelfile(path.name, render, stops=stops, parameters=parameters, bos=bos or "")
    except ModelError as refused:
        return [f"no Modelfile for Ollama was written: {refused.what}"]
    (path.parent / "Modelfile").write_text(made.text, encoding="utf-8")
    return [f"Modelfile: {note}" for note in made.notes]


def _reader(opened: ExitStack, work: Path, order: Order, context: int, subject: Subject) -> Reader:
    match order.to:
        case "hf":
            return Plain(work)
        case "onnx":
            return OnnxRuntime(work)
        case _:
            threads = 1 if subject.weights < SMALL else os.cpu_count() or 1
            bos = _bos(subject)
            exact = order.quantization == "f32"
            path = work / gguf_name(order)
            return opened.enter_context(LlamaCpp(path, context=context, threads=threads, exact=exact, bos=bos))


def _bos(subject: Subject) -> str:
    """The begin-of-text token's text where a chat begins with it."""
    bos = subject.tokenizer.bos_token
    text = written(subject.tokenizer, subject.renderer.template, Prompt("", (Message("user", "?"),)))
    return str(bos) if bos and text.startswith(bos) else ""


def _ends(subject: Subject) -> dict[int, str]:
    return {token: str(subject.tokenizer.convert_ids_to_tokens(token)) for token in subject.stop_tokens}


def _finish(aside: Aside, order: Order, subject: Subject, found: parity.Parity, notes: Sequence[str]) -> Outcome:
    files, wanted = aside.files, order.output if found.passed else failed(order.output)
    told_of = [*notes]
    _write_report(files, order, subject, found, told_of)
    if missing := _write_card(files, order, subject):
        told_of.append(missing)
        _write_report(files, order, subject, found, told_of)
    if not found.passed:
        (files / "WHAT-DIFFERS.md").write_text(told(found), encoding="utf-8")
    size = sum(path.stat().st_size for path in files.rglob("*") if path.is_file())
    folder = aside.put_in_place(wanted)
    if folder != wanted:
        told_of.append(f"something came to stand at {wanted} meanwhile: this is {folder}")
    return Outcome(folder, found, tuple(told_of), size)


def _write_report(folder: Path, order: Order, subject: Subject, found: parity.Parity, notes: Sequence[str]) -> None:
    compared = found.as_json()
    if found.passed:  # made to be given away: without the prompts, which may be private, and the names of folders here
        compared["differences"] = [
            {key: value for key, value in one.items() if key not in ("prompt", "before", "after")}
            for one in compared["differences"]
        ]
    report = {
        **compared,
        "model": facts.short(subject.name) if found.passed else subject.name,
        "prompts_are": facts.origin(order.prompts_are) if found.passed else order.prompts_are,
        "notes": list(notes),
        "versions": versions(),
    }
    text = json.dumps(report, indent=1, ensure_ascii=False) + "\n"
    (folder / "parity.json").write_bytes(text.encode("utf-8", "backslashreplace"))  # a file's name may be no text


def _write_card(folder: Path, order: Order, subject: Subject) -> str:
    """What is said where there is no card. It is made of whatever a run's files hold; the model is whole without it."""
    try:
        card.write_card(folder, located=subject.located, to=order.to, quantization=order.quantization)
    except Exception as problem:
        (folder / card.FILE).unlink(missing_ok=True)
        return f"the model card (README.md) could not be written, all else was: {first_line(problem)}"
    return ""


def versions() -> dict[str, str]:
    """Of what had a part in it."""
    found = {"python": platform.python_version()}
    for package in ("tomoni", "torch", "transformers", "gguf", "xllamacpp", "onnx", "onnxruntime"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def told(found: parity.Parity) -> str:
    """What differs, for people to read."""
    lines = [f"# What differs: {found.form} in {found.program}", ""]
    lines += [f"- {problem}" for problem in found.problems]
    for one in found.differences:
        margin = "" if one.margin is None else f", margin {one.margin:g}"
        lines += [
            "",
            f"## {one.kind}{margin}{', within the bound' if one.passed else ''}",
            "",
            f"prompt: {one.prompt!r}",
        ]
        lines += [f"before: {one.before!r}", f"after:  {one.after!r}"]
    return "\n".join(lines) + "\n"
