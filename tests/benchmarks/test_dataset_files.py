"""The benchmark of files: its table of codecs, of which two lose nothing."""

from benchmarks.dataset_files import main


def test_each_codec_has_a_row(monkeypatch, capsys):
    monkeypatch.setattr("benchmarks.dataset_files.copy_rate", lambda device: 1e9)
    assert main(["--size", "64", "--num-images", "4", "--repeats", "1"]) == 0
    rows = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines()[-3:]}
    assert rows.keys() == {"png", "webp-lossless", "jpeg"}
    errors = {codec: float(cells[-1]) for codec, cells in rows.items()}
    assert errors["png"] == errors["webp-lossless"] == 0.0 < errors["jpeg"]
    # bytes of an image stand behind encoding, and writing with its share
    assert int(rows["jpeg"][3]) < int(rows["png"][3])
