"""The sampler on the mini UNet: strategies' LoRA gradients against full autograd, and decoding in micro-batches."""

import pytest
import torch
from torch import nn

from support.text_features import text_features
from ubgen_pipeline.initial_latents import draw_latents, step_generators
from ubgen_pipeline.models.loading import load_pipeline, set_scheduler
from ubgen_training.lora.adapter import LoraSettings
from ubgen_training.sampler.equalised_gradients import step_weights
from ubgen_training.sampler.gradient_steps import GRADIENT_STRATEGIES, GradientSteps
from ubgen_training.sampler.replays import DirectAlign, Leap
from ubgen_training.sampler.sampler_model import SamplerModel, SamplingSettings

NAMES = ["circle", "star", "ring"]
LABELS, SEEDS = torch.tensor([0, 2]), [11, 12]
NUM_STEPS, GUIDANCE = 4, 2.0


def build(model, **sampling):
    settings = SamplingSettings(**{"num_inference_steps": NUM_STEPS, "guidance_scale": GUIDANCE, **sampling})
    sampler = SamplerModel(load_pipeline(model, scheduler="ddpm"), NAMES, LoraSettings(4), settings, seed=3)
    torch.manual_seed(0)
    for name, parameter in sampler.named_parameters():
        # B starts at zero, where A's gradient vanishes
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    return sampler


@pytest.fixture(scope="module")
def sampler(tiny_model):
    return build(tiny_model)


def lora_gradient(sampler, images):
    # a loss whose gradient differs from pixel to pixel
    loss = (images * torch.linspace(-1, 1, images.numel()).reshape(images.shape)).sum()
    parameters = [p for p in sampler.parameters() if p.requires_grad]
    return torch.cat([gradient.flatten() for gradient in torch.autograd.grad(loss, parameters)])


def reference_images(sampler, gradient_steps):
    """The rollout by plain calls, all of it under autograd, with stop-gradients where the strategy has them."""
    pipeline, scheduler = sampler.pipeline, sampler.pipeline.scheduler
    scheduler.set_timesteps(NUM_STEPS)
    latents, generators = draw_latents(SEEDS, sampler.latent_shape), step_generators(SEEDS)
    prompts = text_features(pipeline, [NAMES[label] for label in LABELS])
    nothing = text_features(pipeline, ["", ""])
    for index, timestep in enumerate(scheduler.timesteps):
        read = latents.detach() if gradient_steps.detach_inputs else latents
        unconditional = pipeline.unet(read, timestep, nothing).sample
        prediction = unconditional + GUIDANCE * (pipeline.unet(read, timestep, prompts).sample - unconditional)
        prediction = prediction if index in gradient_steps.steps else prediction.detach()
        if index == gradient_steps.stop_at:
            signal = scheduler.alphas_cumprod[timestep]
            # the mini model predicts the velocity
            latents = signal.sqrt() * latents - (1 - signal).sqrt() * prediction
            break
        latents = scheduler.step(prediction, timestep, latents, generator=generators).prev_sample
    return pipeline.vae.decode(latents / pipeline.vae.config.scaling_factor).sample / 2 + 0.5


@pytest.mark.parametrize(
    "gradient_steps",
    [
        GradientSteps(frozenset({0, 2})),
        GradientSteps(frozenset({1, 3}), detach_inputs=True),
        GradientSteps(frozenset({2}), stop_at=2),
    ],
    ids=["even_k", "drtune", "refl"],
)
def test_the_loras_gradient_is_that_of_full_autograd_with_stop_gradients(sampler, gradient_steps):
    images, expected = sampler(LABELS, SEEDS, gradient_steps), reference_images(sampler, gradient_steps)
    torch.testing.assert_close(images, expected, rtol=0, atol=1e-4)
    own, reference = lora_gradient(sampler, images), lora_gradient(sampler, expected)
    assert reference.norm() > 0
    assert (own - reference).norm() < 1e-4 * reference.norm()


