"""Where the world is touched: model calls, tools, the ledger. Each activity is retried with a cap and is safe to retry."""
