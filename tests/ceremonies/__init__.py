"""Ceremonies of the owner: docs/ceremonies.md, performed."""
