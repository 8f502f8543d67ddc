"""What an agent may do: pure decisions from recorded facts. Nothing in here reads a file, a clock or a network."""
