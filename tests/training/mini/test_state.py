"""States of the training loops resume bit-equal, and the average is the recurrence that it says."""

import torch
from torch import nn

from ubgen_training.mini.scene_batches import index_batches
from ubgen_training.mini.state import ExponentialAverage, load_training_state, save_training_state


def _train(model, optimizer, averages, start, stop):
    parameters = dict(model.named_parameters())
    for step, batch in enumerate(index_batches(50, 8, seed=1, start_step=start, num_steps=stop), start=start):
        loss = model(batch[:, None].float() / 50).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        averages.update(parameters, step + 1)


def _fresh_state():
    torch.manual_seed(7)
    model = nn.Sequential(nn.Linear(1, 4), nn.Tanh(), nn.Linear(4, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    return model, optimizer, ExponentialAverage(dict(model.named_parameters()))


def test_training_resumes_bit_equal(tmp_path):
    file = tmp_path / "state.safetensors"
    straight = _fresh_state()
    _train(*straight, 0, 10)
    first = _fresh_state()
    _train(*first, 0, 4)
    save_training_state(file, 4, dict(first[0].named_parameters()), first[1], first[2])
    second = _fresh_state()
    step = load_training_state(file, dict(second[0].named_parameters()), second[1], second[2])
    assert step == 4
    _train(*second, 4, 10)
    for (name, expected), (_, value) in zip(straight[0].named_parameters(), second[0].named_parameters()):
        assert torch.equal(expected, value), name
        assert torch.equal(straight[2].averages[name], second[2].averages[name]), name
    assert [p.name for p in tmp_path.iterdir()] == ["state.safetensors"]


def test_no_state_means_step_zero(tmp_path):
    model, optimizer, averages = _fresh_state()
    parameters = dict(model.named_parameters())
    assert load_training_state(tmp_path / "none.safetensors", parameters, optimizer, averages) == 0


def test_the_average_forgets_the_start_soon():
    weight = nn.Parameter(torch.zeros(3))
    averages = ExponentialAverage({"weight": weight}, decay=0.5)
    expected = 0.0
    for step in range(1, 12):
        with torch.no_grad():
            weight.fill_(float(step))
        averages.update({"weight": weight}, step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
    torch.testing.assert_close(averages.averages["weight"], torch.full((3,), expected))
