"""What a training command leaves behind: no process group after success, whose threads could abort the interpreter."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from torch import distributed

from support import ROOT
from ubgen_training.command import end_process_group, run_training
from ubgen_training.segmenter.segmenter_config import SegmenterConfig

# A training of nothing but one collective operation, in which the first process does not wait for the second. What is
# registered first runs last: one call of some seconds that hands the interpreter's lock to no other thread. So the
# thread of gloo that has the operation's tensor to drop is still waiting for the lock when the interpreter goes down,
# which else happens on a busy machine only, and now and then.
SCRIPT = """
import atexit
atexit.register(sum, range(200_000_000))
import sys, time, torch
from pathlib import Path
from torch import distributed
from ubgen_training.command import run_training
from ubgen_training.segmenter.segmenter_config import SegmenterConfig

def train(config):
    total = torch.tensor(float(config.process_index + 1))
    distributed.barrier()
    time.sleep(config.process_index)
    work = distributed.all_reduce(total, async_op=True)
    del total
    if config.process_index == 1:
        work.wait()
        print(f"{distributed.get_world_size()} processes")
    return Path(config.output_dir)

atexit.register(lambda: print(f"at exit: group is {distributed.is_initialized()}"))
sys.exit(run_training(train, SegmenterConfig, sys.argv[1:], prog="train", description="Train."))
"""


@pytest.fixture
def process_group():
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    if distributed.is_initialized():
        distributed.destroy_process_group()


def train_with(train, tmp_path) -> int:
    argv = ["--dataset", "mini:4:1", "--output_dir", str(tmp_path), "--use_cpu"]
    return run_training(train, SegmenterConfig, argv, prog="train", description="Train.")


def test_the_process_group_ends_with_a_training_that_succeeds(process_group, tmp_path):
    assert train_with(lambda config: tmp_path, tmp_path) == 0
    assert not distributed.is_initialized()
    # a second time there is nothing to end
    end_process_group()


@pytest.mark.parametrize(("error", "code"), [(ValueError, 2), (FloatingPointError, 1)])
def test_it_is_left_alone_where_training_fails(process_group, tmp_path, error, code):
    """Other processes may still wait for this one in a collective operation, and ending the group for them."""

    def train(config: SegmenterConfig) -> Path:
        raise error("no")

    assert train_with(train, tmp_path) == code
    assert distributed.is_initialized()


@pytest.mark.slow
def test_no_process_of_a_launch_aborts_or_has_a_group_at_its_exit(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    launcher = ROOT / "training" / "configs" / "accelerate" / "ddp.yaml"
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", launcher, "--num_processes", "2"]
    flags = ["--dataset", "mini:4:1", "--output_dir", tmp_path / "out", "--use_cpu"]
    done = subprocess.run(
        [*command, script, *flags],
        env=os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("2 processes") == 1
    assert done.stdout.count("at exit: group is False") == 2
