"""Machines that need not be here: what their data sheets say, and how much of that is reached.

A data sheet's figure is a peak that no program reaches. What a plan reckons with is the figure times an efficiency,
which somebody has measured: ``EFFICIENCY`` says who and on what. On another machine of the kind it is a guess.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from gptwo.base.errors import DeviceError
from gptwo.perf.ceilings import Ceilings

Kind = Literal["cuda", "cpu"]


class Efficiency(NamedTuple):
    """Shares of a data sheet's peaks that were measured: of matrix products and of the memory's speed, and where."""

    products: float
    memory: float
    source: str


EFFICIENCY: dict[Kind, Efficiency] = {
    "cuda": Efficiency(
        0.72,
        0.72,
        "published, not measured by gptwo: training a GPT reaches 225 of an A100's 312 TFLOP/s (Dao 2023, "
        "FlashAttention-2), writing with a 7B model reads 1.40 of its 1.94 TB/s (Accelerating Generative AI with "
        "PyTorch II, 2023)",
    ),
    "cpu": Efficiency(
        0.86,
        0.81,
        "gptwo's native engine reaches 86% of the multiply-add peak in a prefill on 2 cores of an EPYC "
        "(docs/performance.md); published, STREAM Triad reads 250 of two EPYC 7601's 307 GB/s (AnandTech 2017, "
        "Sizing Up Servers)",
    ),
}
# What a program takes of a GPU before it has a model: CUDA's context, the kernels that are loaded, cuBLAS's workspaces.
# A stated reserve: no data sheet says it, and it was not measured here.
CUDA_RESERVE = 512 << 20
# GDDR6 keeps its error correction in itself: 15 of a T4's 16 GiB are there, 22.5 of an L4's 24, 45 of an L40S's 48.
_LEFT_BY_ECC = 15 / 16
# A CPU's int8 products over its fp32 ones, where it has integer dot products: prefill in docs/performance.md.
_INT8_BY_FP32 = 2.3
# No data sheet says what an operation costs beside its arithmetic. These are of the order that PyTorch's dispatch and
# CUDA's launch take on a server of today, and a step of the native engine on 2 cores of an EPYC.
_DISPATCH_S: dict[Kind, float] = {"cuda": 5e-6, "cpu": 2e-6}
_LAUNCH_S: dict[Kind, float] = {"cuda": 4e-6, "cpu": 2e-6}
# As ``ceilings`` names the products of a model.
_PRODUCTS = ("attention.qkv", "attention.output", "mlp.up", "mlp.down", "head")


@dataclass(frozen=True, kw_only=True)
class Machine:
    """One device, by its data sheet: peaks of dense products (no sparsity) by dtype, and of reading its memory.

    ``link_bytes_per_s`` goes from one to another of its kind, in one direction. ``memory_bytes`` a program may have;
    None is as much as anyone has put in. On a GPU "tf32" is what training has for fp32. A dtype that is not in hardware
    is not there.
    """

    name: str
    title: str
    kind: Kind
    memory_bytes: int | None
    flops_per_s: dict[str, float]
    read_bytes_per_s: float
    link_bytes_per_s: float | None
    threads: int
    source: str

    @property
    def efficiency(self) -> Efficiency:
        """What is reached of these figures on machines of this kind."""
        return EFFICIENCY[self.kind]

    def ceilings(self, *, training: bool) -> Ceilings:
        """What a program reaches here: each peak times the efficiency of the kind. ``training`` has TF32 for fp32."""
        peaks = dict(self.flops_per_s)
        tf32 = peaks.pop("tf32", None)
        if training and tf32 is not None:
            peaks["fp32"] = tf32
        reached = {dtype: peak * self.efficiency.products for dtype, peak in peaks.items()}
        read = self.read_bytes_per_s * self.efficiency.memory
        return Ceilings(
            device=self.kind,
            name=self.title,
            threads=self.threads,
            matmul_flops_per_s=reached,
            model_matmul_flops_per_s=dict.fromkeys(_PRODUCTS, reached),
            read_bytes_per_s=read,
            copy_bytes_per_s=read,
            dispatch_s=_DISPATCH_S[self.kind],
            launch_s=_LAUNCH_S[self.kind],
            transfers=None,
            measured_at="",
            source="datasheet",
        )


def _gpu(  # noqa: PLR0917 - a line of the table
    name: str,
    title: str,
    gib: int,
    terabytes_per_s: float,
    fp32: float,
    tf32: float | None,
    bf16: float | None,
    int8: float,
    link: float,
    source: str,
    *,
    fp16: float | None = None,
    ecc: bool = False,
) -> Machine:
    """TFLOP/s (TOP/s in int8), and GB/s of the link. ``fp16`` None is as fast as bf16. ``ecc`` takes of the memory."""
    peaks = {"fp32": fp32, "tf32": tf32, "bf16": bf16, "fp16": fp16 or bf16, "int8": int8}
    return Machine(
        name=name,
        title=title,
        kind="cuda",
        memory_bytes=int((gib << 30) * (_LEFT_BY_ECC if ecc else 1)),
        flops_per_s={dtype: tera * 1e12 for dtype, tera in peaks.items() if tera is not None},
        read_bytes_per_s=terabytes_per_s * 1e12,
        link_bytes_per_s=link * 1e9,
        threads=1,
        source=source,
    )


def _cpu(  # noqa: PLR0917 - a line of the table
    name: str,
    title: str,
    cores: int,
    ghz: float,
    flops_per_cycle: int,
    gigabytes_per_s: float,
    source: str,
    *,
    integer_dots: bool,
) -> Machine:
    """``flops_per_cycle`` of one core in fp32: lanes · 2 · multiply-add units. ``ghz`` is the base clock.

    bf16 weights are multiplied as fp32, as the native engine does it.
    """
    fp32 = cores * ghz * 1e9 * flops_per_cycle
    int8 = fp32 * (_INT8_BY_FP32 if integer_dots else 1.0)
    return Machine(
        name=name,
        title=title,
        kind="cpu",
        memory_bytes=None,
        flops_per_s={"fp32": fp32, "bf16": fp32, "int8": int8, "int4": int8},
        read_bytes_per_s=gigabytes_per_s * 1e9,
        link_bytes_per_s=None,
        threads=cores,
        source=source,
    )


_SPARSE = "; its tensor peaks are with sparsity, halved here"
_H200 = f"NVIDIA H200 Tensor Core GPU Datasheet{_SPARSE}"
_H100 = f"NVIDIA H100 Tensor Core GPU Datasheet{_SPARSE}"
_A100 = "NVIDIA A100 Tensor Core GPU Datasheet"
_L40S = "NVIDIA L40S GPU Datasheet"
_A10 = "NVIDIA A10 Tensor Core GPU Datasheet"
_T4 = "NVIDIA T4 Tensor Core GPU Datasheet"
_L4 = f"NVIDIA L4 Tensor Core GPU Datasheet{_SPARSE}"
_V100 = "NVIDIA V100 Tensor Core GPU Datasheet; int8 is four times fp32 (dp4a)"
_ADA = "NVIDIA Ada GPU Architecture whitepaper, appendix A"
_GA102 = "NVIDIA Ampere GA102 GPU Architecture whitepaper, table 9"

# fmt: off
_ALL = (
    #    name           title                    GiB  TB/s   fp32  tf32   bf16    int8  link GB/s
    _gpu("h200",      "NVIDIA H200 SXM 141 GB",  141, 4.8,   66.9, 494.5, 989.5,  1979,  450, _H200),
    _gpu("h100",      "NVIDIA H100 SXM 80 GB",    80, 3.35,  66.9, 494.5, 989.5,  1979,  450, _H100),
    _gpu("h100-pcie", "NVIDIA H100 PCIe 80 GB",   80, 2.0,   51.2, 378,   756.5,  1513,   64, _H100),
    _gpu("a100",      "NVIDIA A100 SXM 80 GB",    80, 2.039, 19.5, 156,   312,    624,   300, _A100),
    _gpu("a100-40gb", "NVIDIA A100 SXM 40 GB",    40, 1.555, 19.5, 156,   312,    624,   300, _A100),
    _gpu("l40s",      "NVIDIA L40S 48 GB",        48, 0.864, 91.6, 183,   362.05, 733,    32, _L40S, ecc=True),
    _gpu("l4",        "NVIDIA L4 24 GB",          24, 0.3,   30.3, 60,    121,    242.5,  32, _L4, ecc=True),
    _gpu("a10",       "NVIDIA A10 24 GB",         24, 0.6,   31.2, 62.5,  125,    250,    32, _A10, ecc=True),
    _gpu("t4",        "NVIDIA T4 16 GB",          16, 0.32,  8.1,  None,  None,   130,    16, _T4, fp16=65, ecc=True),
    _gpu("v100",      "NVIDIA V100 SXM2 32 GB",   32, 0.9,   15.7, None,  None,   62.8,  150, _V100, fp16=125),
    _gpu("rtx4090",   "NVIDIA RTX 4090 24 GB",    24, 1.008, 82.6, 82.6,  165.2,  660.6,  32, _ADA),
    _gpu("rtx3090",   "NVIDIA RTX 3090 24 GB",    24, 0.936, 35.6, 35.6,  71,     284,    32, _GA102),
    #    name              title                                 cores GHz  FLOP/cycle GB/s
    _cpu("epyc-9654",      "AMD EPYC 9654, 96 cores",             96, 2.4,  32, 460.8,
         "AMD EPYC 9654 product page: base clock, 12 channels of DDR5-4800", integer_dots=True),
    _cpu("epyc-7763",      "AMD EPYC 7763, 64 cores",             64, 2.45, 32, 204.8,
         "AMD EPYC 7763 product page: base clock, 8 channels of DDR4-3200", integer_dots=False),
    _cpu("xeon-8480",      "Intel Xeon Platinum 8480+, 56 cores", 56, 2.0,  64, 307.2,
         "Intel Xeon Platinum 8480+ specifications: base clock, 8 channels of DDR5-4800", integer_dots=True),
    _cpu("ryzen-7950x",    "AMD Ryzen 9 7950X, 16 cores",         16, 4.5,  32, 83.2,
         "AMD Ryzen 9 7950X product page: base clock, 2 channels of DDR5-5200", integer_dots=True),
    _cpu("i7-10700",       "Intel Core i7-10700, 8 cores",         8, 2.9,  32, 45.8,
         "Intel Core i7-10700 specifications: base clock, greatest memory bandwidth", integer_dots=False),
    _cpu("raspberry-pi-5", "Raspberry Pi 5, 4 cores",              4, 2.4,  16, 17.1,
         "Raspberry Pi 5 product brief: 32 bits of LPDDR4X-4267", integer_dots=True),
)
# fmt: on
MACHINES: dict[str, Machine] = {machine.name: machine for machine in _ALL}


def gpu(name: str) -> Machine:
    """The GPU of that name. ``DeviceError`` for another name, and for a processor's."""
    names = [known.name for known in MACHINES.values() if known.kind == "cuda"]
    if name.lower() not in names:
        raise DeviceError(f"there is no GPU {name!r} among those known; expected one of {', '.join(names)}")
    return machine(name)


def machine(name: str) -> Machine:
    """The machine of that name. ``DeviceError`` lists the names when there is none."""
    if name.lower() not in MACHINES:
        raise DeviceError(
            f"device {name!r} is none of this machine's (auto, cpu, cuda, cuda:N), nor known by its data sheet; "
            f"expected one of {', '.join(MACHINES)}"
        )
    return MACHINES[name.lower()]
