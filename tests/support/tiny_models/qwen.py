"""The text side of Z-Image, FLUX.2 and Qwen-Image in small: a tokenizer of single letters, and random encoders."""

import torch
import transformers
from tokenizers.pre_tokenizers import ByteLevel

_MARKS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
# messages hold a text, or as some processors want it, a list with a text in it
_CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] if message['content'] is string else message['content'][0]['text'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def qwen_tokenizer(length: int = 512) -> transformers.Qwen2Tokenizer:
    """A token for each byte, with Qwen's marks and a chat template."""
    vocabulary = {token: number for number, token in enumerate([*_MARKS, *sorted(ByteLevel.alphabet())])}
    tokenizer = transformers.Qwen2Tokenizer(vocab=vocabulary, merges=[], model_max_length=length)
    tokenizer.add_special_tokens({"additional_special_tokens": list(_MARKS[1:])})
    tokenizer.chat_template = _CHAT_TEMPLATE
    return tokenizer


def qwen3_config(vocabulary_size: int, width: int, num_layers: int) -> transformers.Qwen3Config:
    """Of a text encoder with two heads."""
    return transformers.Qwen3Config(
        hidden_size=width,
        intermediate_size=16,
        num_hidden_layers=num_layers,
        num_attention_heads=2,
        head_dim=8,
        num_key_value_heads=2,
        vocab_size=vocabulary_size,
        max_position_embeddings=1024,
    )


def speak_up(text_encoder: transformers.PreTrainedModel) -> transformers.PreTrainedModel:
    """The encoder in evaluation mode, with embeddings so large that other prompts give other images: transformers
    starts them at a standard deviation of 0.02."""
    torch.nn.init.normal_(text_encoder.get_input_embeddings().weight)
    return text_encoder.eval()
