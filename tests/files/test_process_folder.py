"""Temporary folders: gone with their process, also where it was killed, and never another process's."""

import signal
import subprocess
import sys
import tempfile

import pytest

from ubgen_pipeline.files.process_folder import process_folder

WAITING = """
import sys, time
from ubgen_pipeline.files.process_folder import process_folder
with process_folder() as folder:
    (folder / "shard").write_text("half")
    print(folder, flush=True)
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_it_is_gone_after_its_body_whatever_happened_there(place):
    with process_folder() as folder:
        (folder / "a").write_text("1")
        assert folder.parent == place and folder.stat().st_mode & 0o777 == 0o700
    assert not list(place.iterdir())
    with pytest.raises(KeyError), process_folder() as folder:
        (folder / "a").write_text("1")
        raise KeyError
    assert not list(place.iterdir())


def test_a_process_may_have_several(place):
    with process_folder() as first, process_folder() as second:
        (first / "a").write_text("1")
        with process_folder() as third:
            assert len({first, second, third}) == 3 and (first / "a").exists()
        assert not third.exists() and second.is_dir()
    assert not list(place.iterdir())


def test_of_others_only_those_of_killed_processes_are_removed(place, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(place))
    command = [sys.executable, "-c", WAITING]
    alive, killed = (subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2))
    try:
        folders = [place / process.stdout.readline().strip() for process in (alive, killed)]
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        assert (folders[1] / "shard").read_text() == "half"
        with process_folder() as own:
            assert own.is_dir() and not folders[1].exists() and not folders[1].with_suffix(".lock").exists()
            assert (folders[0] / "shard").read_text() == "half"
    finally:
        for process in (alive, killed):
            process.kill()
            process.wait()
            process.stdout.close()


def test_what_it_did_not_make_stays(place):
    (place / "elsewhere").mkdir()
    (place / "elsewhere" / "kept").write_text("kept")
    (place / "kept.txt").write_text("kept")
    (place / "ubgen-mine").mkdir()  # without a lock
    (place / "ubgen-link.lock").symlink_to(place / "kept.txt")
    (place / "ubgen-link").symlink_to(place / "elsewhere")
    with process_folder():
        pass
    assert (place / "kept.txt").read_text() == (place / "elsewhere" / "kept").read_text() == "kept"
    assert (place / "ubgen-mine").is_dir() and (place / "ubgen-link.lock").is_symlink()
