"""Gateways that want to become somebody, and the operator who decides."""

from __future__ import annotations

import json
import os
from typing import Any

from narrowboat_device.assembly import read_signer
from narrowboat_device.config import Config, load_config
from narrowboat_device.enrol import Surroundings, claim_name, enrol
from narrowboat_device.enrol_link import EnrolmentLink
from narrowboat_device.rendezvous import Papers
from narrowboat_protocol.limits import DEFAULT_LIMITS
from tests.support.broker import Credentials

from .lab import DISK, Lab


def ask_operator(lab: Lab, *arguments: object) -> Any:
    outcome = lab.type(*arguments, "--json")
    assert outcome.status == 0, outcome.err
    return json.loads(outcome.out)


def applicant(lab: Lab, name: str, claim: Credentials, extra_toml: str = "") -> Config:
    """A provisioned gateway that has a key, and no certificate yet."""
    section = (
        f'\n[enrolment]\nport = {lab.fleet.ports.enrol}\ncertificate = "{claim.certificate}"\nkey = "{claim.key}"\n'
    )
    made = lab.make_gateway(name, extra_toml=section + extra_toml)
    config = load_config(made.config)
    config.broker.certificate.unlink()
    return config


def ask_once(config: Config) -> bool:
    """One request and its answer, if one comes."""
    assert config.enrolment is not None
    key = config.enrolment.key or config.broker.key
    tls = Papers(config.broker.server_ca, config.enrolment.certificate, key).context()
    link = EnrolmentLink(config.broker.host, config.enrolment.port, claim_name(DISK, config), tls)
    around = Surroundings(os.urandom, lambda low, _high: low, lambda _seconds: True)
    return enrol(DISK, config, DEFAULT_LIMITS, link, around, attempts_max=1)


def kid_of(config: Config) -> str:
    return read_signer(DISK, config).public.kid.hex()
