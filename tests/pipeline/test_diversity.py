"""Annealed conditioning and guidance within an interval, against numpy, on the tiny model of every family."""

import numpy as np
import pytest
import torch
from diffusers import EDMEulerScheduler

from support.family_models import CASES
from ubgen_pipeline.conditioning import Conditioning
from ubgen_pipeline.diversity import annealed_conditioning
from ubgen_pipeline.diversity_settings import Cads
from ubgen_pipeline.initial_latents import condition_generators, draw_latents, step_generators
from ubgen_pipeline.models.loading import load_pipeline, set_scheduler

PROMPTS = ["a circle", "a photo of a star in the evening"]
BATCH_TOLERANCE = 1e-4
# one of each form of conditioning: filled up, with pooled features, with a mask, as a list, with embedded guidance
FORMS = ("sdxl", "sd3", "qwen-image", "z-image", "flux", "sana-sprint")


def annealed_by_numpy(features, gamma, schedule, generator):
    """Eq. 3 and 4 of the paper for one row, its noise with the features' own deviation."""
    y = features.astype(np.float64)
    noise = torch.randn(y.shape, generator=generator).numpy().astype(np.float64) * y.std(ddof=1)
    y_hat = np.sqrt(gamma) * y + schedule.scale * np.sqrt(1 - gamma) * noise
    rescaled = (y_hat - y_hat.mean()) / y_hat.std(ddof=1) * y.std(ddof=1) + y.mean()
    return schedule.psi * rescaled + (1 - schedule.psi) * y_hat


@pytest.fixture
def mini(random_mini_model):
    pipeline = load_pipeline(random_mini_model)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def seen_calls(pipeline, draw):
    """(timestep, conditioning) of every call of the denoiser while ``draw`` runs."""
    calls, predict = [], pipeline.predict

    def keep(latents, timestep, conditioning, **more):
        calls.append((float(timestep), conditioning))
        return predict(latents, timestep, conditioning, **more)

    pipeline.predict = keep
    try:
        draw()
    finally:
        del pipeline.predict
    return calls


@pytest.mark.parametrize("name", FORMS)
def test_every_step_reads_what_the_formulas_give_and_what_is_guided_away_from_stays(name):
    case = CASES[name]
    pipeline, schedule = case.pipeline, Cads(tau1=0.3, tau2=0.85, scale=0.7, psi=0.6)
    steps = {"num_inference_steps": 6}
    plain = seen_calls(pipeline, lambda: case.draw(pipeline, PROMPTS, **steps))
    calls = seen_calls(pipeline, lambda: case.draw(pipeline, PROMPTS, **steps, diversity=schedule))
    assert len(calls) == len(plain)
    generators = condition_generators([1, 2])
    gammas = []
    for (timestep, found), (_, whole) in zip(calls, plain):
        time = timestep / 1000 if name != "sana-sprint" else np.sin(timestep) / (np.sin(timestep) + np.cos(timestep))
        gamma = float(np.interp(time, [0.3, 0.85], [1, 0]))
        gammas.append(gamma)
        first = found.num_rows - 2
        masks = [value for key, value in whole.tensors.items() if key.endswith("mask")]
        for key, value in whole.tensors.items():
            for row in range(found.num_rows):
                expected, is_read = value[row].numpy().copy(), slice(None)
                if masks and expected.ndim == 2:
                    is_read = masks[0][row].bool().numpy()
                if row >= first and gamma < 1 and key not in ("guidance",) and not key.endswith("mask"):
                    expected[is_read] = annealed_by_numpy(expected[is_read], gamma, schedule, generators[row - first])
                np.testing.assert_allclose(found.tensors[key][row].numpy(), expected, rtol=1e-4, atol=1e-5)
    assert min(gammas) < 0.1 and max(gammas) > 0.5 and any(0 < gamma < 1 for gamma in gammas)


