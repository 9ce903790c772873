"""Imports what the trainings of docs and tests import, and says what it is: a name and a version a line."""

import importlib
import platform
from importlib.metadata import version

IMPORTS = {
    "torch": ("torch.distributed.checkpoint",),
    "transformers": (
        "transformers.trainer",
        "transformers.models.gpt2.modeling_gpt2",
        "transformers.trainer_jit_checkpoint",
    ),
    "accelerate": ("accelerate",),
    "lightning": ("lightning.pytorch.callbacks",),
    "jax": ("jax.numpy",),
    "orbax-checkpoint": ("orbax.checkpoint",),
    "keras": ("keras",),
    "safetensors": ("safetensors.torch",),
    "stable-baselines3": ("stable_baselines3",),
    "prometheus-client": ("prometheus_client",),
}
importlib.import_module("mfusepy")  # of the tests: no training imports it

print("Python", platform.python_version())
for distribution, modules in IMPORTS.items():
    for module in modules:
        importlib.import_module(module)
    print(distribution, version(distribution))
