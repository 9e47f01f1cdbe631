"""How often the check for names with several meanings is right, on rendered scenes of the mini world.

    python -m benchmarks.check_names_scenes

For 16 and for 50 scenes a class, unbiased and biased: how many of the ten classes it reports, and how many of five
classes that are each mixed from two silhouettes, half and half.
"""

import numpy as np
from PIL import Image

from ubgen_evaluation.check_names import load_image_encoder
from ubgen_evaluation.name_senses import split_classes, split_labels
from ubgen_pipeline.mini.scenes import CLASS_NAMES, scenes

SEED = 5


def main() -> None:
    encode = load_image_encoder("mini")
    for bias in (0.0, 0.95):
        for num_scenes in (16, 50):
            drawn = list(scenes(num_scenes * len(CLASS_NAMES), bias=bias, seed=SEED))
            features = encode([Image.fromarray(scene.image) for scene in drawn])
            labels = np.arange(len(drawn)) % len(CLASS_NAMES)
            single = split_labels(split_classes(features, labels))
            # every second round of the classes, so that a mixed class has as many images as one
            kept = np.arange(len(drawn)) // len(CLASS_NAMES) % 2 == 0
            mixed = split_labels(split_classes(features[kept], labels[kept] // 2))
            print(f"bias {bias}, {num_scenes} scenes: {len(single)} of 10 single, {len(mixed)} of 5 mixed reported")


if __name__ == "__main__":
    main()
