"""Training and evaluation of the built-in models. It is part of the repository and not of the installed package."""
