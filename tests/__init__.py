"""What proves Narrowboat: unit and broker tests, vectors, demo, bench, and the harness that they share."""
