"""Tests: one folder per room of the code, and their doubles and small worlds in `doubles/`."""
