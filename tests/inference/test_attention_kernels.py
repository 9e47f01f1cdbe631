"""The choice of an attention kernel: what the model calls, what is timed, what is kept."""

from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend

from support.mini_layout import UNET_WIDTHS
from ubgen_pipeline.inference.attention_kernels import attention_calls, attention_order, fastest_attention
from ubgen_pipeline.models.loading import load_pipeline

CPU = torch.device("cpu")
CALLS = Counter({((2, 4, 64, 20), (2, 4, 64, 20)): 3, ((2, 4, 64, 20), (2, 4, 77, 20)): 1})


@torch.no_grad()
def test_calls_are_those_of_the_unet(random_mini_model):
    pipeline = load_pipeline(random_mini_model)
    pipeline.set_progress_bar_config(disable=True)
    # the text encoder's are not among them
    calls = attention_calls(pipeline.unet, lambda: pipeline(["star"], num_inference_steps=1))
    # three transformer blocks at 16x16 and four at 8x8, each with 4 heads; a prompt has 24
    fine, coarse = (width // 4 for width in UNET_WIDTHS)
    expected = {256: (3, fine), 64: (4, coarse)}
    assert calls == {
        ((2, 4, tokens, width), (2, 4, keys, width)): count
        for tokens, (count, width) in expected.items()
        for keys in (tokens, 24)
    }


def _timer(seconds):
    """Kernels take these times, by name; those that are missing cannot do it."""

    def timer(query, key, repeats):
        order = [SDPBackend(number).name for number in torch._C._get_sdp_priority_order()]
        flags = {"flash": torch.backends.cuda.flash_sdp_enabled(), "math": torch.backends.cuda.math_sdp_enabled()}
        name = "auto" if all(flags.values()) else next((name for name, is_on in flags.items() if is_on), "other")
        assert name == "auto" or order[0].lower().startswith(name) or name == "other"
        if name not in seconds:
            raise RuntimeError("No available kernel. Aborting execution.")
        return seconds[name]

    return timer


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ({"auto": 1.0, "flash": 0.5, "math": 2.0}, "flash"),
        ({"auto": 1.0, "math": 0.8}, "math"),
        # no more than a timing may be off by
        ({"auto": 1.0, "flash": 0.99}, "auto"),
        ({"auto": 1.0}, "auto"),
    ],
)
def test_the_fastest_that_can_is_taken(seconds, expected):
    before = torch._C._get_sdp_priority_order()
    assert fastest_attention(CALLS, torch.float32, CPU, timer=_timer(seconds)) == expected
    # nothing stays behind
    assert torch._C._get_sdp_priority_order() == before and torch.backends.cuda.flash_sdp_enabled()


def test_on_this_machine_some_kernel_is_found():
    assert fastest_attention(CALLS, torch.float32, CPU) in ("auto", "flash", "math")


def test_an_order_changes_rounding_only():
    torch.manual_seed(0)
    query = torch.randn(2, 4, 64, 20)
    expected = F.scaled_dot_product_attention(query, query, query)
    for name in ("auto", "flash", "cudnn", "efficient", "math"):
        # a kernel that the device has not is passed over
        with attention_order(name):
            torch.testing.assert_close(F.scaled_dot_product_attention(query, query, query), expected)
