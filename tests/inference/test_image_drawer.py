"""Prompts in, images out: 8 bits rounded, batches filled up, threads that do not meet."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from ubgen_pipeline.inference.image_drawer import ImageDrawer
from ubgen_pipeline.models.loading import load_pipeline

NAMES = ["circle", "star", "heart"]
CALL = {"seeds": [1, 2, 3], "num_inference_steps": 2}


@pytest.fixture
def pipeline(random_mini_model):
    pipeline = load_pipeline(random_mini_model, scheduler="pndm")
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_images_are_the_pipelines_in_8_bits(pipeline):
    expected = pipeline(NAMES, output_type="np", **CALL).images
    drawn = ImageDrawer(pipeline)(NAMES, NAMES, **CALL)
    assert drawn.images().dtype == np.uint8 and drawn.images().shape == (3, 64, 64, 3)
    # text is encoded prompt by prompt here, which rounds differently
    assert np.abs(drawn.images() - (expected * 255).round()).max() <= 1
    # the tensor is let go, so that it does not wait in memory for the writer
    assert drawn.output.images is None


def test_what_fills_a_batch_up_is_not_given_back(pipeline):
    drawer = ImageDrawer(pipeline)
    whole = drawer(NAMES, NAMES, **CALL).images()
    filled = drawer(["circle", "star", "star"], ["circle", "star", "star"], num_samples=2, seeds=[1, 2, 2],
                    num_inference_steps=2).images()  # fmt: skip
    assert len(filled) == 2 and np.array_equal(filled, whole[:2])


def test_threads_have_schedulers_of_their_own(pipeline):
    drawer = ImageDrawer(pipeline)
    alone = drawer(NAMES, NAMES, **CALL).images()
    # a scheduler that two threads shared would lose its place in the walk
    with ThreadPoolExecutor(3) as threads:
        together = list(threads.map(lambda _: drawer(NAMES, NAMES, **CALL).images(), range(6)))
    assert all(np.array_equal(images, alone) for images in together)


def test_threads_share_no_tokenizer(pipeline):
    """One that two threads call at the same time may pad as the other was told."""
    drawer = ImageDrawer(pipeline)

    def drawn_with():
        drawer(NAMES, NAMES, **CALL)
        return drawer._own.pipeline

    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as other:
        pipelines = [pipeline, one.submit(drawn_with).result(), other.submit(drawn_with).result()]
    assert len({id(each.tokenizer) for each in pipelines}) == 3
    assert len({id(each.scheduler) for each in pipelines[1:]}) == 2
    assert all(each.unet is pipeline.unet for each in pipelines)
    assert len({str(each.tokenizer("circle").input_ids) for each in pipelines}) == 1
