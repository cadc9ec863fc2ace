"""Certificates and predictions: procedures that request votes and return a record."""
