"""The processes that draw one batch together, as accelerate starts and connects them.

Only who draws what and who has finished is exchanged, over gloo; images and rows go to the folder.
"""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Iterator, Sequence
from typing import TypeVar

import torch

from hart.evaluation.extras import import_extra
from hart.pipeline.loading import resolve_device

T = TypeVar("T")

# A process that has finished waits for the slowest one; one that died ends the run by itself.
_PATIENCE = datetime.timedelta(days=30)


class Processes:
    """This process alone: the first of one; ``device`` is None if the arguments decide it."""

    index, count = 0, 1
    device: torch.device | None = None

    @property
    def is_main(self) -> bool:
        return self.index == 0

    def wait(self) -> None:
        """Wait until every process is here."""

    def split(self, items: Sequence[T]) -> Sequence[T]:
        """This process's share: consecutive items, the same number for everyone or one more."""
        return items

    def from_main(self, value: T) -> T:
        """What the main process passes here."""
        return value

    def gather(self, items: list[T]) -> list[T]:
        """The items of all processes, in the order of the processes."""
        return items


class AcceleratedProcesses(Processes):
    """Several processes, connected by ``accelerate.PartialState``."""

    def __init__(self, device: str | None) -> None:
        accelerate = import_extra("accelerate", "drawing with several processes", "distributed")
        wanted = resolve_device(device)
        if device is not None and wanted.index is not None:
            raise ValueError(
                f"--device {device} names one device, but every process takes its own; "
                f"use {wanted.type}"
            )
        cpu = wanted.type == "cpu"
        self._state = accelerate.PartialState(cpu=cpu, backend="gloo", timeout=_PATIENCE)
        self.index, self.count = self._state.process_index, self._state.num_processes
        self.device = self._state.device

    def wait(self) -> None:
        self._state.wait_for_everyone()

    def split(self, items: Sequence[T]) -> Sequence[T]:
        with self._state.split_between_processes(list(items)) as share:
            return share

    def from_main(self, value: T) -> T:
        from accelerate.utils import broadcast_object_list

        return broadcast_object_list([value])[0]

    def gather(self, items: list[T]) -> list[T]:
        from accelerate.utils import gather_object

        return gather_object(items)

    def leave(self) -> None:
        self._state.destroy_process_group()


@contextlib.contextmanager
def joined_processes(device: str | None) -> Iterator[Processes]:
    """The processes that ``torchrun`` or ``accelerate launch`` started, else this one alone.

    Args:
        device: from the command line; None means the best one.

    Raises:
        ValueError: accelerate is missing, or ``device`` is one that they cannot share.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        yield Processes()
        return
    processes = AcceleratedProcesses(device)
    yield processes
    processes.leave()  # not after a failure: the others would wait for this one to say goodbye
