"""Writers on PyTorch: torch.save, torch.distributed.checkpoint by two ranks, safetensors, Accelerate, Hugging Face's Trainer, Lightning, Stable-Baselines3."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from shared import Writer, same, saved, serve

if TYPE_CHECKING:
    from collections.abc import Callable

STEPS = (100, 200, 300)
RANKS = 2
BETWEEN_SAVES_SECONDS = 2.5
"""More than clocks of nodes differ: file times tell two saves into one folder apart."""


def state_of(step: int) -> dict[str, Any]:
    """Return a state in which every number is the step."""
    return {
        "model": {f"layer{index}": torch.full((64, 64), float(step)) for index in range(3)},
        "optimizer": {"momentum": torch.full((64, 64), float(step))},
        "step": torch.tensor(step),
    }


def progress_of(state: dict[str, Any]) -> int:
    step = int(state["step"])
    for name, tensor in (state["model"] | state["optimizer"]).items():
        same(name, int(tensor.min()), step)
        same(name, int(tensor.max()), step)
    return step


# -- torch.save ---------------------------------------------------------------------------------------------------------


def save_in_place(folder: Path) -> None:
    for step in STEPS:
        torch.save(state_of(step), folder / "ckpt.pt")
        saved(folder, step, "ckpt.pt")


def save_by_rename(folder: Path) -> None:
    for step in STEPS:
        torch.save(state_of(step), folder / "ckpt.pt.tmp")
        (folder / "ckpt.pt.tmp").rename(folder / "ckpt.pt")
        saved(folder, step, "ckpt.pt")


def save_numbered(folder: Path) -> None:
    for step in STEPS:
        torch.save(state_of(step), folder / f"model-{step}.pt")
        saved(folder, step, f"model-{step}.pt")


def save_two_files(folder: Path) -> None:
    """As guided-diffusion does: model and optimizer of one step are two files."""
    for step in STEPS:
        state = state_of(step)
        torch.save(state["model"], folder / f"model{step:06}.pt")
        torch.save({"optimizer": state["optimizer"], "step": state["step"]}, folder / f"opt{step:06}.pt")
        saved(folder, step, f"model{step:06}.pt", f"opt{step:06}.pt")


def load_file(path: Path) -> int:
    return progress_of(torch.load(path / "ckpt.pt" if path.is_dir() else path))


def load_two_files(path: Path) -> int:
    path = next(path.glob("model*")) if path.is_dir() else path
    number = path.stem.lstrip("modelpt")
    model = torch.load(path.with_name(f"model{number}.pt"))
    return progress_of({"model": model} | torch.load(path.with_name(f"opt{number}.pt")))


# -- torch.distributed.checkpoint ---------------------------------------------------------------------------------------


def by_two_ranks(save: Callable[[Path, int], None], name: str = "step_{step}") -> Callable[[Path], None]:
    """Run this process as rank 0 and a fork of it as rank 1."""

    def write(folder: Path) -> None:
        with tempfile.TemporaryDirectory() as meeting:
            child = os.fork()
            rank = 0 if child else 1
            dist.init_process_group("gloo", init_method=f"file://{meeting}/store", rank=rank, world_size=RANKS)
            for step in STEPS:
                save(folder / name.format(step=step), step)
                dist.barrier()
                if child:
                    saved(folder, step, name.format(step=step))
                dist.barrier()
                time.sleep(BETWEEN_SAVES_SECONDS)
            dist.destroy_process_group()
            if not child:
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0

    return write


def of_rank(step: int) -> dict[str, Any]:
    """Return the state of one rank: half of the tensors."""
    names = ("model.layer0", "model.layer1") if dist.get_rank() == 0 else ("model.layer2", "optimizer.momentum")
    state: dict[str, Any] = {name: torch.full((64, 64), float(step)) for name in names}
    return state | {"step": torch.tensor(step)} if dist.get_rank() == 0 else state


def save_distributed(folder: Path, step: int) -> None:
    dcp.save(of_rank(step), checkpoint_id=folder)


def save_asynchronously(folder: Path, step: int) -> None:
    dcp.async_save(of_rank(step), checkpoint_id=folder).result()


def load_distributed(path: Path) -> int:
    path = path / "latest" if (path / "latest").is_dir() else path
    names = ("model.layer0", "model.layer1", "model.layer2", "optimizer.momentum")
    state: dict[str, Any] = {name: torch.zeros(64, 64) for name in names} | {"step": torch.tensor(0)}
    dcp.load(state, checkpoint_id=path)
    step = state.pop("step")
    return progress_of({"model": state, "optimizer": {}, "step": step})


# -- safetensors --------------------------------------------------------------------------------------------------------


def save_safetensors(folder: Path) -> None:
    from safetensors.torch import save_file

    for step in STEPS:
        save_file(state_of(step)["model"], folder / f"model-{step}.safetensors", {"step": str(step)})
        saved(folder, step, f"model-{step}.safetensors")


def load_safetensors(path: Path) -> int:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        model = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
        return progress_of({"model": model, "optimizer": {}, "step": file.metadata()["step"]})


# -- Accelerate ---------------------------------------------------------------------------------------------------------


def accelerator(folder: Path) -> tuple[Any, Any, Any]:
    from accelerate import Accelerator
    from accelerate.utils import ProjectConfiguration

    project = ProjectConfiguration(str(folder), automatic_checkpoint_naming=True, total_limit=2)
    made = Accelerator(cpu=True, project_config=project)
    model = torch.nn.Linear(64, 64)
    model, optimizer = made.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
    return made, model, optimizer


def save_accelerate(folder: Path) -> None:
    made, model, optimizer = accelerator(folder)
    for number in range(4):
        fill(model, number)
        for group in optimizer.param_groups:
            group["lr"] = float(number)
        made.save_state()
        saved(folder, number, f"checkpoints/checkpoint_{number}")


def fill(model: Any, value: int) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(value)


def load_accelerate(path: Path) -> int:
    made, model, optimizer = accelerator(Path(tempfile.gettempdir()))
    made.load_state(str(path))
    number = int(optimizer.param_groups[0]["lr"])
    same("the model", int(model.weight.min()), number)
    return number


# -- Hugging Face's Trainer ---------------------------------------------------------------------------------------------

EVERY = 2


def trainer(folder: Path, steps: int, **arguments: Any) -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments

    class Saved(TrainerCallback):
        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            saved(folder, state.global_step, f"checkpoint-{state.global_step}")

    model = GPT2LMHeadModel(GPT2Config(vocab_size=32, n_positions=8, n_embd=16, n_layer=1, n_head=1))
    data = [{"input_ids": torch.arange(8), "labels": torch.arange(8)}] * 16
    options = TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=1,
        save_strategy="steps",
        save_steps=EVERY,
        logging_steps=1,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        **arguments,
    )
    return Trainer(model=model, args=options, train_dataset=data, callbacks=[Saved()] if steps else [])


def save_trainer(folder: Path) -> None:
    trainer(folder, 3 * EVERY).train()


def save_trainer_with_limit(folder: Path) -> None:
    trainer(folder, 3 * EVERY, save_total_limit=1).train()


def load_trainer(path: Path) -> int:
    """Go on from the checkpoint for one step, as a training that is started again does."""
    from transformers import TrainerState

    step = TrainerState.load_from_json(str(path / "trainer_state.json")).global_step
    with tempfile.TemporaryDirectory() as elsewhere:
        goes_on = trainer(Path(elsewhere), 0)
        goes_on.args.max_steps, goes_on.args.save_strategy = step + 1, "no"
        goes_on.train(resume_from_checkpoint=str(path))
        same("the state", goes_on.state.global_step, step + 1)
        for moments in goes_on.optimizer.state_dict()["state"].values():
            same("the optimizer", int(moments["step"]), step + 1)
    return step


# -- Lightning ----------------------------------------------------------------------------------------------------------


def lightning_trainer(folder: Path, epochs: int, callbacks: list[Any]) -> tuple[Any, Any, Any]:
    import lightning

    class Curve(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = torch.nn.Linear(1, 64)

        def training_step(self, batch: Any, _: int) -> Any:
            loss = self.net(batch[0]).square().mean()
            self.log("loss", -float(self.current_epoch))  # each epoch is better than those before
            return loss

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters())

    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.ones(4, 1)), batch_size=2)
    made = lightning.Trainer(
        default_root_dir=folder,
        max_epochs=epochs,
        callbacks=callbacks,
        logger=False,
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=bool(callbacks),
    )
    return made, Curve(), data


def save_lightning(folder: Path) -> None:
    import lightning
    from lightning.pytorch.callbacks import ModelCheckpoint

    class Saved(lightning.Callback):
        """Its hooks come after those of the checkpoint callback, which the trainer puts last, of the epoch before."""

        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            say(trainer)

        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            say(trainer)

    def say(trainer: Any) -> None:
        if trainer.global_step:
            saved(
                folder, trainer.global_step, *(Path(path).name for path in (keep.last_model_path, keep.best_model_path))
            )

    keep = ModelCheckpoint(folder, "{epoch}-{step}", monitor="loss", save_top_k=2, save_last=True)
    made, module, data = lightning_trainer(folder, 4, [Saved(), keep])
    made.fit(module, data)


def load_lightning(path: Path) -> int:
    path = path / "last.ckpt" if path.is_dir() else path
    made, module, data = lightning_trainer(path.parent, 0, [])
    checkpoint = torch.load(path, weights_only=False)
    made.fit_loop.max_epochs = checkpoint["epoch"] + 2
    made.fit(module, data, ckpt_path=path, weights_only=False)
    same("the trainer", made.global_step, checkpoint["global_step"] + 2)
    return int(checkpoint["global_step"])


# -- Stable-Baselines3 --------------------------------------------------------------------------------------------------


def save_baselines(folder: Path) -> None:
    import gymnasium
    from stable_baselines3 import DQN
    from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback

    class Saved(BaseCallback):
        def _on_step(self) -> bool:
            if self.num_timesteps in STEPS:
                names = (f"_{self.num_timesteps}_steps.zip", f"_replay_buffer_{self.num_timesteps}_steps.pkl")
                saved(folder, self.num_timesteps, *(f"rl_model{name}" for name in names))
            return True

    model = DQN("MlpPolicy", gymnasium.make("CartPole-v1"), buffer_size=300, learning_starts=1000, device="cpu")
    keep = CheckpointCallback(STEPS[0], str(folder), save_replay_buffer=True)
    model.learn(STEPS[-1], callback=[keep, Saved()])


def load_baselines(path: Path) -> int:
    from stable_baselines3 import DQN

    path = max(path.glob("*_steps.zip"), key=lambda one: int(one.stem.split("_")[2])) if path.is_dir() else path
    model = DQN.load(path, device="cpu")
    buffer = path.with_name(path.name.replace("model_", "model_replay_buffer_").replace(".zip", ".pkl"))
    # The zip alone is what the callback writes by default: a training goes on from it, with an empty buffer.
    if buffer.exists():
        model.load_replay_buffer(buffer)
        # The callback comes before the step of the moment is added.
        same("the replay buffer", model.replay_buffer.pos + 1, model.num_timesteps)
    return int(model.num_timesteps)


WRITERS = {
    "torch-dcp-two-ranks": Writer(by_two_ranks(save_distributed), load_distributed),
    "torch-dcp-async": Writer(by_two_ranks(save_asynchronously), load_distributed),
    "torch-dcp-in-place": Writer(by_two_ranks(save_distributed, "latest"), load_distributed),
    "torch-save-in-place": Writer(save_in_place, load_file),
    "torch-save-by-rename": Writer(save_by_rename, load_file),
    "torch-save-numbered": Writer(save_numbered, load_file),
    "torch-save-two-files": Writer(save_two_files, load_two_files),
    "safetensors": Writer(save_safetensors, load_safetensors),
    "accelerate": Writer(save_accelerate, load_accelerate),
    "trainer": Writer(save_trainer, load_trainer),
    "trainer-total-limit-1": Writer(save_trainer_with_limit, load_trainer),
    "lightning": Writer(save_lightning, load_lightning),
    "stable-baselines3": Writer(save_baselines, load_baselines),
}

if __name__ == "__main__":
    # Libraries print: what the test reads is this file alone.
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    chosen = set(sys.argv[2:])
    serve({name: one for name, one in WRITERS.items() if not chosen or name in chosen}, Path(sys.argv[1]), replies)