def reference_rollout(sampler):
    """By plain calls, without gradient: the latents before every step and the final ones, the levels, a move from one
    to another, and the generators of the noise that the steps added."""
    pipeline, scheduler = sampler.pipeline, sampler.pipeline.scheduler
    scheduler.set_timesteps(NUM_STEPS)
    prompts = text_features(pipeline, [NAMES[label] for label in LABELS])
    nothing = text_features(pipeline, ["", ""])

    def predict(latents, position):
        timestep = scheduler.timesteps[position]
        unconditional = pipeline.unet(latents, timestep, nothing).sample
        return unconditional + GUIDANCE * (pipeline.unet(latents, timestep, prompts).sample - unconditional)

    latents, generators = [draw_latents(SEEDS, sampler.latent_shape)], step_generators(SEEDS)
    with torch.no_grad():
        for position, timestep in enumerate(scheduler.timesteps):
            stepped = scheduler.step(predict(latents[-1], position), timestep, latents[-1], generator=generators)
            latents.append(stepped.prev_sample)
    signals = [*(float(scheduler.alphas_cumprod[timestep]) for timestep in scheduler.timesteps), 1.0]
    levels = [(signal**0.5, (1 - signal) ** 0.5) for signal in signals]

    def move(latents, position, to, read=None):
        # the mini model predicts the velocity
        velocity = predict(latents if read is None else read, position)
        (alpha, sigma), (alpha_to, sigma_to) = levels[position], levels[to]
        return alpha_to * (alpha * latents - sigma * velocity) + sigma_to * (sigma * latents + alpha * velocity)

    return latents, levels, move, generators


def decoded(pipeline, latents):
    return pipeline.vae.decode(latents / pipeline.vae.config.scaling_factor).sample / 2 + 0.5


