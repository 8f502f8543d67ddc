"""Model providers behind one port. The only place that imports an LLM SDK."""
