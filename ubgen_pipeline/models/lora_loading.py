"""Adding LoRAs to a loaded pipeline; one that does not fit is refused by name and leaves the pipeline untouched."""

import re
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx2
import torch
from huggingface_hub.errors import OfflineModeIsEnabled
from safetensors import SafetensorError, safe_open

from ..commands.library_log import hushed
from .families import family_of
from .lora_families import lora_family
from .lora_fit import lora_damage, lora_layer, lora_misfit
from .lora_layouts import other_kind
from .lora_weights import LoraWeights, read_lora, split_side
from .loras import ADAPTER_SETTINGS, LORA_FILE, Lora, adapter_settings, lora_names, weight_names
from .named_layers import are_named_layers

# families whose LoKr files diffusers converts and loads
_LOKR_FAMILIES = ("z-image", "flux2-klein", "flux2-dev")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt")


def attach_loras(pipeline: Any, loras: Sequence[tuple[Lora, str]]) -> None:
    """Add LoRAs beside the weights, each as strong as it says; one of strength 0 is looked at and left out.

    Args:
        pipeline: without any.
        loras: each with what the caller's user calls it, for errors.

    Raises:
        ValueError: no LoRA there, or one that does not fit.
    """
    names, strengths = [], []
    for lora, argument in loras:
        check_only = lora.strength == 0
        name = f"default_{len(names)}"
        load_lora(
            pipeline, lora.source, revision=lora.revision, argument=argument, adapter_name=name, check_only=check_only
        )
        if not check_only:
            names.append(name)
            strengths.append(lora.strength)
    # loading another LoRA leaves it alone switched on
    if len(names) > 1 or any(strength != 1 for strength in strengths):
        pipeline.set_adapters(names, strengths)


