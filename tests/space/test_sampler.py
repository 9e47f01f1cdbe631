"""Drawing in the Space: what a visitor gets is what the pipeline and the shown command give, and nobody else's."""

import os
import subprocess

import numpy as np
import pytest
from request_limits import DrawRequest, ModelDefaults
from sampler import Cancellation, Sampler, failure_text, regenerate_command
from space_settings import SpaceSettings

from support.tiny_models import flux
from support.warm_python import warm_programs
from ubgen_pipeline import load_pipeline
from ubgen_pipeline.family import Family
from ubgen_pipeline.mini import mini_lora_path
from ubgen_pipeline.prompts.class_prompts import ClassName

REQUEST = DrawRequest("star", ("base", "tuned"), 2, 3, 2, 2.0)


@pytest.fixture(scope="module")
def settings():
    return SpaceSettings()


@pytest.fixture(scope="module")
def sampler(settings):
    return Sampler(settings)


def pixels(samples):
    return [np.asarray(sample.image) for sample in samples]


def test_samples_are_those_of_the_pipeline_at_the_same_seeds(sampler):
    drawn = list(sampler.draw(REQUEST, Cancellation()))
    assert [(item.variant, item.number) for item in drawn] == [("base", 0), ("tuned", 0), ("base", 1), ("tuned", 1)]
    for variant, lora in (("base", None), ("tuned", mini_lora_path())):
        own = [item for item in drawn if item.variant == variant]
        pipeline = load_pipeline("mini", lora=lora)
        expected = pipeline(["star"], num_images_per_class=2, seed=3, num_inference_steps=2, batch_size=1)
        assert [item.seed for item in own] == expected.seeds
        assert all(np.array_equal(np.asarray(a.image), np.asarray(b)) for a, b in zip(own, expected.images))


def test_two_visitors_at_once_do_not_mix(sampler):
    other = DrawRequest("heart", ("tuned", "base"), 2, 5, 2, 3.0)
    alone = [list(sampler.draw(request, Cancellation())) for request in (REQUEST, other)]
    streams = [sampler.draw(request, Cancellation()) for request in (REQUEST, other)]
    turns = [[], []]
    for _ in range(4):
        for turn, stream in zip(turns, streams):
            turn.append(next(stream))
    for expected, got in zip(alone, turns):
        assert all(np.array_equal(a, b) for a, b in zip(pixels(expected), pixels(got)))


def test_two_loras_each_draw_their_own(sampler, tmp_path):
    """At half its strength the shipped LoRA is another one."""
    source = mini_lora_path()
    two = Sampler(SpaceSettings(lora=(source, f"{source}:0.5")))
    request = DrawRequest("star", ("base", "tuned", "second"), 1, 3, 2, 2.0)
    drawn = list(two.draw(request, Cancellation()))
    expected = list(sampler.draw(DrawRequest("star", ("base", "tuned"), 1, 3, 2, 2.0), Cancellation()))
    for item, own in zip(drawn, expected):
        assert np.abs(np.asarray(item.image, dtype=int) - np.asarray(own.image, dtype=int)).max() <= 1
    half = load_pipeline("mini", lora=f"{source}:0.5")(["star"], seeds=[drawn[0].seed], num_inference_steps=2)
    assert np.abs(np.asarray(drawn[2].image, dtype=int) - np.asarray(half.images[0], dtype=int)).max() <= 1
    assert not np.array_equal(np.asarray(drawn[2].image), np.asarray(drawn[1].image))
    assert f"--lora {source}:0.5" in regenerate_command(drawn[2], two.settings)


def test_names_that_the_model_cannot_read_are_not_offered(sampler):
    names = {name: ClassName(name) for name in ("star", "star " * 40, "ring")}
    assert list(sampler.drawable(names)) == ["star", "ring"]
    with pytest.raises(ValueError, match="all 1 names are longer"):
        sampler.drawable({"x": ClassName("star " * 40)})


def test_cancelling_ends_it_within_a_step_and_for_this_visitor_only(sampler):
    cancellation, calls = Cancellation(), []
    stream = sampler.draw(DrawRequest("star", ("base",), 3, 0, 50, 2.0), cancellation)
    predict = sampler.pipeline.predict

    def counted(*arguments, **options):
        calls.append(None)
        if len(calls) == 3:
            cancellation.is_asked = True
        return predict(*arguments, **options)

    sampler.pipeline.predict = counted
    try:
        assert list(stream) == [] and len(calls) == 3
    finally:
        del sampler.pipeline.predict
    assert len(list(sampler.draw(REQUEST, Cancellation()))) == 4


def test_a_failure_is_told_without_its_details(sampler, capsys):
    with pytest.raises(ValueError, match="tokens") as caught:
        list(sampler.draw(DrawRequest("star " * 40, ("base",), 1, 0, 1, 2.0), Cancellation()))
    assert "Shorten the name" in failure_text(caught.value) and not capsys.readouterr().err
    assert "/secret" not in failure_text(RuntimeError("/secret")) and "/secret" in capsys.readouterr().err


def test_the_shown_command_draws_the_same_image(sampler, settings, tmp_path):
    from datasets import load_dataset

    sample = list(sampler.draw(DrawRequest("a 'quoted' $star", ("tuned",), 2, 3, 2, 2.5), Cancellation()))[1]
    command = regenerate_command(sample, settings).replace("OUT", str(tmp_path / "out"))
    path = os.pathsep.join([str(warm_programs()), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path}
    subprocess.run(["bash", "-c", command + " --threads 1"], env=environment, check=True, capture_output=True)
    row = load_dataset(str(tmp_path / "out"), split="train")[1]
    assert row["seed"] == sample.seed and row["prompt"] == "a 'quoted' $star"
    difference = np.abs(np.asarray(row["image"], dtype=int) - np.asarray(sample.image, dtype=int))
    # threads round differently
    assert difference.max() <= 2


def test_masks_and_boxes_are_drawn_along(sampler):
    (sample,) = sampler.draw(DrawRequest("star", ("base",), 1, 0, 4, 2.0, annotate=True), Cancellation())
    assert sample.mask.shape == (64, 64) and sample.boxes.shape[1] == 4


def test_the_page_offers_what_the_models_family_can(sampler, tmp_path, monkeypatch):
    assert sampler.defaults == ModelDefaults(20, 2.0, makes_annotations=True)
    # distilled: guidance has no effect, and the call would refuse it
    flux.build(guidance_embeds=False).save_pretrained(tmp_path)
    distilled = Sampler(SpaceSettings(model=str(tmp_path), classes="voc"))
    assert distilled.defaults == ModelDefaults(4, None, makes_annotations=True)
    distilled.pipeline.default_sample_size = 8
    request = DrawRequest("cat", ("base",), 1, 0, 4, None, annotate=True)
    (sample,) = distilled.draw(request, Cancellation())
    expected = distilled.pipeline(["cat"], seeds=[sample.seed], num_inference_steps=4).images[0]
    assert np.array_equal(np.asarray(sample.image), np.asarray(expected)) and sample.mask is not None
    assert "guidance" not in regenerate_command(sample, distilled.settings)
    # a family whose attention gives no masks, and an operator who allows few steps
    monkeypatch.setattr(type(distilled.pipeline), "mask_attention", Family.mask_attention)
    distilled.settings = SpaceSettings(model=str(tmp_path), classes="voc", max_steps=2)
    assert distilled.defaults == ModelDefaults(2, None, makes_annotations=False)
