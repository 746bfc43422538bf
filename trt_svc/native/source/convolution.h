// Convolutions over rows of channels (time x channels): direct, or with fewer products in a Toom-Cook form.
//
// A transposed convolution of stride s is a convolution with s times the channels whose outputs are dealt out to s
// rows each, so it needs no code of its own: see `scatter`.
#pragma once
#include "forms.h"
#include "vectors.h"
#include <stdlib.h>
#include <string.h>

enum { CHANNEL_BLOCK = 16 };  // channels of a row are padded to whole blocks, with zeros

INLINE Index rounded_up(Index n, Index to) { return (n + to - 1) / to * to; }
INLINE Index least(Index a, Index b) { return a < b ? a : b; }
INLINE Index most(Index a, Index b) { return a > b ? a : b; }

enum Post { POST_NONE, POST_TANH, POST_CLIP, POST_SIGMOID, POST_EXP, POST_LEAKY };

INLINE Vec post_applied(Vec x, int post, float slope) {
    switch (post) {
    case POST_TANH: return hyperbolic_tangent(x);
    case POST_CLIP: return smaller(larger(x, splat(-1.0f)), splat(1.0f));
    case POST_SIGMOID: return sigmoid(x);
    case POST_EXP: return exponential(x);
    case POST_LEAKY: return leaky(x, slope);
    default: return x;
    }
}

struct Rows {
    float *at;  // row 0; rows before and behind it may be read where the plan says so
    Index stride, length;
};

struct Conv {
    int in_channels, out_channels, kernel, dilation, stride, lead, scatter, pad;
    int outputs, taps;  // the Toom-Cook form; 0: direct
    float slope;        // of the leaky ReLU in front; 1: none
    int post;
    float *packed, *bias;  // bias: zeros behind the last channel
};

// Channels of all rows that one virtual row is dealt out to.
INLINE Index virtual_channels(const struct Conv *c) { return rounded_up(c->out_channels, CHANNEL_BLOCK) * c->scatter; }

// Vectors that one pass of the inner kernel computes side by side.
INLINE int group_width(Index vectors_left) {
    if (LANES == 4) return 4;
    return vectors_left == 1 ? 1 : vectors_left == 3 ? 3 : 2;
}

struct Call {
    const struct Conv *conv;
    struct Rows in, out, add[2];  // add: length 1 is used for every row, `at` NULL for none
    Index out_width;               // floats of an output row that are ours
    Index virtual_rows, rows_per_item, tiles_per_block;
    float *scratch;
    Index scratch_stride;  // per thread
};

INLINE void finish(const struct Call *call, Index row, Index channel, Vec value) {
    const struct Conv *c = call->conv;
    if (c->scatter > 1) {
        Index block = rounded_up(c->out_channels, CHANNEL_BLOCK);
        row = row * c->scatter + channel / block - c->pad;
        channel %= block;
    }
    if (row < 0 || row >= call->out.length) return;
    value += load(c->bias + channel);
    for (int i = 0; i < 2; i++) {
        const struct Rows *add = &call->add[i];
        if (add->at) value += load(add->at + (add->length == 1 ? 0 : row * add->stride) + channel);
    }
    if (c->post) value = post_applied(value, c->post, 0);
    float *to = call->out.at + row * call->out.stride + channel;
    if (channel + LANES <= call->out_width) {
        store(to, value);
    } else {
        for (Index i = 0; channel + i < call->out_width; i++) to[i] = value[i];
    }
}

// The inner kernel: `rows` x `width` vectors of sums over `segments` runs of `run` products each.
template <int rows, int width>
INLINE void sums(Vec acc[rows][width], const float *a, Index row_step, Index segments, Index segment_step, Index run,
                 const float *b) {
    Vec sum[rows][width];  // in registers; `acc` is indexed by loops, so clang keeps it in memory
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < width; j++) sum[i][j] = (Vec){};
    for (Index s = 0; s < segments; s++, a += segment_step)
        for (Index k = 0; k < run; k++, b += width * LANES) {
            Vec right[width];
#pragma GCC unroll 4
            for (int j = 0; j < width; j++) right[j] = load(b + j * LANES);
#pragma GCC unroll 24
            for (int i = 0; i < rows; i++) {
                Vec left = splat(a[i * row_step + k]);
#pragma GCC unroll 4
                for (int j = 0; j < width; j++) sum[i][j] += left * right[j];
            }
        }
