"""Gradient strategies: which steps they choose, what they refuse, and their gradient against full autograd.

The reference rollouts below are written from each paper's definition, with DDIM's update (Song et al. 2021, Eq. 12)
spelt out and stop-gradients put where the paper puts them; nothing in them comes from the code under test.
"""

from itertools import pairwise

import pytest
import torch
from diffusers import DDIMScheduler

from ubgen_pipeline.latent_denoising import denoising_steps
from ubgen_training.sampler.gradient_steps import GRADIENT_STRATEGIES, GradientSteps, even_k, gradient_strategy
from ubgen_training.sampler.replays import DirectAlign, Leap
from ubgen_training.ubgen.ubgen_config import UbGenConfig

NUM_STEPS = 8


def choose(name, num_steps=NUM_STEPS, num_gradient_steps=3, seed=0, **settings):
    return gradient_strategy(name)(
        num_steps, num_gradient_steps, torch.Generator().manual_seed(seed), **{"step_list": [1, 4, 6], **settings}
    )


def test_even_k_is_evenly_spaced_and_reaches_every_offset():
    offsets = set()
    for seed in range(200):
        steps = sorted(choose("even_k", 50, 5, seed).steps)
        assert len(steps) == 5
        assert [b - a for a, b in pairwise(steps)] == [10] * 4
        offsets.add(steps[0])
    assert offsets == set(range(10))


def test_even_k_stays_in_range_when_the_steps_do_not_divide():
    for seed in range(50):
        assert max(choose("even_k", 20, 3, seed).steps) < 20


def test_even_k_of_all_steps_is_all_steps():
    assert choose("even_k", 4, 4).steps == {0, 1, 2, 3} == choose("full", 4).steps


def test_even_k_draws_once_from_the_generator():
    used, expected = torch.Generator().manual_seed(0), torch.Generator().manual_seed(0)
    even_k(50, 5, used)
    torch.randint(10, (), generator=expected)
    assert torch.equal(used.get_state(), expected.get_state())


def test_random_tail_is_a_tail_of_every_length_up_to_k():
    lengths = set()
    for seed in range(100):
        steps = choose("random_tail", 20, 6, seed).steps
        assert steps == set(range(20 - len(steps), 20))
        lengths.add(len(steps))
    assert lengths == set(range(1, 7))


@pytest.mark.parametrize("settings, wanted", [({}, range(30, 40)), ({"num_late_steps": 3}, range(37, 40))])
def test_refl_jumps_from_every_late_step(settings, wanted):
    chosen = [choose("refl", 40, seed=seed, **settings) for seed in range(200)]
    assert all(p.steps == {p.stop_at} for p in chosen)
    assert {p.stop_at for p in chosen} == set(wanted)


def test_the_others_are_what_their_names_say():
    assert choose("last_k", 10, 3) == GradientSteps(frozenset({7, 8, 9}))
    assert choose("steps", 10, step_list=[9, 0]) == GradientSteps(frozenset({0, 9}))
    assert choose("drtune", seed=4) == GradientSteps(choose("even_k", seed=4).steps, detach_inputs=True)
    # the least there can be
    assert all(choose(name, 1, 1, step_list=[0]).steps == {0} for name in GRADIENT_STRATEGIES)


def test_hyphens_are_accepted_and_an_unknown_strategy_is_named():
    assert all(gradient_strategy(name.replace("_", "-")) is each for name, each in GRADIENT_STRATEGIES.items())
    with pytest.raises(ValueError, match="gradient_strategy is 'every_k'"):
        gradient_strategy("every_k")


def test_leaps_begin_anywhere_and_known_noise_has_any_level():
    leaps = [choose("leap", 10, 2, seed) for seed in range(300)]
    assert all(len(each.steps) == 2 and each.replay == Leap(0.5) for each in leaps)
    assert {step for each in leaps for step in each.steps} == set(range(10))
    # every pair, the noisiest with the last among them
    assert len({each.steps for each in leaps}) == 45
    assert choose("leap", leap_discount=0.0).replay == Leap(0.0)
    assert choose("leap", leap_tolerance=0.2).replay == Leap(0.5, tolerance=0.2)
    levels = [choose("direct_align", 10, seed=seed) for seed in range(100)]
    assert {each.replay for each in levels} == {DirectAlign()}
    assert {step for each in levels for step in each.steps} == set(range(10))


