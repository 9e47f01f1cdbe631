"""Every module has a test file: of its name, in the folder of its room.

ubgen_pipeline/export/coco.py            tests/export/test_coco.py
ubgen_pipeline/family.py                 tests/pipeline/test_family.py
training/ubgen_training/lora/adapter.py  tests/training/lora/test_adapter.py
benchmarks/demo.py                       tests/benchmarks/test_demo.py
"""

from pathlib import Path

from support import ROOT
from ubgen_pipeline.models.families import FAMILIES

TESTS = ROOT / "tests"
# a folder of modules, and the folder of their tests
FOLDERS = {
    "ubgen_pipeline": "",
    "training/ubgen_training": "training",
    "evaluation/ubgen_evaluation": "evaluation",
    "hub_cards/ubgen_hub_cards": "hub_cards",
    "space": "space",
    "benchmarks": "benchmarks",
}
# modules whose tests stand in another file, by that file
ELSEWHERE = {
    # parts that two families share
    "pipeline/test_families.py": "sana_parts",
    "pipeline/test_family_drawing.py": "batch_norm_latents",
    "pipeline/test_pipeline_flux2.py": "flux2_parts",
    # parts of one thing, which is tested as a whole
    "prompts/test_class_lists.py": "prompts/class_entries prompts/class_lines prompts/class_tables",
    "models/test_single_file.py": "models/single_file_kinds models/single_file_settings",
    "mini/test_scenes.py": "mini/silhouettes mini/surfaces",
    "mini/test_mini_model.py": "mini/clip mini/judges mini/networks mini/weights",
    # a packed wheel is compared with the one that is built
    "test_package.py": "hub/wheel",
    # models that two benchmarks build
    "benchmarks/test_generation_speed.py": "random_models",
    "benchmarks/test_operations.py": "real_size_families published_networks inference/operations",
    # what one command works out and prints
    "evaluation/test_evaluate.py": "backbone_measures dataset_measures evaluate_settings evaluation_report mini_sets",
    "evaluation/test_name_senses.py": "check_names",
    "evaluation/test_feature_extraction.py": "backbones",
    "benchmarks/evidence/test_command.py": "evidence/lanes",
    "benchmarks/evidence/test_page.py": "evidence/figures evidence/plots",
    "benchmarks/evidence/test_stages.py": "evidence/stage_work",
    "benchmarks/loss_weightings/test_command.py": (
        "loss_weightings/fidelity loss_weightings/jobs loss_weightings/report loss_weightings/training"
    ),
    "benchmarks/test_training_memory.py": "live_memory",
    "benchmarks/test_training_speed.py": "stock_training",
    # what two commands keep
    "benchmarks/test_variety_search.py": "evidence/kept_figures",
    "benchmarks/test_package.py": "benchmarks",
    # widgets of gradio, which the environment of the browser tests alone has
    "space/test_browser.py": (
        "app bias_tab browse_tab details_panel draw_endpoint generate_tab image_gallery run_buttons"
    ),
}


def modules_without_a_test_file(root: Path) -> dict[str, str]:
    """The test file that each such module should have, relative to ``tests``, by the module's own path there."""
    found = {}
    for folder, tests in FOLDERS.items():
        for file in sorted((root / folder).rglob("*.py")):
            module = file.relative_to(root / folder)
            room = module.parent if module.parent.parts or folder != "ubgen_pipeline" else Path("pipeline")
            expected = Path(tests, room, f"test_{file.name}")
            if not file.name.startswith("__") and not (root / "tests" / expected).is_file():
                found[str(module.with_suffix(""))] = str(expected)
    return found


def test_every_module_has_a_test_file():
    elsewhere = {module for modules in ELSEWHERE.values() for module in modules.split()}
    # what all families have in common is tested for all of them
    assert (TESTS / "pipeline/test_families.py").is_file()
    elsewhere |= {family.module for family in FAMILIES.values()}
    missing = modules_without_a_test_file(ROOT)
    without = {module: file for module, file in missing.items() if module not in elsewhere}
    assert not without, f"write these test files, or name in ELSEWHERE the one that has their tests: {without}"


def test_what_is_tested_elsewhere_has_no_file_of_its_own():
    missing = modules_without_a_test_file(ROOT)
    for file, modules in ELSEWHERE.items():
        assert (TESTS / file).is_file(), file
        for module in modules.split():
            assert module in missing, f"{module} has a test file of its own, or is gone: take it out of ELSEWHERE"


def test_a_module_without_one_is_found(tmp_path):
    for name in ("ubgen_pipeline/a.py", "ubgen_pipeline/room/b.py", "ubgen_pipeline/room/__init__.py", "space/c.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert modules_without_a_test_file(tmp_path) == {
        "a": "pipeline/test_a.py",
        "room/b": "room/test_b.py",
        "c": "space/test_c.py",
    }
    (tmp_path / "tests" / "pipeline").mkdir(parents=True)
    (tmp_path / "tests" / "pipeline" / "test_a.py").touch()
    assert "a" not in modules_without_a_test_file(tmp_path)
