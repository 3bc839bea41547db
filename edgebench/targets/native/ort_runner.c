/* Measures an ONNX model with ONNX Runtime on a Linux device that has no Python.

   It is the agent's single-stream measurement in one C file: the same session options, warm-up rule, turns, clock and
   sources in /proc, and its result is a JSON that edgebench.agent.codec decodes as a Measurement. It needs a libc and
   the shared library of ONNX Runtime, which it loads from a path. The result is a file and never stdout, because
   runtimes print what they like; a failure is a result as well.

   ONNX Runtime's header is not needed, nor copied. Its C API is one table of function pointers whose order is part of
   its ABI: "the ordering of these fields MUST not change after that version has shipped" (onnxruntime_c_api.cc of
   microsoft/onnxruntime, whose static_assert holds ReleaseCustomOpDomain at position 101, the last of version 1 of the
   API). All that is called here is of version 1. What is asked for is the API of 1.16, as nothing older was tried.

   What differs from the agent, and is to be known before figures of the two are compared:
   - cold_ns begins with this process and has no start of an interpreter in it. It is the time since main() and the CPU
     time that the process had used by then; what is missing is waiting for the disk between exec and main().
   - A timed run is OrtApi::Run and the release of its outputs. Python's has the binding's copies in addition. */

#define _GNU_SOURCE
#define _FILE_OFFSET_BITS 64

#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define USAGE \
    "usage: ort_runner measure|predict --wire-version N --library FILE --model FILE --threads N --result FILE\n" \
    "                  [--input NAME DTYPE SHAPE COUNT FILE]...\n" \
    "  measure: [--warmup RUNS] [--max-warmup-s S] [--longest-warmup-s S] [--laps N] [--turn RUNS] [--turn-s S]\n" \
    "           [--max-time-s S] [--first-lap N] [--origin-ns NS] [--stop-before-turns]\n" \
    "  predict: --outputs DIRECTORY\n" \
    "SHAPE is as 1x3x32x32, or `scalar`; FILE holds COUNT such tensors, little-endian, one after the other.\n" \
    "The defaults: 5 RUNS of warm-up for 2 s (10 s at the longest), 10 laps, turns of 5 RUNS for 1 s, 6 s in all.\n" \
    "--first-lap numbers the first turn; --origin-ns is the CLOCK_MONOTONIC from which `started_ns` counts.\n" \
    "With --stop-before-turns it stops itself (SIGSTOP) before each turn, and SIGCONT lets it go on: so several can\n" \
    "be measured in alternation.\n" \
    "Ends with 0 when FILE of --result was written, whatever it says, 2 for wrong usage, 3 if it cannot be written.\n"

enum { EXIT_USAGE = 2, EXIT_NO_RESULT = 3, NOT_TOLD = -1 };

/* ---- ONNX Runtime's C API ---------------------------------------------------------------------------------------- */

typedef struct OrtStatus OrtStatus;
typedef struct OrtEnv OrtEnv;
typedef struct OrtSessionOptions OrtSessionOptions;
typedef struct OrtSession OrtSession;
typedef struct OrtRunOptions OrtRunOptions;
typedef struct OrtAllocator OrtAllocator;
typedef struct OrtMemoryInfo OrtMemoryInfo;
typedef struct OrtTensorInfo OrtTensorInfo; /* OrtTensorTypeAndShapeInfo */
typedef struct OrtValue OrtValue;

enum {
    ORT_API_1_16 = 16,
    ORT_OLDEST_MINOR = 16,
    ORT_LAST_OF_VERSION_1 = 101,
    ORT_FAIL = 1,
    ORT_LOG_ERRORS = 3,
    ORT_ARENA_ALLOCATOR = 1,
    ORT_MEMORY_DEFAULT = 0,
};

/* Position in the table, what is returned, name, arguments. The API's enumerations are `int` on Linux's ABIs. */
#define ORT_FUNCTIONS(F) \
    F(0, OrtStatus *, CreateStatus, (int code, const char *message)) \
    F(1, int, GetErrorCode, (const OrtStatus *)) \
    F(2, const char *, GetErrorMessage, (const OrtStatus *)) \
    F(3, OrtStatus *, CreateEnv, (int log_severity, const char *log_id, OrtEnv **)) \
    F(6, OrtStatus *, DisableTelemetryEvents, (const OrtEnv *)) \
    F(7, OrtStatus *, CreateSession, (const OrtEnv *, const char *path, const OrtSessionOptions *, OrtSession **)) \
    F(9, OrtStatus *, Run, \
      (OrtSession *, const OrtRunOptions *, const char *const *names, const OrtValue *const *inputs, size_t, \
       const char *const *output_names, size_t, OrtValue **outputs)) \
    F(10, OrtStatus *, CreateSessionOptions, (OrtSessionOptions **)) \
    F(22, OrtStatus *, SetSessionLogSeverityLevel, (OrtSessionOptions *, int)) \
    F(24, OrtStatus *, SetIntraOpNumThreads, (OrtSessionOptions *, int)) \
    F(25, OrtStatus *, SetInterOpNumThreads, (OrtSessionOptions *, int)) \
    F(31, OrtStatus *, SessionGetOutputCount, (const OrtSession *, size_t *)) \
    F(37, OrtStatus *, SessionGetOutputName, (const OrtSession *, size_t index, OrtAllocator *, char **)) \
    F(49, OrtStatus *, CreateTensorWithDataAsOrtValue, \
      (const OrtMemoryInfo *, void *data, size_t bytes, const int64_t *shape, size_t rank, int type, OrtValue **)) \
    F(50, OrtStatus *, IsTensor, (const OrtValue *, int *)) \
    F(51, OrtStatus *, GetTensorMutableData, (OrtValue *, void **)) \
    F(60, OrtStatus *, GetTensorElementType, (const OrtTensorInfo *, int *)) \
    F(61, OrtStatus *, GetDimensionsCount, (const OrtTensorInfo *, size_t *)) \
    F(62, OrtStatus *, GetDimensions, (const OrtTensorInfo *, int64_t *, size_t)) \
    F(65, OrtStatus *, GetTensorTypeAndShape, (const OrtValue *, OrtTensorInfo **)) \
    F(69, OrtStatus *, CreateCpuMemoryInfo, (int allocator, int memory, OrtMemoryInfo **)) \
    F(78, OrtStatus *, GetAllocatorWithDefaultOptions, (OrtAllocator **)) \
    F(93, void, ReleaseStatus, (OrtStatus *)) \
    F(96, void, ReleaseValue, (OrtValue *)) \
    F(99, void, ReleaseTensorTypeAndShapeInfo, (OrtTensorInfo *)) \
    F(100, void, ReleaseSessionOptions, (OrtSessionOptions *))

