"""What a run's actors hold and compute, and the sizes of its images. :mod:`.estimate` imports the model libraries."""
