"""Fine-tune a text-to-image model's LoRA from class names with the ubGen loss.

    accelerate launch training/train_ubgen.py --config training/configs/mini.yaml --output_dir out
    python training/train_ubgen.py --model_name_or_path mini --class_names circle star --max_steps 2

Settings are those of ``UbGenConfig``, as flags or in a YAML file; ``--help`` lists them. Where ubgen is
installed without a clone, ``-m ubgen_training.ubgen`` stands for this file.
"""

import sys

from ubgen_training.ubgen.command import main

if __name__ == "__main__":
    sys.exit(main())
