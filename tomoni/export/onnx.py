"""A model as one ONNX file for onnxruntime: logits, with a cache of keys and values in and out.

Inputs and outputs (names as transformers.js and Optimum read them; N, length, past, total are free at every call):

    input_ids                          int64 [N, length]
    attention_mask                     int64 [N, total], total = past + length; 1 where a token is, 0 where padding is
    past_key_values.<layer>.key|value  float32 [N, heads, past, size]; past may be 0, for a text that begins
    logits                             float32 [N, length, V]
    present.<layer>.key|value          float32 [N, heads, total, size]: the next call's past

Positions are counted from the mask, so rows may be padded on the left or on the right; logits at padding mean nothing.
All arithmetic is float32. With int8 the weights of matrix products (linear layers and the head; not embeddings, norms
and attention's own products) are 8-bit numbers with a scale for each output channel, and what is multiplied with them
is rounded to 8 bits over the whole call: so a row's logits then depend a little on what it is computed together with.
Experts of mixtures stay float32.

Writing takes some seconds a layer, and memory of about five times the float32 weights (int8: seven times).
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tomoni.engine.models import quiet
from tomoni.engine.saving import TOKENIZER_ROOM, generation_config
from tomoni.engine.traceable import INSTEAD, Traceable, untraceable
from tomoni.errors import ModelError
from tomoni.hub import first_line
from tomoni.rows import Int32

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]
Past = list[Float32]  # key and value of the first layer, of the second, ...

FILE: Final = "model.onnx"
OPSET: Final = 20  # onnxruntime 1.17 and later
LARGEST_SINGLE_FILE: Final = 3 * 2**29  # a protobuf message ends at 2 GiB; beyond this the weights lie in FILE.data
GRAPH_ROOM: Final = 2**18  # bytes of nodes and names a layer, generously
BOUND: Final = 1e-4  # of logits right after the export, relative to the largest; measured: below 1e-6
PACKAGES: Final = ("onnx", "onnxruntime", "onnxscript")
TO_INSTALL: Final = 'pip install "tomoni[export]"'


# -- writing ---------------------------------------------------------------------------------------------------------


def refusals(model: PreTrainedModel) -> list[str]:
    """What this form cannot hold of the model, or what is missing here, each in a sentence; looked at without work."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    return [f"{name} is not installed: {TO_INSTALL}" for name in missing] + untraceable(model)


def size_on_disk(model: PreTrainedModel, int8: bool = False) -> int:
    """Upper bound in bytes of what `write_onnx` needs on the disk at its highest. int8 is made of the float32 file,
    which is gone afterwards."""
    stored = {id(weight): weight.numel() for weight in model.parameters()}
    head = model.get_output_embeddings()
    tied = head is not None and head.weight is getattr(model.get_input_embeddings(), "weight", None)
    room = TOKENIZER_ROOM + GRAPH_ROOM * (4 + model.config.get_text_config().num_hidden_layers)
    whole = 4 * sum(stored.values()) + room
    if not int8:
        return whole
    linear = {id(part.weight): part.weight.numel() for part in model.modules() if isinstance(part, nn.Linear)}
    eight_bit = whole - 3 * sum(linear.values()) + (4 * head.weight.numel() if tied else 0)
    return 2 * whole + eight_bit  # the quantizer writes the float32 graph once more, with its shapes


