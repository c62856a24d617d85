"""Files that run TensorFlow Serving on a folder of versions, each line with its reason."""

import os

from tfmtl.declare.checks import check_setting, filled

MODELS = """\
# tensorflow_model_server --model_config_file=models.config
# The newest version alone is served; the old one answers until the new one is warm.
model_config_list {{
  config {{
    name: "{name}"
    base_path: "{base_path}"
    model_platform: "tensorflow"
    model_version_policy {{ latest {{ num_versions: 1 }} }}
  }}
}}
"""
BATCHING = """\
# tensorflow_model_server --enable_batching --batching_parameters_file=batching.config
# A ranking request has hundreds of rows already, so batching pays off for small requests only.
# Most rows that are computed together: a few requests of 500 ads.
max_batch_size {{ value: {rows} }}
# How long a request waits for others, in microseconds. Longer than 1 ms shows in the p99.
batch_timeout_micros {{ value: 1000 }}
# One batch per core at a time; each may use several threads.
num_batch_threads {{ value: {threads} }}
# A full queue refuses with UNAVAILABLE, and the client tries again elsewhere.
max_enqueued_batches {{ value: 100 }}
# Sizes to pad to are not set: the graph takes any number of rows, and padding would cost rows.
pad_variable_length_inputs: true
"""
PROBE = """\
# Of the container that runs TensorFlow Serving.
# Ready once a version is loaded and warm: the status is 404 or 503 before.
readinessProbe:
  httpGet:
    path: /v1/models/{name}
    port: 8501
  periodSeconds: 5
  failureThreshold: 2
# Loading a large table takes longer than a probe; restart only what does not listen at all.
livenessProbe:
  tcpSocket:
    port: 8500
  initialDelaySeconds: 30
  periodSeconds: 10
"""


def write_deployment(
    folder: str, *, name: str, base_path: str, rows: int = 2048, threads: int = 4
) -> list[str]:
    """Writes `models.config`, `batching.config` and `probes.yaml`.

    Args:
        folder: Where to; it is made.
        name: The model's name.
        base_path: The folder of versions, as TensorFlow Serving sees it.
        rows: Most rows of a batch.
        threads: Batches at the same time; as many as cores.

    Returns:
        The paths written.
    """
    check_setting("name", name, str, filled())
    os.makedirs(folder, exist_ok=True)
    texts = {"models.config": MODELS, "batching.config": BATCHING, "probes.yaml": PROBE}
    # Text in a protocol buffer's text format.
    quoted = base_path.replace("\\", "\\\\").replace('"', '\\"')
    paths = []
    for file, text in texts.items():
        paths.append(os.path.join(folder, file))
        with open(paths[-1], "w", encoding="utf-8") as opened:
            opened.write(text.format(name=name, base_path=quoted, rows=rows, threads=threads))
    return paths
