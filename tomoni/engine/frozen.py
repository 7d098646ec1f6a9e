"""Frozen layers run once a row: where nothing is trained up to some layer, that layer's input is a function of the
row's tokens alone, and is kept.

    cut = lowest_trained(forward, trained)     how many of the lowest layers are frozen, with all before them
    below = Below(forward, cut, …)             None of its work is seen: `below.fill(batch)` gives tiles their `entering`

A row's states must not depend on which rows it stood beside, on what was looked at, or on who filled the store:
otherwise a run that is watched, or resumed, would differ from one that is not in the last bits. So on a CPU rows are
computed side by side where `flatencoder` can do that without a bit of one depending on another, else each alone; with one
core, and as many at once as there are cores, where `flat` or `flatencoder` can. On an accelerator, where no such promise
is made, a rectangle is computed at once.

Frozen layers run without dropout, kept or not, and so does what comes before them.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
import transformers
from torch import Tensor, nn

from tomoni.engine.batch import Entering, MicroBatch, Tile, collate, micro_batches
from tomoni.engine.encoderparts import LONGEST
from tomoni.engine.forward import PROBE, Forward, decoder_layers, in_eval_mode, same, trial_tile
from tomoni.engine.kept import KeptOutputs
from tomoni.engine.kernels import library
from tomoni.engine.lanes import deal, side_by_side
from tomoni.engine.products import made_by
from tomoni.rows import Item, Row

FORMAT = 4  # of what is kept: raise it whenever the same row gives other states
# tokens of a group: a panel of weights is read once for all of them, and their states stay in the cache
TOGETHER = 1024
LARGEST_HALF = 65504.0
UNTOLD = ("_name_or_path", "transformers_version", "use_cache")  # of the config: no matter for a row's states


def lowest_trained(forward: Forward, trained: Sequence[nn.Parameter]) -> int:
    """How many of the lowest layers are frozen, and all that comes before them (embeddings, adapters, norms).

    That nothing trained reaches their output is not read off names but asked of autograd, by one trial.
    """
    if forward.virtual_tokens:
        return 0
    try:
        layers = decoder_layers(forward.model)
    except ValueError:
        return 0
    weights = {id(weight) for weight in trained}
    cut = 0
    for layer in layers:
        if any(id(weight) in weights or weight.requires_grad for weight in layer.parameters()):
            break
        cut += 1
    if cut == 0:
        return 0
    try:
        with torch.enable_grad(), in_eval_mode(forward.model):
            reached = forward.lowest(cut, _trial_tile(forward, [PROBE])).states_NTD.requires_grad
    except (AttributeError, TypeError, RuntimeError, IndexError, KeyError):
        return 0
    return 0 if reached else cut


class TrainingMode:
    """Called before a step: the model's modules may draw again. Layers without trained weights run without dropout; so
    does what comes before them, where nothing of it is trained."""

    def __init__(self, model: nn.Module, cut: int) -> None:
        self._model, self._cut = model, cut
        self._drawing: list[nn.Module] | None = None  # found once: the walk takes as long as a small step

    def __call__(self) -> None:
        if self._drawing is None:
            self._model.train()
            _without_draws(self._model, self._cut)
            self._drawing = [module for module in self._model.modules() if module.training]
        for module in self._drawing:
            module.training = True


def _without_draws(model: nn.Module, cut: int) -> None:
    layers = decoder_layers(model)
    for layer in layers:
        if not any(weight.requires_grad for weight in layer.parameters()):
            layer.eval()
    if cut == 0:
        return
    for parent in _around(model, layers):
        parent.training = False  # some draw in their own code, between embeddings and the first layer
        for child in parent.children():
            if child is layers or _holds(child, layers):
                break
            child.eval()


def _around(model: nn.Module, layers: nn.ModuleList) -> Iterator[nn.Module]:
    """The modules that hold the list of layers, outermost first."""
    return (module for module in model.modules() if module is not layers and _holds(module, layers))


def _holds(module: nn.Module, layers: nn.ModuleList) -> bool:
    return any(inner is layers for inner in module.modules())


class Below:
    """Gives tiles what enters the first layer that is not frozen: from the store, or computed (and put there).

    `works` says whether a trial gave what the whole model gives; where not, the whole model runs as ever.
    """

    def __init__(
        self,
        forward: Forward,
        cut: int,
        *,
        autocast: bool = False,
        half: bool = False,
        kept: KeptOutputs | None = None,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.forward = forward
        self.cut = cut
        self.half = half
        self.kept = kept
        self._say = say
        self._autocast = autocast
        self._device = next(forward.model.parameters()).device
        self.together = self._device.type != "cpu"  # rows of a rectangle; alone they would leave an accelerator idle
        self._dtype = torch.float32  # of the states inside the model
        self._parts = 0  # of what the model's layers give
        encoder = forward.encoder
        self._rowwise = not self.together and encoder is not None and encoder.is_rowwise(cut)
        self._held: dict[bytes, Tensor] = {}  # see ready
        self._said: set[str] = set()
        self._saying = threading.Lock()
        self.works = cut > 0 and self._try()

    @contextlib.contextmanager
    def ready(self, items: Iterable[Item]) -> Iterator[None]:
        """Meanwhile `fill` computes nothing for these items: to be entered before their batches are filled side by side,
        because computing sets how many threads a product has, which is one number for the whole process."""
        rows = {self._key(row): row for item in items for row in item.rows}
        missing = {key: row for key, row in rows.items() if self.kept is None or self.kept.get(key) is None}
        for key, states in zip(missing, self._compute(list(missing.values())), strict=True):
            if not self._keep(key, states):
                self._held[key] = states
        self._tell_trouble()
        try:
            yield
        finally:
            self._held.clear()

    def fill(self, batch: MicroBatch) -> MicroBatch:
        """The same with `entering` in every tile."""
        if not self.works:
            return batch
        rows = [row for item in batch.items for row in item.rows]
        tiles = tuple(self._filled(tile, [rows[index] for index in tile.rows]) for tile in batch.tiles)
        self._tell_trouble()
        return replace(batch, tiles=tiles)

    def _filled(self, tile: Tile, rows: Sequence[Row]) -> Tile:
        keys = [self._key(row) for row in rows]
        known = [self._known(key) for key in keys]
        missing = [line for line, states_TD in enumerate(known) if states_TD is None]
        for line, states_TD in zip(missing, self._compute([rows[line] for line in missing]), strict=True):
            known[line] = states_TD
            self._keep(keys[line], states_TD)
        states_NTD = torch.zeros(*tile.tokens_NT.shape, self.width, dtype=self._dtype)
        for line, found_TD in enumerate(known):
            if found_TD is not None:
                states_NTD[line, : len(found_TD)] = found_TD
        return replace(tile, entering=Entering(self.cut, states_NTD.to(self._device), self._parts))

    def _known(self, key: bytes) -> Tensor | None:
        states = None if self.kept is None else self.kept.get(key)
        # the map itself is not to be written to, and torch knows no such tensor
        return self._held.get(key) if states is None else torch.from_numpy(states.copy())

    @property
    def kind(self) -> str:
        return "float16" if self.half else "float32"

    @property
    def width(self) -> int:
        return int(self.forward.inner.config.get_text_config().hidden_size)

    def bytes_needed(self, tokens: int) -> int:
        """Of the states of so many tokens."""
        return tokens * self.width * (2 if self.half else 4)

    @property
    def _shows_cores(self) -> bool:
        """Whether the number of cores may show in a row's last bit."""
        return self._device.type == "cpu" and self.forward.flat is None and not self._rowwise

    # -- computing ---------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _compute(self, rows: Sequence[Row]) -> list[Tensor]:
        """Each row's states [T, D], rounded as they are kept."""
        if not rows:
            return []
        if self.together:
            return self._of_rectangles(rows)
        if self._shows_cores:
            return [states_TD for row in rows for states_TD in self._of_rectangles([row])]
        items = [Item(str(index), (row,)) for index, row in enumerate(rows)]
        lanes = deal(items, torch.get_num_threads())
        found: dict[str, Tensor] = {}
        # so that a row's bits do not depend on how many rows are computed at once
        for part in side_by_side([partial(self._each, lane) for lane in lanes], cores=1):
            found |= part
        return [found[item.id] for item in items]

    @torch.no_grad()
    def _each(self, items: Sequence[Item]) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        # single rows, but where a row's bits do not depend on the others
        for group in micro_batches(items, min(TOGETHER, LONGEST) if self._rowwise else 1):
            states = self._of_rectangles([item.rows[0] for item in group])
            found |= {item.id: states_TD for item, states_TD in zip(group, states, strict=True)}
        return found

    def _of_rectangles(self, rows: Sequence[Row]) -> list[Tensor]:
        found: dict[int, Tensor] = {}
        limit = sum(map(len, rows))
        batch = collate([Item("", tuple(rows))], causal=self.forward.causal, limit=limit, device=self._device)
        for tile, states_NTD in zip(batch.tiles, self._states(batch.tiles), strict=True):
            for line, index in enumerate(tile.rows):
                found[index] = self._rounded(states_NTD[line, : int(tile.lengths_N[line])])
        return [found[index] for index in range(len(rows))]

    def _states(self, tiles: Sequence[Tile]) -> list[Tensor]:
        """[N, T, D] of each tile after the frozen layers."""
        encoder = self.forward.encoder
        if encoder is not None and encoder.fits(tiles):
            return encoder.lowest(self.cut, tiles, rowwise=self._rowwise)
        return [self._of_tile(tile) for tile in tiles]

    def _of_tile(self, tile: Tile) -> Tensor:
        flat = self.forward.flat
        if flat is not None and flat.fits([tile]):
            return flat.lowest(self.cut, [tile]).unflatten(0, tuple(tile.tokens_NT.shape))
        with torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=self._autocast):
            return self.forward.lowest(self.cut, tile).states_NTD

    def _rounded(self, states_TD: Tensor) -> Tensor:
        """As they come back from the store, so that nothing depends on whether they do. A state that float16 cannot
        hold leaves its row unrounded, and unkept."""
        if not self.half or not self._fits_half(states_TD):
            return states_TD.to(self._dtype)
        return states_TD.half().to(self._dtype)

    # -- keeping -----------------------------------------------------------------------------------------------------

    def _keep(self, key: bytes, states_TD: Tensor) -> bool:
        if self.kept is None:
            return False
        if self.half and not self._fits_half(states_TD):
            self._say_once(
                "float16 cannot hold some rows' states; the frozen layers compute those rows again each time"
            )
            return False
        return self.kept.put(key, states_TD.float().cpu().numpy())

    def _tell_trouble(self) -> None:
        if self.kept is not None and (trouble := self.kept.take_trouble()) is not None:
            self._say_once(trouble)

    def _say_once(self, text: str) -> None:
        with self._saying:
            if text in self._said:
                return
            self._said.add(text)
        self._say(text)

    @staticmethod
    def _fits_half(states_TD: Tensor) -> bool:
        return bool(states_TD.abs().amax() <= LARGEST_HALF)

    def _key(self, row: Row) -> bytes:
        """Of all that a row brings to its states, and of how they are computed where that may show in the last bit."""
        made = hashlib.blake2b(digest_size=16)
        if self._shows_cores:
            made.update(f"threads {torch.get_num_threads()}".encode())
        made.update(np.asarray(row.tokens, dtype="<i4").tobytes())
        if row.segments is not None:
            made.update(b"segments")
            made.update(np.asarray(row.segments, dtype=np.int8).tobytes())
        return made.digest()

    # -- the trial ---------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _try(self) -> bool:
        """Two rows of different length: the model on top of what the lowest layers gave, against the whole model; by
        every path that may be taken."""
        forward = self.forward
        tile = _trial_tile(forward, [PROBE, PROBE - 2])
        flat, encoder = forward.flat, forward.encoder
        try:
            if flat is not None:
                flat.refresh()
            autocast = torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=self._autocast)
            with in_eval_mode(forward.model), autocast:
                entering = forward.lowest(self.cut, tile)
                self._dtype, self._parts = entering.states_NTD.dtype, entering.parts
                plain = flat is None and encoder is None
                return self._agrees(tile) and (plain or self._agrees_plainly(tile))
        except (AttributeError, TypeError, RuntimeError, IndexError, KeyError):
            return False  # layers that are called in another way than one after another
        finally:
            forward.flat, forward.encoder = flat, encoder

    def _agrees_plainly(self, tile: Tile) -> bool:
        self.forward.flat = self.forward.encoder = None
        return self._agrees(tile)

    def _agrees(self, tile: Tile) -> bool:
        states_NTD = torch.zeros(*tile.tokens_NT.shape, self.width, dtype=self._dtype, device=self._device)
        lengths = tile.lengths_N.tolist()
        for line, length in enumerate(lengths):
            tokens_1T = tile.tokens_NT[line : line + 1, :length]
            (states_1TD,) = self._states([replace(tile, tokens_NT=tokens_1T, lengths_N=torch.tensor([length]))])
            states_NTD[line, :length] = states_1TD[0]
        upper = replace(tile, entering=Entering(self.cut, states_NTD, self._parts))
        (whole_NTX,), _ = self.forward.before_head([tile], with_hidden=False)
        (found_NTX,), _ = self.forward.before_head([upper], with_hidden=False)
        return all(same(found_NTX[line, :length], whole_NTX[line, :length]) for line, length in enumerate(lengths))


