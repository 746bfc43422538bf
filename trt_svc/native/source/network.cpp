// A vocoder's core as a list of steps over rows of channels. The steps are laid out by trt_svc.native.lowering; this
// file knows nothing about vocoders. Weights are copied, so the caller may free its own at once.
#include "convolution.h"
#include "pointwise.h"
#include "threads.h"
#include <string.h>
#ifdef _WIN32
#include <malloc.h>
#define EXPORT extern "C" __declspec(dllexport)
#else
#include <time.h>
#define EXPORT extern "C" __attribute__((visibility("default")))
#endif

enum { ABI = 1, ALIGNED = 64, TAIL_FLOATS = 1024 };
enum Kind { CONVOLVE, UPSAMPLE, SNAKE, POINTWISE, FOLD, UNFOLD };
enum Trouble { FINE, NO_MEMORY, BAD_LENGTHS, BAD_PLAN };

struct TensorPlan {
    int32_t slot, channels, stride;
};

struct StepPlan {
    int32_t kind, from, to, add[2], from_channel, add_channel[2], to_channel;
    int32_t in_channels, out_channels, kernel, dilation, stride, pad, crop, post, joint, outputs, taps;
    float slope, scale;
    const float *weight, *bias, *extra;
};

struct Step {
    struct StepPlan plan;
    struct Conv conv;
    struct Snake snake;
    float *owned[2];
};

struct Network {
    int tensors, steps, slots, inputs, output;
    struct TensorPlan *tensor;
    struct Step *step;
    Index *before, *behind;  // rows of every slot that are read outside its tensor
    int *input;
};

struct Context {
    const struct Network *net;
    int slots;  // the network may be gone when this is freed
    struct Crew *crew;
    Index *length, *slot_floats;
    float **slot, *scratch;
    Index scratch_floats;
    double *seconds;  // the fastest that every step has been
};

static void *aligned(Index floats) {
    size_t bytes = (size_t)rounded_up(floats * sizeof(float) + ALIGNED, ALIGNED);
#ifdef _WIN32
    void *made = _aligned_malloc(bytes, ALIGNED);
#else
    void *made = NULL;
    if (posix_memalign(&made, ALIGNED, bytes)) made = NULL;
#endif
    if (made) memset(made, 0, bytes);
    return made;
}

static void released(void *memory) {
#ifdef _WIN32
    _aligned_free(memory);
#else
    free(memory);
#endif
}

static double now(void) {
#ifdef _WIN32
    LARGE_INTEGER count, rate;
    QueryPerformanceCounter(&count);
    QueryPerformanceFrequency(&rate);
    return (double)count.QuadPart / (double)rate.QuadPart;
#else
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
#endif
}

// Building.

static int prepare_convolution(struct Step *step, struct Packing *packing, bool mono) {
    const struct StepPlan *p = &step->plan;
    bool up = p->kind == UPSAMPLE;
    struct Conv *c = &step->conv;
    int taps = up ? (p->kernel + p->stride - 1) / p->stride : p->kernel;
    // What is cut off in front shifts the rows that are dealt out; with a stride of 1 there are none.
    int lead = !up ? p->pad : p->stride > 1 ? taps - 1 : taps - 1 - p->pad;
    *c = (struct Conv){p->in_channels, p->out_channels, taps, up ? 1 : p->dilation, up ? 1 : p->stride,
                       lead, up ? p->stride : 1, up ? p->pad : 0, p->outputs, p->taps, p->slope,
                       p->post, NULL, NULL};
    struct Raw raw = {p->weight, p->in_channels, p->out_channels, p->kernel, up, c->scatter};
    Index block = rounded_up(p->in_channels, CHANNEL_BLOCK);
    c->packed = step->owned[0] =
        (float *)aligned(mono ? p->kernel * block : packed_per_channel(c) * virtual_channels(c));
    c->bias = step->owned[1] = (float *)aligned(rounded_up(p->out_channels, CHANNEL_BLOCK));
    if (!c->packed || !c->bias) return NO_MEMORY;
    if (p->bias) memcpy(c->bias, p->bias, p->out_channels * sizeof(float));
    if (!mono) *packing = (struct Packing){c, raw};
    for (int tap = 0; mono && tap < p->kernel; tap++)
        for (int in = 0; in < p->in_channels; in++)
            c->packed[tap * block + in] = weight_at(&raw, in, 0, tap, p->kernel);
    return FINE;
}

