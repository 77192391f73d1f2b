#include "types.h"
#include "simd_avx2.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>
#include <utility>

namespace gptwo::avx2 {
#include "kernels.inl"
}
