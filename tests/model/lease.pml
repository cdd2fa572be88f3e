/* The lease and one change of epoch, small enough to look at every history (spin; `make model`).
 *
 * Three voters, two candidates, crashes, one change from epoch 1 (voters 0, 1, 2; two decide) to epoch 2 (voter 2 alone).
 * A voter may take a request at any time while somebody waits for its grants, again, or never: loss, delay, repetition, reordering.
 * (Taken later than that, it could only hold up others and raise what they must surpass: left out, it hides no danger.)
 *
 * Time is discrete. Requests are numbered in the order of their sending; `gone` says up to which request a lease that is counted from
 * sending has run out on every clock. What D, rho and the two ways of counting achieve is just this order (DESIGN section 3.2):
 *   a holder holds by request q only while q > gone;
 *   a voter's grant for request q is over for the voter only when q <= gone;
 *   a voter that restarts, or begins epoch 2, keeps still until all that was sent, or sealed as still running, is gone.
 *
 * Checked: L1 one holder, also if its process crashed; L2 rounds rise from holder to holder; L6 who sealed grants nothing.
 * Each -D below takes one rule away, and spin must then find a history that breaks.
 */
#ifndef REQUESTS
#define REQUESTS 3
#endif
#ifndef ROUNDS
#define ROUNDS 2
#endif
#ifndef CRASHES
#define CRASHES 1
#endif

#ifdef HALF
#define QUORUM 1
#else
#define QUORUM 2
#endif

#define COUNT(m) (((m) & 1) + (((m) >> 1) & 1) + (((m) >> 2) & 1))
#define MAX(a, b) ((a) > (b) -> (a) : (b))

/* Requests are numbered from 1 in the order of sending; up to `gone` they are over. */
byte next = 1, gone = 0;

/* Voters, what is durable: the round promised, whether it has sealed epoch 1, and with which words. */
byte promised[3], running[3], floors[3];
bool sealed[3], begun;
byte begun_floor;
/* And what a crash loses: the token granted and until which request it runs, the same of an older grant to that holder, until
 * when it keeps still, and whether the holder's release is on its way to it. */
byte to[3], at[3], until[3], older[3], quiet[3];
bool freed[3];

/* Candidates: the last round used (durable); the request that is being tried, its epoch, who granted it, and whether it renews;
 * the request that the lease counts from; and that of a lease of a boot that crashed. */
byte used[2], trying[2], epoch[2], grants[2], lease[2], left[2];
bool again[2];
byte last, crashes;

inline forget(v) {
    to[v] = 0; at[v] = 0; until[v] = 0; older[v] = 0; freed[v] = false
}

/* -- voters: each of these is one step of one of them -- */

#ifdef NO_SEAL
#define MAY_GRANT(v, e) (e == 1 || (v == 2 && begun))
#else
#define MAY_GRANT(v, e) ((e == 1 && !sealed[v]) || (e == 2 && v == 2 && begun))
#endif
#define ARRIVES(v, c) (trying[c] != 0 && quiet[v] <= gone && MAY_GRANT(v, epoch[c]))
#define SAME(v, c) (to[v] == c + 1 && at[v] == used[c])

#define RENEWS(v, c) \
    :: d_step { ARRIVES(v, c) && SAME(v, c) && !(grants[c] & (1 << v)) -> \
        until[v] = MAX(until[v], trying[c]); GRANTS(v, c) }
/* Promise and grant are one step: a crash between the two leaves nothing of either, and is the same as a request that got lost. */
#define PROMISES(v, c) \
    :: d_step { ARRIVES(v, c) && !SAME(v, c) && (to[v] == 0 || to[v] == c + 1) && ABOVE(v, c) -> \
        older[v] = KEEP_OLDER(v); freed[v] = false; \
        to[v] = c + 1; at[v] = used[c]; until[v] = trying[c]; DURABLE(v); GRANTS(v, c) }
#define GRANTS(v, c) \
    assert(!(epoch[c] == 1 && sealed[v])); /* L6 */ \
    grants[c] = grants[c] | (1 << v)
#ifdef FREE_OLDER
#define KEEP_OLDER(v) 0
#else
#define KEEP_OLDER(v) (MAX(until[v], older[v]) > gone -> MAX(until[v], older[v]) : 0)
#endif
#ifdef REPLY_EARLY
/* ... but here the grant leaves first, and the promise is durable at some later time. */
#define DURABLE(v) skip
#define ABOVE(v, c) (used[c] > promised[v] && (to[v] == 0 || used[c] > at[v]) && !(epoch[c] == 2 && used[c] <= begun_floor))
#define SYNCS(v) \
    :: d_step { to[v] != 0 && promised[v] < at[v] -> promised[v] = at[v] }
#else
#define DURABLE(v) promised[v] = at[v]
#define ABOVE(v, c) (used[c] > promised[v] && !(epoch[c] == 2 && used[c] <= begun_floor))
#define SYNCS(v)
#endif
#define EXPIRES(v) \
    :: d_step { to[v] != 0 && until[v] <= gone -> forget(v) }
#define IS_FREED(v) \
    :: d_step { freed[v] -> \
        if \
        :: older[v] > gone -> until[v] = older[v]; freed[v] = false \
        :: else -> forget(v) \
        fi }
