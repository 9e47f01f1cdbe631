"""Train an image classifier of timm's on a generated or any other labelled dataset.

    accelerate launch training/train_backbone.py --config training/configs/backbone_resnet50.yaml --dataset DATASET
    python training/train_backbone.py --config training/configs/mini_backbone.yaml --dataset DATASET

Settings are those of ``BackboneConfig``, as flags or in a YAML file; ``--help`` lists them. Where ubgen is
installed without a clone, ``-m ubgen_training.backbone`` stands for this file.
"""

import sys

from ubgen_training.backbone.command import main

if __name__ == "__main__":
    sys.exit(main())
