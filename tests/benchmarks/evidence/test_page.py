"""The page of the evidence, from made-up figures."""

import pytest

from benchmarks.evidence import figures, page


@pytest.fixture(scope="module")
def results():
    """Five seeds in which ubgen transfers better than base, has no other TI, and a worse background gap."""
    found = {
        "settings": {
            **{
                "arms": ["base", "ubgen", "ubgen_variety", "no_en", "variety_no_en"],
                "samples_per_class": 200,
                "num_inference_steps": 20,
            },
            **{"guidance_scale": 2.0, "num_scenes": 2000, "transfer_images": 1000, "transfer_shares": [1.0, 0.1]},
            **{"set": None, "variety_weight": 0.25, "dtype": "float32", "asked_dtype": "bfloat16", "threads": 1},
        },
        "clip": {},
        "runs": [],
    }
    for seed in range(5):
        for arm in found["settings"]["arms"]:
            values = {figure.key: 0.5 + 0.01 * seed for figure in figures.all_figures(found)}
            if arm == "ubgen":
                values["transfer novel silhouettes"] += 0.05 + 0.001 * seed
                values["texture inclination"] += 0.01 * (-1) ** seed
                values["background gap"] += 0.03 + 0.001 * seed
            if arm == "ubgen_variety":
                values["background entropy"] += 1.0 + 0.01 * seed
            if arm == "variety_no_en":
                values["transfer novel silhouettes"] -= 0.02 + 0.001 * seed
            found["runs"].append({"arm": arm, "seed": seed, "dtype": "float32", "figures": values, "seconds": {}})
    return found


def test_the_page_says_of_each_claim_whether_it_holds(results):
    text = page.page_text(results)
    assert "- **Holds.** transfer, 100% (1000 images): ubgen is 5.2 points higher than base, p < 0.001." in text
    assert "- **Not shown.** texture inclination, TI: ubgen is 0.2 points higher than base, p =" in text
    assert "- **Does not hold.** background gap, BG-gap: ubgen is 3.2 points higher than base, p < 0.001." in text
    assert (
        "| transfer, 100% (1000 images) ↑ | 52.0 ± 0.7 | 57.2 ± 0.8 | 52.0 ± 0.7 | 52.0 ± 0.7 | 49.8 ± 0.6 |" in text
    )
    assert "p = 0.0625" in text


def test_what_is_not_the_papers_is_said_to_be_ours(results):
    text = page.page_text(results)
    claims, own = text.split("### Which claims show here")[1].split("no claim of the paper's")
    assert "variety" not in claims.replace("Of ubgen + variety", "")
    for other in ("base", "ubgen"):
        assert f"### ubgen + variety (not the paper's) against {other}, paired by seed" in text
        fact = f"background entropy, bits: ubgen + variety is 1.020 higher than {other}, p < 0.001."
        assert f"- **Holds.** {fact}" in own
    assert "transfer, 100% (1000 images): ubgen + variety is 5.2 points lower than ubgen" in own
    assert (
        "- **Holds.** transfer, 100% (1000 images): ubgen + variety is 2.2 points higher than no_en + variety" in own
    )
    # an ablation takes something away from its own full loss and from no other
    for heading, rows in (("the full loss", ["| no_en |"] * 2), ("ubgen + variety", ["| no_en + variety |"] * 2)):
        section = text.split(f"### Each ablation against {heading}, paired by seed")[1].split("\n###")[0]
        assert [line[: line.index("|", 1) + 1] for line in section.splitlines() if "no_en" in line] == rows
    assert "- **ubgen + variety**: **not the paper's**" in text and "in ubgen + variety: 0.25." in text
    assert "Each stage ran on 1 thread; generators were tuned and images drawn in float32. bfloat16 was" in text


def test_runs_of_two_machines_are_told_apart_by_their_precision(results):
    runs = [run | {"dtype": ("float32", "bfloat16", None)[i % 3]} for i, run in enumerate(results["runs"])]
    assert "images drawn in bfloat16 (8 runs) and float32 (9 runs)." in page.page_text(results | {"runs": runs})


def test_the_arm_with_log_det_has_tables_and_verdicts_of_its_own(results):
    with_arm = results | {"settings": results["settings"] | {"arms": ["base", "ubgen_variety", "ubgen_logdet"]}}
    with_arm["runs"] = list(results["runs"])
    for seed in range(5):
        values = {figure.key: 0.5 + 0.01 * seed for figure in figures.all_figures(results)}
        values["hue entropy"] += 0.3 + 0.01 * seed
        with_arm["runs"].append(
            {"arm": "ubgen_logdet", "seed": seed, "dtype": "float32", "figures": values, "seconds": {}}
        )
    text = page.page_text(with_arm)
    for other in ("base", "ubgen + variety"):
        assert f"### ubgen + log-det (not the paper's) against {other}, paired by seed" in text
        assert f"- **Holds.** hue entropy, bits: ubgen + log-det is 0.320 higher than {other}, p < 0.001." in text
    assert "- **ubgen + log-det**: **not the paper's**" in text and "against unbiased" not in text


def test_an_arm_with_fewer_seeds_says_so_and_is_compared_on_those(results):
    runs = [run for run in results["runs"] if run["arm"] != "no_en" or run["seed"] in (1, 3, 4)]
    text = page.page_text({**results, "runs": runs})
    assert "the adversarial term (so far seeds 1, 3, 4)\n" in text and "(so far seeds 0" not in text
    section = text.split("### Each ablation against the full loss, paired by seed")[1].split("\n###")[0]
    assert "0 of 3 |" in section and "of 5 |" not in section


def test_the_page_keeps_what_was_written_by_hand(results, tmp_path):
    file = tmp_path / "evidence.md"
    file.write_text(f"# Mine\n\nbefore\n\n{page.BEGIN}\nstale text\n{page.END}\n\nafter\n", encoding="utf-8")
    page.write_page(results, file)
    first = file.read_text("utf-8")
    page.write_page(results, file)
    assert file.read_text("utf-8") == first
    assert (
        first.startswith("# Mine\n\nbefore\n\n") and first.endswith(f"{page.END}\n\nafter\n") and "stale" not in first
    )
    for name in page.PLOTS:
        assert (tmp_path / "images" / f"evidence_{name}.png").stat().st_size > 10_000
        assert f"](images/evidence_{name}.png)" in first
    # another page there has pictures of its own
    other = tmp_path / "other.md"
    page.write_page(results, other)
    assert "](images/other_transfer.png)" in other.read_text("utf-8")
    assert (tmp_path / "images" / "other_transfer.png").is_file()
    file.write_text("# Mine\n", encoding="utf-8")
    with pytest.raises(ValueError, match="lacks the line"):
        page.write_page(results, file)
    assert file.read_text("utf-8") == "# Mine\n"
