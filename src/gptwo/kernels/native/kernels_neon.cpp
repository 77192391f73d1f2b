#include "types.h"
#include "simd_neon.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>
#include <utility>

namespace gptwo::neon {
#include "kernels.inl"
}
