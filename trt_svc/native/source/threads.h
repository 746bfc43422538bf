// A few threads that share out the items of a loop. They spin for a moment between loops, then sleep.
#pragma once
#include "vectors.h"
#include <stdint.h>
#include <stdlib.h>
#ifdef _WIN32
#define WIN32_LEAN_AND_MEAN
#include <windows.h>
typedef SRWLOCK Lock;
typedef CONDITION_VARIABLE Bell;
static inline void lock_new(Lock *l) { InitializeSRWLock(l); }
static inline void bell_new(Bell *b) { InitializeConditionVariable(b); }
static inline void lock_take(Lock *l) { AcquireSRWLockExclusive(l); }
static inline void lock_give(Lock *l) { ReleaseSRWLockExclusive(l); }
static inline void bell_wait(Bell *b, Lock *l) { SleepConditionVariableSRW(b, l, INFINITE, 0); }
static inline void bell_ring(Bell *b) { WakeAllConditionVariable(b); }
static inline void give_way(void) { SwitchToThread(); }
#else
#include <pthread.h>
#include <sched.h>
typedef pthread_mutex_t Lock;
typedef pthread_cond_t Bell;
static inline void lock_new(Lock *l) { pthread_mutex_init(l, NULL); }
static inline void bell_new(Bell *b) { pthread_cond_init(b, NULL); }
static inline void lock_take(Lock *l) { pthread_mutex_lock(l); }
static inline void lock_give(Lock *l) { pthread_mutex_unlock(l); }
static inline void bell_wait(Bell *b, Lock *l) { pthread_cond_wait(b, l); }
static inline void bell_ring(Bell *b) { pthread_cond_broadcast(b); }
static inline void give_way(void) { sched_yield(); }
#endif

static inline void breathe(void) {
#if defined(__x86_64__) || defined(_M_X64)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

enum { SPINS = 4000, MAX_THREADS = 128 };

typedef void (*Work)(void *task, Index item, int thread);

struct Crew;
struct Hand {
    struct Crew *crew;
    int number;
#ifdef _WIN32
    HANDLE handle;
#else
    pthread_t handle;
#endif
};

// `state` holds the number of the loop, whether it still has items to give away, and how many hands work on it. A hand
// that the system lets sleep comes too late, finds the loop closed and keeps nobody waiting.
enum { OPEN = 1 << 16, HANDS = OPEN - 1, NEXT_LOOP = 1 << 17 };

struct Crew {
    int threads, sleeping, stopping;
    int64_t state, next, items;
    Work work;
    void *task;
    Lock lock;
    Bell bell;
    struct Hand hands[MAX_THREADS];
};

static inline void share_out(struct Crew *crew, int thread) {
    for (;;) {
        int64_t item = __atomic_fetch_add(&crew->next, 1, __ATOMIC_RELAXED);
        if (item >= crew->items) return;
        crew->work(crew->task, (Index)item, thread);
    }
}

static inline int is_news(int64_t state, int64_t seen) { return (state & OPEN) && state / NEXT_LOOP != seen; }

// Joins the next loop that is open; returns its number.
static inline int64_t join_loop(struct Crew *crew, int64_t seen) {
    for (int spin = 0;; spin++) {
        int64_t state = __atomic_load_n(&crew->state, __ATOMIC_ACQUIRE);
        if (is_news(state, seen)) {
            if (__atomic_compare_exchange_n(&crew->state, &state, state + 1, 0, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED))
                return state / NEXT_LOOP;
        } else if (spin < SPINS) {
            breathe();
        } else {
            lock_take(&crew->lock);
            crew->sleeping++;
            while (!is_news(__atomic_load_n(&crew->state, __ATOMIC_ACQUIRE), seen)) bell_wait(&crew->bell, &crew->lock);
            crew->sleeping--;
            lock_give(&crew->lock);
            spin = 0;
        }
    }
}

#ifdef _WIN32
static DWORD WINAPI hand_main(void *given) {
#else
static void *hand_main(void *given) {
#endif
    struct Hand *hand = (struct Hand *)given;
    struct Crew *crew = hand->crew;
    int64_t seen = 0;
    for (;;) {
        seen = join_loop(crew, seen);
        if (crew->stopping) break;
        share_out(crew, hand->number);
        __atomic_fetch_sub(&crew->state, 1, __ATOMIC_RELEASE);
    }
    return 0;
}

static inline int hand_start(struct Hand *hand) {
#ifdef _WIN32
    hand->handle = CreateThread(NULL, 0, hand_main, hand, 0, NULL);
    return hand->handle != NULL;
#else
    return pthread_create(&hand->handle, NULL, hand_main, hand) == 0;
#endif
}

static inline void hand_join(struct Hand *hand) {
#ifdef _WIN32
    WaitForSingleObject(hand->handle, INFINITE);
    CloseHandle(hand->handle);
#else
    pthread_join(hand->handle, NULL);
#endif
}

static inline struct Crew *crew_new(int threads) {
    struct Crew *crew = (struct Crew *)calloc(1, sizeof(struct Crew));
    if (!crew) return NULL;
    lock_new(&crew->lock);
    bell_new(&crew->bell);
    if (threads > MAX_THREADS) threads = MAX_THREADS;
    for (crew->threads = 1; crew->threads < threads; crew->threads++) {
        struct Hand *hand = &crew->hands[crew->threads];
        hand->crew = crew;
        hand->number = crew->threads;
        if (!hand_start(hand)) break;  // fewer threads do the same work
    }
    return crew;
}

static inline void crew_open(struct Crew *crew) {
    lock_take(&crew->lock);
    int64_t state = __atomic_load_n(&crew->state, __ATOMIC_RELAXED);
    __atomic_store_n(&crew->state, (state / NEXT_LOOP + 1) * NEXT_LOOP + OPEN, __ATOMIC_RELEASE);
    if (crew->sleeping) bell_ring(&crew->bell);
    lock_give(&crew->lock);
}

// Runs work(task, 0 .. items - 1), each once, in any order, on all threads; returns when all are done.
static inline void crew_run(struct Crew *crew, Work work, void *task, Index items) {
    if (crew->threads == 1 || items < 2) {
        for (Index item = 0; item < items; item++) work(task, item, 0);
        return;
    }
    crew->work = work;
    crew->task = task;
    crew->items = items;
    __atomic_store_n(&crew->next, 0, __ATOMIC_RELAXED);
    crew_open(crew);
    share_out(crew, 0);
    __atomic_fetch_and(&crew->state, ~(int64_t)OPEN, __ATOMIC_ACQ_REL);
    for (int spin = 0; __atomic_load_n(&crew->state, __ATOMIC_ACQUIRE) & HANDS; spin++) {
        if (spin < SPINS) breathe();
        else give_way();
    }
}

static inline void crew_free(struct Crew *crew) {
    crew->stopping = 1;
    if (crew->threads > 1) crew_open(crew);
    for (int i = 1; i < crew->threads; i++) hand_join(&crew->hands[i]);
    free(crew);
}