@pytest.mark.parametrize("name", CASES)
def test_an_image_depends_on_its_own_seed_alone(name):
    case = CASES[name]
    pipeline, settings = case.pipeline, {"num_inference_steps": 3, "diversity": Cads(scale=1.0)}
    together = case.draw(pipeline, PROMPTS, **settings)
    # its number for a batch of one
    torch.testing.assert_close(
        case.draw(pipeline, PROMPTS, batch_size=1, **settings), together, rtol=0, atol=BATCH_TOLERANCE
    )
    alone = case.draw(pipeline, PROMPTS[:1], **settings)
    torch.testing.assert_close(alone, together[:1], rtol=0, atol=BATCH_TOLERANCE)
    assert (together - case.draw(pipeline, PROMPTS, num_inference_steps=3)).abs().max() > 20 * BATCH_TOLERANCE


def test_two_samples_of_one_prompt_get_noise_of_their_own(mini):
    calls = seen_calls(mini, lambda: mini(["star", "star"], seeds=[5, 6], num_inference_steps=3, diversity="cads"))
    features = calls[0][1]["encoder_hidden_states"]
    assert torch.equal(features[0], features[1]) and not torch.equal(features[2], features[3])
    again = seen_calls(mini, lambda: mini(["star", "star"], seeds=[6, 5], num_inference_steps=3, diversity="cads"))
    assert torch.equal(again[0][1]["encoder_hidden_states"][2], features[3])


def test_streams_of_one_seed_are_independent():
    (latents,) = draw_latents([7], (4, 8, 8))
    step = torch.randn((4, 8, 8), generator=step_generators([7])[0])
    condition = torch.randn((4, 8, 8), generator=condition_generators([7])[0])
    for first, second in ((latents, step), (latents, condition), (step, condition)):
        assert abs(np.corrcoef(first.flatten(), second.flatten())[0, 1]) < 0.2


def test_no_noise_before_tau1_is_the_plain_image_to_the_bit(mini):
    settings = {"seeds": [1], "num_inference_steps": 4, "output_type": "pt"}
    plain = mini(["star"], **settings).images
    assert torch.equal(mini(["star"], **settings, diversity=Cads(1.0, 1.0)).images, plain)
    assert not torch.equal(mini(["star"], **settings, diversity=Cads(scale=0.0)).images, plain)


def test_tokens_that_are_not_read_and_numbers_of_a_row_stay():
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    record = Conditioning({"text": torch.randn(2, 3, 8), "text_mask": mask, "guidance": torch.tensor([3.0, 3.0])})
    found = annealed_conditioning(record, 0.0, Cads(scale=1.0, psi=0.0), condition_generators([1, 2]))
    assert (found["text"] == record["text"]).all(dim=2).tolist() == [[False, False, True], [False, True, True]]
    assert found["guidance"] is record["guidance"] and found["text_mask"] is mask
    # filled up further, as beside a longer prompt
    longer = Conditioning(
        {"text": torch.cat([record["text"], torch.zeros(2, 5, 8)], 1), "text_mask": torch.cat([mask, mask * 0], 1)}
    ).with_tensor("text_mask", torch.cat([mask, torch.zeros(2, 5, dtype=torch.int64)], 1))
    again = annealed_conditioning(longer, 0.0, Cads(scale=1.0, psi=0.0), condition_generators([1, 2]))
    assert torch.equal(again["text"][:, :3], found["text"])


def shares_by_numpy(scheduler):
    """sigma / (alpha + sigma) of a scheduler's timesteps: of its betas, or of a flow's own times."""
    timesteps = scheduler.timesteps.numpy()
    if not hasattr(scheduler, "alphas_cumprod"):
        return timesteps / 1000
    config = scheduler.config
    betas = np.linspace(config.beta_start**0.5, config.beta_end**0.5, config.num_train_timesteps) ** 2
    kept = np.cumprod(1 - betas)[timesteps.round().astype(int)]
    return np.sqrt(1 - kept) / (np.sqrt(kept) + np.sqrt(1 - kept))


