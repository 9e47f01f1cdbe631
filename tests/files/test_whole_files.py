"""Files and folders are whole or not there: killed writers, two at once, a full disk; and nobody else renames."""

import os
import re
import resource
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from support import ROOT
from ubgen_pipeline.files.whole_files import append_line, move_into_place, whole_file, whole_folder, write_whole_text

OLD, NEW = "old\n" * 1000, "new\n" * 100_000

KILLED = """
import os, signal, sys
from ubgen_pipeline.files.whole_files import write_whole_text
os.replace = lambda *paths: os.kill(os.getpid(), signal.SIGKILL)
write_whole_text(sys.argv[1], "half a file")
"""

FULL_DISK = """
import resource, sys
from ubgen_pipeline.files.whole_files import write_whole_text
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
write_whole_text(sys.argv[1], "x" * 10_000)
"""

AGAIN_AND_AGAIN = """
import sys
from ubgen_pipeline.files.whole_files import write_whole_text
print("started", flush=True)
for _ in range(100):
    write_whole_text(sys.argv[1], sys.argv[2] * 200_000)
"""


def python(code: str, *arguments) -> subprocess.Popen:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_file_is_replaced_and_its_folder_made(tmp_path):
    file = tmp_path / "new" / "a.txt"
    write_whole_text(file, "größer\n")
    assert file.read_bytes() == "größer\n".encode()
    write_whole_text(file, NEW)
    assert file.read_text() == NEW and [item.name for item in file.parent.iterdir()] == ["a.txt"]


