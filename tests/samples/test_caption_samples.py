"""Files of captions with class words: the forms they come in, whose names they use, and what is refused."""

import json

import pytest

from ubgen_pipeline.samples.caption_samples import load_caption_samples

VOC = [
    {"filename": "0.jpg", "caption": "a child at a desk; person dining table", "class_prompt": "person dining table"},
    {"filename": "1.jpg", "caption": "two people; person person sofa", "class_prompt": "person person sofa"},
    {"filename": "2.jpg", "caption": "a screen; tv monitor potted plant", "class_prompt": "tv monitor potted plant"},
]


def write(folder, rows, suffix):
    file = folder / f"prompts{suffix}"
    if suffix == ".json":
        file.write_text(json.dumps(rows))
    elif suffix == ".jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        mark = "\t" if suffix == ".tsv" else ","
        lines = [mark.join(rows[0])] + [mark.join(f'"{value}"' for value in row.values()) for row in rows]
        file.write_text("\n".join(lines) + "\n")
    return file


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".csv", ".tsv"])
def test_voc_names_in_every_form(tmp_path, suffix):
    found = load_caption_samples(write(tmp_path, VOC, suffix))
    names = [item.name for item in found.classes]
    assert len(names) == 20 and names[0] == "aeroplane" and names[19] == "tvmonitor"
    assert [prompt.words for prompt in found.rows] == [
        ("person", "dining table"), ("person", "person", "sofa"), ("tv monitor", "potted plant")
    ]  # fmt: skip
    assert [[names[label] for label in prompt.labels] for prompt in found.rows] == [
        ["person", "diningtable"], ["person", "person", "sofa"], ["tvmonitor", "pottedplant"]
    ]  # fmt: skip
    first = found.rows[0]
    assert (first.name, first.prompt, first.key, first.filename) == ("person", VOC[0]["caption"], "0.jpg", "0.jpg")
    assert found.samples_per_class == 1 and not found.notes


def test_coco_given_and_unknown_names(tmp_path):
    coco = [{"caption": "fruit; hot dog banana", "class_prompt": "hot dog banana"}]
    found = load_caption_samples(write(tmp_path, coco, ".json"))
    assert len(found.classes) == 80 and found.rows[0].words == ("hot dog", "banana")
    assert found.rows[0].key == "row 1" and found.rows[0].filename is None

    mini = [{"caption": "shapes", "class_prompt": "red star circle"}]
    found = load_caption_samples(write(tmp_path, mini, ".json"), ["circle", "red star"])
    assert found.rows[0].words == ("red star", "circle") and found.rows[0].labels == (1, 0)
    found = load_caption_samples(write(tmp_path, mini, ".json"))
    assert [item.name for item in found.classes] == ["red", "star", "circle"]
    mini[0]["class_prompt"] = "red star, circle"
    found = load_caption_samples(write(tmp_path, mini, ".json"))
    assert [item.name for item in found.classes] == ["red star", "circle"]


def test_a_word_that_is_no_class_is_told(tmp_path):
    rows = [{"caption": "a cat", "class_prompt": "cat"}] * 19
    rows += [{"caption": "a cat", "class_prompt": "cat whiskers"}]
    found = load_caption_samples(write(tmp_path, rows, ".json"))
    assert len(found.classes) == 20 and found.rows[-1].words == ("cat",)
    assert found.notes == ("1 rows name something that is no class, such as 'whiskers'; it gets no mask.",)


def test_other_files_are_left_to_the_class_lists(tmp_path):
    assert load_caption_samples("voc") is None
    assert load_caption_samples(write(tmp_path, [{"name": "cat"}], ".json")) is None
    assert load_caption_samples(tmp_path / "missing.json") is None
    (tmp_path / "broken.json").write_text("[")
    assert load_caption_samples(tmp_path / "broken.json") is None


@pytest.mark.parametrize(
    ("rows", "names", "message"),
    [
        ([*VOC, {"caption": "x"}], None, "row 4 has class_prompt None"),
        ([*VOC, {"caption": " ", "class_prompt": "cat"}], None, "row 4 has caption ' '"),
        (VOC, ["person", "sofa"], "row 1 has class_prompt 'person dining table', whose 'dining'"),
        ([{"caption": "x", "class_prompt": ";"}], None, "row 1 has class_prompt ';'"),
    ],
)
def test_bad_rows(tmp_path, rows, names, message):
    with pytest.raises(ValueError, match=message):
        load_caption_samples(write(tmp_path, rows, ".json"), names)


@pytest.mark.parametrize(
    "text",
    [
        "caption;class_prompt;filename\na dog, asleep;dog;1.jpg\n",
        "caption\tclass_prompt\tfilename\na dog, asleep\tdog\t1.jpg\n",
        'Caption, Class Prompt, Filename\n"a dog, asleep", dog, 1.jpg\n,,\n\n',
        '\ufeffcaption,class_prompt,filename\r\n"a dog,\r\nasleep",dog,1.jpg\r\n',
    ],
)
def test_tables_are_read_whatever_parts_their_cells_and_however_their_header_is_spelt(tmp_path, text):
    (tmp_path / "c.csv").write_bytes(text.encode())
    (row,) = load_caption_samples(tmp_path / "c.csv").rows
    assert (row.prompt, row.words, row.filename) == ("a dog, asleep", ("dog",), "1.jpg")


def test_a_comma_that_is_not_quoted_is_refused_instead_of_cutting_the_caption(tmp_path):
    (tmp_path / "c.csv").write_text("caption,class_prompt\na cat,cat\na dog, asleep,dog\n")
    with pytest.raises(ValueError, match="row 2 has 3 cells for 2 columns; quote cells with ','"):
        load_caption_samples(tmp_path / "c.csv")


def test_a_torn_line_of_json_is_named(tmp_path):
    (tmp_path / "c.jsonl").write_text('{"caption": "a dog", "class_prompt": "dog"}\n\n{"caption": "a')
    with pytest.raises(ValueError, match=r"c\.jsonl', which could not be read: line 3 is no JSON"):
        load_caption_samples(tmp_path / "c.jsonl")


def test_captions_without_their_class_are_counted_and_the_first_is_named(tmp_path):
    rows = [("two dogs at play", "dog"), ("a kitten", "cat"), ("a puppy", "dog"), ("a person and a pup", "person dog")]
    rows = [{"caption": caption, "class_prompt": words} for caption, words in rows]
    (note,) = load_caption_samples(write(tmp_path, rows, ".json")).notes
    assert note.startswith(
        "2 captions name none of the classes that stand beside them, such as 'a kitten' beside 'cat'"
    )
