/* The article's training in plain C: forward, backward and Adam in single precision, on one thread.
 *
 *     cc -O3 -march=native -o limit limit.c -lm
 *     limit FILE WINDOWS VALIDATION EPOCHS DROPOUT WEIGHTS_OUT
 *
 * The limit that benchmarks/training.py holds closecast against: LSTM(64, sigmoid), LeakyReLU(.5), Dropout,
 * Dense(1), mean squared error, Adam at 1e-4, batches of 5 windows of 5 days, in their order.
 * FILE is float32: inputs, targets, validation inputs and targets, then the weights as Keras lists them.
 * One line of JSON an epoch: its seconds on the wall and on the core, its loss, its validation loss.
 */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { UNITS = 64, GATES = 4 * UNITS, LOOKBACK = 5, BATCH = 5 };

typedef struct {
    float kernel[GATES];
    float recurrent[UNITS][GATES]; /* gates: input, forget, cell, output */
    float bias[GATES];
    float dense[UNITS];
    float dense_bias;
} Weights;

/* Sixteen numbers side by side, which gcc and clang spread over what registers there are. */
enum { LANES = 16 };
typedef float Lanes __attribute__((vector_size(LANES * sizeof(float)), aligned(sizeof(float)), may_alias));

enum { COUNT = sizeof(Weights) / sizeof(float) };

/* What the way back needs of the way forward; step 0 of h and c is the state before the first day. */
typedef struct {
    float gates[LOOKBACK][BATCH][GATES];
    float h[LOOKBACK + 1][BATCH][UNITS], c[LOOKBACK + 1][BATCH][UNITS], squashed[LOOKBACK][BATCH][UNITS];
    float shown[BATCH][UNITS], mask[BATCH][UNITS];
} Pass;

static Weights weights, slopes, first_moment, second_moment;
static Pass pass;

static float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

static float uniform(void) {
    static uint32_t state = 2020;
    state ^= state << 13, state ^= state >> 17, state ^= state << 5;
    return (float)(state >> 8) * 0x1p-24f;
}

/* to[row][:] += from[row][k] * matrix[k][:], for all k; sixteen columns at a time, to stay in registers. */
static void multiply(float to[][GATES], float from[][UNITS]) {
    for (int start = 0; start < GATES; start += LANES) {
        Lanes sum[BATCH] = {0};
        for (int k = 0; k < UNITS; k++)
            for (int row = 0; row < BATCH; row++)
                sum[row] += from[row][k] * *(const Lanes *)&weights.recurrent[k][start];
        for (int row = 0; row < BATCH; row++) *(Lanes *)&to[row][start] += sum[row];
    }
}

static void forward(const float *x, int rows, float *said, float dropout) {
    memset(pass.h[0], 0, sizeof pass.h[0]);
    memset(pass.c[0], 0, sizeof pass.c[0]);
    for (int t = 0; t < LOOKBACK; t++) {
        float(*z)[GATES] = pass.gates[t];
        for (int row = 0; row < rows; row++)
            for (int j = 0; j < GATES; j++) z[row][j] = x[row * LOOKBACK + t] * weights.kernel[j] + weights.bias[j];
        if (t > 0) multiply(z, pass.h[t]);
        for (int row = 0; row < rows; row++) {
            for (int j = 0; j < GATES; j++) z[row][j] = sigmoid(z[row][j]); /* the cell's activation as well */
            for (int k = 0; k < UNITS; k++) {
                float c = z[row][UNITS + k] * pass.c[t][row][k] + z[row][k] * z[row][2 * UNITS + k];
                pass.c[t + 1][row][k] = c;
                pass.squashed[t][row][k] = sigmoid(c);
                pass.h[t + 1][row][k] = z[row][3 * UNITS + k] * pass.squashed[t][row][k];
            }
        }
    }
    for (int row = 0; row < rows; row++) {
        said[row] = weights.dense_bias;
        for (int k = 0; k < UNITS; k++) {
            float h = pass.h[LOOKBACK][row][k];
            pass.mask[row][k] = dropout > 0 ? (uniform() >= dropout) / (1 - dropout) : 1;
            pass.shown[row][k] = (h > 0 ? h : 0.5f * h) * pass.mask[row][k];
            said[row] += pass.shown[row][k] * weights.dense[k];
        }
    }
}

