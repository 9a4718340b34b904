/* A minimal second-chance loop, the comparator of `make bench`: one byte a page, one ring of resident pages, nothing else.
 *
 * No cgroups, frames, VA slots, backing store or counters: a bound for how fast the machine's touch loop could be.
 * A page that was just loaded counts as accessed or not, by choice. touch() returns the number of misses; state and ring
 * live between calls. */
#include <stdint.h>
#include <stdlib.h>

enum { RESIDENT = 1, ACCESSED = 2 };

struct clock {
    uint8_t *state;
    uint32_t *ring;
    uint64_t head, used, limit;
    uint8_t loaded;
};

struct clock *clock_new(uint64_t pages, uint64_t limit, int young)
{
    struct clock *c = malloc(sizeof *c);
    c->state = calloc(pages, 1);
    c->ring = malloc(limit * sizeof *c->ring);
    c->head = c->used = 0;
    c->limit = limit;
    c->loaded = young ? RESIDENT | ACCESSED : RESIDENT;
    return c;
}

void clock_free(struct clock *c)
{
    free(c->state);
    free(c->ring);
    free(c);
}

uint64_t clock_touch(struct clock *c, const uint32_t *pages, uint64_t n)
{
    uint8_t *state = c->state;
    uint32_t *ring = c->ring;
    uint64_t misses = 0, head = c->head;
    uint8_t loaded = c->loaded;

    for (uint64_t i = 0; i < n; i++) {
        uint32_t p = pages[i];
        if (state[p] & RESIDENT) {
            state[p] |= ACCESSED;
            continue;
        }
        misses++;
        if (c->used < c->limit) {
            ring[c->used++] = p;
        } else {
            while (state[ring[head]] & ACCESSED) {
                state[ring[head]] &= ~ACCESSED;
                if (++head == c->limit)
                    head = 0;
            }
            state[ring[head]] = 0;
            ring[head] = p;
            if (++head == c->limit)
                head = 0;
        }
        state[p] = loaded;
    }
    c->head = head;
    return misses;
}
