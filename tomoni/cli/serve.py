"""`tomoni serve [MODEL]`: a model behind OpenAI's API. torch comes last."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tomoni.cli.options import invoke
from tomoni.errors import ConfigError

if TYPE_CHECKING:
    from tomoni.serve.keys import Keys


def command(argv: list[str]) -> int:
    return invoke(serve, argv, verb="serve")


def serve(
    model: Annotated[
        str | None,
        typer.Argument(metavar="[MODEL]", help="a folder, org/name of a hub, bundled:small, or a run's folder"),
    ] = None,
    workspace: Annotated[
        Path | None, typer.Option(help="serve its current version, follow promotions, keep answers and feedback")
    ] = None,
    host: Annotated[
        str, typer.Option(help="address to listen on; another than loopback needs --key-file")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0: any that is free", min=0, max=65535)] = 8000,
    name: Annotated[
        str | None, typer.Option(help="the model's name in the API (default: tomoni, or the model's)")
    ] = None,
    key_file: Annotated[Path | None, typer.Option(help="hashes of the keys that may ask")] = None,
    new_key: Annotated[
        str | None, typer.Option(metavar="NAME", help="add a key to --key-file, print it, leave")
    ] = None,
    allow_host: Annotated[
        list[str] | None, typer.Option(help="a name by which the server is reached (repeatable)")
    ] = None,
    max_running: Annotated[int, typer.Option(help="answers that are computed at once", min=1)] = 64,
    max_waiting: Annotated[int, typer.Option(help="answers that may wait; then 429", min=0)] = 128,
    request_timeout: Annotated[float, typer.Option(help="seconds for a whole request", min=1)] = 600.0,
    max_body: Annotated[int, typer.Option(help="bytes of a request", min=1024)] = 4 << 20,
    keep: Annotated[int, typer.Option(help="versions besides the current one that stay loaded", min=0)] = 1,
    threads: Annotated[int | None, typer.Option(help="for computing; default: PyTorch's choice", min=1)] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps")] = "auto",
    weights: Annotated[str, typer.Option(help="float32, or int8: faster on a CPU, a little less exact")] = "float32",
    port_file: Annotated[Path | None, typer.Option(help="gets the port once requests are taken")] = None,
    with_parent: Annotated[int | None, typer.Option(metavar="PID", help="end when this process ends")] = None,
) -> int:
    """Serve a model with OpenAI's API (chat, completions, embeddings, streaming) on this machine.

    With --workspace the version served is the promoted one: `tomoni promote` and `tomoni rollback` move it without
    dropping a request, and every answer can be given feedback (POST /v1/feedback).
    """
    if new_key is not None:
        return _new_key(key_file, new_key)
    keys = _keys(host, key_file)
    from tomoni.engine import kernels

    kernels.build_ahead()  # where they are still to be built: while PyTorch is loaded
    from tomoni.serve import running

    made = running.listen(host, port)  # before the model is loaded: what cannot be is said at once
    from tomoni.serve import versions
    from tomoni.serve.app import build
    from tomoni.serve.service import Limits

    opener = versions.Opener(device=device, weights=weights, options={"max_batch": max_running})
    current, registry, shown = versions.first(opener, model=model, workspace=workspace, name=name, note=print)
    app = build(
        versions.Versions(current, opener, registry=registry, name=shown, keep=keep),
        workspace=registry.workspace if registry else None,
        keys=keys,
        host=host,
        more_hosts=allow_host or (),
        limits=Limits(running=max_running, waiting=max_waiting, request_seconds=request_timeout, body_bytes=max_body),
        threads=threads,
    )
    url = running.address(host, made.getsockname()[1])
    running.run(
        app,
        made,
        port_file=port_file,
        parent=with_parent,
        ready=lambda: print(_greeting(url, current.subject.description, shown, keys is not None), flush=True),
    )
    return 0


def _new_key(path: Path | None, name: str) -> int:
    from tomoni.serve.keys import add_key

    if path is None:
        raise ConfigError("--new-key needs a file for the key's hash", next_step="add --key-file FILE")
    key = add_key(path, name)
    print(f"{key}\n\nThis is the only time that it is shown; {path} holds its hash.")
    return 0


def _keys(host: str, path: Path | None) -> Keys | None:
    from tomoni.serve.guard import is_loopback
    from tomoni.serve.keys import Keys

    if path is None:
        if not is_loopback(host):
            raise ConfigError(
                f"--host {host} lets others reach the server, and no keys are named",
                next_step="make one (tomoni serve --key-file FILE --new-key NAME) and start with --key-file FILE, "
                "behind a proxy that speaks TLS; or leave --host out",
            )
        return None
    return Keys(path)


def _greeting(url: str, description: str, name: str, keyed: bool) -> str:
    bearer = ' -H "Authorization: Bearer $KEY"' if keyed else ""
    key = "KEY" if keyed else "unused"
    return f"""{description}
listening on {url}   (Ctrl-C ends)

  curl {url}/v1/chat/completions -H "Content-Type: application/json"{bearer} \\
    -d '{{"model": "{name}", "messages": [{{"role": "user", "content": "こんにちは"}}]}}'

  from openai import OpenAI
  client = OpenAI(base_url="{url}/v1", api_key="{key}")
  answer = client.chat.completions.create(model="{name}", messages=[{{"role": "user", "content": "こんにちは"}}])
  print(answer.choices[0].message.content)
"""
