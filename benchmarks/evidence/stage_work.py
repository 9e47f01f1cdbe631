"""What each stage of the evidence does, each in a process of its own.

    python -m benchmarks.evidence.stage_work EVIDENCE/lora/0123456789abcdef

A stage's folder holds ``stage.json``, which says all of it, then its log, its results and last of all ``done.json``. A
stage that was killed is started again: training and generation go on where they were, the others begin anew, and so
does a training whose seconds count.
"""

import fcntl
import json
import resource
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from benchmarks.evidence.stages import CAPTIONS_FILE, CLIP_FOLDER, DISTILLED_FOLDER, MINI
from ubgen_pipeline.commands.console import say_error
from ubgen_pipeline.files.whole_files import write_whole_text
from ubgen_pipeline.mini.scenes import CLASS_NAMES

LORA_FILE = "pytorch_lora_weights.safetensors"
_JUDGED_AT_A_TIME = 50
# added to a run's seed, so that no training scene is one of a test set or one that the models were trained on
_REAL_SEED = 500_000


class StageError(Exception):
    """A stage that failed after it said itself why."""


def run_stage(folder: Path) -> None:
    """Do what ``folder/stage.json`` says, unless it is done. Waits where another process is doing it.

    Raises:
        StageError: a command of the stage returned an error.
    """
    done = folder / "done.json"
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if done.is_file():
            return
        stage = json.loads((folder / "stage.json").read_text(encoding="utf-8"))
        root, started = folder.parents[1], time.monotonic()
        inputs = {name: root / path for name, path in stage["inputs"].items()}
        figures = STAGES[stage["kind"]](folder, stage["settings"], inputs)
        shutil.rmtree(folder / "cache", ignore_errors=True)
        record = {"seconds": round(time.monotonic() - started, 1), "figures": figures or {}}
        write_whole_text(done, json.dumps(record, indent=1) + "\n")


def train_weak_clip(folder: Path, settings: Mapping[str, Any], inputs: Mapping[str, Path]) -> dict[str, float]:
    """A CLIP of the shipped one's architecture, shown fewer scenes and for fewer updates."""
    from ubgen_pipeline.mini.clip import load_mini_clip
    from ubgen_pipeline.mini.weights import save_float16
    from ubgen_training.mini.judges import train_clip, zero_shot_accuracy
    from ubgen_training.mini.scene_batches import render_set
    from ubgen_training.mini.tokenizer import build_tokenizer

    tokenizer, model = build_tokenizer(), folder / "model"
    data = render_set(settings["num_scenes"], bias=0.0, seed=settings["scene_seed"], num_workers=1)
    clip = train_clip(data, tokenizer, num_steps=settings["num_steps"], seed=settings["seed"])
    save_float16(clip, model / "model.safetensors")
    tokenizer.save_pretrained(model)
    config = {"vocabulary_size": len(tokenizer), "context_length": tokenizer.model_max_length}
    (model / "config.json").write_text(json.dumps(config) + "\n", encoding="utf-8")
    held_out = render_set(2000, bias=0.0, seed=99, num_workers=1)
    figures = {"zero-shot accuracy": zero_shot_accuracy(*load_mini_clip(model), held_out)}
    figures["zero-shot accuracy of the full CLIP"] = zero_shot_accuracy(*load_mini_clip(), held_out)
    return figures


def train_lora(folder: Path, settings: Mapping[str, Any], inputs: Mapping[str, Path]) -> None:
    """``train_ubgen.py``, resumed from its last checkpoint."""
    from ubgen_training.ubgen.command import main

    config, output = dict(settings["config"]), folder / "lora"
    if "clip" in inputs:
        config["clip_model"] = config["clip_model"].replace(CLIP_FOLDER, str(inputs["clip"] / "model"))
    if config.get("initial_lora") == DISTILLED_FOLDER:
        config["initial_lora"] = str(inputs["distilled"] / "lora")
    if "captions" in settings:
        captions = folder / "captions.yaml"
        captions.write_text(yaml.safe_dump(settings["captions"], sort_keys=False), encoding="utf-8")
        config["captions"] = config["captions"].replace(CAPTIONS_FILE, str(captions))
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(config), encoding="utf-8")
    argv = ["--config", str(file), "--output_dir", str(output), "--use_cpu", "true"]
    if any(output.glob("checkpoint-*/trainer_state.json")):
        argv += ["--resume_from_checkpoint", "last"]
    _check(main(argv))


