"""What tfmtl needs, for both stacks it runs on.

TFX 1.16 is the last TFX that installs below glibc 2.39, and Python 3.10 its last Python;
TFX 1.21 serves Python 3.11 to 3.13. The markers choose; `requirements/` holds the locks.
"""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(r'__version__ = "([^"]+)"', (ROOT / "tfmtl/_version.py").read_text()).group(1)
README = ROOT / "README.md"

TFX_1_16 = [
    "tfx==1.16.0",
    "tensorflow==2.16.2",
    "tf-keras==2.16.0",
]
# The newest that agree with TFX 1.16's protobuf 3.20 and with one another. uv finds them by itself;
# pip, left alone, walks through hundreds of releases of Beam's Google clients.
TFX_1_16_CEILINGS = [
    "apache-beam<=2.74.0",
    "cryptography<=47.0.0",
    "google-api-core<=2.29.0",
    "google-apitools<=0.5.31",
    "google-cloud-bigquery-storage<=2.36.2",
    "google-cloud-bigtable<=2.36.0",
    "google-cloud-build<=3.35.0",
    "google-cloud-datastore<=2.23.0",
    "google-cloud-dlp<=3.34.0",
    "google-cloud-kms<=3.11.0",
    "google-cloud-language<=2.19.0",
    "google-cloud-monitoring<=2.29.1",
    "google-cloud-pubsub<=2.36.0",
    "google-cloud-resource-manager<=1.16.0",
    "google-cloud-secret-manager<=2.26.0",
    "google-cloud-spanner<=3.64.0",
    "google-cloud-videointelligence<=2.18.0",
    "google-cloud-vision<=3.12.1",
    "googleapis-common-protos<=1.73.0",
    "grpc-google-iam-v1<=0.14.3",
    "grpcio-status<=1.48.2",
    "proto-plus<=1.27.1",
]
TFX_1_21 = [
    "tfx==1.21.0",
    "tensorflow==2.21.0",
    "tf-keras==2.21.0",
]
BOTH = [
    "absl-py",
    "apache-beam",
    # tfx_bsl imports dill, and apache-beam no longer brings it.
    "dill",
    "keras-tuner>=1.4.7",
    "matplotlib",
    "ml-metadata",
    "numpy",
    "pandas",
    "protobuf",
    "pyarrow",
    "scipy",
    "tensorflow-data-validation",
    "tensorflow-metadata",
    "tensorflow-model-analysis",
    "tensorflow-recommenders==0.7.7",
    "tensorflow-transform",
    "tfx-bsl",
    "tqdm",
]
LIGHTGBM = ["lightgbm>=4", "scikit-learn"]
# The server and the client. The protocol buffers come with TFX.
SERVING = [
    "aiohttp",
    "grpcio",
    "grpcio-health-checking",
    "prometheus-client",
    "requests",
    "tensorflow-serving-api",
]
NOTEBOOK = ["ipykernel", "nbclient", "nbformat"]
TEST = [
    "hypothesis",
    "mypy",
    "pre-commit",
    "pytest",
    "pytest-timeout",
    "pytest-xdist",
    "ruff",
    *LIGHTGBM,
    *NOTEBOOK,
    *SERVING,
]

setup(
    name="tfmtl",
    version=VERSION,
    description="Multi-task, multi-scene ranking on TensorFlow, from raw rows to a SavedModel",
    long_description=README.read_text() if README.exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.10,<3.14",
    packages=find_packages(
        include=["tfmtl", "tfmtl.*", "components", "components.*", "pipeline", "pipeline.*"]
    ),
    package_data={"": ["*.json", "*.pbtxt", "*.pyi", "py.typed"]},
    install_requires=[
        *(f"{needed}; python_version < '3.11'" for needed in TFX_1_16 + TFX_1_16_CEILINGS),
        *(f"{needed}; python_version >= '3.11'" for needed in TFX_1_21),
        *BOTH,
    ],
    extras_require={
        "lightgbm": LIGHTGBM,
        "notebook": NOTEBOOK,
        "serving": SERVING,
        "test": TEST,
    },
    entry_points={"console_scripts": ["tfmtl=tfmtl.command:main"]},
    classifiers=[
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
