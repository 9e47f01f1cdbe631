"""The registry of model families: which file serves a model, by the class that its ``model_index.json`` names.

Each family is one file ``pipeline….py`` at the root of ``ubgen_pipeline`` and one line here.
"""

from dataclasses import dataclass
from importlib import import_module
from typing import Any


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
    "lumina2": RegisteredFamily("pipeline_lumina2", "UbGenLumina2Pipeline", ("Lumina2Pipeline",)),
}


def family_of(class_name: str) -> str | None:
    """The registry's name of the family of a pipeline class, diffusers' own or ours; None where it has none."""
    for name, family in FAMILIES.items():
        if class_name in (family.class_name, *family.stock_names):
            return name
    return None
