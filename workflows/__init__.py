"""Deterministic code: the loop of a run, its state and its wire contracts. No I/O, no vendor SDK, no clock of its own."""
