"""The stages of the evidence and what each depends on; a stage's folder is named by a hash of all that goes into it.

    clip -> lora -> images -> backbone -> measures
    images -> kept -> backbone, of the one that leaves out prompted images which show another class
    images -> kept -> distilled -> images, of the arms whose LoRA is trained on images instead of rewards
    images -> kept -> distilled -> lora -> images, of the one whose training with rewards begins at that LoRA
    lora -> images -> kept -> backbone, of the one that is trained and drawn with contexts in its prompts
    tuned -> images -> judged, of the comparison of trainers

The hash holds the stage's settings, the hashes of the stages it reads, and the weights of the models it loads. So two
arms, or two commands, that ask for the same thing share it, and what is asked for with other settings is made anew.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import yaml

from ubgen_pipeline.files.whole_files import write_whole_text
from ubgen_pipeline.mini import embedded_model_path, mini_clip_path, mini_model_path
from ubgen_pipeline.mini.scenes import BACKGROUND_NAMES, CLASS_NAMES, TEXTURE_NAMES

# to be raised when a stage does something else than before with the same settings
STAGE_VERSIONS = {
    "clip": 1,
    "lora": 1,
    "images": 1,
    "kept": 1,
    "distilled": 1,
    "backbone": 1,
    "measures": 2,
    "tuned": 1,
    "judged": 1,
}
# the generator that stages have whose settings name none
MINI = "mini"
# rendered scenes, and the bias that they have; None is the setting real_bias
RENDERED_ARMS = {"real": None, "unbiased": 0.0}
PROMPTED_ARM, DISTILLED_ARM, CADS_ARM = "prompted", "distilled", "cads"
UNTUNED_ARMS = (*RENDERED_ARMS, "base", PROMPTED_ARM)
# how the arm cads draws: of the scales in results/diversity.md the largest with as many images recognised as without
CADS = {"diversity": "cads", "cads_scale": 1.0}
VARIETY_ARM, LOGDET_ARM, BEGUN_ARM = "ubgen_variety", "ubgen_logdet", "distilled_logdet"
PROMPTED_KEPT_ARM, CAPTIONED_ARM, BARE_ARM = "prompted_kept", "captioned", "captioned_distilled"
# arms whose LoRA is trained on images of another arm, under the bare class names
DISTILLED_FROM = {DISTILLED_ARM: PROMPTED_ARM, BARE_ARM: CAPTIONED_ARM}
_ABLATIONS = ("no_en", "no_in", "no_q", "weak_clip")
# an arm with a full loss, how the names of its ablations begin, and what they leave out
_ABLATIONS_OF = {
    "ubgen": ("", _ABLATIONS),
    VARIETY_ARM: ("variety_", _ABLATIONS),
    # its loss has no L_en and no L_q to leave out, so that one is added instead
    LOGDET_ARM: ("logdet_", ("with_en", "no_in", "with_q", "no_variety", "weak_clip")),
    # its loss is the alignment alone: without that it is `prompted_kept`; here other terms are added
    CAPTIONED_ARM: ("captioned_", ("unfiltered", "with_en", "with_q", "weak_clip")),
}
# every ablation, and the arm with the full loss that it leaves something out of
FULL_LOSS = {prefix + name: full for full, (prefix, names) in _ABLATIONS_OF.items() for name in names}
TUNED_ARMS = ("ubgen", VARIETY_ARM, LOGDET_ARM, BEGUN_ARM, CAPTIONED_ARM, *FULL_LOSS)
ARMS = (*UNTUNED_ARMS, CADS_ARM, PROMPTED_KEPT_ARM, DISTILLED_ARM, BARE_ARM, *TUNED_ARMS)
# trained on captions, and drawn with prompts of that kind
CAPTION_ARMS = tuple(arm for arm in TUNED_ARMS if FULL_LOSS.get(arm, arm) == CAPTIONED_ARM)
UNFILTERED_ARM = "captioned_unfiltered"
# arms whose images are left out where CLIP takes them for another class, and how many times as many are drawn
KEPT_ARMS = {PROMPTED_KEPT_ARM: 3.5} | {arm: 1.5 for arm in (BARE_ARM, *CAPTION_ARMS) if arm != UNFILTERED_ARM}
# the weights of L_en and of L_q where an ablation adds them
_ADDED_EN_WEIGHT = 0.3
_ADDED_Q_WEIGHT = 0.1
# the reward that an ablation leaves out, or adds
_LEFT_OUT_REWARD = {"no_in": "clip_alignment", "no_q": "quality", "no_variety": "logdet_variety"}
_ADDED_REWARD = {"with_q": ("quality", _ADDED_Q_WEIGHT)}
VARIETY_REWARD = "class_variety"
# a placeholder in the configuration for the folder of the stage `clip`, which is known only when the stage runs
CLIP_FOLDER = "{clip}"
# and one for that of the LoRA of the stage `distilled`
DISTILLED_FOLDER = "{distilled}"
# and one for the file of captions that the stage writes
CAPTIONS_FILE = "{captions}"
# what a sceptic would do without any training: name every texture and background in the prompt
PROMPT_TEMPLATES = {
    "templates": ["a photo of a {texture} {name} on {background}"],
    "attributes": {"texture": list(TEXTURE_NAMES), "background": list(BACKGROUND_NAMES)},
}
# the same texts, of which the configuration's prompt_template makes those prompts
CAPTIONS = PROMPT_TEMPLATES | {"templates": ["{texture} {name} on {background}"], "classes": list(CLASS_NAMES)}
# one CLIP for all run seeds, as the paper has one smaller CLIP
WEAK_CLIP = {"num_scenes": 6000, "num_steps": 700, "scene_seed": 61, "seed": 7}
_CLASSIFIER = Path(mini_model_path()).parent / "classifier"


@dataclass(frozen=True)
class Stage:
    """One piece of work; ``settings`` are JSON values, ``inputs`` the stages it reads by the name it knows them by."""

    kind: str
    name: str
    root: Path
    settings: Mapping[str, Any]
    inputs: Mapping[str, "Stage"] = field(default_factory=dict)

    @cached_property
    def key(self) -> str:
        """Hash of all that goes into it."""
        inputs = {name: stage.key for name, stage in self.inputs.items()}
        hashes = model_hashes(self.kind, self.settings.get("model", MINI))
        content = [self.kind, STAGE_VERSIONS[self.kind], self.settings, inputs, hashes]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def folder(self) -> Path:
        return self.root / self.kind / self.key

    @property
    def is_done(self) -> bool:
        return (self.folder / "done.json").is_file()

    def prepare(self) -> None:
        """Write ``stage.json``, which is all that the stage's process is told; paths in it start at the root."""
        inputs = {name: str(stage.folder.relative_to(self.root)) for name, stage in self.inputs.items()}
        record = {"kind": self.kind, "name": self.name, "settings": dict(self.settings), "inputs": inputs}
        write_whole_text(self.folder / "stage.json", json.dumps(record, indent=1) + "\n")