#define ORT_IS_OF_VERSION_1(position, returned, name, arguments) \
    _Static_assert(position <= ORT_LAST_OF_VERSION_1, "only version 1 of the table is known here");
ORT_FUNCTIONS(ORT_IS_OF_VERSION_1)

typedef void (*AnyFunction)(void);

typedef struct {
    AnyFunction at[ORT_LAST_OF_VERSION_1 + 1];
} OrtTable;

typedef struct {
    const OrtTable *(*GetApi)(uint32_t version);
    const char *(*GetVersionString)(void);
} OrtApiBase;

static struct {
#define ORT_MEMBER(position, returned, name, arguments) returned(*name) arguments;
    ORT_FUNCTIONS(ORT_MEMBER)
} ort;

/* By ONNX Runtime's number of the type (TensorProto.DataType of ONNX); as numpy spells them. */
static const struct {
    const char *name;
    size_t bytes;
} TYPES[] = {
    [1] = {"float32", 4}, [2] = {"uint8", 1},    [3] = {"int8", 1},     [4] = {"uint16", 2},  [5] = {"int16", 2},
    [6] = {"int32", 4},   [7] = {"int64", 8},    [9] = {"bool", 1},     [10] = {"float16", 2}, [11] = {"float64", 8},
    [12] = {"uint32", 4}, [13] = {"uint64", 8},  [16] = {"bfloat16", 2},
};
enum { TYPE_COUNT = sizeof TYPES / sizeof TYPES[0] };

/* ---- What is known so far, and how it is told -------------------------------------------------------------------- */

enum { MOST_DIMENSIONS = 64 };

typedef struct {
    const char *name;
    int type;
    int64_t shape[MOST_DIMENSIONS];
    size_t rank;
} Spec;

typedef struct {
    Spec spec;
    size_t bytes; /* of one tensor */
    long count;
    const char *path;
    int fd;
} Input;

typedef struct {
    Spec spec;
    char *path;
    FILE *file;
    long count;
} Output;

typedef struct {
    int64_t *values;
    size_t count, room;
} Samples;

typedef struct {
    int64_t at_ns, cpu_ns, waited_ns, busy_ns, steal_ns;
} Contention;

typedef struct {
    long lap;
    int64_t started_ns;
    Samples samples;
    Contention meanwhile;
} Turn;

static struct {
    long wire_version;
    const char *path;
    char *partial_path;
    int fd;
    const char *runtime_version;
    int64_t cold_ns, load_ns, first_ns;
    long warm_up_runs;
    bool warm_up_steady;
    Turn *turns;
    size_t turn_count;
    int64_t baseline_bytes, loaded_bytes, peak_bytes;
    bool peak_reset;
    Output *outputs;
    size_t output_count;
} result = {.fd = -1, .cold_ns = NOT_TOLD, .load_ns = NOT_TOLD, .first_ns = NOT_TOLD, .warm_up_runs = NOT_TOLD,
            .baseline_bytes = NOT_TOLD, .loaded_bytes = NOT_TOLD, .peak_bytes = NOT_TOLD};

/* What it is about, for the handler of signals too. */
static const char *volatile doing = "starting";

/* The length of the UTF-8 sequence that `text` begins with, 0 for none: RFC 3629, section 4. */
static size_t utf8_length(const unsigned char *text) {
    unsigned char low = 0x80, high = 0xBF;
    size_t length;
    if (text[0] < 0x80) return 1;
    if (text[0] >= 0xC2 && text[0] <= 0xDF) length = 2;
    else if (text[0] >= 0xE0 && text[0] <= 0xEF) length = 3;
    else if (text[0] >= 0xF0 && text[0] <= 0xF4) length = 4;
    else return 0;
    if (text[0] == 0xE0) low = 0xA0;
    if (text[0] == 0xED) high = 0x9F;
    if (text[0] == 0xF0) low = 0x90;
    if (text[0] == 0xF4) high = 0x8F;
    if (text[1] < low || text[1] > high) return 0;
    for (size_t i = 2; i < length; i++)
        if (text[i] < 0x80 || text[i] > 0xBF) return 0;
    return length;
}

static void write_string(FILE *file, const char *text) {
    putc('"', file);
    for (const unsigned char *at = (const unsigned char *)text; *at != '\0';) {
        size_t length = utf8_length(at);
        if (length == 0) fputs("\\ufffd", file);
        else if (*at == '"' || *at == '\\') fprintf(file, "\\%c", *at);
        else if (*at < 0x20 || *at == 0x7F) fprintf(file, "\\u%04x", *at);
        else fwrite(at, 1, length, file);
        at += length == 0 ? 1 : length;
    }
    putc('"', file);
}

