"""What the call returns behaves as diffusers' outputs do: fields by name and by position, without those of None."""

from diffusers.utils.outputs import BaseOutput

from ubgen_pipeline.pipeline_output import UbGenOutput


def test_fields_are_read_by_name_and_by_position_like_those_of_diffusers():
    output = UbGenOutput(images=["a", "b"], labels=[0, 1], prompts=["x", "y"], seeds=[3, 4])
    assert isinstance(output, BaseOutput)
    assert output.images is output["images"] is output[0] and output["seeds"] == [3, 4]
    assert output.to_tuple() == (["a", "b"], [0, 1], ["x", "y"], [3, 4])


def test_what_was_not_asked_for_is_none_and_no_part_of_the_tuple():
    output = UbGenOutput(images=["a"], labels=[0], prompts=["x"], seeds=[3], boxes=["box"])
    assert output.masks is None and output.annotations is None and output.nsfw_content_detected is None
    assert list(output) == ["images", "labels", "prompts", "seeds", "boxes"] and output[-1] == ["box"]
