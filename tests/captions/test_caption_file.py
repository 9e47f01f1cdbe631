"""The finished file is an ordinary file with templates; the one beside it holds what a stopped run goes on from."""

import json

import pytest
import yaml

from ubgen_pipeline.captions.caption_checks import Answer, Caption
from ubgen_pipeline.captions.caption_file import CaptionFile, digest_of, digest_of_model
from ubgen_pipeline.prompts.class_entries import ClassName
from ubgen_pipeline.samples.prompt_samples import load_prompt_samples

CLASSES = [
    ClassName("crane", "n1", "a bird"),
    ClassName("crane", "n2", "a machine"),
    ClassName("no (++)", synonyms=("nay",)),
]
CAPTIONS = [
    (CLASSES[0], [Caption("Two cranes: {grey} (very)++", "cranes"), Caption("a crane by 東京's lake", "crane")]),
    (CLASSES[1], [Caption("A crane lifts --- steel", "crane")]),
    (CLASSES[2], [Caption("a nay # no comment", "nay")]),
]


@pytest.mark.parametrize("suffix", ["yaml", "json"])
def test_generate_reads_the_captions_back_letter_by_letter(tmp_path, suffix):
    file = CaptionFile(tmp_path / f"c.{suffix}", {"seed": 1}, {})
    file.finish(CAPTIONS)
    samples = load_prompt_samples(file.path)
    prompts = {(item.key, item.prompt, item.word) for item in samples.prompts()}
    assert prompts == {
        ("n1", "Two cranes: {grey} (very)++", "cranes"),
        ("n1", "a crane by 東京's lake", "crane"),
        ("n2", "A crane lifts --- steel", "crane"),
        ("no (++)", "a nay # no comment", "nay"),
    }
    assert [(item.class_id, item.definition) for item in samples.classes] == [
        ("n1", "a bird"), ("n2", "a machine"), (None, None)
    ]  # fmt: skip
    assert not any(item.weighted for item in samples.prompts()) and file.is_finished()


def test_a_file_is_known_again_though_a_person_has_edited_it(tmp_path):
    file = CaptionFile(tmp_path / "c.yaml", {"seed": 1, "model": "a"}, {"torch": "1"})
    file.finish(CAPTIONS)
    data = yaml.safe_load(file.path.read_text("utf-8"))
    data["templates"]["n2"] = ["a {name} edited"]
    file.path.write_text(yaml.safe_dump(data))
    assert CaptionFile(file.path, {"seed": 1, "model": "a"}, {"torch": "2"}).is_finished()
    with pytest.raises(ValueError, match="written with seed 1, not 2; give another name"):
        CaptionFile(file.path, {"seed": 2, "model": "a"}, {}).is_finished()
    (tmp_path / "own.yaml").write_text("classes: [star]\ntemplates: ['{name}']\n")
    with pytest.raises(ValueError, match=r"own.yaml', which this command did not write"):
        CaptionFile(tmp_path / "own.yaml", {}, {}).is_finished()


def test_a_run_that_kept_nothing_holds_up_no_other_settings(tmp_path):
    # as where the model's name was misspelt
    CaptionFile(tmp_path / "c.yaml", {"model": "a"}, {}).begun()
    other = CaptionFile(tmp_path / "c.yaml", {"model": "b"}, {})
    assert other.begun() == [] and other.settings_begun() == {"model": "b"}


def test_answers_are_kept_batch_by_batch_and_a_torn_line_is_cut_off(tmp_path):
    file = CaptionFile(tmp_path / "c.yaml", {"seed": 1}, {"torch": "1"})
    assert file.begun() == [] and not file.is_finished()
    batches = [[Answer("a\nb\u2028c", True), Answer("", False)], [Answer("ü", True)]]
    for batch in batches:
        file.keep(batch)
    assert file.begun() == batches and file.settings_begun()["seed"] == 1
    whole = file.part.read_bytes()
    for cut in range(1, len(whole.splitlines(keepends=True)[-1])):
        file.part.write_bytes(whole[:-cut])
        assert file.begun() == batches[:1]
        assert file.part.read_bytes() == whole[: whole[:-1].rfind(b"\n") + 1]
    file.keep(batches[1])
    with pytest.raises(ValueError, match="written with torch '1', not '2'"):
        CaptionFile(file.path, {"seed": 1}, {"torch": "2"}).begun()
    file.part.write_text(whole.decode().splitlines()[0] + "\n[3]\n")
    with pytest.raises(ValueError, match="is damaged"):
        file.begun()
    file.finish(CAPTIONS)
    assert not file.part.exists()


def test_names_that_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"output is 'c.txt'; give a file whose name ends with .yaml"):
        CaptionFile("c.txt", {}, {})
    (tmp_path / "d.yaml").mkdir()
    with pytest.raises(ValueError, match="is a folder"):
        CaptionFile(tmp_path / "d.yaml", {}, {})


def test_a_second_run_is_refused_while_the_first_one_lives(tmp_path):
    file = CaptionFile(tmp_path / "new" / "c.yaml", {}, {})
    second = CaptionFile(file.path, {}, {})
    with file.held(), pytest.raises(ValueError, match="another run is writing"), second.held():
        pass
    assert list(file.path.parent.iterdir()) == []


def test_the_digest_tells_definitions_and_order_apart():
    digests = {digest_of(CLASSES), digest_of(CLASSES[::-1]), digest_of([ClassName("crane", "n1"), *CLASSES[1:]])}
    assert len(digests) == 3 and json.dumps(sorted(digests))


def test_the_digest_of_a_model_tells_its_tokenizer_and_template_apart(tmp_path):
    found = [digest_of_model(str(tmp_path))]
    for name, text in (("tokenizer.json", "{}"), ("chat_template.jinja", "a"), ("chat_template.jinja", "b")):
        (tmp_path / name).write_text(text)
        found.append(digest_of_model(str(tmp_path)))
    (tmp_path / "notes.pdf").write_text("no part of it")
    assert len(set(found)) == 4 and digest_of_model(str(tmp_path)) == found[-1]
    assert digest_of_model("org/name") is None