#pragma GCC unroll 24
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 4
        for (int j = 0; j < width; j++) acc[i][j] = sum[i][j];
}

// Direct.

INLINE void activated(const float *from, float *to, Index floats, float slope) {
    for (Index i = 0; i < floats; i += LANES) store(to + i, leaky(load(from + i), slope));
}

template <int rows, int width>
static void direct_tile(const struct Call *call, const float *a, Index row_step, Index tap_step, Index row, Index last,
                        Index channel, const float *b) {
    const struct Conv *c = call->conv;
    Vec acc[rows][width];
    // A mono input's taps lie side by side.
    const bool mono = call->in.stride == 1 && c->dilation == 1;
    sums<rows, width>(acc, a, row_step, mono ? 1 : c->kernel, tap_step, mono ? c->kernel : c->in_channels, b);
    for (int i = 0; i < rows && row + i < last; i++)
        for (int j = 0; j < width; j++) finish(call, row + i, channel + j * LANES, acc[i][j]);
}

template <int width>
static void direct_group(const struct Call *call, const float *a, Index row_step, Index tap_step, Index first, Index last,
                         Index channel, const float *b) {
    enum { ROWS = ACCUMULATORS / width, HALF = ROWS / 2 };
    Index row = first;
    while (row < last) {
        const float *from = a + (row - first) * row_step;
        if (last - row > HALF) {
            direct_tile<ROWS, width>(call, from, row_step, tap_step, row, last, channel, b);
            row += ROWS;
        } else {
            direct_tile<HALF, width>(call, from, row_step, tap_step, row, last, channel, b);
            row += HALF;
        }
    }
}

static void direct_rows(const struct Call *call, Index first, Index last, float *scratch) {
    const struct Conv *c = call->conv;
    Index stride = call->in.stride;
    const float *a = call->in.at + (first * c->stride - c->lead) * stride;
    if (c->slope != 1.0f) {
        Index rows = (last - first - 1) * c->stride + (Index)(c->kernel - 1) * c->dilation + 1;
        activated(a, scratch, rounded_up(rows * stride, LANES), c->slope);
        a = scratch;
    }
    const float *b = c->packed;
    Index vectors = virtual_channels(c) / LANES;
    for (Index done = 0; done < vectors;) {
        int width = group_width(vectors - done);
        Index row_step = c->stride * stride, tap_step = c->dilation * stride, channel = done * LANES;
        switch (width) {
        case 1: direct_group<1>(call, a, row_step, tap_step, first, last, channel, b); break;
        case 2: direct_group<2>(call, a, row_step, tap_step, first, last, channel, b); break;
        case 3: direct_group<3>(call, a, row_step, tap_step, first, last, channel, b); break;
        default: direct_group<4>(call, a, row_step, tap_step, first, last, channel, b); break;
        }
        b += (Index)c->kernel * c->in_channels * width * LANES;
        done += width;
    }
}

// A single output channel: one sum over the taps and channels of its row.
static void mono_rows(const struct Call *call, Index first, Index last, float *scratch) {
    const struct Conv *c = call->conv;
    Index stride = call->in.stride, taps = (Index)(c->kernel - 1) * c->dilation;
    const float *a = call->in.at + (first * c->stride - c->lead) * stride;
    activated(a, scratch, rounded_up(((last - first - 1) * c->stride + taps + 1) * stride, LANES), c->slope);
    float made[LANES];
    for (Index row = first; row < last; row += LANES) {
        Index some = least(LANES, last - row);
        for (Index i = 0; i < some; i++) {
            const float *from = scratch + (row - first + i) * c->stride * stride, *weight = c->packed;
            Vec sum = (Vec){};
            for (int tap = 0; tap < c->kernel; tap++, from += c->dilation * stride, weight += stride)
                for (Index channel = 0; channel < stride; channel += LANES)
                    sum += load(from + channel) * load(weight + channel);
            float total = c->bias[0];
            for (int lane = 0; lane < LANES; lane++) total += sum[lane];
            made[i] = total;
        }
        for (Index i = some; i < LANES; i++) made[i] = 0;
        Vec value = post_applied(load(made), c->post, 0);
        for (Index i = 0; i < some; i++) call->out.at[row + i] = value[i];
    }
}

// With fewer products.

