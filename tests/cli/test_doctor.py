"""`tomoni doctor`: what a bug report needs, and nothing that is nobody's business."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tomoni.cli import app, doctor


def test_it_tells_versions_and_hardware_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["packages"]["torch"].startswith("2.")
    assert found["cores"] >= 1
    assert 0 < found["memory_free_gb"] <= found["memory_gb"]
    assert found["fits"][0]["where"] == "CPU"


def test_it_leaves_out_paths_and_secrets(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_not_to_be_seen")
    for words in (["doctor"], ["doctor", "--json"]):
        assert app.main(words) == 0
        shown = capsys.readouterr().out
        assert "hf_not_to_be_seen" not in shown
        assert str(Path(app.__file__).parents[2]) not in shown
        assert str(Path.home()) + "/" not in shown
    assert app.main(["doctor", "--verbose"]) == 0
    assert str(Path(app.__file__).parents[1]) in capsys.readouterr().out


def test_what_fits_is_memory_over_bytes_for_each_parameter() -> None:
    # 16 GB, 60 % of it usable: 9.6e9 bytes; 16 bytes a trained parameter: 600 M; 4.3 under an adapter: 2232 M
    fits = doctor.what_fits("CPU", 16_000_000_000)
    assert (fits.full_millions, fits.lora_millions) == (600, 2232)


def test_old_sqlite_missing_packages_and_a_full_disk_are_warned_of() -> None:
    warnings = doctor.warn({"torch": "", "peft": "0.21"}, (3, 40, 1), 500_000_000)
    assert [warning.split(":")[0].split(";")[0] for warning in warnings] == [
        "not installed",
        "SQLite is older than 3.51.3",
        "only 0.5 GB free on this disk",
    ]
    assert doctor.warn({"torch": "2.13"}, (3, 51, 3), 50_000_000_000) == []


def test_a_container_s_share_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"/sys/fs/cgroup/cpu.max": "100000 100000", "/sys/fs/cgroup/memory.max": "1000000000"}
    monkeypatch.setattr(doctor, "_read", lambda path: files[str(path)])
    assert doctor.cores() == 1
    assert doctor.memory_limit() == 1_000_000_000
    monkeypatch.setattr(doctor, "_read", lambda path: "max 100000" if path.name == "cpu.max" else "max")
    assert doctor.cores() >= 1
    assert doctor.memory_limit() > 1_000_000_000
