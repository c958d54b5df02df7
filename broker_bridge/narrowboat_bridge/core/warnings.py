"""What can be said of a campaign before its devices have tried: who will refuse it or fail, and what is final about it.

A release's sequence is a security counter: a device that committed a release takes none of a lower sequence any more.
So a campaign of a lower sequence than what a device runs will be rejected there, and one of a higher sequence closes
the way back. The bridge knows the sequence of what runs if it has that release; of other devices it says nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from narrowboat_protocol.documents import Assignment
from narrowboat_protocol.payload import Codec

from .records import Campaign, Device, Release
from .sight import Sight

_DEVICES_NAMED_MAX = 4
_TEXT_LENGTH_MAX = 500


def failures_ahead(sight: Sight, campaign: Campaign) -> str | None:
    """What will fail as things stand, of a campaign that runs."""
    if campaign.ended is not None:
        return None
    release, devices = sight.ledger.releases[campaign.release], sight.devices_for(campaign)
    return _joined(
        [
            _refusals(sight, release, devices),
            _undecodable(release, devices),
            _undecryptable(release, devices),
            _unreadable(devices),
        ]
    )


def before_start(sight: Sight, campaign: Campaign) -> str | None:
    """The same, and what cannot be taken back once a device has committed the release."""
    if campaign.ended is not None:
        return None
    release, devices = sight.ledger.releases[campaign.release], sight.devices_for(campaign)
    return _joined([failures_ahead(sight, campaign), _no_way_back(sight, release, devices)])


def _refusals(sight: Sight, release: Release, devices: Sequence[Device]) -> str | None:
    above = [device.name for device in devices if (_sequence(sight, device) or 0) > release.sequence]
    if not above:
        return None
    return (
        f"{len(above)} of its devices run a release of a higher sequence than {release.sequence} and will refuse it"
        f" (below_floor): {_named(above)}; to bring it all the same, build it with a sequence that is as high"
    )


def _no_way_back(sight: Sight, release: Release, devices: Sequence[Device]) -> str | None:
    below = [
        name
        for name, before in ((device.name, _sequence(sight, device)) for device in devices)
        if before is not None and before < release.sequence
    ]
    if not below:
        return None
    return (
        f"it raises the sequence to {release.sequence} on {len(below)} of its devices, which then take nothing lower:"
        " the way back to what they run closes"
    )


def _undecodable(release: Release, devices: Sequence[Device]) -> str | None:
    """Which devices said hello without a codec that its payload needs."""
    lacking = {
        device.name: codecs for device in devices if (codecs := set(release.codecs).difference(device.hello.codecs))
    }
    if not lacking:
        return None
    missing = ", ".join(codec.name.lower() for codec in sorted(set[Codec]().union(*lacking.values())))
    return (
        f"{len(lacking)} of its devices cannot decode {missing} and will fail: {_named(list(lacking))};"
        ' install the codec there (narrowboat-device[zstd]), or build the release with codec = "lzma"'
    )


def _undecryptable(release: Release, devices: Sequence[Device]) -> str | None:
    """Which devices said hello without a key that the key of an encrypted payload could be sealed to."""
    lacking = [device.name for device in devices if device.hello.agreement_key is None]
    if release.payload.encryption is None or not lacking:
        return None
    return (
        f"{len(lacking)} of its devices have no key for encrypted payloads and will fail (no_key): {_named(lacking)};"
        " add [encryption] to their configuration, or build the release without --encrypt-to"
    )


def _unreadable(devices: Sequence[Device]) -> str | None:
    """Which devices read no assignment that this bridge can write: they are left as they are."""
    others = [device.name for device in devices if Assignment.FORMAT not in device.hello.formats]
    if not others:
        return None
    return (
        f"{len(others)} of its devices do not read assignments in format {Assignment.FORMAT} and get none:"
        f" {_named(others)}; that takes another version of the bridge, or of their agents"
    )


def _sequence(sight: Sight, device: Device) -> int | None:
    """The sequence of what runs there, if the bridge has it."""
    running = device.running_release
    known = sight.ledger.releases.get(running) if running is not None else None
    return known.sequence if known is not None else None


def _named(names: Sequence[str]) -> str:
    others = f" and {len(names) - _DEVICES_NAMED_MAX} more" if len(names) > _DEVICES_NAMED_MAX else ""
    return ", ".join(names[:_DEVICES_NAMED_MAX]) + others


def _joined(parts: Sequence[str | None]) -> str | None:
    """As many of the sentences as a reply has room for, the weightiest first."""
    text = ""
    for part in parts:
        longer = part if not text else f"{text}. Also, {part}"
        if part is not None and longer is not None and len(longer) <= _TEXT_LENGTH_MAX:
            text = longer
    return text or None