static void write_member(FILE *file, const char *name, int64_t value) {
    fprintf(file, ", \"%s\": ", name);
    if (value == NOT_TOLD) fputs("null", file);
    else fprintf(file, "%" PRId64, value);
}

static void write_turn(FILE *file, const Turn *turn) {
    fprintf(file, "{\"lap\": %ld", turn->lap);
    write_member(file, "started_ns", turn->started_ns);
    fputs(", \"samples_ns\": [", file);
    for (size_t i = 0; i < turn->samples.count; i++)
        fprintf(file, "%s%" PRId64, i == 0 ? "" : ", ", turn->samples.values[i]);
    putc(']', file);
    write_member(file, "wall_ns", turn->meanwhile.at_ns);
    write_member(file, "cpu_ns", turn->meanwhile.cpu_ns);
    write_member(file, "waited_ns", turn->meanwhile.waited_ns);
    write_member(file, "busy_ns", turn->meanwhile.busy_ns);
    write_member(file, "steal_ns", turn->meanwhile.steal_ns);
    putc('}', file);
}

static void write_output(FILE *file, const Output *output) {
    fputs("{\"spec\": {\"name\": ", file);
    write_string(file, output->spec.name);
    fputs(", \"shape\": [", file);
    for (size_t i = 0; i < output->spec.rank; i++)
        fprintf(file, "%s%" PRId64, i == 0 ? "" : ", ", output->spec.shape[i]);
    fprintf(file, "], \"dtype\": \"%s\"}, \"path\": ", TYPES[output->spec.type].name);
    write_string(file, output->path);
    fprintf(file, ", \"count\": %ld}", output->count);
}

static void write_measurement(FILE *file, const char *status, const char *reason) {
    fprintf(file, "{\"version\": %ld, \"status\": \"%s\", \"reason\": ", result.wire_version, status);
    if (reason == NULL) fputs("null", file);
    else write_string(file, reason);
    if (result.runtime_version != NULL) {
        fputs(", \"runtime_version\": ", file);
        write_string(file, result.runtime_version);
        fputs(", \"provider\": \"CPUExecutionProvider\"", file);
    }
    write_member(file, "cold_ns", result.cold_ns);
    write_member(file, "load_ns", result.load_ns);
    write_member(file, "first_ns", result.first_ns);
    if (result.warm_up_runs != NOT_TOLD)
        fprintf(file, ", \"warm_up\": {\"runs\": %ld, \"steady\": %s}", result.warm_up_runs,
                result.warm_up_steady ? "true" : "false");
    fputs(", \"turns\": [", file);
    for (size_t i = 0; i < result.turn_count; i++) {
        if (i > 0) fputs(", ", file);
        write_turn(file, &result.turns[i]);
    }
    putc(']', file);
    if (result.baseline_bytes != NOT_TOLD && result.loaded_bytes != NOT_TOLD && result.peak_bytes != NOT_TOLD)
        fprintf(file,
                ", \"memory\": {\"baseline_bytes\": %" PRId64 ", \"loaded_bytes\": %" PRId64
                ", \"peak_bytes\": %" PRId64 ", \"method\": \"VmRSS and VmHWM of /proc/self/status%s\"}",
                result.baseline_bytes, result.loaded_bytes, result.peak_bytes,
                result.peak_reset ? ", VmHWM reset before the load" : "");
    fputs(", \"outputs\": [", file);
    for (size_t i = 0; i < result.output_count; i++) {
        if (i > 0) fputs(", ", file);
        write_output(file, &result.outputs[i]);
    }
    fputs("]}\n", file);
}

/* Leaves the result and ends. Without exit(): a runtime's destructors could yet crash, after all was measured. */
static _Noreturn void finish(const char *status, const char *reason) {
    doing = "writing the result";
    FILE *file = fdopen(result.fd, "w");
    bool written = file != NULL;
    if (written) {
        write_measurement(file, status, reason);
        written = !ferror(file);
        written = fclose(file) == 0 && written;
    }
    if (!written || rename(result.partial_path, result.path) != 0) {
        fprintf(stderr, "ort_runner: cannot write %s: %s\n", result.path, strerror(errno));
        unlink(result.partial_path);
        _exit(EXIT_NO_RESULT);
    }
    _exit(0);
}

__attribute__((format(printf, 1, 2))) static _Noreturn void fail(const char *format, ...) {
    char reason[4096];
    va_list values;
    va_start(values, format);
    int length = vsnprintf(reason, sizeof reason, format, values);
    va_end(values);
    if (length >= (int)sizeof reason) length = (int)sizeof reason - 1;
    while (length > 0 && strchr(" \r\n\t", reason[length - 1]) != NULL) reason[--length] = '\0';
    if (result.fd >= 0) finish("failed", reason);
    fprintf(stderr, "ort_runner: %s\n", reason);
    _exit(EXIT_NO_RESULT);
}

static const struct {
    int number;
    const char *name;
} CRASHES[] = {{SIGILL, "SIGILL"},   {SIGBUS, "SIGBUS"},   {SIGFPE, "SIGFPE"},
               {SIGABRT, "SIGABRT"}, {SIGTRAP, "SIGTRAP"}, {SIGSEGV, "SIGSEGV"}};
enum { CRASH_COUNT = sizeof CRASHES / sizeof CRASHES[0] };

