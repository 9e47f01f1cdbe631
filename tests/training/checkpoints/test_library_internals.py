"""The private parts of libraries that trainings need are still there and still mean what the code takes them for."""

import inspect

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.integrations import integration_utils

from ubgen_training.checkpoints.library_internals import (
    OVERRIDDEN_METHODS,
    ModuleWithFrozenParts,
    log_image,
    restore_running_loss,
    running_loss,
    set_adapters_disabled,
)
from ubgen_training.checkpoints.trainer import CheckpointingTrainer
from ubgen_training.ubgen.ubgen_trainer import UbGenTrainer


@pytest.mark.parametrize("name", OVERRIDDEN_METHODS)
def test_transformers_calls_the_methods_that_trainers_override(name):
    """Each is defined there, takes what ours take, and is called somewhere else in the class."""
    parameters = inspect.signature(getattr(Trainer, name)).parameters
    assert [parameter for parameter in OVERRIDDEN_METHODS[name] if parameter not in parameters] == []
    assert inspect.getsource(Trainer).count(f"self.{name}(") >= 1


def test_the_list_of_overridden_methods_is_complete():
    own = {name for kind in (CheckpointingTrainer, UbGenTrainer) for name in vars(kind)}
    private = {name for name in own if name.startswith("_") and not name.startswith("__") and hasattr(Trainer, name)}
    assert private == set(OVERRIDDEN_METHODS)


def test_the_running_loss_is_what_the_next_log_divides(tmp_path):
    """A constant loss of 3, logged every 2 updates; what another run left counts in the next log, not in the mean."""

    class Constant(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

        def forward(self, x):
            return {"loss": 3 * self.weight.sum() + 0 * x.sum()}

    class Restore(TrainerCallback):
        def on_epoch_begin(self, *_, **__):
            restore_running_loss(two, {"running_loss": torch.tensor(4.0), "last_logged_step": -1})

    def trainer(*callbacks):
        args = TrainingArguments(
            output_dir=str(tmp_path),
            max_steps=3,
            logging_steps=2,
            learning_rate=0.0,
            save_strategy="no",
            report_to="none",
            use_cpu=True,
            per_device_train_batch_size=1,
            disable_tqdm=True,
        )
        rows = [{"x": torch.zeros(1)}] * 8
        return Trainer(model=Constant(), args=args, train_dataset=rows, callbacks=list(callbacks))

    one = trainer()
    one.train()
    state = running_loss(one)
    assert state["last_logged_step"] == 2 and state["running_loss"].item() == pytest.approx(3.0)
    two = trainer(Restore())
    two.train()
    # 4 from before and 2 x 3 from here, over the 3 updates since update -1
    assert two.state.log_history[0]["loss"] == pytest.approx((4.0 + 6.0) / 3)
    # the mean over the run counts its own three updates only
    assert two.state.log_history[-1]["train_loss"] == pytest.approx(3.0)


def test_pefts_flag_switches_the_adapter_off_and_leaves_its_gradient_alone():
    model = nn.Sequential(nn.Linear(2, 2))
    inject_adapter_in_model(LoraConfig(target_modules=["0"], init_lora_weights=False), model)
    (layer,) = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    x = torch.ones(1, 2)
    with_adapter, without = model(x), layer.get_base_layer()(x)
    assert not torch.allclose(with_adapter, without)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    set_adapters_disabled([layer], [True])
    assert torch.equal(model(x), without) and layer.disable_adapters
    assert [parameter for parameter in model.parameters() if parameter.requires_grad] == trained
    set_adapters_disabled([layer], [False])
    assert torch.equal(model(x), with_adapter) and not layer.disable_adapters


@pytest.mark.parametrize(
    "move", [lambda m: m.to(torch.float64), lambda m: m.double(), lambda m: nn.Sequential(m).double()]
)
def test_frozen_parts_go_along_whichever_way_a_module_is_cast(move):
    class Holder(ModuleWithFrozenParts):
        def __init__(self):
            super().__init__()
            self.own, self.others, self.kept = nn.Linear(1, 1), [nn.Linear(1, 1)], torch.ones(1)

        def frozen_parts(self):
            return self.others

        def move_tensors(self, fn):
            self.kept = fn(self.kept)

    holder = Holder()
    move(holder)
    assert {holder.own.weight.dtype, holder.others[0].weight.dtype, holder.kept.dtype} == {torch.float64}
    assert set(holder.state_dict()) == {"own.weight", "own.bias"}


@pytest.mark.parametrize("callback, attribute", [("WandbCallback", "_wandb"), ("TrackioCallback", "_trackio")])
def test_transformers_keeps_its_trackers_under_the_names_that_are_read(callback, attribute):
    source = inspect.getsource(getattr(integration_utils, callback))
    assert f"self.{attribute} = " in source and "self._initialized = " in source


@pytest.mark.parametrize("attribute", ["_wandb", "_trackio"])
def test_an_image_goes_to_a_tracker_that_has_been_started_and_to_nothing_else(attribute):
    logged = []

    class Tracker:
        Image = staticmethod(lambda image: ("image", image))
        log = staticmethod(logged.append)

    class Callback:
        _initialized = False

    callback = Callback()
    setattr(callback, attribute, Tracker)
    log_image(callback, "samples", "pixels", 4)
    log_image(object(), "samples", "pixels", 4)
    assert logged == []
    callback._initialized = True
    log_image(callback, "samples", "pixels", 4)
    assert logged == [{"samples": ("image", "pixels"), "train/global_step": 4}]
