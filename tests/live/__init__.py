"""Calls to real models: ten checks of a provider (`make live`), and whole runs on a small open model (`make live-open`)."""
