/* Hide AMX (HIDE=amx, with all of bfloat16 and float16) or AVX-512 too (HIDE=avx512) from programs,
   to measure a processor that has neither. Linux on x86-64.

       gcc -O2 -shared -fPIC -o hide.so benchmarks/hide.c
       HIDE=amx LD_PRELOAD=$PWD/hide.so ONEDNN_MAX_CPU_ISA=AVX512_CORE python train.py
       HIDE=avx512 LD_PRELOAD=$PWD/hide.so python evaluate.py

   Programs ask the processor for its features with the instruction CPUID. Linux can make it fail
   (arch_prctl(2), ARCH_SET_CPUID; `cpuid_fault` in /proc/cpuinfo). The handler of that failure runs
   the instruction, clears bits of the answer (Intel, Software Developer's Manual, volume 2A, CPUID)
   and returns. This does not change /proc/cpuinfo, which train.py reads: hence
   ONEDNN_MAX_CPU_ISA. */

#define _GNU_SOURCE
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#define ARCH_SET_CPUID 0x1012

static int hide_avx512;

static long allow_cpuid(long allowed) { return syscall(SYS_arch_prctl, ARCH_SET_CPUID, allowed); }

static uint32_t bits(const int *numbers, int count) {
    uint32_t mask = 0;
    for (int i = 0; i < count; i++) mask |= 1u << numbers[i];
    return mask;
}
#define BITS(...) bits((int[]){__VA_ARGS__}, sizeof((int[]){__VA_ARGS__}) / sizeof(int))

static void answer_cpuid(int signal_number, siginfo_t *info, void *context) {
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    const uint8_t *instruction = (const uint8_t *)registers[REG_RIP];
    if (instruction[0] != 0x0f || instruction[1] != 0xa2) { /* a real segmentation fault */
        signal(SIGSEGV, SIG_DFL);
        return;
    }
    uint32_t leaf = registers[REG_RAX], part = registers[REG_RCX];
    uint32_t a = leaf, b, c = part, d;
    allow_cpuid(1);
    __asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
    allow_cpuid(0);
    if (leaf == 7 && part == 0) {
        d &= ~BITS(22, 23, 24, 25); /* AMX_BF16, AVX512_FP16, AMX_TILE, AMX_INT8 */
        if (hide_avx512) {
            b &= ~BITS(16, 17, 21, 26, 27, 28, 30, 31); /* AVX512F, DQ, IFMA, PF, ER, CD, BW, VL */
            c &= ~BITS(1, 6, 11, 12, 14);               /* VBMI, VBMI2, VNNI, BITALG, VPOPCNTDQ */
            d &= ~BITS(2, 3, 8);                        /* 4VNNIW, 4FMAPS, VP2INTERSECT */
        }
    }
    if (leaf == 7 && part == 1) {
        a &= ~BITS(5, 21); /* AVX512_BF16, AMX_FP16 */
        d &= ~BITS(8);     /* AMX_COMPLEX */
        if (hide_avx512) {
            a &= ~BITS(4);         /* AVX_VNNI */
            d &= ~BITS(4, 10, 19); /* AVX_VNNI_INT8, AVX_VNNI_INT16, AVX10 */
        }
    }
    registers[REG_RAX] = a;
    registers[REG_RBX] = b;
    registers[REG_RCX] = c;
    registers[REG_RDX] = d;
    registers[REG_RIP] += 2;
}

__attribute__((constructor)) static void start(void) {
    const char *hidden = getenv("HIDE");
    if (!hidden || (strcmp(hidden, "amx") && strcmp(hidden, "avx512"))) {
        fputs("hide.c: expected HIDE=amx or HIDE=avx512\n", stderr);
        _exit(2);
    }
    hide_avx512 = !strcmp(hidden, "avx512");
    struct sigaction action = {.sa_sigaction = answer_cpuid,
                               .sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK};
    sigaction(SIGSEGV, &action, NULL);
    if (allow_cpuid(0)) {
        perror("hide.c: this processor or system cannot hide features");
        _exit(1);
    }
}