static void pack_item(void *task, Index item, int thread) {
    (void)thread;
    const struct Packing *packing = (const struct Packing *)task;
    for (;; packing++) {
        Index groups = packing->conv ? groups_of(packing->conv) : 0;
        if (item < groups) return pack_group(packing, item);
        item -= groups;
    }
}

static bool packed(struct Packing *packings, int count, int threads) {
    struct Crew *crew = crew_new(threads);
    if (!crew) return false;
    Index items = 0;
    for (int i = 0; i < count; i++) items += packings[i].conv ? groups_of(packings[i].conv) : 0;
    crew_run(crew, pack_item, packings, items);
    crew_free(crew);
    return true;
}

// extra: a, inverse (padded here), then the taps.
static int prepare_snake(struct Step *step) {
    const struct StepPlan *p = &step->plan;
    Index block = rounded_up(p->in_channels, CHANNEL_BLOCK);
    float *kept = step->owned[0] = (float *)aligned(2 * block + 4 * WINDOW);
    if (!kept) return NO_MEMORY;
    memcpy(kept, p->extra, p->in_channels * sizeof(float));
    memcpy(kept + block, p->extra + p->in_channels, p->in_channels * sizeof(float));
    memcpy(kept + 2 * block, p->extra + 2 * p->in_channels, 4 * WINDOW * sizeof(float));
    step->snake = (struct Snake){(int)block, kept, kept + block, kept + 2 * block};
    return FINE;
}

static void note_reads(struct Network *net, const struct Step *step) {
    const struct StepPlan *p = &step->plan;
    int slot = net->tensor[p->from].slot;
    Index before = 0, behind = 0;
    if (p->kind == CONVOLVE || p->kind == UPSAMPLE) {
        const struct Conv *c = &step->conv;
        before = c->lead;
        behind = (Index)c->kernel * c->dilation + c->lead + (ACCUMULATORS + 4) * (Index)c->stride +
                 (c->outputs + points_of(c)) * (Index)c->dilation;
    }
    if (before > net->before[slot]) net->before[slot] = before;
    if (behind > net->behind[slot]) net->behind[slot] = behind;
}

EXPORT int32_t trt_svc_abi(void) { return ABI; }
EXPORT int32_t trt_svc_lanes(void) { return LANES; }

EXPORT void trt_svc_network_free(struct Network *net) {
    if (!net) return;
    for (int i = 0; net->step && i < net->steps; i++)
        for (int k = 0; k < 2; k++) released(net->step[i].owned[k]);
    free(net->step);
    free(net->tensor);
    free(net->before);
    free(net->behind);
    free(net->input);
    free(net);
}

