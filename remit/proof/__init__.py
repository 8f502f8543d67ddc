"""Proof: the trace of a run, its seal, the capsule that holds both, and the check of it without a server."""
