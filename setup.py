"""Maps the repository's folders to the packages in them; everything else stands in pyproject.toml."""

from setuptools import find_packages, setup

# where the folder of each package lies; the Space is no package: files that run beside each other, which publish-space
# copies
PACKAGE_FOLDERS = {
    "ubgen_training": "training/ubgen_training",
    "ubgen_evaluation": "evaluation/ubgen_evaluation",
    "ubgen_hub_cards": "hub_cards/ubgen_hub_cards",
    "ubgen_space": "space",
}

setup(
    packages=[
        *find_packages(include=["ubgen_pipeline*"]),
        *find_packages("training", include=["ubgen_training*"]),
        *find_packages("evaluation", include=["ubgen_evaluation*"]),
        *find_packages("hub_cards", include=["ubgen_hub_cards*"]),
        "ubgen_space",
    ],
    package_dir=PACKAGE_FOLDERS,
    package_data={
        "ubgen_pipeline.mini": ["model/**/*", "flow/**/*", "clip/*", "classifier/*", "lora/*", "caption_lora/*"],
        "ubgen_hub_cards": ["*.md.jinja"],
        "ubgen_space": ["*.css", "*.md", "*.txt"],
    },
)
