"""What a denoiser is conditioned on: a small record of tensors, by the names that the model's family gives them.

Shapes: B rows, one per prompt; L tokens, D width of the text features.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

# a list holds one tensor per row, for families whose prompts keep lengths of their own
Tensors = torch.Tensor | list[torch.Tensor]


@dataclass(frozen=True)
class Conditioning:
    """Of one prompt, as a family's ``encode`` gives it, or of B of them, as its ``batch`` makes it.

    A tensor whose name ends in ``mask`` says which tokens are read (1 or True); a record that has one may be filled
    up with zeros to any length.

    Attributes:
        tensors: of one prompt without an axis for rows, such as ``(L, D)`` text features; of B with that axis first.
    """

    tensors: Mapping[str, Tensors]

    def __getitem__(self, name: str) -> torch.Tensor:
        """The tensor of that name; :attr:`tensors` also gives those that are lists."""
        value = self.tensors[name]
        assert isinstance(value, torch.Tensor)
        return value

    @property
    def num_rows(self) -> int:
        """B."""
        return len(next(iter(self.tensors.values())))

    def rows(self, index: Sequence[int] | slice) -> "Conditioning":
        """The rows at those places, in that order; a place may occur again."""
        return self._each(lambda value: _rows(value, index))

    def with_tensor(self, name: str, value: Tensors) -> "Conditioning":
        """The same record with one tensor more, or another under that name."""
        return Conditioning({**self.tensors, name: value})

    def guided(self, negative: "Conditioning") -> "Conditioning":
        """2B rows for classifier-free guidance, the B of ``negative`` first.

        Where the prompts of the two have other lengths, the shorter ones are filled up, if the record has a mask.

        Raises:
            ValueError: the two hold different names, or tensors of different sizes.
        """
        if set(self.tensors) != set(negative.tensors):
            raise ValueError(
                f"the negative conditioning holds {sorted(negative.tensors)} beside {sorted(self.tensors)}; encode"
                " both with one model."
            )
        joined: dict[str, Tensors] = {}
        for name, value in self.tensors.items():
            first = negative.tensors[name]
            if isinstance(value, list) or isinstance(first, list):
                joined[name] = [*first, *value]
            elif first.shape[1:] != value.shape[1:]:
                if _has_mask(self) and first.ndim == value.ndim > 1 and first.shape[2:] == value.shape[2:]:
                    longest = max(first.shape[1], value.shape[1])
                    joined[name] = torch.cat([_padded(first, longest, axis=1), _padded(value, longest, axis=1)])
                    continue
                raise ValueError(
                    f"{name} of the negative prompts has rows of shape {tuple(first.shape[1:])} beside"
                    f" {tuple(value.shape[1:])}; encode both together."
                )
            else:
                joined[name] = torch.cat([first, value])
        return Conditioning(joined)

    def map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> "Conditioning":
        """Every tensor changed, for example moved to a device or to another precision."""
        return self._each(lambda value: [change(row) for row in value] if isinstance(value, list) else change(value))

    def floats(self, change: Callable[[torch.Tensor], torch.Tensor]) -> "Conditioning":
        """Every tensor of floating point changed, for example to another precision; masks and positions stay."""
        return self.map(lambda value: change(value) if value.is_floating_point() else value)

    def _each(self, change: Callable[[Tensors], Tensors]) -> "Conditioning":
        return Conditioning({name: change(value) for name, value in self.tensors.items()})


def padded_batch(rows: Sequence[Conditioning]) -> Conditioning:
    """B prompts as one record: each tensor filled up with zeros to the longest of its name, then stacked.

    Raises:
        ValueError: prompts of other lengths without a mask, whose zeros would be read as text.
    """
    batch: dict[str, Tensors] = {}
    for name in rows[0].tensors:
        values = [row[name] for row in rows]
        if values[0].ndim:
            lengths = {len(value) for value in values}
            if len(lengths) > 1 and not _has_mask(rows[0]):
                raise ValueError(
                    f"{name} of the prompts has lengths {sorted(lengths)} and no mask says which tokens are read;"
                    " encode all prompts to one length."
                )
            values = [_padded(value, max(lengths)) for value in values]
        batch[name] = torch.stack(values)
    return Conditioning(batch)


def unpadded(features: torch.Tensor, mask: torch.Tensor) -> Conditioning:
    """One prompt's record of ``features (L, D)`` and ``mask (L,)``, what fills it up at the end left off.

    Its tensors have the names by which denoisers with a mask of their own take them."""
    length = int(mask.sum())
    return Conditioning({"encoder_hidden_states": features[:length], "encoder_attention_mask": mask[:length]})


def listed_batch(rows: Sequence[Conditioning]) -> Conditioning:
    """B prompts as one record of lists, for denoisers that take prompts of their own lengths."""
    return Conditioning({name: [row[name] for row in rows] for name in rows[0].tensors})


def _has_mask(record: Conditioning) -> bool:
    return any(name.endswith("mask") for name in record.tensors)


def _padded(value: torch.Tensor, length: int, axis: int = 0) -> torch.Tensor:
    behind = [0, 0] * (value.ndim - 1 - axis)
    return functional.pad(value, (*behind, 0, length - value.shape[axis]))


def _rows(value: Tensors, index: Sequence[int] | slice) -> Tensors:
    if isinstance(value, torch.Tensor):
        return value[index]
    return value[index] if isinstance(index, slice) else [value[place] for place in index]
