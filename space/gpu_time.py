"""How long a borrowed GPU is asked for: what is asked for counts against a visitor's quota, whatever is used of it."""

import math

from request_limits import DrawRequest

# getting the weights onto the GPU
START_SECONDS = 10.0
# decoding and what stands around it, of an image of a million pixels
IMAGE_SECONDS = 0.5
# One prediction of the denoiser for a million pixels, by the registry's name of the family. No measurements: twice
# the parameters times the tokens at 250 TFLOP/s, about a quarter of what the GPUs that are lent can do, rounded up.
PREDICTION_SECONDS = {
    "sd": 0.03,
    "sdxl": 0.06,
    "sd3": 0.1,
    "flux": 0.45,
    "z-image": 0.25,
    "flux2-klein": 0.25,
    "flux2-dev": 1.2,
    "qwen-image": 0.75,
    "sana": 0.03,
    "sana-sprint": 0.03,
    "pixart-sigma": 0.05,
    "cogview4": 0.25,
    "aura-flow": 0.3,
    "ernie-image": 0.3,
    "lumina2": 0.1,
    "chroma": 0.3,
}
# of a family that is not listed
MOST_SECONDS = max(PREDICTION_SECONDS.values())


def gpu_seconds(family: str | None, request: DrawRequest, num_pixels: int) -> int:
    """Seconds to ask for: they grow with images, steps and pixels, and with the size of the family's denoiser.

    Args:
        family: its name in the registry of families; None where it is not known.
        request: what is drawn.
        num_pixels: of one image.
    """
    predictions = 1 if request.guidance_scale is None else 2
    step = PREDICTION_SECONDS.get(family or "", MOST_SECONDS) * predictions
    per_image = (request.num_inference_steps * step + IMAGE_SECONDS) * num_pixels / 1e6
    return math.ceil(START_SECONDS + request.num_images * per_image)


def check_gpu_seconds(seconds: int, most: int) -> None:
    """Refuse a request that would be cut off.

    Raises:
        ValueError: more seconds than are lent.
    """
    if seconds > most:
        raise ValueError(
            f"This takes about {seconds} s of a GPU, and at most {most} s are lent here; ask for fewer samples or"
            " steps."
        )
