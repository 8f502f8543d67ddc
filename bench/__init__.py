"""Remit beside plain Temporal and two agent SDKs on Temporal: one task, one model server, one Temporal server."""
