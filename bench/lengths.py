"""Lengths of real instruction data: pairs (tokens of the prompt, tokens of the completion), stored in lengths.json.

They are counted by

    python -m bench.lengths FILE.jsonl          (lines with instruction, input, output)

with a byte-level BPE of 8,000 tokens trained on the same file. Those of the repository are of 2,000 records drawn from
databricks-dolly-15k-ja; rows longer than 1,024 tokens are left out, as a trainer with that max_length would do.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

STORED = Path(__file__).with_name("lengths.json")
LONGEST = 1024
VOCABULARY = 8000
KEPT = 2000


def stored() -> list[tuple[int, int]]:
    return [(int(prompt), int(completion)) for prompt, completion in json.loads(STORED.read_text(encoding="utf-8"))]


def count(file: Path) -> list[tuple[int, int]]:
    from tomoni.data.vocabulary import train_tokenizer

    records = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    prompts = ["\n".join(filter(None, (record["instruction"], record["input"]))) for record in records]
    completions = [record["output"] for record in records]
    tokenizer = train_tokenizer([*prompts, *completions], vocab_size=VOCABULARY)
    frame = 8  # tokens that a chat template puts around a prompt and its answer
    pairs = [
        (frame - 1 + len(prompt), 1 + len(completion))
        for prompt, completion in zip(tokenizer(prompts).input_ids, tokenizer(completions).input_ids, strict=True)
    ]
    pairs = [pair for pair in pairs if sum(pair) <= LONGEST and pair[1] > 1]
    return random.Random(0).sample(pairs, KEPT)


if __name__ == "__main__":
    found = count(Path(sys.argv[1]))
    STORED.write_text("[" + ",\n".join(f"[{prompt},{completion}]" for prompt, completion in found) + "]\n")
    print(f"{len(found)} pairs, {sum(map(sum, found)) / len(found):.0f} tokens on average")