def test_a_kill_between_write_and_rename_leaves_the_old_file(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text(OLD)
    assert python(KILLED, file).wait() == -signal.SIGKILL
    assert file.read_text() == OLD
    leftover = next(item for item in tmp_path.iterdir() if item != file)
    assert leftover.name.startswith(".a.txt.") and leftover.suffix == ".tmp"
    # of another file, of a process that lives: this one's parent, and of another machine or container
    others = [tmp_path / leftover.name.replace(".a.txt.", ".b.txt.")]
    others += [tmp_path / re.sub(r"\d+-\d+\.tmp$", f"{os.getppid()}-1.tmp", leftover.name)]
    host = re.sub(r"^\.a\.txt\.|\.\d+-\d+\.tmp$", "", leftover.name)
    others += [tmp_path / leftover.name.replace(f".{host}.", f".{other}.") for other in (f"{host}0", "other")]
    if Path("/proc/self/ns/pid").exists():
        # containers of one name differ by this number
        assert host.endswith(f"-{os.stat('/proc/self/ns/pid').st_ino}")
    for other in others:
        other.touch()
    write_whole_text(file, NEW)
    assert file.read_text() == NEW and sorted(tmp_path.iterdir()) == sorted([file, *others])


def test_an_error_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text(OLD)
    with pytest.raises(KeyError), whole_file(file) as temporary:
        temporary.write_text("half a file")
        raise KeyError
    assert file.read_text() == OLD and list(tmp_path.iterdir()) == [file]


def test_no_space_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text(OLD)
    process = python(FULL_DISK, file)
    assert "OSError: [Errno 27]" in process.communicate()[1] and process.returncode == 1
    assert file.read_text() == OLD and list(tmp_path.iterdir()) == [file]
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


def test_a_reader_sees_whole_files_while_two_processes_write(tmp_path):
    file = tmp_path / "a.txt"
    writers = [python(AGAIN_AND_AGAIN, file, letter) for letter in "ab"]
    for writer in writers:
        assert writer.stdout is not None and writer.stdout.readline() == "started\n"
    seen = set()
    while any(writer.poll() is None for writer in writers):
        if file.exists():
            text = file.read_text()
            assert text in ("a" * 200_000, "b" * 200_000)
            seen.add(text[0])
    assert [writer.communicate()[1] for writer in writers] == ["", ""] and seen
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("umask, expected", [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_permissions_are_those_of_any_new_file(tmp_path, umask, expected):
    before = os.umask(umask)
    try:
        with whole_file(tmp_path / "a") as temporary:
            # as safetensors does
            temporary.unlink()
            temporary.touch(0o600)
        write_whole_text(tmp_path / "b", "text")
    finally:
        os.umask(before)
    assert {stat.S_IMODE(os.stat(tmp_path / name).st_mode) for name in "ab"} == {expected}


def test_the_content_is_on_the_disk_before_the_name_is(tmp_path, monkeypatch):
    events, fsync, replace = [], os.fsync, os.replace

    def note_fsync(descriptor):
        events.append(os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "replace", lambda old, new: (events.append("rename"), replace(old, new)))
    hidden = tmp_path / "hidden"
    with whole_file(tmp_path / "shown" / "a", hidden) as temporary:
        assert temporary.parent == hidden and not list((tmp_path / "shown").iterdir())
    assert events == [temporary.name, "rename", "shown"] and not list(hidden.iterdir())
    events.clear()
    (tmp_path / "filled" / "inner").mkdir(parents=True)
    (tmp_path / "filled" / "inner" / "b").touch()
    move_into_place(tmp_path / "filled", tmp_path / "there")
    assert events == ["b", "filled", "rename", tmp_path.name]


def test_a_folder_is_there_whole_or_not_at_all(tmp_path):
    with pytest.raises(KeyError), whole_folder(tmp_path / "deep" / "d") as temporary:
        (temporary / "a").touch()
        raise KeyError
    assert not list((tmp_path / "deep").iterdir())
    (tmp_path / "empty").mkdir()
    for name in ("deep/d", "empty"):
        with whole_folder(tmp_path / name) as temporary:
            (temporary / "a").touch()
            assert not (tmp_path / name / "a").exists()
        assert [item.name for item in (tmp_path / name).iterdir()] == ["a"]
    with pytest.raises(OSError, match="not empty"), whole_folder(tmp_path / "empty") as temporary:
        (temporary / "b").touch()
    assert sorted(str(item.relative_to(tmp_path)) for item in tmp_path.rglob("*")) == [
        "deep", "deep/d", "deep/d/a", "empty", "empty/a",
    ]  # fmt: skip


def test_what_is_moved_into_place_replaces_a_file_and_a_folder(tmp_path):
    for number in (1, 2):
        (tmp_path / "w").mkdir()
        (tmp_path / "w" / f"a{number}").touch()
        move_into_place(tmp_path / "w", tmp_path / "d")
        (tmp_path / "f.new").write_text(str(number))
        move_into_place(tmp_path / "f.new", tmp_path / "f")
    assert sorted(str(item.relative_to(tmp_path)) for item in tmp_path.rglob("*")) == ["d", "d/a2", "f"]
    assert (tmp_path / "f").read_text() == "2"


def test_a_line_is_added_and_on_the_disk(tmp_path, monkeypatch):
    flushed, fsync = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda descriptor: flushed.append(descriptor) or fsync(descriptor))
    for line in ("first", "zweite ü"):
        append_line(tmp_path / "lines.txt", line)
    assert (tmp_path / "lines.txt").read_text(encoding="utf-8") == "first\nzweite ü\n"
    assert len(flushed) == 2


def test_no_other_module_renames():
    by_hand = re.compile(r"\bos\.(replace|rename|renames|fsync)\b|NamedTemporaryFile|shutil\.move|\.rename\(")
    code = [file for room in ("ubgen_pipeline", "training", "evaluation", "hub_cards", "space", "benchmarks")
            for file in (ROOT / room).rglob("*.py")]  # fmt: skip
    found = sorted(str(file.relative_to(ROOT)) for file in code if by_hand.search(file.read_text(encoding="utf-8")))
    assert len(code) > 200 and found == ["ubgen_pipeline/files/whole_files.py"]
