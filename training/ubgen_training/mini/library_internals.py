"""What torch knows but does not say in public, in one place, where a test tells when torch changes it."""

import torch


def computes_in_bfloat16() -> bool:
    """Whether oneDNN computes in bfloat16 on this CPU; elsewhere torch emulates it, many times slower."""
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
