"""Settings of the training of backbones: what is refused, and what they say of the augmentation."""

import pytest

from ubgen_training.backbone.augmented_images import Augmentation
from ubgen_training.backbone.backbone_config import BackboneConfig


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_size": 0}, "image_size is 0"),
        ({"random_erasing": 1.5}, r"random_erasing is 1\.5"),
        ({"least_crop": -1.0}, r"least_crop is -1\.0"),
        ({"label_smoothing": 1.0}, r"label_smoothing is 1\.0"),
        ({"average_decay": 1.0}, r"average_decay is 1\.0"),
        ({"mixup": -0.1}, r"mixup is -0\.1"),
        ({"per_device_train_batch_size": 3}, "need an even one"),
        ({"dataloader_drop_last": False}, "whole batches"),
        ({"max_rows": 0}, "max_rows is 0"),
        ({"streaming": True, "max_steps": 1, "max_rows": 4}, "max_rows needs all rows"),
        ({"model_args": "[1]"}, "give a JSON object"),
        ({"model_args": "{"}, "which is no JSON"),
    ],
)
def test_what_is_out_of_range(settings, message):
    with pytest.raises(ValueError, match=message):
        BackboneConfig(dataset="x", use_cpu=True, **settings)


def test_without_mixing_any_batch_will_do():
    config = BackboneConfig(
        dataset="x", use_cpu=True, mixup=0, cutmix=0, per_device_train_batch_size=3, dataloader_drop_last=False
    )
    assert not config.is_mixing and BackboneConfig(dataset="x", use_cpu=True).is_mixing


def test_the_augmentation_has_each_setting_in_its_place():
    names = Augmentation.__dataclass_fields__
    changed = {name: field.default / 2 for name, field in names.items() if isinstance(field.default, float)}
    changed |= {"image_size": 32, "rand_augment_magnitude": 3}
    config = BackboneConfig(dataset="x", use_cpu=True, model_args='{"a": 1}', **changed)
    assert config.augmentation == Augmentation(**changed) and set(changed) == set(names)
    assert config.model_args == {"a": 1}