def write_onnx(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, *, int8: bool = False) -> Path:
    """Write FILE (and, for large models, its weights beside it), config, generation config and tokenizer into `folder`.

    The float32 graph is compared with the model on padded rows and with a cache before anything is rounded. Raises
    ModelError where the form cannot hold the model, where the exporter gives up, or where the logits differ.
    """
    if reasons := refusals(model):
        raise ModelError(
            f"ONNX cannot hold this model ({model.config.model_type}): " + "; ".join(reasons), next_step=INSTEAD
        )
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / FILE
    with _silence():
        traceable = Traceable(model, untie=int8)
        _save(_graph(traceable), path)
        _compare(traceable, OnnxReader(folder))
        if int8:
            _round_to_int8(path)
    model.config.save_pretrained(folder)
    generation_config(model, tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return path


def _graph(traceable: Traceable) -> Any:
    """The exporter's program. Two different sizes of everything in the example: a size of 1 would be taken as fixed."""
    layers = range(len(traceable.cache))
    rows, length, past, total = (torch.export.Dim(name) for name in ("batch", "length", "past", "total"))
    cached = {0: rows, 2: past}
    ins = [f"past_key_values.{layer}.{part}" for layer in layers for part in ("key", "value")]
    outs = [f"present.{layer}.{part}" for layer in layers for part in ("key", "value")]
    try:
        return torch.onnx.export(
            traceable,
            traceable.example(rows=2, past=5, length=7),
            None,
            dynamo=True,
            opset_version=OPSET,
            verbose=False,
            input_names=["input_ids", "attention_mask", *ins],
            output_names=["logits", *outs],
            dynamic_shapes=({0: rows, 1: length}, {0: rows, 1: total}, [(cached, cached) for _ in layers]),
        )
    except MemoryError:
        raise
    except Exception as problem:  # exporters raise of every kind
        kind = traceable.model.config.model_type
        raise ModelError(
            f"PyTorch's exporter cannot make an ONNX graph of this {kind} model: {_reason(problem)}", next_step=INSTEAD
        ) from problem


def _reason(problem: BaseException) -> str:
    """The first cause: the exporter wraps it in a page about itself."""
    while problem.__cause__ is not None:
        problem = problem.__cause__
    return first_line(problem) if isinstance(problem, Exception) else type(problem).__name__


def _save(program: Any, path: Path) -> None:
    """Without the exporter's notes on where in which file on this machine each node comes from."""
    graph = program.model
    for thing in (graph, graph.graph, *graph.graph.all_nodes(), *graph.functions.values()):
        thing.metadata_props.clear()
    for function in graph.functions.values():
        for node in function:
            node.metadata_props.clear()
    weights = sum(value.const_value.nbytes for value in graph.graph.initializers.values())
    program.save(str(path), external_data=weights > LARGEST_SINGLE_FILE)


def _round_to_int8(path: Path) -> None:
    """Replace the float32 file. Weights are whole numbers of -64 to 63: with all 8 bits some processors (AVX2 without
    VNNI) overflow in silence, and the same file would answer differently there."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    aside = path.parent / ".int8"
    aside.mkdir()
    quantize_dynamic(
        str(path),
        str(aside / FILE),
        op_types_to_quantize=["MatMul", "Gemm"],
        per_channel=True,
        reduce_range=True,
        weight_type=QuantType.QInt8,
        use_external_data_format=_beside(path).exists(),
    )
    _beside(path).unlink(missing_ok=True)
    for file in aside.iterdir():
        file.replace(path.with_name(file.name))
    aside.rmdir()


def _beside(path: Path) -> Path:
    """Where the weights of a large model lie; the graph names this file, so it is never renamed."""
    return path.with_name(path.name + ".data")


def _compare(traceable: Traceable, reader: OnnxReader) -> None:
    """Rows of other lengths than the traced one, padded left and right, in one call and continued from the cache."""
    vocabulary = int(traceable.model.get_input_embeddings().weight.shape[0])  # type: ignore[union-attr, operator]
    tokens_NT = np.random.default_rng(0).integers(vocabulary, size=(3, 11))
    mask_NT = np.ones_like(tokens_NT)
    mask_NT[1, :4], mask_NT[2, 8:] = 0, 0
    with torch.no_grad():
        _, _, nothing = traceable.example(rows=3, past=0, length=1)
        wanted_NTV = traceable(torch.from_numpy(tokens_NT), torch.from_numpy(mask_NT), nothing)[0].numpy()
    whole_NTV, _ = reader.step(tokens_NT, mask_NT, None)
    first_NTV, past = reader.step(tokens_NT[:, :6], mask_NT[:, :6], None)
    second_NTV, _ = reader.step(tokens_NT[:, 6:], mask_NT, past)
    bound = BOUND * max(1.0, float(np.abs(wanted_NTV).max()))
    for way, found_NTV in (
        ("in one call", whole_NTV),
        ("with the cache", np.concatenate([first_NTV, second_NTV], axis=1)),
    ):
        difference = float(np.abs(found_NTV - wanted_NTV)[mask_NT.astype(bool)].max())
        if not difference <= bound:
            raise ModelError(
                f"the ONNX graph is not the model: {way} logits differ by {difference:.3g}, more than {bound:.3g}",
                next_step=INSTEAD,
            )


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Exporter and quantizer tell their developers much that nobody here can act on."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with quiet(), warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


# -- reading ---------------------------------------------------------------------------------------------------------


class OnnxReader:
    """The model in `folder`, run by onnxruntime on the CPU. ModelError where there is none or it cannot be run."""

    def __init__(self, folder: Path, *, threads: int | None = None) -> None:
        try:
            import onnxruntime
        except ImportError as problem:
            raise ModelError("onnxruntime is not installed", next_step=TO_INSTALL) from problem
        path = folder / FILE
        if not path.is_file():
            raise ModelError(
                f"{folder} holds no {FILE}", next_step="name a folder that `tomoni export --to onnx` wrote"
            )
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads or 0  # 0: as many as there are cores
        try:
            self._session: Any = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as problem:  # its errors have no class in common
            raise ModelError(
                f"onnxruntime cannot run {path}: {first_line(problem)}", next_step="export the model again"
            ) from problem
        self._past = {
            put.name: (put.shape[1], put.shape[3])
            for put in self._session.get_inputs()
            if put.name.startswith("past_key_values.")
        }

    def logits(self, tokens: Int32) -> Float32:
        """Of one text: tokens [T] -> logits [T, V]."""
        tokens_NT = np.asarray(tokens, dtype=np.int64)[None]
        return self.step(tokens_NT, np.ones_like(tokens_NT), None)[0][0]

    def greedy(self, tokens: Int32, *, ends: tuple[int, ...], most: int) -> list[int]:
        """The likeliest continuation of tokens [T], token by token, with its end where it reaches one of `ends`."""
        tokens_NT = np.asarray(tokens, dtype=np.int64)[None]
        past: Past | None = None
        found: list[int] = []
        for total in range(tokens_NT.shape[1], tokens_NT.shape[1] + most):
            logits_NTV, past = self.step(tokens_NT, np.ones((1, total), dtype=np.int64), past)
            found.append(int(logits_NTV[0, -1].argmax()))
            if found[-1] in ends:
                break
            tokens_NT = np.array([[found[-1]]])
        return found

    def step(self, tokens_NT: Int64, mask_NS: Int64, past: Past | None) -> tuple[Float32, Past]:
        """Logits [N, T, V] and what the next call takes as `past`. The mask covers past and present; None begins."""
        if past is None:
            past = [np.zeros((len(tokens_NT), heads, 0, size), dtype=np.float32) for heads, size in self._past.values()]
        cache = dict(zip(self._past, past, strict=True))
        logits_NTV, *present = self._session.run(None, {"input_ids": tokens_NT, "attention_mask": mask_NS, **cache})
        return logits_NTV, present
