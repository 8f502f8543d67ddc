"""Two agent SDKs on Temporal, as their own documentation has it. Run by the environment of `requirements-peers.txt`."""
