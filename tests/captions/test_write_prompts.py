"""The command from classes to a file that ``ubgen generate`` reads: resuming, counts, and what is refused."""

import dataclasses
import json
import re
import shlex
import shutil
from functools import partial

import pytest

from support import ROOT
from support.tiny_language_models import save_knowing_language_model, save_random_language_model
from ubgen_pipeline.captions import write_prompts as command
from ubgen_pipeline.captions.caption_checks import CUT_OFF, EMPTY, NEAR_DUPLICATE, WITHOUT_CLASS, Answer
from ubgen_pipeline.captions.write_prompts import WritePromptsSettings, main, write_prompts
from ubgen_pipeline.generation.generate import main as generate
from ubgen_pipeline.samples.prompt_samples import load_prompt_samples


class ScriptedModel:
    """Answers by a function of the request, and notes what it was asked; ``stop_after`` batches it is interrupted."""

    def __init__(self, answer, stop_after=10**9):
        self.answer, self.stop_after = answer, stop_after
        self.batches = []

    def answers(self, requests):
        if len(self.batches) == self.stop_after:
            raise KeyboardInterrupt
        self.batches.append(requests)
        answers = [self.answer(request) for request in requests]
        return [answer if isinstance(answer, Answer) else Answer(answer, True) for answer in answers]


def good(request):
    """A caption of the request's class that no other one is like; every third of them without its class at first."""
    if request.slot % 3 == 1 and request.attempt == 0:
        return f"words {request.seed}"
    return f"{request.seed} a {request.item.name} {request.seed // 7} {request.seed // 11}"


@pytest.fixture
def settings(tmp_path):
    """Of classes star and ring with 5 captions each, by a model whose folder has nothing in it."""
    (tmp_path / "model").mkdir()
    return WritePromptsSettings(
        language_model=str(tmp_path / "model"),
        output=str(tmp_path / "captions.yaml"),
        class_names=["star", "ring"],
        captions_per_class=5,
        batch_size=4,
        device="cpu",
    )


def run(settings, model):
    return write_prompts(settings, lambda settings, revision: model)


def test_the_captions_are_drawn_in_their_settings_order_and_retried_where_they_were_refused(settings):
    model = ScriptedModel(good)
    star, ring = run(settings, model)
    assert len(star.kept) == len(ring.kept) == 5 and star.reasons == ring.reasons == {WITHOUT_CLASS: 2}
    asked = [(request.item.name, request.slot, request.attempt) for batch in model.batches for request in batch]
    assert asked[:8] == [
        *[("star", slot, 0) for slot in range(4)], ("star", 1, 1), ("star", 4, 0), ("ring", 0, 0), ("ring", 1, 0)
    ]  # fmt: skip
    assert [len(batch) for batch in model.batches] == [4, 4, 4, 1, 1] and len(asked) == len(set(asked)) == 14
    samples = load_prompt_samples(settings.output)
    assert [samples.sample(index).prompt.name for index in range(4)] == ["star", "ring"] * 2 and len(samples) == 10


def test_a_run_that_is_stopped_anywhere_goes_on_to_the_same_file(settings, tmp_path):
    whole = ScriptedModel(good)
    run(settings, whole)
    expected = (tmp_path / "captions.yaml").read_bytes()
    for stop in range(len(whole.batches)):
        (tmp_path / "captions.yaml").unlink()
        with pytest.raises(KeyboardInterrupt):
            run(settings, ScriptedModel(good, stop_after=stop))
        assert not (tmp_path / "captions.yaml").exists()
        # killed within a write
        part = tmp_path / "captions.yaml.part"
        part.write_bytes(part.read_bytes() + b'[["half a li')
        rest = ScriptedModel(good)
        run(settings, rest)
        assert rest.batches == whole.batches[stop:]
        assert (tmp_path / "captions.yaml").read_bytes() == expected
    assert sorted(path.name for path in tmp_path.iterdir()) == ["captions.yaml", "model"]


def test_a_finished_file_is_left_as_a_person_edited_it(settings, tmp_path, capsys):
    run(settings, ScriptedModel(good))
    file = tmp_path / "captions.yaml"
    file.write_text(file.read_text("utf-8").replace("{name}", "green {name}"), "utf-8")
    edited = file.read_bytes()
    run(settings, None)
    assert file.read_bytes() == edited and "is finished" in capsys.readouterr().err
    assert all(" green " in prompt.prompt for prompt in load_prompt_samples(file).prompts())
    with pytest.raises(ValueError, match="written with seed 0, not 1"):
        run(dataclasses.replace(settings, seed=1), None)


