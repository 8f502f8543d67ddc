"""Whole runs on a small open model that answers badly: a real `remit dev`, a hundred tickets, and a judge of the outcome."""