def _trial_tile(forward: Forward, lengths: Sequence[int]) -> Tile:
    device = next(forward.model.parameters()).device
    tokens = (torch.arange(len(lengths) * max(lengths), device=device) * 7 + 1) % forward.vocabulary
    return trial_tile(tokens.view(len(lengths), -1), lengths)


# -- the key ---------------------------------------------------------------------------------------------------------


def fingerprint(forward: Forward, cut: int, *, autocast: bool, half: bool) -> str:
    """32 hex digits over all that decides the states of every row: the weights below the cut (and what else of the
    model is not trained; too much only costs a second store), its config, adapters and arithmetic, the versions."""
    model, inner = forward.model, forward.inner
    above = {id(weight) for layer in list(decoder_layers(model))[cut:] for weight in layer.parameters()}
    made = hashlib.sha256()
    about = {
        "format": FORMAT,
        "cut": cut,
        "autocast": autocast,
        "half": half,
        "flat": forward.flat is not None and ("kernels" if library() is not None else "torch"),
        "encoder": forward.encoder is not None and ("kernels" if library() is not None else "torch"),
        "products": made_by(),
        "device": next(model.parameters()).device.type,
        "config": {key: value for key, value in inner.config.to_dict().items() if key not in UNTOLD},
        "attention": getattr(inner.config, "_attn_implementation", None),
        "adapters": {name: config.to_dict() for name, config in (getattr(model, "peft_config", None) or {}).items()},
        "versions": [torch.__version__, transformers.__version__],
    }
    made.update(json.dumps(about, sort_keys=True, default=str).encode())
    for name, tensor in itertools.chain(model.named_parameters(), model.named_buffers()):
        if id(tensor) in above or tensor.requires_grad:
            continue
        made.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        made.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return made.hexdigest()[:32]