EXPORT struct Network *trt_svc_network(const struct TensorPlan *tensors, int32_t tensor_count,
                                       const struct StepPlan *steps, int32_t step_count, int32_t slots,
                                       const int32_t *inputs, int32_t input_count, int32_t output,
                                       int32_t threads) {
    struct Network *net = (struct Network *)calloc(1, sizeof(struct Network));
    if (!net) return NULL;
    *net = (struct Network){tensor_count, step_count, slots, input_count, output, NULL, NULL, NULL, NULL, NULL};
    net->tensor = (struct TensorPlan *)calloc(tensor_count + 1, sizeof(struct TensorPlan));
    net->step = (struct Step *)calloc(step_count + 1, sizeof(struct Step));
    net->before = (Index *)calloc(slots + 1, sizeof(Index));
    net->behind = (Index *)calloc(slots + 1, sizeof(Index));
    net->input = (int *)calloc(input_count + 1, sizeof(int));
    struct Packing *packings = (struct Packing *)calloc(step_count + 1, sizeof(struct Packing));
    bool fine = packings && net->tensor && net->step && net->before && net->behind && net->input;
    if (fine) memcpy(net->tensor, tensors, tensor_count * sizeof(struct TensorPlan));
    for (int i = 0; fine && i < input_count; i++) net->input[i] = inputs[i];
    for (int i = 0; fine && i < step_count; i++) {
        struct Step *step = &net->step[i];
        step->plan = steps[i];
        int kind = step->plan.kind;
        bool mono = tensors[step->plan.to].stride == 1;
        if (kind == CONVOLVE || kind == UPSAMPLE) fine = prepare_convolution(step, &packings[i], mono) == FINE;
        if (kind == SNAKE) fine = prepare_snake(step) == FINE;
        if (fine) note_reads(net, step);
    }
    fine = fine && packed(packings, step_count, threads);
    for (int i = 0; fine && i < step_count; i++) {
        struct StepPlan *plan = &net->step[i].plan;
        plan->weight = plan->bias = plan->extra = NULL;  // the caller's
    }
    free(packings);
    if (fine) return net;
    trt_svc_network_free(net);
    return NULL;
}

// Running.

EXPORT void trt_svc_context_free(struct Context *context) {
    if (!context) return;
    if (context->crew) crew_free(context->crew);
    for (int i = 0; context->slot && i < context->slots; i++) released(context->slot[i]);
    released(context->scratch);
    free(context->slot);
    free(context->slot_floats);
    free(context->length);
    free(context->seconds);
    free(context);
}

EXPORT struct Context *trt_svc_context(const struct Network *net, int32_t threads) {
    struct Context *context = (struct Context *)calloc(1, sizeof(struct Context));
    if (!context) return NULL;
    context->net = net;
    context->slots = net->slots;
    context->crew = crew_new(threads);
    context->length = (Index *)calloc(net->tensors + 1, sizeof(Index));
    context->slot = (float **)calloc(net->slots + 1, sizeof(float *));
    context->slot_floats = (Index *)calloc(net->slots + 1, sizeof(Index));
    context->seconds = (double *)calloc(net->steps + 1, sizeof(double));
    if (context->crew && context->length && context->slot && context->slot_floats && context->seconds) return context;
    trt_svc_context_free(context);
    return NULL;
}

static Index length_behind(const struct StepPlan *p, Index rows) {
    switch (p->kind) {
    case CONVOLVE: {
        Index steps = rows + 2 * p->pad - (Index)p->dilation * (p->kernel - 1) - 1;
        return steps < 0 ? 0 : steps / p->stride + 1 - p->crop;
    }
    case UPSAMPLE: return (rows - 1) * p->stride - 2 * p->pad + p->kernel - p->crop;
    case FOLD: return rows % p->kernel ? 0 : rows / p->kernel;
    case UNFOLD: return rows * p->in_channels;
    default: return rows;
    }
}

static bool grown(float **memory, Index *has, Index wanted) {
    if (wanted <= *has) return true;
    released(*memory);
    *has = 0;
    *memory = (float *)aligned(wanted);
    if (*memory) *has = wanted;
    return *memory != NULL;
}

static bool fits(const struct Context *context, const struct StepPlan *p, Index rows) {
    for (int i = 0; i < 2; i++) {
        if (p->add[i] < 0) continue;
        Index length = context->length[p->add[i]];
        if (length != rows && length != 1) return false;
    }
    return true;
}

// The length of every tensor, from those of the inputs.
static int measure(struct Context *context) {
    const struct Network *net = context->net;
    for (int i = 0; i < net->steps; i++) context->length[net->step[i].plan.to] = 0;
    for (int i = 0; i < net->steps; i++) {
        const struct StepPlan *p = &net->step[i].plan;
        Index from = context->length[p->from], rows = from < 1 ? 0 : length_behind(p, from), *to = &context->length[p->to];
        if (rows == 1 && p->kind == POINTWISE && p->add[0] >= 0) rows = context->length[p->add[0]];
        if (rows < 1 || !fits(context, p, rows)) return BAD_LENGTHS;
        if (*to && *to != rows) return BAD_LENGTHS;  // parts of one tensor
        *to = rows;
    }
    return FINE;
}

