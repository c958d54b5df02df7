"""Gateways that want to become somebody, and the operator who decides."""

from __future__ import annotations

import json
import os
from threading import Event as Flag
from typing import Any

from narrowboat_device.assembly import read_signer
from narrowboat_device.config import Config, load_config
from narrowboat_device.enrol import Surroundings, enrol
from narrowboat_device.enrol_link import EnrolmentLink
from narrowboat_protocol.limits import DEFAULT_LIMITS
from tests.support.broker import Credentials

from .lab import DISK, Lab


def ask_operator(lab: Lab, *arguments: object) -> Any:
    outcome = lab.type(*arguments, "--json")
    assert outcome.status == 0, outcome.err
    return json.loads(outcome.out)


def applicant(lab: Lab, name: str, claim: Credentials, extra_toml: str = "", port: int | None = None) -> Config:
    """A provisioned gateway that has a key, and no certificate yet."""
    section = (
        f"\n[enrolment]\nport = {port or lab.fleet.ports.enrol}\n"
        f'certificate = "{claim.certificate}"\nkey = "{claim.key}"\n'
    )
    made = lab.make_gateway(name, extra_toml=section + extra_toml)
    config = load_config(made.config)
    config.broker.certificate.unlink()
    return config


def ask_once(config: Config, attempts_max: int = 1) -> bool:
    """One request and its answer, if one comes."""
    link = EnrolmentLink(DISK, config, DEFAULT_LIMITS, Flag(), lambda _looks: 0.0)
    around = Surroundings(os.urandom, lambda low, _high: low, lambda _seconds: True)
    return enrol(DISK, config, DEFAULT_LIMITS, link, around, attempts_max)


def kid_of(config: Config) -> str:
    return read_signer(DISK, config).public.kid.hex()
