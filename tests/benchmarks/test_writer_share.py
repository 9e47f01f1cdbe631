"""The share of writing: both arms draw with the run's own attention."""

from types import SimpleNamespace

import pytest
from torch.nn.attention import SDPBackend

from benchmarks.writer_share import draw, main


def test_shards_that_are_not_written_are_drawn_with_the_runs_own_attention(orders):
    run = SimpleNamespace(
        shards=SimpleNamespace(shards=[SimpleNamespace(start=0, stop=3)]),
        rows=SimpleNamespace(rows=lambda indices, size: [], encode=None),
        batch_size=2,
        num_threads=1,
        attention="math",
    )
    draw(run, 0)
    assert orders == [SDPBackend.MATH]


def test_its_table_has_the_writers_share(monkeypatch, capsys):
    monkeypatch.setattr("benchmarks.writer_share.product_rate", lambda device, dtype: 1e12)
    monkeypatch.setattr("benchmarks.writer_share.copy_rate", lambda device: 1e9)
    flags = ["--num-images", "4", "--repeats", "1", "--num-inference-steps", "1", "--batch-size", "2"]
    assert main([*flags, "--codecs", "jpeg", "--device", "cpu"]) == 0
    head, row = (line.split() for line in capsys.readouterr().out.splitlines()[-2:])
    assert head == ["codec", "drawn", "and", "written", "writer", "lowest", "highest"]
    # one shard counts, so its share is the median, the lowest and the highest
    assert row[0] == "jpeg" and row[2] == "im/s" and len({*row[5:]}) == 1 and row[5].endswith("%")


@pytest.mark.parametrize(
    ("flags", "message"), [(["--repeats", "0"], "repeats is 0"), (["--clock", "sun"], "clock is 'sun'")]
)
def test_a_bad_setting_is_named(flags, message, capsys):
    assert main(flags) == 2 and message in capsys.readouterr().err
