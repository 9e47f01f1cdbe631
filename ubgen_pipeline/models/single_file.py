"""Checkpoints of a whole model in one file, as their authors publish them: what they are, and how they are configured.

diffusers tells the kind by names and shapes of the weights, and converts them. A file says nothing of its tokenizers,
scheduler and sizes. For Stable Diffusion 1.x, 2.x and XL all of it follows from the weights' shapes, and the tokenizer
is the one that open_clip ships, so that no network is needed. For the others diffusers reads the settings of the
family's first model, from the Hub or its cache; the parts that such a file lacks come from there, too.
"""

import json
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from .loras import weight_names
from .single_file_parts import lacking_parts, weights_misfit

SUFFIX = ".safetensors"
PICKLES = (".ckpt", ".pt", ".pth", ".bin")
# families by what diffusers calls the kinds of checkpoints that ubgen draws with
_FAMILIES = {
    "v1": "sd", "v2": "sd", "xl_base": "sdxl", "playground-v2-5": "sdxl",
    "sd3": "sd3", "sd35_large": "sd3", "sd35_medium": "sd3", "flux-dev": "flux", "flux-schnell": "flux",
    "flux-2-dev": "flux2-dev", "z-image-turbo": "z-image", "auraflow": "aura-flow", "lumina2": "lumina2",
    "sana": "sana",
}  # fmt: skip
_UNET, _VAE = "model.diffusion_model.", "first_stage_model."
_VAE_NETWORKS = tuple(f"{_VAE}{name}." for name in ("encoder", "decoder", "quant_conv", "post_quant_conv"))
# what every checkpoint of a UNet has; diffusers takes all that it does not know for Stable Diffusion 1
_FIRST_LAYER = f"{_UNET}input_blocks.0.0.weight"
# of ComfyUI's 8-bit floats and of bitsandbytes; without these numbers the weights beside them are others
_QUANTIZED = re.compile(r"\.(scale_weight|weight_scale|absmax|weight_format)$|scaled_fp8$|\.quant_state\.")
_NOISE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
_PREDICTIONS = {"v": "v_prediction", "v_prediction": "v_prediction", "eps": "epsilon", "epsilon": "epsilon"}


def is_single_file(source: str | Path) -> bool:
    """Whether that is a file, and not a folder or a Hub id."""
    return Path(source).expanduser().is_file()


def settings_beside(file: Path) -> Path | None:
    """The file of settings of the same name beside a checkpoint, ``model.yaml``; None where there is none."""
    place = file.with_suffix(".yaml")
    return place if place.is_file() else None


def kind_of_file(file: Path) -> str:
    """What diffusers calls that kind of checkpoint.

    Raises:
        ValueError: pickled, no safetensors file, or of no known kind; the text follows the file's name.
    """
    from diffusers.loaders.single_file_utils import infer_diffusers_model_type

    if file.suffix in PICKLES:
        raise ValueError(
            "which is pickled and not loaded, since loading it can run code of whoever made it. Where you trust it,"
            " write its state_dict anew with `safetensors.torch.save_file`, and give that file"
        )
    shapes = _shapes(file)
    if not shapes:
        raise ValueError("which is no safetensors file; give a folder in diffusers layout, or a checkpoint")
    if any(re.search(r"lora_|hada_|lokr_", name) for name in shapes):
        raise ValueError("which is a LoRA and no whole model; give it as lora, beside its model")
    if (scaled := next((name for name in shapes if _QUANTIZED.search(name)), None)) is not None:
        raise ValueError(
            f"whose weights are quantized, with scales beside them ({scaled}) that diffusers does not read from one"
            " file; give one that is not"
        )
    if not any(name.startswith((_UNET, _VAE)) or "transformer" in name or "blocks" in name for name in shapes):
        raise ValueError("whose weights are those of no model that is known")
    try:
        kind = infer_diffusers_model_type(shapes)
    # of position embeddings of another size than it knows, it names no kind
    except UnboundLocalError as error:
        raise ValueError(
            "whose weights are those of Stable Diffusion 3 for a size that diffusers does not know"
        ) from error
    # it asks for some weights by name where it has seen others
    except (KeyError, IndexError) as error:
        raise ValueError(f"which lacks weights of the kind that it seems to be ({error})") from error
    if kind == "v1" and _FIRST_LAYER not in shapes:
        raise ValueError("whose weights are those of no model that diffusers reads from one file")
    return kind


