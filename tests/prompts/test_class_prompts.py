"""Class lists of every kind, and what is refused."""

import json

import pytest

from ubgen_pipeline.prompts.class_prompts import ClassName, class_prompts, label_names, load_class_names

TENCH = ClassName("tench", "n01440764")
STAR = ClassName("star", "x7", "a shape, with points")


@pytest.mark.parametrize(
    ("file_name", "text", "expected"),
    [
        ("a.txt", "\ufeffcircle\r\n\n  #1 star \n", [ClassName("circle"), ClassName("#1 star")]),
        ("a", "n01440764 tench\nn03773504\tmissile\n", [TENCH, ClassName("missile", "n03773504")]),
        ("a.csv", 'name,id,definition\nstar,x7,"a shape, with points"\ntench,n01440764,\n', [STAR, TENCH]),
        ("a.csv", "n01440764,tench\n", [TENCH]),
        ("a.tsv", "wnid\tname\nn01440764\ttench\n", [TENCH]),
        ("a.csv", "circle\nstar\n", [ClassName("circle"), ClassName("star")]),
        ("a.json", '["circle", {"name": "tench", "wnid": "n01440764"}]', [ClassName("circle"), TENCH]),
        ("a.json", '{"0": ["n01440764", "tench"]}', [TENCH]),
        ("a.json", '{"n01440764": "tench"}', [TENCH]),
        ("a.yaml", "circle: round\nstar:\n", [ClassName("circle", None, "round"), ClassName("star")]),
        ("a.yml", "classes:\n- name: star\n  id: x7\n  definition: a shape, with points\n", [STAR]),
        ("a.yaml", "names:\n  0: circle\n  1: star\n", [ClassName("circle", "0"), ClassName("star", "1")]),
    ],
)
def test_reads_every_kind_of_file(tmp_path, file_name, text, expected):
    (tmp_path / file_name).write_bytes(text.encode())
    assert load_class_names(tmp_path / file_name) == expected


@pytest.mark.parametrize(
    ("file_name", "text", "message"),
    [
        ("a.txt", "\n\n", "empty"),
        ("a.txt", "star\nstar\n", "'star' occurs twice without ids"),
        ("a.txt", "n01440764 tench\nn01440764 fish\n", "'n01440764' occurs twice"),
        ("a.txt", "a\x00b\n", "control character"),
        ("a.csv", "colour,size\nred,1\n", "column `name`"),
        ("a.json", "[", "could not be read"),
        ("a.yaml", "- [a, b]\n", "quotes"),
        ("a.txt", "Star\nstar\n", "'Star' and 'star' are one to a text encoder"),
        ("a.txt", "cafe\u0301\ncaf\u00e9\n", "are one to a text encoder"),
        ("a.txt", "ice cream\nice  cream\n", "are one to a text encoder"),
        ("a.txt", "circle\ncir\u200bcle\n", "holds '.u200b', which nobody sees"),
        ("a.txt", "\u202ecircle\n", "which nobody sees"),
        ("a.json", '{"star": "a \ufeffshape"}', "which nobody sees"),
        ("a.txt", "circle\ncir\u200dcle\n", "look alike"),
        ("a.txt", "circle\n\uff43ircle\n", "look alike"),
        ("a.yaml", "- id: x\n", "no name"),
        ("a.json", '[{"name": "x", "id": "y"}, "y"]', "id of their own"),
    ],
)
def test_refuses_bad_lists(tmp_path, file_name, text, message):
    (tmp_path / file_name).write_text(text)
    with pytest.raises(ValueError, match=message) as refused:
        load_class_names(tmp_path / file_name)
    assert str(refused.value).startswith(f"classes is {str(tmp_path / file_name)!r}")


def test_refuses_what_is_no_file():
    with pytest.raises(ValueError, match="imagenet1k"):
        load_class_names("imagenet2k")
    with pytest.raises(ValueError, match="empty"):
        load_class_names([])


@pytest.mark.parametrize(
    ("name", "count", "first"),
    [
        ("imagenet1k", 1000, "tench"),
        ("imagenet100", 100, "house finch"),
        ("voc", 20, "aeroplane"),
        ("coco", 80, "person"),
    ],
)
def test_built_in_lists(name, count, first):
    classes = load_class_names(name)
    assert (len(classes), classes[0].name) == (count, first)
    assert len(set(label_names(classes))) == count


def test_a_name_under_two_ids_gets_the_id_appended():
    names = label_names([ClassName("missile", "n1"), ClassName("missile", "n2"), ClassName("star")])
    assert names == ["missile (n1)", "missile (n2)", "star"]
    with pytest.raises(ValueError, match="rename"):
        label_names([ClassName("missile", "n1"), ClassName("missile", "n2"), ClassName("missile (n2)")])


def test_templates():
    prompts = class_prompts([TENCH, STAR], "a {name}")
    assert [(item.label, item.prompt, item.key) for item in prompts] == [
        (0, "a tench", "n01440764"),
        (1, "a star", "x7"),
    ]
    assert class_prompts([ClassName("{name}")])[0].prompt == "{name}"
    for template in ("a photo", "{name.__class__}", "{name} {other}", "{name"):
        with pytest.raises(ValueError, match="template"):
            class_prompts([TENCH], template)
    with pytest.raises(ValueError, match="definition"):
        class_prompts([TENCH], "{name} {definition}")


def test_json_dictionary_of_objects(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"x7": {"name": "star"}, "circle": {"definition": "round"}}))
    assert load_class_names(tmp_path / "a.json") == [ClassName("star", "x7"), ClassName("circle", None, "round")]
