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
        ("a.pbtxt", "item {\n  id: 1\n  name: 'men\\'s hat'\n}\n", ["men's hat"]),
        ("labelmap.txt", "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncat:128,0,0::\n", ["cat"]),
        ("labels.txt", "__ignore__\n_background_\ncat\ndog\n", ["cat", "dog"]),
        # COCO's readers sort by id, whatever stands first
        ("a.json", '{"categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}]}', ["cat", "dog"]),
        # Roboflow's category 0 is the name of the group that all others are in
        (
            "a.json",
            '{"categories": [{"id": 0, "name": "pets", "supercategory": "none"},'
            ' {"id": 1, "name": "cat", "supercategory": "pets"}, {"id": 2, "name": "dog", "supercategory": "pets"}]}',
            ["cat", "dog"],
        ),
        ("a.json", '{"categories": [{"id": 0, "name": "cat", "supercategory": "none"}]}', ["cat"]),
        ("a.yaml", "names: [cat, dog]\nclasses: [cat, dog]\nlabels: [0, 1, 1]\n", ["cat", "dog"]),
        # numbers beside names, in whatever form, decide on the labels
        ("a.csv", "label,name\n1,dog\n0,cat\n", ["cat", "dog"]),
        ("a.csv", "class_id;class_name\n2;fox\n0;cat\n1;dog\n", ["cat", "dog", "fox"]),
        ("a.csv", "ClassId,Name\n1,dog\n0,cat\n", ["cat", "dog"]),
        ("a.csv", "class,label\n1,dog\n0,cat\n", ["cat", "dog"]),
        ("a.csv", "index,mid,display_name\n2,/m/1,dog\n1,/m/2,cat\n", ["cat", "dog"]),
        ("a.csv", "dog,1\ncat,0\n", ["cat", "dog"]),
        ("a.csv", "name\n007\n1e3\n", ["007", "1e3"]),
        ("a.csv", "sep=;\nname;definition\ncat;an animal\n", ["cat"]),
        ("a.csv", "category\ncat\ndog\n", ["cat", "dog"]),
        ("a.csv", "name|definition\ncat|an animal\n", ["cat"]),
        ("a.json", '[{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}]', ["cat", "dog"]),
        ("a.jsonl", '{"name": "dog", "label": 1}\n{"name": "cat", "label": 0}\n', ["cat", "dog"]),
        ("a.json", '{"name": "dog"}\n{"name": "cat"}\n', ["dog", "cat"]),
        ("config.json", '{"hidden_size": 3, "label2id": {"dog": 1, "cat": 0}}', ["cat", "dog"]),
        ("a.txt", "dog 1\ncat 0\n", ["cat", "dog"]),
        ("a.txt", "dog,2\ncat,1\n", ["cat", "dog"]),
        ("a.txt", "1=dog\n0=cat\n", ["cat", "dog"]),
        ("a.txt", "2. dog\n1. cat\n", ["cat", "dog"]),
        ("classes.txt", "1 001.Albatross\n2 002.Auklet\n", ["001.Albatross", "002.Auklet"]),
        ("a.txt", "id,name\n1,dog\n0,cat\n", ["cat", "dog"]),
        # numbers that are parts of names
        ("a.txt", "digit 0\ndigit 1\n", ["digit 0", "digit 1"]),
        ("a.txt", "route 66\nroute 1\n", ["route 66", "route 1"]),
        ("a.txt", "0.9\n1.0\n", ["0.9", "1.0"]),
        ("a.txt", "12:30\n0:15\n", ["12:30", "0:15"]),
        # lists that are written in lines
        ("a.txt", "- cat\n- dog\n", ["cat", "dog"]),
        ("a.txt", "names:\n- cat\n- dog\n", ["cat", "dog"]),
        ("a.txt", "'cat',\n'dog'\n", ["cat", "dog"]),
        ("a.txt", "name\ncat\ndog\n", ["cat", "dog"]),
        ("a.txt", "('cat', 'dog')\n", ["cat", "dog"]),
        ("a.py", "CLASSES = [u'cat', u'dog']\n", ["cat", "dog"]),
        (
            "a.pbtxt",
            "item { id: 1 name: \"cats'\" kp { id: 7 } } item: { id: 2 name: 'dog' }",
            ["cats'", "dog"],
        ),
        ("data.yaml", "base: &b {0: cat, 1: dog}\nnames:\n  <<: *b\n  2: fox\n", ["cat", "dog", "fox"]),
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