@pytest.mark.parametrize("name", ["even_k", "last_k", "random_tail", "drtune", "leap"])
@pytest.mark.parametrize("count", [0, -1, 21])
def test_a_count_that_does_not_fit_is_named(name, count):
    with pytest.raises(ValueError, match=rf"num_gradient_steps is {count}.* 20 steps \(num_inference_steps\)"):
        choose(name, 20, count)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"num_gradient_steps": 5}, "num_gradient_steps is 5"),
        ({"gradient_strategy": "even-k", "num_gradient_steps": 0}, "num_gradient_steps is 0"),
        ({"gradient_strategy": "steps"}, "gradient_step_list is None"),
        ({"gradient_strategy": "steps", "gradient_step_list": []}, r"gradient_step_list is \[\]"),
        ({"gradient_strategy": "steps", "gradient_step_list": [1, 4]}, r"gradient_step_list holds \[4\]"),
        ({"gradient_strategy": "steps", "gradient_step_list": [-1]}, r"gradient_step_list holds \[-1\]"),
        ({"gradient_strategy": "steps", "gradient_step_list": [2, 2]}, r"gradient_step_list holds \[2\] more than"),
        ({"gradient_strategy": "refl", "num_late_steps": 0}, "num_late_steps is 0"),
        ({"gradient_strategy": "refl", "num_late_steps": 5}, "num_late_steps is 5"),
        ({"gradient_strategy": "leap", "num_gradient_steps": 2, "leap_discount": 1.5}, "leap_discount is 1.5"),
        ({"gradient_strategy": "leap", "num_gradient_steps": 2, "leap_tolerance": 0.0}, "leap_tolerance is 0.0"),
        ({"num_gradient_steps": 2, "leap_tolerance": 0.1}, "leap_tolerance is 0.1, but gradient_strategy is 'even_k'"),
        ({"num_gradient_steps": 2, "leap_discount": 0.5}, "leap_discount is 0.5, but gradient_strategy is 'even_k'"),
        (
            {"gradient_strategy": "leap", "num_gradient_steps": 2, "equalise_gradient_steps": True},
            "equalise_gradient_steps is on, but the gradients of gradient_strategy 'leap'",
        ),
        ({"gradient_strategy": "full", "num_late_steps": 2}, "num_late_steps is 2, but gradient_strategy is 'full'"),
        ({"gradient_step_list": [1], "num_gradient_steps": 1}, r"gradient_step_list is \[1\], but gradient_strategy"),
        ({"gradient_strategy": "last"}, "gradient_strategy is 'last'"),
        ({"num_gradient_steps": 1, "reward_micro_batch_size": 0}, "reward_micro_batch_size is 0"),
    ],
)
def test_settings_that_do_not_fit_are_named_by_the_config(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        UbGenConfig(output_dir=str(tmp_path), num_inference_steps=4, use_cpu=True, **settings)


def test_equalising_is_said_with_the_steps(tmp_path):
    config = UbGenConfig(
        output_dir=str(tmp_path),
        num_inference_steps=4,
        num_gradient_steps=2,
        equalise_gradient_steps=True,
        use_cpu=True,
    )
    chosen = config.choose_gradient_steps(4, torch.Generator().manual_seed(2))
    assert chosen == GradientSteps(even_k(4, 2, torch.Generator().manual_seed(2)).steps, equalise=True)


@pytest.mark.parametrize("strategy", ["full", "refl", "steps", "direct_align"])
def test_strategies_without_k_do_not_mind_its_default(tmp_path, strategy):
    listed = {"gradient_step_list": [3, 0]} if strategy == "steps" else {}
    config = UbGenConfig(
        output_dir=str(tmp_path), num_inference_steps=4, gradient_strategy=strategy, use_cpu=True, **listed
    )
    assert config.num_gradient_steps == 5
    assert config.choose_gradient_steps(4, torch.Generator()).steps <= set(range(4))


class Toy(torch.nn.Module):
    """a tanh(x) + b mean(prompt) x + c t / 1000, so that every call's Jacobian depends on where it is."""

    def __init__(self):
        super().__init__()
        self.weights = torch.nn.Parameter(torch.tensor([0.9, 0.6, 0.5], dtype=torch.float64))

    def forward(self, latents, timestep, prompt_embeds):
        a, b, c = self.weights
        prompt = prompt_embeds.mean(dim=(1, 2))[:, None, None, None]
        return a * latents.tanh() + b * prompt * latents + c * timestep / 1000


def scheduler():
    """DDIM in double precision."""
    made = DDIMScheduler(clip_sample=False, set_alpha_to_one=False)
    made.alphas_cumprod, made.final_alpha_cumprod = made.alphas_cumprod.double(), made.final_alpha_cumprod.double()
    made.set_timesteps(NUM_STEPS)
    return made


def inputs():
    generator = torch.Generator().manual_seed(3)
    draw = {"generator": generator, "dtype": torch.float64}
    return torch.randn(2, 2, 3, 3, **draw), torch.rand(2, 5, 4, **draw), -torch.rand(2, 5, 4, **draw)


def noise_at(toy, latents, t, prompts, negatives, scale):
    """The guided prediction, from two calls."""
    conditional = toy(latents, t, prompts)
    if scale == 1:
        return conditional
    unconditional = toy(latents, t, negatives)
    return unconditional + scale * (conditional - unconditional)


def ddim_update(latents, noise, alpha, alpha_next):
    clean = (latents - (1 - alpha).sqrt() * noise) / alpha.sqrt()
    return alpha_next.sqrt() * clean + (1 - alpha_next).sqrt() * noise


def reference(strategy, chosen, toy, scale):
    """The paper's gradient for a strategy that trains the positions ``chosen``."""
    latents, prompts, negatives = inputs()
    made = scheduler()
    alphas = made.alphas_cumprod[made.timesteps]
    followers = torch.cat([alphas[1:], made.final_alpha_cumprod[None]])
    for index, (t, alpha, alpha_next) in enumerate(zip(made.timesteps, alphas, followers)):
        if strategy in ("last_k", "random_tail", "refl") and index == min(chosen):
            # DRaFT's and AlignProp's truncation, ReFL's rollout: nothing before this step is differentiated
            latents = latents.detach()
        read = latents.detach() if strategy == "drtune" else latents
        noise = noise_at(toy, read, t, prompts, negatives, scale)
        if strategy == "refl" and index in chosen:
            return (latents - (1 - alpha).sqrt() * noise) / alpha.sqrt()
        if strategy in ("even_k", "drtune", "steps") and index not in chosen:
            noise = noise.detach()
        latents = ddim_update(latents, noise, alpha, alpha_next)
    return latents


def own(drawn, toy, scale):
    latents, prompts, negatives = inputs()
    steps = denoising_steps(
        toy,
        scheduler(),
        latents,
        prompts,
        negative=negatives,
        guidance_scale=scale,
        gradient_steps=drawn.steps,
        detach_inputs=drawn.detach_inputs,
        stop_at=drawn.stop_at,
    )
    return list(steps)[-1].latents


def gradient(clean, toy):
    # a loss whose gradient differs from pixel to pixel
    loss = (clean * torch.linspace(-1, 2, clean.numel()).reshape(clean.shape)).sin().sum()
    return torch.autograd.grad(loss, toy.weights)[0]


# those whose gradient runs through the loop; tests/training/sampler/test_replays.py has the others
IN_THE_LOOP = [name for name in GRADIENT_STRATEGIES if choose(name).replay is None]


@pytest.mark.parametrize("scale", [1.0, 2.5])
@pytest.mark.parametrize("strategy", IN_THE_LOOP)
def test_gradient_is_that_of_full_autograd_with_the_papers_stop_gradients(strategy, scale):
    # of this seed: a tail of two steps, and a jump before the last step, where the weight c has no gradient
    drawn = choose(strategy, seed=3, num_late_steps=5)
    toy = Toy()
    ours, expected = own(drawn, toy, scale), reference(strategy, drawn.steps, toy, scale)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-12)
    wanted = gradient(expected, toy)
    assert wanted.abs().min() > 1e-4
    torch.testing.assert_close(gradient(ours, toy), wanted, rtol=1e-9, atol=0)


def test_the_strategies_gradients_differ():
    """So that none of the comparisons above could pass with another strategy's code."""
    toy = Toy()
    gradients = [gradient(own(choose(name, seed=3, num_late_steps=5), toy, 2.5), toy) for name in IN_THE_LOOP]
    for index, one in enumerate(gradients):
        for other in gradients[:index]:
            assert (one - other).norm() > 1e-3 * one.norm()


@pytest.mark.parametrize("strategy", list(GRADIENT_STRATEGIES))
def test_only_trained_steps_run_with_gradient_and_none_after_a_jump(strategy):
    drawn, modes = choose(strategy, seed=3, num_late_steps=5), []

    class Watched(Toy):
        def forward(self, latents, timestep, prompt_embeds):
            modes.append((torch.is_grad_enabled(), latents.requires_grad))
            return super().forward(latents, timestep, prompt_embeds)

    own(drawn, Watched(), 2.5)
    assert [index for index, (grad, _) in enumerate(modes) if grad] == sorted(drawn.steps)
    assert len(modes) == (NUM_STEPS if drawn.stop_at is None else drawn.stop_at + 1)
    if strategy == "drtune":
        assert not any(reads_gradient for _, reads_gradient in modes)
