"""Reads a published Q-Align checkpoint, such as ``q-future/one-align``: its files, and its tensors' names.

Only safetensors are read. A folder or repository that holds nothing but ``pytorch_model*.bin`` is refused, with a way
to convert it.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError, safe_open

from .model import MODEL_TYPE, QAlignModel, QAlignSettings

CONFIG_FILE, PREPROCESSOR_FILE = "config.json", "preprocessor_config.json"
INDEX_FILE, WEIGHTS_FILE = "model.safetensors.index.json", "model.safetensors"

# published module or tensor: ours; {n} is a block's number
_LANGUAGE_NAMES = {
    "model.embed_tokens": "language.token_embedding",
    "model.norm": "language.output_norm",
    "lm_head": "language.token_head",
    "model.layers.{n}.self_attn.q_proj": "language.blocks.{n}.query",
    "model.layers.{n}.self_attn.o_proj": "language.blocks.{n}.attention_output",
    "model.layers.{n}.mlp.gate_proj": "language.blocks.{n}.mlp_gate",
    "model.layers.{n}.mlp.up_proj": "language.blocks.{n}.mlp_up",
    "model.layers.{n}.mlp.down_proj": "language.blocks.{n}.mlp_down",
} | {
    f"model.layers.{{n}}.{published}.multiway.{branch}": f"language.blocks.{{n}}.{ours}.{modality}"
    for branch, modality in enumerate(("text", "visual"))
    for published, ours in {
        "self_attn.k_proj": "key",
        "self_attn.v_proj": "value",
        "input_layernorm": "attention_norm",
        "post_attention_layernorm": "mlp_norm",
    }.items()
}
_VISION_NAMES = {
    f"model.vision_model.{published}": f"vision.{ours}"
    for published, ours in {
        "embeddings.cls_token": "class_token",
        "embeddings.position_embedding": "position_embedding",
        "embeddings.patch_embed": "patch_projection",
        "embeddings.pre_layernorm": "input_norm",
        "encoder.layers.{n}.input_layernorm": "blocks.{n}.attention_norm",
        "encoder.layers.{n}.self_attn.query_key_value": "blocks.{n}.query_key_value",
        "encoder.layers.{n}.self_attn.dense": "blocks.{n}.attention_output",
        "encoder.layers.{n}.post_attention_layernorm": "blocks.{n}.mlp_norm",
        "encoder.layers.{n}.mlp.fc1": "blocks.{n}.mlp_in",
        "encoder.layers.{n}.mlp.fc2": "blocks.{n}.mlp_out",
        "post_layernorm": "output_norm",
    }.items()
}
_ABSTRACTOR_NAMES = {
    "model.visual_abstractor.query_embeds": "abstractor.queries",
    "model.visual_abstractor.visual_fc": "abstractor.projection",
    "model.visual_abstractor.vit_eos": "abstractor.end_token",
} | {
    f"model.visual_abstractor.encoder.layers.{{n}}.crossattention.{published}": f"abstractor.blocks.{{n}}.{ours}"
    for published, ours in {
        "norm1": "query_norm",
        "normk": "token_norm",
        "attention.q_pos_embed": "query_positions",
        "attention.k_pos_embed": "key_positions",
        "attention.query": "query",
        "attention.key": "key",
        "attention.value": "value",
        "output.out_proj": "attention_output",
        "output.norm2": "mlp_norm",
        "output.mlp.w1": "mlp_gate",
        "output.mlp.w2": "mlp_down",
        "output.mlp.w3": "mlp_up",
        "output.mlp.ffn_ln": "mlp_inner_norm",
    }.items()
}
OWN_NAMES = _LANGUAGE_NAMES | _VISION_NAMES | _ABSTRACTOR_NAMES


def own_name(published: str) -> str | None:
    """What a published tensor is called in :class:`QAlignModel`; None where it has no counterpart."""
    number = re.search(r"\.layers\.(\d+)\.", published)
    pattern = published.replace(number[0], ".layers.{n}.", 1) if number else published
    module, _, leaf = pattern.rpartition(".")
    for name, suffix in ((pattern, ""), (module, f".{leaf}")):
        if name in OWN_NAMES:
            ours = OWN_NAMES[name] + suffix
            return ours.replace("{n}", number[1]) if number else ours
    return None


def fetch_checkpoint(name_or_path: str) -> Path:
    """The folder of a checkpoint: ``name_or_path`` itself, or a snapshot of that Hub repository.

    Args:
        name_or_path: a folder, or a repository such as ``q-future/one-align``, with ``@revision`` if need be.

    Raises:
        ValueError: it is neither, cannot be reached, or holds weights in another format than safetensors.
    """
    folder = Path(name_or_path)
    if not folder.is_dir():
        repository, _, revision = name_or_path.partition("@")
        try:
            folder = Path(
                snapshot_download(
                    repository,
                    revision=revision or None,
                    allow_patterns=["*.json", "*.safetensors", "tokenizer.model"],
                )
            )
        except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
            first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ValueError(
                f"quality_model {name_or_path!r} is no folder, and no such repository could be fetched "
                f"({first_line}); give a folder, or a repository as in 'q-future/one-align' or '…@REVISION'."
            ) from error
    if not (folder / INDEX_FILE).is_file() and not (folder / WEIGHTS_FILE).is_file():
        raise ValueError(
            f"quality_model {name_or_path!r} holds no {WEIGHTS_FILE}: other formats, such as pytorch_model.bin, are "
            "pickles and never read. Convert it once: huggingface.co/spaces/safetensors/convert opens a pull request "
            "on the repository, whose revision is then given as 'q-future/one-align@refs/pr/NUMBER'; or, in an "
            "environment of its own, write the tensors with safetensors.torch.save_file, and give that folder."
        )
    return folder


def is_qalign(name_or_path: str) -> bool:
    """Whether a folder or Hub repository holds this architecture, judged by its ``config.json`` alone."""
    from transformers import PreTrainedConfig

    repository, _, revision = name_or_path.partition("@")
    if Path(name_or_path).is_dir():
        repository, revision = name_or_path, ""
    try:
        config, _ = PreTrainedConfig.get_config_dict(repository, revision=revision or None)
    except (OSError, ValueError):
        return False
    return config.get("model_type") == MODEL_TYPE


def read_json(file: Path) -> dict:
    """The object in a JSON file; raises ``ValueError`` naming the file where there is none."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{str(file)!r} could not be read as JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{str(file)!r} holds {type(value).__name__}, not an object.")
    return value