/* The root has signed epoch 2, and this voter has heard of it: sealed durably, and said so. */
#define SEALS(v) \
    :: d_step { !sealed[v] -> \
        sealed[v] = true; \
        running[v] = MAX(until[v], quiet[v]); floors[v] = promised[v] }
#ifdef NO_QUARANTINE
#define QUIET 0
#else
#define QUIET (next - 1 > gone -> next - 1 : 0)
#endif
#define CRASHES_(v) \
    :: d_step { crashes < CRASHES && to[v] != 0 -> \
        crashes++; forget(v); quiet[v] = QUIET }

/* Voter 2 has the seals of two of the three, and begins epoch 2. */
#ifdef NO_WAIT
#define WAIT(a, b) 0
#else
#define WAIT(a, b) MAX(running[a], running[b])
#endif
#ifdef NO_FLOOR
#define FLOOR(a, b) 0
#else
#define FLOOR(a, b) MAX(floors[a], floors[b])
#endif
#define BEGINS(a, b) \
    :: d_step { !begun && sealed[a] && sealed[b] -> \
        begun = true; begun_floor = FLOOR(a, b); \
        quiet[2] = MAX(quiet[2], WAIT(a, b)) }

/* -- candidates -- */

inline ask(c, r, e, renewal) {
    used[c] = r; epoch[c] = e; grants[c] = 0; trying[c] = next; again[c] = renewal;
    next++
}
inline frees(c, v) {
    if
    :: to[v] == c + 1 && at[v] == used[c] -> freed[v] = true
    :: else
    fi
}
/* By symmetry, candidate 0 is the first. Any round above all that it used: it may have heard of others. */
#define TRIES(c, r, e) \
    :: d_step { lease[c] == 0 && trying[c] == 0 && next <= REQUESTS && r > used[c] && r <= ROUNDS && (c == 0 || next > 1) && (e == 1 || sealed[0] || sealed[1] || sealed[2]) -> \
        ask(c, r, e, false) }
#define ASKS_AGAIN(c) \
    :: d_step { lease[c] != 0 && trying[c] == 0 && next <= REQUESTS -> ask(c, used[c], epoch[c], true) }
#define ENOUGH(c) ((epoch[c] == 1 && COUNT(grants[c]) >= QUORUM) || (epoch[c] == 2 && (grants[c] & 4)))
#define STOPS(c) trying[c] = 0; grants[c] = 0; again[c] = false
#ifdef FROM_RECEIPT
#define COUNTED_FROM(q) (next - 1)
#else
#define COUNTED_FROM(q) q
#endif
#define WINS(c) \
    :: d_step { trying[c] != 0 && ENOUGH(c) -> \
        assert(lease[1 - c] == 0 && left[1 - c] == 0); /* L1 */ \
        assert(again[c] || used[c] > last); /* L2 */ \
        last = used[c]; lease[c] = COUNTED_FROM(trying[c]); STOPS(c) }
#define LETS_GO(c) \
    :: d_step { lease[c] != 0 || trying[c] != 0 -> \
        frees(c, 0); frees(c, 1); frees(c, 2); \
        lease[c] = 0; epoch[c] = 0; STOPS(c) }
/* What it held may go on without it until its time is up. */
#define DIES(c) \
    :: d_step { crashes < CRASHES && (lease[c] != 0 || trying[c] != 0) -> \
        crashes++; left[c] = MAX(left[c], lease[c]); lease[c] = 0; epoch[c] = 0; STOPS(c) }

/* -- time: on every clock, what was sent first and counts from sending is over -- */

inline over(c) {
    if
    :: lease[c] != 0 && lease[c] <= gone -> lease[c] = 0; epoch[c] = 0; STOPS(c)
    :: lease[c] == 0 && trying[c] != 0 && trying[c] <= gone -> epoch[c] = 0; STOPS(c)
    :: else
    fi;
    if
    :: left[c] <= gone -> left[c] = 0
    :: else
    fi
}
inline still(v) {
    if
    :: quiet[v] <= gone -> quiet[v] = 0
    :: else
    fi;
    if
    :: older[v] <= gone -> older[v] = 0
    :: else
    fi;
    if
    :: running[v] <= gone -> running[v] = 0
    :: else
    fi
}

#define VOTER(v) \
    RENEWS(v, 0) RENEWS(v, 1) PROMISES(v, 0) PROMISES(v, 1) SYNCS(v) EXPIRES(v) IS_FREED(v) SEALS(v) CRASHES_(v)
#define CANDIDATE(c) \
    TRIES(c, 1, 1) TRIES(c, 2, 1) TRIES(c, 3, 1) TRIES(c, 1, 2) TRIES(c, 2, 2) TRIES(c, 3, 2) \
    ASKS_AGAIN(c) WINS(c) LETS_GO(c) DIES(c)

init {
    do
    VOTER(0)
    VOTER(1)
    VOTER(2)
    BEGINS(0, 1)
    BEGINS(0, 2)
    BEGINS(1, 2)
    CANDIDATE(0)
    CANDIDATE(1)
    :: d_step { gone < next - 1 ->
        gone++;
        over(0); over(1); still(0); still(1); still(2) }
    od
}
