"""Flags, YAML files, and how commands fail."""

from dataclasses import dataclass, field

import pytest

from ubgen_pipeline import generate_dataset
from ubgen_pipeline.commands.settings_parser import parse_settings, run_command


@dataclass(frozen=True)
class Example:
    num_steps: int = field(default=5, metadata={"help": "steps"})
    rate: float = field(default=1.0, metadata={"help": "rate"})
    names: list[str] | None = field(default=None, metadata={"help": "names"})
    quiet: bool = field(default=False, metadata={"help": "quiet"})
    output_dir: str = field(default="out", metadata={"help": "folder"})


def _yaml(tmp_path, text):
    (tmp_path / "c.yaml").write_text(text)
    return str(tmp_path / "c.yaml")


def test_flags_override_the_file(tmp_path):
    config = _yaml(tmp_path, "num-steps: 7\nrate: 1e-3\nnames: [a, b]\nquiet: true\n")
    assert parse_settings(Example, [f"--config={config}", "--num-steps", "9"]) == Example(9, 0.001, ["a", "b"], True)
    assert parse_settings(Example, []) == Example()


def test_texts_of_a_file_stay_as_they_are_written(tmp_path):
    """YAML 1.1 makes 7, 1.1, 1000, 45045 and False of these."""
    written = ["007", "1.10", "1_000", "12:30:45", "no"]
    config = _yaml(tmp_path, f"names: [{', '.join(written)}]\noutput_dir: 2024-01-02\nquiet: yes\nnum_steps: 7\n")
    found = parse_settings(Example, ["--config", config])
    assert found == Example(7, names=written, output_dir="2024-01-02", quiet=True)
    assert parse_settings(Example, ["--config", _yaml(tmp_path, "names:\n")]).names is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("num_step: 7", "nearest is 'num_steps'"),
        ("num_steps: 0.5", "num_steps .* 0.5"),
        ("- 1", "no settings"),
        ("a: [", "YAML"),
    ],
)
def test_bad_files(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        parse_settings(Example, ["--config", _yaml(tmp_path, text)])


def test_bad_flags(tmp_path):
    with pytest.raises(ValueError, match="nearest is '--num-steps'"):
        parse_settings(Example, ["--num-stps", "3"])
    with pytest.raises(ValueError, match="num-steps"):
        parse_settings(Example, ["--num-steps", "x"])
    with pytest.raises(ValueError, match="could not be read"):
        parse_settings(Example, ["--config", str(tmp_path / "missing.yaml")])
    # PyYAML would keep the second
    with pytest.raises(ValueError, match="the key 'num_steps' stands twice"):
        parse_settings(Example, ["--config", _yaml(tmp_path, "num_steps: 7\nnum_steps: 9\n")])
    # argparse would drop the first of them
    with pytest.raises(ValueError, match="--names is given 2 times; give all its values after one --names"):
        parse_settings(Example, ["--names", "a", "--rate", "1", "--names=b"])
    # what a shell makes of a variable that is not set
    with pytest.raises(ValueError, match="output_dir is ''; give a folder"):
        parse_settings(Example, ["--output-dir", ""])
    with pytest.raises(ValueError, match="output_dir is ''"):
        generate_dataset(["circle"], "")


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (ValueError("seed is 3"), 2, "ubgen: error: seed is 3"),
        (OSError(28, "No space left on device"), 2, "no space left"),
        (PermissionError(13, "Permission denied", "/x"), 2, "no permission"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_what_users_cause_is_one_line_and_a_code(capsys, error, code, text):
    def body(argv):
        raise error

    assert run_command(body, []) == code
    printed = capsys.readouterr().err
    assert text in printed and printed.count("\n") == 1


def test_defects_keep_their_traceback():
    with pytest.raises(RuntimeError):
        run_command(lambda argv: (_ for _ in ()).throw(RuntimeError("a defect")), [])
