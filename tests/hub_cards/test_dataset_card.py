"""The dataset card: metadata that datasets reads back, and user text that stays text."""

import html
import re

import pytest
from datasets import ClassLabel, Features, Image, Value, load_dataset
from datasets.info import DatasetInfosDict
from huggingface_hub import DatasetCard
from markdown_it import MarkdownIt

from support.hostile_text import HOSTILE
from ubgen_hub_cards.dataset_card import (
    COLUMN_NOTES,
    DatasetFacts,
    Source,
    licence_note_of,
    render_dataset_card,
    with_bias_report,
)
from ubgen_pipeline.dataset.card import class_counts
from ubgen_pipeline.dataset.columns import GROUP_COLUMN, score_features, score_notes
from ubgen_pipeline.dataset.shards import Shard
from ubgen_pipeline.generation.dataset_rows import dataset_features
from ubgen_pipeline.generation.settings import GenerateSettings
from ubgen_pipeline.mask_settings import ANNOTATIONS
from ubgen_pipeline.scoring.settings import SCORES


def facts(**changes):
    values = {
        "class_names": HOSTILE,
        "counts": [2] * len(HOSTILE),
        "samples_per_class": 2,
        "features": Features({"image": Image(), "label": ClassLabel(names=HOSTILE), "index": Value("int64")}),
        "generator": Source("mini", None, {"license": "apache-2.0"}),
        "loras": [Source("org/lora", "f" * 40)],
        "seed": 7,
        "settings": {"batch_size": 4, "scheduler": None},
        "texts": {"template": "<b>{name}</b> | *x*"},
        "num_bytes": 1000,
        "repo_id": "org/d",
        "versions": {"torch": "2"},
        "bias_report": "row\n```\n<b>x</b>\n---",
    }
    return DatasetFacts(**(values | changes))


def test_classes_take_turns_where_each_has_its_images():
    uneven = [*([1] * (len(HOSTILE) - 1)), 0]
    # of a source, whose rows take turns
    of_source = facts(counts=uneven, num_samples=sum(uneven))
    assert "Classes take turns" in render_dataset_card(facts())
    assert "Classes take turns" not in render_dataset_card(of_source)


def test_metadata_is_read_back():
    card = DatasetCard(render_dataset_card(facts()), ignore_metadata_errors=False)
    info = DatasetInfosDict.from_dataset_card_data(card.data)["default"]
    assert info.features == facts().features
    assert info.splits["train"].num_examples == 2 * len(HOSTILE) and info.download_size == 1000
    assert card.data.license == "apache-2.0" and "n<1K" in card.data.size_categories
    partial = DatasetCard(render_dataset_card(facts(counts=[1] * len(HOSTILE))))
    info = DatasetInfosDict.from_dataset_card_data(partial.data)["default"]
    assert info.features == facts().features and not info.splits
    assert "Not finished" in partial.text and f"{len(HOSTILE)} of {2 * len(HOSTILE)}" in partial.text


def test_the_note_on_the_licence_is_shown_and_found_again():
    noted = Source("org/m", "f" * 40, {"license": "other"}, "not for training: see its page.")
    card = render_dataset_card(facts(generator=noted))
    assert licence_note_of(card) == noted.licence_note
    licence = card.split("## Licence")[1].split("## ")[0]
    assert "not for training: see its page." in licence
    assert licence_note_of(render_dataset_card(facts())) is None


def test_user_text_stays_text():
    card = render_dataset_card(facts())
    plain = render_dataset_card(
        facts(
            class_names=["x"] * len(HOSTILE),
            features=Features({"image": Image(), "label": ClassLabel(names=["x"]), "index": Value("int64")}),
            texts={"template": "x"},
            bias_report="x\nx\nx\nx",
        )
    )
    body = card.split("\n---\n", 1)[1]
    parser = MarkdownIt("gfm-like", {"linkify": False, "html": True})
    rendered, expected = (parser.render(text.split("\n---\n", 1)[1]) for text in (card, plain))
    # the same elements in the same order, whatever the text
    tags = re.compile(r"</?[a-zA-Z][^>]*>")
    assert tags.findall(rendered) == tags.findall(expected)
    cells = [html.unescape(cell) for cell in re.findall(r"<td>(.*?)</td>", rendered)]
    for name in HOSTILE[:21]:
        assert name in cells, name
    assert "\u202e" not in body and "\u2066" not in body
    # nothing that a renderer would make a link of, and no token
    assert not re.search(r"https?://example|www\.example|@example|hf_abcdef", body)
    assert max(len(cell) for cell in cells) < 300


def test_a_report_that_comes_later_gives_the_card_that_had_it_from_the_start():
    report = "accuracy  0.5\n\n## Classes\n```\n<b>x</b>\u2028hf_abcdefghijklmnopqrstuvwxyz\x1b[0m\n"
    whole, before = facts(bias_report=report), facts(bias_report=None)
    card = render_dataset_card(whole)
    assert with_bias_report(render_dataset_card(before), report) == card
    assert with_bias_report(render_dataset_card(facts(bias_report="another\ntext")), report) == card
    assert with_bias_report(card, report) == card and "\n    ## Classes\n" in card
    # a card of another's own keeps all that it says
    own = "---\nlicense: mit\n---\n# Mine\n\n## Notes\n\nx\n"
    assert with_bias_report(own, "a\n") == own + "\n## Bias report\n\n    a\n"
    assert with_bias_report(own + "## Bias report\n\n    a\n\n## More\n", "b") == (
        own + "## Bias report\n\n    b\n\n## More\n"
    )


