"""A workspace that is new: its first model, prompts and tasks to begin with. No torch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from tomoni.durable import atomic_write
from tomoni.feedback.entries import NewPrompt
from tomoni.records import Message

if TYPE_CHECKING:
    from tomoni.feedback.store import Store
    from tomoni.registry import Registry, Version
    from tomoni.world import World

TO_PRACTISE, HELD_OUT = 240, 120  # prompts of the invented world that a workspace begins with
TASKS = 400  # of which a round counts how many are still right: three points less are noticed, mostly
SEED = 11


def first_model(workspace: Path, registry: Registry, asked: str | None) -> None:
    """Where nothing is served yet, or a model is named: the one named, the demo's run, or else none."""
    if asked is None and registry.current() is not None:
        return
    run = workspace / "run"
    name = asked or (str(run) if (run / "config.yaml").is_file() else None)
    if name is None:
        return
    version = registry.register(name, method=_method(Path(name)), note="")
    current = registry.current()
    if current is None or (asked is not None and current.id != version.id):
        registry.promote(version.id, reason="named when the studio was started" if asked else "the demo's model")


def _method(run: Path) -> str:
    return str(_config(run).get("method", ""))


def _config(run: Path) -> dict[str, Any]:
    try:
        found = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError):
        return {}
    return found if isinstance(found, dict) else {}


def knows_the_world(registry: Registry, version: Version | None) -> bool:
    """Whether the model has read about the invented town: the bundled ones, and what was trained from them."""
    return any(_begins_bundled(one) for one in forebears(registry, version))


def forebears(registry: Registry, version: Version | None) -> Iterator[Version]:
    """The version, and what it was trained from, back to the first."""
    by_id = {one.id: one for one in registry.versions()} if version is not None else {}
    while version is not None:
        yield version
        version = by_id.pop(version.base, None) if version.base else None


def _begins_bundled(version: Version) -> bool:
    model = version.model
    if model.startswith("bundled:"):
        return True
    folders = [Path(model), Path(model).parent, *([Path(version.run)] if version.run else [])]
    return any(str(_config(folder).get("model_name_or_path", "")).startswith("bundled:") for folder in folders)


def pretrained_only(version: Version) -> bool:
    """A model that has never been tuned to answer."""
    return version.model.startswith("bundled:")


def opening_of(registry: Registry, version: Version) -> dict[str, Any]:
    """What a model's maker says of it, or of what it was trained from: `chat_opening` and `questions` of tomoni.json."""
    models = [Path(one.model) for one in forebears(registry, version)]
    for folder in (folder for model in models for folder in (model, model.parent)):
        try:
            found = json.loads((folder / "tomoni.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(found, dict):
            return found
    return {}


def first_prompts(store: Store, registry: Registry) -> int:
    """Questions about the town in both languages, where the model knows it and there are no prompts: most to practise
    on, some that are never trained on. How many."""
    version = registry.current()
    if not knows_the_world(registry, version) or store.prompts(limit=1):
        return 0
    from tomoni.world import bundled_world, held_out_questions, tuning_questions

    world = bundled_world()
    new = [
        _prompt(world, record, held_out=False)
        for record in tuning_questions(world, TO_PRACTISE, SEED, conversations=0.0)
    ]
    new += [_prompt(world, record, held_out=True) for record in held_out_questions(world, HELD_OUT, SEED)]
    store.add_prompts(new)
    return len(new)


def first_probes(workspace: Path, registry: Registry) -> int:
    """Questions about the town with their answers, so that a round notices what a candidate has forgotten; where the model
    knows the town and nobody has put tasks there. How many."""
    path = workspace / "probes" / "capability.jsonl"
    if path.exists() or not knows_the_world(registry, registry.current()):
        return 0
    from tomoni.world import bundled_world

    rows = [{"prompt": one["messages"][-2]["content"], "answer": one["answer"]} for one in tasks(bundled_world())]
    path.parent.mkdir(exist_ok=True)
    atomic_write(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return len(rows)


def tasks(world: World) -> list[dict[str, Any]]:
    """The records that `first_probes` are of."""
    from tomoni.world import held_out_questions

    return list(held_out_questions(world, TASKS, SEED + 1))


def _prompt(world: Any, record: dict[str, Any], *, held_out: bool) -> NewPrompt:
    topic = f"{world.by_id[record['entity']].kind}.{record['fact']}"
    asked = record["messages"][-2]["content"]
    return NewPrompt((Message("user", asked),), "world", topic=topic, held_out=held_out)
