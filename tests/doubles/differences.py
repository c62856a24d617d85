"""Where plain data differ."""


def differing(first, second, path=""):
    """The dotted paths of all values that two nested mappings do not share."""
    if isinstance(first, dict) and isinstance(second, dict):
        keys = sorted({*first, *second})
        found = [differing(first.get(k), second.get(k), f"{path}.{k}" if path else k) for k in keys]
        return [name for names in found for name in names]
    return [] if first == second else [path]
