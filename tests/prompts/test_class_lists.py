"""Class lists as other tools write them: numbers decide on labels, texts stay as they are written."""

import json

import pytest

from ubgen_pipeline.prompts.class_prompts import ClassName, load_class_names

TENCH = ClassName("tench", "n01440764", None, ("Tinca tinca",))
HUSKY = ClassName("Siberian husky", "n02110185")


def names(tmp_path, file_name, text):
    (tmp_path / file_name).write_text(text, encoding="utf-8")
    return [item.name for item in load_class_names(tmp_path / file_name)]


@pytest.mark.parametrize(
    ("file_name", "text", "expected"),
    [
        # Ultralytics, torchvision, transformers, COCO
        ("data.yaml", "nc: 3\ntrain: images\nnames:\n  2: star\n  0: cat\n  1: dog\n", ["cat", "dog", "star"]),
        ("a.json", '{"names": {"10": "k", "2": "c", "0": "a", "1": "b"}}', None),
        ("a.json", '{"star": 1, "ring": 0}', ["ring", "star"]),
        ("a.json", '{"class_to_idx": {"star": 1, "ring": 0}}', ["ring", "star"]),
        (
            "config.json",
            '{"hidden_size": 8, "id2label": {"1": "dog", "0": "cat"}, "label2id": {"cat": 0}}',
            ["cat", "dog"],
        ),
        ("a.json", '{"categories": [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}]}', ["cat", "dog"]),
        ("a.yaml", "labels: [cat, dog]\n", ["cat", "dog"]),
        ("a.json", '{"1": ["n2", "goldfish"], "0": ["n1", "tench"]}', ["tench", "goldfish"]),
        # lines and tables
        ("a.txt", '{"name": "star"}\n{"name": "ring"}\n', ["star", "ring"]),
        ("a.txt", "1: ring\n0: star\n", ["star", "ring"]),
        ("a.txt", "0 star\n1 ring\n", ["star", "ring"]),
        ("a.txt", "7 up\n3 musketeers\n", ["7 up", "3 musketeers"]),
        ("a.csv", "name;definition\nstar;a shape, with points\n", ["star"]),
        ("a.csv", "name\tdefinition\nstar\ta shape\n", ["star"]),
        ("a.csv", "1,ring\n0,star\n", ["star", "ring"]),
        ("a.jsonl", '"star"\n"ring"\n', ["star", "ring"]),
        ("a.txt", "{0: 'tench, Tinca tinca',\n 1: 'goldfish'}\n", ["tench", "goldfish"]),
        ("a.txt", "['star', 'ring']\n", ["star", "ring"]),
        # label maps of TensorFlow and CVAT, and labelme's words for no class
        ("a.pbtxt", "item {\n  id: 2\n  name: 'cat'\n}\nitem {\n  id: 1\n  name: 'dog'\n}\n", ["dog", "cat"]),
        ("labelmap.txt", "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncat:128,0,0::\n", ["cat"]),
        ("labels.txt", "__ignore__\n_background_\ncat\ndog\n", ["cat", "dog"]),
        # COCO's readers sort by id, whatever stands first
        ("a.json", '{"categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}]}', ["cat", "dog"]),
        # texts as they are written
        ("a.yaml", "[007, 1.10, 12:30:45, 1_000, 0x1F, no]\n", ["007", "1.10", "12:30:45", "1_000", "0x1F", "no"]),
        ("a.json", '["a", 1.10, 1e5]', ["a", "1.10", "1e5"]),
    ],
)
def test_the_form_is_understood(tmp_path, file_name, text, expected):
    if expected is None:
        with pytest.raises(ValueError, match=r"its keys are the numbers 0, 1, 2, 10; .* 3 is missing"):
            names(tmp_path, file_name, text)
    else:
        assert names(tmp_path, file_name, text) == expected


def test_imagenets_own_files(tmp_path):
    (tmp_path / "synsets.txt").write_text("n01440764 tench, Tinca tinca\nn02110185 Siberian husky\n")
    assert load_class_names(tmp_path / "synsets.txt") == [TENCH, HUSKY]
    (tmp_path / "map_clsloc.txt").write_text("n02110185 2 Siberian_husky\nn01440764 1 tench\n")
    assert load_class_names(tmp_path / "map_clsloc.txt") == [ClassName("tench", "n01440764"), HUSKY]


@pytest.mark.parametrize(
    ("file_name", "text"),
    [
        ("a.txt", "great white shark, white shark, man-eater\nstar\n"),
        ("a.txt", "0: great white shark, white shark, man-eater\n1: star\n"),
        ("config.json", '{"id2label": {"0": "great white shark, white shark, man-eater", "1": "star"}}'),
    ],
)
def test_what_follows_a_comma_is_a_synonym(tmp_path, file_name, text):
    (tmp_path / file_name).write_text(text)
    first, second = load_class_names(tmp_path / file_name)
    assert (first.name, first.synonyms) == ("great white shark", ("white shark", "man-eater"))
    assert (second.name, second.synonyms) == ("star", ())


def test_a_folder_stands_for_its_class_folders(tmp_path):
    for name in ("star", "ring", ".git"):
        (tmp_path / "photos" / name).mkdir(parents=True)
    (tmp_path / "photos" / "notes.txt").touch()
    assert [item.name for item in load_class_names(tmp_path / "photos")] == ["ring", "star"]
    (tmp_path / "photos" / "ring").rename(tmp_path / "photos" / "train")
    with pytest.raises(ValueError, match=r"whose folders are splits; give '.*train' for its classes"):
        load_class_names(tmp_path / "photos")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="a folder without class folders"):
        load_class_names(tmp_path / "empty")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
def test_what_editors_of_windows_write(tmp_path, encoding):
    (tmp_path / "a.txt").write_bytes("café\r\nstar\r\n".encode(encoding))
    assert [item.name for item in load_class_names(tmp_path / "a.txt")] == ["café", "star"]


@pytest.mark.parametrize(
    ("file_name", "text", "message"),
    [
        ("a.json", '{"star": 1, "ring": 2}', "its values are the numbers 1, 2; labels count from 0"),
        ("a.json", '{"star": 1, "ring": 1}', "its values are the numbers 1, 1; labels"),
        (
            "a.yaml",
            "things: [cat, dog]\n",
            "'things' is .*; give a list under one of classes, class_names, names, labels",
        ),
        ("a.txt", "n1 x\n" * 2, "occurs twice"),
        ("map_clsloc.txt", "n02110185 1 a\nn01440764 3 b\n", "its lines are the numbers 1, 3; labels count from 1"),
    ],
)
def test_what_would_be_read_wrongly_is_refused(tmp_path, file_name, text, message):
    with pytest.raises(ValueError, match=message):
        names(tmp_path, file_name, text)


def test_bytes_that_are_no_text(tmp_path):
    (tmp_path / "a.txt").write_bytes("café".encode("latin-1"))
    with pytest.raises(ValueError, match=r"could not be read as text in UTF-8: .*; save it as UTF-8"):
        load_class_names(tmp_path / "a.txt")
    (tmp_path / "a.json").write_text(json.dumps([["a", "b"]]))
    with pytest.raises(ValueError, match="a class is read as"):
        load_class_names(tmp_path / "a.json")
