"""Remit under SIGKILLs, restarts and floods: what is planned, who does it, and how the business's own tables judge it."""
