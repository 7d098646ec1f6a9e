"""What people said, as a file: for tomoni again, for TRL, Argilla or Label Studio; and such files taken in. The owner's."""

from __future__ import annotations

import io
import tempfile
import zipfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from starlette.responses import JSONResponse, Response

from tomoni.errors import UserError
from tomoni.studio.access import Caller, Routes, Rule
from tomoni.studio.faults import Fault
from tomoni.studio.holding import sums, upload
from tomoni.studio.pages.data import File

router = Routes()

Form = Literal["jsonl", "trl", "argilla", "labelstudio"]
Written = Literal["jsonl", "trl", "argilla", "labelstudio", "csv"]
FILES: dict[str, str] = {
    "jsonl": "judgements.jsonl",
    "trl": "trl",
    "argilla": "argilla.json",
    "labelstudio": "label-studio.json",
    "csv": "judgements.csv",
}
KINDS = {
    ".jsonl": "application/x-ndjson",
    ".json": "application/json",
    ".csv": "text/csv; charset=utf-8",
    ".zip": "application/zip",
}
ENDINGS = (".jsonl", ".ndjson", ".json")


class Said(File):
    form: Form = "jsonl"
    without_bad: bool = False


@router.get("/api/data/export", rule=Rule.OWNER, may=(404,), kind="*/*")
def export(caller: Caller, form: Written = "jsonl") -> Response:
    """One file as it is; several as a ZIP archive."""
    from tomoni.feedback import exchange

    with tempfile.TemporaryDirectory(prefix="tomoni-export-") as place:
        written = exchange.export(caller.house.store, Path(place) / FILES[form], form=form)
        paths = sorted(Path(path) for path in written)
        if not paths or (form in ("trl", "csv") and not any(written.values())):
            raise Fault("nothing_said", 404)
        ending = paths[0].suffix if len(paths) == 1 else ".zip"
        body = paths[0].read_bytes() if len(paths) == 1 else zipped(paths)
    name = f"tomoni-{form}-{datetime.now(UTC):%Y-%m-%d}{ending}"
    return Response(body, media_type=KINDS[ending], headers={"content-disposition": f'attachment; filename="{name}"'})


def zipped(paths: list[Path]) -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in paths:
            archive.write(path, path.name)
    return held.getvalue()


@router.post("/api/data/judgements", rule=Rule.OWNER)
def take(caller: Caller, body: Said) -> Response:
    """All of the file or, where rows are bad, nothing, unless the others are wanted. The same file twice counts once."""
    from tomoni.errors import DataError
    from tomoni.feedback import exchange

    if not body.name.lower().endswith(ENDINGS):
        raise Fault("file_kind", 400, kinds=", ".join(ENDINGS))
    with upload(body.name, body.content) as path:
        try:
            found = exchange.import_(
                caller.house.store, [path], form=body.form, on_bad_rows="quarantine" if body.without_bad else "stop"
            )
        except DataError as error:
            raise Fault("not_taken", 400, detail=error.text().replace(str(path), body.name)) from None
        except UserError as error:
            raise Fault("below", 400, detail=error.text().replace(str(path), body.name)) from None
    caller.house.asking.wake()
    told = {"judgements": found.new["judgement"], "new": sum(found.new.values()), "known": found.known}
    return JSONResponse({"saved": True, **told, "bad": len(found.bad), "masked": sums(found.masked)})