// Opposite points p and -p, neighbours in a form: where the other points are opposite pairs too, their rows differ in the
// signs of every second number only.
template <typename F> constexpr bool mirrored(int p) {
    if (p < 1 || p % 2 == 0 || p > 2 * F::pairs) return false;
    for (int i = 0; i < F::points; i++)
        if (F::BT[p + 1][i] != (i % 2 ? -F::BT[p][i] : F::BT[p][i])) return false;
    return true;
}

template <typename F> INLINE Vec input_sum(const Vec *in, int p, int first, int step) {
    Vec sum = (Vec){};
#pragma GCC unroll 16
    for (int i = first; i < F::points; i += step)
        if (F::BT[p][i] != 0) sum += F::BT[p][i] * in[i];
    return sum;
}

template <int outputs, int taps>
static void tiles_in(const struct Call *call, const float *from, Index tiles, Index channels, float *points,
                     Index point_step) {
    typedef Form<outputs, taps> F;
    const struct Conv *c = call->conv;
    Index step = c->dilation * call->in.stride;
    for (Index tile = 0; tile < tiles; tile++, from += outputs * step, points += channels)
        for (Index ch = 0; ch < channels; ch += LANES) {
            Vec in[F::points];
#pragma GCC unroll 16
            for (int i = 0; i < F::points; i++) {
                in[i] = load(from + i * step + ch);
                if (c->slope != 1.0f) in[i] = leaky(in[i], c->slope);
            }
#pragma GCC unroll 16
            for (int p = 0; p < F::points; p++) {
                if (mirrored<F>(p)) {
                    Vec even = input_sum<F>(in, p, 0, 2), odd = input_sum<F>(in, p, 1, 2);
                    store(points + p * point_step + ch, even + odd);
                    store(points + (p + 1) * point_step + ch, even - odd);
                } else if (!mirrored<F>(p - 1)) {
                    store(points + p * point_step + ch, input_sum<F>(in, p, 0, 1));
                }
            }
        }
}

template <int outputs, int taps>
static void tiles_out(const struct Call *call, const float *sums, Index point_step, Index tiles, Index width, Index row,
                      Index last, Index channel) {
    typedef Form<outputs, taps> F;
    const Index dilation = call->conv->dilation;
    for (Index tile = 0; tile < tiles; tile++, row += outputs * dilation)
        for (Index ch = 0; ch < width; ch += LANES) {
            Vec in[F::points];
#pragma GCC unroll 16
            for (int p = 0; p < F::points; p++) in[p] = load(sums + p * point_step + tile * width + ch);
            // A power of p and of -p is the same, or the opposite.
#pragma GCC unroll 16
            for (int p = 1; p < 2 * F::pairs; p += 2) {
                Vec sum = in[p] + in[p + 1];
                in[p + 1] = in[p] - in[p + 1];
                in[p] = sum;
            }
#pragma GCC unroll 16
            for (int i = 0; i < outputs; i++) {
                if (row + i * dilation >= last) break;
                Vec sum = (Vec){};
#pragma GCC unroll 16
                for (int p = 0; p < F::points; p++) {
                    bool paired = p >= 1 && p <= 2 * F::pairs;
                    if (paired && (p % 2 == 1) == (i % 2 == 1)) continue;  // sums for even powers, differences for odd
                    float factor = F::AT[i][paired && p % 2 == 0 ? p - 1 : p];
                    if (factor != 0) sum += factor * in[p];
                }
                finish(call, row + i * dilation, channel + ch, sum);
            }
        }
}

template <int rows, int width>
static void product_tile(const float *a, Index channels, Index products, const float *b, float *to) {
    Vec acc[rows][width];
    // The pieces of a long kernel read the tiles that follow, which lie behind each other: one run of products.
    sums<rows, width>(acc, a, channels, 1, 0, products, b);
#pragma GCC unroll 24
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 4
        for (int j = 0; j < width; j++) store(to + (i * width + j) * LANES, acc[i][j]);
}

