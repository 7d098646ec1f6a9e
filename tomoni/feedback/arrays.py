"""Arrays inside JSON, bit for bit and without pickle."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tomoni.errors import DataError

Float = NDArray[np.float64]
AGAIN = "fit it again from the judgements"


def encoded(array: Float) -> dict[str, Any]:
    """{"shape": […], "float64": base64 of little-endian rows}."""
    content = np.ascontiguousarray(array, dtype="<f8").tobytes()
    return {"shape": list(array.shape), "float64": base64.b64encode(content).decode("ascii")}


def decoded(form: Any, *, name: str, dimensions: int) -> Float:
    """Raises DataError for anything that is not a finite array of that many dimensions."""
    try:
        shape = tuple(int(size) for size in form["shape"])
        array = np.frombuffer(base64.b64decode(form["float64"], validate=True), dtype="<f8").reshape(shape)
    except (TypeError, KeyError, ValueError, binascii.Error) as error:
        raise DataError(f"{name}: not an array in base64 ({error})", next_step=AGAIN) from error
    if array.ndim != dimensions or not np.isfinite(array).all():
        raise DataError(f"{name}: shape {shape}, or a value that is not finite", next_step=AGAIN)
    return array.astype(np.float64)


def checked(form: Any, *, kind: str, schema: int) -> Mapping[str, Any]:
    """A JSON object of that kind and schema, or DataError."""
    if not isinstance(form, Mapping) or form.get("kind") != kind or form.get("schema") != schema:
        found = form.get("kind") if isinstance(form, Mapping) else type(form).__name__
        raise DataError(f'not a "{kind}" of schema {schema}, but {found!r}', next_step=AGAIN)
    return form
