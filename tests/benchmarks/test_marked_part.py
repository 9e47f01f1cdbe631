"""What a command writes into a page lies between its marks, and nothing else of the page changes."""

import pytest

from benchmarks.marked_part import write_marked_part

MARKS = ("<!-- figures: begin -->", "<!-- figures: end -->")


def test_what_is_written_by_hand_stays(tmp_path):
    file = tmp_path / "new" / "page.md"
    write_marked_part(file, MARKS, "first", heading="Speed")
    assert file.read_text() == f"# Speed\n\n{MARKS[0]}\n\nfirst\n\n{MARKS[1]}\n"
    file.write_text(f"before\n{file.read_text()}after\n")
    for _ in range(2):
        write_marked_part(file, MARKS, "second", heading="Speed")
        assert file.read_text() == f"before\n# Speed\n\n{MARKS[0]}\n\nsecond\n\n{MARKS[1]}\nafter\n"


@pytest.mark.parametrize(("there", "missing"), [("", MARKS[0]), (MARKS[0], MARKS[1]), (MARKS[1], MARKS[0])])
def test_a_page_without_marks_is_left_alone(tmp_path, there, missing):
    file = tmp_path / "page.md"
    file.write_text(there)
    with pytest.raises(ValueError, match=f"lacks the line '{missing}'; add both"):
        write_marked_part(file, MARKS, "figures", heading="Speed")
    assert file.read_text() == there
