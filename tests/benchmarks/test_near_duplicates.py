"""The benchmark of near-duplicates: copies are found, moved images mostly not."""

import re

from benchmarks.near_duplicates import main


def test_shares_and_groups_are_printed(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["near_duplicates", "--num-scenes", "40", "--num-hashes", "500"])
    main()
    said = capsys.readouterr().out
    shares = {
        name.strip(): float(share) for name, share in re.findall(r"^(.{20}) (\d\.\d{3})  median", said, re.MULTILINE)
    }
    assert len(shares) == 5 and shares["twice the size"] == 1.0
    assert shares["moved by one pixel"] < 0.8 < shares["JPEG at quality 50"]
    assert "of 780\n" in said and "500 hashes grouped in" in said
