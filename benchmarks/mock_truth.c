/* Counters and the ring of truths. See mock_truth.h. */
#include "mock_truth.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TRUTHS = 65536, TRUTHS_PER_PAGE = 1000 };

struct truth {
    char tag[TAG_MAX];
    uint64_t number, input, cached, output;
    enum outcome outcome;
};

struct stats stats;
static struct truth truths[TRUTHS];
static const char *const names[] = {"finished", "aborted", "died", "failed"};

void record_outcome(const struct answer *answer, enum outcome outcome, uint64_t output) {
    const struct wishes *wishes = &answer->wishes;
    if (wishes->status) output = 0;
    stats.outcomes[outcome]++;
    stats.answering--;
    stats.tokens_output += output;
    stats.tokens_input += wishes->status ? 0 : (uint64_t)(wishes->prompt * answer->choices);
    stats.tokens_cached += wishes->status ? 0 : (uint64_t)(wishes->cached * answer->choices);
    if (!wishes->tag[0]) return;
    struct truth *truth = &truths[stats.truths++ % TRUTHS];
    memcpy(truth->tag, wishes->tag, TAG_MAX);
    truth->number = answer->number;
    truth->input = (uint64_t)wishes->prompt;
    truth->cached = (uint64_t)wishes->cached;
    truth->output = output;
    truth->outcome = outcome;
}

static void append_field(struct buffer *out, const char *name, uint64_t value) {
    append_text(out, ",\"");
    append_text(out, name);
    append_text(out, "\":");
    append_number(out, value);
}

void render_stats(struct buffer *out) {
    struct buffer body = {0};
    append_text(&body, "{\"object\":\"mock.stats\"");
    append_field(&body, "accepted", stats.accepted);
    append_field(&body, "open_connections", (uint64_t)stats.open);
    append_field(&body, "answering", (uint64_t)stats.answering);
    append_field(&body, "requests", stats.requests);
    for (int i = 0; i < 4; i++) append_field(&body, names[i], stats.outcomes[i]);
    append_field(&body, "rejected", stats.rejected);
    append_field(&body, "tokens_input", stats.tokens_input);
    append_field(&body, "tokens_output", stats.tokens_output);
    append_field(&body, "truths", stats.truths);
    append_text(&body, "}");
    render_json(out, 200, body.bytes, body.length);
    free(body.bytes);
}

void render_truth(struct buffer *out, uint64_t after) {
    struct buffer body = {0};
    uint64_t oldest = stats.truths > TRUTHS ? stats.truths - TRUTHS : 0;
    uint64_t from = after < oldest ? oldest : after;
    append_text(&body, "[");
    for (uint64_t i = from; i < stats.truths && i < from + TRUTHS_PER_PAGE; i++) {
        const struct truth *truth = &truths[i % TRUTHS];
        append_text(&body, i > from ? ",{\"tag\":\"" : "{\"tag\":\"");
        append_text(&body, truth->tag);
        append_text(&body, "\",\"outcome\":\"");
        append_text(&body, names[truth->outcome]);
        append_text(&body, "\"");
        append_field(&body, "seq", i + 1);
        append_field(&body, "request", truth->number);
        append_field(&body, "input_tokens", truth->input);
        append_field(&body, "cached_input_tokens", truth->cached);
        append_field(&body, "output_tokens", truth->output);
        append_text(&body, "}");
    }
    append_text(&body, "]");
    render_json(out, 200, body.bytes, body.length);
    free(body.bytes);
}

static void append_metric(struct buffer *out, const char *name, uint64_t value) {
    append_text(out, "llamacpp:");
    append_text(out, name);
    append_text(out, " ");
    append_number(out, value);
    append_text(out, "\n");
}

void render_metrics(struct buffer *out) {
    struct buffer body = {0};
    append_metric(&body, "prompt_tokens_total", stats.tokens_input - stats.tokens_cached);
    append_metric(&body, "prompt_tokens_cached_total", stats.tokens_cached);
    append_metric(&body, "tokens_predicted_total", stats.tokens_output);
    append_metric(&body, "requests_processing", (uint64_t)stats.answering);
    append_metric(&body, "requests_deferred", 0);
    render_json(out, 200, body.bytes, body.length);
    free(body.bytes);
}
