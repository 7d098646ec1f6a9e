"""What is served: the current version, a few others that are kept loaded, and the pointer that is followed.

A new version is loaded beside the old one, its files compared with the registry's hashes first. New requests go to it
from the moment on it is there; those that run end on the one that they began with. What cannot be loaded changes
nothing but what `state` says.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from tomoni.engine.models import quiet
from tomoni.engine.pooled import Pooled
from tomoni.engine.sampler import Sampler
from tomoni.errors import RegistryError, UserError
from tomoni.evaluate.subject import Subject, open_subject
from tomoni.hub import Located
from tomoni.registry import CURRENT, Registry, files_of, hash_of
from tomoni.serve.refusals import Refusal, model_not_found
from tomoni.serve.tokentext import TokenTexts

LOOK = 0.25  # seconds between two looks at the pointer
AGAIN = 30.0  # seconds until a version that could not be loaded is tried again
log = logging.getLogger("tomoni.serve")


@dataclass(eq=False)
class Loaded:
    """A model in memory. `id` is its name in the API: the version's, or the served name where there is no workspace;
    then `version` is empty."""

    id: str
    version: str
    hash: str
    subject: Subject
    options: dict[str, Any] = field(default_factory=dict)  # of its sampler
    created: int = field(default_factory=lambda: int(time.time()))

    def __post_init__(self) -> None:
        self.sampler: Sampler = self.subject.sampler(**self.options)

    def renew_sampler(self) -> None:
        """After an error nothing of the old one's state is trusted."""
        self.sampler = self.subject.sampler(**self.options)

    @property
    def fingerprint(self) -> str:
        return f"fp_{self.hash[:12]}"

    @cached_property
    def token_texts(self) -> TokenTexts:
        return TokenTexts(self.subject.tokenizer)

    @cached_property
    def pooled(self) -> Pooled:
        """Only for the worker's thread."""
        return Pooled(self.subject.model)


@dataclass(frozen=True)
class Failed:
    """The version that the pointer names and that cannot be served."""

    version: str
    reason: str
    at: float  # monotonic


class Opener:
    """Loads models with the server's options. Blocking: for a thread beside the event loop."""

    def __init__(self, *, device: str, weights: str, options: dict[str, Any]) -> None:
        self._device, self._weights, self._options = device, weights, options

    def model(self, name: str, served_as: str) -> Loaded:
        """A model without a registry; its hash is made as the registry would."""
        subject = self._open(name)
        return Loaded(served_as, "", hash_of(files_of(subject.located)), subject, self._options)

    def version(self, registry: Registry, id: str) -> Loaded:
        """A version, its files read and compared first and again after loading. Raises UserError."""
        version = registry.get(id)
        before = registry.verify(version)
        subject = self._open(version.model)
        if _hashes(subject.located) != _hashes(before):
            raise RegistryError(f"{id}: its files changed while they were read", next_step="leave them as they are")
        return Loaded(id, id, version.hash, subject, self._options)

    def _open(self, name: str) -> Subject:
        with quiet():
            return open_subject(name, device=self._device, weights=self._weights)  # type: ignore[arg-type]


def _hashes(located: Located) -> tuple[Any, ...]:
    return dict(located.files), dict(located.base.files) if located.base else None