def tune(folder: Path, settings: Mapping[str, Any], inputs: Mapping[str, Path]) -> dict[str, float]:
    """Train with ``ubgen``, ``ddpo`` or ``nft``, from the beginning, perhaps no longer than ``seconds`` of one core.

    Figures are these seconds, the images drawn, and the peak of memory.
    """
    from ubgen_pipeline.commands.settings_parser import parse_settings
    from ubgen_training.ddpo.command import DDPOConfig
    from ubgen_training.ddpo.command import train as train_ddpo
    from ubgen_training.nft.command import NFTConfig
    from ubgen_training.nft.command import train as train_nft
    from ubgen_training.ubgen.command import UbGenConfig
    from ubgen_training.ubgen.command import train as train_ubgen

    trainers = {"ubgen": (train_ubgen, UbGenConfig), "ddpo": (train_ddpo, DDPOConfig), "nft": (train_nft, NFTConfig)}
    train, config_type = trainers[settings["trainer"]]
    file, output = folder / "config.yaml", folder / "lora"
    file.write_text(yaml.safe_dump(dict(settings["config"])), encoding="utf-8")
    shutil.rmtree(output, ignore_errors=True)
    limit = UpdatesWithin(settings.get("seconds"))
    config: Any = parse_settings(
        config_type, ["--config", str(file), "--output_dir", str(output), "--use_cpu", "true"], prog="tune"
    )
    try:
        train(config, [limit])
    except FloatingPointError as error:
        raise StageError(str(error)) from error
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # macOS counts bytes, Linux KiB
    peak = peak if sys.platform == "darwin" else peak * 1024
    return {
        "seconds of one core": limit.seconds,
        "images drawn": limit.num_updates * config.images_per_update,
        "peak memory": float(peak),
    }


class UpdatesWithin(TrainerCallback):
    """Ends a training with the update in which it has had so many seconds of one core; None: never.

    Attributes:
        num_updates: that were made.
    """

    def __init__(self, limit: float | None):
        self._limit, self._started = limit, time.process_time()
        self.num_updates = 0

    @property
    def seconds(self) -> float:
        """Of one core, since this was made."""
        return time.process_time() - self._started

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        self.num_updates = state.global_step
        if self._limit is not None and self.seconds >= self._limit:
            control.should_training_stop = True
        return control


def make_images(folder: Path, settings: Mapping[str, Any], inputs: Mapping[str, Path]) -> None:
    """Rendered scenes of the biased world, or a generated dataset."""
    if "bias" in settings:
        _render_images(folder / "dataset", settings)
        return
    import torch

    from ubgen_pipeline.generation.generate import generate_dataset

    lora = None
    if "lora" in inputs:
        step = settings.get("lora_step")
        lora = inputs["lora"] / "lora" / (f"checkpoint-{step}" if step is not None else "")
        if not (lora / LORA_FILE).is_file():
            raise StageError(f"{lora} holds no {LORA_FILE}; choose a lora_step at which a checkpoint was saved")
    torch.set_num_threads(settings["threads"])
    classes: Any = list(CLASS_NAMES)
    if "templates" in settings:
        classes = folder / "classes.yaml"
        classes.write_text(yaml.safe_dump({"classes": list(CLASS_NAMES), **settings["templates"]}), encoding="utf-8")
    generate_dataset(
        classes,
        folder / "dataset",
        model=settings.get("model", MINI),
        lora=str(lora) if lora else None,
        samples_per_class=settings["samples_per_class"],
        num_inference_steps=settings["num_inference_steps"],
        guidance_scale=settings["guidance_scale"],
        diversity=settings.get("diversity"),
        cads_scale=settings.get("cads_scale"),
        seed=settings["seed"],
        dtype=settings["dtype"],
        device="cpu",
        batch_size=min(50, settings["samples_per_class"] * len(CLASS_NAMES)),
        threads=1,
        compile="off",
    )