def test_a_name_is_no_synonym_of_itself():
    # LVIS lists it, and a {synonym} would draw it twice as often
    (item,) = load_class_names([{"name": "lamp", "synonyms": ["lamp", "light", "light"]}])
    assert item.synonyms == ("light",)


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


def test_folders_of_a_dataset_are_no_classes(tmp_path):
    for name in ("yolo/images", "yolo/labels", "voc/JPEGImages", "voc/Annotations", "hub/data", "people/mask"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("yolo/data.yaml", "hub/README.md"):
        (tmp_path / name).touch()
    for name, message in (
        ("yolo", r"of a dataset \(images, labels\) and no classes; give '.*data\.yaml'\."),
        ("voc", r"of a dataset \(Annotations, JPEGImages\) and no classes; give its file of classes, or the folder"),
        ("hub", "a dataset of shards and no class list"),
    ):
        with pytest.raises(ValueError, match=message):
            load_class_names(tmp_path / name)
    assert [item.name for item in load_class_names(tmp_path / "people")] == ["mask"]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig", "utf-32"])
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
        # a key that stands twice: all but the last would be dropped
        ("a.json", '{"0": "cat", "1": "dog", "1": "fox"}', "the key '1' stands twice"),
        ("data.yaml", "names:\n  0: cat\n  1: dog\n  1: fox\n", "the key '1' stands twice"),
        ("a.csv", "name,name\ncat,dog\n", "has 'name' twice in its header"),
        # two things said of the classes
        ("data.yaml", "nc: 3\nnames: [cat, dog]\n", "'nc' is 3, but 'names' has 2 classes"),
        (
            "config.json",
            '{"id2label": {"0": "cat", "1": "dog"}, "label2id": {"cat": 1, "dog": 0}}',
            "'label2id' gives 'cat' the label 1, and 'id2label' another",
        ),
        # numbers that are no labels
        ("a.json", '{"background": -1, "cat": 0}', "'background' is '-1'; labels are whole numbers"),
        ("a.json", '{"dog": 1.0, "cat": 0.0}', "'dog' is '1.0'; labels are whole numbers"),
        ("a.json", '{"dog": 1, "cat": null}', "'dog' is '1'; labels are whole numbers from 0 and every class"),
        ("a.yaml", "{-1: none, 0: cat}\n", "it has the key '-1'"),
        ("a.csv", "label,name\n4,dog\n0,cat\n", "its numbers under 'label' are the numbers 0, 4"),
        ("a.txt", "0: dog\n2: cat\n", "its lines are the numbers 0, 2"),
        # files that are no class list
        ("a.yaml", "names: cat, dog\n", "'names' is 'cat, dog'; give a list"),
        ("a.yaml", "dataset_info:\n  features: {label: 1}\n", "'dataset_info' is .*, which is no class"),
        ("a.txt", "cat, dog, fox\n", "it is one line, 'cat, dog, fox', parted by ','; give each class a line"),
        ("a.txt", "cat;dog\n", "parted by ';'"),
        ("a.txt", "# my classes\ncat\n", "'# my classes' looks like a comment"),
        ("a.txt", "<annotation>\n</annotation>\n", "it holds XML or HTML"),
        ("coco.data", "classes = 80\nnames = coco.names\n", "a file whose name ends with .data is no class list"),
        ("a.txt", "version https://git-lfs.github.com/spec/v1\n", "what Git LFS keeps in place of the file"),
        ("a.txt", '{\n "cat": 0,\n "dog" 1\n}\n', "begins as a list or a mapping, which could not be read"),
        ("a.jsonl", '{"name": "cat"}\ndog\n', "begins as a list or a mapping|no JSON"),
        ("train.csv", "image,label\n0.jpg,cat\n1.jpg,dog\n", "it lists images, not classes"),
        # numbers that are no labels would leave the file's order
        ("a.csv", "name,label\ncat,1.0\ndog,0.0\n", "under 'label' have '1.0', of 'cat'"),
        ("a.csv", "name,label\ncat,1\ndog,\n", "under 'label' have '', of 'dog'"),
        ("a.json", '[{"name": "cat", "id": 2}, {"name": "dog", "id": -1}]', "under 'id' have '-1', of 'dog'"),
        ("data.yaml", "nc: 2.0\nnames: [cat, dog, fox]\n", "'nc' is 2.0, but 'names' has 3 classes"),
        ("a.yaml", "names: [cat, dog]\nclasses: [dog, cat]\n", "'names' lists other classes than 'classes'"),
        ("a.jsonl", '{"name": "cat", "name": "dog"}\n{"name": "fox"}\n', "the key 'name' stands twice"),
        ("a.json", '{"name": "pets", "description": "cats and dogs"}', "it has the key 'name'"),
        ("a.json", "[" * 100_000, "too deep to be read"),
        ("a.yaml", "[" * 5000 + "]" * 5000, "too deep to be read"),
        ("a.yaml", "&all\nnames: *all\n", "a list or a mapping holds itself"),
        ("a.md", "| name | definition |\n|---|---|\n| cat | a |\n", "of a table or a title in Markdown"),
        ("a.txt", "Pets\n====\ncat\n", "of a table or a title in Markdown"),
        ("a.txt", "{\\rtf1\\ansi cat\\par dog}", "it holds RTF"),
        ("a.txt", "item {\n  name: 'cat\n}\n", "a label map that could not be read"),
        ("a.pbtxt", "item { id: 1 }", "an item that has no id or no name"),
        ("map_clsloc.txt", "n02110185 1 a\nn01440764 3 b\n", "its lines are the numbers 1, 3; labels count from 1"),
    ],
)
def test_what_would_be_read_wrongly_is_refused(tmp_path, file_name, text, message):
    with pytest.raises(ValueError, match=message):
        names(tmp_path, file_name, text)


