"""Who trains in a run folder: one process at a time, and nobody once it is dead, however it died."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from shudun.errors import ShudunError
from shudun_training import run_state
from shudun_training.run_files import CURVES, LOCK, REPORT, REPORT_JSON, SCORES, STARTS
from shudun_training.run_state import held, is_held, read_starts, record_start

HOLDER = """
import sys, time
from pathlib import Path
from shudun_training.run_state import held
with held(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_folder_is_held_while_a_process_trains_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_state, "WAIT_SECONDS", 0.0)
    folder = tmp_path / "new"
    assert not is_held(folder)
    with held(folder):
        assert is_held(folder)
        with pytest.raises(ShudunError, match="another process trains here"), held(folder):
            pass
        assert is_held(folder)
    assert not is_held(folder)


def test_a_failed_run_holds_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), held(tmp_path):
        raise KeyboardInterrupt
    assert not is_held(tmp_path)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_a_killed_process_holds_nothing(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        assert is_held(tmp_path)
        process.send_signal(signal.SIGKILL)
    assert not is_held(tmp_path)


def test_of_several_processes_the_first_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with held(tmp_path):
        monkeypatch.setenv("RANK", "1")
        with held(tmp_path):
            pass
    assert {path.name for path in tmp_path.iterdir()} == {LOCK}


def test_every_start_is_noted_with_its_versions(tmp_path: Path) -> None:
    assert read_starts(tmp_path) == []
    record_start(tmp_path, resume=False)
    record_start(tmp_path, resume=True)
    starts = read_starts(tmp_path)
    assert [start["resume"] for start in starts] == [False, True]
    assert starts[0]["environment"]["packages"]["torch"]
    assert starts[0]["hardware"]["cpus"] >= 1
    assert starts[0]["time"] <= starts[1]["time"]


def test_a_fresh_start_drops_curves_and_report_of_the_run_before(tmp_path: Path) -> None:
    old = [tmp_path / CURVES, tmp_path / REPORT / REPORT_JSON, tmp_path / REPORT / SCORES]
    (tmp_path / REPORT).mkdir()
    for path in (*old, tmp_path / REPORT / "mine.txt"):
        path.write_text("old", encoding="utf-8")
    record_start(tmp_path, resume=True)
    assert all(path.exists() for path in old)
    record_start(tmp_path, resume=False)
    assert not any(path.exists() for path in old)
    assert (tmp_path / REPORT / "mine.txt").exists()
    assert len(read_starts(tmp_path)) == 1


def test_a_start_cut_off_by_a_kill_is_left_out_and_other_damage_is_named(tmp_path: Path) -> None:
    record_start(tmp_path, resume=False)
    path = tmp_path / STARTS
    whole = path.read_text(encoding="utf-8")
    path.write_text(whole + whole[:40], encoding="utf-8")
    assert len(read_starts(tmp_path)) == 1
    for bad in ("{\n", "[]\n", '{"time": 3}\n'):
        path.write_text(bad + whole, encoding="utf-8")
        with pytest.raises(ShudunError, match=r"starts\.jsonl"):
            read_starts(tmp_path)
