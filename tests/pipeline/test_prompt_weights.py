"""Word weights: what is read from a prompt, and the features against a computation by hand."""

import pytest
import torch

from ubgen_pipeline.models.loading import load_pipeline
from ubgen_pipeline.prompt_encoding import encode_weighted, token_chunks
from ubgen_pipeline.prompt_weights import Fragment, escape_weights, has_weights, parse_weights, plain_text

UP, DOWN = 1.1**2, 0.9**2


def F(text, weight=1.0):  # noqa: N802
    return Fragment(text, pytest.approx(weight))


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a star", [F("a star")]),
        ("a star++ on sand", [F("a "), F("star", UP), F(" on sand")]),
        ("star+++, sand--.", [F("star", 1.1**3), F(", "), F("sand", DOWN), F(".")]),
        ("a <grand-piano>++ here", [F("a "), F("<grand-piano>", UP), F(" here")]),
        ("a (red star)++ here", [F("a "), F("red star", UP), F(" here")]),
        ("(red star)1.3, x", [F("red star", 1.3), F(", x")]),
        ("(red, blue:1.4), x", [F("red, blue", 1.4), F(", x")]),
        ("(a (b)++ c)--", [F("a ", DOWN), F("b", UP * DOWN), F(" c", DOWN)]),
        ("a crane (bird)", [F("a crane (bird)")]),
        ("T-shirt, 4+ stars, a -- b, x+y++z, ++", [F("T-shirt, 4+ stars, a -- b, x+y++z, ++")]),
        (r"C\+\+ \(x\)++", [F("C++ "), F("(x)", UP)]),
        ("(never closed++ x", [F("(never "), F("closed", UP), F(" x")]),
        ("", []),
    ],
)
def test_parses(prompt, expected):
    assert parse_weights(prompt) == expected
    assert plain_text(prompt) == "".join(item.text for item in expected)
    assert has_weights(prompt) == any(item.weight != 1 for item in expected)


@pytest.mark.parametrize("text", ["C++", "a--b--", "(x)1.3", "x (y:1.2)", "back\\slash", "+-+-++", "T-shirt (red)++"])
def test_escaped_text_is_plain(text):
    assert not has_weights(escape_weights(text)) and plain_text(escape_weights(text)) == text
    assert not has_weights(f"a {escape_weights(text)} b") and plain_text(f"{escape_weights(text)} b") == f"{text} b"


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
    plain = pipeline.encode_prompts(texts)
    torch.testing.assert_close(pipeline.encode_weighted_prompts(texts), plain, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_long_prompts_are_encoded_in_chunks(pipeline):
    room = pipeline.tokenizer.model_max_length - 2
    long = " ".join(["star"] * room + ["ring"] * 3)
    features = pipeline.encode_weighted_prompts([long, "ring"])
    assert features.shape[1] == 2 * (room + 2) and pipeline.count_prompt_chunks([long, "ring"]) == 2
    whole, rest, empty = (
        pipeline.encode_prompts([text])[0] for text in (" ".join(["star"] * room), "ring ring ring", "")
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
