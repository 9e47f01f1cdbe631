"""Two processes on the CPU over gloo, through the launch files: resume bit for bit under DDP, FSDP2 and two nodes.

Each launch trains several runs one after another, in processes that are forked with the libraries imported: starting
Python costs more than the runs. What a launch of ``python`` itself does is in ``test_command.py``.
"""

import json
import os
import re
import shutil
import socket
import subprocess

import pytest
import torch
from safetensors.torch import load_file

from support import ROOT, SUPPORT
from support.checkpoint_equality import assert_equal_checkpoints, safetensors_content
from support.tiny_clip import build_tiny_clip
from support.training_worker import run
from support.warm_python import warm_programs
from ubgen_training.checkpoints.folders import newest_checkpoint
from ubgen_training.checkpoints.state import load_state

WORKER = SUPPORT / "training_worker.py"
CONFIGS = ROOT / "training" / "configs" / "accelerate"
LORA = "pytorch_lora_weights.safetensors"
UBGEN_LAST, DDPO_LAST = 3, 6
_ERROR = re.compile(r"Fatal Python error|terminate called|Traceback \(most recent call last\)|\w+Error: ")
# no held-out samples, which cost more than the updates
# one update on two pairs of images
VARIETY = {"clip": None, "variety": True, "max_steps": 1, "images_per_class_in_batch": 2}
VARIETY |= {"gradient_accumulation_steps": 1}
UNWATCHED = {"heldout_steps": 0, "sample_steps": 0}


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    return build_tiny_clip(tmp_path_factory.mktemp("clip"))


