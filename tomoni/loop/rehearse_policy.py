"""A world with a policy that learns: answers are drawn, chosen among, and learnt from, in milliseconds. Numpy only.

The curved world of `rehearse_world`, made to go on: an answer has eight attributes and a length; the gold reward is
curved in them and never seen; what the system sees are tanh projections with noise. A policy is a normal distribution
over attributes and length, whose mean depends on the prompt; it learns rows as fine-tuning would, by maximum likelihood
with an inertia of its own, and so loses variety as fine-tuning on chosen answers does. Everything that decides (the space,
the head, what is asked, which answer is best, the gate) is the product's own code: an answer's "text" is its number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.special import expit

from tomoni.feedback.arrays import Float
from tomoni.feedback.entries import PromptRow, prompt_id
from tomoni.feedback.snapshot import Snapshot
from tomoni.feedback.space import Space
from tomoni.feedback.weights import Weight
from tomoni.loop.rehearse_world import ATTRIBUTES, SEEN, TOPICS, Whole, curved_features, curved_gold, scale_of
from tomoni.loop.taste import Drawn, Known, Prompt
from tomoni.records import Comparison, Message, Source, Verdict

LATENT = ATTRIBUTES + 1
JITTER = 1e-6


@dataclass(frozen=True, slots=True)
class Answers:
    """`x_AL`: attributes, and the length apart from what they bring; what the system sees, and gold in logits."""

    prompt_A: Whole
    x_AL: Float
    features_AF: Float
    length_A: Float
    gold_A: Float
    logprob_A: Float

    def __getitem__(self, which: Whole | slice) -> Answers:
        seen = (
            self.x_AL[which],
            self.features_AF[which],
            self.length_A[which],
            self.gold_A[which],
            self.logprob_A[which],
        )
        return Answers(self.prompt_A[which], *seen)


@dataclass(frozen=True, slots=True)
class Policy:
    """Mean of an answer to a prompt with context c: c @ `mean_CL`; `covariance_LL` around it."""

    mean_CL: Float
    covariance_LL: Float

    def learnt(self, context_NC: Float, x_NL: Float, *, inertia: float, usual_QC: Float) -> Policy:
        """After fine-tuning on rows; `inertia`: rows of its own that hold it back, on prompts as `usual_QC`. The spread is
        estimated without the bias of a fit that passes near its rows: what is lost of it is lost by choosing."""
        usual_CC = usual_QC.T @ usual_QC * (inertia / len(usual_QC))
        left_CC = context_NC.T @ context_NC + usual_CC + JITTER * np.eye(len(self.mean_CL))
        mean_CL = np.linalg.solve(left_CC, context_NC.T @ x_NL + usual_CC @ self.mean_CL + JITTER * self.mean_CL)
        rest_NL, moved_QL = x_NL - context_NC @ mean_CL, usual_QC @ (mean_CL - self.mean_CL)
        own_LL = self.covariance_LL + moved_QL.T @ moved_QL / len(usual_QC)
        freedom = float(np.trace(np.linalg.solve(left_CC, context_NC.T @ context_NC)))
        spread_LL = (rest_NL.T @ rest_NL + inertia * own_LL) / max(len(x_NL) + inertia - freedom, 1.0)
        return Policy(np.asarray(mean_CL, dtype=np.float64), np.asarray(spread_LL, dtype=np.float64))


@dataclass(frozen=True, slots=True)
class Land:
    """One seed's world. Prompts number 0 to Q - 1; those from `held_out` on are never asked about nor practised on."""

    offset_QJ: Float
    topic_QJ: Float
    values_J: Float
    mixing: Float
    scale: float
    held_out: int

    @classmethod
    def of(cls, seed: int, *, prompts: int, held_out: int, agreement: float) -> Land:
        rng = np.random.default_rng([seed, 81])
        offset_QJ, topic_QJ = 0.5 * rng.normal(size=(prompts, ATTRIBUTES)), rng.normal(size=(prompts, ATTRIBUTES))
        values_J = rng.normal(size=ATTRIBUTES)
        mixing = rng.normal(size=(2 * ATTRIBUTES, SEEN)) / np.sqrt(ATTRIBUTES)
        unscaled = cls(offset_QJ, topic_QJ, values_J, mixing, 1.0, prompts - held_out)
        prompt_N = np.repeat(np.arange(prompts - held_out), 128)
        gold_N = unscaled.answers(unscaled.start(), prompt_N, rng).gold_A
        scale = scale_of(gold_N[0::2] - gold_N[1::2], agreement)
        return cls(offset_QJ, topic_QJ, values_J, mixing, scale, prompts - held_out)

    @property
    def prompts(self) -> int:
        return len(self.topic_QJ)

    @property
    def context_QC(self) -> Float:
        return np.hstack([np.ones((self.prompts, 1)), self.offset_QJ, self.topic_QJ])

    def start(self) -> Policy:
        mean_CL = np.zeros((1 + 2 * ATTRIBUTES, LATENT))
        mean_CL[1 : 1 + ATTRIBUTES, :ATTRIBUTES] = np.eye(ATTRIBUTES)
        return Policy(mean_CL, np.eye(LATENT))

    def answers(self, policy: Policy, prompt_A: Whole, rng: np.random.Generator) -> Answers:
        """One to each prompt named, drawn from the policy."""
        root_LL = np.linalg.cholesky(policy.covariance_LL + JITTER * np.eye(LATENT))
        noise_AL = rng.normal(size=(len(prompt_A), LATENT))
        x_AL = self.context_QC[prompt_A] @ policy.mean_CL + noise_AL @ root_LL.T
        z_AJ = x_AL[:, :ATTRIBUTES]
        log_A = np.clip(3.0 + 0.5 * x_AL[:, -1] + 0.2 * x_AL[:, 0], -1, 8)
        length_A = np.asarray(np.round(np.exp(log_A)) + 1, dtype=np.float64)
        return Answers(
            prompt_A,
            x_AL,
            curved_features(z_AJ, self.topic_QJ[prompt_A], self.mixing, rng),
            length_A,
            self.scale * curved_gold(z_AJ, length_A, self.values_J),
            -0.5 * (noise_AL**2).sum(1) - float(np.log(np.diag(root_LL)).sum()),
        )

    def better(self, policy: Policy, other: Policy, rng: np.random.Generator, *, each: int) -> float:
        """How often an answer of `policy` to a held-out prompt has more gold than one of `other`."""
        prompt_N = np.repeat(np.arange(self.held_out, self.prompts), each)
        one, two = (self.answers(which, prompt_N, rng).gold_A for which in (policy, other))
        return float((one > two).mean() + 0.5 * (one == two).mean())

    def diversity(self, policy: Policy, rng: np.random.Generator, *, each: int) -> float:
        """1 - cosine of the features of two answers to one held-out prompt, mean."""
        prompt_N = np.repeat(np.arange(self.held_out, self.prompts), each)
        one_NF, two_NF = (self.answers(policy, prompt_N, rng).features_AF for _ in range(2))
        sizes_N = np.linalg.norm(one_NF, axis=1) * np.linalg.norm(two_NF, axis=1)
        return float(1 - ((one_NF * two_NF).sum(1) / sizes_N).mean())

    def row(self, prompt: int) -> PromptRow:
        messages = asked(prompt)
        topic = f"topic {prompt % TOPICS}"
        return PromptRow(messages, "world", None, topic, "active", prompt >= self.held_out, prompt_id(messages), "")


