"""What all trainers' settings share."""

import pytest

from ubgen_training.backbone.backbone_config import BackboneConfig
from ubgen_training.ubgen.ubgen_config import UbGenConfig


@pytest.mark.parametrize("settings", [{"use_cpu": True}, {}], ids=["asked for the CPU", "there is nothing else"])
def test_memory_is_pinned_only_for_an_accelerator(tmp_path, settings):
    for config_class in (UbGenConfig, BackboneConfig):
        given = {"dataset": "d"} if config_class is BackboneConfig else {}
        config = config_class(output_dir=str(tmp_path), **given, **settings)
        assert config.dataloader_pin_memory == (config.device.type != "cpu")
