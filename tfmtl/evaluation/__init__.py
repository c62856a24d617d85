"""Scored rows to a verdict: metrics per slice, bounds, comparison with the last blessed model.

In go rows with a model's predictions; out come tables, a blessing with its reasons, and reliability
diagrams. The numbers themselves are computed in `metrics`.
"""
