/* What the mock knows to be true: counters, and what became of each request that named a tag. */
#ifndef MOCK_TRUTH_H
#define MOCK_TRUTH_H

#include "mock_answer.h"

enum outcome { FINISHED, ABORTED, DIED, FAILED };

struct stats {
    uint64_t accepted, requests, outcomes[4], rejected, tokens_input, tokens_cached, tokens_output, truths;
    int64_t open, answering;
};

extern struct stats stats;

/* A request that was counted in `stats.requests` has ended after `output` tokens. */
void record_outcome(const struct answer *answer, enum outcome outcome, uint64_t output);

/* Answers of GET /mock/stats and GET /mock/truth?after=N (at most 1000, oldest first, the last 65536 are kept). */
void render_stats(struct buffer *out);
void render_truth(struct buffer *out, uint64_t after);

/* Answer of GET /metrics: the counters that llama.cpp shows. */
void render_metrics(struct buffer *out);

#endif
