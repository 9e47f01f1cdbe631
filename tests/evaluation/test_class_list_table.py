"""``ubgen check-names --classes``: the table of what was understood, and warnings."""

import pytest

from ubgen_evaluation.check_names import main


def test_the_table_shows_what_was_understood(tmp_path, capsys):
    (tmp_path / "synsets.txt").write_text("n01440764 tench, Tinca tinca\nn02110185 Siberian_husky\n")
    assert main(["--classes", str(tmp_path / "synsets.txt")]) == 0
    shown = capsys.readouterr()
    header, first, second = (line.split() for line in shown.out.splitlines())
    assert header == ["label", "id", "name", "synonyms", "definition", "look-alikes"]
    assert first == ["0", "n01440764", "tench", "Tinca", "tinca"] and second == ["1", "n02110185", "Siberian_husky"]
    assert "'Siberian_husky' (label 1) has underscores" in shown.err


def test_tokens_are_those_of_the_model(mini_model, capsys):
    assert main(["--class-names", "circle", "star", "--model", "mini"]) == 0
    assert "has the tokens of" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--classes", "voc", "--class-names", "star"], "give one of them"),
        (["--classes", "/nowhere/x.txt"], "which is no file"),
        (["--class-names", "star", "--model", "/nowhere/m"], "model is '/nowhere/m'"),
        ([], "ubgen check-names --classes FILE"),
    ],
)
def test_bad_arguments(capsys, arguments, message):
    assert main(arguments) == 2
    assert message in capsys.readouterr().err
