"""Fine-tune a text-to-image model's LoRA from class names by the forward process, with any rewards.

    accelerate launch training/train_nft.py --config training/configs/mini_nft.yaml --output_dir out
    python training/train_nft.py --class_names circle star --reward_funcs jpeg_size --num_inference_steps 10

Settings are those of ``NFTConfig``, as flags or in a YAML file; ``--help`` lists them. Where ubgen is
installed without a clone, ``-m ubgen_training.nft`` stands for this file.
"""

import sys

from ubgen_training.nft.command import main

if __name__ == "__main__":
    sys.exit(main())
