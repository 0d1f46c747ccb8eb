"""A finished run as a dataset on the Hugging Face Hub."""

from noisesmith.pipeline.publish.hub import Published, hub_of, upload
from noisesmith.pipeline.publish.plan import Plan, PublishedFile, make_plan

__all__ = ["Plan", "Published", "PublishedFile", "hub_of", "make_plan", "upload"]
