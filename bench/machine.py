"""What the measuring was done on: processor, cores, memory, versions. No torch."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.turns import Pythons

FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_tile", "amx_bf16", "amx_int8", "asimd", "sve")
SHOWN = ("torch", "transformers", "peft", "trl", "accelerate", "datasets", "tokenizers", "numpy")


def about(pythons: Pythons) -> dict[str, Any]:
    text = _read("/proc/cpuinfo")
    flags = set((re.search(r"^flags\s*:(.*)$", text, re.MULTILINE) or ["", ""])[1].split())
    model = re.search(r"^model name\s*:\s*(.*)$", text, re.MULTILINE)
    memory = re.search(r"^MemTotal:\s*(\d+) kB$", _read("/proc/meminfo"), re.MULTILINE)
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": model[1] if model else platform.processor(),
        "cores": os.cpu_count(),
        "flags": [flag for flag in FLAGS if flag in flags],
        "memory_gib": round(int(memory[1]) / 2**20) if memory else None,
        "python": platform.python_version(),
        "ours": versions(pythons.ours),
        "peers": versions(pythons.peers),
    }


def versions(python: str) -> dict[str, str]:
    code = (
        "import importlib.metadata as m, json\n"
        f"names = {SHOWN!r}\n"
        "there = {d.metadata['Name'].lower(): d.version for d in m.distributions()}\n"
        "print(json.dumps({name: there[name] for name in names if name in there}))"
    )
    return json.loads(subprocess.run([python, "-c", code], capture_output=True, check=True).stdout)


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError:
        return ""