def joined(*parts: Answers) -> Answers:
    columns = ("prompt_A", "x_AL", "features_AF", "length_A", "gold_A", "logprob_A")
    return Answers(*(np.concatenate([getattr(part, column) for part in parts]) for column in columns))


@dataclass(slots=True)
class Seen:
    """Answers by number, read as `taste.Reader` reads texts: an answer's text is its number. The space is fitted on those
    from `ground` on, what the current policy says, or given."""

    answers: Answers
    ground: int = 0
    space: Space = None  # type: ignore[assignment]
    _known: dict[int, Known] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.space is None:
            own = self.answers[self.ground :]
            prompts = [str(prompt) for prompt in own.prompt_A]
            self.space = Space.fit(own.features_AF, own.length_A, prompts=prompts)

    def phi(self, numbers: Whole | slice) -> Float:
        return self.space(self.answers.features_AF[numbers], self.answers.length_A[numbers])

    def read(self, wanted: Sequence[tuple[Prompt, str]]) -> list[Known]:
        numbers = [int(text) for _, text in wanted]
        if new := sorted(set(numbers) - self._known.keys()):
            phi_ND, logprob_N = self.phi(np.array(new)), self.answers.logprob_A[new]
            for number, phi_D, logprob in zip(new, phi_ND, logprob_N, strict=True):
                self._known[number] = Known(phi_D, float(logprob), LATENT)
        return [self._known[number] for number in numbers]

    def drawn(self, each: int) -> list[Drawn]:
        """What the current policy said, as the product has it: `each` answers to every prompt."""
        return [
            Drawn(asked(int(self.answers.prompt_A[start])), tuple(str(number) for number in range(start, start + each)))
            for start in range(self.ground, len(self.answers.prompt_A), each)
        ]


def asked(prompt: int) -> Prompt:
    return (Message("user", f"prompt {prompt}"),)


def compared(number: int, prompt: int, first: int, second: int, first_won: bool, weight: Weight) -> Comparison:
    """A judgement as a snapshot holds it."""
    one, other = ((Message("assistant", str(answer)),) for answer in (first, second))
    verdict = Verdict.FIRST if first_won else Verdict.SECOND
    source = Source("", number + 1)
    return Comparison(str(number), source, asked(prompt), one, other, verdict, weight=weight.weight, noise=weight.noise)


def snapshot(comparisons: list[Comparison]) -> Snapshot:
    return Snapshot("", comparisons, [], [], {}, (), len(comparisons))


def says(gap: float, flips: float, rng: np.random.Generator) -> bool:
    """Whether one with such a flip rate prefers the first."""
    return bool(rng.random() < flips + (1 - 2 * flips) * expit(gap))
