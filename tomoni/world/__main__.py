"""`python -m tomoni.world`: writes the running text that the bundled models are trained on, one document a line."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from tomoni.world import bundled_world, pretraining_documents


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tomoni.world", description=__doc__)
    parser.add_argument("--documents", type=int, required=True, help="how many; each has about 40 to 150 tokens")
    parser.add_argument("--seed", type=int, default=1, help="another seed tells the same facts in other words")
    parser.add_argument("--boards", type=float, default=0.0, help="share of boards: notices, or reviews, of one kind")
    parser.add_argument("--out", type=Path, required=True, help="the JSONL file to write")
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with options.out.open("w", encoding="utf-8") as file:
        documents = pretraining_documents(bundled_world(), options.seed, options.documents, boards=options.boards)
        for number, text in enumerate(documents):
            file.write(json.dumps({"id": f"{options.seed}-{number}", "text": text}, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
