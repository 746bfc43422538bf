// What lies between convolutions: activations with and without anti-aliasing, sums, gates, moves of channels.
#pragma once
#include "convolution.h"

// The anti-aliased snake, a block of rows and one vector of channels at a time: the even and odd samples of the doubled
// rate are made once, bent, and filtered back. Taps: up even, up odd, down even, down odd, seven each.
enum { SNAKE_ROWS = 64, WINDOW = 7, REACH = 3 };

struct Snake {
    int channels;
    const float *a, *inverse, *taps;
};

static inline void snake_block(const struct Snake *s, struct Rows in, struct Rows out, Index first, Index last,
                               Index channel) {
    Vec x[SNAKE_ROWS + 4 * REACH], even[SNAKE_ROWS + 2 * REACH], odd[SNAKE_ROWS + 2 * REACH];
    Index rows = last - first, end = in.length - 1;
    Vec a = load(s->a + channel), inverse = load(s->inverse + channel);
    for (Index i = 0; i < rows + 4 * REACH; i++)
        x[i] = load(in.at + least(most(first + i - 2 * REACH, 0), end) * in.stride + channel);
    for (Index i = 0; i < rows + 2 * REACH; i++) {
        Vec up_even = (Vec){}, up_odd = (Vec){};
#pragma GCC unroll 7
        for (int tap = 0; tap < WINDOW; tap++) {
            if (tap + 1 < WINDOW) up_even += s->taps[tap] * x[i + tap];
            if (tap) up_odd += s->taps[WINDOW + tap] * x[i + tap];
        }
        even[i] = up_even + squared_sine(a * up_even) * inverse;
        odd[i] = up_odd + squared_sine(a * up_odd) * inverse;
    }
    // Both phases go on with the first even value before the start and the last odd value behind the end.
    for (Index i = 0; i < REACH - first; i++) even[i] = odd[i] = even[REACH - first];
    for (Index i = end + 1 - first + REACH; i < rows + 2 * REACH; i++) even[i] = odd[i] = odd[end - first + REACH];
    for (Index i = 0; i < rows; i++) {
        Vec sum = (Vec){};
#pragma GCC unroll 7
        for (int tap = 0; tap < WINDOW; tap++) {
            if (tap) sum += s->taps[2 * WINDOW + tap] * even[i + tap];
            if (tap + 1 < WINDOW) sum += s->taps[3 * WINDOW + tap] * odd[i + tap];
        }
        store(out.at + (first + i) * out.stride + channel, sum);
    }
}

INLINE void snake_rows(const struct Snake *s, struct Rows in, struct Rows out, Index first, Index last) {
    for (Index row = first; row < last; row += SNAKE_ROWS)
        for (Index channel = 0; channel < s->channels; channel += LANES)
            snake_block(s, in, out, row, least(row + SNAKE_ROWS, last), channel);
}

enum Joint { JOIN_NONE, JOIN_ADD, JOIN_SUBTRACT, JOIN_MULTIPLY, JOIN_DIVIDE, JOIN_GATE };

INLINE Vec joined(Vec a, Vec b, int joint) {
    switch (joint) {
    case JOIN_ADD: return a + b;
    case JOIN_SUBTRACT: return a - b;
    case JOIN_MULTIPLY: return a * b;
    case JOIN_DIVIDE: return a / b;
    case JOIN_GATE: return hyperbolic_tangent(a) * sigmoid(b);
    default: return a;
    }
}

// Channels from `own` to `width` become zero. Those beyond belong to others: vectors that would reach them go value by
// value.
INLINE void pointwise_rows(struct Rows a, struct Rows b, struct Rows out, Index own, Index width, int joint, int post,
                           float slope, float scale, Index first, Index last) {
    for (Index row = first; row < last; row++) {
        const float *left = a.at + (a.length == 1 ? 0 : row * a.stride);
        const float *right = b.at ? b.at + (b.length == 1 ? 0 : row * b.stride) : left;
        float *to = out.at + row * out.stride;
        for (Index channel = 0; channel < width; channel += LANES) {
            Vec made = joined(load(left + channel), load(right + channel), joint) * scale;
            made = post_applied(made, post, slope);
            if (channel + LANES > own) made = first_lanes(made, own - channel);
            if (channel + LANES <= width) {
                store(to + channel, made);
            } else {
                for (Index i = 0; channel + i < width; i++) to[channel + i] = made[i];
            }
        }
    }
}

// (rows * group) x channels -> rows x (channels * group): the group's samples of a channel side by side.
INLINE void folded_rows(struct Rows in, struct Rows out, Index channels, Index group, Index first, Index last) {
    for (Index row = first; row < last; row++) {
        float *to = out.at + row * out.stride;
        for (Index i = 0; i < group; i++)
            for (Index channel = 0; channel < channels; channel++)
                to[channel * group + i] = in.at[(row * group + i) * in.stride + channel];
        for (Index channel = channels * group; channel < out.stride; channel++) to[channel] = 0;
    }
}

// rows x channels -> mono, the channels of a row one after the other.
INLINE void unfolded_rows(struct Rows in, struct Rows out, Index channels, Index first, Index last) {
    for (Index row = first; row < last; row++)
        for (Index channel = 0; channel < channels; channel++)
            out.at[row * channels + channel] = in.at[row * in.stride + channel];
}
