"""Imports what the trainings of docs and tests import, and says what it is: a name and a version a line.

Its argument is `all`, or `tensorflow`, which other libraries must not find.
"""

import importlib
import platform
import sys
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
    "tensorboard": ("torch.utils.tensorboard",),
    "tensorboardx": ("tensorboardX",),
}
TENSORFLOW = {"tensorflow-cpu" if platform.machine() == "x86_64" else "tensorflow": ("tensorflow",)}

if sys.argv[1] == "all":
    importlib.import_module("mfusepy")  # of the tests: no training imports it
    print("Python", platform.python_version())
for distribution, modules in (IMPORTS if sys.argv[1] == "all" else TENSORFLOW).items():
    for module in modules:
        importlib.import_module(module)
    print(distribution.removesuffix("-cpu"), version(distribution))
