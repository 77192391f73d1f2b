"""What a configuration costs, by formula: parameters, floating-point operations, bytes. Exact integers, no torch."""

from gptwo.costs.flops import forward_flops, query_key_pairs, training_flops
from gptwo.costs.formats import (
    KVFormat,
    WeightFormat,
    embedding_row_bytes,
    kv_cache_bytes,
    kv_position_bytes,
    matrix_bytes,
    packed_bytes,
)
from gptwo.costs.operations import Operation, OperationKind, forward_operations
from gptwo.costs.table import (
    CostTable,
    ParameterRow,
    cost_table,
    parameter_count,
    parameter_rows,
    weight_bytes,
)

__all__ = [
    "CostTable",
    "KVFormat",
    "Operation",
    "OperationKind",
    "ParameterRow",
    "WeightFormat",
    "cost_table",
    "embedding_row_bytes",
    "forward_flops",
    "forward_operations",
    "kv_cache_bytes",
    "kv_position_bytes",
    "matrix_bytes",
    "packed_bytes",
    "parameter_count",
    "parameter_rows",
    "query_key_pairs",
    "training_flops",
    "weight_bytes",
]
