/* What a Mamba mixer does between its projections, for inference on a CPU: see cpu_mixer.py.

   Arrays lie row by row, (sequences, length, channels); `half` says that elements are bfloat16, else they are float32.
   `order` has, for each step of a scan, its row in the sequence. Calls that share no task write nothing in common, so
   the tasks first ... last - 1 of each call may be spread over threads. */

#include <stdint.h>
#include <string.h>

#define LANES 16
#define WIDTH 4 /* vectors in a block of channels: enough to hide the time that one operation takes */
#define BLOCK (WIDTH * LANES)
#define MAX_STATE 64

/* One library for all processors of its kind: the loader picks what this one has. */
#if defined(__x86_64__) && defined(__GLIBC__) && ((defined(__clang__) && __clang_major__ >= 17) || (!defined(__clang__) && __GNUC__ >= 12))
#define EACH_PROCESSOR __attribute__((target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")))
#else
#define EACH_PROCESSOR
#endif
#define INLINE static inline __attribute__((always_inline))

/* Each function is compiled once for either type of elements, without a choice in its loops. */
#define EITHER(function, ...) \
    do { \
        if (half) \
            function(1, __VA_ARGS__); \
        else \
            function(0, __VA_ARGS__); \
    } while (0)

typedef float vec __attribute__((vector_size(4 * LANES)));
typedef int32_t ivec __attribute__((vector_size(4 * LANES)));
typedef uint32_t uvec __attribute__((vector_size(4 * LANES)));
typedef uint16_t hvec __attribute__((vector_size(2 * LANES)));

INLINE vec load(const void *p, long i, int half) {
    vec v;
    if (half) {
        hvec h;
        memcpy(&h, (const uint16_t *)p + i, sizeof h);
        v = (vec)(__builtin_convertvector(h, uvec) << 16);
    } else
        memcpy(&v, (const float *)p + i, sizeof v);
    return v;
}

INLINE void store(void *p, long i, int half, vec v) {
    if (half) { /* to nearest, ties to even */
        uvec bits = (uvec)v;
        hvec h = __builtin_convertvector((bits + 0x7fff + ((bits >> 16) & 1)) >> 16, hvec);
        memcpy((uint16_t *)p + i, &h, sizeof h);
    } else
        memcpy((float *)p + i, &v, sizeof v);
}

INLINE vec larger(vec a, vec b) {
    ivec m = a > b;
    return (vec)(((ivec)a & m) | ((ivec)b & ~m));
}

/* 2^x for x up to 126, to 2e-7; 2^-126 for what is less. */
INLINE vec exp2_of(vec x) {
    const float magic = 12582912.0f; /* 1.5 * 2^23: adding it rounds to the nearest integer, in the lowest bits */
    x = larger(x, (vec){0} - 126.0f);
    vec shifted = x + magic;
    vec f = x - (shifted - magic); /* -0.5 ... 0.5 */
    vec p = f * 1.32647272e-3f + 9.67151264e-3f; /* least relative error, and exact at 0: a state that stays, stays */
    p = p * f + 5.55073374e-2f;
    p = p * f + 2.40222421e-1f;
    p = p * f + 6.93146978e-1f;
    p = p * f + 1.0f;
    return (vec)((ivec)p + ((ivec)shifted << 23));
}

/* log(1 + e^x), its logarithm as 2 artanh(e / (2 + e)) of e = e^-|x|. */
INLINE vec softplus(vec x) {
    vec e = exp2_of((vec)((ivec)x & 0x7fffffff) * -1.44269504f);
    vec s = e / (e + 2.0f), q = s * s;
    vec p = q * (1 / 15.0f) + 1 / 13.0f;
    p = p * q + 1 / 11.0f;
    p = p * q + 1 / 9.0f;
    p = p * q + 1 / 7.0f;
    p = p * q + 1 / 5.0f;
    p = p * q + 1 / 3.0f;
    p = p * q + 1.0f;
    return 2.0f * s * p + larger(x, (vec){0});
}

INLINE vec silu(vec x) {
    return x / (1.0f + exp2_of((vec){0} - larger(x * 1.44269504f, (vec){0} - 126.0f)));
}

