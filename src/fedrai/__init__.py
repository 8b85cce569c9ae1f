"""FedRAI: federated fine-tuning of large language models that stays safe."""

import os

__version__ = "0.1.0"

# Flower reads the first one when it is first imported; here is the only place that is before that.
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
