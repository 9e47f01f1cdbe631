"""Settings with which a small network is trained for four updates of four images of three classes."""

NAMES = ("apple", "pear", "plum")
SMALL = {"channels": [8, 8, 16, 16], "stem_width": 8}
SETTINGS = {
    "architecture": "resnet10t",
    "model_args": SMALL,
    "image_size": 32,
    "per_device_train_batch_size": 4,
    "average_decay": 0.9,
    "use_cpu": True,
    "disable_tqdm": True,
    "logging_steps": 1,
    "save_strategy": "steps",
    "save_steps": 1,
    "max_steps": 4,
    "warmup_steps": 0,
    "seed": 3,
}
