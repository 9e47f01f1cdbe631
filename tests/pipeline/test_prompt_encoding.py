"""Text features of weighted and long prompts against a computation by hand, and prompts that are too long."""

import pytest
import torch

from support.text_features import text_features
from ubgen_pipeline.models.loading import load_pipeline
from ubgen_pipeline.prompt_encoding import (
    check_prompt_lengths,
    check_token_counts,
    encode_weighted,
    token_chunks,
)


@pytest.fixture(scope="module")
def pipeline(random_mini_model):
    return load_pipeline(random_mini_model)


@torch.no_grad()
def test_features_equal_those_by_hand(pipeline):
    prompt = "a star++ on (sand ring)--"
    ids = pipeline.tokenizer("a star on sand ring", padding="max_length", return_tensors="pt").input_ids
    empty = pipeline.tokenizer("", padding="max_length", return_tensors="pt").input_ids
    weights = torch.ones(ids.shape[1])
    words = pipeline.tokenizer.convert_ids_to_tokens(ids[0])
    for place, token in enumerate(words):
        weights[place] = {"star</w>": 1.21, "sand</w>": 0.81, "ring</w>": 0.81}.get(token, 1.0)
    assert (weights != 1).sum() == 3, words
    z, e = pipeline.text_encoder(ids)[0], pipeline.text_encoder(empty)[0]
    by_hand = e + weights[None, :, None] * (z - e)
    torch.testing.assert_close(pipeline.encode_weighted_prompts([prompt]), by_hand, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_without_weights_it_is_the_plain_encoding(pipeline):
    texts = ["a star on sand", "", "ring"]
    plain = text_features(pipeline, texts)
    torch.testing.assert_close(pipeline.encode_weighted_prompts(texts), plain, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_long_prompts_are_encoded_in_chunks(pipeline):
    room = pipeline.tokenizer.model_max_length - 2
    long = " ".join(["star"] * room + ["ring"] * 3)
    features = pipeline.encode_weighted_prompts([long, "ring"])
    assert features.shape[1] == 2 * (room + 2) and pipeline.count_prompt_chunks([long, "ring"]) == 2
    whole, rest, empty = (
        text_features(pipeline, [text])[0] for text in (" ".join(["star"] * room), "ring ring ring", "")
    )
    torch.testing.assert_close(features[0], torch.cat([whole, rest]), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(features[1, room + 2 :], empty, atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="num_chunks is 1"):
        pipeline.encode_weighted_prompts([long], num_chunks=1)


def test_weights_follow_their_tokens_into_chunks(pipeline):
    length = pipeline.tokenizer.model_max_length
    ids, weights = token_chunks(pipeline.tokenizer, [(" ".join(["star"] * (length - 3)), 1.0), ("ring ring", 1.5)])
    assert [len(row) for row in ids + weights] == [length] * 4
    assert weights[0] == [1.0] * (length - 2) + [1.5, 1.0] and weights[1] == [1.0, 1.5] + [1.0] * (length - 2)


def test_gradient_flows_to_the_text_encoder(pipeline):
    embeddings = pipeline.text_encoder.get_input_embeddings()
    features = encode_weighted(pipeline.tokenizer, lambda ids: pipeline.text_encoder(ids)[0], [[("star", 1.2)]])
    (gradient,) = torch.autograd.grad(features.sum(), embeddings.weight)
    assert gradient.abs().sum() > 0


def test_an_image_depends_on_weights_and_not_on_its_batch(pipeline):
    settings = {"num_inference_steps": 2, "output_type": "latent", "weighted_prompts": True, "num_prompt_chunks": 2}

    def draw(*prompts):
        output = pipeline(["star"] * len(prompts), prompts=list(prompts), seeds=[3] * len(prompts), **settings)
        return output.images

    plain, weighted, again = draw("a star", "a star++++", "a star")
    torch.testing.assert_close(plain, again)
    torch.testing.assert_close(plain, draw("a star")[0], atol=1e-4, rtol=1e-4)
    assert (plain - weighted).abs().max() > 1e-3


def test_a_prompt_that_would_be_cut_is_named_by_its_class(pipeline):
    tokenizer = pipeline.tokenizer
    most = tokenizer.model_max_length
    # start and end of the text take a token each
    fits, long = " ".join(["star"] * (most - 2)), " ".join(["star"] * (most - 1))
    check_prompt_lengths(tokenizer, [fits, "ring"], ["a", "b"])
    with pytest.raises(ValueError, match=f"class name 'b' gives a prompt of {most + 1} tokens, .* takes {most}"):
        check_prompt_lengths(tokenizer, [fits, long, long], ["a", "b", "c"])
    with pytest.raises(ValueError, match=r"class name 'a' gives a prompt of 3 tokens, .* takes 2"):
        check_prompt_lengths(tokenizer, ["ring"], ["a"], limit=2)


def test_counts_are_compared_with_the_limit_and_there_is_one_for_each_class():
    check_token_counts([3, 5], 5, ["a", "b"])
    with pytest.raises(ValueError, match="class name 'b' gives a prompt of 6 tokens"):
        check_token_counts([3, 6], 5, ["a", "b"])
    with pytest.raises(ValueError, match="shorter"):
        check_token_counts([3], 5, ["a", "b"])


def test_the_same_prompt_twice_has_the_same_features(pipeline):
    with torch.no_grad():
        features = pipeline.encode_weighted_prompts(["a star++", "ring", "a star++"])
    assert torch.equal(features[0], features[2]) and not torch.equal(features[0], features[1])