class Versions:
    """`current` answers new requests. Without a registry it never changes. `keep` others stay loaded, those that were
    asked for last."""

    def __init__(self, current: Loaded, opener: Opener, *, registry: Registry | None, name: str, keep: int = 1) -> None:
        self.current = current
        self.name = name
        self.registry = registry
        self.failed: Failed | None = None
        self._opener = opener
        self._keep = keep
        self._others: OrderedDict[str, Loaded] = OrderedDict()
        self._loading = asyncio.Lock()
        self._seen: tuple[int, ...] | None = None

    # -- by name ---------------------------------------------------------------------------------------------------

    @property
    def models(self) -> list[Loaded]:
        return [self.current, *reversed(self._others.values())]

    def named(self, model: str) -> Loaded:
        """What a request's `model` means: the served name is the current version. Raises Refusal."""
        if model in (self.name, self.current.id):
            return self.current
        if model in self._others:
            return self._others[model]
        raise model_not_found(model, [self.name, *(loaded.id for loaded in self.models if loaded.id != self.name)])

    async def version(self, id: str) -> Loaded:
        """A version of the registry, loaded if it is not. Raises Refusal or UserError."""
        if id == self.current.version:
            return self.current
        if self.registry is None:
            raise Refusal(404, "This server has no workspace, so no versions.", code="no_workspace", param="version")
        async with self._loading:
            if id == self.current.version:
                return self.current
            if id not in self._others:
                try:
                    self._remember(await asyncio.to_thread(self._opener.version, self.registry, id))
                except UserError as error:
                    raise Refusal(404, error.what, code="version_not_found", param="version") from error
            self._others.move_to_end(id)
            return self._others[id]

    def _remember(self, loaded: Loaded) -> None:
        self._others[loaded.id] = loaded
        self._others.move_to_end(loaded.id)
        while len(self._others) > self._keep:
            self._others.popitem(last=False)

    # -- the pointer -----------------------------------------------------------------------------------------------

    async def follow(self, every: float = LOOK) -> None:
        """Look at the pointer until cancelled."""
        while True:
            try:
                await self.look()
            except Exception as error:  # following goes on whatever one look met
                log.error("unexpected %s while looking at %s", type(error).__name__, CURRENT)
            await asyncio.sleep(every)

    async def look(self) -> None:
        """Serve what the pointer names now."""
        if self.registry is None:
            return
        mark = _mark(self.registry.workspace / CURRENT)
        again = self.failed is not None and time.monotonic() - self.failed.at > AGAIN
        if mark == self._seen and not again:
            return
        async with self._loading:
            await self._move(self.registry)
        self._seen = mark

    async def _move(self, registry: Registry) -> None:
        id = "?"
        try:
            version = await asyncio.to_thread(registry.current)
            if version is None:
                raise RegistryError(f"no version is promoted in {registry.workspace}", next_step="tomoni promote")
            id = version.id
            if id != self.current.version:
                loaded = self._others.pop(id, None)
                if loaded is None or loaded.hash != version.hash:
                    loaded = await asyncio.to_thread(self._opener.version, registry, id)
                before, self.current = self.current, loaded
                if before.version:
                    self._remember(before)
                log.info("now serving %s (%s), before %s", id, loaded.hash[:12], before.id)
            self.failed = None
        except Exception as error:
            reason = error.what if isinstance(error, UserError) else type(error).__name__
            if self.failed is None or (self.failed.version, self.failed.reason) != (id, reason):
                log.error("%s cannot be served, %s goes on: %s", id, self.current.id, reason)
            self.failed = Failed(id, reason, time.monotonic())


def _mark(path: Path) -> tuple[int, ...]:
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_mtime_ns, found.st_size, found.st_ino


def first(
    opener: Opener, *, model: str | None, workspace: Path | None, name: str | None, note: Callable[[str], None]
) -> tuple[Loaded, Registry | None, str]:
    """What is served at the start: (the model, its registry, the served name). A model named for a workspace without
    versions becomes its first one. Raises UserError."""
    if workspace is None:
        if model is None:
            raise RegistryError(
                "neither a model nor a workspace is named", next_step="tomoni serve MODEL, or --workspace W"
            )
        shown = name or _short(model)
        return opener.model(model, shown), None, shown
    registry = Registry.open(workspace)
    current = registry.current()
    if current is None:
        if model is None:
            raise RegistryError(
                f"no version is promoted in {workspace}",
                next_step="name a model too (tomoni serve MODEL --workspace W): it becomes the first version",
            )
        current = registry.promote(registry.register(model, note="the first version").id, by="tomoni serve")
        note(f"{current.id} is the first version of {workspace}")
    elif model is not None and model != current.id:
        raise RegistryError(
            f"{workspace} serves {current.id}, and {model!r} is named beside it",
            next_step=f"leave the model out, or tomoni promote {workspace} {model}",
        )
    return opener.version(registry, current.id), registry, name or "tomoni"


def _short(model: str) -> str:
    """A name that tells nothing of the machine's folders."""
    return Path(model).expanduser().resolve().name if Path(model).expanduser().exists() else model
