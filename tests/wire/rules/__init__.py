"""A server that enforces what vendors write about their APIs. Each rule is a function that says where it is written."""