def _render_images(folder: Path, settings: Mapping[str, Any]) -> None:
    from datasets import ClassLabel, Dataset, Features, Image

    from ubgen_pipeline.mini.scenes import scenes

    number = settings["samples_per_class"] * len(CLASS_NAMES)
    rendered = list(scenes(number, bias=settings["bias"], seed=_REAL_SEED + settings["seed"]))
    rows = {
        "image": [scene.image for scene in rendered],
        "label": [scene.factors.class_name for scene in rendered],
    }
    features = Features({"image": Image(), "label": ClassLabel(names=list(CLASS_NAMES))})
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "data").mkdir(parents=True)
    Dataset.from_dict(rows, features=features).to_parquet(folder / "data" / "train-00000-of-00001.parquet")


def keep_recognised(folder: Path, settings: Mapping[str, Any], inputs: Mapping[str, Path]) -> dict[str, float]:
    """The images that the mini CLIP takes for their class: ``ubgen score``, then ``ubgen filter``.

    Where the settings have ``max_per_class``, the first so many of each class; where they have
    ``min_zero_shot_probability``, those of which it is at least so sure.
    """
    from ubgen_pipeline.scoring.filter import FilterSettings, filter_dataset
    from ubgen_pipeline.scoring.score import ScoreCommandSettings, score_dataset

    scored = folder / "scored"
    asked = ScoreCommandSettings(output_dir=str(scored), scores=["clip"], clip_model="mini", device="cpu")
    score_dataset(inputs["images"] / "dataset", asked)
    rules = FilterSettings(
        output_dir=str(folder / "dataset"),
        zero_shot_correct=True,
        min_zero_shot_probability=settings.get("min_zero_shot_probability"),
        max_per_class=settings.get("max_per_class"),
    )
    report = filter_dataset(scored, rules).report
    return {"kept": report["num_kept"] / report["num_rows"]}


def train_on_kept(folder: Path, settings: Mapping[str, Any], inputs: Mapping[str, Path]) -> None:
    """``train_denoiser.py`` on the kept images under the bare class names, resumed from its last checkpoint."""
    from ubgen_training.denoising.command import main

    file, output = folder / "config.yaml", folder / "lora"
    file.write_text(yaml.safe_dump(settings["config"]), encoding="utf-8")
    argv = ["--config", str(file), "--dataset", str(inputs["kept"] / "dataset"), "--output_dir", str(output)]
    argv += ["--use_cpu", "true"]
    if any(output.glob("checkpoint-*/trainer_state.json")):
        argv += ["--resume_from_checkpoint", "last"]
    _check(main(argv))


def train_backbone(folder: Path, settings: Mapping[str, Any], inputs: Mapping[str, Path]) -> None:
    """``train_backbone.py`` on the images."""
    from ubgen_training.backbone.command import main

    file, output = folder / "config.yaml", folder / "backbone"
    file.write_text(yaml.safe_dump(settings["config"]), encoding="utf-8")
    shutil.rmtree(output, ignore_errors=True)
    dataset = str(inputs["images"] / "dataset")
    _check(main(["--config", str(file), "--dataset", dataset, "--output_dir", str(output), "--use_cpu", "true"]))


