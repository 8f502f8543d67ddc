"""A helper of the app: a file that starts with `_` is imported by others only."""

CREDITED = ("goodwill",)
