"""A catalogue's vectors: those of the tower, in the ads' order, and no ad without or twice."""

import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf

from tfmtl.declare.experiment import Model
from tfmtl.declare.problem import ProblemSpec, binary, categorical, numerical
from tfmtl.errors import DataError
from tfmtl.features.fit import Preprocessor
from tfmtl.model.multitask import MultiTaskModel
from tfmtl.serving import ad_vectors as catalogue
from tfmtl.serving.ad_vectors import ad_vectors, write_ad_vectors
from tfmtl.serving.catalogue import main
from tfmtl.serving.export import export

PROBLEM = ProblemSpec(
    features=(
        categorical("user", side="user"),
        categorical("ad_id", side="ad", dtype="int64"),
        categorical("tags", side="ad", max_values=2),
        numerical("price", side="ad"),
    ),
    tasks=(binary("ctr", label="click"),),
)
ADS = 50
BACKBONES = {
    "two_tower": {"user_units": (8,), "ad_units": (8,), "width": 4},
    "shared_bottom": {"bottom_units": (8,)},
}


def catalogue_of(count, seed=0):
    rng = np.random.default_rng(seed)
    tags = [[f"t{t}" for t in rng.integers(0, 5, rng.integers(0, 4))] for _ in range(count)]
    price = rng.lognormal(size=count)
    price[::9] = np.nan
    return pd.DataFrame(
        {"name": "x", "price": price, "tags": tags, "ad_id": rng.permutation(count)}
    )


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    rng = np.random.default_rng(1)
    rows = catalogue_of(ADS).assign(
        user=rng.choice(["u1", "u2"], ADS), click=rng.integers(0, 2, ADS).astype(np.float32)
    )
    preprocessor = Preprocessor(PROBLEM)
    packed = preprocessor.fit(rows)
    found = {}
    for name, arguments in BACKBONES.items():
        config = Model(backbone={"name": name, **arguments}, dim=8, tower_units=(8,))
        model = MultiTaskModel.build_from(PROBLEM, preprocessor.table_rows(), config)
        model(packed)
        for variable in model.trainable_variables:
            variable.assign(tf.random.stateless_normal(variable.shape, [1, 2]))
        found[name] = export(model, preprocessor, str(tmp_path_factory.mktemp(name) / "1"))
    return found


@pytest.fixture
def path(models):
    return models["two_tower"]


def expected(path, ads):
    tags = [row[:2] + [""] * (2 - len(row[:2])) for row in ads["tags"]]
    tower = tf.saved_model.load(path).signatures["ad_tower"]
    return tower(
        ad_id=tf.constant(ads["ad_id"].to_numpy()),
        price=tf.constant(ads["price"].to_numpy(np.float32)),
        tags=tf.constant(tags),
    )["vector"].numpy()


def as_array(table):
    return np.stack(table.column("vector").to_pylist()).astype(np.float32)


def write(ads, path):
    if path.endswith(".parquet"):
        pq.write_table(pa.Table.from_pandas(ads), path, row_group_size=7)
    else:
        ads.assign(tags=["|".join(t) for t in ads["tags"]]).to_csv(path, index=False)
    return path


@pytest.mark.parametrize("name", ["ads.parquet", "ads.csv"])
def test_the_written_vectors_are_the_tower_s_in_the_ads_order(path, tmp_path, name):
    ads = catalogue_of(ADS, seed=3)
    out = str(tmp_path / "vectors.parquet")
    assert write_ad_vectors(path, write(ads, str(tmp_path / name)), out, batch_rows=8) == ADS
    table = pq.read_table(out)
    assert table.schema.field("vector").type == pa.list_(pa.float32(), 4)
    assert table.schema.field("ad_id").type == pa.int64()
    assert table.column("ad_id").to_pylist() == ads["ad_id"].tolist()
    np.testing.assert_allclose(as_array(table), expected(path, ads), rtol=1e-5, atol=1e-6)
    assert sorted(os.listdir(tmp_path)) == [name, "vectors.parquet"]


