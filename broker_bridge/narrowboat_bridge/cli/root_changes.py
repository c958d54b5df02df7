"""What may be changed in a root, as functions from a root to the next, and what each change means, in words.

`explain` compares two roots and says what the difference does to devices, bridges, operators and release engineers. It
is derived from the documents and not from the command that made them, so whoever signs reads the same words as whoever
made the change.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from narrowboat_protocol.documents import BrokerAddress, ComponentRule, Role, RoleName, Root
from narrowboat_protocol.errors import DocumentError, Reason, UsageError
from narrowboat_protocol.keys import PublicKey

YEAR_S = 365 * 86_400
_CONSEQUENCES = {
    RoleName.ROOT: "the next root needs the thresholds of this version and of the one before",
    RoleName.RELEASE: "what only a removed key signed is not installed any more; sign it anew. What runs keeps running",
    RoleName.DIRECTOR: "give every bridge the new director key and start it again; devices begin a new count under it,"
    " and forget what the old director said of the time",
    RoleName.BRIDGE: "give every bridge the new bridge key and start it again; operators need the new root",
    RoleName.ADMIN: "sign operators.signed anew with the new admin key, and send the bridges SIGHUP",
}


def first_root(
    keys: Mapping[RoleName, Sequence[PublicKey]],
    thresholds: Mapping[RoleName, int],
    components: Sequence[str],
    expires_at: int,
    *,
    anchors: Sequence[bytes] = (),
    addresses: Sequence[BrokerAddress] = (),
) -> Root:
    """Version 1, which names the fleet."""
    return Root(
        version=1,
        expires_at=expires_at,
        keys=tuple(key.to_cbor() for role in RoleName for key in keys[role]),
        roles=tuple(
            Role(name=role, threshold=thresholds.get(role, 1), kids=tuple(key.kid for key in keys[role]))
            for role in RoleName
        ),
        components=tuple(ComponentRule(component=each, epoch=0, minimum_sequence=0) for each in components),
        broker_anchors=tuple(anchors),
        broker_addresses=tuple(addresses),
    )


def rebuilt(root: Root, **changes: object) -> Root:
    """The root with other fields, checked as if it had been read. Raises `UsageError` if it would be none."""
    try:
        return Root.decode(root.model_copy(update=changes).encode())
    except DocumentError as error:
        raise UsageError(Reason.BAD_USE, f"this would not be a root: {error}") from None


def add_key(root: Root, name: RoleName, public: PublicKey, threshold: int | None) -> Root:
    """Let a key sign for a role. A threshold that is not given stays."""
    _require_free(root, public)
    role = root.role(name)
    changed = role.model_copy(update={"kids": (*role.kids, public.kid), "threshold": threshold or role.threshold})
    return rebuilt(root, roles=_roles(root, changed), keys=(*root.keys, public.to_cbor()))


def remove_key(root: Root, kid: bytes, threshold: int | None) -> Root:
    """Let a key sign no more. The keys that are left must reach the threshold."""
    role = role_of(root, kid)
    kids = tuple(other for other in role.kids if other != kid)
    wanted = threshold or role.threshold
    if len(kids) < wanted:
        raise UsageError(
            Reason.BAD_USE,
            f"expected {wanted} keys of the role {role.name} to be left, got {len(kids)}; rotate the key, add one"
            " first, or lower the threshold with --threshold",
        )
    changed = role.model_copy(update={"kids": kids, "threshold": wanted})
    return rebuilt(root, roles=_roles(root, changed), keys=_keys_without(root, kid))


def replace_key(root: Root, kid: bytes, public: PublicKey) -> Root:
    """Put a key in the place of another."""
    _require_free(root, public)
    role = role_of(root, kid)
    kids = tuple(public.kid if other == kid else other for other in role.kids)
    changed = role.model_copy(update={"kids": kids})
    return rebuilt(root, roles=_roles(root, changed), keys=(*_keys_without(root, kid), public.to_cbor()))


def _require_free(root: Root, public: PublicKey) -> None:
    """A key has one role at most."""
    if any(public.kid in role.kids for role in root.roles):
        raise UsageError(Reason.CONFLICT, f"expected a key of no role, got {public.kid.hex()[:16]}, which has one")


def set_threshold(root: Root, name: RoleName, threshold: int) -> Root:
    return rebuilt(root, roles=_roles(root, root.role(name).model_copy(update={"threshold": threshold})))


def limit_releases(root: Root, components: Sequence[str] | None, class_ids: Sequence[bytes] | None) -> Root:
    """The only components and hardware classes that release keys may sign for; None leaves what is."""
    changes: dict[str, object] = {}
    if components is not None:
        changes["components"] = tuple(components) or None
    if class_ids is not None:
        changes["class_ids"] = tuple(class_ids) or None
    return rebuilt(root, roles=_roles(root, root.role(RoleName.RELEASE).model_copy(update=changes)))


def set_rule(root: Root, component: str, *, epoch: int | None = None, minimum_sequence: int | None = None) -> Root:
    """Change what is demanded of releases of a component, or add the component."""
    known = root.component_rule(component)
    before = known or ComponentRule(component=component, epoch=0, minimum_sequence=0)
    rule = ComponentRule(
        component=component,
        epoch=before.epoch if epoch is None else epoch,
        minimum_sequence=before.minimum_sequence if minimum_sequence is None else minimum_sequence,
    )
    if rule.epoch < before.epoch:
        raise UsageError(
            Reason.BAD_USE,
            f"component {component}: expected an epoch of {before.epoch} or more, got {rule.epoch}; devices go on from"
            " the highest they had",
        )
    others = [rule if other.component == component else other for other in root.components]
    return rebuilt(root, components=tuple(others if known else [*root.components, rule]))


def role_of(root: Root, kid: bytes) -> Role:
    for role in root.roles:
        if kid in role.kids:
            return role
    raise UsageError(Reason.UNKNOWN_KEY, f"expected a key of the root, got {kid.hex()[:16]}; `root inspect` lists them")


def kid_of(root: Root, text: str) -> bytes:
    """The key whose thumbprint begins with these hex digits."""
    kids = [kid for role in root.roles for kid in role.kids if kid.hex().startswith(text.lower())]
    if len(kids) != 1:
        raise UsageError(
            Reason.UNKNOWN_KEY,
            f"expected the beginning of one key's thumbprint, got {text!r:.80}, which fits {len(kids)};"
            " `root inspect` lists them",
        )
    return kids[0]


def explain(before: Root | None, root: Root) -> list[str]:
    """What the change from one version to the next means, one sentence for each thing."""
    if before is None:
        return ["this is the first root: its content names the fleet, and devices are provisioned with it"]
    lines = [line for name in RoleName for line in _explain_role(before.role(name), root.role(name))]
    lines += [line for rule in root.components for line in _explain_rule(before.component_rule(rule.component), rule)]
    gone = {rule.component for rule in before.components} - {rule.component for rule in root.components}
    lines += [f"component {name}: removed; no release of it is installed any more" for name in sorted(gone)]
    lines += _explain_broker(before, root)
    if root.expires_at < before.expires_at:
        lines.append("it expires earlier than the one before")
    return lines or ["nothing changes but the version"]


def _explain_role(before: Role, after: Role) -> list[str]:
    added, removed = set(after.kids) - set(before.kids), set(before.kids) - set(after.kids)
    changes = [f"key {kid.hex()[:16]} added" for kid in sorted(added)]
    changes += [f"key {kid.hex()[:16]} removed" for kid in sorted(removed)]
    if after.threshold != before.threshold:
        changes.append(f"{after.threshold} of {len(after.kids)} must sign, not {before.threshold}")
    if (after.components, after.class_ids) != (before.components, before.class_ids):
        changes.append("other components or classes that it may sign for")
    if not changes:
        return []
    return [f"{after.name} role: {', '.join(changes)}: {_CONSEQUENCES[after.name]}"]


def _explain_rule(before: ComponentRule | None, after: ComponentRule) -> list[str]:
    name = after.component
    if before is None:
        return [f"component {name}: added, with epoch {after.epoch} and minimum sequence {after.minimum_sequence}"]
    lines = []
    if after.epoch != before.epoch:
        lines.append(
            f"component {name}: epoch {before.epoch} -> {after.epoch}: every release signed so far is refused from now"
            " on, which closes the way back to all of them and begins a new count of sequences; build and sign releases"
            f" with epoch {after.epoch}. What runs keeps running"
        )
    if after.minimum_sequence > before.minimum_sequence:
        lines.append(
            f"component {name}: releases below sequence {after.minimum_sequence} are refused from now on; the way back"
            " to them is closed"
        )
    if after.minimum_sequence < before.minimum_sequence:
        lines.append(
            f"component {name}: minimum sequence {before.minimum_sequence} -> {after.minimum_sequence}; devices that"
            " run a higher one still refuse what is below it"
        )
    return lines


def _explain_broker(before: Root, root: Root) -> Iterable[str]:
    old, new = set(before.broker_anchors), set(root.broker_anchors)
    if new - old:
        yield (
            f"broker: {len(new - old)} trust anchors added; give the broker a certificate of a new one only after the"
            " devices have this root"
        )
    if old - new:
        yield f"broker: {len(old - new)} trust anchors removed; devices refuse a broker with a certificate of those"
    if root.broker_addresses != before.broker_addresses:
        yield "broker: other addresses; devices try them in order, and the one in their configuration last"
    if root.root_urls != before.root_urls:
        yield "root addresses: devices that no broker can reach look for N.root there"


def _roles(root: Root, changed: Role) -> tuple[Role, ...]:
    return tuple(changed if role.name is changed.name else role for role in root.roles)


def _keys_without(root: Root, kid: bytes) -> tuple[dict[int, object], ...]:
    kids = {public.kid: public for role in RoleName for public in root.role_keys(role).values()}
    return tuple(key for key in root.keys if key != kids[kid].to_cbor())
