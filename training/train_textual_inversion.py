"""Learn one new word from a few images, with everything else of the model frozen.

    python training/train_textual_inversion.py --config training/configs/mini_textual_inversion.yaml --output_dir out
    python training/train_textual_inversion.py --images FOLDER --token "<crane>" --initial_word bird

Settings are those of ``TextualInversionConfig``, as flags or in a YAML file; ``--help`` lists them. Where ubgen is
installed without a clone, ``-m ubgen_training.textual_inversion`` stands for this file.
"""

import sys

from ubgen_training.textual_inversion.command import main

if __name__ == "__main__":
    sys.exit(main())