def family_of_file(file: Path) -> str:
    """The registry's name of the family; raises as :func:`kind_of_file`, and for families that are not there."""
    kind = kind_of_file(file)
    if kind not in _FAMILIES:
        raise ValueError(f"which diffusers reads as a checkpoint of the kind {kind}, of which no family is known")
    return _FAMILIES[kind]


def denoiser_config_of_file(file: Path) -> dict[str, Any]:
    """What the shapes of a UNet's weights say of its configuration; nothing for other families."""
    kind = kind_of_file(file)
    return _unet_config(_shapes(file), kind) if _FAMILIES.get(kind) in ("sd", "sdxl") else {}


def load_single_file(pipeline_class: Any, file: Path, dtype: torch.dtype) -> Any:
    """The pipeline of a checkpoint.

    Raises:
        ValueError: settings that the file does not say, or parts that it does not hold; the text follows the file's
            name.
    """
    from diffusers.loaders.single_file_utils import DIFFUSERS_DEFAULT_PIPELINE_PATHS, SingleFileComponentError

    kind = kind_of_file(file)
    family, shapes = _FAMILIES[kind], _shapes(file)
    if family in ("sd", "sdxl"):
        with tempfile.TemporaryDirectory() as folder:
            write_settings(file, kind, Path(folder))
            _check_sizes(file, Path(folder))
            # in the file's own precision: a weight without memory cannot be made another
            pipeline = pipeline_class.from_single_file(str(file), config=folder, local_files_only=True)
        _check_filled(pipeline)
        pipeline.register_to_config(_name_or_path=str(file))
        return pipeline.to(dtype)
    model = DIFFUSERS_DEFAULT_PIPELINE_PATHS[kind]["pretrained_model_name_or_path"]
    try:
        if not hasattr(pipeline_class, "from_single_file"):
            raise ValueError("diffusers reads no whole pipeline of that family from one file")
        misfit = weights_misfit(pipeline_class, shapes, family, model)
        if misfit is None:
            lacking = lacking_parts(pipeline_class, shapes, family, model, dtype)
            pipeline = pipeline_class.from_single_file(str(file), config=model, torch_dtype=dtype, **lacking)
    # the converters split weights into widths that they know
    except (OSError, ValueError, RuntimeError, SingleFileComponentError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"a checkpoint of {kind} in one file, whose settings and tokenizers, and the parts that the file lacks,"
            f" are those of {model}; that could not be read here ({first}). Give {model}, or a folder in diffusers"
            " layout with these weights in it"
        ) from error
    if misfit is not None:
        raise ValueError(misfit)
    for network in pipeline.networks.values():
        if hasattr(network, "tie_weights"):
            # of a weight with two names, files may hold one
            network.tie_weights()
        # diffusers leaves T5 as it is trained, with dropout
        network.eval()
    _check_filled(pipeline)
    pipeline.register_to_config(_name_or_path=str(file))
    return pipeline


