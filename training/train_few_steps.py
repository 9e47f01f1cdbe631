"""Distil a text-to-image model, with its LoRA, into a second LoRA that draws in a few steps without guidance.

    ubgen generate --model BASE --lora LORA … --output-dir DATASET
    accelerate launch training/train_few_steps.py --model_name_or_path BASE --lora LORA --dataset DATASET \\
      --output_dir FEW
    ubgen generate --model BASE --lora LORA --preset hyper-8 --few-step-lora FEW …

Settings are those of ``FewStepConfig``, as flags or in a YAML file; ``--help`` lists them. Where ubgen is
installed without a clone, ``-m ubgen_training.few_steps`` stands for this file.
"""

import sys

from ubgen_training.few_steps.command import main

if __name__ == "__main__":
    sys.exit(main())
