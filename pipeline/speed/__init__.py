"""How fast the sides of a run are, measured; and what follows: batch sizes, the best split of workers, cost."""
