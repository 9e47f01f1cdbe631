"""The part of a page that a command writes, between two marks; what is written by hand around it stays."""

from pathlib import Path

from ubgen_pipeline.files.whole_files import write_whole_text


def write_marked_part(file: Path, marks: tuple[str, str], content: str, *, heading: str) -> None:
    """Replace what lies between the marks.

    Args:
        file: the page; a new one gets ``heading`` and the marks.
        marks: lines before and after the part.
        content: of the part, in Markdown.
        heading: of a new page.

    Raises:
        ValueError: the page has no marks, or one of them.
    """
    begin, end = marks
    text = file.read_text(encoding="utf-8") if file.is_file() else f"# {heading}\n\n{begin}\n{end}\n"
    before, found_begin, rest = text.partition(begin)
    _, found_end, after = rest.partition(end)
    if not found_begin or not found_end:
        raise ValueError(
            f"page {file} lacks the line {end if found_begin else begin!r}; add both where figures belong."
        )
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole_text(file, f"{before}{begin}\n\n{content}\n\n{end}{after}")
