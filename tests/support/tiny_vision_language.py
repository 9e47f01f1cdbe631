"""Tiny random image-text-to-text models with processors, made offline, for tests of the five-level quality."""

import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import (
    CLIPImageProcessor,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3ImageProcessor,
    Idefics3Processor,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
)

TEXT = "USER: How would you rate the quality of this image? ASSISTANT: The quality of the image is"
LEVELS = "bad poor fair good excellent"


def build_byte_tokenizer(special_tokens: list[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE in which each level, with its space, is one token."""
    learner = Tokenizer(BPE())
    learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    learner.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=600,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=["<s>", "</s>", *special_tokens],
        show_progress=False,
    )
    learner.train_from_iterator([f"{TEXT} {LEVELS}"] * 4, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=learner,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="</s>",
        additional_special_tokens=special_tokens,
    )


def _llama(vocabulary: int) -> dict:
    return {
        "model_type": "llama",
        "vocab_size": vocabulary,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 1,
        # far from its usual 0.02, or the image would hardly change the answer
        "initializer_range": 0.3,
    }


def _vision(model_type: str, image_size: int) -> dict:
    return {
        "model_type": model_type,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": image_size,
        "patch_size": 8,
        "initializer_range": 0.3,
    }


def build_tiny_llava() -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    tokenizer = build_byte_tokenizer(["<image>"])
    image_token = tokenizer.convert_tokens_to_ids("<image>")
    config = LlavaConfig(
        vision_config=_vision("clip_vision_model", 32),
        text_config=_llama(len(tokenizer)),
        image_token_index=image_token,
        image_token_id=image_token,
        vision_feature_layer=-1,
    )
    size = {"height": 32, "width": 32}
    image_processor = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=size)
    processor = LlavaProcessor(
        image_processor,
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    torch.manual_seed(0)
    return LlavaForConditionalGeneration(config).eval(), processor


def build_tiny_idefics3() -> tuple[Idefics3ForConditionalGeneration, Idefics3Processor]:
    special = ["<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>"]
    special += [f"<row_{row}_col_{column}>" for row in (1, 2) for column in (1, 2)]
    tokenizer = build_byte_tokenizer(special)
    config = Idefics3Config(
        vision_config=_vision("idefics3_vision", 32),
        text_config=_llama(len(tokenizer)),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
        pad_token_id=1,
    )
    image_processor = Idefics3ImageProcessor(size={"longest_edge": 64}, max_image_size={"longest_edge": 32})
    torch.manual_seed(0)
    model = Idefics3ForConditionalGeneration(config).eval()
    return model, Idefics3Processor(image_processor, tokenizer, image_seq_len=4)


def build_tiny_qwen2_vl() -> tuple[Qwen2VLForConditionalGeneration, Qwen2VLProcessor]:
    special = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    tokenizer = build_byte_tokenizer(special)
    start, end, image, video = tokenizer.convert_tokens_to_ids(special)
    text = {**_llama(len(tokenizer)), "rope_parameters": {"type": "mrope", "mrope_section": [2, 1, 1]}}
    text["model_type"] = "qwen2_vl_text"
    config = Qwen2VLConfig(
        text_config=text,
        vision_config={
            "depth": 1,
            "embed_dim": 16,
            "num_heads": 2,
            "hidden_size": 32,
            "patch_size": 8,
            "mlp_ratio": 2,
        },
        image_token_id=image,
        video_token_id=video,
        vision_start_token_id=start,
        vision_end_token_id=end,
    )
    image_processor = Qwen2VLImageProcessor(min_pixels=32 * 32, max_pixels=64 * 64, patch_size=8)
    template = (
        "{% for message in messages %}USER: {% for part in message['content'] %}{% if part['type'] == 'image' %}"
        "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endfor %}"
        " ASSISTANT:"
    )
    torch.manual_seed(0)
    model = Qwen2VLForConditionalGeneration(config).eval()
    processor = Qwen2VLProcessor(image_processor, tokenizer, Qwen2VLVideoProcessor(), chat_template=template)
    return model, processor
