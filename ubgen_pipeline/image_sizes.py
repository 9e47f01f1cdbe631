"""Sizes of images and of their latents."""


def latent_shape(
    num_channels: int, own_size: int | tuple[int, int], factor: int, height: int | None, width: int | None
) -> tuple[int, int, int]:
    """``(C, h, w)`` of one sample's latents for an image of that many pixels.

    Args:
        num_channels: C.
        own_size: (h, w) of the model's own latents, or the side of a square.
        factor: pixels a latent.
        height, width: in pixels; None takes the model's own.

    Raises:
        ValueError: a size that is not a positive multiple of 8 and of the factor.
    """
    own_height, own_width = (own_size, own_size) if isinstance(own_size, int) else own_size
    unit = max(8, factor)
    sizes = {"height": (height, own_height), "width": (width, own_width)}
    pixels = [own_side * factor if asked is None else asked for asked, own_side in sizes.values()]
    for name, value in zip(sizes, pixels):
        if value <= 0 or value % unit:
            raise ValueError(f"{name} is {value}; give a positive multiple of {unit}.")
    return num_channels, pixels[0] // factor, pixels[1] // factor
