"""Text-generation models of transformers: chat templates, each answer from its own seed, and what is refused."""

import json

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, LlamaConfig, T5Config

from support.tiny_language_models import save_knowing_language_model, save_random_language_model
from support.tiny_vision_language import build_byte_tokenizer
from ubgen_pipeline.captions.caption_requests import CONTEXTS, caption_request
from ubgen_pipeline.captions.language_model import (
    OwnDraws,
    Sampling,
    check_writes_text,
    load_language_model,
    split_revision,
)
from ubgen_pipeline.prompts.class_entries import ClassName

SAMPLING = Sampling(temperature=1.0, top_p=0.95, max_new_tokens=12)
REQUESTS = [
    caption_request(ClassName(name, definition=meaning), slot, 0, CONTEXTS, 0)
    for name, meaning in (("star", None), ("ring", "a disc with a hole " * 9))
    for slot in (0, 1)
]


def load(folder, sampling=SAMPLING):
    return load_language_model(folder, None, sampling, "cpu")


@pytest.mark.parametrize("chat", [False, True])
def test_an_answer_depends_on_its_request_alone(tmp_path, chat):
    model = load(save_random_language_model(tmp_path, chat=chat))
    together = model.answers(REQUESTS)
    alone = [model.answers([request])[0] for request in REQUESTS]
    torch.manual_seed(5)
    assert model.answers(REQUESTS[::-1])[::-1] == together == alone
    assert len({answer.text for answer in together}) == 4
    other_seeds = [caption_request(request.item, request.slot, 1, CONTEXTS, 0) for request in REQUESTS]
    assert model.answers(other_seeds) != together


def test_a_model_with_a_chat_template_is_told_and_another_goes_on_with_a_text(tmp_path):
    request = REQUESTS[2]
    told = load(save_random_language_model(tmp_path / "told", chat=True))
    assert told._text(request) == f"USER: {request.instruction()} ASSISTANT:"
    assert load(save_random_language_model(tmp_path / "not", chat=False))._text(request) == request.beginning()


@pytest.mark.parametrize("chat", [False, True])
def test_the_end_mark_tells_whole_answers_from_those_that_were_stopped(tmp_path, chat):
    model = load(save_knowing_language_model(tmp_path, [" a star at dawn", " a star at dusk"], chat=chat))
    answers = [model.answers([caption_request(ClassName("star"), slot, 0, {}, 0)])[0] for slot in range(12)]
    assert {answer.text.strip() for answer in answers} == {"a star at dawn", "a star at dusk"}
    assert all(answer.is_whole for answer in answers)
    short = load(str(tmp_path), Sampling(1.0, 1.0, 1))
    assert not short.answers(REQUESTS[:1])[0].is_whole


def test_draws_follow_the_softmax_and_ruled_out_words_stay_out():
    probabilities = torch.tensor([0.5, 0.3, 0.2, 0.0])
    scores = probabilities.log().expand(4000, 4)
    drawn = OwnDraws(range(4000))(torch.zeros(4000, 1), scores).argmax(dim=1)
    counts = torch.bincount(drawn, minlength=4) / 4000
    assert torch.allclose(counts, probabilities, atol=0.03) and counts[3] == 0


def test_temperature_zero_takes_the_likeliest_words(tmp_path):
    model = load(save_random_language_model(tmp_path, chat=True), Sampling(0.0, 1.0, 5))
    seeds = [caption_request(REQUESTS[0].item, 0, attempt, CONTEXTS, 0) for attempt in (0, 1)]
    assert len({model.answers([request])[0].text for request in seeds}) == 1


def test_models_that_write_no_text_are_refused(tmp_path):
    build_byte_tokenizer([]).save_pretrained(tmp_path)
    config = BertConfig(vocab_size=600, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    BertForMaskedLM(config).save_pretrained(tmp_path)
    with pytest.raises(
        ValueError, match=r"language_model is '.*', BertForMaskedLM, which is no text-generation model"
    ):
        load(str(tmp_path))
    with pytest.raises(ValueError, match="a t5, which is no text-generation model"):
        check_writes_text(T5Config(), "t5")
    check_writes_text(LlamaConfig(), "llama")


def test_models_that_cannot_be_loaded_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"language_model is .*none', which could not be loaded"):
        load(str(tmp_path / "none"))
    folder = save_random_language_model(tmp_path / "m", chat=True)
    (tmp_path / "m" / "model.safetensors").rename(tmp_path / "m" / "pytorch_model.bin")
    with pytest.raises(ValueError, match="could not be loaded"):
        load(folder)


def test_code_of_a_model_is_run_only_where_that_is_asked_for(tmp_path):
    ran = tmp_path / "ran"
    (tmp_path / "own.py").write_text(
        f"open({str(ran)!r}, 'w')\nfrom transformers import LlamaConfig, LlamaForCausalLM as Model\n"
        "class Own(LlamaConfig): model_type = 'own'\n"
    )
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "own", "auto_map": {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Model"}})
    )
    with pytest.raises(ValueError, match="brings code of its own; read it, and give --trust-remote-code"):
        load(str(tmp_path))
    assert not ran.exists()
    with pytest.raises(ValueError):
        load_language_model(str(tmp_path), None, SAMPLING, "cpu", trust_remote_code=True)
    assert ran.exists()


def test_a_revision_stands_behind_the_name(tmp_path):
    assert split_revision("org/name@refs/pr/3") == ("org/name", "refs/pr/3") and split_revision("name") == (
        "name",
        None,
    )
    folder = tmp_path / "a@b"
    folder.mkdir()
    assert split_revision(str(folder)) == (str(folder), None)
