"""The paper in miniature: does a tuned generator make backbones that transfer better and are biased less?

    python -m benchmarks.evidence                                          # what `make evidence` runs
    python -m benchmarks.evidence --config benchmarks/evidence/full.yaml  # with the ablations, `make evidence-full`
    python -m benchmarks.evidence --split validation --arms base ubgen --set adversarial_weight=1 learning_rate=5e-4

For each arm and seed: tune the generator, make a dataset, train a backbone on it, measure both. Every stage is kept
under a hash of its settings, so it is done once; stopped at any moment and started again, the command goes on. The
figures of runs that ended are kept in a file, too, so that a table adds up over machines.
"""

import dataclasses
import json
import os
import tempfile
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks.contact_sheet import draw_contact_sheet
from benchmarks.evidence.figures import arm_label
from benchmarks.evidence.kept_figures import make_figures, read_figures, stage_record
from benchmarks.evidence.page import figures_table, picture_file, write_page
from benchmarks.evidence.stages import (
    ARMS,
    BEGUN_ARM,
    CAPTIONED_ARM,
    DISTILLED_FROM,
    MINI,
    STAGE_VERSIONS,
    TUNED_ARMS,
    UNTUNED_ARMS,
    VARIETY_ARM,
    Recipe,
    Run,
    Stage,
    build_run,
    in_order,
    read_config,
    read_overrides,
    training_settings,
)
from ubgen_evaluation.mini_sets import SPLITS
from ubgen_pipeline.commands.console import say_error
from ubgen_pipeline.commands.settings_parser import field_help, parse_settings, run_command
from ubgen_pipeline.dataset.labelled_images import load_labelled_images
from ubgen_pipeline.mini import EMBEDDED_MODELS

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "training" / "configs"
# run seeds of the validation split start here, those of the test split lie below
FIRST_VALIDATION_SEED = 1000
REAL_BIAS = 0.95
DTYPES = ("bfloat16", "float32")
# images of each class in the picture, and arms side by side in it
_SAMPLES_SHOWN = 4
_SAMPLES_PER_ROW = 4


