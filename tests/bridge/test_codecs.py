"""An operator reads that devices cannot decode a release before they have failed, and what to do about it."""

from __future__ import annotations

from narrowboat_bridge.core.actions import Answer
from narrowboat_bridge.server.rows import release_from, release_row
from narrowboat_protocol.documents import CampaignAbort, CampaignDetail, CampaignShow, CampaignStart, CampaignSummary
from narrowboat_protocol.payload import Codec

from .world import World, digest, only, release

WITHOUT_ZSTD = (Codec.STORED, Codec.LZMA)


def start(world: World, *devices: str) -> str | None:
    request = CampaignStart(campaign="c1", release=digest(1), devices=devices or None)
    [answer] = only(Answer, world.command(request))
    assert isinstance(answer.outcome, CampaignSummary)
    return answer.outcome.warning


def show(world: World) -> str | None:
    [answer] = only(Answer, world.command(CampaignShow(campaign="c1")))
    assert isinstance(answer.outcome, CampaignDetail)
    return answer.outcome.summary.warning


def test_a_start_names_the_devices_that_cannot_decode_the_payload() -> None:
    world = World()
    world.hello("gw-1")
    world.hello("gw-2", codecs=WITHOUT_ZSTD)
    expected = "1 of its devices cannot decode zstd and will fail: gw-2;"
    warning = start(world, "gw-1", "gw-2")
    assert warning is not None
    assert warning.startswith(expected)
    assert start(world, "gw-1", "gw-2") == show(world) == warning


def test_nothing_is_said_of_devices_that_have_what_it_takes_or_are_not_meant() -> None:
    world = World()
    world.hello("gw-1")
    world.hello("gw-2", codecs=WITHOUT_ZSTD)
    assert start(world, "gw-1") is None
    assert show(world) is None


def test_a_warning_goes_when_the_codec_comes_and_when_the_campaign_ends() -> None:
    world = World()
    world.hello("gw-1", codecs=WITHOUT_ZSTD)
    assert start(world)
    world.hello("gw-2", codecs=WITHOUT_ZSTD)
    assert (show(world) or "").startswith("2 of its devices")
    world.hello("gw-1", pair=(2, 1))
    assert (show(world) or "").startswith("1 of its devices")
    world.command(CampaignAbort(campaign="c1"))
    assert show(world) is None


def test_a_warning_about_a_whole_fleet_is_one_sentence() -> None:
    world = World()
    for number in range(20):
        world.hello(f"{number:02}" + "n" * 62, codecs=WITHOUT_ZSTD)
    warning = start(world)
    assert warning is not None
    assert " and 16 more;" in warning
    assert len(warning) <= 500


def test_what_a_release_needs_is_known_after_a_restart() -> None:
    needy = release(1, codecs=(Codec.ZSTD, Codec.LZMA))
    assert release_from(release_row(needy)) == needy
