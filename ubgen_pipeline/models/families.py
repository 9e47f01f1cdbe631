"""The registry of model families: which file serves a model, by the class that its ``model_index.json`` names.

Each family is one file ``pipeline….py`` at the root of ``ubgen_pipeline`` and one line here.
"""

import json
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

# the page that says how a family is added
HOW_TO_ADD = "docs/extend.md"


@dataclass(frozen=True)
class RegisteredFamily:
    """Where a family's code is.

    Attributes:
        module: file of the root, without its ending.
        class_name: of our pipeline in it.
        stock_names: diffusers' own pipelines whose models it loads; the first is the one it adds the call to.
    """

    module: str
    class_name: str
    stock_names: tuple[str, ...]

    @property
    def code_file(self) -> Path:
        """The file itself."""
        return Path(__file__).parents[1] / f"{self.module}.py"

    def pipeline_class(self) -> Any:
        """Our pipeline of this family; loads its file only now."""
        return getattr(import_module(f"..{self.module}", __package__), self.class_name)


FAMILIES: dict[str, RegisteredFamily] = {
    "sd": RegisteredFamily("pipeline", "UbGenPipeline", ("StableDiffusionPipeline",)),
    "sdxl": RegisteredFamily("pipeline_sdxl", "UbGenSDXLPipeline", ("StableDiffusionXLPipeline",)),
    "sd3": RegisteredFamily("pipeline_sd3", "UbGenStableDiffusion3Pipeline", ("StableDiffusion3Pipeline",)),
    "flux": RegisteredFamily("pipeline_flux", "UbGenFluxPipeline", ("FluxPipeline",)),
    "z-image": RegisteredFamily("pipeline_z_image", "UbGenZImagePipeline", ("ZImagePipeline",)),
    "flux2-klein": RegisteredFamily("pipeline_flux2", "UbGenFlux2KleinPipeline", ("Flux2KleinPipeline",)),
    "flux2-dev": RegisteredFamily("pipeline_flux2_dev", "UbGenFlux2Pipeline", ("Flux2Pipeline",)),
    "qwen-image": RegisteredFamily("pipeline_qwen_image", "UbGenQwenImagePipeline", ("QwenImagePipeline",)),
    "sana": RegisteredFamily("pipeline_sana", "UbGenSanaPipeline", ("SanaPipeline",)),
    "sana-sprint": RegisteredFamily("pipeline_sana_sprint", "UbGenSanaSprintPipeline", ("SanaSprintPipeline",)),
    "pixart-sigma": RegisteredFamily("pipeline_pixart_sigma", "UbGenPixArtSigmaPipeline", ("PixArtSigmaPipeline",)),
    "cogview4": RegisteredFamily("pipeline_cogview4", "UbGenCogView4Pipeline", ("CogView4Pipeline",)),
    "aura-flow": RegisteredFamily("pipeline_aura_flow", "UbGenAuraFlowPipeline", ("AuraFlowPipeline",)),
    "ernie-image": RegisteredFamily("pipeline_ernie_image", "UbGenErnieImagePipeline", ("ErnieImagePipeline",)),
    "lumina2": RegisteredFamily("pipeline_lumina2", "UbGenLumina2Pipeline", ("Lumina2Pipeline",)),
    "chroma": RegisteredFamily("pipeline_chroma", "UbGenChromaPipeline", ("ChromaPipeline",)),
}


def family_of(class_name: str) -> str | None:
    """The registry's name of the family of a pipeline class, diffusers' own or ours; None where it has none.

    Pipelines that start from an image have the same parts, and models were saved under their names, too.
    """
    class_name = class_name.replace("Img2ImgPipeline", "Pipeline")
    for name, family in FAMILIES.items():
        if class_name in (family.class_name, *family.stock_names):
            return name
    return None


def family_of_model(source: str, revision: str | None = None) -> str:
    """The registry's name of a model's family, by the class that its ``model_index.json`` names; no weights are read.

    Args:
        source: a folder in diffusers layout, a checkpoint of a whole model in one file, or a Hub id.
        revision: of the model on the Hub.

    Raises:
        ValueError: a family that is not in the registry; the text follows the model's name.
        OSError: no such model, or one that cannot be read.
    """
    if (file := Path(source).expanduser()).is_file():
        # imported here: it loads torch
        from .single_file_kinds import family_of_file

        return family_of_file(file)
    named = _part_config(source, None, revision).get("_class_name")
    # a model saved with our code names the file, too
    class_name = str(named[-1] if isinstance(named, list) and named else named)
    family = family_of(class_name)
    if family is None:
        known = ", ".join(f"{name} ({line.stock_names[0]})" for name, line in FAMILIES.items())
        raise ValueError(
            f"whose model_index.json names the class {class_name}; known are the families {known}. {HOW_TO_ADD} says"
            " how another one is added"
        )
    return family


def denoiser_config(source: str, revision: str | None = None) -> dict[str, Any]:
    """The configuration of a model's denoiser; raises as :func:`family_of_model`."""
    if (file := Path(source).expanduser()).is_file():
        from .single_file_settings import denoiser_config_of_file

        return denoiser_config_of_file(file)
    pipeline_class = FAMILIES[family_of_model(source, revision)].pipeline_class()
    return _part_config(source, pipeline_class.denoiser_part, revision)


def _part_config(source: str, part: str | None, revision: str | None) -> dict[str, Any]:
    """The index of a model, or the configuration of a part of it."""
    name = "model_index.json" if part is None else f"{part}/config.json"
    folder = Path(source).expanduser()
    if folder.is_dir():
        file = folder / name
    else:
        from huggingface_hub import hf_hub_download

        file = Path(hf_hub_download(source, name, revision=revision))
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"whose {name} is no JSON ({error}); fetch the model anew") from error
    if not isinstance(config, dict):
        raise ValueError(f"whose {name} is no mapping; fetch the model anew")
    return config
