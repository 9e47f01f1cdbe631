"""Maps the repository's folders to the names they are imported under; everything else stands in pyproject.toml."""

from setuptools import setup

PACKAGE_FOLDERS = {
    "ubgen_pipeline": "ubgen_pipeline",
    "ubgen_pipeline.mini": "ubgen_pipeline/mini",
    "ubgen_training": "training",
    "ubgen_evaluation": "evaluation",
    "ubgen_hub_cards": "hub_cards",
    # no package: files that run beside each other, which publish-space copies
    "ubgen_space": "space",
}

setup(
    packages=list(PACKAGE_FOLDERS),
    package_dir=PACKAGE_FOLDERS,
    package_data={
        "ubgen_pipeline.mini": ["model/**/*", "clip/*", "classifier/*", "lora/*"],
        "ubgen_training": ["configs/*.yaml", "configs/accelerate/*.yaml"],
        "ubgen_hub_cards": ["*.md.jinja"],
        "ubgen_space": ["*.css", "*.md", "*.txt"],
    },
)