/* u = silu(causal depthwise convolution of x along `order`), a row a task. x has rows of `stride` elements; weight is
   (taps, channels), the tap of the present step last. */
INLINE void convolve_as(int half, long first, long last, long length, long channels, long taps, const void *x,
                        long stride, const int32_t *order, const float *weight, const float *bias, void *u) {
    for (long row = first; row < last; row++) {
        const long t = row % length, from = row - t, reach = t < taps ? t + 1 : taps;
        for (long e = 0; e < channels; e += LANES) {
            vec sum = load(bias, e, 0);
            for (long j = 0; j < reach; j++)
                sum += load(x, (from + order[t - j]) * stride + e, half) * load(weight, (taps - 1 - j) * channels + e, 0);
            store(u, row * channels + e, half, silu(sum));
        }
    }
}

EACH_PROCESSOR
void convolve(int half, long first, long last, long length, long channels, long taps, const void *x, long stride,
              const int32_t *order, const float *weight, const float *bias, void *u) {
    EITHER(convolve_as, first, last, length, channels, taps, x, stride, order, weight, bias, u);
}

/* y[order] += the selective scan of u, or = it where `fresh`; a block of the channels of one sequence a task.
   inputs (sequences, length, rank + 2 state): dt, B, C; dt_weight (rank, channels) and dt_bias make the step size of dt;
   rate (state, channels) is A log2 e. */
INLINE void scan_as(int half, int fresh, long first, long last, long length, long channels, long state, long rank,
                    const void *u, const float *inputs, const float *dt_weight, const float *dt_bias,
                    const float *rate, const float *D, const int32_t *order, float *y) {
    for (long task = first; task < last; task++) {
        const long blocks = channels / BLOCK, from = task / blocks * length, e = task % blocks * BLOCK;
        vec h[MAX_STATE][WIDTH];
        memset(h, 0, sizeof h[0] * state);
        for (long t = 0; t < length; t++) {
            const float *dt = inputs + (from + t) * (rank + 2 * state), *B = dt + rank, *C = B + state;
            vec step[WIDTH], added[WIDTH], out[WIDTH];
            for (int k = 0; k < WIDTH; k++)
                step[k] = load(dt_bias, e + k * LANES, 0);
            for (long r = 0; r < rank; r++)
                for (int k = 0; k < WIDTH; k++)
                    step[k] += dt[r] * load(dt_weight, r * channels + e + k * LANES, 0);
            for (int k = 0; k < WIDTH; k++) {
                const vec input = load(u, (from + t) * channels + e + k * LANES, half);
                step[k] = softplus(step[k]);
                added[k] = step[k] * input;
                out[k] = load(D, e + k * LANES, 0) * input;
            }
            for (long n = 0; n < state; n++)
                for (int k = 0; k < WIDTH; k++) {
                    h[n][k] = h[n][k] * exp2_of(step[k] * load(rate, n * channels + e + k * LANES, 0)) + added[k] * B[n];
                    out[k] += h[n][k] * C[n];
                }
            const long into = (from + order[t]) * channels + e;
            for (int k = 0; k < WIDTH; k++)
                store(y, into + k * LANES, 0, fresh ? out[k] : out[k] + load(y, into + k * LANES, 0));
        }
    }
}

EACH_PROCESSOR
void scan(int half, int fresh, long first, long last, long length, long channels, long state, long rank, const void *u,
          const float *inputs, const float *dt_weight, const float *dt_bias, const float *rate, const float *D,
          const int32_t *order, float *y) {
    EITHER(scan_as, fresh, first, last, length, channels, state, rank, u, inputs, dt_weight, dt_bias, rate, D, order, y);
}

/* out = factor y silu(z), a row a task; z has rows of `stride` elements. */
INLINE void gate_as(int half, long first, long last, long channels, float factor, const float *y, const void *z,
                    long stride, void *out) {
    for (long row = first; row < last; row++)
        for (long e = 0; e < channels; e += LANES)
            store(out, row * channels + e, half,
                  factor * load(y, row * channels + e, 0) * silu(load(z, row * stride + e, half)));
}

EACH_PROCESSOR
void gate(int half, long first, long last, long channels, float factor, const float *y, const void *z, long stride,
          void *out) {
    EITHER(gate_as, first, last, channels, factor, y, z, stride, out);
}
