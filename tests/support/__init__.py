"""The harness that tests, demo and bench share.

This file imports nothing, since set-up runs from here before anything is installed.
"""