def load_qalign_model(folder: Path, dtype: torch.dtype | None = None) -> QAlignModel:
    """The model in ``folder``, frozen, on the CPU.

    Args:
        folder: with ``config.json`` and safetensors under the published names.
        dtype: of the weights; None keeps what the file says.

    Raises:
        ValueError: the configuration is of another model, or tensors are missing, unknown or of another shape.
    """
    settings = QAlignSettings.from_config(read_json(folder / CONFIG_FILE))
    with torch.device("meta"):
        model = QAlignModel(settings)
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    state: dict[str, torch.Tensor] = {}
    for published, tensor in _read_tensors(folder):
        # rotary frequencies are computed; old releases stored them
        if published.endswith("rotary_emb.inv_freq"):
            continue
        name = own_name(published)
        if name is None or name not in shapes:
            raise ValueError(f"{str(folder)!r} holds the tensor {published!r}, which config.json has no place for.")
        if tensor.shape != shapes[name]:
            raise ValueError(
                f"{published!r} in {str(folder)!r} has shape {tuple(tensor.shape)}, but config.json asks for "
                f"{tuple(shapes[name])}."
            )
        state[name] = tensor if dtype is None else tensor.to(dtype)
    if missing := sorted(shapes.keys() - state.keys()):
        raise ValueError(
            f"{str(folder)!r} lacks {len(missing)} of {len(shapes)} tensors, the first being {missing[0]!r}."
        )
    model.load_state_dict(state, assign=True)
    return model.eval().requires_grad_(False)


def _read_tensors(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    files = {WEIGHTS_FILE}
    if (folder / INDEX_FILE).is_file():
        files = set(read_json(folder / INDEX_FILE).get("weight_map", {}).values())
    for file in sorted(files):
        try:
            with safe_open(folder / file, framework="pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118, the file is no dict
                    yield name, tensors.get_tensor(name)
        except (OSError, SafetensorError) as error:
            raise ValueError(f"{str(folder / file)!r} could not be read as safetensors: {error}") from error
