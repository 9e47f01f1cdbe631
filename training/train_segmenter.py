"""Train a segmenter on a dataset with masks, and measure it on a test set.

    python training/train_segmenter.py --config training/configs/mini_segmenter.yaml --output_dir segmenter
    accelerate launch training/train_segmenter.py --dataset DIR --test_dataset TEST --model nvidia/mit-b0

Settings are those of ``SegmenterConfig``, as flags or in a YAML file; ``--help`` lists them. Where ubgen is
installed without a clone, ``-m ubgen_training.segmenter`` stands for this file.
"""

import sys

from ubgen_training.segmenter.command import main

if __name__ == "__main__":
    sys.exit(main())
