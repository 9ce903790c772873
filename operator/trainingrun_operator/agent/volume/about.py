"""Which files are about a training and hold no state of it, by their names: no training resumes from them alone."""

from __future__ import annotations

import re

_ABOUT = re.compile(
    r"""(?:.*/)?(?:
      [^/]*\.(?:ya?ml|toml|ini|cfg|py|ipynb|sh|md|rst|diff|patch)            # hparams.yaml of Lightning, .hydra/config.yaml, train.py
    | [^/]*\.(?:png|jpe?g|gif|bmp|webp|svg|pdf|html|mp4|webm)                # plots and samples
    | (?:[^/]*[-_.])?(?:h(?:yper)?[-_]?param(?:eter)?s|config(?:uration)?|cfg|conf|args|arguments|opts|options|settings|flags|command|env(?:ironment)?
        |requirements|readme)(?:[-_.][^/]*)?\.(?:json|txt)
    | wandb-(?:metadata|summary)\.json | [^/]*\.wandb                        # Weights & Biases
    | mlruns/(?:[^/]*/){2}(?:metrics|params|tags)/.*                         # the file store of MLflow
    )""",
    re.DOTALL | re.IGNORECASE | re.VERBOSE,
)


def is_about(path: str) -> bool:
    """Whether a file has settings, code, pictures or numbers of a training. Many trainings write some of them before their first step."""
    return _ABOUT.fullmatch(path) is not None
