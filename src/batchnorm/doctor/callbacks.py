"""`Watch` for trainers of other packages: their callbacks, which open it and close it."""

import contextlib
import importlib
from typing import Any

from torch import nn

from batchnorm.doctor.watch import Watch
from batchnorm.records import Finding, NotInstalledError, import_optional

__all__ = ["lightning_callback", "transformers_callback"]


class _Open:
    """At most one open watch."""

    def __init__(self, module: str, options: dict[str, Any]) -> None:
        self.module, self.options = module, options
        self.watch: Watch | None = None
        self.findings: tuple[Finding, ...] = ()

    def begin(self, model: nn.Module, optimizer: Any, accumulation: int) -> None:
        self.end()
        options = {"accumulation": accumulation, **self.options}
        self.watch = Watch(model.get_submodule(self.module), optimizer=optimizer, **options)
        self.watch.__enter__()

    def end(self) -> None:
        if self.watch is not None:
            self.watch.__exit__(None, None, None)
            self.findings, self.watch = self.seen(), None

    def seen(self) -> tuple[Finding, ...]:
        return self.findings if self.watch is None else self.watch.findings


def lightning_callback(module: str = "", **options: Any) -> Any:
    """A callback for Lightning's ``Trainer(callbacks=[…])``.

    Args:
        module: Name of the submodule whose forward a training step runs; ``""`` where the step calls
            ``self(batch)``. With the name of another one nothing is seen.
        options: Of `Watch`.

    Returns:
        A ``lightning.pytorch.Callback``; its ``findings`` are those so far.

    Raises:
        NotInstalledError: If neither ``lightning`` nor ``pytorch_lightning`` is installed.
    """
    base: Any = _lightning().Callback

    class LightningWatch(base):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.open = _Open(module, options)

        @property
        def findings(self) -> tuple[Finding, ...]:
            return self.open.seen()

        def on_train_start(self, trainer: Any, pl_module: nn.Module) -> None:
            optimizers = [getattr(optimizer, "optimizer", optimizer) for optimizer in trainer.optimizers]
            self.open.begin(pl_module, optimizers or None, trainer.accumulate_grad_batches)

        def on_train_end(self, trainer: Any, pl_module: nn.Module) -> None:
            self.open.end()

        def on_exception(self, trainer: Any, pl_module: nn.Module, exception: BaseException) -> None:
            self.open.end()

    return LightningWatch()


def transformers_callback(module: str = "", **options: Any) -> Any:
    """A callback for Transformers' ``Trainer(callbacks=[…])``.

    A trainer that stops with an error tells its callbacks nothing; the hooks then stay until the next
    training begins.

    Args:
        module: Name of the submodule to look at; ``""`` for the model.
        options: Of `Watch`.

    Returns:
        A ``transformers.TrainerCallback``; its ``findings`` are those so far.

    Raises:
        NotInstalledError: If ``transformers`` is not installed.
    """
    base: Any = import_optional(
        "transformers", "transformers_callback:", "batchnorm[transformers]"
    ).TrainerCallback

    class TransformersWatch(base):  # type: ignore[misc]
        def __init__(self) -> None:
            self.open = _Open(module, options)

        @property
        def findings(self) -> tuple[Finding, ...]:
            return self.open.seen()

        def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            optimizer = getattr(given.get("optimizer"), "optimizer", given.get("optimizer"))  # accelerate's
            self.open.begin(given["model"], optimizer, args.gradient_accumulation_steps)

        def on_train_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            self.open.end()

    return TransformersWatch()


def _lightning() -> Any:
    try:
        return import_optional("lightning.pytorch", "lightning_callback:", "batchnorm[lightning]")
    except NotInstalledError:
        with contextlib.suppress(ImportError):
            return importlib.import_module("pytorch_lightning")
        raise
