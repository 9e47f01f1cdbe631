"""The moving average of the trained weights: closed form, float32, swap in and out, exact resume, sharded weights."""

import pytest
import torch
from torch import nn

from ubgen_training.backbone.backbone_config import BackboneConfig
from ubgen_training.checkpoints.state import load_state, save_state
from ubgen_training.checkpoints.weight_average import WeightAverage
from ubgen_training.denoising.denoiser_config import DenoiserConfig
from ubgen_training.few_steps.few_step_config import FewStepConfig
from ubgen_training.ubgen.ubgen_config import UbGenConfig


class _Scalars(nn.Module):
    """One trained and one frozen number."""

    def __init__(self, dtype=torch.float64):
        super().__init__()
        self.trained = nn.Parameter(torch.tensor([1.0], dtype=dtype))
        self.frozen = nn.Parameter(torch.tensor([5.0]), requires_grad=False)

    def set(self, value):
        with torch.no_grad():
            self.trained.fill_(value)


def _follow(values, decay, average=None, module=None):
    module = module or _Scalars()
    if average is None:
        average = WeightAverage(module, decay)
        average.start()
    for value in values:
        module.set(value)
        average.update()
    return average, module


def test_average_follows_the_recursion_with_the_ramp():
    values, expected = [3.0, -2.0, 7.0, 0.5], 1.0
    average, _ = _follow(values, decay=0.2)
    for count, value in enumerate(values):
        decay = min(0.2, (1 + count) / (10 + count))
        expected = decay * expected + (1 - decay) * value
    assert average.weights.keys() == {"trained"}
    assert average.weights["trained"].item() == pytest.approx(expected, rel=1e-6)
    # the ramp itself: 1/10, 2/11 and then the setting
    assert WeightAverage(_Scalars(), 0.2).current_decay() == pytest.approx(0.1)


def test_a_constant_stays_and_a_long_run_forgets_the_start():
    average, _ = _follow([2.0] * 400, decay=0.9)
    assert average.weights["trained"].item() == pytest.approx(2.0, abs=1e-6)


def test_average_is_float32_and_sees_steps_that_bfloat16_would_lose():
    module = _Scalars(torch.bfloat16)
    average, _ = _follow([1.0], 0.99, module=module)
    average.num_updates = 10**6
    module.set(1.0078125)
    average.update()
    assert average.weights["trained"].dtype == torch.float32
    assert average.weights["trained"].item() == pytest.approx(1 + 0.01 * 0.0078125, rel=1e-6)


def test_applied_swaps_the_average_in_and_the_weights_back_even_after_an_error():
    average, module = _follow([3.0, 4.0], 0.99)
    own = module.trained.detach().clone()
    with pytest.raises(RuntimeError), average.applied():
        assert torch.equal(module.trained.float(), average.weights["trained"])
        assert not torch.equal(module.trained, own)
        raise RuntimeError
    assert torch.equal(module.trained, own) and module.trained.requires_grad


def test_resume_is_bit_equal_and_the_state_does_not_change_with_later_updates(tmp_path):
    values = torch.randn(12, generator=torch.Generator().manual_seed(0)).tolist()
    straight, _ = _follow(values, 0.9)
    first, _ = _follow(values[:5], 0.9)
    state = first.state_dict()
    save_state(state, tmp_path / "average.safetensors")
    _follow([100.0], 0.9, first, first.module)
    module = _Scalars()
    resumed = WeightAverage(module, 0.9)
    resumed.load_state_dict(load_state(tmp_path / "average.safetensors"))
    _follow(values[5:], 0.9, resumed, module)
    assert torch.equal(resumed.weights["trained"], straight.weights["trained"])
    assert resumed.num_updates == straight.num_updates == 12
    assert state["num_updates"] == 5


def test_another_models_average_is_refused():
    average, _ = _follow([2.0], 0.9)
    state = {"num_updates": 1, "weights": {"trained": torch.zeros(2)}}
    with pytest.raises(ValueError, match="first 'trained'; resume with"):
        average.load_state_dict(state)
    with pytest.raises(ValueError, match="first 'other'"):
        average.load_state_dict({"num_updates": 1, "weights": {**average.weights, "other": torch.zeros(1)}})


@pytest.mark.parametrize("decay", [-0.1, 1.0, 2.0])
def test_a_decay_out_of_range_is_named_as_it_was_given(tmp_path, decay):
    with pytest.raises(ValueError, match=rf"^decay is {decay}"):
        WeightAverage(_Scalars(), decay)
    with pytest.raises(ValueError, match=rf"^lora_average_decay is {decay}"):
        UbGenConfig(output_dir=str(tmp_path), lora_average_decay=decay)
    for config in (DenoiserConfig, FewStepConfig, BackboneConfig):
        with pytest.raises(ValueError, match=rf"^average_decay is {decay}"):
            config(output_dir=str(tmp_path), dataset=str(tmp_path), average_decay=decay)


def test_buffers_are_averaged_on_request_and_whole_numbers_never():
    module = nn.BatchNorm1d(1)
    average = WeightAverage(module, 0.5, with_buffers=True)
    average.start()
    assert list(average.weights) == ["weight", "bias", "running_mean", "running_var"]
    module.running_mean.fill_(10.0)
    average.update()
    assert average.weights["running_mean"].item() == pytest.approx(0.9 * 10)
    with average.applied():
        assert module.running_mean.item() == pytest.approx(9.0)
    assert module.running_mean.item() == 10.0
    plain = WeightAverage(module, 0.5)
    plain.start()
    assert list(plain.weights) == ["weight", "bias"]


def test_nothing_to_train_is_an_error():
    with pytest.raises(ValueError, match="no trainable parameter"):
        WeightAverage(_Scalars().requires_grad_(False))


@pytest.fixture
def one_process_mesh(tmp_path):
    from torch import distributed
    from torch.distributed.device_mesh import init_device_mesh

    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    distributed.destroy_process_group()


def test_sharded_weights_average_save_in_full_and_load_back(one_process_mesh):
    from torch.distributed.tensor import DTensor, Shard, distribute_tensor

    module = nn.Linear(3, 2, bias=False)
    value = module.weight.detach().clone()
    module.weight = nn.Parameter(distribute_tensor(value, one_process_mesh, [Shard(0)]))
    average = WeightAverage(module, 0.5)
    average.start()
    with torch.no_grad():
        module.weight.mul_(2.0)
    average.update()
    state = average.state_dict()
    assert not isinstance(state["weights"]["weight"], DTensor)
    assert torch.allclose(state["weights"]["weight"], value * (0.1 + 0.9 * 2))
    average.load_state_dict(state)
    assert isinstance(average.weights["weight"], DTensor)
    with average.applied():
        assert torch.allclose(module.weight.full_tensor(), value * 1.9)