def load_lora(
    pipeline: Any,
    lora: str | Path,
    *,
    revision: str | None = None,
    argument: str = "lora",
    adapter_name: str | None = None,
    check_only: bool = False,
) -> None:
    """Load a LoRA into the pipeline after checking every key and shape, so that a misfit leaves it untouched.

    Args:
        pipeline: gets it beside its weights.
        lora: folder, file or Hub id.
        revision: on the Hub.
        argument: what the caller's user calls it, for errors.
        adapter_name: of the LoRA in the pipeline; None takes the next one free.
        check_only: leave the pipeline as it is.

    Raises:
        ValueError: no LoRA there, or one that does not fit.
    """
    file, settings = _find(str(lora), revision, argument)
    begin = f"{argument} is {str(lora)!r}"
    # peft's own folder says what it is
    kind = None if settings is not None else other_kind(weight_names(file), _known(pipeline))
    if kind is not None and not are_named_layers(pipeline, weight_names(file)):
        raise ValueError(f"{begin}, which is {kind[0]}, and no LoRA that can be loaded exactly; {kind[1]}.")
    if all(any(side in name for name in weight_names(file)) for side in (".lora_A.", ".lora.down.")):
        # diffusers decides by the first key and then drops the keys of the other kind
        raise ValueError(
            f"{begin}, which does not fit the model: its weights are named in two ways, lora_A and lora.down, of which"
            " diffusers would load only one; save it anew with one of them."
        )
    try:
        weights = read_lora(pipeline, file, settings)
        config = None if weights.settings is None else _peft_config(weights.settings)
    # diffusers' converters of other layouts trip over those that they do not know in many ways
    except Exception as error:
        if _other_family(pipeline, file):
            raise ValueError(f"{begin}, which does not fit the model: {_advice(pipeline, file)}") from error
        if isinstance(error, SafetensorError):
            raise ValueError(
                f"{begin}, which is no safetensors file, or not the whole of one ({_first_line(error)}); fetch it"
                f" anew, or give a folder with {pipeline.lora_file}, such a file, or a Hub id."
            ) from error
        raise ValueError(
            f"{begin}, which could not be read; give a folder with {pipeline.lora_file}, such a file, or a Hub id."
            f" {_first_line(error)}"
        ) from error
    if damage := lora_damage(weights):
        raise ValueError(f"{begin}, which is damaged: {damage}; fetch it or train it anew.")
    if misfit := lora_misfit(pipeline, weights):
        raise ValueError(f"{begin}, which does not fit the model: {misfit}; {_advice(pipeline, file)}")
    if check_only:
        return
    if adapter_name is None:
        adapter_name = f"default_{len({name for names in pipeline.get_list_adapters().values() for name in names})}"
    # each key was looked at above, but diffusers warns of each part for which there is none, and peft of a second LoRA
    with hushed("diffusers.loaders"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Already found a `peft_config`")
        if weights.is_injected and pipeline.lora_file == LORA_FILE:
            _inject(pipeline, weights, config, adapter_name)
        else:
            pipeline.load_lora_weights(str(file), use_safetensors=True, adapter_name=adapter_name)
    _settle(pipeline, weights, adapter_name)
    for network in (pipeline.denoiser_network, *pipeline.text_networks.values()):
        if network.dtype == torch.float32:
            # of a LoRA kept in 16 bits, the product would be rounded to them
            network.float()


def fuse_loras(pipeline: Any) -> None:
    """Add the LoRAs that are switched on to the weights themselves, of every part that has one, and take them off.

    diffusers fuses those of the denoiser alone for some families, and then would take those of the text encoder off.
    """
    parts = [part for part, names in pipeline.get_list_adapters().items() if names]
    if parts:
        pipeline.fuse_lora(components=parts)
    # the fused weights stay; this removes the LoRA's own matrices
    pipeline.unload_lora_weights()


def _find(lora: str, revision: str | None, argument: str) -> tuple[Path, Path | None]:
    """The file of weights on this machine, and peft's settings that belong to it."""
    place = Path(lora).expanduser()
    if not place.exists():
        return _find_on_hub(lora, revision, argument)
    if place.is_dir():
        names = [file.name for file in place.iterdir() if file.is_file()]
        place = place / _the_one(names, lora, argument)
    elif place.name.endswith(_PICKLES):
        raise ValueError(_pickled(lora, place.name, argument))
    return place, adapter_settings(place)


def _find_on_hub(lora: str, revision: str | None, argument: str) -> tuple[Path, Path | None]:
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import HFValidationError

    try:
        try:
            names = [name for name in HfApi().list_repo_files(lora, revision=revision) if "/" not in name]
        # without a network, what was downloaded before under the usual name
        except (httpx2.TransportError, OfflineModeIsEnabled):
            names = [LORA_FILE]
        name = _the_one(names, lora, argument)
        file = Path(hf_hub_download(lora, name, revision=revision))
        if ADAPTER_SETTINGS in names:
            hf_hub_download(lora, ADAPTER_SETTINGS, revision=revision)
        return file, adapter_settings(file)
    except (OSError, HFValidationError, httpx2.HTTPError) as error:
        raise ValueError(
            f"{argument} is {lora!r}, which could not be read; give a folder with {LORA_FILE}, such a file, or a Hub"
            f" id. {_first_line(error)}"
        ) from error


def _the_one(names: Sequence[str], lora: str, argument: str) -> str:
    """The LoRA among the files of a folder.

    Raises:
        ValueError: none, or several.
    """
    found = lora_names(names)
    if len(found) == 1:
        return found[0]
    if found:
        raise ValueError(
            f"{argument} is {lora!r}, which holds several files of weights ({', '.join(found[:5])}); give one of them."
        )
    pickled = next((name for name in sorted(names) if name.endswith(_PICKLES)), None)
    if pickled is not None:
        raise ValueError(_pickled(lora, pickled, argument))
    raise ValueError(
        f"{argument} is {lora!r}, which holds no LoRA; give a folder with {LORA_FILE}, such a file, or a Hub id."
    )


def _pickled(lora: str, name: str, argument: str) -> str:
    return (
        f"{argument} is {lora!r}, whose weights are pickled ({name}) and not loaded, since loading them can run code"
        " of whoever made them. Where you trust them, write them anew with"
        " `safetensors.torch.save_file(torch.load(FILE, weights_only=True), 'lora.safetensors')`, and give that file."
    )


def _known(pipeline: Any) -> tuple[str, ...]:
    """Parts of names of what is read although it is no plain LoRA."""
    if pipeline.denoiser_part == "unet":
        return (".hada_w", "dora_scale")
    return (".lokr_",) if family_of(type(pipeline).__name__) in _LOKR_FAMILIES else ()


def _peft_config(settings: Mapping[str, Any]) -> Any:
    """peft's settings as it takes them.

    Raises:
        ValueError: of a kind that is not loaded.
    """
    from peft import LoHaConfig, LoKrConfig, LoraConfig

    kinds = {"LORA": LoraConfig, "LOHA": LoHaConfig, "LOKR": LoKrConfig}
    kind = settings.get("peft_type")
    if kind not in kinds:
        raise ValueError(f"{ADAPTER_SETTINGS} has the peft_type {kind!r}; {', '.join(kinds)} are loaded.")
    return kinds[kind].from_peft_type(**settings)


def _inject(pipeline: Any, weights: LoraWeights, config: Any, name: str) -> None:
    """Have peft add each part of it."""
    from peft import LoHaConfig, LoraConfig, inject_adapter_in_model, set_peft_model_state_dict

    networks = {pipeline.denoiser_part: pipeline.denoiser_network, **pipeline.text_networks}
    for part, given in weights.parts.items():
        network = networks[part]
        own = dict(given)
        if part != pipeline.denoiser_part and not hasattr(network, "text_model"):
            own = {key.removeprefix("text_model."): value for key, value in own.items()}
        modules = dict(network.named_modules())
        own = {key: _as_wide(value, key, modules) for key, value in own.items()}
        settings = config
        if settings is None:
            sides = [(split, value) for key, value in own.items() if (split := split_side(key)) is not None]
            ranks = {module: len(value) for (module, side, _), value in sides if side in ("lora_A", "hada_w1_b")}
            rank = Counter(ranks.values()).most_common(1)[0][0]
            # the names from their beginning on, since peft compares ends
            pattern = {f"^{module}": number for module, number in ranks.items() if number != rank}
            common = {"r": rank, "rank_pattern": pattern, "target_modules": sorted(ranks)}
            if any(side == "hada_w1_b" for (_, side, _), _ in sides):
                settings = LoHaConfig(alpha=rank, **common)
            else:
                settings = LoraConfig(lora_alpha=rank, use_dora=any("magnitude" in key for key in own), **common)
        inject_adapter_in_model(settings, network, adapter_name=name, state_dict=own)
        unread = set_peft_model_state_dict(network, own, name).unexpected_keys
        if unread:
            raise RuntimeError(f"peft read no {unread[0]!r} of a LoRA that fits")
        # as diffusers marks networks with adapters
        network._hf_peft_config_loaded = True


def _as_wide(value: torch.Tensor, key: str, modules: Mapping[str, Any]) -> torch.Tensor:
    """A LoRA's factor with as many axes as its layer's weights have: convolutions of one pixel are told as matrices,
    and linear layers as such convolutions."""
    split = split_side(key)
    if split is None or split[1] not in ("lora_A", "lora_B") or value.ndim < 2:
        return value
    num_axes = modules[split[0]].weight.ndim
    if num_axes == 2:
        return value.flatten(1)
    return value.reshape(*value.shape, *[1] * (num_axes - value.ndim))


def _settle(pipeline: Any, weights: LoraWeights, name: str) -> None:
    """See that every weight of the file is in the pipeline, and that each product is scaled as the file says.

    Raises:
        RuntimeError: the loader dropped some.
    """
    networks = {pipeline.denoiser_part: pipeline.denoiser_network, **pipeline.text_networks}
    for part, own in weights.parts.items():
        modules = dict(networks[part].named_modules())
        for key, value in own.items():
            split = split_side(key)
            if split is None:
                continue
            layer = lora_layer(modules, split[0])
            there = getattr(layer, split[1], None)
            there = there[name] if there is not None and name in there else None
            there = getattr(there, split[2].removeprefix("."), there)
            # what the loader made room for and did not fill has no memory
            if there is None or there.is_meta or not _is_equal(there, value):
                raise RuntimeError(f"the loader left {part}.{key} out of a LoRA that fits")
        for (of_part, module), alpha in (weights.alphas or {}).items():
            if of_part == part:
                _set_alpha(lora_layer(modules, module), name, alpha)


def _is_equal(there: torch.Tensor, value: torch.Tensor) -> bool:
    return torch.equal(there.flatten(), value.flatten().to(there.dtype).to(there.device))


def _set_alpha(layer: Any, name: str, alpha: float) -> None:
    """Scale the product by alpha over the rank, where the loader did not."""
    alphas = layer.lora_alpha if hasattr(layer, "lora_alpha") else layer.alpha
    if layer.scaling[name] != alpha / layer.r[name]:
        alphas[name] = alpha
        layer.set_scale(name, 1.0)


def _weight_shapes(file: Path) -> dict[str, list[int]]:
    """Shapes of the weights in a file, by name; none where it is not one of safetensors."""
    try:
        with safe_open(file, framework="pt") as weights:
            return {key: weights.get_slice(key).get_shape() for key in weights.keys()}  # noqa: SIM118
    except SafetensorError:
        return {}


def _other_family(pipeline: Any, file: Path) -> str | None:
    """What other models the LoRA seems to be made for; None where it seems to be for this one, or does not show."""
    family = lora_family(_weight_shapes(file))
    own = family_of(type(pipeline).__name__)
    return None if family is None or own in re.split(r"[(), ]+", family) else family


def _advice(pipeline: Any, file: Path) -> str:
    """What to do with a LoRA that does not fit."""
    if family := _other_family(pipeline, file):
        return f"it seems to be made for {family}; use the model it was made for."
    return "use the model it was made for, or, where this is it, merge the LoRA with the program that made it."


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
