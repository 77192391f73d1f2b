"""What a configuration costs, by formula: parameters, floating-point operations, bytes. Exact integers, no torch."""

from gptwo.costs.flops import forward_flops, query_key_pairs, training_flops
from gptwo.costs.formats import (
    KVFormat,
    WeightFormat,
    embedding_row_bytes,
    kv_cache_bytes,
    kv_position_bytes,
    matrix_bytes,
    matrix_format,
    packed_bytes,
)
from gptwo.costs.operations import Operation, OperationKind, forward_operations
from gptwo.costs.serving_memory import kv_block_bytes, serving_memory
from gptwo.costs.table import (
    CostTable,
    ParameterRow,
    block_parameter_count,
    cost_table,
    parameter_count,
    parameter_rows,
    root_parameter_count,
    weight_bytes,
)
from gptwo.costs.training_memory import (
    HEAD_LOGITS,
    OptimizerName,
    TrainingDtype,
    activation_bytes,
    muon_batches,
    training_memory,
)

__all__ = [
    "HEAD_LOGITS",
    "CostTable",
    "KVFormat",
    "Operation",
    "OperationKind",
    "OptimizerName",
    "ParameterRow",
    "TrainingDtype",
    "WeightFormat",
    "activation_bytes",
    "block_parameter_count",
    "cost_table",
    "embedding_row_bytes",
    "forward_flops",
    "forward_operations",
    "kv_block_bytes",
    "kv_cache_bytes",
    "kv_position_bytes",
    "matrix_bytes",
    "matrix_format",
    "muon_batches",
    "packed_bytes",
    "parameter_count",
    "parameter_rows",
    "query_key_pairs",
    "root_parameter_count",
    "serving_memory",
    "training_flops",
    "training_memory",
    "weight_bytes",
]
