"""What people hold: settings, the client, the command line and the demo."""

__version__ = "0.1.0"