/* A wheel that needs instructions which this CPU lacks ends with SIGILL, and that is a result as well. */
static void on_crash(int number) {
    const char *name = "signal";
    for (size_t i = 0; i < CRASH_COUNT; i++)
        if (CRASHES[i].number == number) name = CRASHES[i].name;
    char version[24];
    size_t at = sizeof version;
    version[--at] = '\0';
    long value = result.wire_version;
    do version[--at] = (char)('0' + value % 10); while ((value /= 10) > 0);
    const char *parts[] = {"{\"version\": ", version + at,
                           ", \"status\": \"failed\", \"reason\": \"the process crashed (", name, ") while ", doing,
                           "\"}\n"};
    bool written = ftruncate(result.fd, 0) == 0 && lseek(result.fd, 0, SEEK_SET) == 0;
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        size_t length = strlen(parts[i]);
        written = write(result.fd, parts[i], length) == (ssize_t)length && written;
    }
    _exit(written && rename(result.partial_path, result.path) == 0 ? 0 : EXIT_NO_RESULT);
}

/* Opened before the work, so that nothing is measured in vain. */
static void open_result(const char *path) {
    size_t size = strlen(path) + sizeof ".partial";
    result.path = path;
    result.partial_path = malloc(size);
    if (result.partial_path == NULL) fail("out of memory");
    snprintf(result.partial_path, size, "%s.partial", path);
    result.fd = open(result.partial_path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (result.fd < 0) fail("cannot write %s: %s", result.partial_path, strerror(errno));
    struct sigaction action = {.sa_handler = on_crash, .sa_flags = (int)SA_RESETHAND};
    for (size_t i = 0; i < CRASH_COUNT; i++) sigaction(CRASHES[i].number, &action, NULL);
}

static void *more(void *old, size_t count, size_t size) {
    void *found = size != 0 && count > SIZE_MAX / size ? NULL : realloc(old, count * size == 0 ? 1 : count * size);
    if (found == NULL) fail("out of memory while %s", doing);
    return found;
}

static void check(OrtStatus *status) {
    if (status != NULL)
        fail("ONNX Runtime failed while %s: %s (code %d)", doing, ort.GetErrorMessage(status),
             ort.GetErrorCode(status));
}

/* ---- Clocks, memory and contention ------------------------------------------------------------------------------- */

/* CLOCK_MONOTONIC is what Python's perf_counter_ns reads on Linux. It may be slewed, by 0.05 % at the most, which
   CLOCK_MONOTONIC_RAW is not; but that one is a system call on older kernels, and costs short runs more. */
static int64_t now_ns(clockid_t clock) {
    struct timespec time;
    clock_gettime(clock, &time);
    return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

static int64_t status_bytes(const char *key) {
    FILE *file = fopen("/proc/self/status", "r");
    char line[512];
    int64_t bytes = NOT_TOLD;
    size_t length = strlen(key);
    while (file != NULL && fgets(line, sizeof line, file) != NULL)
        if (strncmp(line, key, length) == 0 && line[length] == ':')
            bytes = strtoll(line + length + 1, NULL, 10) * 1024;
    if (file != NULL) fclose(file);
    return bytes;
}

/* VmHWM never falls by itself, and loading the library can pass through more than it keeps. */
static bool reset_peak(void) {
    int fd = open("/proc/self/clear_refs", O_WRONLY | O_CLOEXEC);
    if (fd < 0) return false;
    bool reset = write(fd, "5", 1) == 1;
    close(fd);
    return reset;
}

/* The time that runnable threads of this process stood in a run queue. */
static int64_t waited_ns(void) {
    DIR *tasks = opendir("/proc/self/task");
    if (tasks == NULL) return NOT_TOLD;
    int64_t total = 0;
    for (struct dirent *task; total != NOT_TOLD && (task = readdir(tasks)) != NULL;) {
        if (task->d_name[0] == '.') continue;
        char path[sizeof task->d_name + 32];
        snprintf(path, sizeof path, "/proc/self/task/%s/schedstat", task->d_name);
        FILE *file = fopen(path, "r");
        int64_t waited;
        if (file != NULL && fscanf(file, "%*d %" SCNd64, &waited) == 1) total += waited;
        else total = NOT_TOLD;
        if (file != NULL) fclose(file);
    }
    closedir(tasks);
    return total;
}

static void read_machine(Contention *found) {
    int64_t user, nice, system, idle, iowait, irq, softirq, steal;
    FILE *file = fopen("/proc/stat", "r");
    bool read = file != NULL && fscanf(file,
                                       "cpu %" SCNd64 " %" SCNd64 " %" SCNd64 " %" SCNd64 " %" SCNd64 " %" SCNd64
                                       " %" SCNd64 " %" SCNd64,
                                       &user, &nice, &system, &idle, &iowait, &irq, &softirq, &steal) == 8;
    if (file != NULL) fclose(file);
    found->busy_ns = found->steal_ns = NOT_TOLD;
    /* A sandbox that imitates /proc writes zeros: a CPU was neither busy nor idle. */
    if (!read || user + nice + system + irq + softirq + idle == 0) return;
    int64_t tick_ns = 1000000000 / sysconf(_SC_CLK_TCK);
    found->busy_ns = (user + nice + system + irq + softirq) * tick_ns;
    found->steal_ns = steal * tick_ns;
}

static Contention read_contention(void) {
    Contention found;
    read_machine(&found);
    found.at_ns = now_ns(CLOCK_MONOTONIC);
    found.cpu_ns = now_ns(CLOCK_PROCESS_CPUTIME_ID);
    found.waited_ns = waited_ns();
    return found;
}

static int64_t grown(int64_t now, int64_t before) {
    return now == NOT_TOLD || before == NOT_TOLD ? NOT_TOLD : now - before;
}

static Contention since(Contention before) {
    Contention now = read_contention();
    return (Contention){now.at_ns - before.at_ns, now.cpu_ns - before.cpu_ns, grown(now.waited_ns, before.waited_ns),
                        grown(now.busy_ns, before.busy_ns), grown(now.steal_ns, before.steal_ns)};
}

/* ---- The session ------------------------------------------------------------------------------------------------- */

static struct {
    OrtSession *session;
    const OrtMemoryInfo *memory;
    const char **input_names;
    size_t input_count;
    const char **output_names;
    size_t output_count;
    OrtValue **outputs;
    OrtValue ***feeds; /* by tensor, by input */
    long feed_count;
    long next;
} model;

static OrtEnv *load_library(const char *path) {
    doing = "loading the library";
    setenv("ORT_DISABLE_TELEMETRY", "1", 1);
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) fail("cannot load the library: %s", dlerror());
    void *symbol = dlsym(library, "OrtGetApiBase");
    if (symbol == NULL) fail("%s is not ONNX Runtime: it has no OrtGetApiBase", path);
    const OrtApiBase *(*get_base)(void);
    /* ISO C has no cast between the two; POSIX has them of one size. */
    memcpy(&get_base, &symbol, sizeof get_base);
    const OrtApiBase *base = get_base();
    result.runtime_version = base->GetVersionString();
    int major = 0, minor = 0;
    if (sscanf(result.runtime_version, "%d.%d", &major, &minor) != 2 || major != 1 || minor < ORT_OLDEST_MINOR)
        fail("%s is ONNX Runtime %s, expected 1.%d or a newer 1.x", path, result.runtime_version, ORT_OLDEST_MINOR);
    const OrtTable *table = base->GetApi(ORT_API_1_16);
    if (table == NULL)
        fail("%s, ONNX Runtime %s, does not offer the API of 1.%d", path, result.runtime_version, ORT_API_1_16);
#define ORT_BIND(position, returned, name, arguments) ort.name = (returned(*) arguments)table->at[position];
    ORT_FUNCTIONS(ORT_BIND)
    /* The table begins and ends as is thought here. */
    OrtStatus *probe = ort.CreateStatus(ORT_FAIL, "probe");
    if (probe == NULL || ort.GetErrorCode(probe) != ORT_FAIL || strcmp(ort.GetErrorMessage(probe), "probe") != 0)
        fail("the API of %s, ONNX Runtime %s, is not the one that is known here", path, result.runtime_version);
    ort.ReleaseStatus(probe);
    OrtEnv *environment;
    check(ort.CreateEnv(ORT_LOG_ERRORS, "edgebench", &environment));
    check(ort.DisableTelemetryEvents(environment));
    OrtMemoryInfo *memory;
    check(ort.CreateCpuMemoryInfo(ORT_ARENA_ALLOCATOR, ORT_MEMORY_DEFAULT, &memory));
    model.memory = memory;
    return environment;
}

/* The options are those of edgebench/agent/runtimes/onnxruntime.py; all others, the graph's optimisations too, are the
   library's own defaults. */
static void open_session(const OrtEnv *environment, const char *path, int threads) {
    doing = "loading the model";
    OrtSessionOptions *options;
    check(ort.CreateSessionOptions(&options));
    check(ort.SetIntraOpNumThreads(options, threads));
    check(ort.SetInterOpNumThreads(options, 1));
    check(ort.SetSessionLogSeverityLevel(options, ORT_LOG_ERRORS));
    check(ort.CreateSession(environment, path, options, &model.session));
    ort.ReleaseSessionOptions(options);
}

static void name_outputs(void) {
    OrtAllocator *allocator;
    check(ort.GetAllocatorWithDefaultOptions(&allocator));
    check(ort.SessionGetOutputCount(model.session, &model.output_count));
    model.output_names = more(NULL, model.output_count, sizeof *model.output_names);
    model.outputs = more(NULL, model.output_count, sizeof *model.outputs);
    for (size_t i = 0; i < model.output_count; i++) {
        char *name;
        check(ort.SessionGetOutputName(model.session, i, allocator, &name));
        model.output_names[i] = name;
    }
}

static void release_outputs(void) {
    for (size_t i = 0; i < model.output_count; i++) ort.ReleaseValue(model.outputs[i]);
}

/* What is not NULL in `outputs` would be taken for a tensor to write into. */
static void run(OrtValue *const *feed) {
    for (size_t i = 0; i < model.output_count; i++) model.outputs[i] = NULL;
    check(ort.Run(model.session, NULL, model.input_names, (const OrtValue *const *)feed, model.input_count,
                  model.output_names, model.output_count, model.outputs));
}

/* ---- Feeds ------------------------------------------------------------------------------------------------------- */

static void open_input(Input *input) {
    doing = "reading the inputs";
    struct stat found;
    input->fd = open(input->path, O_RDONLY | O_CLOEXEC);
    if (input->fd < 0 || fstat(input->fd, &found) != 0) fail("cannot read %s: %s", input->path, strerror(errno));
    if ((uint64_t)found.st_size != (uint64_t)input->bytes * (uint64_t)input->count)
        fail("%s has %" PRId64 " bytes, expected %ld tensors of %zu", input->path, (int64_t)found.st_size, input->count,
             input->bytes);
}

static void *allocate_tensor(const Input *input) {
    void *data;
    /* 64 bytes: a cache line, and the widest vector. */
    if (posix_memalign(&data, 64, input->bytes == 0 ? 1 : input->bytes) != 0) fail("out of memory while %s", doing);
    return data;
}

static void read_tensor(const Input *input, long index, char *data) {
    for (size_t done = 0; done < input->bytes;) {
        ssize_t count = pread(input->fd, data + done, input->bytes - done, (off_t)input->bytes * index + (off_t)done);
        if (count < 0 && errno == EINTR) continue;
        if (count <= 0) fail("cannot read %s: %s", input->path, count == 0 ? "it became shorter" : strerror(errno));
        done += (size_t)count;
    }
}

static OrtValue *wrap(const Input *input, void *data) {
    OrtValue *value;
    check(ort.CreateTensorWithDataAsOrtValue(model.memory, data, input->bytes, input->spec.shape, input->spec.rank,
                                             input->spec.type, &value));
    return value;
}

/* All tensors in memory, so that no timed run waits for a disk. */
static void prepare_feeds(Input *inputs) {
    model.feeds = more(NULL, (size_t)model.feed_count, sizeof *model.feeds);
    for (long index = 0; index < model.feed_count; index++) {
        model.feeds[index] = more(NULL, model.input_count, sizeof **model.feeds);
        for (size_t i = 0; i < model.input_count; i++) {
            void *data = allocate_tensor(&inputs[i]);
            read_tensor(&inputs[i], index, data);
            model.feeds[index][i] = wrap(&inputs[i], data);
        }
    }
}

/* ---- Measuring: edgebench/agent/loop.py -------------------------------------------------------------------------- */

enum { WINDOW = 5, MOST_SHORT_RUNS = 200, LEAD_IN_NS = 2000000, LEAST_TURN_NS = 5000000 };
static const double STILL_FASTER = 0.98;

/* Each run, until there are `runs` and they took `least_ns`, or until they took `limit_ns`. */
static Samples timed(long runs, int64_t limit_ns, int64_t least_ns) {
    Samples samples = {NULL, 0, 0};
    long most = runs > MOST_SHORT_RUNS ? runs : MOST_SHORT_RUNS;
    int64_t begun = now_ns(CLOCK_MONOTONIC);
    for (long done = 0; done < most;) {
        if (samples.count == samples.room) {
            samples.room = samples.room == 0 ? MOST_SHORT_RUNS : 2 * samples.room;
            samples.values = more(samples.values, samples.room, sizeof *samples.values);
        }
        OrtValue *const *feed = model.feeds[model.next];
        int64_t started = now_ns(CLOCK_MONOTONIC);
        run(feed);
        release_outputs();
        int64_t ended = now_ns(CLOCK_MONOTONIC);
        samples.values[samples.count++] = ended - started;
        model.next = (model.next + 1) % model.feed_count;
        done++;
        if (ended > begun + limit_ns || (ended >= begun + least_ns && done >= runs)) break;
    }
    return samples;
}

static int ascending(const void *left, const void *right) {
    int64_t a = *(const int64_t *)left, b = *(const int64_t *)right;
    return (a > b) - (a < b);
}

static double median(Samples samples) {
    qsort(samples.values, samples.count, sizeof *samples.values, ascending);
    size_t half = samples.count / 2;
    double upper = (double)samples.values[half];
    return samples.count % 2 == 1 ? upper : ((double)samples.values[half - 1] + upper) / 2;
}

/* Until a window of runs is no faster than the best one before it; `least` of 0 is no warm-up at all. */
static void warm_up(long least, int64_t limit_ns, int64_t longest_ns) {
    doing = "warming up";
    int64_t begun = now_ns(CLOCK_MONOTONIC);
    double best = -1;
    long runs = 0;
    bool steady = true;
    while (least > 0) {
        Samples samples = timed(WINDOW, limit_ns, 0);
        runs += (long)samples.count;
        double middle = median(samples);
        free(samples.values);
        steady = best < 0 || middle >= STILL_FASTER * best;
        bool settled = steady && runs >= 2 * WINDOW;
        int64_t spent_ns = now_ns(CLOCK_MONOTONIC) - begun;
        if ((runs >= least && (settled || spent_ns > limit_ns)) || spent_ns > longest_ns) break;
        if (best < 0 || middle < best) best = middle;
    }
    result.warm_up_runs = runs;
    result.warm_up_steady = steady;
}

typedef struct {
    long warmup, laps, turn, first_lap;
    int64_t max_warmup_ns, longest_warmup_ns, turn_ns, max_time_ns, origin_ns;
    bool stop_before_turns;
} Plan;

static void take_turns(const Plan *plan) {
    doing = "being measured";
    int64_t timed_ns = 0;
    for (long lap = 0; lap < plan->laps && timed_ns < plan->max_time_ns; lap++) {
        if (plan->stop_before_turns) raise(SIGSTOP);
        Turn turn = {.lap = plan->first_lap + lap, .started_ns = now_ns(CLOCK_MONOTONIC) - plan->origin_ns};
        /* Another process had the caches meanwhile. */
        free(timed(1, plan->turn_ns, LEAD_IN_NS).values);
        Contention before = read_contention();
        turn.samples = timed(plan->turn, plan->turn_ns, LEAST_TURN_NS);
        turn.meanwhile = since(before);
        for (size_t i = 0; i < turn.samples.count; i++) timed_ns += turn.samples.values[i];
        result.turns = more(result.turns, result.turn_count + 1, sizeof *result.turns);
        result.turns[result.turn_count++] = turn;
    }
}

static void measure(const char *library, const char *path, int threads, Input *inputs, const Plan *plan,
                    int64_t born_ns) {
    OrtEnv *environment = load_library(library);
    for (size_t i = 0; i < model.input_count; i++) open_input(&inputs[i]);
    prepare_feeds(inputs);
    result.peak_reset = reset_peak();
    result.baseline_bytes = status_bytes("VmRSS");
    int64_t started = now_ns(CLOCK_MONOTONIC);
    open_session(environment, path, threads);
    result.load_ns = now_ns(CLOCK_MONOTONIC) - started;
    result.loaded_bytes = status_bytes("VmRSS");
    name_outputs();
    doing = "running the model for the first time";
    Samples first = timed(1, 0, 0);
    result.cold_ns = now_ns(CLOCK_MONOTONIC) - born_ns;
    result.first_ns = first.values[0];
    free(first.values);
    warm_up(plan->warmup, plan->max_warmup_ns, plan->longest_warmup_ns);
    take_turns(plan);
    result.peak_bytes = status_bytes("VmHWM");
}

/* ---- Predicting: edgebench/agent/predicting.py ------------------------------------------------------------------- */

static void describe(const OrtValue *value, size_t index, Spec *spec) {
    int is_tensor = 0;
    if (value != NULL) check(ort.IsTensor(value, &is_tensor));
    spec->name = model.output_names[index];
    if (!is_tensor) fail("output %s is not a tensor", spec->name);
    OrtTensorInfo *info;
    check(ort.GetTensorTypeAndShape(value, &info));
    check(ort.GetTensorElementType(info, &spec->type));
    check(ort.GetDimensionsCount(info, &spec->rank));
    if (spec->rank > MOST_DIMENSIONS) fail("output %s has %zu dimensions", spec->name, spec->rank);
    check(ort.GetDimensions(info, spec->shape, spec->rank));
    ort.ReleaseTensorTypeAndShapeInfo(info);
    if (spec->type < 0 || spec->type >= TYPE_COUNT || TYPES[spec->type].name == NULL)
        fail("output %s is of a type without a fixed size (number %d of ONNX Runtime)", spec->name, spec->type);
}

static bool same(const Spec *left, const Spec *right) {
    return left->type == right->type && left->rank == right->rank &&
           memcmp(left->shape, right->shape, left->rank * sizeof left->shape[0]) == 0;
}

static void open_outputs(const char *directory) {
    Output *outputs = more(NULL, model.output_count, sizeof *outputs);
    for (size_t i = 0; i < model.output_count; i++) {
        size_t size = strlen(directory) + 64;
        outputs[i] = (Output){.path = more(NULL, size, 1)};
        snprintf(outputs[i].path, size, "%s/output-%zu.raw", directory, i);
        describe(model.outputs[i], i, &outputs[i].spec);
        outputs[i].file = fopen(outputs[i].path, "wb");
        if (outputs[i].file == NULL) fail("cannot write %s: %s", outputs[i].path, strerror(errno));
    }
    result.outputs = outputs;
}

static void write_tensor(OrtValue *value, size_t index) {
    Output *output = &result.outputs[index];
    Spec spec;
    void *data;
    describe(value, index, &spec);
    if (!same(&spec, &output->spec)) fail("output %s changed its shape or dtype between inputs", spec.name);
    size_t bytes = TYPES[spec.type].bytes;
    for (size_t i = 0; i < spec.rank; i++) bytes *= (size_t)spec.shape[i];
    check(ort.GetTensorMutableData(value, &data));
    if (bytes > 0 && fwrite(data, 1, bytes, output->file) != bytes)
        fail("cannot write %s: %s", output->path, strerror(errno));
    output->count++;
}

static void predict(const char *library, const char *path, int threads, Input *inputs, const char *directory) {
    OrtEnv *environment = load_library(library);
    open_session(environment, path, threads);
    name_outputs();
    OrtValue **feed = more(NULL, model.input_count, sizeof *feed);
    char **data = more(NULL, model.input_count, sizeof *data);
    for (size_t i = 0; i < model.input_count; i++) {
        open_input(&inputs[i]);
        data[i] = allocate_tensor(&inputs[i]);
        feed[i] = wrap(&inputs[i], data[i]);
    }
    doing = "predicting";
    for (long index = 0; index < model.feed_count; index++) {
        for (size_t i = 0; i < model.input_count; i++) read_tensor(&inputs[i], index, data[i]);
        run(feed);
        if (result.outputs == NULL) open_outputs(directory);
        for (size_t i = 0; i < model.output_count; i++) write_tensor(model.outputs[i], i);
        release_outputs();
    }
    for (size_t i = 0; i < model.output_count; i++)
        if (fclose(result.outputs[i].file) != 0) fail("cannot write %s: %s", result.outputs[i].path, strerror(errno));
    /* Only now are they whole. */
    result.output_count = model.output_count;
}

/* ---- The command line -------------------------------------------------------------------------------------------- */

__attribute__((format(printf, 1, 2))) static _Noreturn void wrong_usage(const char *format, ...) {
    va_list values;
    va_start(values, format);
    fputs("ort_runner: ", stderr);
    vfprintf(stderr, format, values);
    va_end(values);
    fputs("\n" USAGE, stderr);
    exit(EXIT_USAGE);
}

static int64_t whole(const char *option, const char *text, int64_t least, int64_t most) {
    char *end;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    if (end == text || *end != '\0' || errno != 0 || value < least || value > most)
        wrong_usage("%s: `%s` is not a whole number from %" PRId64 " to %" PRId64, option, text, least, most);
    return value;
}

static int64_t seconds_ns(const char *option, const char *text) {
    char *end;
    double value = strtod(text, &end);
    /* Above all that is asked for, and below where 64 bits of nanoseconds end. */
    if (end == text || *end != '\0' || !(value >= 0 && value <= 1e9))
        wrong_usage("%s: `%s` is not a number of seconds", option, text);
    return (int64_t)(value * 1e9);
}

static Input parse_input(char **values) {
    Input input = {.spec.name = values[0], .path = values[4], .fd = -1};
    for (int type = 0; type < TYPE_COUNT; type++)
        if (TYPES[type].name != NULL && strcmp(values[1], TYPES[type].name) == 0) input.spec.type = type;
    if (input.spec.type == 0) wrong_usage("--input %s: unknown dtype `%s`", values[0], values[1]);
    input.bytes = TYPES[input.spec.type].bytes;
    for (const char *at = values[2]; strcmp(values[2], "scalar") != 0;) {
        char *end;
        errno = 0;
        long long length = strtoll(at, &end, 10);
        bool ended = *end == 'x' || *end == '\0';
        if (*at < '0' || *at > '9' || errno != 0 || !ended || input.spec.rank == MOST_DIMENSIONS)
            wrong_usage("--input %s: `%s` is not a shape as 1x3x32x32", values[0], values[2]);
        if (length > 0 && input.bytes > (size_t)PTRDIFF_MAX / (uint64_t)length)
            wrong_usage("--input %s: `%s` is too large", values[0], values[2]);
        input.bytes *= (size_t)length;
        input.spec.shape[input.spec.rank++] = length;
        if (*end == '\0') break;
        at = end + 1;
    }
    input.count = (long)whole("COUNT of --input", values[3], 1, INT32_MAX);
    return input;
}

static bool parse_plan(const char *option, const char *value, Plan *plan) {
    if (strcmp(option, "--warmup") == 0) plan->warmup = (long)whole(option, value, 0, INT32_MAX);
    else if (strcmp(option, "--max-warmup-s") == 0) plan->max_warmup_ns = seconds_ns(option, value);
    else if (strcmp(option, "--longest-warmup-s") == 0) plan->longest_warmup_ns = seconds_ns(option, value);
    else if (strcmp(option, "--laps") == 0) plan->laps = (long)whole(option, value, 0, INT32_MAX / 2);
    else if (strcmp(option, "--turn") == 0) plan->turn = (long)whole(option, value, 1, INT32_MAX);
    else if (strcmp(option, "--turn-s") == 0) plan->turn_ns = seconds_ns(option, value);
    else if (strcmp(option, "--max-time-s") == 0) plan->max_time_ns = seconds_ns(option, value);
    else if (strcmp(option, "--first-lap") == 0) plan->first_lap = (long)whole(option, value, 0, INT32_MAX / 2);
    else if (strcmp(option, "--origin-ns") == 0) plan->origin_ns = whole(option, value, 0, INT64_MAX);
    else return false;
    return true;
}

int main(int argc, char **argv) {
    int64_t main_ns = now_ns(CLOCK_MONOTONIC);
    int64_t born_ns = main_ns - now_ns(CLOCK_PROCESS_CPUTIME_ID);
    if (argc == 2 && strcmp(argv[1], "--help") == 0) {
        fputs(USAGE, stdout);
        return 0;
    }
    bool measuring = argc > 1 && strcmp(argv[1], "measure") == 0;
    if (argc < 2 || (!measuring && strcmp(argv[1], "predict") != 0)) wrong_usage("expected `measure` or `predict`");

    Plan plan = {.warmup = 5, .max_warmup_ns = 2000000000, .longest_warmup_ns = 10000000000, .laps = 10, .turn = 5,
                 .turn_ns = 1000000000, .max_time_ns = 6000000000, .origin_ns = main_ns};
    const char *library = NULL, *path = NULL, *result_path = NULL, *directory = NULL;
    int64_t wire_version = 0;
    int threads = 0;
    Input *inputs = NULL;
    for (int i = 2; i < argc; i++) {
        const char *option = argv[i];
        char **values = argv + i + 1;
        int left = argc - i - 1;
        if (measuring && strcmp(option, "--stop-before-turns") == 0) {
            plan.stop_before_turns = true;
            continue;
        }
        bool is_input = strcmp(option, "--input") == 0;
        int taken = is_input ? 5 : 1;
        if (left < taken) wrong_usage("%s: unknown, or a value is missing", option);
        if (is_input) {
            inputs = more(inputs, model.input_count + 1, sizeof *inputs);
            inputs[model.input_count++] = parse_input(values);
        }
        else if (strcmp(option, "--wire-version") == 0) wire_version = whole(option, *values, 1, INT32_MAX);
        else if (strcmp(option, "--library") == 0) library = *values;
        else if (strcmp(option, "--model") == 0) path = *values;
        else if (strcmp(option, "--threads") == 0) threads = (int)whole(option, *values, 1, 4096);
        else if (strcmp(option, "--result") == 0) result_path = *values;
        else if (!measuring && strcmp(option, "--outputs") == 0) directory = *values;
        else if (!measuring || !parse_plan(option, *values, &plan)) wrong_usage("%s: unknown", option);
        i += taken;
    }
    if (wire_version == 0 || library == NULL || path == NULL || threads == 0 || result_path == NULL)
        wrong_usage("--wire-version, --library, --model, --threads and --result are needed");
    if (!measuring && directory == NULL) wrong_usage("predict needs --outputs");

    /* A stopped process whose starter was killed would stay for ever. */
    if (plan.stop_before_turns) prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    result.wire_version = (long)wire_version;
    open_result(result_path);
    model.feed_count = model.input_count == 0 ? 1 : inputs[0].count;
    model.input_names = more(NULL, model.input_count, sizeof *model.input_names);
    for (size_t i = 0; i < model.input_count; i++) {
        model.input_names[i] = inputs[i].spec.name;
        if (inputs[i].count != model.feed_count)
            fail("input %s has %ld tensors, input %s has %ld", inputs[i].spec.name, inputs[i].count,
                 inputs[0].spec.name, model.feed_count);
    }
    if (measuring) measure(library, path, threads, inputs, &plan, born_ns);
    else predict(library, path, threads, inputs, directory);
    finish("ok", NULL);
}
