"""The settings of ``ubgen generate``, and the samples that they stand for. No torch."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from ..commands.settings_parser import field_help
from ..files.places import Place, as_place, check_is_local, is_address
from ..inference.diversity_options import DiversitySettings
from ..inference.presets import PresetSettings
from ..inference.settings import InferenceSettings
from ..models.loras import as_loras
from ..prompts.class_file import ClassFile
from ..sample_seeds import sample_seed
from ..samples.load_samples import SampleSettings, load_samples
from ..samples.sample import Samples
from ..samples.source_samples import check_task
from ..scoring.settings import ScoreSettings
from .annotation_settings import AnnotationSettings

ENGINES = ("local", "ray")
# of a Ray cluster
RAY_SETTINGS = ("num_workers", "worker_gpus", "worker_cpus")
RUN_SETTINGS = ("output_dir", "dry_run", "engine", *RAY_SETTINGS, "prompt_features", "profile")
# settings that say where the dataset goes, not what it holds
HUB_SETTINGS = ("hub_dataset_id", "private", "keep_local", "shards_per_commit")


@dataclass(frozen=True)
class GenerateSettings(AnnotationSettings, ScoreSettings, InferenceSettings, PresetSettings, DiversitySettings):
    """Settings of ``ubgen generate``."""

    class_names: list[str] | None = field_help(
        "class names; or use --classes; with a file of captions, the names that its class prompts consist of", None
    )
    classes: str | None = field_help(
        "a class file, a built-in list (imagenet1k, imagenet100, voc, coco), a file of captions, or a file with"
        " templates or DiffuGen's configuration, which then sets the defaults of other flags",
        None,
    )
    samples_per_class: int | None = field_help(
        "images of each class; 10, or all prompts of a file with templates, or 1 of each caption", None
    )
    output_dir: str | None = field_help(
        "folder of the dataset, or its address in a store, such as s3://bucket/folder; an unfinished one is resumed",
        None,
    )
    model: str = field_help(
        "mini, mini-flow, a folder in diffusers layout, a checkpoint of a whole model in one .safetensors file, or a"
        " Hub id",
        "mini",
    )
    lora: list[str] | None = field_help(
        "LoRAs, each a folder, file or Hub id; with :STRENGTH after it where that is not 1, such as style:0.5", None
    )
    revision: str | None = field_help(
        "of the model on the Hub, or of the one there that has what a checkpoint in one file lacks", None
    )
    variant: str | None = field_help(
        "of the model's weights, such as fp16; the plain ones if not given, or the variant that is there alone", None
    )
    template: str = field_help("prompt, with {name} and, where the classes have them, {definition}", "{name}")
    definitions: bool = field_help("join each class's definition, or else WordNet's, to its prompt", False)
    max_prompts: int | None = field_help("different prompts of each class, chosen by the seed; all if not given", None)
    negative_prompt: str | None = field_help("text to guide away from", None)
    num_inference_steps: int | None = field_help(
        "denoising steps; the model family's own if not given: 50 for Stable Diffusion", None
    )
    guidance_scale: float | None = field_help(
        "classifier-free guidance, where 1 or less means none, or the number that the model reads; the model family's"
        " own if not given: 2 for Stable Diffusion",
        None,
    )
    true_cfg_scale: float | None = field_help(
        "classifier-free guidance away from the negative prompt beside the number that the model reads, at twice the"
        " cost; for FLUX.1; none if not given",
        None,
    )
    scheduler: str | None = field_help(
        "ddpm, ddim, pndm, dpm++, unipc, or of presets lcm, ddim-trailing; for flow matching flow-euler, flow-heun,"
        " flow-lcm, flow-dpm++, flow-unipc; the model's own if not given",
        None,
    )
    height: int | None = field_help("image height in pixels; the model's own if not given", None)
    width: int | None = field_help("image width in pixels; the model's own if not given", None)
    seed: int = field_help("seed of the run, from 0 to 2**63 - 1", 0)
    samples_per_shard: int = field_help("rows of a parquet file", 256)
    device: str | None = field_help("cpu, cuda, …; CUDA where there is one, if not given", None)
    embeddings: list[str] | None = field_help(
        "textual inversions for words in the prompts: FILE, or FILE=TOKEN to name its word", None
    )
    task: str = field_help(
        "text-to-image, image-to-image or inpaint; the last two need --source, or a configuration that names one",
        "text-to-image",
    )
    source: str | None = field_help("dataset to start from: folder or Hub id; rows need image and label", None)
    source_split: str = field_help("split of the source", "train")
    source_class_map: list[str] | None = field_help(
        "NAME=CLASS for each class of the source that is called otherwise here", None
    )
    samples_per_source: int = field_help("images drawn from each source row", 1)
    strength: float = field_help("share of the steps that a source image goes through, above 0 up to 1", 0.8)
    region: str = field_help("what inpainting draws anew, by the source's masks: object or background", "object")
    region_margin: int = field_help("pixels that this region is grown by", 0)
    hub_dataset_id: str | None = field_help("owner/name of a dataset on the Hub, filled as shards are finished", None)
    private: bool = field_help("create the dataset on the Hub private", False)
    keep_local: bool = field_help("keep the shards' files here after they are on the Hub", False)
    shards_per_commit: int = field_help("finished shards that make a commit on the Hub", 8)
    engine: str = field_help("local, or ray: a Ray cluster (RAY_ADDRESS, else this machine)", "local")
    num_workers: int | None = field_help(
        "of engine ray; as many as the cluster's GPUs have room for, or 2 on CPUs", None
    )
    worker_gpus: float | None = field_help(
        "share of a GPU that a worker of engine ray takes, above 0 up to 1: with 0.5 two of them share one; 1 if not"
        " given",
        None,
    )
    worker_cpus: int | None = field_help("CPU cores that a worker of engine ray takes; 1 if not given", None)
    profile: str | None = field_help(
        "file for a trace of the run's stages, which Perfetto and chrome://tracing open; rank R writes FILE.R", None
    )
    dry_run: bool = field_help("print one JSON line per sample, and load no model", False)

    def __post_init__(self) -> None:
        for name in ("samples_per_shard", "samples_per_source", "shards_per_commit"):
            _check_count(name, getattr(self, name))
        optional = ("num_inference_steps", "samples_per_class", "max_prompts", "height", "width")
        for name in (*optional, "num_workers", "worker_cpus"):
            if getattr(self, name) is not None:
                _check_count(name, getattr(self, name))
        if self.guidance_scale is not None and not 0 <= self.guidance_scale < float("inf"):
            raise ValueError(f"guidance_scale is {self.guidance_scale}; give a number of at least 0.")
        if self.true_cfg_scale is not None and not 1 < self.true_cfg_scale < float("inf"):
            raise ValueError(
                f"true_cfg_scale is {self.true_cfg_scale}; give a number above 1, or leave it out for none."
            )
        for name in ("prompt_features", "profile"):
            check_is_local(getattr(self, name), name)
        sample_seed(self.seed, "", 0)
        # callers from Python may give the only one alone
        entries = [self.lora] if isinstance(self.lora, (str, Path)) else list(self.lora or ())
        object.__setattr__(self, "lora", [str(entry) for entry in entries] or None)
        as_loras(self.lora)
        as_loras(self.few_step_lora, argument="few_step_lora")
        self.check_inference()
        self.check_diversity()
        self.wanted_scores()
        self.apply_preset()
        self._check_engine()
        # with a class file this is checked later, since the file may name the source
        if self.classes is None or self.source is not None:
            check_task(self.task, self.source, self.strength, self.region, self.region_margin)
        if self.source is not None and self.samples_per_class is not None:
            raise ValueError(
                "samples_per_class is given with a source; give samples_per_source, the images of each source row."
            )
        if self.source is None and self.class_names is None and self.classes is None:
            raise ValueError("give the classes either by class_names or by classes, a file or built-in list.")
        if self.hub_dataset_id is not None:
            from ..hub.access import check_repo_id

            check_repo_id("hub_dataset_id", self.hub_dataset_id)
        elif self.private or self.keep_local:
            name = "private" if self.private else "keep_local"
            raise ValueError(f"{name} is set without hub_dataset_id; name the dataset on the Hub, or leave it out.")
        if self.wanted_annotations() and self.compile == "on":
            raise ValueError("compile is on, which annotations from attention do not work with; give off or auto.")
        if self.wanted_annotations() and self.source is not None:
            raise ValueError(
                "annotations is given with a source, whose rows keep the source's masks; leave it out, and annotate"
                " the finished dataset with `ubgen annotate`."
            )

    def _check_engine(self) -> None:
        if self.engine not in ENGINES:
            raise ValueError(f"engine is {self.engine!r}; choose one of {', '.join(ENGINES)}.")
        for name in RAY_SETTINGS:
            if getattr(self, name) is not None and self.engine != "ray":
                raise ValueError(f"{name} is given without engine ray; add --engine ray, or accelerate launch.")
        if self.worker_gpus is not None:
            if not 0 < self.worker_gpus <= 1:
                raise ValueError(f"worker_gpus is {self.worker_gpus}; give a number above 0 up to 1.")
            if self.device is not None and not self.device.startswith("cuda"):
                raise ValueError(f"worker_gpus is given and device is {self.device!r}; leave one of them out.")
        if self.engine == "ray" and (self.device or "").startswith("cuda:"):
            raise ValueError(
                f"device is {self.device!r} with engine ray, which gives each worker a GPU of its own; give cuda."
            )
        if self.engine == "ray" and self.profile is not None:
            raise ValueError("profile is given with engine ray, whose workers write no traces; leave it out.")
        if self.engine == "ray" and self.keep_local:
            raise ValueError(
                "engine is 'ray' and keep_local is set, but shards that go to the Hub are drawn on the workers'"
                " machines; leave it out, and download the dataset."
            )

    def folder(self) -> Place:
        """The dataset's folder or address; for a dataset on the Hub that needs none, one beside the Hub's cache.

        Raises:
            ValueError: none is given where one is needed, or an address that cannot be used.
        """
        if self.output_dir is not None:
            if is_address(self.output_dir) and self.hub_dataset_id is not None:
                raise ValueError(
                    f"output_dir is {self.output_dir!r} and hub_dataset_id is given, but shards wait in a local folder"
                    " before they go to the Hub; leave output_dir out."
                )
            return as_place(self.output_dir, "output_dir")
        if self.hub_dataset_id is None or self.keep_local:
            raise ValueError("output_dir is missing; give the dataset's folder, or dry_run.")
        from huggingface_hub import constants

        return Path(constants.HF_HOME) / "ubgen" / self.hub_dataset_id.replace("/", "--")

    def samples(self, class_file: ClassFile | None = None) -> Samples:
        """Which image comes next, and from what.

        Args:
            class_file: the file that ``classes`` names, where it was read already.
        """
        given = {item.name: getattr(self, item.name) for item in dataclasses.fields(SampleSettings)}
        return load_samples(SampleSettings(**given), class_file)


def _check_count(name: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} is {value!r}; give an integer of at least 1.")