/* The slopes of the loss whose slope at each output is `out`. */
static void backward(const float *x, int rows, const float *out) {
    float dh[BATCH][UNITS], dc[BATCH][UNITS] = {{0}}, dz[BATCH][GATES];
    memset(&slopes, 0, sizeof slopes);
    for (int row = 0; row < rows; row++) {
        slopes.dense_bias += out[row];
        for (int k = 0; k < UNITS; k++) {
            slopes.dense[k] += out[row] * pass.shown[row][k];
            float leak = pass.h[LOOKBACK][row][k] > 0 ? 1 : 0.5f;
            dh[row][k] = out[row] * weights.dense[k] * pass.mask[row][k] * leak;
        }
    }
    for (int t = LOOKBACK - 1; t >= 0; t--) {
        for (int row = 0; row < rows; row++) {
            const float *i = pass.gates[t][row], *f = i + UNITS, *g = f + UNITS, *o = g + UNITS;
            for (int k = 0; k < UNITS; k++) {
                float squashed = pass.squashed[t][row][k];
                float d = dc[row][k] + dh[row][k] * o[k] * squashed * (1 - squashed);
                dz[row][k] = d * g[k] * i[k] * (1 - i[k]);
                dz[row][UNITS + k] = d * pass.c[t][row][k] * f[k] * (1 - f[k]);
                dz[row][2 * UNITS + k] = d * i[k] * g[k] * (1 - g[k]);
                dz[row][3 * UNITS + k] = dh[row][k] * squashed * o[k] * (1 - o[k]);
                dc[row][k] = d * f[k];
            }
            for (int j = 0; j < GATES; j++) {
                slopes.kernel[j] += dz[row][j] * x[row * LOOKBACK + t];
                slopes.bias[j] += dz[row][j];
            }
        }
        if (t == 0) break; /* the state before the first day is zero, and nobody asks for its slope */
        for (int k = 0; k < UNITS; k++)
            for (int row = 0; row < rows; row++) {
                Lanes sum = {0};
                for (int j = 0; j < GATES; j += LANES)
                    sum += *(const Lanes *)&dz[row][j] * *(const Lanes *)&weights.recurrent[k][j];
                dh[row][k] = 0;
                for (int n = 0; n < LANES; n++) dh[row][k] += sum[n];
                for (int j = 0; j < GATES; j++) slopes.recurrent[k][j] += pass.h[t][row][k] * dz[row][j];
            }
    }
}

/* Keras's Adam: the bias corrections are in the step. */
static void adam(int step) {
    const float beta1 = 0.9f, beta2 = 0.999f, epsilon = 1e-7f;
    const float rate = (float)(1e-4 * sqrt(1 - pow(beta2, step)) / (1 - pow(beta1, step)));
    float *w = (float *)&weights, *g = (float *)&slopes, *m = (float *)&first_moment, *v = (float *)&second_moment;
    for (int n = 0; n < COUNT; n++) {
        m[n] += (g[n] - m[n]) * (1 - beta1);
        v[n] += (g[n] * g[n] - v[n]) * (1 - beta2);
        w[n] -= rate * m[n] / (sqrtf(v[n]) + epsilon);
    }
}

/* One pass over the windows; the sum of the squared errors, each as it was when its batch was seen. */
static double run(const float *x, const float *y, int windows, float dropout, int *step) {
    double total = 0;
    for (int first = 0; first < windows; first += BATCH) {
        float said[BATCH], out[BATCH];
        int rows = windows - first < BATCH ? windows - first : BATCH;
        forward(x + first * LOOKBACK, rows, said, dropout);
        for (int row = 0; row < rows; row++) {
            float error = said[row] - y[first + row];
            total += error * error;
            out[row] = 2 * error / (float)rows;
        }
        if (step == NULL) continue;
        backward(x + first * LOOKBACK, rows, out);
        adam(++*step);
    }
    return total;
}

static double seconds(clockid_t which) {
    struct timespec now;
    clock_gettime(which, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

int main(int count, char **given) {
    if (count != 7) return fprintf(stderr, "limit FILE WINDOWS VALIDATION EPOCHS DROPOUT WEIGHTS_OUT\n"), 2;
    int windows = atoi(given[2]), held = atoi(given[3]), epochs = atoi(given[4]), step = 0;
    float dropout = (float)atof(given[5]);
    size_t size = (size_t)(windows + held) * (LOOKBACK + 1);
    float *x = malloc(size * sizeof *x), *y = x + windows * LOOKBACK, *held_x = y + windows;
    FILE *file = fopen(given[1], "rb");
    if (!x || !file || fread(x, sizeof *x, size, file) != size || fread(&weights, sizeof weights, 1, file) != 1)
        return fprintf(stderr, "%s does not hold that many windows and the weights\n", given[1]), 1;
    fclose(file);
    for (int epoch = 0; epoch < epochs; epoch++) {
        double wall = seconds(CLOCK_MONOTONIC), core = seconds(CLOCK_PROCESS_CPUTIME_ID);
        double loss = run(x, y, windows, dropout, &step) / windows;
        double validation = run(held_x, held_x + held * LOOKBACK, held, 0, NULL) / held;
        printf("{\"seconds\": %.6f, \"core\": %.6f, \"loss\": %.9g, \"validation\": %.9g}\n",
               seconds(CLOCK_MONOTONIC) - wall, seconds(CLOCK_PROCESS_CPUTIME_ID) - core, loss, validation);
    }
    file = fopen(given[6], "wb");
    if (!file || fwrite(&weights, sizeof weights, 1, file) != 1 || fclose(file)) return perror(given[6]), 1;
    return 0;
}