static int reserve(struct Context *context) {
    const struct Network *net = context->net;
    for (int i = 0; i < net->tensors; i++) {
        const struct TensorPlan *t = &net->tensor[i];
        Index stride = t->stride, rows = context->length[i] + net->before[t->slot] + net->behind[t->slot];
        Index floats = rows * stride + CHANNEL_BLOCK + TAIL_FLOATS;
        if (!grown(&context->slot[t->slot], &context->slot_floats[t->slot], floats)) return NO_MEMORY;
    }
    return FINE;
}

static struct Rows rows_of(const struct Context *context, int tensor, int channel) {
    if (tensor < 0) return (struct Rows){NULL, 0, 0};
    const struct TensorPlan *t = &context->net->tensor[tensor];
    Index stride = t->stride, before = rounded_up(context->net->before[t->slot] * stride, CHANNEL_BLOCK);
    return (struct Rows){context->slot[t->slot] + before + channel, stride, context->length[tensor]};
}

// What lies outside a tensor counts as silence.
static void quiet_edges(const struct Context *context, int tensor) {
    const struct Network *net = context->net;
    struct Rows rows = rows_of(context, tensor, 0);
    int slot = net->tensor[tensor].slot;
    Index before = net->before[slot] * rows.stride, behind = net->behind[slot] * rows.stride;
    memset(rows.at - before, 0, before * sizeof(float));
    memset(rows.at + rows.length * rows.stride, 0, behind * sizeof(float));
}

static int convolve(struct Context *context, const struct Step *step) {
    const struct StepPlan *p = &step->plan;
    const struct Conv *c = &step->conv;
    struct Call call;
    memset(&call, 0, sizeof call);
    call.conv = c;
    call.in = rows_of(context, p->from, p->from_channel);
    call.out = rows_of(context, p->to, p->to_channel);
    for (int i = 0; i < 2; i++) call.add[i] = rows_of(context, p->add[i], p->add_channel[i]);
    bool whole = context->net->tensor[p->to].channels == p->out_channels;
    call.out_width = whole ? call.out.stride : p->out_channels;
    call.virtual_rows = c->scatter > 1 ? (call.out.length - 1 + c->pad) / c->scatter + 1 : call.out.length;
    plan_call(&call, context->crew->threads);
    if (!grown(&context->scratch, &context->scratch_floats, call.scratch_stride * context->crew->threads))
        return NO_MEMORY;
    call.scratch = context->scratch;
    crew_run(context->crew, conv_item, &call, (call.virtual_rows + call.rows_per_item - 1) / call.rows_per_item);
    return FINE;
}

struct Even {
    const struct Step *step;
    struct Rows in, add, out;
    Index own, width, rows_per_item;
};

static void even_item(void *task, Index item, int thread) {
    (void)thread;
    const struct Even *e = (const struct Even *)task;
    const struct StepPlan *p = &e->step->plan;
    Index first = item * e->rows_per_item, last = least(first + e->rows_per_item, e->out.length);
    if (p->kind == UNFOLD) last = least(first + e->rows_per_item, e->in.length);
    switch (p->kind) {
    case SNAKE: return snake_rows(&e->step->snake, e->in, e->out, first, last);
    case FOLD: return folded_rows(e->in, e->out, p->in_channels, p->kernel, first, last);
    case UNFOLD: return unfolded_rows(e->in, e->out, p->in_channels, first, last);
    default:
        pointwise_rows(e->in, e->add, e->out, e->own, e->width, p->joint, p->post, p->slope, p->scale, first, last);
    }
}

