"""Organisations that do not share a machine: SuperLink, SuperNodes, nodes and offers."""
