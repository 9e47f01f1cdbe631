"""Class lists out of installed libraries, read without importing them."""

import subprocess
import sys

import pytest

from ubgen_pipeline.prompts.built_in_classes import BUILT_IN_LISTS, built_in_entries, built_in_name, library_file


@pytest.mark.parametrize("spelling", ["imagenet1k", "ImageNet-1k", "imagenet_1K"])
def test_a_list_has_one_name_in_many_spellings(spelling):
    assert built_in_name(spelling) == "imagenet1k"


def test_other_words_name_no_list():
    assert built_in_name("imagenet2k") is None and built_in_name("voc.txt") is None


@pytest.mark.parametrize(("name", "count"), [("imagenet1k", 1000), ("imagenet100", 100), ("voc", 20), ("coco", 80)])
def test_lists_are_whole(name, count):
    entries = built_in_entries(name)
    assert len(entries) == len(set(entries)) == count and all(text for text, _, _ in entries)
    has_ids = name.startswith("imagenet")
    assert all((wnid is not None) == has_ids for _, wnid, _ in entries)
    assert ("N/A", None, None) not in entries and ("__background__", None, None) not in entries


def test_no_library_is_imported():
    code = (
        "import sys; from ubgen_pipeline.prompts.built_in_classes import BUILT_IN_LISTS, built_in_entries\n"
        "for name in BUILT_IN_LISTS: built_in_entries(name)\n"
        "print({'torch', 'torchvision', 'timm', 'open_clip'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
    assert len(BUILT_IN_LISTS) == 4


def test_a_library_that_is_missing_is_named():
    with pytest.raises(ValueError, match=r"needs zzz with its file x/y\.txt; install it"):
        library_file("zzz", "x/y.txt")
    with pytest.raises(ValueError, match="needs timm with its file nowhere"):
        library_file("timm", "nowhere")
