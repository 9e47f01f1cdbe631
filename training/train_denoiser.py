"""Train a text-to-image model's denoiser, or a LoRA on it, on labelled images with any loss weighting.

    accelerate launch training/train_denoiser.py --dataset DATASET --weighting debias --output_dir OUT
    python training/train_denoiser.py --config training/configs/mini_denoiser.yaml --dataset DATASET

Settings are those of ``DenoiserConfig``, as flags or in a YAML file; ``--help`` lists them. Where ubgen is
installed without a clone, ``-m ubgen_training.denoising`` stands for this file.
"""

import sys

from ubgen_training.denoising.command import main

if __name__ == "__main__":
    sys.exit(main())
