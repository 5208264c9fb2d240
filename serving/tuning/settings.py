"""What tuning varies of a served model, in its `config.pbtxt`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from heatserve.certification.cores import usable_cores

if TYPE_CHECKING:
    from tritonclient.grpc import model_config_pb2 as pb

TUNED = "tuned"
"""Parameter of `config.pbtxt` that says what its settings were chosen for, where and when."""

DEFAULT_MULTIPLE = 5
"""The 99th percentile may take so many times what one request to an idle server takes (median), by default."""


@dataclass(frozen=True)
class ServerSetting:
    """How a model is run. Requests that wait go to an instance in batches of `preferred_batch` images."""

    instances: int
    threads: int
    """The threads of each instance."""
    preferred_batch: int
    queue_delay_us: int = 0
    """How long a request waits for such a batch, in microseconds; 0: it goes as soon as an instance is idle."""

    def apply(self, config: pb.ModelConfig) -> None:
        """Change a model's configuration to this setting, and nothing else of it."""
        from heatserve.export.repository.settings import THREADS

        kind = config.instance_group[0].kind if config.instance_group else 0
        config.ClearField("instance_group")
        config.instance_group.add(kind=kind, count=self.instances)
        config.parameters[THREADS].string_value = str(self.threads)
        config.dynamic_batching.ClearField("preferred_batch_size")
        config.dynamic_batching.preferred_batch_size.append(self.preferred_batch)
        config.dynamic_batching.max_queue_delay_microseconds = self.queue_delay_us


def even_splits() -> list[ServerSetting]:
    """The ways to share this machine's cores evenly among 1, 2, 4, … instances, with batches of any size."""
    from heatserve.export.repository.layout import MAX_BATCH_SIZE

    cores = usable_cores()
    return [ServerSetting(2**n, cores // 2**n, MAX_BATCH_SIZE) for n in range(cores.bit_length())]
