"""What the guide for newcomers says of what its lines made."""

from pathlib import Path


def claims(page, whole):
    if whole:
        # The run itself, the one with another field, and the one that TFX's command makes.
        assert len([*Path("output/shop/serving/shop").glob("*/saved_model.pb")]) == 3
