"""Ray: generator, scorer and writer actors, and the driver that moves rows between them. No mathematics here."""
