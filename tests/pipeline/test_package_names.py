"""What ``ubgen_pipeline`` offers by name, however and in whatever order it is imported."""

import subprocess
import sys
from types import ModuleType

import pytest

import ubgen_pipeline

MODULE = "import ubgen_pipeline.generation.generate as module"
FUNCTION = "from ubgen_pipeline import generate_dataset as function"


def test_the_package_is_an_ordinary_module():
    assert type(ubgen_pipeline) is ModuleType


@pytest.mark.parametrize("order", [(MODULE, FUNCTION), (FUNCTION, MODULE)])
def test_the_module_and_the_function_keep_their_names(order):
    check = (
        "import types; assert isinstance(module, types.ModuleType); assert function is module.generate_dataset;"
        "import ubgen_pipeline; assert ubgen_pipeline.generate_dataset is function"
    )
    subprocess.run([sys.executable, "-c", "; ".join((*order, check))], check=True)


def test_every_offered_name_is_there_and_no_other():
    assert set(ubgen_pipeline.__all__) <= set(dir(ubgen_pipeline))
    assert all(callable(getattr(ubgen_pipeline, name)) for name in ubgen_pipeline.__all__)
    with pytest.raises(AttributeError, match="generate_datasets"):
        _ = ubgen_pipeline.generate_datasets
