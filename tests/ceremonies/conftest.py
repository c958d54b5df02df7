"""One lab for each module: a ceremony changes the fleet for good."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.broker.lab import running_lab

from .kit import Owner


@pytest.fixture
def owner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Owner]:
    with running_lab(tmp_path_factory.mktemp("lab")) as lab:
        yield Owner(lab)
