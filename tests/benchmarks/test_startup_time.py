"""The benchmark of start-up: every command is timed, in a process of its own."""

import re

from benchmarks import startup_time


def test_each_command_has_its_time(monkeypatch, capsys):
    monkeypatch.setattr(startup_time, "REPEATS", 1)
    monkeypatch.setattr(startup_time, "entry_points", lambda group: [])
    startup_time.main()
    said = capsys.readouterr().out
    assert re.findall(r"^(\S.*\S) +\d+\.\d\d s$", said, re.MULTILINE) == ["import ubgen_pipeline", "ubgen --help"]
