/* A TCG plugin of qemu-user: counts the instructions that a process executes, and notes the count at marked system calls.

   Each mark appends "SERIAL COUNT" to the file `marks=PREFIX` + process id, SERIAL being the system call's argument. A
   file, because a plugin can neither answer a system call nor write to the process. It goes when the process ends.

   Blocks are counted when they are entered, so one that a fault or a signal leaves early is counted as a whole.

   qemu's header is not packaged, so what is used of its ABI (API versions 1 to 5, QEMU 6.0 to 10) is declared here. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

typedef uint64_t plugin_id;
struct qemu_plugin_tb;
void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id, void (*)(plugin_id, struct qemu_plugin_tb *));
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *, void (*)(unsigned, void *), int flags, void *);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
void qemu_plugin_register_vcpu_syscall_cb(plugin_id, void (*)(plugin_id, unsigned, int64_t, uint64_t, uint64_t, uint64_t,
                                                              uint64_t, uint64_t, uint64_t, uint64_t, uint64_t));
void qemu_plugin_register_atexit_cb(plugin_id, void (*)(plugin_id, void *), void *);
__attribute__((weak)) int qemu_plugin_n_vcpus(void);

/* QEMU 9 refuses plugins of API version 1, and those before it know no version 2, which dropped this function. */
int qemu_plugin_version;
__attribute__((constructor)) static void choose_version(void) { qemu_plugin_version = qemu_plugin_n_vcpus ? 1 : 2; }

/* Threads add to slots of their own, a cache line each; atomically, as a process may have more threads than slots. */
#define SLOTS 256
static struct { _Alignas(64) uint64_t count; } slots[SLOTS];
static const char *prefix;

static const char *marks_path(void) {
    static char path[4096];
    /* A forked child has marks of its own, and takes only those away. */
    snprintf(path, sizeof path, "%s%ld", prefix, (long)getpid());
    return path;
}

static void on_block(unsigned vcpu, void *instructions) {
    __atomic_fetch_add(&slots[vcpu % SLOTS].count, (uintptr_t)instructions, __ATOMIC_RELAXED);
}

static void on_translation(plugin_id id, struct qemu_plugin_tb *block) {
    (void)id;
    qemu_plugin_register_vcpu_tb_exec_cb(block, on_block, 0, (void *)(uintptr_t)qemu_plugin_tb_n_insns(block));
}

static void on_syscall(plugin_id id, unsigned vcpu, int64_t number, uint64_t serial, uint64_t a2, uint64_t a3,
                       uint64_t a4, uint64_t a5, uint64_t a6, uint64_t a7, uint64_t a8) {
    (void)id, (void)vcpu, (void)a2, (void)a3, (void)a4, (void)a5, (void)a6, (void)a7, (void)a8;
    if (number != MARK_SYSCALL) return;
    uint64_t total = 0;
    for (int slot = 0; slot < SLOTS; slot++) total += __atomic_load_n(&slots[slot].count, __ATOMIC_RELAXED);
    /* Opened anew: a descriptor kept open would be one of the process's own, for it to close. */
    FILE *file = fopen(marks_path(), "a");
    if (file == NULL) return;
    fprintf(file, "%" PRIu64 " %" PRIu64 "\n", serial, total);
    fclose(file);
}

static void on_end(plugin_id id, void *data) {
    (void)id, (void)data;
    unlink(marks_path());
}

int qemu_plugin_install(plugin_id id, const void *info, int argc, char **argv) {
    (void)info;
    if (argc != 1 || strncmp(argv[0], "marks=", 6) != 0) return 1;
    prefix = argv[0] + 6;
    qemu_plugin_register_vcpu_tb_trans_cb(id, on_translation);
    qemu_plugin_register_vcpu_syscall_cb(id, on_syscall);
    qemu_plugin_register_atexit_cb(id, on_end, NULL);
    return 0;
}