@pytest.mark.parametrize("name", ["sd", "dpm++", "unipc", "pndm", "sd3", "qwen-image", "lumina2", "pixart-sigma"])
def test_guidance_is_left_out_where_the_noise_is_outside_the_interval(name, mini):
    if name in ("sd", "dpm++", "unipc", "pndm"):
        pipeline = mini
        if name != "sd":
            set_scheduler(pipeline, name)

        def draw(**settings):
            return pipeline(["thing"], seeds=[1], num_inference_steps=9, output_type="pt", **settings).images

    else:
        case = CASES[name]
        pipeline = case.pipeline

        def draw(**settings):
            return case.draw(pipeline, PROMPTS[:1], num_inference_steps=9, **settings)

    plain = draw(guidance_scale=3.0)
    calls = seen_calls(pipeline, lambda: draw(guidance_scale=3.0, guidance_interval=[0.3, 0.8]))
    shares = shares_by_numpy(pipeline.scheduler) if name != "pixart-sigma" else _linear_shares(pipeline.scheduler)
    expected = [2 if 0.3 <= share <= 0.8 else 1 for share in shares]
    assert [conditioning.num_rows for _, conditioning in calls] == expected and {1, 2} == set(expected)
    assert torch.equal(draw(guidance_scale=3.0, guidance_interval=[0.0, 1.0]), plain)
    assert (draw(guidance_scale=3.0, guidance_interval=[0.3, 0.8]) - plain).abs().max() > BATCH_TOLERANCE


def _linear_shares(scheduler):
    config = scheduler.config
    kept = np.cumprod(1 - np.linspace(config.beta_start, config.beta_end, config.num_train_timesteps))
    kept = kept[scheduler.timesteps.numpy()]
    return np.sqrt(1 - kept) / (np.sqrt(kept) + np.sqrt(1 - kept))


def test_callbacks_take_part_beside_both(mini):
    settings = {"seeds": [1, 2], "num_inference_steps": 9, "output_type": "pt", "guidance_scale": 3.0}
    settings |= {"diversity": Cads(scale=1.0), "guidance_interval": [0.3, 0.8]}
    seen = []
    watched = mini(["star", "ring"], **settings, callback_on_step_end=lambda *step: seen.append(step[1]) or {}).images
    assert torch.equal(watched, mini(["star", "ring"], **settings).images) and seen == list(range(9))


def test_masks_are_made_beside_both(mini):
    settings = {"seeds": [1, 2], "num_inference_steps": 6, "annotations": ["mask"]}
    found = mini(["star", "ring"], **settings, diversity="cads", guidance_interval=[0.2, 0.7])
    assert [mask.shape for mask in found.masks] == [(64, 64)] * 2


def test_what_has_no_effect_is_refused_by_name(mini):
    for arguments, message in (
        (
            {"guidance_interval": [0.2, 0.3], "guidance_scale": 1.0},
            r"guidance_interval is \[0.2, 0.3\], and guidance_scale is 1.0",
        ),
        ({"guidance_interval": [0.2, 0.3], "guidance_until": 0.5}, "beside guidance_until 0.5"),
        ({"guidance_interval": [0.0, 1e-5], "num_inference_steps": 2}, "within which none of the 2 steps lies"),
        ({"diversity": "more"}, "diversity is 'more'; choose one of cads"),
    ):
        with pytest.raises(ValueError, match=message):
            mini(["star"], **arguments)
    flux = CASES["flux"]
    with pytest.raises(ValueError, match="is not guided by a second prediction; leave it out, or give true_cfg_scale"):
        flux.draw(flux.pipeline, PROMPTS, guidance_interval=[0.2, 0.8])
    true = {
        "true_cfg_scale": 3.0,
        "negative_prompt": "dull",
        "num_inference_steps": 5,
        "guidance_interval": [0.2, 0.8],
    }
    rows = [seen.num_rows for _, seen in seen_calls(flux.pipeline, lambda: flux.draw(flux.pipeline, PROMPTS, **true))]
    assert set(rows) == {2, 4}
    mini.scheduler = EDMEulerScheduler()
    with pytest.raises(ValueError, match="the timesteps of EDMEulerScheduler are no share"):
        mini(["star"], diversity="cads")
