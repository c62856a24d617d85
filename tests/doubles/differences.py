"""Finds the differences between two nested mappings."""


def differing(first, second, path=""):
    """Returns the dotted paths of all values that differ between two nested mappings."""
    if isinstance(first, dict) and isinstance(second, dict):
        keys = sorted({*first, *second})
        paths = [differing(first.get(k), second.get(k), f"{path}.{k}" if path else k) for k in keys]
        return [name for names in paths for name in names]
    return [] if first == second else [path]
