"""The sources in C, built once by the machine's own C compiler and kept in the user's cache.

Without a compiler, or with TOMONI_KERNELS=off, `library` is None and PyTorch does the same work in more passes over
memory (`elementwise`). A build takes some seconds; it is named by its sources, its compiler's command and the
processor, so that none is ever used for another.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess  # runs the machine's C compiler, with a fixed list of arguments
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

FOLDER = Path(__file__).parent
HEADERS = ("exponential.h", "tiles.h")
# no -ffast-math: it takes NaN for impossible, and linked into a library it changes the arithmetic of the whole process
FLAGS = ("-O3", "-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros", "-fPIC")
# what `tiles.h` sums for a row is to be the same whatever rows stand beside it, so those sums are not rearranged
SOURCES = {"kernels.c": ("-fassociative-math",), "decoder.c": ("-pthread",), "products.c": ()}
NATIVE = {"arm64": "-mcpu=native", "aarch64": "-mcpu=native"}
BUILD_SECONDS = 60


_building = threading.RLock()


def library() -> ctypes.CDLL | None:
    """The built kernels; None where there are none."""
    with _building:
        return _library()


def reason() -> str | None:
    """Why there are no kernels here, in words; None where there are."""
    with _building:
        return _reason()


def build_ahead() -> None:
    """Begin to build, where that is still to be done, beside whatever else there is to do first."""
    threading.Thread(target=library, name="kernels", daemon=True).start()


@functools.cache
def _library() -> ctypes.CDLL | None:
    return None if _reason() else _load()


@functools.cache
def _reason() -> str | None:
    if os.environ.get("TOMONI_KERNELS", "").lower() in ("off", "0"):
        return "switched off by TOMONI_KERNELS"
    if _compiler() is None:
        return "no C compiler (cc, gcc or clang) was found"
    try:
        _built()
        _load()
    except (OSError, subprocess.SubprocessError) as problem:
        said = getattr(problem, "stderr", None) or str(problem)
        return f"the C compiler could not build them: {said.strip().splitlines()[-1] if said.strip() else problem}"
    return None


def _compiler() -> str | None:
    named = os.environ.get("CC", "").split()
    return next((path for name in (*named[:1], "cc", "gcc", "clang") if (path := shutil.which(name))), None)


def _load() -> ctypes.CDLL:
    path = _built()
    try:
        return ctypes.CDLL(str(path))
    except OSError:  # cut short by a crash, perhaps: built once more
        path.unlink(missing_ok=True)
        _built.cache_clear()
        return ctypes.CDLL(str(_built()))


@functools.cache
def _built() -> Path:
    compiler = _compiler()
    assert compiler is not None
    command = [compiler, *FLAGS, NATIVE.get(platform.machine().lower(), "-march=native")]
    sources = [(FOLDER / name).read_bytes() for name in (*SOURCES, *HEADERS)]
    parts = [*command, *(flag for flags in SOURCES.values() for flag in flags)]
    key = hashlib.sha256(b"\0".join([*sources, *(part.encode() for part in parts), processor()])).hexdigest()[:24]
    folder = _cache()
    path = folder / f"{key}.so"
    if path.is_file() and _is_ours(path):
        return path
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        objects = [str(Path(scratch) / f"{name}.o") for name in SOURCES]
        compiling = [
            [*command, *flags, "-c", str(FOLDER / name), "-o", made]
            for (name, flags), made in zip(SOURCES.items(), objects, strict=True)
        ]
        with ThreadPoolExecutor(len(compiling)) as side_by_side:
            list(side_by_side.map(_told, compiling))
        made = Path(scratch) / "kernels.so"
        _told([compiler, "-shared", "-pthread", "-o", str(made), *objects, "-lm"])
        made.chmod(0o700)
        made.replace(path)
    return path


def _told(command: list[str]) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=BUILD_SECONDS)  # noqa: S603


def _cache() -> Path:
    """The user's own folder for builds; one of this process's alone where that is not to be had or not safe."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tomoni" / "kernels"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if _is_ours(folder) and os.access(folder, os.W_OK):
            return folder
    except OSError:
        pass
    return Path(tempfile.mkdtemp(prefix="tomoni-kernels-"))


def _is_ours(path: Path) -> bool:
    """Nobody else may have put it there: a library that is loaded runs as we do."""
    found = path.stat()
    return not hasattr(os, "getuid") or (found.st_uid == os.getuid() and not found.st_mode & 0o022)


@functools.cache
def processor() -> bytes:
    """What the system says of it: name and abilities."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return "\n".join(
            sorted({line for line in lines if line.startswith(("vendor_id", "model name", "flags", "Features"))})
        ).encode()
    except OSError:
        return f"{platform.machine()} {platform.processor()}".encode()
