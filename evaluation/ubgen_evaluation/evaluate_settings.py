"""Settings of ``ubgen evaluate``."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from ubgen_pipeline.commands.settings_parser import field_help
from ubgen_pipeline.files.places import check_is_local
from ubgen_pipeline.mini.scenes import NOVEL_CLASS_NAMES

from .mini_sets import check_split


@dataclass(frozen=True)
class EvaluateSettings:
    """What is evaluated, on what, and where the report goes."""

    backbones: list[str] | None = field_help(
        "backbones: folders that train_backbone.py wrote, timm:ARCHITECTURE, transformers:HUB_ID, or mini", None
    )
    datasets: list[str] | None = field_help("datasets: folders or Hub ids", None)
    write_bias_report: bool = field_help(
        "write each dataset's figures into its folder and its card; for datasets that ubgen generated, here", False
    )
    output_dir: str = field_help("folder of report.json, report.md, report.html and the plots", "evaluation_report")
    mini_world: bool = field_help("measure on the mini world's rendered sets, with exact truth", False)
    num_scenes: int = field_help("rendered scenes of each of the mini world's sets", 1000)
    mini_split: str = field_help("split of those sets: test, or validation to choose settings on", "test")
    transfer_images: int = field_help("novel silhouettes that the mini world's probe is trained on", 500)
    transfer_shares: list[float] = dataclasses.field(
        default_factory=lambda: [1.0], metadata={"help": "shares of them that a probe is trained on, each a figure"}
    )
    test: str | None = field_help("dataset to measure a classifier's accuracy on", None)
    test_split: str = field_help("split of --test", "test")
    cue_conflict: str | None = field_help("folder of cue-conflict images", None)
    categories: str | None = field_help("file of the 16 categories' classes", None)
    imagenet9: str | None = field_help("folder of ImageNet-9 with mixed_same and mixed_rand", None)
    coarse_classes: str | None = field_help("file that maps the classes to ImageNet-9's nine", None)
    focus: str | None = field_help("folder of FOCUS with annotations.db", None)
    focus_classes: str | None = field_help("file of FOCUS's ten categories' classes", None)
    transfer: list[str] | None = field_help("sets to transfer to, each NAME=FOLDER_OR_HUB_ID", None)
    probe_seeds: int = field_help("seeds that the linear probes are averaged over", 3)
    probe_trials: int = field_help("regularisation strengths that each probe tries", 30)
    split: str = field_help("split of the datasets", "train")
    reference: str | None = field_help("real dataset that the datasets' fidelity is measured against", None)
    reference_split: str = field_help("split of --reference", "train")
    skip_damaged: bool = field_help(
        "leave rows with damaged images out of these datasets, counted; else the first stops the run", False
    )
    clip_model: str | None = field_help(
        "CLIP that is asked whether images show the contexts that their prompts name: mini, a CLIP or SigLIP of"
        " transformers, or open_clip:ARCHITECTURE/PRETRAINED; nothing is asked, if not given",
        None,
    )
    feature_backbone: str = field_help("backbone in whose features datasets are measured", "mini")
    batch_size: int = field_help("images that a backbone reads at a time", 64)
    device: str | None = field_help("cpu, cuda, …; CUDA where there is one, if not given", None)
    cache_dir: str | None = field_help("where features are kept; below output_dir if not given", None)
    num_resamples: int = field_help("resamples of the confidence intervals", 1000)
    seed: int = field_help("of resamples, probes and clusters", 0)

    def __post_init__(self) -> None:
        for name in ("output_dir", "cache_dir"):
            check_is_local(getattr(self, name), name)
        if not self.backbones and not self.datasets:
            raise ValueError("nothing to evaluate; give --backbones, --datasets or both.")
        if self.write_bias_report and not self.datasets:
            raise ValueError("write_bias_report is set without datasets; give --datasets.")
        if self.clip_model is not None and not self.datasets:
            raise ValueError("clip_model is set without datasets, whose contexts it is asked about; give --datasets.")
        for name in ("num_scenes", "probe_seeds", "probe_trials", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; give 1 or more.")
        if self.num_resamples < 2:
            raise ValueError(f"num_resamples is {self.num_resamples}; give 2 or more.")
        check_split(self.mini_split)
        for share in self.transfer_shares:
            if not 0 < share <= 1 or round(share * self.transfer_images) < 2 * len(NOVEL_CLASS_NAMES):
                raise ValueError(
                    f"transfer_shares holds {share} and transfer_images is {self.transfer_images}; give shares in "
                    f"(0, 1] of at least {2 * len(NOVEL_CLASS_NAMES)} images, two of each class."
                )
        for first, second in (
            ("cue_conflict", "categories"),
            ("imagenet9", "coarse_classes"),
            ("focus", "focus_classes"),
        ):
            if (getattr(self, first) is None) != (getattr(self, second) is None):
                raise ValueError(f"{first} and {second} go together; one of them is missing.")
        for name in ("backbones", "datasets"):
            given = getattr(self, name) or []
            if len(set(given)) != len(given):
                raise ValueError(f"{name} holds one twice: {given}; name each once.")
        wrong = [item for item in self.transfer or [] if "=" not in item]
        if wrong:
            raise ValueError(f"transfer holds {wrong[0]!r}; write NAME=FOLDER_OR_HUB_ID.")
        is_measured = self.mini_world or self.test or self.cue_conflict or self.imagenet9 or self.focus
        if self.backbones and not (is_measured or self.transfer):
            raise ValueError(
                "backbones are given, but nothing to measure them on; give --mini-world, --test, --cue-conflict, "
                "--imagenet9, --focus or --transfer."
            )

    @property
    def cache_folder(self) -> Path:
        return Path(self.cache_dir) if self.cache_dir is not None else Path(self.output_dir) / "features"

    @property
    def seeds(self) -> list[int]:
        return list(range(self.seed, self.seed + self.probe_seeds))
