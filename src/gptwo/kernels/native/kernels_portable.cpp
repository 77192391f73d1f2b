#include "types.h"
#include "simd_portable.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>
#include <utility>

namespace gptwo::portable {
#include "kernels.inl"
}