template <int width>
static void products(const float *a, Index channels, Index tiles, Index count, const float *b, float *to) {
    enum { ROWS = ACCUMULATORS / width, TWO_THIRDS = ROWS * 2 / 3, THIRD = ROWS - TWO_THIRDS };
    while (tiles > 0) {
        Index rows;
        if (tiles > TWO_THIRDS) {
            product_tile<ROWS, width>(a, channels, count, b, to);
            rows = ROWS;
        } else if (tiles > THIRD) {
            product_tile<TWO_THIRDS, width>(a, channels, count, b, to);
            rows = TWO_THIRDS;
        } else {
            product_tile<THIRD, width>(a, channels, count, b, to);
            rows = THIRD;
        }
        tiles -= rows;
        a += rows * channels;
        to += rows * width * LANES;
    }
}

template <int outputs, int taps>
static void toom_block(const struct Call *call, Index row, Index last, Index tiles, float *scratch) {
    typedef Form<outputs, taps> F;
    const struct Conv *c = call->conv;
    Index pieces = (c->kernel + taps - 1) / taps, channels = rounded_up(c->in_channels, CHANNEL_BLOCK);
    Index rooms = call->tiles_per_block + ACCUMULATORS + pieces;
    Index in_step = rooms * channels, out_step = rooms * 4 * LANES;
    float *in = scratch, *made = scratch + F::points * in_step;
    tiles_in<outputs, taps>(call, call->in.at + (row - c->lead) * call->in.stride, tiles + pieces - 1, channels, in,
                            in_step);
    const float *b = c->packed;
    Index vectors = virtual_channels(c) / LANES, count = pieces * channels;
    for (Index done = 0; done < vectors;) {
        int width = group_width(vectors - done);
        for (int p = 0; p < F::points; p++, b += count * width * LANES) {
            const float *a = in + p * in_step;
            float *to = made + p * out_step;
            switch (width) {
            case 1: products<1>(a, channels, tiles, count, b, to); break;
            case 2: products<2>(a, channels, tiles, count, b, to); break;
            case 3: products<3>(a, channels, tiles, count, b, to); break;
            default: products<4>(a, channels, tiles, count, b, to); break;
            }
        }
        tiles_out<outputs, taps>(call, made, out_step, tiles, width * LANES, row, last, done * LANES);
        done += width;
    }
}

template <int outputs, int taps>
static void toom_rows(const struct Call *call, Index first, Index last, float *scratch) {
    Index dilation = call->conv->dilation, block = call->tiles_per_block;
    for (Index phase = first; phase < least(first + dilation, last); phase++) {
        Index tiles = ((last - phase + dilation - 1) / dilation + outputs - 1) / outputs;
        for (Index tile = 0; tile < tiles; tile += block)
            toom_block<outputs, taps>(call, phase + tile * outputs * dilation, last, least(block, tiles - tile),
                                      scratch);
    }
}

// What a call needs.

INLINE Index points_of(const struct Conv *c) { return c->outputs ? c->outputs + c->taps - 1 : 0; }

static inline void plan_call(struct Call *call, int threads) {
    enum { CACHED_FLOATS = 150000, MOST_DIRECT_ROWS = 240 };
    const struct Conv *c = call->conv;
    Index rows = call->virtual_rows;
    if (c->outputs) {
        Index channels = rounded_up(c->in_channels, CHANNEL_BLOCK), tile_rows = (Index)c->outputs * c->dilation;
        Index block = CACHED_FLOATS / (points_of(c) * (channels + 2 * LANES)) / 12 * 12;
        block = most(24, least(96, block));
        if (c->in_channels * virtual_channels(c) >= 1 << 18) block = most(block, 48);  // the weights come from memory
        Index tiles = (rows + tile_rows - 1) / tile_rows;
        Index items = rounded_up(most(1, (tiles + block - 1) / block), threads);
        call->tiles_per_block = block;
        call->rows_per_item = most(1, (tiles + items - 1) / items) * tile_rows;
        call->scratch_stride = points_of(c) * (block + ACCUMULATORS + 16) * (channels + 4 * LANES) + 64;
    } else {
        Index items = rounded_up((rows + MOST_DIRECT_ROWS - 1) / MOST_DIRECT_ROWS, threads);
        call->rows_per_item = rounded_up(most(1, (rows + items - 1) / items), 12);
        Index most_rows = (call->rows_per_item + 32) * c->stride + (Index)c->kernel * c->dilation + 1;
        call->scratch_stride = most_rows * call->in.stride + 256;
    }
    call->scratch_stride = rounded_up(call->scratch_stride, 16);
}