def measure(folder: Path, settings: Mapping[str, Any], inputs: Mapping[str, Path]) -> dict[str, float]:
    """Every figure of the backbone and of its images; a figure that cannot be had is left out."""
    import numpy as np

    from ubgen_evaluation import mini_sets
    from ubgen_evaluation.backbone_measures import measure_backbone
    from ubgen_evaluation.backbones import load_backbone
    from ubgen_evaluation.dataset_measures import Reference, measure_dataset
    from ubgen_evaluation.evaluate_settings import EvaluateSettings
    from ubgen_evaluation.feature_extraction import extract_features

    network, dataset = inputs["backbone"] / "backbone", inputs["images"] / "dataset"
    asked = EvaluateSettings(
        backbones=[str(network)],
        datasets=[str(dataset)],
        mini_world=True,
        mini_split=settings["split"],
        num_scenes=settings["num_scenes"],
        transfer_images=settings["transfer_images"],
        transfer_shares=settings["transfer_shares"],
        probe_seeds=settings["probe_seeds"],
        probe_trials=settings["probe_trials"],
        # as few as can be: the intervals of the page are over seeds
        num_resamples=2,
        cache_dir=str(folder / "features"),
    )
    found = measure_backbone(load_backbone(str(network)), asked)
    judge = load_backbone("mini")
    real = mini_sets.validation_scenes(settings["num_scenes"], split=settings["split"])
    features = extract_features(judge, real.images).features
    reference = Reference(features, real.labels, CLASS_NAMES, "rendered scenes")
    found |= measure_dataset(str(dataset), judge, asked, reference)
    shutil.rmtree(folder / "features", ignore_errors=True)
    return {name: interval.value for name, interval in found.items() if np.isfinite(interval.value)}


def judge(folder: Path, settings: Mapping[str, Any], inputs: Mapping[str, Path]) -> dict[str, float]:
    """Figures of fresh images alone, the rewards that were trained on among them, and what the training took."""
    import numpy as np
    import torch

    from ubgen_evaluation.backbones import load_backbone
    from ubgen_evaluation.dataset_measures import measure_dataset
    from ubgen_evaluation.evaluate_settings import EvaluateSettings
    from ubgen_pipeline.dataset.labelled_images import load_labelled_images
    from ubgen_training.reward_training.build_rewards import build_rewards
    from ubgen_training.reward_training.config import SamplerConfig
    from ubgen_training.rewards.reward_functions import call_reward, reward_name

    dataset = str(inputs["images"] / "dataset")
    # as few resamples as can be: the figures' spread is that over seeds
    asked = EvaluateSettings(datasets=[dataset], mini_world=True, num_resamples=2, cache_dir=str(folder / "features"))
    found = measure_dataset(dataset, load_backbone("mini"), asked, None)
    shutil.rmtree(folder / "features", ignore_errors=True)
    figures = {name: interval.value for name, interval in found.items() if np.isfinite(interval.value)}
    images = load_labelled_images(dataset)
    config = SamplerConfig(**settings["rewards"], output_dir=str(folder), use_cpu=True)
    values: dict[str, list[torch.Tensor]] = {}
    rewards = build_rewards(config, images.class_names).trained
    for start in range(0, len(images.rows), _JUDGED_AT_A_TIME):
        rows = images.rows.select(range(start, min(start + _JUDGED_AT_A_TIME, len(images.rows))))
        pixels = np.stack([np.asarray(row["image"].convert("RGB")) for row in rows])
        batch = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
        labels = torch.tensor(rows["label"])
        names = [images.class_names[label] for label in labels.tolist()]
        with torch.no_grad():
            for reward in rewards:
                values.setdefault(reward_name(reward), []).append(call_reward(reward, batch, names, labels, step=0))
    figures |= {f"reward {name}": torch.cat(parts).mean().item() for name, parts in values.items()}
    if "tuned" in inputs:
        figures |= json.loads((inputs["tuned"] / "done.json").read_text(encoding="utf-8"))["figures"]
    return figures


STAGES = {
    "clip": train_weak_clip,
    "lora": train_lora,
    "images": make_images,
    "kept": keep_recognised,
    "distilled": train_on_kept,
    "backbone": train_backbone,
    "measures": measure,
    "tuned": tune,
    "judged": judge,
}


def _check(code: int) -> None:
    if code:
        raise StageError(f"a command failed with exit code {code}, see above")


def main(argv: list[str] | None = None) -> int:
    """Run one stage; 1 where it failed."""
    (folder,) = sys.argv[1:] if argv is None else argv
    try:
        run_stage(Path(folder).resolve())
    except (StageError, ValueError) as error:
        say_error(error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
