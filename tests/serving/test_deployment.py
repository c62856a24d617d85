"""What is written for TensorFlow Serving parses as what it reads."""

import re

from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from tfmtl.serving.deployment import write_deployment


def test_models_config_names_the_model_and_its_folder(tmp_path):
    models, batching, probes = write_deployment(
        str(tmp_path / "deploy"), name="ads", base_path='/models/"ads"', rows=1000
    )
    config = text_format.Parse(open(models).read(), model_server_config_pb2.ModelServerConfig())
    (model,) = config.model_config_list.config
    assert (model.name, model.base_path) == ("ads", '/models/"ads"')
    assert model.model_version_policy.latest.num_versions == 1
    assert re.search(r"max_batch_size \{ value: 1000 \}", open(batching).read())
    assert "path: /v1/models/ads" in open(probes).read()
