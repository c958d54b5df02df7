"""Settings of every test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.support.softhsm import SoftHsm, SoftToken, soft_hsm

settings.register_profile("default", deadline=None)
settings.load_profile("default")


@pytest.fixture(scope="session")
def hsm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SoftHsm]:
    with soft_hsm(tmp_path_factory.mktemp("hsm")) as hsm:
        yield hsm


@pytest.fixture
def token(hsm: SoftHsm) -> SoftToken:
    return hsm.token()
