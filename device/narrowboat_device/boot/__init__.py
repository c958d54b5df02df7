"""Boot control: how the agent tells a boot loader which slot to boot, and learns what was booted.

`BootControl` is all that the agent asks of a boot loader; each adapter speaks to one kind. Four rules hold
for every adapter. A change is durable when its method returns, and was read back: a boot variable that did
not take is `boot_control_failed`, never a surprise at the next power-on. A method may be repeated. The
primary slot is never made unbootable, whatever the caller says. And nothing but these methods changes what
boots, save the boot loader itself, which counts tries down while a trial is on and ends it when they are
used up.
"""

from __future__ import annotations

from typing import Protocol

from ..core.events import BootStatus


class BootControl(Protocol):
    """One boot loader. Every method raises `MediumError` with `boot_control_failed` if the loader did not
    take the change.
    """

    @property
    def running(self) -> str:
        """The slot that runs now: a fact of this boot, known though every variable is lost."""
        ...

    def status(self) -> BootStatus:
        """What runs now and what would run next. Raises `MediumError`, with `state_unreadable` if the variables are
        lost for good.
        """
        ...

    def mark_unbootable(self, slot: str) -> None:
        """The loader must not choose `slot`; a trial of it ends. Raises `UsageError` for the primary slot."""
        ...

    def arm_trial(self, slot: str) -> None:
        """The next boots try `slot`, as often as the configuration says. Raises `UsageError` for the
        primary slot.
        """
        ...

    def commit(self, slot: str) -> None:
        """`slot` is the primary one from now on; the trial ends."""
        ...

    def restore(self, slot: str) -> None:
        """`slot` is the primary and only bootable one from now on; a trial ends."""
        ...
