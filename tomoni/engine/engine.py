"""The engine: the verbs that methods are written in.

    engine.logprobs(items, of="policy" | "reference")     engine.forward_backward(items, loss)
    engine.scores(items)    engine.features(items)        engine.optim_step(lr)
    engine.evaluate(items, loss)    engine.sampler(...)   engine.save(folder) / engine.load(folder)

A step is given whole. The engine cuts it for memory, sums, and divides each term once by the step's own count, so that
the micro-batch never shows in the result. Random draws (dropout) are keyed by (seed, update, micro-batch), never taken
from a stream that evaluation or sampling could move. Layers without trained weights run without dropout.
"""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tomoni.engine import moments
from tomoni.engine.batch import MicroBatch, collate, counts, micro_batches
from tomoni.engine.dropout import keyed
from tomoni.engine.forward import Forward, ScoreHead, in_order
from tomoni.engine.frozen import Below, TrainingMode, lowest_trained
from tomoni.engine.head import target_logprobs
from tomoni.engine.lanes import added, deal, how_many, looked, set_gradients, side_by_side
from tomoni.engine.memory import fitting, naming_memory
from tomoni.engine.pending import Pending
from tomoni.engine.pooling import pooled
from tomoni.engine.reference import Reference
from tomoni.engine.setup import (
    EngineSettings,
    adamw,
    draw_key,
    in_bfloat16,
    keep_no_activations,
    new_score_head,
    pick_device,
)
from tomoni.engine.sums import Sums, numpy_of, spread, to_minimise
from tomoni.errors import CheckpointError
from tomoni.losses import Loss, Outputs, Term, Unit
from tomoni.report import Mean, Stats
from tomoni.rows import Float32, Item, Row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from tomoni.engine.kept import KeptOutputs
    from tomoni.engine.replay import Replay
    from tomoni.engine.sampler import Sampler

# tokens of a micro-batch to begin with; out of memory halves it. On a CPU more brings nothing and costs cache.
TOKENS_PER_MICROBATCH = {"cpu": 4096, "cuda": 16384, "mps": 8192}


Seen = TypeVar("Seen")