def test_leaps_have_the_rollouts_images_and_the_gradient_of_two_calls(sampler):
    latents, _, move, _ = reference_rollout(sampler)
    landed = move(latents[1], 1, 3)
    middle = landed - landed.detach() + latents[3]
    landed = move(middle, 3, NUM_STEPS, read=0.3 * middle + 0.7 * middle.detach())
    expected = decoded(sampler.pipeline, landed - landed.detach() + latents[-1])
    images = sampler(LABELS, SEEDS, GradientSteps(frozenset({1, 3}), replay=Leap(0.3)))
    torch.testing.assert_close(images, expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(images, sampler(LABELS, SEEDS, GradientSteps(frozenset())), rtol=0, atol=1e-4)
    own, reference = lora_gradient(sampler, images), lora_gradient(sampler, expected)
    assert reference.norm() > 0
    assert (own - reference).norm() < 1e-4 * reference.norm()


@pytest.mark.parametrize("position", [0, 2, 3])
def test_known_noise_gives_the_gradient_of_one_step(sampler, position):
    latents, levels, move, generators = reference_rollout(sampler)
    # none that the finished latents are made of
    noise = torch.stack([torch.randn(sampler.latent_shape, generator=each) for each in generators])
    (alpha, sigma), (alpha_to, sigma_to) = levels[position], levels[position + 1]
    moved = move(alpha * latents[-1] + sigma * noise, position, position + 1)
    expected = decoded(sampler.pipeline, (moved - sigma_to * noise) / alpha_to)
    images = sampler(LABELS, SEEDS, GradientSteps(frozenset({position}), replay=DirectAlign()))
    torch.testing.assert_close(images, expected, rtol=0, atol=1e-3)
    own, reference = lora_gradient(sampler, images), lora_gradient(sampler, expected)
    assert reference.norm() > 0
    assert (own - reference).norm() < 1e-3 * reference.norm()


def test_equalised_steps_change_the_gradient_and_no_pixel(sampler):
    steps = frozenset({0, 3})
    plain, equalised = (
        sampler(LABELS, SEEDS, GradientSteps(steps, detach_inputs=True, equalise=on)) for on in (False, True)
    )
    assert torch.equal(plain, equalised)
    scheduler = sampler.pipeline.scheduler
    scheduler.set_timesteps(NUM_STEPS)
    sizes = [abs(weight) for weight in step_weights(scheduler, scheduler.timesteps)]
    # with constant inputs the gradient is the sum of each step's own, each with its factor
    parts = [
        lora_gradient(sampler, sampler(LABELS, SEEDS, GradientSteps(frozenset({step}), detach_inputs=True)))
        * (sum(sizes) / NUM_STEPS / sizes[step])
        for step in steps
    ]
    expected = sum(parts)
    assert (lora_gradient(sampler, plain) - expected).norm() > 0.1 * expected.norm()
    assert (lora_gradient(sampler, equalised) - expected).norm() < 1e-3 * expected.norm()


@pytest.mark.parametrize("name", list(GRADIENT_STRATEGIES))
def test_every_strategy_gives_a_gradient_to_every_lora_matrix(sampler, name):
    gradient_steps = GRADIENT_STRATEGIES[name](NUM_STEPS, 2, torch.Generator().manual_seed(1), step_list=[0, 3])
    images = sampler(LABELS, SEEDS, gradient_steps)
    parameters = [p for p in sampler.parameters() if p.requires_grad]
    assert all(gradient.any() for gradient in torch.autograd.grad(images.square().mean(), parameters))


@pytest.mark.parametrize("name, expected", [("ddpm", 4), ("pndm", 5)])
def test_num_steps_counts_the_calls_of_the_unet(tiny_model, name, expected):
    sampler, calls = build(tiny_model), []
    set_scheduler(sampler.pipeline, name)
    sampler.denoiser_network.register_forward_pre_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    assert sampler.num_steps == expected
    sampler(LABELS, SEEDS, GRADIENT_STRATEGIES["last_k"](sampler.num_steps, 1, torch.Generator()))
    assert calls == [False] * (expected - 1) + [True]


def test_steps_that_does_not_fit_is_refused_before_the_first_step(sampler):
    calls = []
    handle = sampler.denoiser_network.register_forward_pre_hook(lambda *_: calls.append(0))
    try:
        with pytest.raises(ValueError, match=r"gradient_steps holds \[4\]"):
            sampler(LABELS, SEEDS, GradientSteps(frozenset({4})))
    finally:
        handle.remove()
    assert not calls


def test_decoding_in_micro_batches_changes_neither_images_nor_gradient(tiny_model, sampler):
    micro = build(tiny_model, decode_batch_size=2)
    labels, seeds, gradient_steps = torch.tensor([0, 2, 1]), [11, 12, 13], GradientSteps(frozenset({1, 3}))
    calls = []
    decoder = micro.pipeline.vae.decoder
    decoder.register_forward_pre_hook(lambda _, inputs: calls.append((len(inputs[0]), torch.is_grad_enabled())))
    images, expected = micro(labels, seeds, gradient_steps), sampler(labels, seeds, gradient_steps)
    assert [size for size, _ in calls] == [2, 1]
    torch.testing.assert_close(images, expected, rtol=0, atol=1e-5)
    own, reference = lora_gradient(micro, images), lora_gradient(sampler, expected)
    # decoded once more, the last first, each only when its turn comes
    assert [size for size, _ in calls] == [2, 1, 1, 2]
    assert (own - reference).norm() < 1e-5 * reference.norm()


def test_decoding_in_micro_batches_keeps_no_activations(sampler, tiny_model):
    """Bytes that autograd keeps from decoding: of a micro-batch its latents, instead of the VAE's activations."""

    def kept(model):
        storages = {}

        def pack(tensor):
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        latents = torch.zeros(2, *model.latent_shape, requires_grad=True)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            images = model.decode(latents)
        assert images.requires_grad
        weights = {p.untyped_storage().data_ptr() for p in model.pipeline.vae.parameters()}
        return sum(size for pointer, size in storages.items() if pointer not in weights)

    assert kept(build(tiny_model, decode_batch_size=1)) < 0.05 * kept(sampler)


def test_a_decode_batch_size_below_one_is_refused(tiny_model):
    with pytest.raises(ValueError, match="decode_batch_size is 0"):
        build(tiny_model, decode_batch_size=0)


def test_text_encoders_stay_where_they_encoded(tiny_model):
    sampler = build(tiny_model)
    sampler.to(torch.float64)
    assert sampler.pipeline.vae.dtype == sampler.denoiser_network.dtype == torch.float64
    assert sampler.pipeline.text_encoder.dtype == torch.float32
