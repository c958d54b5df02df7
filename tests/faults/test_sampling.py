"""What a failure prints tries that case again, and a seed the same cases on every machine."""

from __future__ import annotations

import argparse
import shlex

import pytest

from .sampling import add_options, chosen, tell_failure

CASES = [f"data/journal.record: byte {number} flipped" for number in range(100)]


def tried(*arguments: str) -> list[str]:
    parser = argparse.ArgumentParser()
    add_options(parser, "variants")
    return chosen(CASES, parser.parse_args(arguments))


def test_a_run_without_options_tries_every_case() -> None:
    assert tried() == CASES
    assert sorted(tried("--variants", "1000")) == sorted(CASES)


def test_a_seed_chooses_the_same_cases_each_time_and_another_one_others() -> None:
    first = tried("--variants", "10", "--seed", "7")
    assert len(set(first)) == 10
    assert tried("--variants", "10", "--seed", "7") == first
    assert tried("--variants", "10", "--seed", "8") != first


def test_the_option_that_a_failure_prints_tries_that_case_alone(capsys: pytest.CaptureFixture[str]) -> None:
    tell_failure(CASES[17], ["the agent did not start"])
    option, *rest = capsys.readouterr().out.splitlines()
    assert tried(*shlex.split(option)) == [CASES[17]]
    assert rest == ["  the agent did not start"]
