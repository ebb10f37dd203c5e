"""The doctor beside a training loop that is running: it looks now and then, and says each fault once."""

import contextlib
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, NoReturn, Self

import torch
from torch import nn

from batchnorm.doctor.compiled import around_forwards, has_compiled_code, is_compiled_in_place
from batchnorm.doctor.examine import examine
from batchnorm.doctor.layers import layers_of_model
from batchnorm.doctor.observe import Call, Observer
from batchnorm.doctor.passes import ENOUGH, Pass
from batchnorm.doctor.patient import Patient, UnavailableError
from batchnorm.doctor.rule import chosen_rules
from batchnorm.doctor.settings import Settings, as_one
from batchnorm.records import Finding, error_line
from batchnorm.surgery.borrow import uncompiled

__all__ = ["BatchNormWarning", "Watch"]

# another process may not be watched, or its watcher may have given up: this one would wait for ever
ASK_ALL_RANKS = ("BN043", "BN045")


class BatchNormWarning(UserWarning):
    """A fault of batch normalization in a training that is running."""


class Watch:
    """Look at eight training forwards in a row, every so often, with the doctor's rules.

    Nothing is computed twice and no further forward is made, so rules that need one (BN021, BN028 to
    BN030, BN032, BN040) are left to `diagnose`. So are those that ask all processes (BN043, BN045), unless
    ``rules`` names them; then every process is to be watched. Between the looks one hook counts forwards.
    Forwards in prediction mode are not looked at. A training is never stopped: if a look fails, a
    `BatchNormWarning` says so and the hooks are taken off. Compiled code runs uncompiled during a look, in
    all threads; a model with such code needs ``optimizer``, else a `BatchNormWarning` says that nothing is
    watched.

    Args:
        model: What is trained.
        every: Training forwards from one look to the next; the first comes after as many. A look makes
            its eight steps a quarter slower, which costs two steps.
        optimizer: Of the training, a list if there are several; with it the updates in each step are
            counted (BN035, BN037, BN038). A step is over when each optimizer has made one.
        rules: Codes to check; None for all that can be checked here.
        ignore: Codes not to check.
        on_finding: Called once for each new fault, its own errors are raised; None for a
            `BatchNormWarning` if it is an error or a warning.
        settings: The fields of `Settings`.

    Attributes:
        findings: All faults so far, each code once for a layer.

    Raises:
        ValueError: If ``every`` is below 8, a code is unknown or a setting is out of range.
        TypeError: If a setting is unknown.

    Example:
        >>> model = nn.Sequential(nn.BatchNorm1d(2, momentum=0.0), nn.Linear(2, 1))
        >>> with Watch(model, every=8, on_finding=lambda finding: print(finding.code)):
        ...     for _ in range(16):
        ...         loss = model(torch.randn(32, 2) + 5).sum()
        BN012
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        every: int = 500,
        optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer] | None = None,
        rules: Iterable[str] | None = None,
        ignore: Iterable[str] = (),
        on_finding: Callable[[Finding], object] | None = None,
        **settings: Any,
    ) -> None:
        if every < ENOUGH:
            raise ValueError(f"Watch: every expected {ENOUGH} or more forwards, got {every}")
        self.model, self.every, self.optimizer = model, every, optimizer
        self.findings: tuple[Finding, ...] = ()
        self._rules = chosen_rules(rules, (*ignore, *ASK_ALL_RANKS) if rules is None else ignore)
        self._settings = Settings(optimizer=as_one(optimizer), **settings)
        self._on_finding = _warn if on_finding is None else on_finding
        self._open = contextlib.ExitStack()
        self._looking, self._eager = contextlib.ExitStack(), contextlib.ExitStack()
        self._observer: Observer | None = None
        self._batches: list[tuple[Call, ...]] = []
        given = optimizer if isinstance(optimizer, list | tuple) else [optimizer]
        self._optimizers = {one for one in given if isinstance(one, torch.optim.Optimizer)}
        self._stepping: set[torch.optim.Optimizer] = set()  # those that made theirs of the step that runs
        self._step: list[Call] = []
        self._whole_step: tuple[Call, ...] = ()
        self._forwards = 0

    def __enter__(self) -> Self:
        """Begin to count."""
        if self.optimizer is None and has_compiled_code(self.model):
            needed = "optimizer expected, to see where a step of compiled code ends"
            warnings.warn(f"Watch: {needed}, got none: not watching", BatchNormWarning, stacklevel=2)
            return self
        self._open.enter_context(around_forwards(self.model, self._before, self._after))
        for optimizer in self._optimizers:
            self._open.callback(optimizer.register_step_post_hook(self._stepped).remove)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave no trace."""
        self._stop()
        self._eager.close()
        self._open.close()

    def _before(self, module: nn.Module, args: Any) -> None:
        if not module.training:
            return
        self._forwards += 1
        if self._observer is None and self._forwards % self.every == 0:
            try:
                self._eager.close()
                if self.optimizer is not None:
                    self._eager.enter_context(uncompiled())
                layers = {layer.name: layer for layer in layers_of_model(self.model)}
                running = not is_compiled_in_place(self.model)  # else this comes before its hooks
                observer = Observer(self.model, layers, failed=self._give_up, running=running)
                self._observer = self._looking.enter_context(observer.hooked())
            except Exception as error:
                self._give_up(error)
            self._batches, self._step, self._whole_step = [], [], ()

    def _after(self, module: nn.Module, args: Any, output: object) -> None:
        if self._observer is None or not module.training:
            return
        calls = self._observer.calls
        self._batches.append(tuple(call for call in calls if not call.backward))
        self._step += calls
        self._observer.calls = []
        if len(self._batches) >= ENOUGH:
            self._judge()

    def _stepped(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        if self._observer is None:
            # Not before: compiled code would spoil what an uncompiled forward kept for its backward.
            self._eager.close()
        self._stepping.add(optimizer)
        if self._stepping < self._optimizers:  # a generator's and a discriminator's, in turn
            return
        self._stepping = set()
        if self._observer is not None:
            self._whole_step = (*self._step, *self._observer.calls)  # with what the backward called
            self._observer.calls, self._step = [], []
            self._observer.begin()

    def _judge(self) -> None:
        try:
            found = self._examined()
        except Exception as error:
            self._give_up(error)
            return
        known = {(finding.code, finding.layer) for finding in self.findings}
        new = [finding for finding in found if (finding.code, finding.layer) not in known]
        self.findings += tuple(new)
        for finding in new:
            self._on_finding(finding)

    def _examined(self) -> tuple[Finding, ...]:
        assert self._observer is not None
        observer = self._observer
        seen = Pass(tuple(self._batches), observer.strangers, {}, tuple(observer.inputs), moving=True)
        step = self._whole_step
        self._stop()
        patient = Patient(self.model, None, _NoMore(), self._settings)
        # What was seen stands in place of what a diagnosis would measure.
        vars(patient).update(training=seen, step=step, graph=None)
        found, _, _ = examine(patient, self._rules)
        return found

    def _give_up(self, error: Exception) -> None:
        self._stop()
        self._eager.close()
        self._open.close()
        text = f"Watch: stopped looking: {error_line(error)}"
        warnings.warn(text, BatchNormWarning, stacklevel=2)

    def _stop(self) -> None:
        self._looking.close()
        self._observer = None


class _NoMore:
    """In place of a loader: a training that is watched is asked for nothing."""

    def __iter__(self) -> Iterator[NoReturn]:
        raise UnavailableError("needs forwards that a watched training does not make")


def _warn(finding: Finding) -> None:
    if finding.severity != "info":
        where = "" if finding.layer is None else f" in {finding.layer or 'the layer'}"
        text = f"{finding.code} {finding.name}{where}: {finding.message} Fix: {finding.fix.text}."
        warnings.warn(text, BatchNormWarning, stacklevel=2)
