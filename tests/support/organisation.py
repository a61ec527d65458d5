"""Organisations made for a test, as the product makes them for everybody's tests."""

from blockfl.fabric.testing.organisation import Organisation, channel_spec, make_organisation

__all__ = ["Organisation", "channel_spec", "make_organisation"]