static void evenly(struct Context *context, const struct Step *step) {
    enum { ITEM_FLOATS = 32768 };
    const struct StepPlan *p = &step->plan;
    struct Even e = {step, rows_of(context, p->from, p->from_channel), rows_of(context, p->add[0], p->add_channel[0]),
                     rows_of(context, p->to, p->to_channel), 0, 0, 0};
    // Who writes a row's last channel also clears what lies behind it: convolutions multiply that by zeros.
    bool ends = context->net->tensor[p->to].channels == p->to_channel + p->out_channels && e.out.stride > 1;
    e.own = p->out_channels;
    e.width = ends ? e.out.stride - p->to_channel : e.own;
    Index rows = p->kind == UNFOLD ? e.in.length : e.out.length;
    bool alike = !e.add.at || (e.add.stride == 1 && e.add.length == rows);
    if (p->kind == POINTWISE && e.in.stride == 1 && e.out.stride == 1 && e.in.length == rows && alike) {
        // Mono: the samples of a row lie side by side, so take many for one row.
        e.width = e.own = rows;
        rows = e.out.length = 1;
    }
    e.rows_per_item = most(SNAKE_ROWS, ITEM_FLOATS / e.out.stride);
    crew_run(context->crew, even_item, &e, (rows + e.rows_per_item - 1) / e.rows_per_item);
}

static int stepped(struct Context *context, int number) {
    const struct Step *step = &context->net->step[number];
    quiet_edges(context, step->plan.to);
    double started = now();
    int trouble = FINE;
    if (step->plan.kind == CONVOLVE || step->plan.kind == UPSAMPLE) trouble = convolve(context, step);
    else evenly(context, step);
    double took = now() - started, *best = &context->seconds[number];
    if (*best == 0 || took < *best) *best = took;
    return trouble;
}

static void take_in(const struct Context *context, int input, const float *from) {
    int tensor = context->net->input[input];
    struct Rows to = rows_of(context, tensor, 0);
    Index channels = context->net->tensor[tensor].channels, rows = to.length;
    quiet_edges(context, tensor);
    if (to.stride == 1) {
        memcpy(to.at, from, rows * sizeof(float));
        return;
    }
    for (Index row = 0; row < rows; row++) {
        for (Index channel = 0; channel < channels; channel++)
            to.at[row * to.stride + channel] = from[channel * rows + row];
        for (Index channel = channels; channel < to.stride; channel++) to.at[row * to.stride + channel] = 0;
    }
}

static void give_out(const struct Context *context, float *to) {
    struct Rows from = rows_of(context, context->net->output, 0);
    Index channels = context->net->tensor[context->net->output].channels;
    if (from.stride == 1) {
        memcpy(to, from.at, from.length * sizeof(float));
        return;
    }
    for (Index row = 0; row < from.length; row++)
        for (Index channel = 0; channel < channels; channel++)
            to[channel * from.length + row] = from.at[row * from.stride + channel];
}

// Rows of the output for inputs of these lengths; negative: what is wrong.
EXPORT int64_t trt_svc_length(struct Context *context, const int64_t *lengths) {
    for (int i = 0; i < context->net->inputs; i++) context->length[context->net->input[i]] = (Index)lengths[i];
    int trouble = measure(context);
    return trouble ? -trouble : context->length[context->net->output];
}

// Inputs (batch, channels, length) and the output (batch, channels, length), one after the other.
EXPORT int32_t trt_svc_run(struct Context *context, const float *const *inputs, const int64_t *lengths, int32_t batch,
                           float *output) {
    const struct Network *net = context->net;
    int64_t length = trt_svc_length(context, lengths);
    if (length < 0) return (int32_t)-length;
    if (reserve(context)) return NO_MEMORY;
    for (int b = 0; b < batch; b++) {
        for (int i = 0; i < net->inputs; i++)
            take_in(context, i, inputs[i] + (size_t)b * net->tensor[net->input[i]].channels * lengths[i]);
        for (int i = 0; i < net->steps; i++) {
            int trouble = stepped(context, i);
            if (trouble) return trouble;
        }
        give_out(context, output + (size_t)b * net->tensor[net->output].channels * length);
    }
    return FINE;
}

// The shortest time of every step since the last call.
EXPORT void trt_svc_step_seconds(struct Context *context, double *to) {
    memcpy(to, context->seconds, context->net->steps * sizeof(double));
    memset(context->seconds, 0, context->net->steps * sizeof(double));
}