def test_neither_the_batch_nor_where_the_ads_come_from_matters(path, tmp_path):
    ads = catalogue_of(ADS, seed=3)
    model = tf.saved_model.load(path)
    whole = ad_vectors(model, ads)
    for given in (pa.Table.from_pandas(ads), write(ads, str(tmp_path / "ads.parquet"))):
        found = ad_vectors(model, given, batch_rows=7)
        assert found.column("ad_id").to_pylist() == whole.column("ad_id").to_pylist()
        np.testing.assert_allclose(as_array(found), as_array(whole), rtol=1e-5, atol=1e-6)


def test_an_id_that_the_model_does_not_read_is_text(path):
    ads = catalogue_of(6).assign(sku=[7.0, 8.0, 9.0, 10.0, 11.0, 12.0])
    found = ad_vectors(path, ads, id_column="sku")
    assert found.column("sku").to_pylist() == ["7", "8", "9", "10", "11", "12"]


def test_a_double_id_is_named_with_both_rows_and_nothing_is_written(path, tmp_path):
    ads = catalogue_of(ADS)
    ads.loc[40, "ad_id"] = ads.loc[4, "ad_id"]
    out = str(tmp_path / "vectors.parquet")
    source = write(ads, str(tmp_path / "ads.parquet"))
    with pytest.raises(DataError, match=f"'ad_id' {ads.loc[4, 'ad_id']} stands in rows 5 and 41;"):
        write_ad_vectors(path, source, out)
    assert os.listdir(tmp_path) == ["ads.parquet"]


def test_ids_that_only_share_a_hash_are_not_double(path, monkeypatch):
    monkeypatch.setattr(catalogue, "hash_text", lambda ids: np.zeros(len(ids), np.uint64))
    assert ad_vectors(path, catalogue_of(ADS)).num_rows == ADS
    ads = catalogue_of(ADS)
    ads.loc[[30, 40], "ad_id"] = ads.loc[4, "ad_id"]
    with pytest.raises(DataError, match=r"rows 5 and 31 \(2 rows repeat an id\)"):
        ad_vectors(path, ads)


def test_a_missing_id_is_refused_with_its_row(path, tmp_path):
    ads = catalogue_of(ADS).astype({"ad_id": "Int64"})
    ads.loc[33, "ad_id"] = pd.NA
    with pytest.raises(DataError, match="'ad_id' is missing in row 34 of the ads"):
        ad_vectors(path, write(ads, str(tmp_path / "ads.csv")))


def test_a_missing_column_is_the_reader_s_error(path, tmp_path):
    ads = catalogue_of(ADS).rename(columns={"price": "prise"})
    with pytest.raises(DataError, match=r"no column 'price'; .* Did you mean 'prise'\?"):
        ad_vectors(path, write(ads, str(tmp_path / "ads.parquet")))
    with pytest.raises(DataError, match=r"no column 'price'; .* Did you mean 'prise'\?"):
        ad_vectors(path, ads)


def test_a_model_without_an_ad_tower_says_which_backbone_has_one(models):
    with pytest.raises(DataError, match=r"no signature 'ad_tower'.*'name': 'two_tower'"):
        ad_vectors(models["shared_bottom"], catalogue_of(3))


def test_a_folder_of_versions_is_no_model_and_the_model_in_it_is_named(path):
    with pytest.raises(DataError, match=rf"no saved_model.pb. Did you mean '{path}'\?"):
        ad_vectors(os.path.dirname(path), catalogue_of(3))


def test_an_output_that_is_there_is_left_alone(path, tmp_path, capsys):
    out = tmp_path / "vectors.parquet"
    out.write_text("mine")
    source = write(catalogue_of(5), str(tmp_path / "ads.parquet"))
    assert main([path, source, "--out", str(out)]) == 1
    assert "is there already" in capsys.readouterr().err and out.read_text() == "mine"


def test_the_command_writes_and_its_help_teaches_rank_without_tensorflow(path, tmp_path, capsys):
    source = write(catalogue_of(5), str(tmp_path / "ads.parquet"))
    assert main([path, source, "--out", str(tmp_path / "v.parquet"), "--batch", "2"]) == 0
    assert "5 vectors written" in capsys.readouterr().out
    code = (
        "import sys, runpy; sys.argv = ['catalogue', '--help']\n"
        "try: runpy.run_module('tfmtl.serving.catalogue', run_name='__main__')\n"
        "finally: print('tensorflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 'signatures["rank"](' in done.stdout and "--batch" in done.stdout
    assert done.stdout.rstrip().endswith("False")