static void conv_item(void *task, Index item, int thread) {
    const struct Call *call = (const struct Call *)task;
    const struct Conv *c = call->conv;
    float *scratch = call->scratch + thread * call->scratch_stride;
    Index first = item * call->rows_per_item, last = least(first + call->rows_per_item, call->virtual_rows);
    if (call->out.stride == 1) return mono_rows(call, first, last, scratch);
#define TRY(m, r) \
    if (c->outputs == m && c->taps == r) return toom_rows<m, r>(call, first, last, scratch);
    FOR_EACH_FORM(TRY)
#undef TRY
    direct_rows(call, first, last, scratch);
}

// Packing. `weight` is torch's: (out, in, kernel), or (in, out, kernel) for a transposed convolution.

struct Raw {
    const float *weight;
    Index in, out, kernel;
    int transposed, scatter;
};

// The weight of a tap of the convolution over virtual channels.
INLINE float weight_at(const struct Raw *raw, Index channel_in, Index virtual_channel, Index tap, Index taps) {
    Index block = rounded_up(raw->out, CHANNEL_BLOCK), out = virtual_channel % block;
    if (out >= raw->out || channel_in >= raw->in || tap >= taps) return 0;
    if (!raw->transposed) return raw->weight[(out * raw->in + channel_in) * raw->kernel + tap];
    Index at = virtual_channel / block + raw->scatter * (taps - 1 - tap);
    return at < raw->kernel ? raw->weight[(channel_in * raw->out + out) * raw->kernel + at] : 0;
}

// Numbers that every virtual channel's weights take up.
INLINE Index packed_per_channel(const struct Conv *c) {
    if (!c->outputs) return (Index)c->kernel * c->in_channels;
    Index pieces = (c->kernel + c->taps - 1) / c->taps;
    return points_of(c) * pieces * rounded_up(c->in_channels, CHANNEL_BLOCK);
}

static void pack_direct(const struct Conv *c, const struct Raw *raw, Index first, Index channels, float *to) {
    for (Index tap = 0; tap < c->kernel; tap++)
        for (Index in = 0; in < c->in_channels; in++)
            for (Index channel = 0; channel < channels; channel++)
                *to++ = weight_at(raw, in, first + channel, tap, c->kernel);
}

template <int outputs, int taps>
static void pack_toom(const struct Conv *c, const struct Raw *raw, Index first, Index channels, float *to) {
    typedef Form<outputs, taps> F;
    enum { AT_ONCE = 16 };  // inputs whose packed weights stay in the cache while all channels are gone through
    Index inputs = rounded_up(c->in_channels, CHANNEL_BLOCK), pieces = (c->kernel + taps - 1) / taps;
    Index point_step = pieces * inputs * channels;
    for (Index block = 0; block < inputs; block += AT_ONCE)
        for (Index channel = 0; channel < channels; channel++)
            for (Index in = block; in < block + AT_ONCE; in++)
                for (Index piece = 0; piece < pieces; piece++) {
                    double g[taps];
                    for (int tap = 0; tap < taps; tap++)
                        g[tap] = weight_at(raw, in, first + channel, piece * taps + tap, c->kernel);
                    float *at = to + (piece * inputs + in) * channels + channel;
                    for (int p = 0; p < F::points; p++) {
                        double sum = 0;
                        for (int tap = 0; tap < taps; tap++) sum += F::G[p][tap] * g[tap];
                        at[p * point_step] = (float)sum;
                    }
                }
}

struct Packing {
    const struct Conv *conv;
    struct Raw raw;
};

// Packs the weights of one group of virtual channels.
static void pack_group(const struct Packing *packing, Index group) {
    const struct Conv *c = packing->conv;
    Index vectors = virtual_channels(c) / LANES, done = 0;
    for (Index i = 0; i < group; i++) done += group_width(vectors - done);
    Index first = done * LANES, channels = group_width(vectors - done) * LANES;
    float *to = c->packed + first * packed_per_channel(c);
#define TRY(m, r) \
    if (c->outputs == m && c->taps == r) return pack_toom<m, r>(c, &packing->raw, first, channels, to);
    FOR_EACH_FORM(TRY)
#undef TRY
    pack_direct(c, &packing->raw, first, channels, to);
}

INLINE Index groups_of(const struct Conv *c) {
    Index vectors = virtual_channels(c) / LANES, done = 0, groups = 0;
    for (; done < vectors; groups++) done += group_width(vectors - done);
    return groups;
}
