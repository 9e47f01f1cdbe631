"""One way from a row's settings to its pixels and columns, for generation and for regeneration."""

import numpy as np
import pytest

from support.random_loras import save_random_lora
from ubgen_pipeline.generation.generate import generate_dataset
from ubgen_pipeline.generation.regenerate import regenerate
from ubgen_pipeline.generation.row_drawer import RowDrawer, RowSettings, drawn_prompt
from ubgen_pipeline.generation.row_lookup import find_row, stored_image
from ubgen_pipeline.mask_settings import SMALL
from ubgen_pipeline.models.loras import Lora
from ubgen_pipeline.models.sources import GeneratorSource
from ubgen_pipeline.prompts.class_prompts import ClassPrompt
from ubgen_pipeline.samples.caption_samples import CaptionPrompt


def settings_of(model, **changes):
    values = {"scheduler": "ddim", "num_inference_steps": 2, "guidance_scale": 2.0, "negative_prompt": None,
              "height": 32, "width": 64}  # fmt: skip
    return RowSettings(GeneratorSource(model), **{**values, **changes})


def loaded(settings):
    pipeline = settings.load("cpu", "float32")
    settings.prepare(pipeline, "float32")
    return pipeline


def test_settings_become_pixels_and_columns(random_mini_model):
    settings = settings_of(random_mini_model, negative_prompt="dull")
    drawer = RowDrawer(loaded(settings), settings, None)
    images = drawer.draw(["star", "ring"], ["a star", "a ring"], [5, 6]).images()
    assert images.shape == (2, 32, 64, 3)
    # a row of its own gives the same image up to rounding; another seed gives another
    alone = drawer.draw(["ring"], ["a ring"], [6]).images()[0]
    other = drawer.draw(["ring"], ["a ring"], [7]).images()[0]
    assert np.abs(alone.astype(int) - images[1]).max() <= 1 < np.abs(other.astype(int) - images[1]).max()
    columns = drawer.columns()
    assert columns["scheduler"] == "DDIMScheduler" and columns["negative_prompt"] == "dull"
    assert columns["model"] == random_mini_model.rpartition("/")[2] and "preset" not in columns
    assert "num_prompt_chunks" not in columns and RowDrawer(drawer.pipeline, settings, 3).columns() == {
        **columns, "num_prompt_chunks": 3
    }  # fmt: skip


def test_what_is_given_with_the_call_wins_over_the_settings(random_mini_model):
    settings = settings_of(random_mini_model, shortcuts={"guidance_until": 0.5}, preset="guidance-cutoff")
    assert settings.arguments() == {
        "num_inference_steps": 2, "guidance_scale": 2.0, "negative_prompt": None, "height": 32, "width": 64,
        "guidance_until": 0.5,
    }  # fmt: skip
    assert settings.columns("PNDMScheduler")["preset"] == "guidance-cutoff"
    drawer = RowDrawer(loaded(settings), settings, None)
    steps = []
    drawer.pipeline.unet.register_forward_hook(lambda *_: steps.append(1))
    drawer.draw(["star"], ["star"], [1], num_inference_steps=1)
    assert len(steps) == 1


def test_loras_are_fused_where_the_settings_name_them(random_mini_model, tmp_path):
    lora = str(save_random_lora(random_mini_model, tmp_path / "lora"))
    source = GeneratorSource(random_mini_model, loras=(Lora(lora, 1.0, "abc"),))
    with_lora = RowSettings(source, "ddim", 2, 2.0, None, None, None)
    pipeline = loaded(with_lora)
    assert not any("lora" in name for name, _ in pipeline.unet.named_parameters())
    plain = loaded(settings_of(random_mini_model))
    weights = [item.unet.mid_block.attentions[0].transformer_blocks[0].attn2.to_q.weight for item in (pipeline, plain)]
    assert (weights[0] - weights[1]).abs().max() > 1e-3
    columns = with_lora.columns("DDIMScheduler")
    assert (columns["lora"], columns["lora_revision"]) == ("lora", "abc")


def test_generation_and_regeneration_draw_by_the_same_call(random_mini_model, tmp_path, monkeypatch):
    draw, calls = RowDrawer.draw, []

    def recorded(self, class_names, texts, seeds, **more):
        calls.append((list(class_names), list(texts), list(seeds), self.settings, self.num_chunks))
        return draw(self, class_names, texts, seeds, **more)

    monkeypatch.setattr(RowDrawer, "draw", recorded)
    (tmp_path / "t.yaml").write_text(
        "{classes: [star, ring], templates: ['a {name}++ on sand'], negative_prompt: dull}"
    )
    generate_dataset(
        tmp_path / "t.yaml", tmp_path / "d", model=random_mini_model, num_inference_steps=2, batch_size=2, threads=1,
        scheduler="unipc", height=32, preset="guidance-cutoff",
    )  # fmt: skip
    (generated,) = calls
    row = find_row(str(tmp_path / "d"), 1)
    again = regenerate(row, model=random_mini_model)
    assert np.array_equal(np.asarray(again), np.asarray(stored_image(row)))
    # the row knows all that decided its pixels; the size it knows from its image, so that both sides are set
    assert calls[1][:3] == generated[:3] and calls[1][4] == generated[4]
    wanted = {**generated[3].arguments(), "width": 64}
    assert calls[1][3].arguments() == wanted and calls[1][3].source == generated[3].source


def test_the_text_that_the_model_reads(random_mini_model):
    pipeline = settings_of(random_mini_model).load("cpu", "float32")
    plain = ClassPrompt(0, "star", "a shape", "star")
    assert drawn_prompt(pipeline, plain, None) == "a shape"
    # masks need the class word in the text
    assert drawn_prompt(pipeline, plain, SMALL) == "a shape; star"
    long = "a " + "very " * 40 + "big ring; ring"
    caption = CaptionPrompt(0, "ring", long, "1", words=("ring",), labels=(0,))
    cut = drawn_prompt(pipeline, caption, None)
    assert len(cut) < len(long) and cut.endswith("; ring")
    # what is no caption stays long, and is refused elsewhere
    assert drawn_prompt(pipeline, ClassPrompt(0, "ring", long, "ring"), None) == long


def test_a_model_that_is_not_there_is_named():
    with pytest.raises(ValueError, match="model is '/nowhere'"):
        settings_of("/nowhere").load("cpu", "float32")
