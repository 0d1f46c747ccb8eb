"""How the built-in models were trained: one module a model, one loop for all of them."""
