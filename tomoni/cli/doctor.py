"""`tomoni doctor`: versions, hardware and what fits, to read before a run and to paste into a bug report."""

from __future__ import annotations

import json
import os
import platform
import shutil
import sqlite3
import sys
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated

import psutil
import typer

from tomoni import __version__
from tomoni.cli.options import invoke
from tomoni.engine.kernels import reason as no_kernels
from tomoni.engine.products import made_by

PACKAGES = (
    "torch",
    "transformers",
    "peft",
    "tokenizers",
    "safetensors",
    "huggingface_hub",
    "numpy",
    "pyarrow",
    "pydantic",
)
GB = 1e9
SQLITE_SOUND = (3, 51, 3)  # before it, a write-ahead log could be damaged when two connections checkpoint at once
FULL_BYTES = 16.0  # of a trained parameter in float32: weight 4, gradient 4, Adam's two moments 8
LORA_BYTES = 4.3  # of a parameter under an adapter: weight 4, and 16 bytes for each of about 2 % that the adapter adds
USABLE = 0.6  # of the memory; the rest is for activations, the tokenizer and the system


@dataclass(frozen=True, slots=True)
class Gpu:
    name: str
    memory_gb: float
    bfloat16: bool


@dataclass(frozen=True, slots=True)
class Fits:
    """Estimated millions of parameters that can be trained here, in float32 and with rows of a few hundred tokens."""

    where: str
    full_millions: int
    lora_millions: int


@dataclass(frozen=True, slots=True)
class Findings:
    tomoni: str
    python: str
    system: str
    packages: dict[str, str]
    sqlite: str
    cores: int
    threads: int
    kernels: str
    products: str
    memory_gb: float
    memory_free_gb: float
    disk_free_gb: float
    gpus: tuple[Gpu, ...]
    fits: tuple[Fits, ...]
    warnings: tuple[str, ...]
    paths: dict[str, str]


def command(argv: list[str]) -> int:
    return invoke(doctor, argv, verb="doctor")


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="with paths on this machine")] = False,
) -> None:
    """Versions, hardware and what fits; leaves out paths, unless --verbose, and never prints secrets."""
    found = examine(verbose=verbose)
    print(json.dumps(asdict(found), indent=2, ensure_ascii=False) if as_json else text(found))


def examine(*, verbose: bool = False) -> Findings:
    import torch  # seconds; only this verb waits for it

    memory = memory_limit()
    gpus = tuple(
        Gpu(
            name=torch.cuda.get_device_name(index),
            memory_gb=round(torch.cuda.get_device_properties(index).total_memory / GB, 1),
            bfloat16=torch.cuda.is_bf16_supported(),
        )
        for index in range(torch.cuda.device_count())
    )
    packages = {name: installed(name) for name in PACKAGES}
    free = shutil.disk_usage(Path.cwd()).free
    return Findings(
        tomoni=__version__,
        python=platform.python_version(),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        packages=packages,
        sqlite=sqlite3.sqlite_version,
        cores=cores(),
        threads=torch.get_num_threads(),
        kernels=no_kernels() or "built",
        products=made_by(),
        memory_gb=round(memory / GB, 1),
        memory_free_gb=round(min(memory, psutil.virtual_memory().available) / GB, 1),
        disk_free_gb=round(free / GB, 1),
        gpus=gpus,
        fits=(what_fits("CPU", memory), *(what_fits(gpu.name, int(gpu.memory_gb * GB)) for gpu in gpus)),
        warnings=tuple(warn(packages, sqlite3.sqlite_version_info, free)),
        paths={"python": sys.executable, "package": str(Path(__file__).parents[1])} if verbose else {},
    )


def what_fits(where: str, memory: int) -> Fits:
    usable = memory * USABLE
    return Fits(where, full_millions=int(usable / FULL_BYTES / 1e6), lora_millions=int(usable / LORA_BYTES / 1e6))


def warn(packages: dict[str, str], sqlite: tuple[int, ...], disk_free: int) -> list[str]:
    missing = [name for name, found in packages.items() if not found]
    found = [f"not installed: {', '.join(missing)}; install tomoni again with its constraints.txt"] if missing else []
    if sqlite < SQLITE_SOUND:
        sound = ".".join(map(str, SQLITE_SOUND))
        found.append(f"SQLite is older than {sound}: let one process alone write a feedback database")
    if disk_free < 2 * GB:
        found.append(f"only {disk_free / GB:.1f} GB free on this disk; a run keeps several copies of the model")
    return found


def installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def cores() -> int:
    """Cores this process may use; a container's share where one is set."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _read(Path("/sys/fs/cgroup/cpu.max")).split()
    if len(quota) == 2 and quota[0].isdigit():
        usable = min(usable, max(1, round(int(quota[0]) / int(quota[1]))))
    return usable


def memory_limit() -> int:
    """Bytes of memory of this machine, or of the container where that has less."""
    total = int(psutil.virtual_memory().total)
    limit = _read(Path("/sys/fs/cgroup/memory.max"))
    return min(total, int(limit)) if limit.isdigit() else total


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def text(found: Findings) -> str:
    lines = [
        f"tomoni {found.tomoni}, Python {found.python}, {found.system}",
        "packages   " + ", ".join(f"{name} {number or 'missing'}" for name, number in found.packages.items()),
        f"SQLite     {found.sqlite}",
        f"processor  {found.cores} cores, {found.threads} threads used by PyTorch",
        f"kernels    {found.kernels}"
        + (
            ""
            if found.kernels == "built"
            else "; PyTorch does the same: training is some 10 % slower, answers take twice as long"
        ),
        "products   " + ("tomoni's own in training, on one core each" if found.products == "ours" else "PyTorch's"),
        f"memory     {found.memory_gb} GB, {found.memory_free_gb} GB free",
        f"disk here  {found.disk_free_gb} GB free",
    ]
    lines += [
        f"GPU        {gpu.name}, {gpu.memory_gb} GB, bfloat16 {'yes' if gpu.bfloat16 else 'no'}" for gpu in found.gpus
    ]
    lines += [] if found.gpus else ["GPU        none that PyTorch sees"]
    lines += [
        f"fits       on {fits.where}: about {fits.full_millions:,} M parameters with all weights trained, "
        f"{fits.lora_millions:,} M with LoRA (an estimate)"
        for fits in found.fits
    ]
    lines += [f"{name:<10} {path}" for name, path in found.paths.items()]
    return "\n".join(lines + [f"warning    {warning}" for warning in found.warnings])
