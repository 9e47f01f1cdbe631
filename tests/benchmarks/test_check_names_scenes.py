"""The check for names with several meanings finds what the page on it says."""

import re

from benchmarks.check_names_scenes import main
from support import ROOT


def test_the_page_says_what_is_printed(capsys):
    main()
    found = re.findall(r"bias (\S+), (\d+) scenes: (\d+) of 10 single, (\d+) of 5 mixed", capsys.readouterr().out)
    page = (ROOT / "results" / "check_names.md").read_text("utf-8")
    rows = re.findall(r"^\| (\d+) \| (\w+) \| (\d) \| (\d) \|$", page, re.MULTILINE)
    worlds = {"unbiased": "0.0", "biased": "0.95"}
    assert {(worlds[world], number, single, mixed) for number, world, mixed, single in rows} == {*found}
    assert len(rows) == 4