def test_a_stopped_run_is_not_gone_on_with_by_other_settings(settings):
    with pytest.raises(KeyboardInterrupt):
        run(settings, ScriptedModel(good, stop_after=1))
    for change in ({"seed": 1}, {"contexts": ["place"]}, {"class_names": ["ring", "star"]}, {"batch_size": 3}):
        with pytest.raises(ValueError, match=r"part' was written with"):
            run(dataclasses.replace(settings, **change), None)


def test_refused_answers_are_counted_by_their_reasons(settings, monkeypatch, capsys):
    answers = {
        0: ["", "a star"],
        1: ["a starfish", "A STAR!", "a bright star"],
        2: [Answer("a star that is cut", False), "<think>", "three stars shine"],
        3: ["a star", "a star", "a star", "a star"],
        4: ["a star by the sea"],
    }
    model = ScriptedModel(lambda request: answers[request.slot][request.attempt])
    monkeypatch.setattr(command, "_load", lambda settings, revision: model)
    monkeypatch.setenv("UBGEN_PROGRESS_SECONDS", "0")
    flags = ["--language-model", settings.language_model, "--output", settings.output, "--class-names", "star"]
    assert main([*flags, "--captions-per-class", "5", "--batch-size", "1"]) == 0
    printed = capsys.readouterr()
    header, row, every = printed.out.splitlines()
    assert header.split("  ")[0] == "class" and row.split() == ["star", "4", "1", "2", "1", "5"]
    assert every.split() == ["all", "4", "1", "2", "1", "5"]
    assert [header.index(reason) for reason in (EMPTY, CUT_OFF, WITHOUT_CLASS, NEAR_DUPLICATE)] == sorted(
        header.index(reason) for reason in (EMPTY, CUT_OFF, WITHOUT_CLASS, NEAR_DUPLICATE)
    )
    assert "1 classes have fewer than 5 captions, 'star' has 4" in printed.err
    assert re.search(r"captions, [\d.]+ captions/s, \d\d:\d\d:\d\d left", printed.err)
    prompts = {item.prompt: item.word for item in load_prompt_samples(settings.output).prompts()}
    assert prompts == {
        "a star": "star", "a bright star": "star", "three stars shine": "stars", "a star by the sea": "star"
    }  # fmt: skip


@pytest.mark.parametrize("answer", ["", "a square", "{name}"])
def test_a_class_without_any_caption_ends_the_run_and_names_the_last_answer(settings, answer):
    model = ScriptedModel(lambda request: answer)
    with pytest.raises(ValueError, match=r"wrote no caption of class 'star' in 20 answers \(20 .*the last was"):
        run(settings, model)
    # the answers are there, and say so again
    with pytest.raises(ValueError, match="no caption of class 'star'"):
        run(settings, None)


def test_definitions_reach_the_model_and_the_file(settings):
    model = ScriptedModel(good)
    run(dataclasses.replace(settings, class_names=["goldfish"], definitions=True), model)
    assert "freshwater fish" in model.batches[0][0].instruction()
    assert "freshwater fish" in load_prompt_samples(settings.output).classes[0].definition


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"language_model": None}, "batch_size is given, which only a language_model reads"),
        ({"output": None}, "output is missing"),
        ({"class_names": None}, "give the classes either"),
        ({"classes": "voc"}, "give the classes either"),
        ({"captions_per_class": 0}, "captions_per_class is 0"),
        ({"attempts": 0}, "attempts is 0"),
        ({"max_similarity": 1.1}, "max_similarity is 1.1"),
        ({"top_p": 0.0}, "top_p is 0.0"),
        ({"temperature": -1.0}, "temperature is -1.0"),
        ({"contexts": ["mood"]}, "contexts holds 'mood'"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_settings_that_are_refused(settings, change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(settings, **change)


def test_without_a_language_model_every_combination_of_contexts_is_a_prompt(tmp_path, capsys):
    file = tmp_path / "contexts.yaml"
    flags = ["--class-names", "star", "tench (fish)", "--output", str(file)]
    assert main([*flags, "--contexts", "place", "sky=clear|red {", "style=a photo|an old photo++"]) == 0
    assert "2 classes, 24 prompts of each" in capsys.readouterr().err
    prompts = [prompt.prompt for prompt in load_prompt_samples(str(file)).prompts()]
    assert len({*prompts}) == len(prompts) == 48
    # plain text, whatever looks like a weight or a placeholder
    assert "an old photo++ of a tench (fish), indoors, red {" in prompts
    written = file.read_bytes()
    assert main([*flags, "--contexts", "place", "sky=clear|red {", "style=a photo|an old photo++"]) == 0
    assert "nothing is written" in capsys.readouterr().err and file.read_bytes() == written
    assert main([*flags, "--contexts", "place"]) == 2
    assert "was written with contexts" in capsys.readouterr().err and file.read_bytes() == written
    assert main(["--class-names", "star", "--captions-per-class", "7", "--output", str(tmp_path / "few.json")]) == 0
    samples = load_prompt_samples(str(tmp_path / "few.json"))
    assert len(samples.prompts()) == 7 and not any("several" in prompt.prompt for prompt in samples.prompts())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--contexts", "none"], "contexts has none to write templates with"),
        (["--contexts", "number"], "contexts names 'number', which takes a language_model"),
        (["--contexts", "name=a|b"], "contexts gives no template: attribute 'name' cannot be a placeholder"),
        (["--seed", "3"], "seed is given, which only a language_model reads"),
        (["--trust-remote-code"], "trust_remote_code is given, which only a language_model reads"),
    ],
)
def test_what_takes_a_language_model_is_refused_without_one(tmp_path, capsys, change, message):
    assert main(["--class-names", "star", "--output", str(tmp_path / "contexts.yaml"), *change]) == 2
    assert message in capsys.readouterr().err and not [*tmp_path.iterdir()]


