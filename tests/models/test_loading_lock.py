"""Threads that load models at the same time."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import torch

from ubgen_pipeline.models.loading import load_pipeline
from ubgen_pipeline.models.loading_lock import one_at_a_time


def test_one_thread_at_a_time_and_the_same_one_again():
    at_work, most = [], []

    @one_at_a_time
    def load(depth):
        """Loads."""
        if depth:
            return load(depth - 1)
        at_work.append(threading.get_ident())
        most.append(len(at_work))
        time.sleep(0.01)
        at_work.pop()
        return depth

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(load, [0, 1, 2, 0, 1])) == [0] * 5
    assert max(most) == 1 and load.__doc__ == "Loads."


def test_threads_load_whole_models(random_mini_model):
    with ThreadPoolExecutor(3) as threads:
        pipelines = list(threads.map(load_pipeline, [random_mini_model] * 3))
    for pipeline in pipelines[1:]:
        for first, other in zip(pipelines[0].unet.parameters(), pipeline.unet.parameters(), strict=True):
            assert torch.equal(first, other)