def test_words_that_stand_for_ids_and_ids_that_stand_for_words(tmp_path):
    tench = ClassName("tench", "n01440764", None, ("Tinca tinca",))
    for file_name, text in (
        ("wnids.txt", "n01440764\n"),
        ("a.json", '{"n01440764": 0}'),
        ("b.json", '{"0": "n01440764"}'),
        ("c.json", '{"n01440764": ["tench", "Tinca tinca"]}'),
        ("d.json", '{"n01440764": "tench, Tinca tinca"}'),
        ("a.csv", 'n01440764,"tench, Tinca tinca"\n'),
        ("a.txt", "n01440764: tench, Tinca tinca\n"),
    ):
        (tmp_path / file_name).write_text(text)
        assert load_class_names(tmp_path / file_name) == [tench], file_name
    # ImageNet's folders
    (tmp_path / "photos" / "n01440764").mkdir(parents=True)
    assert load_class_names(tmp_path / "photos") == [tench]
    with pytest.raises(ValueError, match="'n00000000' is named by a WordNet id that timm's table does not hold"):
        load_class_names(["n00000000"])


def test_bytes_that_are_no_text(tmp_path):
    (tmp_path / "a.txt").write_bytes("cat\ndog\n".encode("utf-16-le"))
    with pytest.raises(ValueError, match="which is no text in UTF-8; save it as UTF-8"):
        load_class_names(tmp_path / "a.txt")
    (tmp_path / "a.txt").write_bytes("café".encode("latin-1"))
    with pytest.raises(ValueError, match=r"could not be read as text in UTF-8: .*; save it as UTF-8"):
        load_class_names(tmp_path / "a.txt")
    (tmp_path / "a.json").write_text(json.dumps([["a", "b"]]))
    with pytest.raises(ValueError, match="a class is read as"):
        load_class_names(tmp_path / "a.json")


LONG = "9" * 5000


@pytest.mark.parametrize(
    ("file_name", "text"),
    [
        ("a.json", f'{{"names": {{"0": "star", "{LONG}": "ring"}}}}'),
        ("a.json", f'{{"star": 0, "ring": {LONG}}}'),
        ("a.json", f'[{{"id": 1, "name": "star"}}, {{"id": {LONG}, "name": "ring"}}]'),
        ("a.yaml", f"names:\n  0: star\n  {LONG}: ring\n"),
        ("a.yaml", f"nc: {LONG}\nnames: [star, ring]\n"),
        ("a.csv", f"label,name\n0,star\n{LONG},ring\n"),
        ("a.txt", f"0: star\n{LONG}: ring\n"),
        ("a.txt", f"star: 0\nring: {LONG}\n"),
        ("a.pbtxt", f"item {{ id: 1 name: 'star' }} item {{ id: {LONG} name: 'ring' }}"),
    ],
)
def test_a_number_longer_than_python_reads_is_refused_as_a_label(tmp_path, file_name, text):
    with pytest.raises(ValueError, match="classes is ") as refused:
        names(tmp_path, file_name, text)
    message = str(refused.value)
    assert "Exceeds the limit" not in message and "999" in message and len(message) < 1000
