"""What would have happened: recorded actions under another policy, recorded runs under another prompt or model."""