@dataclass(frozen=True)
class EvidenceSettings:
    """Settings of the evidence."""

    output_dir: str = field_help("folder of every stage and of results.json", "evidence")
    arms: list[str] = dataclasses.field(
        default_factory=lambda: [*UNTUNED_ARMS, "ubgen", CAPTIONED_ARM],
        metadata={"help": f"of {', '.join(ARMS)}"},
    )
    seeds: list[int] | None = field_help("run seeds, paired between arms; 3 of the split's, if not given", None)
    model: str = field_help(
        "embedded generator of every arm; for mini-flow give its steps, guidance and settings of training, too", MINI
    )
    split: str = field_help("test, which is reported, or validation, to choose settings on", "test")
    training_config: str = field_help("settings of train_ubgen.py", str(CONFIGS / "mini_evidence.yaml"))
    set: list[str] | None = field_help("settings of train_ubgen.py that differ from that file, each name=value", None)
    backbone_config: str = field_help("settings of train_backbone.py", str(CONFIGS / "mini_backbone.yaml"))
    set_backbone: list[str] | None = field_help("settings of train_backbone.py that differ, each name=value", None)
    variety_weight: float = field_help(
        "weight of class_variety in the arm ubgen_variety, which is not the paper's", 0.5
    )
    set_variety: list[str] | None = field_help(
        "settings of train_ubgen.py that differ besides in the arms with class_variety, each name=value", None
    )
    logdet_config: str = field_help(
        "settings of train_ubgen.py in the arm ubgen_logdet and its ablations", str(CONFIGS / "mini_logdet.yaml")
    )
    set_logdet: list[str] | None = field_help("settings that differ from that file, each name=value", None)
    distilling_config: str = field_help(
        "settings of train_denoiser.py in the arm distilled", str(CONFIGS / "mini_distilled.yaml")
    )
    set_distilling: list[str] | None = field_help("settings that differ from that file, each name=value", None)
    captioned_config: str = field_help(
        "settings of train_ubgen.py in the arm captioned", str(CONFIGS / "mini_captioned.yaml")
    )
    set_captioned: list[str] | None = field_help("settings that differ from that file, each name=value", None)
    min_probability: float | None = field_help(
        "in the arms that leave images out: least probability that the mini CLIP gives the class of one that is kept;"
        " none if not given",
        0.7,
    )
    lora_step: int | None = field_help("take the LoRA after so many updates; the last one, if not given", None)
    samples_per_class: int = field_help("images of each class", 200)
    num_inference_steps: int = field_help("denoising steps of the images", 10)
    guidance_scale: float = field_help("classifier-free guidance of the images", 1.0)
    dtype: str = field_help(
        "precision of tuning and drawing; bfloat16 is float32 on a CPU without instructions for it",
        "bfloat16",
    )
    num_scenes: int = field_help("rendered scenes of each test set", 2000)
    transfer_images: int = field_help("novel silhouettes that a probe is trained on, at most", 1000)
    transfer_shares: list[float] = dataclasses.field(
        default_factory=lambda: [1.0, 0.5, 0.2, 0.1], metadata={"help": "shares of them that probes are trained on"}
    )
    probe_seeds: int = field_help("seeds that the probes are averaged over", 3)
    probe_trials: int = field_help("regularisation strengths that each probe tries", 30)
    threads: int = field_help("CPU threads of a stage; other numbers round otherwise, so figures differ a little", 1)
    workers: int | None = field_help("stages at the same time; as many as there are cores for, if not given", None)
    stages_only: list[str] | None = field_help(f"kinds of stages to run, of {', '.join(STAGE_VERSIONS)}", None)
    results: str | None = field_help("file of the figures; in output_dir, if not given", None)
    figures_file: str = field_help(
        "file of the figures of all runs that ended, here or elsewhere; what is in it is not made again",
        "results/evidence_figures.json",
    )
    page: str = field_help(
        "the document whose generated part is written, on the test split only", "results/evidence_tables.md"
    )

    def __post_init__(self) -> None:
        if self.model not in EMBEDDED_MODELS:
            raise ValueError(f"model is {self.model!r}; choose one of {', '.join(EMBEDDED_MODELS)}.")
        if self.split not in SPLITS:
            raise ValueError(f"split is {self.split!r}; choose one of {', '.join(SPLITS)}.")
        for name, known in (("arms", ARMS), ("stages_only", tuple(STAGE_VERSIONS))):
            given = getattr(self, name) or []
            unknown = [item for item in given if item not in known]
            if unknown or len({*given}) != len(given):
                raise ValueError(f"{name} is {given}; name each once, of {', '.join(known)}.")
        seeds = self.run_seeds
        is_validation = self.split == "validation"
        wrong = [seed for seed in seeds if seed < 0 or (seed >= FIRST_VALIDATION_SEED) != is_validation]
        if wrong or not seeds or len({*seeds}) != len(seeds):
            least = f"{FIRST_VALIDATION_SEED} or more" if is_validation else f"0 to {FIRST_VALIDATION_SEED - 1}"
            raise ValueError(f"seeds are {seeds}; give each once, {least} on the {self.split} split.")
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype is {self.dtype!r}; choose one of {', '.join(DTYPES)}.")
        if not self.variety_weight > 0:
            raise ValueError(f"variety_weight is {self.variety_weight}; give more than 0, or leave out {VARIETY_ARM}.")
        if self.min_probability is not None and not 0 <= self.min_probability <= 1:
            raise ValueError(f"min_probability is {self.min_probability}; give a share from 0 to 1, or leave it out.")
        if not self.arms:
            raise ValueError("arms is empty; name one or more.")
        for name in (
            "samples_per_class",
            "num_inference_steps",
            "num_scenes",
            "transfer_images",
            "probe_seeds",
            "probe_trials",
            "threads",
            "workers",
        ):
            if (getattr(self, name) if getattr(self, name) is not None else 1) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; give 1 or more.")

    @property
    def run_seeds(self) -> list[int]:
        first = FIRST_VALIDATION_SEED if self.split == "validation" else 0
        return list(range(first, first + 3)) if self.seeds is None else list(self.seeds)

    @property
    def image_dtype(self) -> str:
        """``dtype``, or float32 where this CPU would emulate it, many times slower."""
        from ubgen_training.mini.scene_batches import computes_in_bfloat16

        return self.dtype if computes_in_bfloat16() else "float32"

    @property
    def num_lanes(self) -> int:
        return self.workers or max(1, (os.cpu_count() or 1) // self.threads)

    @property
    def results_file(self) -> Path:
        usual = "results.json" if self.split == "test" else "results_validation.json"
        return Path(self.results) if self.results is not None else Path(self.output_dir) / usual


def list_runs(settings: EvidenceSettings, dtype: str | None = None) -> list[Run]:
    """Every arm and seed, one seed after the other, so that what is finished can be compared.

    Args:
        settings: of the command.
        dtype: precision of the runs, as another machine has it; this machine's, if not given.

    Raises:
        ValueError: a training setting that cannot work.
    """
    measures = {"split": settings.split} | {
        name: getattr(settings, name)
        for name in ("num_scenes", "transfer_images", "transfer_shares", "probe_seeds", "probe_trials")
    }
    # tuned in 16 bits where images are drawn in 16 bits
    dtype = dtype or settings.image_dtype
    precision = {"bf16": dtype == "bfloat16"}
    recipe = Recipe(
        Path(settings.output_dir).resolve(),
        settings.model,
        precision | read_config(settings.training_config, settings.set or ()),
        read_config(settings.backbone_config, settings.set_backbone or (), "set-backbone"),
        settings.samples_per_class,
        settings.num_inference_steps,
        settings.guidance_scale,
        dtype,
        REAL_BIAS,
        settings.lora_step,
        measures,
        settings.threads,
        settings.variety_weight,
        read_overrides(settings.set_variety or (), "set-variety"),
        # the seed is the run's, and nothing is sampled on the way
        precision
        | read_config(settings.logdet_config)
        | {"sample_steps": 0}
        | read_overrides(settings.set_logdet or (), "set-logdet"),
        precision | read_config(settings.distilling_config, settings.set_distilling or (), "set-distilling"),
        precision
        | read_config(settings.captioned_config)
        | {"sample_steps": 0}
        | read_overrides(settings.set_captioned or (), "set-captioned"),
        settings.min_probability,
    )
    runs = [build_run(recipe, arm, seed) for seed in settings.run_seeds for arm in settings.arms]
    _check_configs(recipe, settings.arms)
    return runs


def choose_runs(settings: EvidenceSettings, known: Container[str]) -> list[Run]:
    """Every arm and seed, in the precision in which another machine made it, if one did: its hash is in ``known``."""
    other = [list_runs(settings, dtype) for dtype in DTYPES]
    return [
        next((run for run in alike if run.measures.key in known), here)
        for here, *alike in zip(list_runs(settings), *other, strict=True)
    ]


def run_evidence(settings: EvidenceSettings) -> int:
    """Run what is not done, and write figures, table, plots and page of what is; the number of failed stages."""
    file = Path(settings.figures_file)
    runs = choose_runs(settings, read_figures(file))
    records, failed = make_figures(
        [run.measures for run in runs],
        file,
        settings.stages_only or list(STAGE_VERSIONS),
        settings.num_lanes,
        settings.threads,
        run_record,
    )
    results = collect(settings, runs, records)
    if results["runs"]:
        settings.results_file.parent.mkdir(parents=True, exist_ok=True)
        settings.results_file.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        print(f"\n{figures_table(results)}\n\nfigures: {settings.results_file}")
        if settings.split == "test" and len(results["runs"]) == len(runs):
            page = Path(settings.page)
            if not draw_samples(runs, picture_file(page, "samples.jpg")):
                print("the picture of samples was left as it is: the images of some runs are not here")
            write_page(results, page)
            print(f"page: {settings.page}")
    for stage in failed:
        say_error(f"{stage.kind} {stage.name} failed, see {stage.folder / 'log.txt'}")
    return len(failed)


def run_record(measures: Stage) -> dict[str, Any]:
    """What is kept of a run whose ``measures`` are done: its figures, its CLIP's, and the seconds of its stages."""
    done = [(stage, stage_record(stage)) for stage in in_order(measures)]
    return {
        "figures": stage_record(measures)["figures"],
        "clip": {stage.name: record["figures"] for stage, record in done if stage.kind == "clip"},
        "seconds": {stage.kind: record["seconds"] for stage, record in done},
    }


def collect(
    settings: EvidenceSettings, runs: Sequence[Run], records: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """The figures of every run that is done, with the settings that gave them; JSON values.

    Args:
        settings: of the command.
        runs: in the order of the figures.
        records: what :func:`run_record` gave, by the hashes of the runs' last stages.
    """
    found, clips = [], {}
    for run in runs:
        if (record := records.get(run.measures.key)) is not None:
            clips |= record["clip"]
            # rendered scenes have no precision, and images may have been filtered once they were drawn
            drawn = [stage.settings for stage in run.stages if stage.kind == "images"]
            dtype = drawn[-1].get("dtype")
            known = {key: record[key] for key in ("figures", "seconds")}
            found.append({"arm": run.arm, "seed": run.seed, "dtype": dtype} | known)
    places = ("output_dir", "results", "figures_file", "page", "workers", "stages_only")
    files = [name for name in vars(settings) if name.endswith("_config")]
    kept = {name: value for name, value in dataclasses.asdict(settings).items() if name not in places}
    kept |= {"dtype": settings.image_dtype, "asked_dtype": settings.dtype}
    kept |= {"seeds": settings.run_seeds} | {name: Path(getattr(settings, name)).name for name in files}
    return {"settings": kept, "clip": clips, "runs": found}


def draw_samples(runs: Sequence[Run], file: Path) -> bool:
    """A picture of the first seed's datasets side by side; False where one of them is not in this folder."""
    seed = min(run.seed for run in runs)
    shown = {run.arm: run.measures.inputs["images"] for run in runs if run.seed == seed}
    if not all(stage.is_done for stage in shown.values()):
        return False
    drawn = {}
    for arm, stage in shown.items():
        images = load_labelled_images(str(stage.folder / "dataset"))
        drawn[arm_label(arm)] = {name: [] for name in images.class_names}
        for row in images.rows.select(range(min(len(images.rows), 20 * _SAMPLES_SHOWN))):
            drawn[arm_label(arm)][images.class_names[row["label"]]].append(np.asarray(row["image"].convert("RGB")))
    draw_contact_sheet(drawn, file, num_per_class=_SAMPLES_SHOWN, datasets_per_row=_SAMPLES_PER_ROW)
    return True


def main(argv: Sequence[str] | None = None) -> int:
    """Parse and run; 2 for a bad setting, 1 when a stage failed, 130 after an interrupt."""

    def body(argv: Sequence[str]) -> int:
        about = (__doc__ or "").partition("\n")[0]
        return (
            1
            if run_evidence(
                parse_settings(EvidenceSettings, argv, prog="python -m benchmarks.evidence", description=about)
            )
            else 0
        )

    return run_command(body, argv)


def _check_configs(recipe: Recipe, arms: Sequence[str]) -> None:
    """Read the configurations as the training commands will, before hours are spent."""
    from ubgen_training.backbone.backbone_config import BackboneConfig
    from ubgen_training.denoising.denoiser_config import DenoiserConfig
    from ubgen_training.ubgen.ubgen_config import UbGenConfig

    tuned = [arm for arm in (DISTILLED_FROM.get(arm, arm) for arm in arms) if arm in TUNED_ARMS]
    asked: list[tuple[Any, dict[str, Any]]] = [(UbGenConfig, training_settings(recipe, arm)) for arm in tuned]
    asked.append((BackboneConfig, dict(recipe.backbone) | {"dataset": "images"}))
    if {*DISTILLED_FROM, BEGUN_ARM} & {*arms}:
        asked.append((DenoiserConfig, dict(recipe.distilling) | {"dataset": "images"}))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "settings.yaml"
        for config_type, values in asked:
            file.write_text(yaml.safe_dump(values), encoding="utf-8")
            parse_settings(config_type, ["--config", str(file), "--use_cpu", "true", "--output_dir", folder])
