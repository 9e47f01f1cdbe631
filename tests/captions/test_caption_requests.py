"""What a language model is asked for: balanced settings, seeds of their own, and the option's forms."""

from collections import Counter

import pytest

from ubgen_pipeline.captions.caption_requests import CONTEXTS, caption_request, parse_contexts, setting_of
from ubgen_pipeline.prompts.class_entries import ClassName

CRANE = ClassName("crane", "n02012849", "a wading bird")


def test_every_value_of_a_context_comes_as_often_as_the_others():
    contexts = parse_contexts(None)
    assert list(contexts) == ["place", "light", "view", "number of objects", "style"] and contexts == CONTEXTS
    settings = [dict(setting_of(CRANE, slot, contexts, 0)) for slot in range(6 * 5 * 7)]
    for context, values in contexts.items():
        assert Counter(setting[context] for setting in settings) == dict.fromkeys(values, 210 // len(values))
    # the contexts go their own ways
    assert len({tuple(setting.items()) for setting in settings}) > 150
    assert settings != [dict(setting_of(CRANE, slot, contexts, 1)) for slot in range(210)]


def test_a_request_says_the_class_its_meaning_and_the_setting():
    contexts = parse_contexts(["number", "weather=rain|snow"])
    request = caption_request(CRANE, 3, 0, contexts, 7)
    for text in (request.instruction(), request.beginning()):
        assert (
            "crane (a wading bird)" in text
            and f"number of objects: {dict(request.setting)['number of objects']}" in text
        )
        assert "place:" not in text and f"weather: {dict(request.setting)['weather']}" in text
    assert request.beginning().endswith('Caption with the words "crane":')
    assert parse_contexts(["none"]) == {} and caption_request(CRANE, 0, 0, {}, 0).setting == ()


def test_seeds_differ_by_class_slot_attempt_and_run():
    def seed(item=CRANE, slot=0, attempt=0, run=0):
        return caption_request(item, slot, attempt, {}, run).seed

    assert len({seed(), seed(ClassName("crane", "n03126707")), seed(slot=1), seed(attempt=1), seed(run=1)}) == 5
    # a new attempt keeps the setting
    again = [caption_request(CRANE, 4, attempt, CONTEXTS, 0).setting for attempt in (0, 1)]
    assert again[0] == again[1]


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (["weather"], "contexts holds 'weather'; choose among place"),
        (["none", "place"], "contexts holds 'none'"),
        (["weather=rain||snow"], "empty value"),
        (["place", "place=at home"], "'place' twice"),
        (["=rain"], "contexts holds '=rain'"),
    ],
)
def test_contexts_that_are_refused(entries, message):
    with pytest.raises(ValueError, match=message):
        parse_contexts(entries)
