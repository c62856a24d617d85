"""The guide for newcomers: its fragments fit into its configuration."""

from pipeline.config import check, load
from tests.doubles.pages import blocks_of


def test_the_guides_search_fits_into_its_configuration(tmp_path):
    blocks = [block for block in blocks_of("docs/your_data.md") if block.language == "python"]
    (shop,) = (block.text for block in blocks if block.file == "shop.py")
    (fragment,) = (block.text for block in blocks if block.text.startswith("tuning="))
    text = shop.replace("import (", "import (Tuning,")
    text = text.replace("    evaluation=", fragment.rstrip() + ",\n    evaluation=")
    (tmp_path / "search.py").write_text(text)
    experiment = load(str(tmp_path / "search.py")).experiment
    check(experiment)
    assert experiment.tuning is not None
