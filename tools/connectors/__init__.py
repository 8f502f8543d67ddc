"""The only vendor I/O: each module here implements ports that the tool modules declare, for one vendor or for the sandbox."""