class Engine:
    """One model, what of it is trained, and its optimizer. Several engines may live in one process.

    `trained` maps names to the parameters that are trained (see `trained.choose`); `score_head` adds a linear head
    whose weights are trained too. `keep_reference` keeps a copy of the trained weights as they are now, for
    `logprobs(of="start")` and `of="reference"`: since a resumed run starts from the same model before it loads its
    checkpoint, this is the run's start in either case; `reference_engine` is the reference where that is another model.
    Log-probabilities are those of softmax(logits / `temperature`), as a policy that samples so needs them.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        trained: Mapping[str, nn.Parameter],
        cfg: EngineSettings,
        score_head: ScoreHead | None = None,
        keep_reference: bool = False,
        reference_engine: Engine | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        temperature: float = 1.0,
    ) -> None:
        if cfg.threads:
            torch.set_num_threads(cfg.threads)
        self.cfg = cfg
        self.device = pick_device(cfg.device)
        self.model = model.to(self.device)
        self.autocast = in_bfloat16(cfg.dtype, self.device)
        self.forward = Forward(model, own_type=not self.autocast, keep_no_activations=cfg.gradient_checkpointing)
        self.score_spec = score_head
        self.score: nn.Linear | None = None
        self.trained = dict(trained)
        self.frozen_layers = lowest_trained(self.forward, list(trained.values()))  # the lowest ones
        self._training_mode = TrainingMode(model, self.frozen_layers)
        self.below: Below | None = None  # see keep_frozen
        self.kept_rows: KeptOutputs | None = None  # of a body that is not trained; see `features`
        if score_head is not None:
            self.score = new_score_head(self.forward, score_head, cfg.seed, self.device)
            self.trained |= {f"score.{name}": weight for name, weight in self.score.named_parameters()}
        self.bytes_trained = sum(weight.numel() * weight.element_size() for weight in self.trained.values())
        if cfg.gradient_checkpointing:
            keep_no_activations(model)
        self.reference = Reference(self, keep=keep_reference, other=reference_engine)
        self.tokenizer, self.temperature = tokenizer, temperature
        head_rate = 1.0 if score_head is None else score_head.times
        self.optimizer = adamw(self.trained, cfg, self.device, head_rate=head_rate)
        self.updates = 0
        self.budget = cfg.tokens_per_microbatch or TOKENS_PER_MICROBATCH.get(self.device.type, 4096)
        self.looking_budget = self.budget  # of its own, so that looking never changes how a step is cut
        self.replay: Replay | None = None  # learnt beside every step
        self.pending: Pending | None = None

    # -- looking: no gradient, no dropout, no trace ------------------------------------------------------------------

    def logprobs(
        self, items: Sequence[Item], *, of: Literal["policy", "reference", "start"] = "policy", keep: bool = False
    ) -> list[tuple[Float32, ...]]:
        """Per item and row float32[T]: the log-probability of each trained position's target, 0 elsewhere. `keep`: a
        reference's are computed once an item, and found again when it comes again (see `reference`)."""
        if of == "reference":
            return self.reference.logprobs(items, keep=keep)
        if of == "start":
            return self.reference.logprobs_of_start(items)
        return self._per_row(items, lambda batch, out: spread(batch, out.logprobs_P))

    def logprobs_alone(self, items: Sequence[Item]) -> list[tuple[Float32, ...]]:
        """As `logprobs`, each item by itself on one core: the same bits whatever else is asked for."""

        def look(items: Sequence[Item]) -> list[tuple[Float32, ...]]:
            with torch.no_grad():  # which is each thread's own
                batches = [self._collate([item], self.looking_budget) for item in items]
                return [tuple(spread(batch, self._outputs(batch).logprobs_P)) for batch in batches]

        lanes = torch.get_num_threads() if self.forward.flat is not None else 1
        size = -(-len(items) // lanes)
        parts = [items[start : start + size] for start in range(0, len(items), size)]
        with self._looking(), self._frozen_ready(items):
            return [rows for part in side_by_side([partial(look, part) for part in parts], cores=1) for rows in part]

    def move_reference(self, rate: float) -> None:
        """reference := (1 - rate) reference + rate policy (a moving average as anchor)."""
        self.reference.move(rate)

    def scores(self, items: Sequence[Item]) -> list[tuple[Float32, ...]]:
        """Per item and row: float32[C] of a head per row, or float32[T, C] of a head per token (0 where untrained)."""
        if self.score_spec is None:
            raise ValueError("this engine was built without a score head")
        if self.score_spec.per == "row":
            return self._per_row(items, lambda batch, out: list(numpy_of(out.scores_N)))
        return self._per_row(items, lambda batch, out: spread(batch, out.scores_P))

    def logprobs_and_scores(self, items: Sequence[Item]) -> list[tuple[tuple[Float32, Float32], ...]]:
        """Both in one pass, of a head per token: per item and row (float32[T], float32[T, C])."""

        def both(batch: MicroBatch, out: Outputs) -> list[tuple[Float32, Float32]]:
            return list(zip(spread(batch, out.logprobs_P), spread(batch, out.scores_P), strict=True))

        return self._per_row(items, both)

    def features(self, items: Sequence[Item]) -> list[tuple[Float32, ...]]:
        """Per item and row float32[2 D]: the mean of the last layer's hidden states, and the last one."""
        found: list[tuple[Float32, ...]] = []
        with self._looking():
            for item in items:
                batch = self._collate([item], self.looking_budget, share=False)
                rows: dict[int, Float32] = {}
                for tile in batch.tiles:
                    hidden = self.forward.hidden(tile).float()
                    for line, index in enumerate(tile.rows):
                        real = hidden[line, : int(tile.lengths_N[line])]
                        rows[index] = numpy_of(torch.cat([real.mean(0), real[-1]]))
                found.append(tuple(rows[index] for index in range(len(item.rows))))
        return found

    def evaluate(self, items: Sequence[Item], loss: Loss) -> Stats:
        """The loss's terms over the items, without dropout."""

        def of_lane(lane: Sequence[Item], budget: int) -> list[dict[str, Term]]:
            return [loss(self._outputs(batch), batch.rows) for batch in self._batches(lane, budget)]

        def look(budget: int) -> Stats:
            sums = Sums()
            for terms in itertools.chain.from_iterable(self._looked(items, budget, of_lane)):
                sums.add(terms)
            return sums.over(counts(items))

        return self._look(look, items)

    # -- training ----------------------------------------------------------------------------------------------------

    def forward_backward(self, items: Sequence[Item], loss: Loss, *, first_draw: int = 0) -> Stats:
        """The whole step: gradients of the sum of all terms, each divided once by its own count over the step.

        Out of memory halves the micro-batch and begins the step again. `Stats` holds each term's sum and count.
        """
        if not items:
            raise ValueError("a step has at least one item")
        work = partial(self._forward_backward, items, loss, first_draw)
        stats, self.budget = fitting(work, items, budget=self.budget, device=self.device)
        return stats

    def optim_step(self, lr: float) -> Stats:
        """Clip and update. A loss or gradient that is not finite changes no weight: under "skip" the step is counted
        as skipped, under "stop" `Diverged` names the records. What is replayed is learnt in the same update."""
        replayed = Stats() if self.replay is None else self.replay.add_to(self)
        weights = [weight for weight in self.trained.values() if weight.grad is not None]
        norm = nn.utils.get_total_norm([weight.grad for weight in weights if weight.grad is not None], foreach=True)
        finite = (self.pending is None or self.pending.finite) and bool(torch.isfinite(norm))
        if not finite:
            self._refuse_nonfinite()
        else:
            if self.cfg.max_grad_norm and float(norm) + 1e-6 > self.cfg.max_grad_norm:  # else all would be times 1
                nn.utils.clip_grads_with_norm_(weights, self.cfg.max_grad_norm, norm, foreach=True)
            for group in self.optimizer.param_groups:
                group["lr"] = lr * group.get("times", 1.0)
            with naming_memory(f"the optimizer's moments of {len(weights):,} tensors"):
                self.optimizer.step()
            # the fused optimizer does not count its writes, and a sampler asks that count whether weights have changed
            torch.autograd.graph.increment_version(weights)
        self.optimizer.zero_grad(set_to_none=True)
        self.updates += 1
        stats = replayed | Stats(learning_rate=Mean(lr), skipped=Mean(0.0 if finite else 1.0))
        return stats | {"grad_norm": Mean(float(norm))} if finite else stats

    @contextlib.contextmanager
    def at_temperature(self, temperature: float) -> Iterator[None]:
        before, self.temperature = self.temperature, temperature
        try:
            yield
        finally:
            self.temperature = before

    # -- sampling ----------------------------------------------------------------------------------------------------

    def sampler(self, tokenizer: PreTrainedTokenizerBase | None = None, **options: object) -> Sampler:
        """Continuous sampling from this engine's model, with its own tokenizer unless one is given; see
        `engine.sampler`."""
        from tomoni.engine.sampler import Sampler

        tokenizer = tokenizer or self.tokenizer
        if tokenizer is None:
            raise ValueError("sampling needs a tokenizer: give one here or to the engine")
        arithmetic = {"dtype": torch.bfloat16 if self.autocast else None}  # that of the other verbs, unless said
        return Sampler(self.model, tokenizer, **(arithmetic | options))  # type: ignore[arg-type]

    # -- keeping -----------------------------------------------------------------------------------------------------

    def keep_frozen(self, below: Below | None) -> None:
        """Run the lowest, frozen layers once a row; see `engine.frozen`. The same to rounding, and no more than that:
        a resumed run goes on as it began, whatever is asked here."""
        self.below = below if below is not None and below.works else None

    def save(self, folder: Path) -> None:
        """Write what is trained, the optimizer and the engine's own state into `folder`, which exists."""
        save_file(
            {name: weight.detach().cpu().contiguous() for name, weight in self.trained.items()},
            folder / "weights.safetensors",
        )
        save_file(moments.named(self.optimizer, self.trained), folder / "optimizer.safetensors")
        state = {
            "updates": self.updates,
            "tokens_per_microbatch": self.budget,
            "tokens_per_microbatch_asked": self.cfg.tokens_per_microbatch,
            "threads": torch.get_num_threads(),
            "seed": self.cfg.seed,
            "torch": torch.__version__,
            "keep_frozen": None if self.below is None else self.below.kind,
        }
        self.reference.save(folder)
        (folder / "engine.json").write_text(json.dumps(state, indent=1) + "\n", encoding="utf-8")

    def load(self, folder: Path) -> None:
        """Take up bit for bit what `save` wrote; `CheckpointError` where it belongs to another set of weights."""
        weights = load_file(folder / "weights.safetensors")
        if weights.keys() != self.trained.keys():
            odd = sorted(weights.keys() ^ self.trained.keys())
            raise CheckpointError(
                f"{folder} holds other weights than this run trains: {', '.join(odd[:5])}{' …' if len(odd) > 5 else ''}",
                next_step="resume with the model and the `train` setting that the checkpoint was made with",
            )
        with torch.no_grad():
            for name, weight in self.trained.items():
                weight.copy_(weights[name])
        moments.take_up(self.optimizer, self.trained, load_file(folder / "optimizer.safetensors"), self.device)
        state = json.loads((folder / "engine.json").read_text(encoding="utf-8"))
        self.updates = state["updates"]
        # both decide the order of sums; where the config now asks for something else, that is what was wanted
        if self.cfg.tokens_per_microbatch in (None, state["tokens_per_microbatch_asked"]):
            self.budget = state["tokens_per_microbatch"]
        if self.device.type == "cpu" and self.cfg.threads is None:
            torch.set_num_threads(state["threads"])
        self._keep_as(state.get("keep_frozen"))
        self.reference.load(folder)

    def bytes_to_save(self) -> int:
        """About how much `save` will write."""
        return (3 + self.reference.moved) * self.bytes_trained + 65536

    # -- inside ------------------------------------------------------------------------------------------------------

    def _forward_backward(self, items: Sequence[Item], loss: Loss, first_draw: int, budget: int) -> Stats:
        count = counts(items)
        sums = Sums()
        self._training_mode()
        self.forward.refresh()
        self.optimizer.zero_grad(set_to_none=True)
        threads = self.forward.lanes(items, autocast=self.autocast)
        lanes = deal(items, how_many(items, threads, budget=budget, bytes_trained=self.bytes_trained))
        if len(lanes) > 1:
            for terms in self._in_lanes(lanes, loss, count, budget, first_draw):
                sums.add(terms)
        else:
            for index, batch in enumerate(self._batches(items, budget), first_draw):
                terms, objective = self._objective(batch, loss, count, index)
                if objective.requires_grad:  # not where none of the micro-batch's positions is trained
                    objective.backward()
                sums.add(terms)
        blame = partial(self._nonfinite_items, items, loss)
        self.pending = Pending(tuple(item.id for item in items), sums.finite, blame)
        return sums.over(count)

    def _in_lanes(
        self, lanes: Sequence[Sequence[Item]], loss: Loss, count: Mapping[Unit, float], budget: int, first: int
    ) -> list[dict[str, Term]]:
        """Each lane's terms and gradients, these added in the lanes' order: no result depends on who was faster."""
        weights = list(self.trained.values())

        def work(lane: int, items: Sequence[Item]) -> tuple[list[dict[str, Term]], list[Tensor | None]]:
            found: list[dict[str, Term]] = []
            gradients: list[Tensor | None] = [None] * len(weights)
            for index, batch in enumerate(self._batches(items, max(1, budget // len(lanes))), first):
                with keyed(draw_key(self.cfg.seed, self.updates, index, lane)):
                    terms = loss(self._outputs(batch), batch.rows)
                objective = to_minimise(terms, count)
                if objective.requires_grad:
                    added(gradients, torch.autograd.grad(objective, weights, allow_unused=True))
                found.append({name: replace(term, sum=term.sum.detach()) for name, term in terms.items()})
            return found, gradients

        with self._frozen_ready([item for lane in lanes for item in lane]):
            results = side_by_side([partial(work, lane, items) for lane, items in enumerate(lanes)])
        set_gradients(weights, [gradients for _, gradients in results])
        return [terms for found, _ in results for terms in found]

    def _frozen_ready(self, items: Sequence[Item]) -> contextlib.AbstractContextManager[object]:
        return contextlib.nullcontext() if self.below is None else self.below.ready(items)

    def _objective(
        self, batch: MicroBatch, loss: Loss, count: Mapping[Unit, float], index: int
    ) -> tuple[dict[str, Term], Tensor]:
        with self._keyed_draws(index):
            terms = loss(self._outputs(batch), batch.rows)
        return terms, to_minimise(terms, count)

    def _keep_as(self, kind: str | None) -> None:
        """As the run began: with nothing kept a row's states are computed in another order of sums, with float16 kept
        they are other numbers."""
        if kind is None:
            self.below = None
        elif self.below is None or self.below.kind != kind:
            self.keep_frozen(
                Below(self.forward, self.frozen_layers, autocast=self.autocast, half=kind == "float16", kept=None)
            )

    def _outputs(self, batch: MicroBatch) -> Outputs:
        spec, forward = self.score_spec, self.forward
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.autocast):
            if spec is not None and spec.per == "row" and spec.pool != "mean" and not len(batch.targets_P):
                none_P = torch.zeros(0, device=self.device)
                at_N = forward.lasts(batch) if spec.pool == "last" else forward.firsts(batch)
                return Outputs(none_P, none_P, scores_N=self._scored(at_N))
            # where the head stands on the last hidden states, a score for each trained position does too
            whole = spec is not None and not (spec.per == "token" and forward.split)
            before_head_P, hidden = forward.trained(batch, with_hidden=whole)
            logprobs_P, correct_P = self._of_tokens(before_head_P, batch)
        if spec is None:
            return Outputs(logprobs_P, correct_P)
        if spec.per == "token":
            states_PD = before_head_P
            if whole:
                states = [one.flatten(0, 1)[tile.source_Q] for one, tile in zip(hidden, batch.tiles, strict=True)]
                states_PD = in_order(states, batch)
            return Outputs(logprobs_P, correct_P, scores_P=self._scored(states_PD))
        tiles = [(states, tile) for states, tile in zip(hidden, batch.tiles, strict=True) if tile.rows]
        return Outputs(logprobs_P, correct_P, scores_N=self._scored(pooled(tiles, spec.pool)))

    def _of_tokens(self, before_head_P: Tensor, batch: MicroBatch) -> tuple[Tensor, Tensor]:
        """Log-probabilities of the targets; none where the model is a body, whose head scores."""
        if not self.forward.predicts_tokens:
            return torch.zeros(0, device=self.device), torch.zeros(0, device=self.device)
        return target_logprobs(
            self.forward.head,
            before_head_P,
            batch.targets_P,
            vocabulary=self.forward.vocabulary,
            temperature=self.temperature,
        )

    def _scored(self, states_QD: Tensor) -> Tensor:
        """In float32: two answers whose scores differ by less than bfloat16 can hold are not alike."""
        assert self.score is not None
        with torch.autocast(self.device.type, enabled=False):
            scores_QC: Tensor = self.score(states_QD.float())
        return scores_QC

    def _batches(self, items: Sequence[Item], budget: int) -> Iterator[MicroBatch]:
        for group in micro_batches(items, budget):
            yield self._collate(group, budget)

    def _shares(self, rows: Sequence[Row]) -> bool:
        spec = self.score_spec
        pooled_whole = spec is not None and spec.per == "row" and spec.pool != "last"
        return self.below is None and not pooled_whole and self.forward.can_share(rows)

    def _collate(self, items: Sequence[Item], budget: int, *, share: bool = True) -> MicroBatch:
        batch = collate(
            items,
            causal=self.forward.causal,
            limit=budget,
            device=self.device,
            cost=self.forward.rectangle_cost,
            share=share and self._shares([row for item in items for row in item.rows]),
        )
        return batch if self.below is None else self.below.fill(batch)

    def _per_row(
        self, items: Sequence[Item], read: Callable[[MicroBatch, Outputs], Sequence[Seen]]
    ) -> list[tuple[Seen, ...]]:
        def look(budget: int) -> list[tuple[Seen, ...]]:
            seen = self._looked(items, budget, of_lane)
            found = {key: rows for lane in seen for key, rows in lane.items()}
            return [found[id(item)] for item in items]

        def of_lane(lane: Sequence[Item], budget: int) -> dict[int, tuple[Seen, ...]]:
            found: dict[int, tuple[Seen, ...]] = {}
            for batch in self._batches(lane, budget):
                rows = iter(read(batch, self._outputs(batch)))
                for item in batch.items:  # an item that is given twice says the same twice
                    found[id(item)] = tuple(next(rows) for _ in item.rows)
            return found

        return self._look(look, items)

    def _look(self, look: Callable[[int], Seen], items: Sequence[Item]) -> Seen:
        with self._looking():
            seen, self.looking_budget = fitting(look, items, budget=self.looking_budget, device=self.device)
        return seen

    def _looked(self, items: Sequence[Item], budget: int, of_lane: Callable[[Sequence[Item], int], Seen]) -> list[Seen]:
        threads = self.forward.lanes(items, autocast=self.autocast)
        return looked(items, threads, budget=budget, ready=self._frozen_ready, of_lane=of_lane)

    @contextlib.contextmanager
    def _looking(self) -> Iterator[None]:
        self.model.eval()
        self.forward.refresh()
        with torch.no_grad():
            yield

    @contextlib.contextmanager
    def _keyed_draws(self, index: int) -> Iterator[None]:
        devices = [self.device] if self.device.type == "cuda" else []
        key = draw_key(self.cfg.seed, self.updates, index)
        with torch.random.fork_rng(devices=devices), keyed(key):
            torch.manual_seed(key)
            yield

    def _refuse_nonfinite(self) -> None:
        if self.cfg.on_nonfinite == "skip" or self.pending is None:
            return
        error = self.pending.diverged(self.updates)
        self.optimizer.zero_grad(set_to_none=True)
        raise error

    def _nonfinite_items(self, items: Sequence[Item], loss: Loss) -> list[str]:
        """The items whose own loss or gradient is not finite, each computed alone."""
        found = []
        self._training_mode()
        self.forward.refresh()
        for item in items:
            self.optimizer.zero_grad(set_to_none=True)
            _, objective = self._objective(self._collate([item], self.budget), loss, counts([item]), 0)
            objective.backward()
            gradients = [weight.grad for weight in self.trained.values() if weight.grad is not None]
            if not all(bool(torch.isfinite(value).all()) for value in [objective.detach(), *gradients]):
                found.append(item.id)
        return found
