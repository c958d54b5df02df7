"""A bridge that restarts, or finds an older copy of its store, goes on where the devices stand.

Whatever happens in whatever order is handled, and a restart forgets nothing that was committed.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from narrowboat_bridge.core.actions import (
    Action,
    Record,
    StoreAssignment,
    StoreAttempt,
    StoreCampaign,
    StoreDevice,
    StoreRelease,
)
from narrowboat_bridge.core.campaigns import Campaigns, Settings
from narrowboat_bridge.core.events import Event, Now, Restored
from narrowboat_bridge.core.records import Attempt, Campaign, Device, Release
from narrowboat_bridge.core.schedule import FIRST_INTERVAL_S
from narrowboat_protocol.documents import CampaignShow, CampaignStart
from narrowboat_protocol.states import State
from tests.bridge.world import World, answer, check_order, delivered, digest, issued, nonce, only, slots


def restored(actions: list[Action]) -> Restored:
    """What a store that carried out these actions would give back."""
    devices: dict[str, Device] = {}
    releases: dict[bytes, Release] = {}
    campaigns: dict[str, Campaign] = {}
    attempts: dict[tuple[str, str], Attempt] = {}
    assignments = {item.assignment.device: item.assignment for item in only(StoreAssignment, actions)}
    for action in actions:
        match action:
            case StoreDevice(device):
                devices[device.name] = device
            case StoreRelease(item):
                releases[item.digest] = item
            case StoreCampaign(campaign):
                campaigns[campaign.name] = campaign
            case StoreAttempt(attempt):
                attempts[attempt.campaign, attempt.device] = attempt
            case _:
                pass
    return Restored(
        tuple(devices.values()),
        tuple(releases.values()),
        tuple(campaigns.values()),
        tuple(attempts.values()),
        tuple(assignments.values()),
    )


class Recording(World):
    """A world that remembers every action, as a store would."""

    def __init__(self) -> None:
        self.log: list[Action] = []
        super().__init__()

    def feed(self, event: Event) -> list[Action]:
        actions = super().feed(event)
        self.log += actions
        return actions

    def restart(self, log: list[Action] | None = None, wall_s: int | None = None) -> None:
        """Start on what is in the store, or in an older copy of it; `wall_s` if the clock is wrong then."""
        self.campaigns = Campaigns(Settings(root_version=1))
        now = self.now if wall_s is None else Now(self.now.monotonic_s, wall_s)
        self.campaigns.handle(restored(self.log if log is None else log), now)


def test_a_bridge_that_restarts_resends_what_is_unanswered_at_the_next_hello() -> None:
    world = Recording()
    world.hello()
    world.start()
    world.restart()
    actions = world.hello(pair=(1, 2))
    assert delivered(actions) == ["gw-1"]
    assert not issued(actions), "the same assignment, not another one"


def test_a_bridge_that_died_between_commit_and_delivery_delivers_without_a_hello() -> None:
    world = Recording()
    world.hello()
    world.start()
    world.restart()
    world.sleep(FIRST_INTERVAL_S)
    assert delivered(world.tick()) == ["gw-1"]


def test_a_bridge_that_died_before_it_assigned_assigns_after_the_restart() -> None:
    world = Recording()
    world.hello()
    world.command(CampaignStart(campaign="c1", release=digest(1), devices=("gw-1",)))
    world.restart()
    world.sleep(FIRST_INTERVAL_S)
    assert len(issued(world.tick())) == 1


def test_a_bridge_on_an_older_copy_issues_no_counter_that_was_issued_before() -> None:
    world = Recording()
    world.hello()
    older = [*world.log]
    world.start("c1", about=1)
    world.sleep(60)
    world.restart(older)
    (assignment,) = issued(world.start("c2", about=2))
    assert assignment.counter > world.now.wall_s, "counter 1 is of the life that the copy does not know"


def test_a_bridge_on_an_older_copy_asks_for_the_end_that_it_has_forgotten() -> None:
    world = Recording()
    world.hello()
    world.start()
    world.report(State.DOWNLOADING, pair=(1, 2))
    older = [*world.log]
    world.report(State.FAILED, pair=(1, 3))
    world.restart(older)
    world.sleep(FIRST_INTERVAL_S)
    asked = world.tick()
    assert (delivered(asked), issued(asked)) == (["gw-1"], []), "the same bytes again: the device answers with its end"
    world.report(State.FAILED, pair=(1, 4))
    world.sleep(3600)
    assert (world.attempt().state, delivered(world.tick())) == (State.FAILED, [])


def test_what_a_device_runs_is_asked_and_not_taken_from_an_older_copy() -> None:
    world = Recording()
    world.hello(slots=slots(a=1, b=None))
    world.restart()
    assert delivered(world.start(about=1)) == ["gw-1"]
    assert world.attempt().state is None
    world.report(State.SUCCEEDED, attempt=world.attempt().attempt, pair=(1, 2))
    assert world.attempt().state is State.SUCCEEDED
    world.hello(pair=(2, 1), assignment_counter=world.attempt().attempt, slots=slots(a=1, b=None))
    assert world.attempt().state is State.SUCCEEDED, "it never left that slot"


def test_a_device_that_may_accept_another_release_is_not_said_to_run_this_one() -> None:
    world = World()
    world.hello(slots=slots(a=1, b=None))
    world.start("c2", about=2)
    assert delivered(world.start("c1", about=1)) == ["gw-1"], "what c2 sent may still arrive"
    assert world.attempt(campaign="c1").state is None


def test_a_device_at_work_on_what_the_bridge_forgot_is_assigned_anew() -> None:
    world = World()
    world.hello(slots=slots(a=1, b=None), assignment_counter=7)
    (assignment,) = issued(world.start(about=1))
    assert assignment.counter == 8


def test_work_that_begins_anew_succeeds_from_the_slot_that_did_not_run_then() -> None:
    world = World()
    world.hello()
    world.start()
    world.report(State.DOWNLOADING, pair=(1, 2))
    world.hello(pair=(2, 1), assignment_counter=5, running_slot="b", slots=slots(a=None, b=2), nonce=nonce(2))
    counter = world.attempt().attempt
    actions = world.report(State.SUCCEEDED, attempt=counter, pair=(3, 1), slot="a")
    assert (world.attempt().state, only(Record, actions)[-1].what) == (State.SUCCEEDED, "campaign ended")


def test_a_restart_over_many_devices_is_no_storm() -> None:
    world = Recording()
    names = tuple(f"gw-{number}" for number in range(200))
    for name in names:
        world.hello(name)
    world.start(devices=names)
    world.restart()
    world.sleep(FIRST_INTERVAL_S + 1)
    assert 40 <= len(delivered(world.tick())) <= 60


HISTORY = st.lists(
    st.one_of(
        st.tuples(st.just("hello"), st.integers(1, 3), st.integers(1, 4), st.integers(0, 3)),
        st.tuples(st.just("report"), st.integers(1, 3), st.integers(1, 4), st.sampled_from(list(State))),
        st.tuples(st.just("start"), st.integers(1, 2), st.booleans(), st.just(0)),
        st.tuples(st.just("abort"), st.integers(1, 2), st.just(0), st.just(0)),
        st.tuples(st.just("sleep"), st.integers(1, 10_000), st.just(0), st.just(0)),
    ),
    max_size=25,
)


def act(world: World, step: tuple[str, int, int, object]) -> list[Action]:
    match step:
        case ("hello", boot, n, int(counter)):
            return world.hello(pair=(boot, n), nonce=nonce(boot), assignment_counter=counter, slots=slots(a=None, b=1))
        case ("report", boot, n, State() as state):
            return world.report(state, pair=(boot, n), attempt=n - 1, slot="ab"[boot % 2])
        case ("start", number, for_all, _):
            return world.start(f"c{number}", number, None if for_all else ("gw-1",))
        case ("abort", number, _, _):
            return world.abort(f"c{number}")
        case (_, seconds, _, _):
            world.sleep(seconds)
            return world.tick()


@given(HISTORY)
def test_whatever_happens_in_whatever_order_is_handled_and_said_after_its_commit(
    history: list[tuple[str, int, int, object]],
) -> None:
    world = World()
    for step in history:
        check_order(act(world, step))


@given(HISTORY, HISTORY)
def test_a_restart_forgets_nothing_that_was_committed(
    before: list[tuple[str, int, int, object]], after: list[tuple[str, int, int, object]]
) -> None:
    steady, restarting = Recording(), Recording()
    for step in before:
        act(steady, step)
        act(restarting, step)
    restarting.restart(wall_s=0)
    for number in (1, 2):
        shown = [world.command(CampaignShow(campaign=f"c{number}")) for world in (steady, restarting)]
        assert answer(shown[0]) == answer(shown[1])
    for world in (steady, restarting):
        act(world, ("hello", 4, 1, 0))
    for step in after:
        hello_or_report = step[0] in ("hello", "report")
        first, second = act(steady, step), act(restarting, step)
        if hello_or_report:
            assert issued(first) == issued(second)
