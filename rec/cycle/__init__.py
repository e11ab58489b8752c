"""The cycle in which a service learns from its own log: read, train, estimate, gate, promote, report."""
