"""What TensorBoard's own writers have written, for tests of several readers."""

from __future__ import annotations

import base64
from typing import Final

TENSORBOARD: Final = base64.b64decode(
    "SAAAAAAAAAD+kkidCT6TXZNZw9pBGg1icmFpbi5FdmVudDoyUi4KLHRlbnNvcmJvYXJkLnN1bW1hcnkud3JpdGVyLmV2ZW50X2ZpbGVfd3JpdG"
    "Vyq5J+liAAAAAAAAAAKe2pUAkAAMBrzVXaQRAKKhMKEQoKdHJhaW4vbG9zcxUAAABA1OnMpjkAAAAAAAAAiwc38QkAAMBrzVXaQRAKKiwKKgoP"
    "dHJhaW4vZ3JhZF9ub3JtQgoIARIAKgQAAIA/SgsKCQoHc2NhbGFyczbfurQgAAAAAAAAACntqVAJAABAbs1V2kEQFCoTChEKCnRyYWluL2xvc3"
    "MVAADAP4CNp845AAAAAAAAAIsHN/EJAABAbs1V2kEQFCosCioKD3RyYWluL2dyYWRfbm9ybUIKCAESACoEAAAAQEoLCgkKB3NjYWxhcnPTphRj"
    "HwAAAAAAAABRS0QYCQAAgG7NVdpBEBQqEgoQCglldmFsL2xvc3MVAADAf/KiUIc="
)
"""By tensorboard 2.21.0, with which torch.utils.tensorboard writes: a loss as a plain number, a norm as TensorFlow 2 writes it, an evaluation's NaN."""
TENSORBOARD_X: Final = base64.b64decode(
    "GAAAAAAAAACjf0siCSuyX5NZw9pBGg1icmFpbi5FdmVudDoylB3O6SAAAAAAAAAAKe2pUAkAAEBpzVXaQRAeKhMKEQoKTG9zcy90cmFpbhUAAE"
    "A/BZGChR8AAAAAAAAAUUtEGAkAAEBpzVXaQRAeKhIKEAoJTG9zcy90ZXN0FQAAgD6/lusgRwAAAAAAAAC6w/ubCQAAQGnNVdpBEB4qOgo4ChNj"
    "b25maWcvdGV4dF9zdW1tYXJ5QhcIBxIEEgIIAUINeydsb3NzJzogMC4xfUoICgYKBHRleHSBHO/d"
)
"""By tensorboardX 2.6.5: two losses and a text."""
