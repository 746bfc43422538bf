// Vectors of float32 as the compiler knows them: one source for AVX-512, AVX2 and NEON.
#pragma once
#include <stddef.h>
#include <stdint.h>

#if defined(__AVX512F__)
#define LANES 16
#define ACCUMULATORS 24
#elif defined(__AVX2__)
#define LANES 8
#define ACCUMULATORS 12
#else
#define LANES 4
#define ACCUMULATORS 24
#endif

typedef ptrdiff_t Index;  // long has 32 bits on Windows

#define INLINE __attribute__((always_inline)) static inline

typedef float Vec __attribute__((vector_size(4 * LANES)));
typedef int32_t IntVec __attribute__((vector_size(4 * LANES)));
typedef float UnalignedVec __attribute__((vector_size(4 * LANES), aligned(4)));

INLINE Vec load(const float *from) { return *(const UnalignedVec *)from; }
INLINE void store(float *to, Vec value) { *(UnalignedVec *)to = value; }
INLINE Vec splat(float value) { return value - (Vec){}; }
INLINE Vec chosen(IntVec where, Vec yes, Vec no) { return (Vec)((where & (IntVec)yes) | (~where & (IntVec)no)); }
// What is not a number in `a` stays so.
INLINE Vec larger(Vec a, Vec b) { return chosen(a < b, b, a); }
INLINE Vec smaller(Vec a, Vec b) { return chosen(a > b, b, a); }

// The first few values, zeros behind them.
INLINE Vec first_lanes(Vec x, Index some) {
    IntVec lane;
    for (int i = 0; i < LANES; i++) lane[i] = i;
    return chosen(lane < (int32_t)some, x, (Vec){});
}

INLINE Vec leaky(Vec x, float slope) { return chosen(x > 0, x, x * slope); }

// Adding 1.5 * 2^23 leaves the nearest whole number in the low bits.
static const float ROUNDER = 12582912.0f;

INLINE Vec nearest(Vec x) {
    Vec shifted = x + ROUNDER;
    return shifted - ROUNDER;
}

// sin(x)^2: the sign does not matter, so one period is pi. Cody and Waite's three parts of pi hold to |x| of some 10^4.
INLINE Vec squared_sine(Vec x) {
    Vec turns = nearest(x * 0.318309886183790672f);
    Vec r = x - turns * 3.140625f;
    r = r - turns * 9.67025756835937500e-4f;
    r = r - turns * 6.2771141529083251953e-7f;
    Vec r2 = r * r;
    Vec p = r2 * -2.3889859e-08f + 2.7525562e-06f;
    p = p * r2 - 0.00019840874f;
    p = p * r2 + 0.0083333310f;
    p = p * r2 - 0.16666667f;
    Vec s = r + r * r2 * p;
    return s * s;
}

INLINE Vec exponential(Vec x) {
    x = smaller(larger(x, splat(-87.0f)), splat(88.0f));
    Vec turns = nearest(x * 1.44269504088896341f);
    Vec r = x - turns * 0.693359375f;
    r = r + turns * 2.12194440e-4f;
    Vec p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    IntVec power = (__builtin_convertvector(turns, IntVec) + 127) << 23;
    return p * (Vec)power;
}

INLINE Vec sigmoid(Vec x) { return 1.0f / (1.0f + exponential(-x)); }

// Near zero a quotient of exponentials would lose the digits of quiet audio.
INLINE Vec hyperbolic_tangent(Vec x) {
    Vec magnitude = chosen(x < 0, -x, x);
    Vec far = 1.0f - 2.0f / (exponential(magnitude + magnitude) + 1.0f);
    Vec x2 = x * x;
    Vec p = x2 * -5.70498872745e-3f + 2.06390887954e-2f;
    p = p * x2 - 5.37397155531e-2f;
    p = p * x2 + 1.33314422036e-1f;
    p = p * x2 - 3.33332819422e-1f;
    Vec near = x + x * x2 * p;
    return chosen(magnitude < 0.625f, near, chosen(x < 0, -far, far));
}
