"""What the page on searching the network says of what its lines made."""

from pathlib import Path

OUTPUTS = ("architecture", "beta_heatmap", "skip_counts", "gradient_direction")


def claims(page, whole):
    tfmtl, search = page["tfmtl"], page["found"]
    experiment = page["EXPERIMENT"]
    backbone = search.experiment.model.backbone
    assert backbone["name"] == "automtl" and search.experiment.search is None
    again = tfmtl.search(experiment, page["prepared"].data, directory="search")
    assert again.architecture == search.architecture
    text = Path("search/architecture.json").read_text()
    assert tfmtl.Architecture.from_json(text) == search.architecture
    assert search.architecture.apply(experiment) == search.experiment
    measured = page["trained"].model.evaluate(page["prepared"].test.batches(8192))
    assert {"ctr/auc@imp", "ctcvr/auc@imp"} <= set(measured), measured
    assert Path("ranker/1/saved_model.pb").exists()
    for name in OUTPUTS:
        assert Path(f"search/{name}.png").read_bytes().startswith(b"\x89PNG")
        assert name == "architecture" or Path(f"search/{name}.csv").exists()
        if whole:
            assert Path(f"output/my_automtl/architecture/{name}.png").exists()