def _start(jobs, config, runs, *flags):
    """Launch ``runs`` with one of the launch files; returns the process."""
    launcher = {"multi_node": "ddp", "deepspeed_zero2": "deepspeed"}.get(config, config)
    jobs.write_text(json.dumps({"launcher": launcher, "runs": runs}))
    sharded = {"ACCELERATE_TORCH_DEVICE": "cpu", "DS_ACCELERATOR": "cpu"}
    device = {"ACCELERATE_USE_CPU": "true"} if launcher == "ddp" else sharded
    python = str(warm_programs() / "python")
    command = [python, "-m", "accelerate.commands.launch", "--config_file", str(CONFIGS / f"{config}.yaml")]
    return subprocess.Popen(
        [*command, "--num_processes", "2", *flags, "--no_python", python, str(WORKER), str(jobs)],
        # a process that C++ ends says where in Python it was
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1"} | device,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _finish(*processes):
    """Exit codes, and of the outputs what comes from the first error on: what fails later fails because of it."""
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    starts = [_ERROR.search(output) for output in outputs]
    parts = [output[start.start() if start else -4000 :][:8000] for output, start in zip(outputs, starts)]
    return [process.returncode for process in processes], "\n".join(parts)


@pytest.fixture(scope="module")
def ddp(tiny_model, clip_folder, tmp_path_factory):
    """All trainers without a stop; then one of each that a kill of the second process ends inside an update."""
    folder = tmp_path_factory.mktemp("ddp")
    ubgen = {"model": tiny_model, "clip": clip_folder, "max_steps": UBGEN_LAST, **UNWATCHED}
    ddpo = {"model": tiny_model, "kind": "ddpo", "max_steps": DDPO_LAST, **UNWATCHED}
    runs = [
        {**ubgen, "output_dir": str(folder / "ubgen")},
        {**ddpo, "output_dir": str(folder / "ddpo")},
        # with a reward that remembers images and compares those of both processes
        {**ddpo, "kind": "nft", "variety": True, "output_dir": str(folder / "nft")},
        {**ubgen, "clip": None, "max_steps": 2, "images_per_class_in_batch": 2, "output_dir": str(folder / "pairs")},
        {**ubgen, **VARIETY, "output_dir": str(folder / "variety")},
        {**ubgen, "output_dir": str(folder / "killed"), "kill_inside_step": 1},
    ]
    codes, output = _finish(_start(folder / "jobs.json", "ddp", runs))
    assert codes != [0], "the kill was survived"
    assert newest_checkpoint(folder / "ddpo") == folder / "ddpo" / f"checkpoint-{DDPO_LAST}", output
    assert newest_checkpoint(folder / "killed") == folder / "killed" / "checkpoint-1", output
    return folder


@pytest.fixture(scope="module")
def resumed_on_two_nodes(ddp, tiny_model, clip_folder, tmp_path_factory):
    """The killed run, and cut ones from other updates, taken up by two launches that stand for two machines."""
    folder = tmp_path_factory.mktemp("nodes")
    ubgen = {"model": tiny_model, "clip": clip_folder, "max_steps": UBGEN_LAST, "resume": "last", **UNWATCHED}
    ddpo = {"model": tiny_model, "kind": "ddpo", "max_steps": DDPO_LAST, "resume": "last", **UNWATCHED}
    shutil.copytree(ddp / "ubgen" / "checkpoint-2", folder / "ubgen" / "checkpoint-2")
    runs = [{**ubgen, "output_dir": str(ddp / "killed")}, {**ubgen, "output_dir": str(folder / "ubgen")}]
    # in the second inner epoch, and between two rollouts
    for step in (3, 4):
        shutil.copytree(ddp / "ddpo" / f"checkpoint-{step}", folder / f"ddpo_{step}" / f"checkpoint-{step}")
        runs.append({**ddpo, "output_dir": str(folder / f"ddpo_{step}")})
    shutil.copytree(ddp / "nft" / "checkpoint-3", folder / "nft_3" / "checkpoint-3")
    runs.append({**ddpo, "kind": "nft", "variety": True, "output_dir": str(folder / "nft_3")})
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    flags = [("--machine_rank", str(rank), "--main_process_port", port) for rank in (0, 1)]
    # one worker on each "machine"
    nodes = [_start(folder / f"jobs_{i}.json", "multi_node", runs, *own) for i, own in enumerate(flags)]
    codes, output = _finish(*nodes)
    assert codes == [0, 0], output
    return folder


def test_a_killed_run_of_two_processes_resumes_bit_equal(ddp, resumed_on_two_nodes):
    last = f"checkpoint-{UBGEN_LAST}"
    assert_equal_checkpoints(ddp / "killed" / last, ddp / "ubgen" / last, num_ranks=2)


def test_ubgen_resumes_bit_equal_on_two_nodes(ddp, resumed_on_two_nodes):
    last = f"checkpoint-{UBGEN_LAST}"
    assert_equal_checkpoints(resumed_on_two_nodes / "ubgen" / last, ddp / "ubgen" / last, num_ranks=2)


@pytest.mark.parametrize("name, step", [("ddpo", 3), ("ddpo", 4), ("nft", 3)])
def test_trainings_on_rollouts_resume_bit_equal_on_two_nodes(ddp, resumed_on_two_nodes, name, step):
    last = f"checkpoint-{DDPO_LAST}"
    assert_equal_checkpoints(resumed_on_two_nodes / f"{name}_{step}" / last, ddp / name / last, num_ranks=2)


def test_variety_compares_and_remembers_the_images_of_both_processes(ddp):
    ranks = [load_file(ddp / "variety" / f"remembered_{rank}.safetensors") for rank in (0, 1)]
    assert ranks[0].keys() == ranks[1].keys()
    assert all(torch.equal(rows, ranks[1][name]) for name, rows in ranks[0].items())
    # a pair from each process, four different images, and the centre is the mean of all
    rows = torch.cat([rows for name, rows in ranks[0].items() if name != "centre"])
    assert len(rows.unique(dim=0)) == len(rows) == 4
    torch.testing.assert_close(ranks[0]["centre"], rows.mean(dim=0))


def test_ranks_never_draw_the_same_noise(ddp):
    first, second = (json.loads((ddp / "ubgen" / f"seen_{rank}.json").read_text()) for rank in (0, 1))
    own, other = ({seed for _, seeds in rank for seed in seeds} for rank in (first, second))
    assert len(own) > 2 * UBGEN_LAST and not own & other


def test_each_rank_gets_whole_groups_of_its_own(ddp):
    ranks = [json.loads((ddp / "pairs" / f"seen_{rank}.json").read_text()) for rank in (0, 1)]
    # two updates of two micro-batches, each a pair of images of a class
    batches = [labels for rank in ranks for labels, _ in rank]
    assert [len(rank) for rank in ranks] == [4, 4] and all(len(labels) == 2 for labels in batches)
    assert all(first == second for first, second in batches)
    # of an epoch of nine pairs, three of each class, eight different ones
    assert sorted(torch.tensor(batches)[:, 0].bincount(minlength=3).tolist()) == [2, 3, 3]


def test_the_classes_statistics_hold_the_rewards_of_both_ranks(ddp):
    folder = ddp / "ddpo" / f"checkpoint-{DDPO_LAST}"
    (statistics,) = load_state(folder / "extra_state.safetensors")["statistics"]
    windows = statistics["rewards"]
    # two rollouts of four samples on each of two ranks, three classes, windows of four
    assert sorted(windows) == [0, 1, 2] and sum(map(len, windows.values())) == 12
    # the ranks' own parts of the rollout that goes on differ
    rollouts = [load_state(folder / f"rank_state_{rank}.safetensors")["rollout"] for rank in (0, 1)]
    assert not torch.equal(rollouts[0]["latents"], rollouts[1]["latents"])
    both = torch.cat([rollout["labels"] for rollout in rollouts])
    # eight consecutive places of shuffled passes over three classes
    assert sorted(both.bincount(minlength=3).tolist()) in ([2, 3, 3], [2, 2, 4])


@pytest.fixture(scope="module")
def featured(tiny_model, clip_folder, tmp_path_factory):
    """The straight run with prompts in a folder of both processes, again, and in one of each; then a killed one."""
    folder = tmp_path_factory.mktemp("featured")
    ubgen = {"model": tiny_model, "clip": clip_folder, "max_steps": 1, **UNWATCHED}
    common = {**ubgen, "prompt_features": str(folder / "features")}
    killed = {**ubgen, "prompt_features": str(folder / "killed_features"), "kill_rank_at_prompt": 0}
    runs = [
        {**common, "output_dir": str(folder / "common")},
        {**common, "output_dir": str(folder / "again")},
        {**ubgen, "prompt_features": str(folder / "own_{rank}"), "output_dir": str(folder / "own")},
        {**killed, "output_dir": str(folder / "killed")},
    ]
    codes, output = _finish(_start(folder / "jobs.json", "ddp", runs))
    assert codes != [0] and (folder / "own" / "checkpoint-1").is_dir(), output
    return folder


def _encoded(folder):
    """What each process has encoded of the prompts, and of the one to guide away from."""
    return [sorted(json.loads((folder / f"encoded_{rank}.json").read_text())) for rank in (0, 1)]


@pytest.mark.parametrize("name", ["common", "again", "own"])
def test_processes_that_keep_their_prompts_train_what_others_train(featured, ddp, name):
    own, other = (load_file(run / "checkpoint-1" / LORA) for run in (featured / name, ddp / "ubgen"))
    assert own.keys() == other.keys() and all(torch.equal(value, other[part]) for part, value in own.items())


def test_each_process_encodes_a_part_of_the_prompts(featured):
    assert _encoded(featured / "common") == [["", "circle", "ring"], ["star"]]
    assert _encoded(featured / "again") == [[], []]
    # folders that are not common hold the rest, too
    assert _encoded(featured / "own") == [["", "circle", "ring", "star"]] * 2


def _features(folder):
    return {file.name: safetensors_content(file) for file in folder.rglob("*.safetensors")}


def test_features_of_killed_processes_are_whole_or_made_again(featured, tiny_model, clip_folder, tmp_path, capsys):
    folder = featured / "killed_features"
    # the first one had written a prompt, and not given it its name
    assert len(list(folder.rglob(".*.tmp"))) == 1
    kept = len(_features(folder))
    assert kept < 4
    run(tiny_model, tmp_path, clip_folder, max_steps=1, prompt_features=str(folder), **UNWATCHED)
    assert len(json.loads((tmp_path / "encoded_0.json").read_text())) == 4 - kept
    assert f"ubgen: {3 - kept} prompts left to encode\nubgen: 1 prompt left to encode\n" in capsys.readouterr().err
    assert _features(folder) == _features(featured / "features") == _features(featured / "own_1")
    assert not list(folder.rglob(".*.tmp"))


@pytest.fixture(scope="module")
def fsdp2(tiny_model, clip_folder, tmp_path_factory):
    """Sharded: the LoRA and the whole UNet, each straight and resumed."""
    folder = tmp_path_factory.mktemp("fsdp2")
    runs = []
    for name, own in (
        ("lora", {"clip": clip_folder}),
        ("full", {"train_method": "full", "learning_rate": 1e-4}),
        ("ddpo", {"kind": "ddpo", "reward_funcs": ["brightness"]}),
        # its old weights are exchanged with the trained ones, all of which are sharded
        ("nft", {"kind": "nft", "train_method": "full", "learning_rate": 1e-4, "kl_weight": 0.0}),
    ):
        arguments = {"model": tiny_model, "max_steps": 2, **UNWATCHED, **own}
        runs += [
            {**arguments, "output_dir": str(folder / name)},
            {
                **arguments,
                "output_dir": str(folder / f"{name}_resumed"),
                "resume": str(folder / name / "checkpoint-1"),
            },
        ]
    codes, output = _finish(_start(folder / "jobs.json", "fsdp2", runs))
    assert codes == [0], output
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lora", "full", "ddpo", "nft"])
def test_fsdp2_resumes_bit_equal(fsdp2, name):
    checkpoints = [fsdp2 / folder / "checkpoint-2" for folder in (name, f"{name}_resumed")]
    assert_equal_checkpoints(*checkpoints, num_ranks=2)


def test_fsdp2_trains_what_ddp_trains(fsdp2, ddp):
    """Sharding changes where the weights are, not what is computed."""
    assert_same_training(fsdp2 / "lora", ddp)


def test_deepspeed_trains_what_ddp_trains(ddp, tiny_model, clip_folder, tmp_path):
    pytest.importorskip("deepspeed")
    arguments = {"model": tiny_model, "clip": clip_folder, "max_steps": 2, "save_only_model": True, **UNWATCHED}
    runs = [{**arguments, "output_dir": str(tmp_path)}]
    codes, output = _finish(_start(tmp_path / "jobs.json", "deepspeed_zero2", runs))
    assert codes == [0], output
    assert_same_training(tmp_path, ddp)


def assert_same_training(folder, ddp):
    """After two updates the LoRA is that of DDP, to what rounding makes of it."""
    own, other = (load_file(run / "checkpoint-2" / LORA) for run in (folder, ddp / "ubgen"))
    start = load_file(ddp / "ubgen" / "checkpoint-1" / LORA)
    assert own.keys() == other.keys()
    moved = max((other[name] - start[name]).abs().max().item() for name in own)
    apart = max((own[name] - other[name]).abs().max().item() for name in own)
    assert apart < 0.05 * moved


def test_a_checkpoint_of_two_processes_warns_on_one(ddp, tiny_model, clip_folder, tmp_path):
    shutil.copytree(ddp / "ubgen" / "checkpoint-2", tmp_path / "checkpoint-2")
    with pytest.warns(UserWarning, match="written by 2 processes and goes on with 1"):
        run(tiny_model, tmp_path, clip_folder, max_steps=3, resume="last", **UNWATCHED)
