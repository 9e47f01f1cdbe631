"""The device that a command runs on. Torch is imported only when one is asked for."""


def usable_device(device: str | None) -> str:
    """The device that is asked for; where none is, CUDA if this machine has it, else the CPU.

    Nothing is put on it, so that processes that share a machine leave each other's devices alone.

    Raises:
        ValueError: it names no device, or a GPU that is not there.
    """
    import torch

    if device is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device is {device!r}, which torch does not know; give cpu, cuda or cuda:1.") from error
    num_gpus = torch.cuda.device_count()
    if found.type == "cuda" and (found.index or 0) >= num_gpus:
        raise ValueError(
            f"device is {device!r}, and torch finds {num_gpus} GPUs on this machine; give another, or cpu, or leave it"
            " out."
        )
    return device
