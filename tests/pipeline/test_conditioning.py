"""The record that a denoiser is conditioned on: rows, guidance, padding."""

import pytest
import torch

from ubgen_pipeline.conditioning import Conditioning, listed_batch, padded_batch


def _row(length, start=0.0):
    text = torch.arange(length * 2, dtype=torch.float32).reshape(length, 2) + start
    mask = torch.ones(length, dtype=torch.bool)
    return Conditioning({"text": text, "mask": mask, "pooled": text.mean(dim=0), "scale": torch.tensor(start)})


def test_a_batch_fills_up_with_zeros_to_the_longest():
    batch = padded_batch([_row(3), _row(1, start=10.0)])
    assert batch.num_rows == 2 and batch["text"].shape == (2, 3, 2) and batch["scale"].tolist() == [0.0, 10.0]
    assert batch["text"][0].tolist() == [[0, 1], [2, 3], [4, 5]]
    assert batch["text"][1].tolist() == [[10, 11], [0, 0], [0, 0]]
    assert torch.equal(batch["pooled"], torch.tensor([[2.0, 3.0], [10.0, 11.0]]))
    assert batch["mask"].tolist() == [[True] * 3, [True, False, False]]


def test_without_a_mask_prompts_of_other_lengths_make_no_batch():
    rows = [Conditioning({"text": torch.zeros(length, 2)}) for length in (3, 1)]
    with pytest.raises(ValueError, match=r"text of the prompts has lengths \[1, 3\] and no mask"):
        padded_batch(rows)
    assert padded_batch(rows[:1])["text"].shape == (1, 3, 2)


def test_a_batch_of_lists_leaves_every_length():
    batch = listed_batch([_row(3), _row(1)])
    assert batch.num_rows == 2 and [len(value) for value in batch.tensors["text"]] == [3, 1]


@pytest.mark.parametrize("lengths", [(3, 5), (5, 3)])
def test_guided_rows_of_other_lengths_are_filled_up_where_a_mask_says_so(lengths):
    rows, negative = (padded_batch([_row(length, start=1.0)]) for length in lengths)
    both = rows.guided(negative)
    assert both["text"].shape == (2, 5, 2) and both["pooled"].shape == (2, 2)
    assert both["mask"].sum(dim=1).tolist() == [lengths[1], lengths[0]]
    for row, (source, length) in enumerate([(negative, lengths[1]), (rows, lengths[0])]):
        assert torch.equal(both["text"][row, :length], source["text"][0]) and not both["text"][row, length:].any()


def test_a_tensor_may_be_added():
    batch = padded_batch([_row(2)])
    assert batch.with_tensor("guidance", torch.ones(1)).tensors.keys() - batch.tensors.keys() == {"guidance"}


@pytest.mark.parametrize("index", [[1, 0, 1], slice(1, 2)])
def test_rows_are_taken_from_tensors_and_lists_alike(index):
    lists = [torch.zeros(2), torch.ones(3)]
    taken = Conditioning({"a": torch.tensor([[0.0], [1.0]]), "b": lists}).rows(index)
    places = [0, 1][index] if isinstance(index, slice) else index
    assert taken["a"].flatten().tolist() == places and taken.num_rows == len(places)
    assert [len(value) for value in taken.tensors["b"]] == [len(lists[place]) for place in places]


def test_guided_rows_begin_with_the_negative_ones():
    plain = Conditioning({"a": torch.ones(2, 1), "b": [torch.ones(1), torch.ones(2)]})
    negative = Conditioning({"a": torch.zeros(2, 1), "b": [torch.zeros(3), torch.zeros(4)]})
    both = plain.guided(negative)
    assert both["a"].flatten().tolist() == [0, 0, 1, 1]
    assert [len(value) for value in both.tensors["b"]] == [3, 4, 1, 2]


@pytest.mark.parametrize(
    "negative, message",
    [
        ({"b": torch.zeros(1, 2, 3)}, r"holds \['b'\] beside \['a'\]; encode both with one model"),
        ({"a": torch.zeros(1, 4, 3)}, r"a of the negative prompts has rows of shape \(4, 3\) beside \(2, 3\)"),
    ],
)
def test_what_does_not_go_together_is_named(negative, message):
    with pytest.raises(ValueError, match=message):
        Conditioning({"a": torch.zeros(1, 2, 3)}).guided(Conditioning(negative))


def test_map_changes_every_tensor():
    changed = Conditioning({"a": torch.ones(2), "b": [torch.ones(1), torch.ones(3)]}).map(lambda value: value.half())
    assert changed["a"].dtype == torch.float16
    assert [value.dtype for value in changed.tensors["b"]] == [torch.float16] * 2
