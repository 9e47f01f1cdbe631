"""Fine-tune a text-to-image model's LoRA from class names by policy gradient, with any rewards.

    accelerate launch training/train_ddpo.py --config training/configs/mini_ddpo.yaml --output_dir out
    python training/train_ddpo.py --class_names circle star --reward_funcs jpeg_size --num_inference_steps 10

Settings are those of ``DDPOConfig``, as flags or in a YAML file; ``--help`` lists them. Where ubgen is
installed without a clone, ``-m ubgen_training.ddpo`` stands for this file.
"""

import sys

from ubgen_training.ddpo.command import main

if __name__ == "__main__":
    sys.exit(main())
