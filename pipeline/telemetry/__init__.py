"""What a run reports about itself: events, counts, log, terminal output, status."""