@dataclass(frozen=True)
class Run:
    """One arm with one seed: its last stage, from which the others are reached."""

    arm: str
    seed: int
    measures: Stage

    @property
    def stages(self) -> list[Stage]:
        """In the order in which they can run."""
        return in_order(self.measures)


@dataclass(frozen=True)
class Recipe:
    """What the settings of the command say of the stages: everything except arm and seed."""

    root: Path
    model: str
    training: Mapping[str, Any]
    backbone: Mapping[str, Any]
    samples_per_class: int
    num_inference_steps: int
    guidance_scale: float
    dtype: str
    real_bias: float
    lora_step: int | None
    measures: Mapping[str, Any]
    threads: int
    variety_weight: float
    variety_training: Mapping[str, Any]
    logdet: Mapping[str, Any]
    distilling: Mapping[str, Any]
    captioned: Mapping[str, Any]
    min_probability: float | None


def build_run(recipe: Recipe, arm: str, seed: int) -> Run:
    """The stages of an arm and seed.

    Raises:
        ValueError: an ablation that leaves out a reward which the training settings do not have.
    """
    name, common = f"{arm}/{seed}", {"threads": recipe.threads}
    inputs = {}
    if arm in TUNED_ARMS:
        inputs["lora"] = _tuned(recipe, arm, seed)
    if arm in DISTILLED_FROM:
        inputs["lora"] = _distilled(recipe, arm, seed)
    dataset = _images(recipe, arm, seed, inputs)
    if arm in KEPT_ARMS:
        dataset = _kept(recipe, arm, seed, dataset)
    config = {"config": dict(recipe.backbone) | {"seed": seed}}
    backbone = Stage("backbone", name, recipe.root, config | common, {"images": dataset})
    both = {"images": dataset, "backbone": backbone}
    return Run(arm, seed, Stage("measures", name, recipe.root, dict(recipe.measures) | common, both))


