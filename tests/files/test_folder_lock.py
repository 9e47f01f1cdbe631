"""One run at a time in an output folder: refused while the other lives, free when it is killed, shared by ranks."""

import signal
import subprocess
import sys

import pytest

from ubgen_pipeline.files.folder_lock import writing_into

HOLD = """
import sys, time
from ubgen_pipeline.files.folder_lock import writing_into
with writing_into(sys.argv[1], int(sys.argv[2])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_an_address_is_no_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="output_dir is 's3://bucket/d', an address"), writing_into("s3://bucket/d"):
        pass
    assert not list(tmp_path.iterdir())


def hold(folder, rank: int = 0) -> subprocess.Popen:
    process = subprocess.Popen([sys.executable, "-c", HOLD, folder, str(rank)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def contents(folder) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_a_second_run_is_refused_until_the_first_is_gone(tmp_path):
    folder = tmp_path / "out"
    with hold(folder) as other:
        with (
            pytest.raises(ValueError, match=f"output_dir is '.*out', into which process {other.pid} on .* is writing"),
            writing_into(folder),
        ):
            raise AssertionError("not reached")
        with writing_into(tmp_path / "elsewhere"):
            pass
        other.send_signal(signal.SIGKILL)
        other.wait(60)
    # what a killed run leaves is no obstacle, and does not stay
    assert contents(folder) == [".ubgen", ".ubgen/rank-0.lock"]
    with writing_into(folder):
        (folder / "result").touch()
    assert contents(folder) == ["result"]


def test_ranks_of_one_run_share_the_folder(tmp_path):
    with hold(tmp_path, rank=1) as other, writing_into(tmp_path, 0):
        with pytest.raises(ValueError, match="give another directory"), writing_into(tmp_path, 1):
            raise AssertionError("not reached")
        other.kill()
        other.wait(60)
    assert contents(tmp_path) == []


def test_a_run_that_fails_leaves_no_folder_and_keeps_what_it_wrote(tmp_path):
    with pytest.raises(KeyError), writing_into(tmp_path / "a" / "b"):
        raise KeyError
    assert contents(tmp_path) == []
    with pytest.raises(KeyError), writing_into(tmp_path / "a" / "b"):
        (tmp_path / "a" / "b" / "part").touch()
        raise KeyError
    assert "a/b/part" in contents(tmp_path) and not list(tmp_path.rglob("*.lock"))


def test_a_folder_that_cannot_be_made_is_left_to_the_command(tmp_path):
    (tmp_path / "file").touch()
    with writing_into(tmp_path / "file" / "out"):
        pass
    assert contents(tmp_path) == ["file"]


def test_the_commands_refuse_with_one_line(tmp_path, capsys):
    from ubgen_pipeline.generation.generate import main
    from ubgen_training.command import run_training
    from ubgen_training.segmenter.segmenter_config import SegmenterConfig

    with writing_into(tmp_path):
        code = main(["--class-names", "a", "--samples-per-class", "1", "--output-dir", str(tmp_path)])
        assert code == 2 and "is writing; wait until it ends" in capsys.readouterr().err
        argv = ["--output_dir", str(tmp_path), "--dataset", "mini:8", "--use_cpu", "true"]
        code = run_training(lambda config: tmp_path, SegmenterConfig, argv, prog="train", description="Train.")
        captured = capsys.readouterr()
        assert code == 2 and "is writing; wait until it ends" in captured.err and not captured.out
    assert contents(tmp_path) == []
