"""Pages for people: what is public, to look at in any browser. No script, and nothing from elsewhere."""

from enarx.drawbridge.pages.site import Site, routes

__all__ = ["Site", "routes"]