def _check_sizes(file: Path, folder: Path) -> None:
    """Raise ``ValueError`` where the UNet or the VAE of these settings has more or fewer weights than the file."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    shapes = _shapes(file)
    for part, kind, names in (("unet", UNet2DConditionModel, _UNET), ("vae", AutoencoderKL, _VAE_NETWORKS)):
        with torch.device("meta"):
            network: Any = kind.from_config(json.loads((folder / part / "config.json").read_text(encoding="utf-8")))
        own = sum(weight.numel() for weight in network.parameters())
        held = sum(weight.numel() for name, weight in shapes.items() if name.startswith(names))
        if held != own:
            raise ValueError(
                f"whose {part} has {held:,} numbers, and one of its kind of those widths and depths {own:,}: it is"
                " damaged, or its layers are others; fetch it anew, or give a folder in diffusers layout, whose"
                " settings say which they are"
            )


def _check_filled(pipeline: Any) -> None:
    """Raise ``ValueError`` where a weight was in no file; diffusers leaves it without memory."""
    for part, network in pipeline.networks.items():
        missing = next((name for name, weight in network.named_parameters() if weight.is_meta), None)
        if missing is not None:
            raise ValueError(f"which lacks the weights of {missing!r} of its {part}, as diffusers calls it")


def write_settings(file: Path, kind: str, folder: Path) -> None:
    """Write the settings of a Stable Diffusion checkpoint in diffusers layout, without weights.

    Raises:
        ValueError: whether Stable Diffusion 2 predicts noise or velocities is not said; the text follows the file's
            name.
    """
    shapes = _shapes(file)
    is_xl = _FAMILIES[kind] == "sdxl"
    prediction = _prediction(file, kind)
    size = 1024 if is_xl else 768 if (kind, prediction) == ("v2", "v_prediction") else 512
    unet, vae = _unet_config(shapes, kind), _vae_config(shapes, kind)
    if unet["in_channels"] != vae["latent_channels"] or (not is_xl and "addition_embed_type" in unet):
        raise ValueError(
            "whose UNet reads more than an image's latents and a text, as models do that edit images or follow depth;"
            " give one that draws from text alone"
        )
    if kind == "playground-v2-5":
        vae |= _latent_statistics(file)
    unet["sample_size"] = size // 2 ** (len(vae["block_out_channels"]) - 1)
    vae["sample_size"] = size
    index: dict[str, Any] = {
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
    }
    _write(folder / "unet" / "config.json", unet)
    _write(folder / "vae" / "config.json", vae)
    if is_xl:
        index |= {
            "_class_name": "StableDiffusionXLPipeline",
            "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
            "tokenizer_2": ["transformers", "CLIPTokenizer"],
            "scheduler": ["diffusers", "EulerDiscreteScheduler"],
            "force_zeros_for_empty_prompt": True,
        }
        scheduler: dict[str, Any] = {"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "leading"}
        _write(folder / "text_encoder" / "config.json", _clip_config(shapes, "conditioner.embedders.0.transformer."))
        _write(folder / "text_encoder_2" / "config.json", _open_clip_config(shapes, "conditioner.embedders.1.model."))
    else:
        index |= {
            "_class_name": "StableDiffusionPipeline",
            "safety_checker": [None, None],
            "feature_extractor": [None, None],
            "requires_safety_checker": False,
            "scheduler": ["diffusers", "PNDMScheduler" if kind == "v1" else "DDIMScheduler"],
        }
        scheduler = {"_class_name": index["scheduler"][1], "set_alpha_to_one": False, "clip_sample": False}
        scheduler |= {"skip_prk_steps": True} if kind == "v1" else {}
        encoder: dict[str, Any] = (
            _clip_config(shapes, "cond_stage_model.transformer.")
            if kind == "v1"
            else _open_clip_config(shapes, "cond_stage_model.model.") | {"architectures": ["CLIPTextModel"]}
        )
        if "cond_stage_model.model.transformer.resblocks.23.ln_1.weight" in shapes:
            # its prompts are read from the last layer but one, and the converter leaves the last one out
            encoder["num_hidden_layers"] -= 1
        _write(folder / "text_encoder" / "config.json", encoder)
    scheduler |= {**_NOISE, "steps_offset": 1, "prediction_type": prediction}
    if kind == "playground-v2-5":
        # with noise as Karras et al. (2022) have it; these are diffusers' own settings of that scheduler
        scheduler = {"_class_name": "EDMDPMSolverMultistepScheduler", "prediction_type": prediction}
        index["scheduler"] = ["diffusers", "EDMDPMSolverMultistepScheduler"]
    if "ztsnr" in shapes:
        scheduler |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    _write(folder / "scheduler" / "scheduler_config.json", scheduler)
    _write(folder / "model_index.json", index)
    # OpenCLIP pads with the token of number 0
    _tokenizer("!" if kind == "v2" else "<|endoftext|>").save_pretrained(folder / "tokenizer")
    if is_xl:
        _tokenizer("!").save_pretrained(folder / "tokenizer_2")


def _shapes(file: Path) -> dict[str, torch.Tensor]:
    """The weights without their values, by name; none where it is no safetensors file."""
    from safetensors import safe_open

    if not weight_names(file):
        return {}
    with safe_open(file, framework="pt") as weights:
        names = list(weights.keys())
        return {name: torch.empty(weights.get_slice(name).get_shape(), device="meta") for name in names}


def _prediction(file: Path, kind: str) -> str:
    """What the UNet predicts: as the settings beside it or its own metadata say; else what is usual for the kind."""
    from safetensors import safe_open

    if (beside := settings_beside(file)) is not None:
        try:
            stated = yaml.safe_load(beside.read_text(encoding="utf-8"))["model"]["params"].get(
                "parameterization", "eps"
            )
        except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"whose {beside.name} is no file of settings as its authors write them") from error
        if stated not in _PREDICTIONS:
            raise ValueError(f"whose {beside.name} has the parameterization {stated!r}; eps and v are known")
        return _PREDICTIONS[stated]
    with safe_open(file, framework="pt") as weights:
        stated = (weights.metadata() or {}).get("modelspec.prediction_type")
        if stated in _PREDICTIONS:
            return _PREDICTIONS[stated]
        if "v_pred" in weights.keys():  # noqa: SIM118
            return "v_prediction"
    if kind == "v2":
        raise ValueError(
            "a checkpoint of Stable Diffusion 2, which predicts noise at 512 pixels and velocities at 768, and does"
            f" not say which; put its authors' settings beside it as {file.with_suffix('.yaml').name}, with"
            " `model: {params: {parameterization: v}}` for velocities or `eps` for noise"
        )
    return "epsilon"


def _unet_config(shapes: Mapping[str, torch.Tensor], kind: str) -> dict[str, Any]:
    channels: list[int] = []
    layers: list[int] = []
    depths: list[int] = []
    blocks = {int(name.split(".")[3]) for name in shapes if name.startswith(f"{_UNET}input_blocks.")}
    for block in sorted(blocks):
        begin = f"{_UNET}input_blocks.{block}."
        resnet = shapes.get(f"{begin}0.out_layers.3.weight")
        if resnet is None:
            # the first layer, or one that halves the size: a level begins
            layers.append(0)
            depths.append(0)
            channels.append(0)
            continue
        channels[-1], layers[-1] = resnet.shape[0], layers[-1] + 1
        inside = [name for name in shapes if name.startswith(f"{begin}1.transformer_blocks.")]
        depths[-1] = max([depths[-1], *(1 + int(name.split(".")[6]) for name in inside)])
    own = {name: weight for name, weight in shapes.items() if name.startswith(_UNET)}
    texts = [weight for name, weight in own.items() if name.endswith("attn2.to_k.weight")]
    projections = [weight for name, weight in own.items() if name.endswith(".proj_in.weight")]
    down = ["CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in depths]
    config = {
        "_class_name": "UNet2DConditionModel",
        "in_channels": shapes[_FIRST_LAYER].shape[1],
        "out_channels": shapes[f"{_UNET}out.2.weight"].shape[0],
        "block_out_channels": channels,
        "layers_per_block": layers[0],
        "down_block_types": down,
        "up_block_types": [name.replace("Down", "Up") for name in reversed(down)],
        "cross_attention_dim": texts[0].shape[1],
        "use_linear_projection": projections[0].ndim == 2,
        # the number of heads, by its old name: 8, or as many as have a width of 64
        "attention_head_dim": 8 if kind == "v1" else [max(1, width // 64) for width in channels],
        "transformer_layers_per_block": [depth or 1 for depth in depths],
    }
    if (added := shapes.get(f"{_UNET}label_emb.0.0.weight")) is not None:
        config |= {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": added.shape[1],
        }
    return config


def _vae_config(shapes: Mapping[str, torch.Tensor], kind: str) -> dict[str, Any]:
    begin = re.compile(rf"{re.escape(_VAE)}encoder\.down\.(\d+)\.block\.(\d+)\.conv2\.weight")
    blocks = {(int(m[1]), int(m[2])): shapes[name] for name in shapes if (m := begin.fullmatch(name))}
    channels = [blocks[level, 0].shape[0] for level in sorted({level for level, _ in blocks})]
    config = {
        "_class_name": "AutoencoderKL",
        "latent_channels": shapes[f"{_VAE}decoder.conv_in.weight"].shape[1],
        "block_out_channels": channels,
        "layers_per_block": sum(level == 0 for level, _ in blocks),
        "down_block_types": ["DownEncoderBlock2D"] * len(channels),
        "up_block_types": ["UpDecoderBlock2D"] * len(channels),
        "scaling_factor": 0.18215,
    }
    if _FAMILIES[kind] == "sdxl":
        config |= {"scaling_factor": 0.13025, "force_upcast": True}
    return config


def _latent_statistics(file: Path) -> dict[str, Any]:
    """The VAE's settings of Playground 2.5, whose checkpoint holds the mean and deviation of the latents."""
    from safetensors import safe_open

    with safe_open(file, framework="pt") as weights:
        mean, std = (weights.get_tensor(name).flatten().tolist() for name in ("edm_mean", "edm_std"))
    return {"scaling_factor": 0.5, "latents_mean": mean, "latents_std": std}