def test_licence_is_inherited_or_said_to_be_unknown():
    openrail = {"license": "creativeml-openrail-m"}
    card = render_dataset_card(facts(generator=Source("org/sd", "a" * 40, openrail)))
    assert DatasetCard(card).data.license == "creativeml-openrail-m" and "a" * 40 in card
    named = {"license": "other", "license_name": "x-licence", "license_link": "https://example.org/l"}
    data = DatasetCard(render_dataset_card(facts(generator=Source("org/sd", None, named)))).data
    assert (data.license, data.license_name) == ("other", "x-licence")
    for licence in ({}, {"license": "My <b>own</b>\nlicence: yes"}):
        card = render_dataset_card(facts(generator=Source("model", None, licence)))
        assert DatasetCard(card).data.license is None
        assert "<b>own" not in card
    assert "look it up" in render_dataset_card(facts(generator=Source("model")))


def test_every_column_is_explained():
    settings = GenerateSettings(
        class_names=["a"], annotations=list(ANNOTATIONS), definitions=False, template="{name}++"
    )
    columns = dataset_features(settings, settings.samples(), ["a"], has_safety_checker=True)
    columns |= {**score_features(SCORES, ["a"]), GROUP_COLUMN: Value("int64")}
    assert {"mask", "objects", "num_prompt_chunks"} <= set(columns) <= set(COLUMN_NOTES)
    card = render_dataset_card(facts(features=columns))
    for name in columns:
        assert f"| `{name}` | " in card
    assert "black and marked" in card and "images are marked" not in card
    assert "3 of 50 images are marked" in render_dataset_card(facts(features=columns, num_flagged=3))


def test_what_was_left_out_is_counted_in_a_table_whatever_classes_are_called():
    classes = [
        {"name": name, "num_rows": 3, "num_kept": 2, "left_out": {"safe_only": 1, "min_clip_score": 0}}
        for name in HOSTILE
    ]
    rules = [
        {"name": "safe_only", "value": True, "num_left_out": 25},
        {"name": "min_clip_score", "value": 0.2, "num_left_out": 0},
    ]
    report = {"num_rows": 75, "num_kept": 50, "rules": rules, "classes": classes}
    card = render_dataset_card(facts(filter_report=report))
    rendered = MarkdownIt("gfm-like", {"linkify": False, "html": True}).render(card.split("\n---\n", 1)[1])
    tables = [table for table in rendered.split("<table>") if "rows before" in table]
    assert len(tables) == 1 and tables[0].count("<tr>") == 1 + len(HOSTILE)
    assert tables[0].count('<td style="text-align:right">1</td>') == len(HOSTILE)
    assert "50 of the 75 rows" in card and "so that any prefix" not in card


def test_notes_of_scores_take_the_template_as_text():
    scores = {
        "clip": {"model": "open_clip:ViT-B-32/laion2b", "template": "<b>{name}</b> | *x*"},
        "duplicates": {"max_hash_distance": 6},
        "safety": {"model": "org/checker"},
    }
    notes = score_notes(scores, ["clip_score", "duplicate_group", "nsfw_content_detected"])
    assert set(notes) == {"clip_score", "duplicate_group", "nsfw_content_detected"}
    assert "<b>" not in notes["clip_score"] and "|" not in notes["clip_score"]
    assert "`open_clip:ViT-B-32/laion2b`" in notes["clip_score"] and "at most 6 of" in notes["duplicate_group"]
    card = render_dataset_card(facts(features=Features({"clip_score": Value("float32")}), column_notes=notes))
    assert notes["clip_score"] in card


@pytest.mark.parametrize(("num_classes", "per_shard", "num_rows"), [(3, 4, 21), (5, 2, 10), (1, 3, 7)])
def test_class_counts(num_classes, per_shard, num_rows):
    shards = [
        Shard(i, start, min(start + per_shard, num_rows)) for i, start in enumerate(range(0, num_rows, per_shard))
    ]
    turns = [*range(num_classes), 0]
    for present in (shards, shards[::2], []):
        labels = [turns[i % len(turns)] for shard in present for i in range(shard.start, shard.stop)]
        assert class_counts(present, num_classes, turns) == [labels.count(label) for label in range(num_classes)]


def test_two_folders_of_one_name_stay_apart(tmp_path):
    """The card's dataset_info does not make datasets take one for the other."""
    from support.hub_stream import CLASS_NAMES, shards_of, write
    from ubgen_pipeline.dataset.card import DatasetCardMaker
    from ubgen_pipeline.models.sources import GeneratorSource

    for number in (1, 2):
        shards = shards_of(tmp_path / str(number) / "d", number)
        shards.open()
        for shard in shards.shards:
            write(shards, shard.number)
        card = DatasetCardMaker(shards, CLASS_NAMES, GeneratorSource("mini"), [0, 1])
        shards.finish(card(shards.shards, shards.num_bytes()))
        cache = str(tmp_path / "cache")
        loaded = load_dataset(str(tmp_path / str(number) / "d"), split="train", cache_dir=cache)
        assert loaded.num_rows == 4 * number
