#include "types.h"
#include "simd_avx512.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>
#include <utility>

namespace gptwo::avx512 {
#include "kernels.inl"
}
