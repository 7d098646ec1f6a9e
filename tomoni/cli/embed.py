"""`tomoni embed MODEL --file FILE`: a vector for each text. torch comes last."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer

from tomoni.cli.options import invoke
from tomoni.errors import ConfigError, DataError

POOLS = ("auto", "mean", "first", "last")


def command(argv: list[str]) -> int:
    return invoke(embed, argv, verb="embed")


def embed(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="a folder, org/name of a hub, or a run's folder")],
    file: Annotated[list[str] | None, typer.Option(help="rows to look at; may be given several times")] = None,
    text: Annotated[list[str] | None, typer.Option(help="a text instead of a file")] = None,
    column: Annotated[
        str, typer.Option(help="the column that holds the text: body, or text=body as for predict")
    ] = "text",
    out: Annotated[Path | None, typer.Option(help="write here; .npy: one float32 matrix, else JSON lines")] = None,
    pool: Annotated[str, typer.Option(help="auto (as the model says, else mean), mean, first or last")] = "auto",
    normalize: Annotated[bool, typer.Option(help="vectors of length 1, so that their product is the cosine")] = True,
    max_length: Annotated[int, typer.Option(min=8, help="tokens of a text; longer ones are cut")] = 512,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps")] = "auto",
) -> int:
    """Give each text a vector, in order: texts that mean alike have vectors alike, as far as the model was made for it."""
    if bool(file) == bool(text):
        raise ConfigError("name rows with --file, or give a --text", next_step="tomoni embed --help")
    if pool not in POOLS:
        raise ConfigError(f"--pool {pool!r} is not known", choices=POOLS)
    from tomoni.cli.looking import looking_settings
    from tomoni.cli.predict import opened
    from tomoni.engine.models import quiet
    from tomoni.evaluate.embed import Embedder, given_texts, texts_of

    with quiet():
        embedder = Embedder.open(model, looking_settings(device), pool=pool, normalize=normalize, max_length=max_length)
    texts = given_texts(text) if text else texts_of(file or [], column.removeprefix("text=") or column)
    if out is not None and out.suffix == ".npy":
        _write_matrix(out, embedder, list(texts))
        return 0
    with opened(out) as sink:
        while some := list(islice(texts, embedder.AT_ONCE)):
            for vector in embedder.embed(some):
                sink.write(json.dumps({"vector": [round(float(value), 7) for value in vector]}) + "\n")
    return 0


def _write_matrix(out: Path, embedder: Any, texts: list[str]) -> None:
    import numpy as np

    if not texts:
        raise DataError("there is no text", next_step="check the file")
    parts = [embedder.embed(texts[n : n + embedder.AT_ONCE]) for n in range(0, len(texts), embedder.AT_ONCE)]
    np.save(out, np.concatenate(parts), allow_pickle=False)