def _tuned(recipe: Recipe, arm: str, seed: int) -> Stage:
    """The LoRA that is trained with rewards."""
    config, read = training_settings(recipe, arm) | {"seed": seed}, {}
    common = {"threads": recipe.threads}
    if ablation(arm) == "weak_clip":
        read["clip"] = Stage("clip", "weak CLIP", recipe.root, WEAK_CLIP | common)
    if arm == BEGUN_ARM:
        read["distilled"] = _distilled(recipe, DISTILLED_ARM, seed)
        config["initial_lora"] = DISTILLED_FOLDER
    captions = {"captions": CAPTIONS} if arm in CAPTION_ARMS else {}
    settings = _model(recipe) | {"config": config} | captions | common
    return Stage("lora", f"{arm}/{seed}", recipe.root, settings, read)


def _distilled(recipe: Recipe, arm: str, seed: int) -> Stage:
    """The LoRA that is trained on images of another arm which show their class."""
    name, common, source = f"{arm}/{seed}", {"threads": recipe.threads}, DISTILLED_FROM[arm]
    inputs = {"lora": _tuned(recipe, source, seed)} if source in TUNED_ARMS else {}
    images = _images(recipe, source, seed, inputs)
    if source in KEPT_ARMS:
        kept = _kept(recipe, source, seed, images)
    else:
        kept = Stage("kept", name, recipe.root, common, {"images": images})
    config = {"config": dict(recipe.distilling) | _named_model(recipe) | {"seed": seed}}
    return Stage("distilled", name, recipe.root, _model(recipe) | config | common, {"kept": kept})


def _model(recipe: Recipe) -> dict[str, str]:
    """What the settings of a stage that loads a generator hold: its name, unless it is the usual one."""
    return {} if recipe.model == MINI else {"model": recipe.model}


def _named_model(recipe: Recipe) -> dict[str, str]:
    """The same as a setting of a training."""
    return {} if recipe.model == MINI else {"model_name_or_path": recipe.model}


def _kept(recipe: Recipe, arm: str, seed: int, images: Stage) -> Stage:
    """Those of an arm's images that CLIP takes for their class, as many as the other arms have."""
    rules: dict[str, Any] = {"max_per_class": recipe.samples_per_class}
    if recipe.min_probability is not None:
        rules["min_zero_shot_probability"] = recipe.min_probability
    return Stage("kept", f"{arm}/{seed}", recipe.root, rules | {"threads": recipe.threads}, {"images": images})


def _images(recipe: Recipe, arm: str, seed: int, inputs: Mapping[str, Stage]) -> Stage:
    """The dataset of an arm, from the LoRA in ``inputs`` where it has one."""
    drawn = recipe.samples_per_class * KEPT_ARMS.get(arm, 1)
    images: dict[str, Any] = {"samples_per_class": round(drawn), "seed": seed}
    if arm in RENDERED_ARMS:
        bias = RENDERED_ARMS[arm]
        images |= {"bias": recipe.real_bias if bias is None else bias}
    else:
        images |= {"num_inference_steps": recipe.num_inference_steps, "guidance_scale": recipe.guidance_scale}
        images |= {"dtype": recipe.dtype} | _model(recipe)
    if arm in (PROMPTED_ARM, PROMPTED_KEPT_ARM, *CAPTION_ARMS):
        images |= {"templates": PROMPT_TEMPLATES}
    if arm == CADS_ARM:
        images |= CADS
    if arm in TUNED_ARMS:
        images |= {"lora_step": recipe.lora_step}
    return Stage("images", f"{arm}/{seed}", recipe.root, images | {"threads": recipe.threads}, inputs)


def ablation(arm: str) -> str | None:
    """What the arm leaves out of its full loss, by the name that the paper's ablation of it has; None: nothing."""
    return arm.removeprefix(_ABLATIONS_OF[FULL_LOSS[arm]][0]) if arm in FULL_LOSS else None


