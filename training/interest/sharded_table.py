"""The ID residual in shares: each worker of a fit holds some of the rows, on TorchRec's model parallelism.

In and out: as `recsys.models.id_table`, and its state, which is that of the whole table. Every worker has to take part in a lookup,
and in `gathered`, in the same order. The rows learn by row-wise Adagrad within the backward pass (`fused`): there is no gradient of
the table, and one number a row is all that the optimiser keeps.

Shapes: N catalogue when fitted, D width, n rows of this worker.
"""

import logging

import torch
from torch import Tensor, distributed, nn
from torch.distributed._shard.sharded_tensor.api import ShardedTensor
from torchrec.distributed.embedding import EmbeddingCollectionSharder
from torchrec.distributed.embedding_types import EmbeddingComputeKernel
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.planner import EmbeddingShardingPlanner, ParameterConstraints
from torchrec.distributed.planner.storage_reservations import FixedPercentageStorageReservation
from torchrec.distributed.planner.types import KernelConfig, PlannerError, TopologyFactory, TrainerConfig
from torchrec.distributed.types import ShardingPlan, ShardingType
from torchrec.optim.apply_optimizer_in_backward import apply_optimizer_in_backward
from torchrec.optim.rowwise_adagrad import RowWiseAdagrad

from recsys.errors import RecsysError
from recsys.models.id_table import TABLE, TorchRecIdTable

logging.getLogger("torchrec.distributed.planner").setLevel(logging.ERROR)

RATE = 10.0
"""Row-wise Adagrad's learning rate as a multiple of AdamW's."""

EPSILON = 1e-8
BLOCK = 1 << 16
"""Rows that travel at a time."""

WEIGHT, MOMENTUM = f"table.embeddings.{TABLE}.weight", "momentum"
"""Of the state: the vectors `[N, D]`, and what Adagrad keeps `[N]`."""


class ShardedIdTable(TorchRecIdTable):
    """A table whose rows the workers share; its state is that of the whole one."""

    def __init__(self, known: Tensor, width: int, limit_bytes: int, learning_rate: float) -> None:
        """Make a table of zeros; `known` `[N]` says which items had events.

        Raises:
            RecsysError: the rows of a worker take more than `limit_bytes`.
        """
        super().__init__(known, width, torch.device("meta"))
        self.learning_rate = RATE * learning_rate
        options = {"lr": self.learning_rate, "eps": EPSILON}
        apply_optimizer_in_backward(RowWiseAdagrad, self.table.parameters(), options)
        parallel = DistributedModelParallel(
            self.table,
            device=known.device,
            plan=_plan(self.table, known.device.type, limit_bytes),
            sharders=[EmbeddingCollectionSharder()],
            init_data_parallel=False,
        )
        self.table = parallel.module  # without the wrapper, names in the state are those of the plain table

    def set_rate(self, share: float) -> None:
        """Learn with this share of the peak learning rate from the next lookup on."""
        for group in self.table.fused_optimizer.param_groups:
            group["lr"] = share * self.learning_rate
        self.table.fused_optimizer.step()  # it hands the rate to the tables; the rows learn in the backward pass

    def optimizer_state(self) -> dict[str, Tensor]:
        """Return what the first worker saves of the optimiser; every worker has to call this."""
        return {MOMENTUM: gathered(self._momentum)}

    def load_optimizer_state(self, state: dict[str, Tensor]) -> None:
        """Take this worker's rows of what `optimizer_state` returned."""
        for shard in self._momentum.local_shards():
            first, rows = shard.metadata.shard_offsets[0], shard.metadata.shard_sizes[0]
            shard.tensor.copy_(state[MOMENTUM][first : first + rows])

    @property
    def _momentum(self) -> ShardedTensor:
        (state,) = self.table.fused_optimizer.state_dict()["state"].values()
        momentum: ShardedTensor
        (momentum,) = state.values()
        return momentum


def is_sharded(parameter: Tensor) -> bool:
    """Whether `parameter` is of a table whose rows the workers share, and learns within the backward pass."""
    return hasattr(parameter, "_in_backward_optimizers")


def gathered(tensor: Tensor) -> Tensor:
    """Return the whole of a tensor whose rows the workers share, in the first worker; others, and other tensors, as they are.

    Every worker has to call this.
    """
    if not isinstance(tensor, ShardedTensor):
        return tensor
    rank = distributed.get_rank()
    local = tensor.local_tensor().detach()
    whole = torch.empty(tensor.size() if rank == 0 else 0, dtype=local.dtype)
    for shard in tensor.metadata().shards_metadata:
        owner = shard.placement.rank()  # type: ignore[union-attr]
        first, rows = shard.shard_offsets[0], shard.shard_sizes[0]
        for start in range(0, rows, BLOCK):
            block = slice(start, min(start + BLOCK, rows))
            if owner == rank == 0:
                whole[first + block.start : first + block.stop] = local[block]
            elif rank == owner:
                distributed.send(local[block].contiguous(), 0)
            elif rank == 0:
                distributed.recv(whole[first + block.start : first + block.stop], owner)
    return whole


def _plan(table: nn.Module, device: str, limit_bytes: int) -> ShardingPlan:
    """Return the plan of a table in rows, the same in every worker."""
    world_size = distributed.get_world_size()
    trainer = TrainerConfig(
        world_size=world_size, local_world_size=world_size, hbm_cap_bytes=limit_bytes, ddr_cap_bytes=limit_bytes
    )
    topology = TopologyFactory.create_topology(trainer, kernel_config=KernelConfig(compute_device=device))
    by_rows = ParameterConstraints(
        sharding_types=[ShardingType.ROW_WISE.value], compute_kernels=[EmbeddingComputeKernel.FUSED.value]
    )
    planner = EmbeddingShardingPlanner(
        topology=topology,
        batch_size=1,  # what a step looks up is small beside the table
        constraints={TABLE: by_rows},
        storage_reservation=FixedPercentageStorageReservation(0.0),
    )
    try:
        return planner.collective_plan(table, [EmbeddingCollectionSharder()], distributed.group.WORLD)
    except PlannerError as error:
        raise RecsysError(
            f"compute.id_table_gib: {limit_bytes / 2**30:.3g} GiB are too few for the share of each of {world_size} workers in the ID "
            "residuals; take more workers, allow more, or set interest.id_residual=false"
        ) from error