def _clip_config(shapes: Mapping[str, torch.Tensor], begin: str) -> dict[str, Any]:
    """OpenAI's CLIP, as transformers writes it."""
    begin = f"{begin}text_model."
    width = shapes[f"{begin}embeddings.token_embedding.weight"].shape[1]
    layers = [
        name for name in shapes if name.startswith(f"{begin}encoder.layers.") and name.endswith("mlp.fc1.weight")
    ]
    return _text_config(
        shapes[f"{begin}embeddings.token_embedding.weight"],
        length=shapes[f"{begin}embeddings.position_embedding.weight"].shape[0],
        num_layers=len(layers),
        inner=shapes[layers[0]].shape[0],
        projection=width,
        act="quick_gelu",
        architecture="CLIPTextModel",
    )


def _open_clip_config(shapes: Mapping[str, torch.Tensor], begin: str) -> dict[str, Any]:
    layers = [name for name in shapes if name.startswith(f"{begin}transformer.") and name.endswith("mlp.c_fc.weight")]
    # Stable Diffusion 2 does not use it, and files that were made from diffusers' folders have none
    projection = shapes.get(f"{begin}text_projection", shapes[f"{begin}token_embedding.weight"])
    return _text_config(
        shapes[f"{begin}token_embedding.weight"],
        length=shapes[f"{begin}positional_embedding"].shape[0],
        num_layers=len(layers),
        inner=shapes[layers[0]].shape[0],
        projection=projection.shape[1],
        act="gelu",
        architecture="CLIPTextModelWithProjection",
    )


def _text_config(
    embedding: torch.Tensor, *, length: int, num_layers: int, inner: int, projection: int, act: str, architecture: str
) -> dict[str, Any]:
    size, width = embedding.shape
    return {
        "model_type": "clip_text_model",
        "architectures": [architecture],
        "vocab_size": size,
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": num_layers,
        # heads of 64, as all of them have
        "num_attention_heads": max(1, width // 64),
        "max_position_embeddings": length,
        "projection_dim": projection,
        "hidden_act": act,
        "bos_token_id": 49406,
        "eos_token_id": 49407,
        "pad_token_id": 1,
    }


def _tokenizer(pad: str) -> Any:
    """CLIP's, from the vocabulary that open_clip ships."""
    from open_clip.tokenizer import SimpleTokenizer
    from transformers import CLIPTokenizer

    simple = SimpleTokenizer()
    vocab = {
        token.replace("<start_of_text>", "<|startoftext|>").replace("<end_of_text>", "<|endoftext|>"): number
        for token, number in simple.encoder.items()
    }
    merges: list[Any] = [pair for pair, _ in sorted(simple.bpe_ranks.items(), key=lambda item: item[1])]
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=77, pad_token=pad)


def _write(file: Path, settings: Mapping[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
