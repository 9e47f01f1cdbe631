"""Settings with which a UNet is trained for three updates of two images."""

NAMES = ("circle", "star")
LORA_FILE = "pytorch_lora_weights.safetensors"
SETTINGS = {
    "per_device_train_batch_size": 2,
    "max_steps": 3,
    "save_steps": 1,
    "logging_steps": 1,
    "learning_rate": 1e-3,
    "lora_rank": 2,
    "average_decay": 0.9,
    "use_cpu": True,
    "disable_tqdm": True,
    "seed": 3,
}