@pytest.mark.parametrize("chat", [False, True])
def test_a_real_model_writes_the_same_file_whether_it_was_stopped_or_not(tmp_path, chat, monkeypatch):
    sentences = [f" a star {where}" for where in ("at dawn", "on sand", "in snow", "under water", "and no moon")]
    model = save_knowing_language_model(tmp_path / "m", [*sentences, " a ring"], chat=chat)
    flags = ["--language-model", model, "--class-names", "star", "--captions-per-class", "4", "--batch-size", "3"]
    flags += ["--attempts", "9", "--contexts", "none", "--device", "cpu"]
    assert main([*flags, "--output", str(tmp_path / "whole.json")]) == 0
    templates = json.loads((tmp_path / "whole.json").read_text("utf-8"))["templates"]["star"]
    assert len(set(templates)) == 4 and set(templates) <= {
        text.strip().replace("star", "{name}") for text in sentences
    }
    keep = command.CaptionFile.keep

    def keep_and_stop(self, answers):
        keep(self, answers)
        raise KeyboardInterrupt

    monkeypatch.setattr(command.CaptionFile, "keep", keep_and_stop)
    assert main([*flags, "--output", str(tmp_path / "again.json")]) == 130
    monkeypatch.undo()
    assert main([*flags, "--output", str(tmp_path / "again.json")]) == 0
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "whole.json").read_bytes()


def test_a_random_model_is_told_to_have_written_no_caption(tmp_path, capsys):
    model = save_random_language_model(tmp_path / "m", chat=True)
    flags = ["--language-model", model, "--class-names", "star", "--captions-per-class", "2", "--max-new-tokens", "8"]
    assert main([*flags, "--output", str(tmp_path / "c.yaml"), "--device", "cpu"]) == 2
    assert re.search(r"wrote no caption of class 'star' in 8 answers \(.*\)", capsys.readouterr().err)
    assert main([*flags[:1], str(tmp_path), *flags[2:], "--output", str(tmp_path / "d.yaml")]) == 2
    assert "could not be loaded" in capsys.readouterr().err


def test_the_commands_of_the_page_run(tmp_path, monkeypatch, capsys):
    """Those of docs/prompts.md, with a scripted model in place of the one from the Hub."""
    page = (ROOT / "docs" / "prompts.md").read_text("utf-8")
    section = page.partition("## Captions by a language model")[2].partition("\n## ")[0]
    lines = re.findall(r"^ubgen (?:.*\\\n)*.*", section, re.MULTILINE)
    commands = [shlex.split(line.replace("\\\n", " ")) for line in lines]
    assert [words[1] for words in commands] == ["write-prompts", "generate"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "_facts", partial(_without_the_hub, command._facts))
    monkeypatch.setattr(command, "_load", lambda settings, revision: ScriptedModel(good))
    assert main(commands[0][2:]) == 0
    capsys.readouterr()
    assert generate([*commands[1][2:], "--dry-run"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    asked = int(commands[0][commands[0].index("--captions-per-class") + 1])
    assert len(rows) % asked == 0 and len({row["prompt"] for row in rows}) == len(rows)
    shutil.rmtree(tmp_path, ignore_errors=True)


def _without_the_hub(facts, settings, classes):
    found, _ = facts(dataclasses.replace(settings, language_model="."), classes)
    return found, None
