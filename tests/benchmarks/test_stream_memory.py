"""The benchmark of streaming: it fills a repository of the loopback Hub and reports the process's peak."""

import pytest

from benchmarks.stream_memory import peak_mib


@pytest.mark.slow
def test_rows_are_streamed_and_the_peak_is_that_of_the_process(tmp_path):
    mib, seconds = peak_mib(20, tmp_path)
    assert 200 < mib < 8000 and seconds > 0
