"""WordNet's definitions: by id, by a name with one meaning, and what is said of several."""

import pytest

from ubgen_pipeline.prompts.class_prompts import ClassName
from ubgen_pipeline.prompts.word_senses import with_definitions, word_senses


def test_a_name_has_the_meanings_of_its_ids():
    assert list(word_senses("crane")) == ["n02012849", "n03126707"]
    assert "wading bird" in word_senses("Crane")["n02012849"]
    assert word_senses("fire_engine") == word_senses("fire engine") and word_senses("zzz") == {}


def test_definitions_are_filled_in_and_own_ones_stay():
    bird, own = with_definitions([ClassName("crane", "n02012849"), ClassName("crane", "x", "a machine")])
    assert "wading bird" in (bird.definition or "") and own.definition == "a machine"


def test_what_cannot_be_decided_is_refused():
    with pytest.raises(ValueError, match=r"'crane' has 2 meanings.*n02012849: .*n03126707: "):
        with_definitions([ClassName("crane")])
    with pytest.raises(ValueError, match="'zzz' has no definition"):
        with_definitions([ClassName("zzz")])
