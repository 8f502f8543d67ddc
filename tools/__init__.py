"""What agents can do: narrow, typed, versioned operations. Arguments and business rules are pure; connectors do the I/O."""
