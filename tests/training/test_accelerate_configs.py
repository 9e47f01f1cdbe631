"""The launch files are read by accelerate itself, and say what the documents say of them."""

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser
from accelerate.utils import DistributedType

from support import ROOT

FOLDER = ROOT / "training" / "configs" / "accelerate"
KINDS = {
    "ddp": DistributedType.MULTI_GPU,
    "fsdp2": DistributedType.FSDP,
    "deepspeed_zero2": DistributedType.DEEPSPEED,
    "multi_node": DistributedType.MULTI_GPU,
}


def test_every_file_is_covered():
    assert {file.stem for file in FOLDER.glob("*.yaml")} == set(KINDS)


@pytest.mark.parametrize("name", KINDS)
def test_accelerate_reads_it(name):
    config = load_config_from_file(str(FOLDER / f"{name}.yaml"))
    assert config.distributed_type == KINDS[name]
    assert config.num_processes > 1 and config.num_machines == (2 if name == "multi_node" else 1)
    # precision is the trainer's own setting: two places could contradict each other
    assert config.mixed_precision == "no"


@pytest.mark.parametrize("name, prefix", [("fsdp2", "fsdp"), ("deepspeed_zero2", "deepspeed")])
def test_every_key_of_a_plugin_is_an_option_of_the_launcher(name, prefix):
    """The launcher silently ignores a key it does not know."""
    values = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())[f"{prefix}_config"]
    options = {action.dest for action in launch_command_parser()._actions}
    assert values and set(values) <= options


def test_the_blocks_that_fsdp2_cuts_are_those_of_the_unet(random_mini_model):
    from diffusers import UNet2DConditionModel

    values = yaml.safe_load((FOLDER / "fsdp2.yaml").read_text())["fsdp_config"]
    unet = UNet2DConditionModel.from_pretrained(random_mini_model, subfolder="unet")
    present = {type(module).__name__ for module in unet.modules()}
    assert values["fsdp_version"] == 2
    assert set(values["fsdp_transformer_layer_cls_to_wrap"].split(",")) <= present
