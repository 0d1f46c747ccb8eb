"""The noise search of Noise Diffusion (arXiv 2411.16503): one row's state, proposals, scores."""