def training_settings(recipe: Recipe, arm: str) -> dict[str, Any]:
    """The settings of ``train_ubgen.py`` for an arm.

    ``no_en`` leaves the adversarial term out, ``no_in`` the alignment with the class's own text, ``no_q`` the quality;
    ``weak_clip`` has a CLIP that knows less. ``ubgen_variety`` adds ``class_variety`` to the full loss, and
    ``variety_no_en`` and the like leave the same out of that; these arms have ``variety_training`` too.
    ``ubgen_logdet`` has a configuration of its own, whose loss holds ``logdet_variety``, no adversarial term and no
    quality, which ``logdet_with_en`` and ``logdet_with_q`` add. ``distilled_logdet`` has that, too, and begins at the
    LoRA of ``distilled``. ``captioned`` has a configuration of its own, too: the alignment alone, of captions;
    ``captioned_with_en`` and the like add to it, and ``captioned_unfiltered`` is trained as it is.

    Raises:
        ValueError: reward settings that do not let the arm change them.
    """
    changed = ablation(arm)
    if arm in CAPTION_ARMS:
        config = dict(recipe.captioned) | {"captions": CAPTIONS_FILE}
    elif LOGDET_ARM in (arm, FULL_LOSS.get(arm)) or arm == BEGUN_ARM:
        config = dict(recipe.logdet)
    else:
        config = dict(recipe.training)
    has_variety = VARIETY_ARM in (arm, FULL_LOSS.get(arm))
    if has_variety:
        config |= recipe.variety_training
    if changed == "no_en":
        config["adversarial_weight"] = 0.0
    if changed == "with_en":
        config["adversarial_weight"] = _ADDED_EN_WEIGHT
    if changed == "weak_clip":
        config["clip_model"] = f"mini:{CLIP_FOLDER}"
    names, weights = config.get("reward_funcs") or [], config.get("reward_weights") or []
    reads_rewards = changed in _LEFT_OUT_REWARD or changed in _ADDED_REWARD or has_variety
    if reads_rewards and len(names) != len(weights):
        raise ValueError(
            f"arm {arm} changes the rewards, but the training settings have reward_funcs {names} and reward_weights "
            f"{weights}; give one weight for each reward."
        )
    rewards = dict(zip(names, weights))
    if changed in _LEFT_OUT_REWARD:
        left_out = _LEFT_OUT_REWARD[changed]
        if left_out not in rewards:
            raise ValueError(
                f"arm {arm} leaves out the reward {left_out!r}, but the training settings have reward_funcs {names}; "
                f"name it there."
            )
        rewards[left_out] = 0.0
    if changed in _ADDED_REWARD:
        added, weight = _ADDED_REWARD[changed]
        rewards[added] = weight
    if has_variety:
        if VARIETY_REWARD in rewards:
            raise ValueError(
                f"arm {arm} adds the reward {VARIETY_REWARD!r}, but the training settings have reward_funcs {names}; "
                f"leave it out there."
            )
        rewards[VARIETY_REWARD] = recipe.variety_weight
    if reads_rewards:
        config |= {"reward_funcs": [*rewards], "reward_weights": [*rewards.values()]}
    return config | _named_model(recipe)


def read_config(file: str | Path, overrides: Sequence[str] = (), flag: str = "set") -> dict[str, Any]:
    """A YAML file of settings, with ``key=value`` overrides given with ``flag``, the values of which are YAML too.

    Raises:
        ValueError: it cannot be read, or an override that is no ``key=value``.
    """
    try:
        config = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"configuration {str(file)!r} could not be read as YAML: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"configuration {str(file)!r} holds no settings; write lines `name: value`.")
    return config | read_overrides(overrides, flag)


def read_overrides(overrides: Sequence[str], flag: str = "set") -> dict[str, Any]:
    """Settings given as ``name=value`` with ``flag``, each value read as YAML.

    Raises:
        ValueError: one that is no ``name=value``.
    """
    read = {}
    for override in overrides:
        key, separator, value = override.partition("=")
        if not separator or not key:
            raise ValueError(f"--{flag} holds {override!r}; write name=value, such as adversarial_weight=0.3.")
        read[key] = yaml.safe_load(value)
    return read


@cache
def model_hashes(kind: str, model_name: str = MINI) -> tuple[str, ...]:
    """Hashes of the weights that a stage of this kind loads from the package, for the embedded model of that name."""
    model, clip = Path(embedded_model_path(model_name)), Path(mini_clip_path())
    read = {
        "clip": [],
        "lora": [model, clip, _CLASSIFIER],
        "images": [model],
        "kept": [clip],
        "distilled": [model],
        "backbone": [],
        "measures": [clip, _CLASSIFIER],
        "tuned": [model, clip, _CLASSIFIER],
        "judged": [clip, _CLASSIFIER],
    }
    return tuple(_folder_hash(folder) for folder in read[kind])


@cache
def _folder_hash(folder: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(str(file.relative_to(folder)).encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def in_order(stage: Stage) -> list[Stage]:
    """``stage`` after all that it depends on, in an order in which they can run."""
    found: dict[str, Stage] = {}
    for before in stage.inputs.values():
        found |= {one.key: one for one in in_order(before)}
    return [*found.values(), stage]
