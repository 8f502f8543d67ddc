"""The effect ledger: what was reserved, sent and done, and the off switches, in one database with one order."""
